//! The snapshot: what zones may get, immutable and shared, each resource encoded once.
//!
//! Decides: what the served set was, is, and how it got from one revision to the next. Never does: keep
//! a copy per zone. Maps are persistent, so a commit costs what it changes and every session can hold
//! the snapshot it is sending from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rpds::RedBlackTreeMapSync;

use super::plan::Shared;
use super::wire;
use crate::core::served::Served;
use crate::core::{Digest, Key, Position, ResourceType, Revision, StoreIdentity, Version};

/// One served resource. `Debug` shows neither value nor version (SEC-1, SEC-2).
pub struct Entry {
    /// The served key.
    pub key: Key,
    /// The version of its content.
    pub version: Version,
    /// The commit that last changed it.
    pub revision: Revision,
    /// The encoded `Resource`, with its field tag and length: ready to be put into an answer.
    pub encoded: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, revision, .. } = self;
        f.debug_struct("Entry").field("key", key).field("revision", revision).finish_non_exhaustive()
    }
}

impl Entry {
    /// Encodes a served resource.
    #[must_use]
    pub fn new(served: &Served, revision: Revision) -> Self {
        let encoded = wire::encode_resource(&served.key, &served.labels, &served.data, &served.version);
        Self { key: served.key.clone(), version: served.version, revision, encoded }
    }
}

/// What one commit did to the served set of a type.
#[derive(Debug)]
pub struct Record {
    /// How many resources there were after it.
    pub count: u64,
    /// The digest after it.
    pub digest: Digest,
    /// Keys that were added, changed or removed.
    pub keys: Vec<Key>,
}

/// The served set of one type.
#[derive(Debug)]
pub struct TypeSnapshot {
    /// The type.
    pub ty: ResourceType,
    /// Where its history stands.
    pub position: Position,
    /// The history is whole after this revision.
    pub oldest: Revision,
    /// The set.
    pub entries: RedBlackTreeMapSync<Key, Arc<Entry>>,
    /// The history.
    pub records: RedBlackTreeMapSync<Revision, Arc<Record>>,
    /// Names that went, with the commit that removed them.
    pub tombstones: RedBlackTreeMapSync<Key, Revision>,
    /// Encoded size of the set in bytes.
    pub bytes: usize,
    /// Answers that several zones are getting right now.
    pub(super) shared: Mutex<Shared>,
}

/// A change to the served set of one type.
#[derive(Debug, Default)]
pub struct Change {
    /// New or changed resources.
    pub upserts: Vec<Entry>,
    /// Keys that are gone.
    pub removed: Vec<Key>,
    /// Commits since the last change, oldest first.
    pub records: Vec<(Revision, Record)>,
}

/// The digest that the store recorded is not the digest of what was read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the served set of {ty} at revision {revision} is not the one that was committed")]
pub struct DigestMismatch {
    /// The type.
    pub ty: ResourceType,
    /// The revision.
    pub revision: Revision,
}

impl TypeSnapshot {
    /// An empty set at the start of its history.
    #[must_use]
    pub fn empty(ty: ResourceType, identity: StoreIdentity) -> Self {
        Self {
            ty,
            position: Position::start(identity),
            oldest: Revision(0),
            entries: RedBlackTreeMapSync::new_sync(),
            records: RedBlackTreeMapSync::new_sync(),
            tombstones: RedBlackTreeMapSync::new_sync(),
            bytes: 0,
            shared: Mutex::default(),
        }
    }

    /// The set after `change`, which must lead to `position`.
    ///
    /// # Errors
    /// If count or digest of the result are not those that the store recorded: nothing of it may be
    /// served.
    pub fn apply(
        &self,
        change: Change,
        position: Position,
        oldest: Revision,
    ) -> Result<Self, DigestMismatch> {
        let mut next = Self {
            ty: self.ty,
            position,
            oldest,
            entries: self.entries.clone(),
            records: self.records.clone(),
            tombstones: self.tombstones.clone(),
            bytes: self.bytes,
            shared: Mutex::default(),
        };
        let mut digest = self.position.digest;
        for key in change.removed {
            if let Some(old) = next.entries.get(&key) {
                digest.remove(&key, &old.version);
                next.bytes -= old.encoded.len();
                next.entries.remove_mut(&key);
            }
            next.tombstones.insert_mut(key, position.revision);
        }
        for entry in change.upserts {
            if let Some(old) = next.entries.get(&entry.key) {
                digest.remove(&entry.key, &old.version);
                next.bytes -= old.encoded.len();
            }
            digest.add(&entry.key, &entry.version);
            next.bytes += entry.encoded.len();
            next.tombstones.remove_mut(&entry.key);
            next.entries.insert_mut(entry.key.clone(), Arc::new(entry));
        }
        for (revision, record) in change.records {
            next.records.insert_mut(revision, Arc::new(record));
        }
        while next.records.first().is_some_and(|(revision, _)| *revision < oldest) {
            next.records.remove_mut(&next.records.first().map(|(r, _)| *r).unwrap_or_default());
        }
        let honest = next.entries.size() as u64 == position.count && digest == position.digest;
        honest.then_some(next).ok_or(DigestMismatch { ty: self.ty, revision: position.revision })
    }

    /// Replaces the tombstones: for a first load, where each has its own revision.
    #[must_use]
    pub fn with_tombstones(mut self, tombstones: impl IntoIterator<Item = (Key, Revision)>) -> Self {
        self.tombstones = tombstones.into_iter().collect();
        self
    }

    /// What the history keeps for exactly `revision`.
    #[must_use]
    pub fn recorded(&self, revision: Revision) -> Option<(u64, Digest)> {
        if revision == Revision(0) && self.oldest == Revision(0) {
            return Some((0, Digest::default()));
        }
        self.records.get(&revision).map(|record| (record.count, record.digest))
    }

    /// Keys that changed after `revision`, or `None` if the history does not reach back that far.
    #[must_use]
    pub fn changed_since(&self, revision: Revision) -> Option<BTreeSet<Key>> {
        if revision < self.oldest {
            return None;
        }
        let after = (std::ops::Bound::Excluded(revision), std::ops::Bound::Unbounded);
        Some(self.records.range(after).flat_map(|(_, record)| record.keys.iter().cloned()).collect())
    }
}

/// Everything that zones may get, at one commit.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whose history.
    pub identity: StoreIdentity,
    /// The commit.
    pub revision: Revision,
    /// Per type.
    pub types: BTreeMap<ResourceType, Arc<TypeSnapshot>>,
}

impl Snapshot {
    /// A snapshot of nothing but the identity, which travels as `kuma-cluster-id`.
    #[must_use]
    pub fn empty(identity: StoreIdentity) -> Self {
        let mut types: BTreeMap<_, _> = ResourceType::SECRETS
            .into_iter()
            .map(|ty| (ty, Arc::new(TypeSnapshot::empty(ty, identity))))
            .collect();
        types.insert(ResourceType::Config, Arc::new(cluster_id(identity)));
        Self { identity, revision: Revision(0), types }
    }

    /// The served set of a type; `None` for types that never travel.
    #[must_use]
    pub fn get(&self, ty: ResourceType) -> Option<&Arc<TypeSnapshot>> {
        self.types.get(&ty)
    }
}

/// The one `Config` that exists: `kuma-cluster-id`, the store's own id.
fn cluster_id(identity: StoreIdentity) -> TypeSnapshot {
    let mut set = TypeSnapshot::empty(ResourceType::Config, identity);
    let (key, version, encoded) = wire::encode_cluster_id(&identity.id.to_string());
    set.bytes = encoded.len();
    set.position =
        Position { identity, revision: Revision(1), count: 1, digest: Digest::of([(&key, &version)]) };
    let entry = Entry { key: key.clone(), version, revision: Revision(1), encoded };
    let (count, digest) = (set.position.count, set.position.digest);
    set.records.insert_mut(Revision(1), Arc::new(Record { count, digest, keys: vec![key.clone()] }));
    set.entries.insert_mut(key, Arc::new(entry));
    set
}
