//! The messages of the protocol, as the sessions see them.
//!
//! Decides: what the two ends say to each other, and the text form of a position. Never does: name a
//! protobuf type; `wire.rs` translates.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use smol_str::SmolStr;

use crate::core::{Digest, Key, Labels, Position, Revision, SecretData, StoreId, StoreIdentity};

/// What a zone tells of itself in the first request of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The zone's name; never trusted for anything (SEC-3).
    pub id: SmolStr,
    /// The version of the zone's control plane.
    pub version: String,
    /// The instance of the zone's control plane.
    pub instance: String,
    /// `multizone.zone.kds.maxMsgSize` from the zone's configuration, in bytes.
    pub max_message: Option<usize>,
}

/// A resource that a peer refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which.
    pub key: Key,
    /// Why, in words.
    pub reason: String,
}

/// Why an answer was not taken, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// In words.
    pub message: String,
    /// By name; empty from stock peers, where everything in the answer is meant.
    pub rejected: Vec<Rejection>,
}

/// A zone's request. `Debug` shows no version (SEC-2).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The type URL as sent; may name a type that kdsync does not own.
    pub type_url: SmolStr,
    /// The nonce of the answer this reacts to; empty for a subscription.
    pub nonce: SmolStr,
    /// Names to subscribe to; `*` means all.
    pub subscribe: Vec<SmolStr>,
    /// What the zone holds, as wire name and version: stated to stock globals only.
    pub versions: Vec<(SmolStr, SmolStr)>,
    /// What the zone holds, as a position: stated to kdsync globals only.
    pub position: Option<Position>,
    /// Set in a NACK.
    pub nack: Option<Nack>,
    /// The zone; full in the first request of a type.
    pub node: Node,
}

/// What kind of answer this is, between kdsync ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// The whole set, for a zone that stated nothing.
    Whole,
    /// The whole set and the tombstones that are kept, for a zone whose position is older than the kept
    /// history.
    Pruned,
    /// What changed since this revision.
    Since(Revision),
    /// Nothing changed since the stated position.
    Equal,
    /// The stated position lies ahead of this global: wait.
    Behind,
    /// The stated position is not in this global's history.
    Foreign,
}

/// What a kdsync global says of an answer, in `system_version_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the zone stands once every page is applied. Of an [`Answer::Equal`] count and digest do
    /// not travel: they are what the zone stated.
    pub position: Position,
    /// What the answer is.
    pub answer: Answer,
    /// This page, from 1.
    pub page: u32,
    /// How many pages the answer has.
    pub pages: u32,
}

impl Header {
    /// True on the last page, to which removals and completeness belong.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.page >= self.pages
    }
}

/// A resource as it arrived. `Debug` shows neither value nor version (SEC-1, SEC-2).
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub key: Key,
    /// Its version as global sent it.
    pub version: SmolStr,
    /// Its labels.
    pub labels: Labels,
    /// Its value; of a `Config` the text.
    pub data: SecretData,
}

/// An answer, as a zone receives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The type URL as sent.
    pub type_url: SmolStr,
    /// To be repeated in the ACK or NACK.
    pub nonce: SmolStr,
    /// What a kdsync global says of the answer.
    pub header: Option<Header>,
    /// New and changed resources that could be read.
    pub resources: Vec<Received>,
    /// Resources that could not be read, by name.
    pub unreadable: Vec<Rejection>,
    /// Names that are gone.
    pub removed: Vec<Key>,
}

// === redacted Debug ===

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { type_url, nonce, subscribe, versions, position, nack, node } = self;
        let stated: Vec<&SmolStr> = versions.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request")
            .field("type_url", type_url)
            .field("nonce", nonce)
            .field("subscribe", subscribe)
            .field("stated", &stated)
            .field("position", position)
            .field("nack", nack)
            .field("node", node)
            .finish()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, labels, .. } = self;
        f.debug_struct("Received").field("key", key).field("labels", labels).finish_non_exhaustive()
    }
}

// === impl Position: text form ===

/// The digest of an empty set.
const NOTHING: &str = "-";

/// The text is not a position or header of a version that this build understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kdsync position")]
pub struct BadPosition;

/// `kdsync-1 <store id> <epoch> <revision> <count> <digest>`; id and digest in unpadded base64url, the
/// digest of nothing as `-`: a zone that reconnects says this for each type.
#[must_use]
pub fn position_text(position: &Position) -> String {
    let Position { identity, revision, count, digest } = position;
    let id = URL_SAFE_NO_PAD.encode(identity.id.0.as_bytes());
    let is_empty = *digest == Digest::default();
    let digest = if is_empty { NOTHING.to_owned() } else { URL_SAFE_NO_PAD.encode(digest.to_bytes()) };
    format!("{} {id} {} {revision} {count} {digest}", super::FEATURE, identity.epoch)
}

/// Reads what [`position_text`] wrote.
///
/// # Errors
/// [`BadPosition`] for anything else.
pub fn parse_position(text: &str) -> Result<Position, BadPosition> {
    let mut words = text.split(' ');
    let position = take_position(&mut words)?;
    words.next().is_none().then_some(position).ok_or(BadPosition)
}

fn take_position<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Position, BadPosition> {
    if words.next() != Some(super::FEATURE) {
        return Err(BadPosition);
    }
    let id = StoreId(uuid::Uuid::from_bytes(bytes(words.next())?));
    let epoch = number(words.next())?;
    let revision = Revision(number(words.next())?);
    let count = number(words.next())?;
    let digest = match words.next() {
        Some(NOTHING) => Digest::default(),
        word => Digest::from_bytes(bytes(word)?),
    };
    Ok(Position { identity: StoreIdentity { id, epoch }, revision, count, digest })
}

fn number(word: Option<&str>) -> Result<u64, BadPosition> {
    let word = word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    word.ok_or(BadPosition)?.parse().map_err(|_| BadPosition)
}

fn bytes<const N: usize>(word: Option<&str>) -> Result<[u8; N], BadPosition> {
    // Looked at first: what a peer sends in place of an id may be megabytes.
    let word = word.filter(|word| word.len() == (N * 4).div_ceil(3)).ok_or(BadPosition)?;
    let bytes = URL_SAFE_NO_PAD.decode(word).map_err(|_| BadPosition)?;
    bytes.try_into().map_err(|_| BadPosition)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Pruned => f.write_str("pruned"),
            Self::Since(revision) => write!(f, "since:{revision}"),
            Self::Equal => f.write_str("equal"),
            Self::Behind => f.write_str("behind"),
            Self::Foreign => f.write_str("foreign"),
        }
    }
}

impl FromStr for Answer {
    type Err = BadPosition;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "whole" => Self::Whole,
            "pruned" => Self::Pruned,
            "equal" => Self::Equal,
            "behind" => Self::Behind,
            "foreign" => Self::Foreign,
            _ => Self::Since(Revision(number(s.strip_prefix("since:"))?)),
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, answer, page, pages } = self;
        if *answer == Answer::Equal {
            let StoreIdentity { id, epoch } = position.identity;
            let id = URL_SAFE_NO_PAD.encode(id.0.as_bytes());
            return write!(f, "{} {answer} {id} {epoch} {}", super::FEATURE, position.revision);
        }
        write!(f, "{} {answer} {page} {pages}", position_text(position))
    }
}

impl FromStr for Header {
    type Err = BadPosition;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = s.strip_prefix(super::FEATURE).and_then(|rest| rest.strip_prefix(" equal ")) {
            let mut words = rest.split(' ');
            let id = StoreId(uuid::Uuid::from_bytes(bytes(words.next())?));
            let identity = StoreIdentity { id, epoch: number(words.next())? };
            let revision = Revision(number(words.next())?);
            let position = Position { revision, ..Position::start(identity) };
            let header = Self { position, answer: Answer::Equal, page: 1, pages: 1 };
            return words.next().is_none().then_some(header).ok_or(BadPosition);
        }
        let mut words = s.split(' ');
        let position = take_position(&mut words)?;
        let answer = words.next().ok_or(BadPosition)?.parse()?;
        let page = u32::try_from(number(words.next())?).map_err(|_| BadPosition)?;
        let pages = u32::try_from(number(words.next())?).map_err(|_| BadPosition)?;
        if words.next().is_some() || page == 0 || page > pages {
            return Err(BadPosition);
        }
        Ok(Self { position, answer, page, pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Version;

    #[test]
    fn headers_round_trip_and_garbage_does_not() {
        let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(7)), epoch: 3 };
        let digest = Digest::of([(&Key::secret("m", "a"), &Version([9; 32]))]);
        let position = Position { identity, revision: Revision(12), count: 1, digest };
        for answer in
            [Answer::Whole, Answer::Pruned, Answer::Since(Revision(4)), Answer::Behind, Answer::Foreign]
        {
            let header = Header { position, answer, page: 2, pages: 3 };
            assert_eq!(header.to_string().parse(), Ok(header));
        }
        let equal = Header { position, answer: Answer::Equal, page: 1, pages: 1 }.to_string();
        assert_eq!(equal, "kdsync-1 equal AAAAAAAAAAAAAAAAAAAABw 3 12");
        let parsed: Header = equal.parse().unwrap();
        assert_eq!((parsed.answer, parsed.position.revision), (Answer::Equal, Revision(12)));
        assert_eq!(parsed.position.identity, identity);
        let empty = Position::start(identity);
        assert_eq!(parse_position(&position_text(&empty)), Ok(empty));
        assert_eq!(parse_position(&position_text(&position)), Ok(position));
        for bad in ["", "kdsync-1", "kdsync-2 x", "0b5e6b8e-1d5f-4b8e-9a46-6d1c4bfb6a6c", "kdsync-1 equal x"]
        {
            assert_eq!(parse_position(bad), Err(BadPosition), "{bad}");
            assert_eq!(bad.parse::<Header>(), Err(BadPosition), "{bad}");
        }
    }
}
