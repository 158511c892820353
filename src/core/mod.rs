//! What the system knows and decides: resources, versions, histories, the rules of sweeping.
//!
//! Decides: which names and values are well formed, what leaves a global store, whether one history
//! continues another, which rows of a zone are drift or zone-local, whether a removal is plausible.
//! Never does: I/O, reading a clock, drawing random numbers. Time is an argument.

pub mod guard;
pub mod identity;
pub mod insight;
pub mod ledger;
pub mod reconcile;
pub mod resource;
pub mod rivals;
pub mod secret;
pub mod served;
pub mod validate;

pub use identity::{Continuity, Digest, Position, StoreId, StoreIdentity};
pub use resource::{Key, Labels, Resource, ResourceType, Revision, Spec, Timestamp, Version, ZoneSpec};
pub use secret::SecretData;
