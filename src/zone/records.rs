//! The zone's named records: ledger, positions, last-good copies, quarantine.
//!
//! Decides: their names and their form. Never does: live apart from the rows they are about; each is
//! written in the same commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::core::ledger::{Entry, Ledger, Source};
use crate::core::{
    Digest, Key, Labels, Position, ResourceType, Revision, SecretData, StoreId, StoreIdentity, Timestamp,
    Version,
};

/// Prefix of ledger entries.
pub(crate) const LEDGER: &str = "ledger/";
/// Prefix of last-good copies.
const LAST_GOOD: &str = "last-good/";
/// Prefix of what was removed or overwritten and only this zone knew.
pub const QUARANTINE: &str = "quarantine/";
/// Prefix of positions, one per type.
pub(crate) const POSITION: &str = "position/";
/// Prefix of names that global serves and this zone refused (KDS-9).
pub(crate) const REJECTED: &str = "rejected/";
/// Prefix of types of which a first answer of a stock global was once applied.
pub(crate) const COMPLETE: &str = "complete/";
/// Whose history the zone follows.
pub(crate) const SOURCE: &str = "source";

/// A record cannot be read: the store is not this zone's, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("record \"{0}\" cannot be read")]
pub(crate) struct BadRecord(String);

#[derive(Serialize, Deserialize)]
struct EntryRecord {
    received: SmolStr,
    content: [u8; 32],
    revision: u64,
    kept: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum SourceRecord {
    Kdsync { id: StoreId, epoch: u64 },
    Stock { cluster_id: SmolStr },
}

#[derive(Serialize, Deserialize)]
struct PositionRecord {
    id: StoreId,
    epoch: u64,
    revision: u64,
    count: u64,
    digest: [u8; 32],
}

#[derive(Serialize)]
struct CopyRecord<'a> {
    version: [u8; 32],
    labels: &'a Labels,
    data: &'a [u8],
    reason: &'a str,
    at: i64,
}

#[derive(Deserialize)]
struct CopyRecordRead<'a> {
    version: [u8; 32],
    labels: Labels,
    data: &'a [u8],
}

/// A copy of a value.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) version: Version,
    pub(crate) labels: Labels,
    pub(crate) data: SecretData,
}

fn path(key: &Key) -> String {
    format!("{}/{}/{}", key.ty, key.mesh, key.name)
}

fn parse_path(text: &str) -> Option<Key> {
    let mut parts = text.splitn(3, '/');
    let ty: ResourceType = parts.next()?.parse().ok()?;
    let mesh = parts.next()?;
    Some(Key::new(ty, mesh, parts.next()?))
}

pub(crate) fn ledger_name(key: &Key) -> String {
    format!("{LEDGER}{}", path(key))
}

pub(crate) fn last_good_name(key: &Key) -> String {
    format!("{LAST_GOOD}{}", path(key))
}

pub(crate) fn rejected_name(key: &Key) -> String {
    format!("{REJECTED}{}", path(key))
}

pub(crate) fn complete_name(ty: ResourceType) -> String {
    format!("{COMPLETE}{ty}")
}

pub(crate) fn rejected(reason: &str) -> SecretData {
    encode(&reason)
}

/// Prefix of the copies of one name.
pub(crate) fn quarantine_prefix(key: &Key) -> String {
    format!("{QUARANTINE}{}/", path(key))
}

/// Unique by the commit that wrote the row, so that a retry writes the same record again.
pub(crate) fn quarantine_name(key: &Key, row: Revision) -> String {
    format!("{}{row:020}", quarantine_prefix(key), row = row.0)
}

pub(crate) fn position_name(ty: ResourceType) -> String {
    format!("{POSITION}{ty}")
}

/// The key that a ledger record is about.
pub(crate) fn ledger_key(name: &str) -> Option<Key> {
    parse_path(name.strip_prefix(LEDGER)?)
}

/// `room` is at least the size of the record, so that no copy of a value is left behind by growing.
fn encode_in(value: &impl Serialize, room: usize) -> SecretData {
    // Serializing these types to memory cannot fail; an empty record is refused when it is read.
    SecretData::new(postcard::to_extend(value, Vec::with_capacity(room)).unwrap_or_default())
}

fn encode(value: &impl Serialize) -> SecretData {
    encode_in(value, 256)
}

pub(crate) fn entry(entry: &Entry, kept: Option<String>) -> SecretData {
    let Entry { received, content, revision } = entry;
    encode(&EntryRecord { received: received.clone(), content: content.0, revision: revision.0, kept })
}

pub(crate) fn read_entry(name: &str, data: &SecretData) -> Result<(Entry, Option<String>), BadRecord> {
    let record: EntryRecord = postcard::from_bytes(data.expose()).map_err(|_| BadRecord(name.to_owned()))?;
    let EntryRecord { received, content, revision, kept } = record;
    Ok((Entry { received, content: Version(content), revision: Revision(revision) }, kept))
}

pub(crate) fn source(source: &Source) -> SecretData {
    encode(&match source {
        Source::Kdsync(identity) => SourceRecord::Kdsync { id: identity.id, epoch: identity.epoch },
        Source::Stock(id) => SourceRecord::Stock { cluster_id: id.clone() },
    })
}

pub(crate) fn read_source(data: &SecretData) -> Result<Source, BadRecord> {
    let record = postcard::from_bytes(data.expose()).map_err(|_| BadRecord(SOURCE.to_owned()))?;
    Ok(match record {
        SourceRecord::Kdsync { id, epoch } => Source::Kdsync(StoreIdentity { id, epoch }),
        SourceRecord::Stock { cluster_id } => Source::Stock(cluster_id),
    })
}

pub(crate) fn position(position: &Position) -> SecretData {
    let Position { identity, revision, count, digest } = position;
    encode(&PositionRecord {
        id: identity.id,
        epoch: identity.epoch,
        revision: revision.0,
        count: *count,
        digest: digest.to_bytes(),
    })
}

pub(crate) fn read_position(name: &str, data: &SecretData) -> Result<Position, BadRecord> {
    let record: PositionRecord =
        postcard::from_bytes(data.expose()).map_err(|_| BadRecord(name.to_owned()))?;
    Ok(Position {
        identity: StoreIdentity { id: record.id, epoch: record.epoch },
        revision: Revision(record.revision),
        count: record.count,
        digest: Digest::from_bytes(record.digest),
    })
}

/// A last-good or quarantined copy.
pub(crate) fn copy(
    version: Version,
    labels: &Labels,
    data: &SecretData,
    reason: &str,
    at: Timestamp,
) -> SecretData {
    let words: usize = labels.iter().map(|(label, value)| label.len() + value.len() + 20).sum();
    let room = data.len() + words + reason.len() + 128;
    encode_in(&CopyRecord { version: version.0, labels, data: data.expose(), reason, at: at.0 }, room)
}

pub(crate) fn read_copy(name: &str, data: &SecretData) -> Result<Copy, BadRecord> {
    let record: CopyRecordRead<'_> =
        postcard::from_bytes(data.expose()).map_err(|_| BadRecord(name.to_owned()))?;
    let data = SecretData::new(record.data.to_vec());
    Ok(Copy { version: Version(record.version), labels: record.labels, data })
}

/// Puts a ledger together from its records.
pub(crate) fn read_ledger(
    entries: &[(String, SecretData)],
    positions: &[(String, SecretData)],
    rejected: &[(String, SecretData)],
    complete: &[(String, SecretData)],
    source: Option<&SecretData>,
) -> Result<Ledger, BadRecord> {
    let mut ledger = Ledger::default();
    for (name, _) in complete {
        let ty = name.strip_prefix(COMPLETE).and_then(|ty| ty.parse().ok());
        ledger.completed.insert(ty.ok_or_else(|| BadRecord(name.clone()))?);
    }
    ledger.source = source.map(read_source).transpose()?;
    for (name, data) in entries {
        let key = ledger_key(name).ok_or_else(|| BadRecord(name.clone()))?;
        let (entry, kept) = read_entry(name, data)?;
        ledger.insert(key.clone(), entry);
        if let Some(reason) = kept {
            ledger.kept.insert(key, reason);
        }
    }
    for (name, data) in rejected {
        let key = name.strip_prefix(REJECTED).and_then(parse_path).ok_or_else(|| BadRecord(name.clone()))?;
        let reason = postcard::from_bytes(data.expose()).map_err(|_| BadRecord(name.clone()))?;
        ledger.rejected.insert(key, reason);
    }
    let mut found = BTreeMap::new();
    for (name, data) in positions {
        let ty = name.strip_prefix(POSITION).and_then(|ty| ty.parse::<ResourceType>().ok());
        let ty = ty.ok_or_else(|| BadRecord(name.clone()))?;
        found.insert(ty, read_position(name, data)?);
    }
    ledger.positions = found;
    Ok(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let key = Key::secret("m", "a.b");
        assert_eq!(ledger_key(&ledger_name(&key)), Some(key.clone()));
        let global = Key::global_secret("g");
        assert_eq!(ledger_key(&ledger_name(&global)), Some(global));
        let held = Entry { received: "v1".into(), content: Version([3; 32]), revision: Revision(9) };
        let name = ledger_name(&key);
        let entries = [(name, entry(&held, Some("why".into())))];
        let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(5)), epoch: 2 };
        let at = Position { identity, revision: Revision(9), count: 1, digest: Digest::from_bytes([7; 32]) };
        let positions = [(position_name(ResourceType::Secret), position(&at))];
        let from = source(&Source::Kdsync(identity));
        let refused = [(rejected_name(&key), rejected("too large"))];
        let ledger = read_ledger(&entries, &positions, &refused, &[], Some(&from)).unwrap();
        assert_eq!(ledger.rejected.get(&key).map(String::as_str), Some("too large"));
        assert_eq!(ledger.get(&key), Some(&held));
        assert_eq!(ledger.kept.get(&key).map(String::as_str), Some("why"));
        assert_eq!(ledger.positions.get(&ResourceType::Secret), Some(&at));
        assert_eq!(ledger.source, Some(Source::Kdsync(identity)));
        assert!(read_ledger(&[("ledger/x".into(), SecretData::new(vec![1]))], &[], &[], &[], None).is_err());
    }

    #[test]
    fn copies_round_trip() {
        let labels = Labels::from([("a".into(), "b".into())]);
        let data = SecretData::new(vec![0, 1, 255]);
        let record = copy(Version([1; 32]), &labels, &data, "r", Timestamp(5));
        let back = read_copy("x", &record).unwrap();
        assert_eq!((back.version, back.labels, back.data), (Version([1; 32]), labels, data));
    }
}
