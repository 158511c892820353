//! The tables of the database, and the one row that says where its history stands.
//!
//! Decides: names and shapes of tables, and the format number of the whole. Never does: change a row.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::codec;
use super::fault::{Damaged, Fault};
use crate::core::{Digest, Key, Position, ResourceType, Revision, StoreIdentity, Timestamp};
use crate::store::{Row, ServedChange, Tombstone};

/// The format that this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// `format` (u32, little-endian), `identity` (id, epoch) and `state`. The first two never change shape.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Encoded key -> head, labels, times, value.
pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
/// Encoded key -> head, so that heads are read without values.
pub(super) const HEADS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("heads");
/// Name -> record.
pub(super) const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
/// Revision -> encoded keys whose rows it changed.
pub(super) const TOUCHED: TableDefinition<u64, &[u8]> = TableDefinition::new("touched");
/// Revision -> what it changed in the served set, per type.
pub(super) const HISTORY: TableDefinition<u64, &[u8]> = TableDefinition::new("history");
/// Encoded served key -> who removed it, when, in which commit.
pub(super) const TOMBSTONES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("tombstones");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_IDENTITY: &str = "identity";
const META_STATE: &str = "state";

/// Every table, open for writing.
pub(super) struct Tables<'txn> {
    pub(super) meta: Table<'txn, &'static str, &'static [u8]>,
    pub(super) rows: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) heads: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) records: Table<'txn, &'static str, &'static [u8]>,
    pub(super) touched: Table<'txn, u64, &'static [u8]>,
    pub(super) history: Table<'txn, u64, &'static [u8]>,
    pub(super) tombstones: Table<'txn, &'static [u8], &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    /// Opens them, and creates those that are not there.
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            meta: txn.open_table(META)?,
            rows: txn.open_table(ROWS)?,
            heads: txn.open_table(HEADS)?,
            records: txn.open_table(RECORDS)?,
            touched: txn.open_table(TOUCHED)?,
            history: txn.open_table(HISTORY)?,
            tombstones: txn.open_table(TOMBSTONES)?,
        })
    }

    /// One row.
    pub(super) fn row(&self, key: &Key) -> Result<Option<Row>, Fault> {
        let found = self.rows.get(codec::key_bytes(key).as_slice())?;
        Ok(found.map(|bytes| codec::row_from(key.clone(), bytes.value())).transpose()?)
    }
}

/// Where the history of a store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The newest commit.
    pub(super) revision: Revision,
    /// The history of served changes is whole after this commit, which is still in it (unless 0).
    pub(super) oldest: Revision,
    /// The list of touched rows is whole after this commit.
    pub(super) touched_oldest: Revision,
    /// Per secret type.
    pub(super) positions: BTreeMap<ResourceType, Position>,
}

#[derive(Serialize, Deserialize)]
struct StoredState {
    revision: u64,
    oldest: u64,
    touched_oldest: u64,
    positions: Vec<StoredPosition>,
}

#[derive(Serialize, Deserialize)]
struct StoredPosition {
    ty: u8,
    revision: u64,
    count: u64,
    digest: [u8; 32],
}

impl State {
    /// An empty store.
    pub(super) fn new(identity: StoreIdentity) -> Self {
        let positions = ResourceType::SECRETS.map(|ty| (ty, Position::start(identity)));
        let none = Revision(0);
        Self { revision: none, oldest: none, touched_oldest: none, positions: positions.into() }
    }

    /// Reads it.
    pub(super) fn load(
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        identity: StoreIdentity,
    ) -> Result<Self, Fault> {
        let bytes = meta.get(META_STATE)?.ok_or(Damaged("no state"))?;
        let stored: StoredState = codec::decode(bytes.value(), "a state")?;
        let mut state = Self {
            revision: Revision(stored.revision),
            oldest: Revision(stored.oldest),
            touched_oldest: Revision(stored.touched_oldest),
            ..Self::new(identity)
        };
        for StoredPosition { ty, revision, count, digest } in stored.positions {
            let (revision, digest) = (Revision(revision), Digest::from_bytes(digest));
            state.positions.insert(codec::type_from(ty)?, Position { identity, revision, count, digest });
        }
        Ok(state)
    }

    /// Reads it in a read transaction.
    pub(super) fn of(txn: &ReadTransaction, identity: StoreIdentity) -> Result<Self, Fault> {
        Self::load(&txn.open_table(META)?, identity)
    }

    /// Writes it.
    pub(super) fn save(&self, meta: &mut Table<'_, &'static str, &'static [u8]>) -> Result<(), Fault> {
        let position = |(ty, at): (&ResourceType, &Position)| StoredPosition {
            ty: codec::type_code(*ty),
            revision: at.revision.0,
            count: at.count,
            digest: at.digest.to_bytes(),
        };
        let stored = StoredState {
            revision: self.revision.0,
            oldest: self.oldest.0,
            touched_oldest: self.touched_oldest.0,
            positions: self.positions.iter().map(position).collect(),
        };
        meta.insert(META_STATE, codec::encode(&stored)?.as_slice())?;
        Ok(())
    }
}

/// A [`ServedChange`] as stored, without its revision.
#[derive(Serialize, Deserialize)]
struct StoredChange {
    ty: u8,
    keys: Vec<Vec<u8>>,
    count: u64,
    digest: [u8; 32],
}

/// What one commit changed in the served set, as bytes.
pub(super) fn changes_bytes(changes: &[ServedChange]) -> Result<Vec<u8>, Damaged> {
    let stored: Vec<_> = changes
        .iter()
        .map(|change| StoredChange {
            ty: codec::type_code(change.ty),
            keys: change.keys.iter().map(codec::key_bytes).collect(),
            count: change.count,
            digest: change.digest.to_bytes(),
        })
        .collect();
    codec::encode(&stored)
}

/// Reads what [`changes_bytes`] wrote.
pub(super) fn changes_from(revision: u64, bytes: &[u8]) -> Result<Vec<ServedChange>, Damaged> {
    let stored: Vec<StoredChange> = codec::decode(bytes, "a history entry")?;
    let change = |stored: StoredChange| {
        Ok(ServedChange {
            revision: Revision(revision),
            ty: codec::type_from(stored.ty)?,
            keys: stored.keys.iter().map(|key| codec::key_from(key)).collect::<Result<_, _>>()?,
            count: stored.count,
            digest: Digest::from_bytes(stored.digest),
        })
    };
    stored.into_iter().map(change).collect()
}

/// The part of a tombstone that is not its key.
#[derive(Serialize, Deserialize)]
struct StoredTombstone {
    revision: u64,
    by: String,
    at: i64,
}

/// A tombstone as bytes.
pub(super) fn tombstone_bytes(tombstone: &Tombstone) -> Result<Vec<u8>, Damaged> {
    let Tombstone { revision, by, at, .. } = tombstone;
    codec::encode(&StoredTombstone { revision: revision.0, by: by.clone(), at: at.0 })
}

/// Reads what [`tombstone_bytes`] wrote.
pub(super) fn tombstone_from(key: Key, bytes: &[u8]) -> Result<Tombstone, Damaged> {
    let StoredTombstone { revision, by, at } = codec::decode(bytes, "a tombstone")?;
    Ok(Tombstone { key, revision: Revision(revision), by, at: Timestamp(at) })
}
