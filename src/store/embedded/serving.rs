//! What a commit changes in the served set: positions, history, tombstones.
//!
//! Decides: which stored row provides a served key (a mapped signing key wins over a row that has the
//! key as its own), whether the set changed, and what is forgotten. Never does: change a row.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable as _;
use redb::ReadableTableMetadata as _;

use super::codec;
use super::fault::Fault;
use super::tables::{State, Tables, changes_bytes, tombstone_bytes, tombstone_from};
use crate::core::served::{ZONE_PUBLIC_KEY, ZONE_SIGNING_KEY, serve, served_key};
use crate::core::{Key, Position, ResourceType, Revision, Timestamp, Version};
use crate::store::{Row, ServedChange, Tombstone};

/// How many tombstones one commit looks at to find old ones.
const LOOKED_AT: usize = 8;

/// A served key with what provided it before and after a commit: the stored key and the served version.
pub(super) type Change = (Key, Option<(Key, Version)>, Option<(Key, Version)>);

/// What is kept of the past.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// Commits in the history.
    pub(super) history: u64,
    /// Milliseconds that a tombstone lives.
    pub(super) tombstones: i64,
}

/// A row as served, if it is.
pub(super) fn provides(row: &Row) -> Option<(Key, Version)> {
    serve(&row.resource).ok().map(|served| (row.resource.key.clone(), served.version))
}

/// True if stored rows of other names may be mapped to this served key.
pub(super) fn is_mapped(served: &Key) -> bool {
    served.ty == ResourceType::GlobalSecret && served.name.starts_with(ZONE_PUBLIC_KEY)
}

impl Tables<'_> {
    /// What provides a served key according to the rows as they are now.
    pub(super) fn provider(&self, served: &Key) -> Result<Option<(Key, Version)>, Fault> {
        if is_mapped(served) {
            let first = codec::key_bytes(&Key::global_secret(ZONE_SIGNING_KEY));
            for entry in self.rows.range(first.as_slice()..)? {
                let (key, bytes) = entry?;
                if !key.value().starts_with(&first) {
                    break;
                }
                let key = codec::key_from(key.value())?;
                if served_key(&key) == *served
                    && let Some(provider) = provides(&codec::row_from(key, bytes.value())?)
                {
                    return Ok(Some(provider));
                }
            }
        }
        Ok(self.row(served)?.as_ref().and_then(provides))
    }

    /// Records what a commit changed in the served set.
    pub(super) fn record_served(
        &mut self,
        state: &mut State,
        revision: Revision,
        changes: &[Change],
        (by, at): (&str, Timestamp),
    ) -> Result<(), Fault> {
        let mut keys: BTreeMap<ResourceType, BTreeSet<Key>> = BTreeMap::new();
        for (key, before, after) in changes {
            let (before, after) = (before.as_ref().map(|b| b.1), after.as_ref().map(|a| a.1));
            let Some(position) = state.positions.get_mut(&key.ty).filter(|_| before != after) else {
                continue;
            };
            step(position, key, before, after);
            position.revision = revision;
            keys.entry(key.ty).or_default().insert(key.clone());
            let encoded = codec::key_bytes(key);
            if after.is_some() {
                self.tombstones.remove(encoded.as_slice())?;
            } else {
                let tombstone = Tombstone { key: key.clone(), revision, by: by.to_owned(), at };
                self.tombstones.insert(encoded.as_slice(), tombstone_bytes(&tombstone)?.as_slice())?;
            }
        }
        let change = |(ty, keys): (ResourceType, BTreeSet<Key>)| {
            let Position { count, digest, .. } = *state.positions.get(&ty)?;
            Some(ServedChange { revision, ty, keys: keys.into_iter().collect(), count, digest })
        };
        let entry: Vec<_> = keys.into_iter().filter_map(change).collect();
        if !entry.is_empty() {
            self.history.insert(revision.0, changes_bytes(&entry)?.as_slice())?;
        }
        Ok(())
    }

    /// Forgets commits beyond the limit. The oldest that stays is a point to resume from.
    pub(super) fn prune_history(&mut self, state: &mut State, kept: Kept) -> Result<(), Fault> {
        while self.history.len()? > kept.history.max(1) {
            self.history.pop_first()?;
            if let Some((first, _)) = self.history.first()? {
                state.oldest = Revision(first.value());
            }
        }
        while self.touched.len()? > kept.history.max(1) {
            if let Some((gone, _)) = self.touched.pop_first()? {
                state.touched_oldest = Revision(gone.value());
            }
        }
        Ok(())
    }

    /// Looks at a few tombstones from `cursor` on, forgets the old ones among them, moves the cursor.
    pub(super) fn prune_tombstones(
        &mut self,
        cursor: &mut Vec<u8>,
        at: Timestamp,
        kept: Kept,
    ) -> Result<(), Fault> {
        let mut last = None;
        let mut old = Vec::new();
        for entry in self.tombstones.range(cursor.as_slice()..)?.take(LOOKED_AT) {
            let (key, bytes) = entry?;
            let tombstone = tombstone_from(codec::key_from(key.value())?, bytes.value())?;
            if at.0.saturating_sub(tombstone.at.0) > kept.tombstones {
                old.push(key.value().to_vec());
            }
            last = Some(key.value().to_vec());
        }
        for key in old {
            self.tombstones.remove(key.as_slice())?;
        }
        *cursor = last.map_or_else(Vec::new, |mut last| {
            last.push(0);
            last
        });
        Ok(())
    }
}

/// Moves count and digest by one change.
fn step(position: &mut Position, key: &Key, before: Option<Version>, after: Option<Version>) {
    if let Some(version) = before {
        position.digest.remove(key, &version);
        position.count = position.count.saturating_sub(1);
    }
    if let Some(version) = after {
        position.digest.add(key, &version);
        position.count += 1;
    }
}
