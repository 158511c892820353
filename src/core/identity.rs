//! Who a history belongs to, where in it somebody stands, and whether one goes on from another (KDS-10).
//!
//! Decides: the digest of a set and the continuity of two positions. Never does: deletion; a history
//! that does not continue is refused, and refusing removes nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::resource::{Key, Revision, Version};

/// The identity of a store, drawn once when it is created. Towards stock Kuma it is the
/// `kuma-cluster-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(pub Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StoreId {
    type Err = uuid::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// A store and the epoch of its history. The epoch grows when an operator starts a new history on
/// purpose (a restore); revisions of different epochs never compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The store.
    pub id: StoreId,
    /// Its history, counted from 1.
    pub epoch: u64,
}

impl fmt::Display for StoreIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.epoch)
    }
}

/// Incremental multiset hash over (key, version): the sum, modulo 2^256, of a SHA-256 per element.
/// Adding and removing cost one hash whatever the size of the set, and order does not matter.
///
/// It tells honest histories apart (a restored backup, a swapped store, a lost commit). It is not a
/// proof against somebody who may write secrets at global: they need no collision to change a zone.
/// Never shown (SEC-2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds one element.
    pub fn add(&mut self, key: &Key, version: &Version) {
        let mut carry = false;
        for (limb, more) in self.0.iter_mut().zip(element(key, version)) {
            let (sum, over) = limb.overflowing_add(more);
            let (sum, over2) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over2;
        }
    }

    /// Removes one element that was added before.
    pub fn remove(&mut self, key: &Key, version: &Version) {
        let mut borrow = false;
        for (limb, less) in self.0.iter_mut().zip(element(key, version)) {
            let (difference, under) = limb.overflowing_sub(less);
            let (difference, under2) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = under || under2;
        }
    }

    /// The digest of a whole set.
    pub fn of<'a>(set: impl IntoIterator<Item = (&'a Key, &'a Version)>) -> Self {
        let mut digest = Self::default();
        for (key, version) in set {
            digest.add(key, version);
        }
        digest
    }

    /// 32 bytes, least significant first: for a store or the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Digest::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
            *limb = chunk.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
        }
        Self(limbs)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// One element as four little-endian limbs.
fn element(key: &Key, version: &Version) -> [u64; 4] {
    let mut hash = Sha256::new();
    for part in [key.ty.as_str().as_bytes(), key.mesh.as_bytes(), key.name.as_bytes(), &version.0] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Digest::from_bytes(hash.finalize().into()).0
}

/// A point in the history of one type: what the served set was after a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whose history.
    pub identity: StoreIdentity,
    /// The revision of the last change to the served set of the type.
    pub revision: Revision,
    /// How many resources the set has.
    pub count: u64,
    /// The digest of the set.
    pub digest: Digest,
}

impl Position {
    /// The start of a history: nothing served yet.
    #[must_use]
    pub fn start(identity: StoreIdentity) -> Self {
        Self { identity, revision: Revision(0), count: 0, digest: Digest::default() }
    }
}

/// How a stated position relates to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// The stated position is the present one.
    Equal,
    /// The history contains exactly the stated position; what changed since is known.
    Continues,
    /// Same identity and an old revision that the kept history no longer covers.
    Pruned,
    /// Same identity, and the stated revision lies ahead: a replica or store that is behind.
    Behind,
    /// Another history, whatever its numbers.
    Foreign,
}

/// Judges `stated` against the present position and `recorded`, the digest and count that the history
/// keeps for exactly the stated revision (`None` if it keeps none). `oldest` is the first revision
/// from which the history is kept whole.
#[must_use]
pub fn judge(
    stated: &Position,
    present: &Position,
    recorded: Option<(u64, Digest)>,
    oldest: Revision,
) -> Continuity {
    if stated.identity != present.identity {
        return Continuity::Foreign;
    }
    if stated.revision > present.revision {
        return Continuity::Behind;
    }
    if stated.revision == present.revision {
        return if stated == present { Continuity::Equal } else { Continuity::Foreign };
    }
    match recorded {
        Some(record) if record == (stated.count, stated.digest) => Continuity::Continues,
        None if stated.revision < oldest => Continuity::Pruned,
        _ => Continuity::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> StoreIdentity {
        StoreIdentity { id: StoreId(Uuid::from_u128(n)), epoch: 1 }
    }

    fn at(revision: u64, seed: u8) -> Position {
        let digest = Digest::of([(&Key::global_secret("a"), &Version([seed; 32]))]);
        Position { identity: id(1), revision: Revision(revision), count: 1, digest }
    }

    #[test]
    fn digest_is_a_group_operation() {
        let (a, b) = (Key::secret("m", "a"), Key::secret("m", "b"));
        let (v, w) = (Version([1; 32]), Version([255; 32]));
        let mut one = Digest::of([(&a, &v), (&b, &w)]);
        let two = Digest::of([(&b, &w), (&a, &v)]);
        assert_eq!(one, two);
        assert_eq!(Digest::from_bytes(one.to_bytes()), one);
        one.remove(&b, &w);
        assert_eq!(one, Digest::of([(&a, &v)]));
        one.remove(&a, &v);
        assert_eq!(one, Digest::default());
    }

    #[test]
    fn histories_are_told_apart() {
        let now = at(9, 9);
        let record = |p: Position| Some((p.count, p.digest));
        assert_eq!(judge(&now, &now, None, Revision(0)), Continuity::Equal);
        assert_eq!(judge(&at(9, 8), &now, None, Revision(0)), Continuity::Foreign);
        assert_eq!(judge(&at(5, 5), &now, record(at(5, 5)), Revision(0)), Continuity::Continues);
        assert_eq!(judge(&at(5, 5), &now, record(at(5, 6)), Revision(0)), Continuity::Foreign);
        assert_eq!(judge(&at(5, 5), &now, None, Revision(0)), Continuity::Foreign);
        assert_eq!(judge(&at(5, 5), &now, None, Revision(6)), Continuity::Pruned);
        assert_eq!(judge(&at(10, 9), &now, None, Revision(0)), Continuity::Behind);
        let other = Position { identity: id(2), ..now };
        assert_eq!(judge(&other, &now, None, Revision(0)), Continuity::Foreign);
    }
}
