//! Persistence behind one trait.
//!
//! Decides: what every store promises. A write is one atomic, numbered commit, acknowledged only when
//! it is durable; what it changed in the *served set* (what zones may get) is recorded in the same
//! transaction: revision, count and digest per type, the names that changed, and a tombstone for each
//! name that went. Never does: validate what users type, or decide what a zone does.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::core::{
    Digest, Key, Position, Resource, ResourceType, Revision, SecretData, StoreIdentity, Timestamp, Version,
};

pub mod embedded;

/// How many commits that changed the served set a store remembers, so that zones can resume.
pub const KEPT_HISTORY: u64 = 100_000;
/// How long a tombstone is kept, in milliseconds: 90 days.
pub const KEPT_TOMBSTONES: i64 = 90 * 24 * 3600 * 1000;

/// Why an operation on an open store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A precondition did not hold: somebody else wrote first, or the name exists.
    #[error("conflict: {key} {reason}")]
    Conflict {
        /// The resource.
        key: Key,
        /// What was found instead.
        reason: String,
    },
    /// The resource does not exist.
    #[error("not found: {key}")]
    NotFound {
        /// The resource.
        key: Key,
    },
    /// The store refuses this resource; others would pass.
    #[error("{key} is not valid: {reason}")]
    Invalid {
        /// The resource.
        key: Key,
        /// Why.
        reason: String,
    },
    /// The store cannot work now: disk full, I/O error, shutting down. Nothing was acknowledged. Where
    /// the very last step of a commit failed, the write may turn out to be there: read before retrying
    /// what must not happen twice.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// What a write expects of the row it touches. What does not hold is a [`StoreError::Conflict`], but for
/// [`Precondition::Present`], which is [`StoreError::NotFound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Whatever is there.
    Any,
    /// No row.
    Absent,
    /// Some row.
    Present,
    /// A row of exactly this version.
    Version(Version),
}

/// One change of a batch.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates or replaces. `created` of an existing row is kept.
    Put {
        /// The new content.
        resource: Resource,
        /// What must be there.
        expect: Precondition,
    },
    /// Deletes. With [`Precondition::Any`] a missing row is no error.
    Delete {
        /// The row.
        key: Key,
        /// What must be there.
        expect: Precondition,
    },
}

/// One atomic write: all of it, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Changes to resources, in order.
    pub ops: Vec<Op>,
    /// Named records to set, or to remove with `None`.
    pub records: Vec<(String, Option<SecretData>)>,
    /// Who writes: kept with tombstones.
    pub by: String,
    /// When, by the writer's clock: kept with tombstones.
    pub at: Timestamp,
    /// Only judge it: the outcomes and refusals are those of a write, and nothing is written.
    pub rehearsal: bool,
}

/// What one operation of a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no row.
    Created,
    /// There was a row with other content.
    Updated,
    /// The row had this content already; nothing was written.
    Unchanged,
    /// The row is gone.
    Deleted,
    /// There was no row to delete.
    Missing,
}

/// A durable commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its number. A batch that changed nothing gets the number of the commit before it.
    pub revision: Revision,
    /// One per operation, in order.
    pub outcomes: Vec<Outcome>,
}

/// The part of a row that is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Version of the content.
    pub version: Version,
    /// The commit that last changed the row.
    pub revision: Revision,
}

/// A stored resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The resource.
    pub resource: Resource,
    /// Its version and revision.
    pub head: Head,
}

/// What to list. Rows come ordered by mesh, then name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The type.
    pub ty: ResourceType,
    /// Only this mesh.
    pub mesh: Option<String>,
    /// Only names that contain this.
    pub name_contains: Option<String>,
    /// Only rows that carry all of these labels with exactly these values.
    pub labels: Vec<(String, String)>,
    /// Skip this many matches.
    pub offset: usize,
    /// Return at most this many.
    pub limit: usize,
}

impl Query {
    /// Everything of one type.
    #[must_use]
    pub fn all(ty: ResourceType) -> Self {
        Self { ty, mesh: None, name_contains: None, labels: Vec::new(), offset: 0, limit: usize::MAX }
    }
}

/// The answer to a [`Query`]: one consistent view.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The page.
    pub rows: Vec<Row>,
    /// How many rows match, before paging.
    pub total: usize,
    /// The commit the view is of.
    pub revision: Revision,
}

/// A name that left the served set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The served key.
    pub key: Key,
    /// The commit that removed it.
    pub revision: Revision,
    /// Who removed it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What one commit changed in the served set of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedChange {
    /// The commit.
    pub revision: Revision,
    /// The type.
    pub ty: ResourceType,
    /// Served keys that were added, changed or removed.
    pub keys: Vec<Key>,
    /// How many resources were served after it.
    pub count: u64,
    /// The digest of the set after it.
    pub digest: Digest,
}

/// The served set and its history, as one consistent view.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The newest commit of the view.
    pub revision: Revision,
    /// Per secret type, the present position.
    pub positions: BTreeMap<ResourceType, Position>,
    /// Stored rows (not yet mapped): all secrets in a full view, those touched in a delta.
    pub rows: Vec<Row>,
    /// Stored keys touched since the requested commit that no longer have a row (delta only). Take them
    /// away before adding `rows`: a row that such a key had hidden under its served name is among them.
    pub gone: Vec<Key>,
    /// Served changes, oldest first: all that are kept in a full view, those after the requested commit
    /// in a delta.
    pub changes: Vec<ServedChange>,
    /// All tombstones in a full view; those set since in a delta.
    pub tombstones: Vec<Tombstone>,
    /// The history of served changes is whole after this commit, which is itself the first that is kept
    /// (0 while nothing was forgotten): a zone that stood there or later can resume.
    pub oldest: Revision,
}

/// Which rows changed after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Exactly these keys, in one view.
    Keys {
        /// The commit of the view.
        revision: Revision,
        /// Keys of every type, without duplicates.
        keys: Vec<Key>,
    },
    /// The history does not reach back that far: look at everything.
    TooOld,
}

/// A store. Every method gives a consistent view of one commit; none blocks a runtime thread.
#[async_trait]
pub trait ResourceStore: std::fmt::Debug + Send + Sync + 'static {
    /// Whose history this is.
    fn identity(&self) -> StoreIdentity;

    /// The newest durable commit: a hint that something changed, never data. Newest wins. A new receiver
    /// may report a change at once. Published before the write is acknowledged.
    fn changes(&self) -> watch::Receiver<Revision>;

    /// One row.
    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError>;

    /// Rows that match.
    async fn list(&self, query: Query) -> Result<Listing, StoreError>;

    /// The heads of all rows of a type, without values.
    async fn heads(&self, ty: ResourceType) -> Result<Vec<(Key, Head)>, StoreError>;

    /// The heads of these keys.
    async fn heads_of(&self, keys: Vec<Key>) -> Result<Vec<(Key, Option<Head>)>, StoreError>;

    /// Keys whose rows changed after commit `after`.
    async fn changed_since(&self, after: Revision) -> Result<Changed, StoreError>;

    /// The served set: all of it with `after: None`, else what changed after that commit. A delta whose
    /// `after` lies before the kept history is answered with `None`.
    async fn served(&self, after: Option<Revision>) -> Result<Option<Served>, StoreError>;

    /// Commits a batch, durably, or refuses it whole.
    async fn write(&self, batch: Batch) -> Result<Commit, StoreError>;

    /// A named record.
    async fn record(&self, name: &str) -> Result<Option<SecretData>, StoreError>;

    /// The records whose names start with `prefix`, in order of name.
    async fn records(&self, prefix: &str) -> Result<Vec<(String, SecretData)>, StoreError>;

    /// Finishes the commit in hand and closes; later calls answer [`StoreError::Unavailable`].
    async fn close(&self);
}
