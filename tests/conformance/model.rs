//! A store that recomputes everything from scratch: slow, plain, obviously right.

use std::collections::{BTreeMap, BTreeSet};

use kdsync::core::served::serve;
use kdsync::core::{Digest, Key, Position, Resource, ResourceType, Revision, StoreIdentity, Version};
use kdsync::store::{Batch, Op, Outcome, Precondition, ServedChange, Tombstone};

/// The whole store.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) revision: Revision,
    pub(crate) rows: BTreeMap<Key, (Resource, Revision)>,
    pub(crate) positions: BTreeMap<ResourceType, Position>,
    pub(crate) changes: Vec<ServedChange>,
    pub(crate) tombstones: BTreeMap<Key, Tombstone>,
    pub(crate) touched: Vec<(Revision, Key)>,
}

impl Model {
    pub(crate) fn new(identity: StoreIdentity) -> Self {
        Self {
            revision: Revision(0),
            rows: BTreeMap::new(),
            positions: ResourceType::SECRETS.map(|ty| (ty, Position::start(identity))).into(),
            changes: Vec::new(),
            tombstones: BTreeMap::new(),
            touched: Vec::new(),
        }
    }

    /// What zones may get, from all rows.
    pub(crate) fn served(&self) -> BTreeMap<Key, Version> {
        let mut served: BTreeMap<Key, (Key, Version)> = BTreeMap::new();
        for (stored, (resource, _)) in &self.rows {
            let Ok(new) = serve(resource) else { continue };
            let wins = served.get(&new.key).is_none_or(|(other, _)| {
                let mapped = |key: &Key| *key != new.key;
                (mapped(stored), std::cmp::Reverse(stored)) > (mapped(other), std::cmp::Reverse(other))
            });
            if wins {
                served.insert(new.key, (stored.clone(), new.version));
            }
        }
        served.into_iter().map(|(key, (_, version))| (key, version)).collect()
    }

    /// Applies a batch; `None` if it is refused.
    pub(crate) fn write(&mut self, batch: &Batch) -> Option<(Revision, Vec<Outcome>)> {
        let mut next = self.clone();
        next.revision.0 += 1;
        let mut changed = BTreeSet::new();
        let mut outcomes = Vec::new();
        for op in &batch.ops {
            let (key, outcome) = next.op(op)?;
            if !matches!(outcome, Outcome::Unchanged | Outcome::Missing) {
                changed.insert(key);
            }
            outcomes.push(outcome);
        }
        changed.retain(|key| self.rows.contains_key(key) || next.rows.contains_key(key));
        if changed.is_empty() {
            return Some((self.revision, outcomes));
        }
        next.touched.extend(changed.into_iter().map(|key| (next.revision, key)));
        next.follow(&self.served(), batch);
        *self = next;
        Some((self.revision, outcomes))
    }

    fn op(&mut self, op: &Op) -> Option<(Key, Outcome)> {
        let (key, expect) = match op {
            Op::Put { resource, expect } => (&resource.key, expect),
            Op::Delete { key, expect } => (key, expect),
        };
        let present = self.rows.get(key);
        let holds = match expect {
            Precondition::Any => true,
            Precondition::Absent => present.is_none(),
            Precondition::Present => present.is_some(),
            Precondition::Version(version) => present.is_some_and(|(row, _)| row.version() == *version),
        };
        if !holds {
            return None;
        }
        let outcome = match (op, present) {
            (Op::Delete { .. }, None) => Outcome::Missing,
            (Op::Delete { .. }, Some(_)) => {
                self.rows.remove(key);
                Outcome::Deleted
            }
            (Op::Put { resource, .. }, None) => {
                self.rows.insert(key.clone(), (resource.clone(), self.revision));
                Outcome::Created
            }
            (Op::Put { resource, .. }, Some((row, _))) => {
                if row.labels == resource.labels && row.spec == resource.spec {
                    return Some((key.clone(), Outcome::Unchanged));
                }
                let kept = Resource { created: row.created, ..resource.clone() };
                self.rows.insert(key.clone(), (kept, self.revision));
                Outcome::Updated
            }
        };
        Some((key.clone(), outcome))
    }

    /// Compares the served set with what it was, and recomputes the rest from scratch.
    fn follow(&mut self, before: &BTreeMap<Key, Version>, batch: &Batch) {
        let after = self.served();
        for ty in ResourceType::SECRETS {
            let keys: BTreeSet<_> = before.keys().chain(after.keys()).filter(|key| key.ty == ty).collect();
            let keys: Vec<Key> =
                keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).cloned().collect();
            if keys.is_empty() {
                continue;
            }
            for key in &keys {
                if after.contains_key(key) {
                    self.tombstones.remove(key);
                } else {
                    let (revision, by, at) = (self.revision, batch.by.clone(), batch.at);
                    self.tombstones.insert(key.clone(), Tombstone { key: key.clone(), revision, by, at });
                }
            }
            let of_type = || after.iter().filter(|(key, _)| key.ty == ty);
            let (count, digest) = (of_type().count() as u64, Digest::of(of_type()));
            let position = self.positions.get_mut(&ty).unwrap();
            *position = Position { revision: self.revision, count, digest, ..*position };
            self.changes.push(ServedChange { revision: self.revision, ty, keys, count, digest });
        }
    }
}
