//! The ledger: what a zone holds from global. In the ledger = from global; labels decide nothing.
//!
//! Decides: what a zone may state to a global and what a sweep may touch. Never does: guess. An entry
//! is durable in the same commit as the value it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use smol_str::SmolStr;

use super::identity::{Digest, Position, StoreIdentity};
use super::resource::{Key, ResourceType, Revision, Version};

/// Whose secrets a zone holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A kdsync global: store and epoch.
    Kdsync(StoreIdentity),
    /// A stock Kuma global, known by its `kuma-cluster-id`.
    Stock(SmolStr),
}

/// One name that came from global. `Debug` shows no version (SEC-2).
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The version as global sent it: what a stock global is told on a reconnect.
    pub received: SmolStr,
    /// The version of the content, recomputed by this zone: what a row must still have.
    pub content: Version,
    /// The revision at which global last changed it; 0 from a stock global.
    pub revision: Revision,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// Everything a zone holds from global, in memory: versions, never values.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The history it follows; `None` before the first contact ever.
    pub source: Option<Source>,
    /// Per type, the position reached in a kdsync global's history.
    pub positions: BTreeMap<ResourceType, Position>,
    /// Names that global no longer lists and that are kept for lack of proof, with the reason.
    pub kept: BTreeMap<Key, String>,
    /// Names that global serves and this zone refused, with the reason: a position counts on them.
    pub rejected: BTreeMap<Key, String>,
    /// Types of which a first answer of a stock global was once applied.
    pub completed: BTreeSet<ResourceType>,
    entries: BTreeMap<Key, Entry>,
    sums: BTreeMap<ResourceType, (usize, Digest)>,
    newest: BTreeMap<ResourceType, Revision>,
}

impl Ledger {
    /// What was received under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// The entries of one type.
    pub fn of_type(&self, ty: ResourceType) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(move |(key, _)| key.ty == ty)
    }

    /// Enters a name, or replaces its entry.
    pub fn insert(&mut self, key: Key, entry: Entry) {
        self.remove(&key);
        let (count, digest) = self.sums.entry(key.ty).or_default();
        *count += 1;
        digest.add(&key, &entry.content);
        let newest = self.newest.entry(key.ty).or_default();
        *newest = entry.revision.max(*newest);
        self.entries.insert(key, entry);
    }

    /// Strikes a name out.
    pub fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        let (count, digest) = self.sums.entry(key.ty).or_default();
        *count -= 1;
        digest.remove(key, &entry.content);
        self.kept.remove(key);
        Some(entry)
    }

    /// True if every type was in sync once: what is held is usable without a global.
    #[must_use]
    pub fn was_complete(&self) -> bool {
        ResourceType::SECRETS.iter().all(|ty| self.positions.contains_key(ty) || self.completed.contains(ty))
    }

    /// The newest revision of what was entered of a type: beyond the position if pages of an answer were
    /// entered and its last was not. 0 if nothing was, or all is a stock global's.
    #[must_use]
    pub fn newest(&self, ty: ResourceType) -> Revision {
        self.newest.get(&ty).copied().unwrap_or_default()
    }

    /// A whole answer, all of its pages, is entered.
    pub fn reach(&mut self, ty: ResourceType, position: Position) {
        self.positions.insert(ty, position);
        self.newest.insert(ty, position.revision);
    }

    /// How many names of a type are held from global.
    #[must_use]
    pub fn count(&self, ty: ResourceType) -> usize {
        self.sums.get(&ty).map_or(0, |(count, _)| *count)
    }

    /// The digest of what is held of a type.
    #[must_use]
    pub fn digest(&self, ty: ResourceType) -> Digest {
        self.sums.get(&ty).map(|(_, digest)| *digest).unwrap_or_default()
    }
}
