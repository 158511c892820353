//! Who is calling, from the metadata of a call.
//!
//! Decides: the zone's name (the `client-id`), whether the peer is a kdsync zone, which encodings it
//! uses. Never does: trust a node id (SEC-3).

use http::HeaderMap;
use smol_str::SmolStr;
use tonic::Status;
use tonic::codec::CompressionEncoding;

use crate::core::Key;
use crate::core::insight::ZoneClass;
use crate::core::served::Audience;
use crate::core::validate;
use crate::kds::FEATURE;

/// The longest text that is kept of what a peer says of itself, in bytes.
const LONGEST: usize = 64;
/// From this version on Kuma zones keep their local secrets and take every GlobalSecret.
const KEEPS_LOCAL: (u32, u32) = (2, 10);

/// The peer of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The zone's name: a valid resource name.
    pub(super) zone: SmolStr,
    /// Where it connects from.
    pub(super) address: String,
    /// True for a kdsync zone.
    pub(super) is_kdsync: bool,
    /// The instance of the zone, if it tells one in the metadata.
    pub(super) instance: Option<SmolStr>,
    /// The version of the zone, or nothing.
    pub(super) version: SmolStr,
    /// True if it sends its requests compressed: Kuma does from 2.10 on.
    pub(super) sends_gzip: bool,
    /// True if it takes compressed answers.
    pub(super) takes_gzip: bool,
}

/// Why a call has no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nobody {
    /// No `client-id`; the words are Kuma's.
    #[error("\"client-id\" is not present in metadata")]
    Missing,
    /// A `client-id` that cannot name a zone.
    #[error("\"client-id\" is not a valid zone name: {0}")]
    Invalid(String),
}

impl Caller {
    /// Reads the metadata of a call.
    pub(super) fn read(headers: &HeaderMap, address: String) -> Result<Self, Nobody> {
        let mut ids = headers.get_all("client-id").iter();
        let id = ids.next().ok_or(Nobody::Missing)?;
        let id = id.to_str().map_err(|_| Nobody::Invalid("it is not text".into()))?;
        if ids.next().is_some() {
            return Err(Nobody::Invalid("there are several".into()));
        }
        let violations = validate::key(&Key::zone(id));
        if !violations.is_empty() {
            return Err(Nobody::Invalid(validate::describe(&violations)));
        }
        Ok(Self {
            zone: id.into(),
            address,
            is_kdsync: lists(headers, "features", FEATURE),
            instance: text(headers, "kdsync-instance").filter(|instance| !instance.is_empty()),
            version: text(headers, "version").unwrap_or_default(),
            sends_gzip: lists(headers, "grpc-encoding", "gzip"),
            takes_gzip: lists(headers, "grpc-encoding", "gzip")
                || lists(headers, "grpc-accept-encoding", "gzip"),
        })
    }

    /// What kind of peer it is. `node_version` is what the first request says; the encoding decides where
    /// no version can be read, as in a build without one.
    pub(super) fn class(&self, node_version: &str) -> ZoneClass {
        if self.is_kdsync {
            return ZoneClass::Kdsync;
        }
        let keeps = match parse(&self.version).or_else(|| parse(node_version)) {
            Some(version) => version >= KEEPS_LOCAL,
            None => self.sends_gzip,
        };
        if keeps { ZoneClass::KumaKeepsLocal } else { ZoneClass::KumaDeletesLocal }
    }
}

/// What a peer of this class may see.
pub(super) fn audience(class: ZoneClass) -> Audience {
    match class {
        ZoneClass::Kdsync | ZoneClass::KumaKeepsLocal => Audience::All,
        ZoneClass::KumaDeletesLocal => Audience::Legacy,
    }
}

/// How the messages of a call are compressed.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<CompressionEncoding>, Status> {
    match headers.get("grpc-encoding").map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(CompressionEncoding::Gzip)),
        Some(_) => {
            let mut status = Status::unimplemented("only gzip and identity can be read");
            let accepted = tonic::metadata::MetadataValue::from_static("gzip,identity");
            status.metadata_mut().insert("grpc-accept-encoding", accepted);
            Err(status)
        }
    }
}

/// What a peer says, cut to printable text of a bounded length.
pub(super) fn printable(said: &str, longest: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut end = said.len().min(longest);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    said.get(..end).unwrap_or_default().chars().map(clean).collect()
}

fn text(headers: &HeaderMap, name: &str) -> Option<SmolStr> {
    Some(printable(headers.get(name)?.to_str().ok()?, LONGEST).into())
}

/// True if a header, of which there may be several, has `word` in its list.
fn lists(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim() == word)
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(headers: &[(&'static str, &'static str)]) -> Result<Caller, Nobody> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        Caller::read(&map, "1.2.3.4:5".into())
    }

    #[test]
    fn names_come_from_the_client_id_alone() {
        assert_eq!(caller(&[]), Err(Nobody::Missing));
        for bad in ["", "UP", "a b", "-a"] {
            assert!(matches!(caller(&[("client-id", bad)]), Err(Nobody::Invalid(_))), "{bad}");
        }
        assert!(matches!(caller(&[("client-id", "a"), ("client-id", "b")]), Err(Nobody::Invalid(_))));
        assert_eq!(caller(&[("client-id", "east.1")]).unwrap().zone, "east.1");
    }

    #[test]
    fn classes_follow_version_then_encoding() {
        use ZoneClass::{Kdsync, KumaDeletesLocal, KumaKeepsLocal};
        let class = |headers: &[(&'static str, &'static str)], node| {
            let mut all = vec![("client-id", "east")];
            all.extend(headers);
            caller(&all).unwrap().class(node)
        };
        assert_eq!(class(&[("features", "hash-suffix"), ("features", "kdsync-1")], ""), Kdsync);
        assert_eq!(class(&[("version", "2.14.3")], ""), KumaKeepsLocal);
        assert_eq!(class(&[("version", "2.9.13")], "2.14.3"), KumaDeletesLocal);
        assert_eq!(class(&[], "v2.2.9"), KumaDeletesLocal);
        assert_eq!(class(&[("version", "unknown"), ("grpc-encoding", "gzip")], "unknown"), KumaKeepsLocal);
        assert_eq!(class(&[("version", "unknown")], ""), KumaDeletesLocal);
        assert_eq!(class(&[("version", "3.0.0-preview")], ""), KumaKeepsLocal);
    }

    #[test]
    fn what_peers_say_is_cut_and_cleaned() {
        assert_eq!(printable("a\nb\u{7}c", 10), "a b c");
        assert_eq!(printable("ääää", 3), "ä");
    }
}
