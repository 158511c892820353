//! How keys and rows look as bytes.
//!
//! Decides: an encoding of keys that keeps their order (type, mesh, name) and can be scanned by type
//! and by mesh; a format byte in front of every value. Never does: touch the database.

use postcard::{from_bytes, take_from_bytes, to_extend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::fault::Damaged;
use crate::core::{
    Key, Labels, Resource, ResourceType, Revision, SecretData, Spec, Timestamp, Version, ZoneSpec,
};
use crate::store::{Head, Row};

/// The first byte of every value.
const FORMAT: u8 = 1;
/// Ends the mesh in an encoded key. No mesh or name contains it.
const SEPARATOR: u8 = 0;
/// Length of an encoded head: version and revision.
const HEAD: usize = 32 + 8;

/// The stored number of a type. Never reuse one, and keep the order of [`ResourceType`].
pub(super) const fn type_code(ty: ResourceType) -> u8 {
    match ty {
        ResourceType::Config => 10,
        ResourceType::GlobalSecret => 20,
        ResourceType::Secret => 30,
        ResourceType::Zone => 40,
    }
}

/// Reads what [`type_code`] wrote.
pub(super) fn type_from(code: u8) -> Result<ResourceType, Damaged> {
    ResourceType::ALL.into_iter().find(|ty| type_code(*ty) == code).ok_or(Damaged("a type"))
}

/// True if a key can be encoded without loss.
pub(super) fn fits(key: &Key) -> bool {
    !key.mesh.bytes().chain(key.name.bytes()).any(|byte| byte == SEPARATOR)
        && key.ty.is_mesh_scoped() != key.mesh.is_empty()
        && !key.name.is_empty()
}

/// A key as bytes, in the order of keys.
pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + key.mesh.len() + key.name.len());
    bytes.push(type_code(key.ty));
    bytes.extend_from_slice(key.mesh.as_bytes());
    bytes.push(SEPARATOR);
    bytes.extend_from_slice(key.name.as_bytes());
    bytes
}

/// Reads what [`key_bytes`] wrote.
pub(super) fn key_from(bytes: &[u8]) -> Result<Key, Damaged> {
    let (code, rest) = bytes.split_first().ok_or(Damaged("a key"))?;
    let rest = std::str::from_utf8(rest).map_err(|_| Damaged("a key"))?;
    let (mesh, name) = rest.split_once(char::from(SEPARATOR)).ok_or(Damaged("a key"))?;
    Ok(Key::new(type_from(*code)?, mesh, name))
}

/// Where the keys of a type start, and where the next type starts.
pub(super) fn type_range(ty: ResourceType) -> (Vec<u8>, Vec<u8>) {
    let code = type_code(ty);
    (vec![code], vec![code + 1])
}

/// Where the keys of a type in a mesh start, and where they end.
pub(super) fn mesh_range(ty: ResourceType, mesh: &str) -> (Vec<u8>, Vec<u8>) {
    let mut start = vec![type_code(ty)];
    start.extend_from_slice(mesh.as_bytes());
    let mut end = start.clone();
    start.push(SEPARATOR);
    end.push(SEPARATOR + 1);
    (start, end)
}

/// Anything without a value of a secret in it.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Damaged> {
    to_extend(value, vec![FORMAT]).map_err(|_| Damaged("something"))
}

/// Reads what [`encode`] wrote; `what` names it if it does not decode.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Damaged> {
    from_bytes(body(bytes, what)?).map_err(|_| Damaged(what))
}

fn body<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], Damaged> {
    bytes.strip_prefix(&[FORMAT]).ok_or(Damaged(what))
}

/// A head as bytes.
pub(super) fn head_bytes(head: Head) -> [u8; HEAD + 1] {
    let mut bytes = [FORMAT; HEAD + 1];
    let parts = head.version.0.into_iter().chain(head.revision.0.to_le_bytes());
    bytes.iter_mut().skip(1).zip(parts).for_each(|(byte, part)| *byte = part);
    bytes
}

/// Reads what [`head_bytes`] wrote, from the start of `bytes`.
pub(super) fn head_from(bytes: &[u8]) -> Result<Head, Damaged> {
    let body = body(bytes, "a head")?;
    let (version, rest) = body.split_first_chunk::<32>().ok_or(Damaged("a head"))?;
    let (revision, _) = rest.split_first_chunk::<8>().ok_or(Damaged("a head"))?;
    Ok(Head { version: Version(*version), revision: Revision(u64::from_le_bytes(*revision)) })
}

/// What a row holds besides its head and its value.
#[derive(Serialize, Deserialize)]
struct Meta {
    labels: Labels,
    created: i64,
    modified: i64,
    zone: Option<ZoneSpec>,
}

/// A row as bytes: head, meta, value. Zeroized, for it holds the value.
pub(super) fn row_bytes(row: &Row) -> Result<Zeroizing<Vec<u8>>, Damaged> {
    let resource = &row.resource;
    let (zone, value) = match &resource.spec {
        Spec::Secret(data) => (None, data.expose()),
        Spec::Zone(zone) => (Some(zone.clone()), &[][..]),
    };
    let (created, modified) = (resource.created.0, resource.modified.0);
    let meta = Meta { labels: resource.labels.clone(), created, modified, zone };
    let start = to_extend(&meta, head_bytes(row.head).to_vec()).map_err(|_| Damaged("a row"))?;
    // Exactly as long as needed: growing would leave copies of the value behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(start.len() + value.len()));
    bytes.extend_from_slice(&start);
    bytes.extend_from_slice(value);
    Ok(bytes)
}

fn meta_from(bytes: &[u8]) -> Result<(Meta, &[u8]), Damaged> {
    let rest = bytes.get(HEAD + 1..).ok_or(Damaged("a row"))?;
    take_from_bytes(rest).map_err(|_| Damaged("a row"))
}

/// Reads what [`row_bytes`] wrote.
pub(super) fn row_from(key: Key, bytes: &[u8]) -> Result<Row, Damaged> {
    let head = head_from(bytes)?;
    let (meta, value) = meta_from(bytes)?;
    let spec = match meta.zone {
        Some(zone) => Spec::Zone(zone),
        None => Spec::Secret(SecretData::new(value.to_vec())),
    };
    let (created, modified) = (Timestamp(meta.created), Timestamp(meta.modified));
    Ok(Row { resource: Resource { key, labels: meta.labels, spec, created, modified }, head })
}

/// Only the labels of what [`row_bytes`] wrote: no value is copied.
pub(super) fn labels_from(bytes: &[u8]) -> Result<Labels, Damaged> {
    Ok(meta_from(bytes)?.0.labels)
}

/// A record as bytes.
pub(super) fn record_bytes(data: &SecretData) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + data.len()));
    bytes.push(FORMAT);
    bytes.extend_from_slice(data.expose());
    bytes
}

/// Reads what [`record_bytes`] wrote.
pub(super) fn record_from(bytes: &[u8]) -> Result<SecretData, Damaged> {
    Ok(SecretData::new(body(bytes, "a record")?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_keys_sort_like_keys_and_scan_by_mesh() {
        let mut keys = [
            Key::zone("a"),
            Key::secret("m", "b"),
            Key::secret("m", "a"),
            Key::secret("m-2", "a"),
            Key::secret("m.x", "z"),
            Key::secret("l", "z.z"),
            Key::global_secret("z"),
        ];
        keys.sort();
        let bytes: Vec<_> = keys.iter().map(key_bytes).collect();
        assert!(bytes.is_sorted());
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(key_from(bytes).as_ref(), Ok(key));
            let (start, end) = type_range(key.ty);
            assert!(start <= *bytes && *bytes < end);
        }
        let (start, end) = mesh_range(ResourceType::Secret, "m");
        assert_eq!(bytes.iter().filter(|key| start <= **key && **key < end).count(), 2);
    }

    #[test]
    fn rows_round_trip_and_garbage_is_refused() {
        let labels = Labels::from([("team".into(), "x".into())]);
        let key = Key::secret("m", "a");
        let data = SecretData::new(vec![0, 1, 255]);
        let resource = Resource::secret(key.clone(), labels.clone(), data, Timestamp(-5));
        let head = Head { version: resource.version(), revision: Revision(7) };
        let row = Row { resource, head };
        let bytes = row_bytes(&row).unwrap();
        assert_eq!(row_from(key.clone(), &bytes), Ok(row));
        assert_eq!(labels_from(&bytes), Ok(labels));
        assert_eq!(head_from(&bytes), Ok(head));
        assert!(row_from(key.clone(), &bytes[..20]).is_err());
        assert!(row_from(key, &[9; 64]).is_err());
        assert!(key_from(b"\x1enul-less").is_err());
    }
}
