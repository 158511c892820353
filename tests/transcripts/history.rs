//! The history of a global store, as a list of commits.
//!
//! Decides: what is served after each commit, from what a script writes. Never does: forget a position; the
//! snapshots keep as much history as the script says.

use std::collections::BTreeMap;
use std::sync::Arc;

use kdsync::core::served::serve;
use kdsync::core::{
    Digest, Key, Position, Resource, ResourceType, Revision, StoreIdentity, Timestamp, Version,
};
use kdsync::kds::snapshot::{Change, Entry, Record, Snapshot};

use super::notation::Put;

/// One line of history; a clone is a backup.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) snapshot: Snapshot,
    rows: BTreeMap<Key, Resource>,
    sets: BTreeMap<ResourceType, BTreeMap<Key, Version>>,
    past: BTreeMap<(ResourceType, Revision), Position>,
    /// How many commits of a type are kept.
    pub(crate) kept: usize,
}

impl History {
    pub(crate) fn new(identity: StoreIdentity) -> Self {
        let past = ResourceType::SECRETS.map(|ty| ((ty, Revision(0)), Position::start(identity)));
        Self {
            snapshot: Snapshot::empty(identity),
            rows: BTreeMap::new(),
            sets: BTreeMap::new(),
            past: past.into(),
            kept: usize::MAX,
        }
    }

    /// Where a type stood at a revision.
    pub(crate) fn position(&self, ty: ResourceType, revision: Revision) -> Option<Position> {
        let before = self.past.range((ty, Revision(0))..=(ty, revision));
        before.last().map(|(_, position)| *position)
    }

    /// One commit of names with a content, or without one.
    pub(crate) fn commit(&mut self, changes: Vec<(Key, Option<Put>)>) -> Result<(), String> {
        self.snapshot.revision.0 += 1;
        let revision = self.snapshot.revision;
        let mut per_type: BTreeMap<ResourceType, (Change, Vec<Key>)> = BTreeMap::new();
        for (key, put) in changes {
            let row = put.map(|put| {
                Resource::secret(key.clone(), put.labels.unwrap_or_default(), put.data, Timestamp(0))
            });
            let before = self.rows.get(&key).and_then(|row| serve(row).ok());
            let after = row.as_ref().and_then(|row| serve(row).ok());
            match row {
                Some(row) => drop(self.rows.insert(key, row)),
                None if self.rows.remove(&key).is_none() => return Err(format!("{key} is not there")),
                None => {}
            }
            let Some(served) = after.as_ref().or(before.as_ref()).map(|served| served.key.clone()) else {
                continue;
            };
            let (change, keys) = per_type.entry(served.ty).or_default();
            match after {
                Some(after) => change.upserts.push(Entry::new(&after, revision)),
                None => change.removed.push(served.clone()),
            }
            keys.push(served);
        }
        per_type.into_iter().try_for_each(|(ty, (change, keys))| self.step(ty, change, keys))
    }

    fn step(&mut self, ty: ResourceType, mut change: Change, keys: Vec<Key>) -> Result<(), String> {
        let Some(before) = self.snapshot.types.get(&ty).cloned() else {
            return Err(format!("{ty} never travels"));
        };
        let set = self.sets.entry(ty).or_default();
        for key in &change.removed {
            set.remove(key);
        }
        set.extend(change.upserts.iter().map(|entry| (entry.key.clone(), entry.version)));
        let (count, digest) = (set.len() as u64, Digest::of(&*set));
        let (identity, revision) = (self.snapshot.identity, self.snapshot.revision);
        let position = Position { identity, revision, count, digest };
        change.records.push((revision, Record { count, digest, keys }));
        let mut revisions: Vec<Revision> = before.records.keys().copied().collect();
        revisions.push(revision);
        let surplus = revisions.len().checked_sub(self.kept).filter(|surplus| *surplus > 0);
        let oldest = surplus.and_then(|surplus| revisions.get(surplus)).copied().unwrap_or(before.oldest);
        let next = before.apply(change, position, oldest.max(before.oldest));
        self.snapshot.types.insert(ty, Arc::new(next.map_err(|error| error.to_string())?));
        self.past.insert((ty, revision), position);
        Ok(())
    }
}
