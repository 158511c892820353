//! A simulated kdsync global: its store as a list of commits, and replicas that publish when they get to it.
//!
//! Decides: what the served set was at each revision, kept whole so that the checks can ask. Never does:
//! share code with the real store; the served set is recomputed here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::served::serve;
use crate::core::{
    Digest, Key, Labels, Position, Resource, ResourceType, Revision, SecretData, StoreId, StoreIdentity,
    Timestamp, Version,
};
use crate::kds::snapshot::{Change, Entry, Record, Snapshot, TypeSnapshot};

/// The served versions of one type.
pub(super) type Set = BTreeMap<Key, Version>;

/// One line of history. Cloned when a backup is taken.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) identity: StoreIdentity,
    pub(super) revision: Revision,
    rows: BTreeMap<Key, Resource>,
    pub(super) types: BTreeMap<ResourceType, Arc<TypeSnapshot>>,
    /// What was served of a type after a revision of it.
    past: BTreeMap<(ResourceType, Revision), Set>,
    /// How many served commits are kept.
    kept: usize,
}

pub(super) fn secret(key: &Key, value: u64) -> Resource {
    let data = SecretData::new(format!("{key} {value}").into_bytes());
    Resource::secret(key.clone(), Labels::new(), data, Timestamp(0))
}

impl Branch {
    pub(super) fn new(id: u128, kept: usize) -> Self {
        let identity = StoreIdentity { id: StoreId(uuid::Uuid::from_u128(id)), epoch: 1 };
        let types = Snapshot::empty(identity).types;
        let past = ResourceType::SECRETS.map(|ty| ((ty, Revision(0)), Set::new())).into();
        Self { identity, revision: Revision(0), rows: BTreeMap::new(), types, past, kept }
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.rows.contains_key(key)
    }

    /// One commit.
    pub(super) fn commit(&mut self, changes: Vec<(Key, Option<Resource>)>) {
        self.revision.0 += 1;
        let mut per_type: BTreeMap<ResourceType, (Change, Vec<Key>)> = BTreeMap::new();
        for (key, resource) in changes {
            let before = self.rows.get(&key).and_then(|row| serve(row).ok());
            let after = resource.as_ref().and_then(|row| serve(row).ok());
            match resource {
                Some(resource) => drop(self.rows.insert(key, resource)),
                None => drop(self.rows.remove(&key)),
            }
            let Some(served) = after.as_ref().or(before.as_ref()).map(|served| served.key.clone()) else {
                continue;
            };
            let (change, keys) = per_type.entry(served.ty).or_default();
            match after {
                Some(after) => change.upserts.push(Entry::new(&after, self.revision)),
                None => change.removed.push(served.clone()),
            }
            keys.push(served);
        }
        for (ty, (change, keys)) in per_type {
            self.step(ty, change, keys);
        }
    }

    fn step(&mut self, ty: ResourceType, mut change: Change, keys: Vec<Key>) {
        let before = self.types[&ty].clone();
        let mut set = self.past[&(ty, before.position.revision)].clone();
        for key in &change.removed {
            set.remove(key);
        }
        set.extend(change.upserts.iter().map(|entry| (entry.key.clone(), entry.version)));
        let (count, digest) = (set.len() as u64, Digest::of(&set));
        let position = Position { identity: self.identity, revision: self.revision, count, digest };
        change.records.push((self.revision, Record { count, digest, keys }));
        let mut kept: Vec<Revision> = before.records.keys().copied().collect();
        kept.push(self.revision);
        let oldest = if kept.len() > self.kept { kept[kept.len() - self.kept] } else { before.oldest };
        let next = before.apply(change, position, oldest.max(before.oldest)).unwrap();
        self.types.insert(ty, Arc::new(next));
        self.past.insert((ty, self.revision), set);
    }

    /// 90 days pass: tombstones older than the kept history are dropped.
    pub(super) fn forget_tombstones(&mut self) {
        for set in self.types.values_mut().filter(|set| set.ty.is_secret()) {
            let young: Vec<_> = set
                .tombstones
                .iter()
                .filter(|(_, at)| **at >= set.oldest && set.oldest > Revision(0))
                .map(|(key, at)| (key.clone(), *at))
                .collect();
            let position = set.position;
            let same = set.apply(Change::default(), position, set.oldest).unwrap();
            *set = Arc::new(same.with_tombstones(young));
        }
    }

    pub(super) fn position(&self, ty: ResourceType) -> Position {
        self.types[&ty].position
    }

    /// What is served of a type now.
    pub(super) fn served(&self, ty: ResourceType) -> &Set {
        &self.past[&(ty, self.position(ty).revision)]
    }

    /// True if this history contains exactly this position.
    pub(super) fn contains(&self, ty: ResourceType, position: &Position) -> bool {
        let set = self.past.get(&(ty, position.revision));
        position.identity == self.identity
            && set.is_some_and(|set| set.len() as u64 == position.count && Digest::of(set) == position.digest)
    }
}
