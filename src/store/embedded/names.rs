//! The names in use, for stores in which a name may exist only once across meshes and kinds.
//!
//! Decides: whether a new secret's name is free. Never does: object to names that clash already.

use std::collections::{BTreeSet, HashMap};

use redb::ReadableTable;
use smol_str::SmolStr;

use super::codec;
use super::fault::Fault;
use crate::core::Key;
use crate::store::StoreError;

/// An index of secret names; empty and idle where names need not be unique.
#[derive(Debug)]
pub(super) struct Names(Option<HashMap<SmolStr, BTreeSet<Key>>>);

/// One step of the index, to be undone if the batch is refused.
#[derive(Debug)]
pub(super) enum Claim {
    Taken(Key),
    Released(Key),
}

impl Names {
    /// An index that objects to nothing.
    pub(super) fn free() -> Self {
        Self(None)
    }

    /// An index of all keys that have a head.
    pub(super) fn load(heads: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<Self, Fault> {
        let mut names = Self(Some(HashMap::new()));
        for entry in heads.iter()? {
            names.add(&codec::key_from(entry?.0.value())?);
        }
        Ok(names)
    }

    /// Takes a name for a new resource, or says who has it.
    pub(super) fn claim(&mut self, key: &Key) -> Result<Option<Claim>, StoreError> {
        let Some(names) = self.0.as_ref().filter(|_| key.ty.is_secret()) else { return Ok(None) };
        if let Some(other) = names.get(&key.name).and_then(|keys| keys.iter().find(|other| *other != key)) {
            let reason = format!(
                "the name is in use by {other}, and names are unique across meshes and kinds in this store"
            );
            return Err(StoreError::Invalid { key: key.clone(), reason });
        }
        self.add(key);
        Ok(Some(Claim::Taken(key.clone())))
    }

    /// Frees the name of a resource that goes.
    pub(super) fn release(&mut self, key: &Key) -> Option<Claim> {
        self.0.as_ref().filter(|_| key.ty.is_secret())?;
        self.remove(key);
        Some(Claim::Released(key.clone()))
    }

    /// Takes steps back, last first.
    pub(super) fn undo(&mut self, claims: Vec<Claim>) {
        for claim in claims.into_iter().rev() {
            match claim {
                Claim::Taken(key) => self.remove(&key),
                Claim::Released(key) => self.add(&key),
            }
        }
    }

    fn add(&mut self, key: &Key) {
        if let Some(names) = self.0.as_mut().filter(|_| key.ty.is_secret()) {
            names.entry(key.name.clone()).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(names) = &mut self.0 else { return };
        if let Some(keys) = names.get_mut(&key.name) {
            keys.remove(key);
            if keys.is_empty() {
                names.remove(&key.name);
            }
        }
    }
}
