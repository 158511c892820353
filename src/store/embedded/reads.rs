//! Answers from one view of one commit.
//!
//! Decides: what matches, in which order, and how far a delta reaches back. Never does: change a row,
//! or copy a value that is not asked for.

use std::collections::BTreeSet;

use redb::{ReadTransaction, ReadableTable as _};

use super::codec;
use super::fault::Fault;
use super::tables::{self, State};
use crate::core::{Key, ResourceType, Revision, SecretData, StoreIdentity};
use crate::store::{Changed, Head, Listing, Query, Row, Served};

/// A view of one commit.
pub(super) struct View {
    pub(super) txn: ReadTransaction,
    pub(super) identity: StoreIdentity,
}

impl View {
    fn state(&self) -> Result<State, Fault> {
        State::of(&self.txn, self.identity)
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Row>, Fault> {
        let rows = self.txn.open_table(tables::ROWS)?;
        let found = rows.get(codec::key_bytes(key).as_slice())?;
        Ok(found.map(|bytes| codec::row_from(key.clone(), bytes.value())).transpose()?)
    }

    pub(super) fn list(&self, query: &Query) -> Result<Listing, Fault> {
        let heads = self.txn.open_table(tables::HEADS)?;
        let rows = self.txn.open_table(tables::ROWS)?;
        let (start, end) = match &query.mesh {
            Some(mesh) if query.ty.is_mesh_scoped() => codec::mesh_range(query.ty, mesh),
            // Of what belongs to no mesh, none is in this one.
            Some(mesh) if !mesh.is_empty() => (Vec::new(), Vec::new()),
            _ => codec::type_range(query.ty),
        };
        let mut listing = Listing { rows: Vec::new(), total: 0, revision: self.state()?.revision };
        for entry in heads.range(start.as_slice()..end.as_slice())? {
            let (encoded, _) = entry?;
            let key = codec::key_from(encoded.value())?;
            if query.name_contains.as_ref().is_some_and(|part| !key.name.contains(part.as_str())) {
                continue;
            }
            let in_page = listing.total >= query.offset && listing.rows.len() < query.limit;
            if query.labels.is_empty() && !in_page {
                listing.total += 1;
                continue;
            }
            let Some(bytes) = rows.get(encoded.value())? else { continue };
            if !query.labels.is_empty() {
                let labels = codec::labels_from(bytes.value())?;
                if !query.labels.iter().all(|(label, value)| labels.get(label) == Some(value)) {
                    continue;
                }
            }
            if in_page {
                listing.rows.push(codec::row_from(key, bytes.value())?);
            }
            listing.total += 1;
        }
        Ok(listing)
    }

    pub(super) fn heads(&self, ty: ResourceType) -> Result<Vec<(Key, Head)>, Fault> {
        let heads = self.txn.open_table(tables::HEADS)?;
        let (start, end) = codec::type_range(ty);
        let mut found = Vec::new();
        for entry in heads.range(start.as_slice()..end.as_slice())? {
            let (key, head) = entry?;
            found.push((codec::key_from(key.value())?, codec::head_from(head.value())?));
        }
        Ok(found)
    }

    pub(super) fn heads_of(&self, keys: &[Key]) -> Result<Vec<(Key, Option<Head>)>, Fault> {
        let heads = self.txn.open_table(tables::HEADS)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let head = heads.get(codec::key_bytes(key).as_slice())?;
            let head = head.map(|bytes| codec::head_from(bytes.value())).transpose()?;
            found.push((key.clone(), head));
        }
        Ok(found)
    }

    pub(super) fn changed_since(&self, after: Revision) -> Result<Changed, Fault> {
        let state = self.state()?;
        if after < state.touched_oldest || after > state.revision {
            return Ok(Changed::TooOld);
        }
        let keys = self.touched(after)?.into_iter().collect();
        Ok(Changed::Keys { revision: state.revision, keys })
    }

    fn touched(&self, after: Revision) -> Result<BTreeSet<Key>, Fault> {
        let touched = self.txn.open_table(tables::TOUCHED)?;
        let mut keys = BTreeSet::new();
        for entry in touched.range(after.0.saturating_add(1)..)? {
            let commit: Vec<Vec<u8>> = codec::decode(entry?.1.value(), "a list of touched rows")?;
            for key in commit {
                keys.insert(codec::key_from(&key)?);
            }
        }
        Ok(keys)
    }

    pub(super) fn served(&self, after: Option<Revision>) -> Result<Option<Served>, Fault> {
        let State { revision, oldest, touched_oldest, positions } = self.state()?;
        let mut served = Served { revision, positions, oldest, ..Served::default() };
        let Some(after) = after else {
            for ty in ResourceType::SECRETS {
                self.all_rows(ty, &mut served.rows)?;
            }
            self.served_changes(Revision(0), &mut served)?;
            self.all_tombstones(&mut served)?;
            return Ok(Some(served));
        };
        if after < oldest || after < touched_oldest || after > revision {
            return Ok(None);
        }
        let rows = self.txn.open_table(tables::ROWS)?;
        for key in self.touched(after)?.into_iter().filter(|key| key.ty.is_secret()) {
            match rows.get(codec::key_bytes(&key).as_slice())? {
                Some(bytes) => served.rows.push(codec::row_from(key, bytes.value())?),
                None => served.gone.push(key),
            }
        }
        self.served_changes(after, &mut served)?;
        let tombstones = self.txn.open_table(tables::TOMBSTONES)?;
        let changed: BTreeSet<_> = served.changes.iter().flat_map(|change| &change.keys).cloned().collect();
        for key in changed {
            if let Some(bytes) = tombstones.get(codec::key_bytes(&key).as_slice())? {
                served.tombstones.push(tables::tombstone_from(key, bytes.value())?);
            }
        }
        Ok(Some(served))
    }

    fn all_rows(&self, ty: ResourceType, into: &mut Vec<Row>) -> Result<(), Fault> {
        let rows = self.txn.open_table(tables::ROWS)?;
        let (start, end) = codec::type_range(ty);
        for entry in rows.range(start.as_slice()..end.as_slice())? {
            let (key, bytes) = entry?;
            into.push(codec::row_from(codec::key_from(key.value())?, bytes.value())?);
        }
        Ok(())
    }

    fn served_changes(&self, after: Revision, served: &mut Served) -> Result<(), Fault> {
        let history = self.txn.open_table(tables::HISTORY)?;
        for entry in history.range(after.0.saturating_add(1)..)? {
            let (revision, bytes) = entry?;
            served.changes.extend(tables::changes_from(revision.value(), bytes.value())?);
        }
        Ok(())
    }

    fn all_tombstones(&self, served: &mut Served) -> Result<(), Fault> {
        for entry in self.txn.open_table(tables::TOMBSTONES)?.iter()? {
            let (key, bytes) = entry?;
            let tombstone = tables::tombstone_from(codec::key_from(key.value())?, bytes.value())?;
            served.tombstones.push(tombstone);
        }
        Ok(())
    }

    pub(super) fn record(&self, name: &str) -> Result<Option<SecretData>, Fault> {
        let records = self.txn.open_table(tables::RECORDS)?;
        let found = records.get(name)?;
        Ok(found.map(|bytes| codec::record_from(bytes.value())).transpose()?)
    }

    pub(super) fn records(&self, prefix: &str) -> Result<Vec<(String, SecretData)>, Fault> {
        let records = self.txn.open_table(tables::RECORDS)?;
        let mut found = Vec::new();
        for entry in records.range(prefix..)? {
            let (name, bytes) = entry?;
            if !name.value().starts_with(prefix) {
                break;
            }
            found.push((name.value().to_owned(), codec::record_from(bytes.value())?));
        }
        Ok(found)
    }
}
