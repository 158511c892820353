//! Where stores under test live, and the vocabulary of the cases.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kdsync::core::{Key, Labels, Resource, SecretData, Timestamp, Version};
use kdsync::store::embedded::{self, EmbeddedConfig};
use kdsync::store::{
    Batch, Commit, KEPT_HISTORY, KEPT_TOMBSTONES, Op, Outcome, Precondition, ResourceStore, StoreError,
};

/// What a store declares.
#[derive(Clone, Copy)]
pub(crate) struct Capabilities {
    /// A batch of several operations is all or nothing, and a reader never sees half of one.
    pub(crate) atomic_batches: bool,
    /// Opening the same place again finds what was there.
    pub(crate) survives_restart: bool,
}

/// Settings that cases vary.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) unique_names: bool,
    pub(crate) kept_history: u64,
    pub(crate) kept_tombstones: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self { unique_names: false, kept_history: KEPT_HISTORY, kept_tombstones: KEPT_TOMBSTONES }
    }
}

/// A place for one store, empty at first.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Opens the store that lives here.
    async fn open(&self, options: Options) -> Arc<dyn ResourceStore>;

    /// Opens it with default settings.
    async fn store(&self) -> Arc<dyn ResourceStore> {
        self.open(Options::default()).await
    }
}

/// The embedded store in a file.
pub(crate) struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/store.redb");
        Self { _dir: dir, path }
    }
}

#[async_trait]
impl Place for File {
    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_batches: true, survives_restart: true }
    }

    async fn open(&self, options: Options) -> Arc<dyn ResourceStore> {
        open_embedded(EmbeddedConfig::file(&self.path), options)
    }
}

/// The embedded store in memory.
pub(crate) struct Memory;

impl Memory {
    pub(crate) fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Place for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_batches: true, survives_restart: false }
    }

    async fn open(&self, options: Options) -> Arc<dyn ResourceStore> {
        open_embedded(EmbeddedConfig::memory(), options)
    }
}

fn open_embedded(config: EmbeddedConfig, options: Options) -> Arc<dyn ResourceStore> {
    let Options { unique_names, kept_history, kept_tombstones } = options;
    embedded::open(&EmbeddedConfig { unique_names, kept_history, kept_tombstones, ..config }).unwrap()
}

/// The time at which cases write unless they say otherwise.
pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub(crate) fn secret(key: &Key, value: &str) -> Resource {
    Resource::secret(key.clone(), Labels::new(), SecretData::new(value.as_bytes().to_vec()), NOW)
}

pub(crate) fn labelled(key: &Key, value: &str, label: (&str, &str)) -> Resource {
    let mut resource = secret(key, value);
    resource.labels.insert(label.0.into(), label.1.into());
    resource
}

pub(crate) fn version(key: &Key, value: &str) -> Version {
    secret(key, value).version()
}

pub(crate) fn put(resource: Resource) -> Op {
    put_if(resource, Precondition::Any)
}

pub(crate) fn put_if(resource: Resource, expect: Precondition) -> Op {
    Op::Put { resource, expect }
}

pub(crate) fn delete(key: &Key) -> Op {
    delete_if(key, Precondition::Any)
}

pub(crate) fn delete_if(key: &Key, expect: Precondition) -> Op {
    Op::Delete { key: key.clone(), expect }
}

pub(crate) fn batch(ops: impl IntoIterator<Item = Op>) -> Batch {
    Batch { ops: ops.into_iter().collect(), by: "test".into(), at: NOW, ..Batch::default() }
}

/// Short forms for what cases do most.
#[async_trait]
pub(crate) trait Short {
    async fn try_do(&self, op: Op) -> Result<Outcome, StoreError>;
    async fn run(&self, ops: Vec<Op>) -> Commit;
    async fn value(&self, key: &Key) -> Option<Vec<u8>>;
}

#[async_trait]
impl Short for Arc<dyn ResourceStore> {
    async fn try_do(&self, op: Op) -> Result<Outcome, StoreError> {
        self.write(batch([op])).await.map(|commit| commit.outcomes[0])
    }

    async fn run(&self, ops: Vec<Op>) -> Commit {
        self.write(batch(ops)).await.unwrap()
    }

    async fn value(&self, key: &Key) -> Option<Vec<u8>> {
        self.get(key).await.unwrap().map(|row| row.resource.data().unwrap().expose().to_vec())
    }
}
