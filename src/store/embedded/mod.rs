//! The embedded store: redb in one file, or in memory.
//!
//! Decides: that one thread writes and that reads run beside it on views of the last commit. Never
//! does: block a runtime thread, or acknowledge what is not durable.
//!
//! Values lie in the file as they are, and redb's page cache is not overwritten with zeros when it is
//! freed; the buffers of this module are.

mod apply;
mod backend;
mod codec;
mod fault;
mod handle;
mod names;
mod open;
mod reads;
mod serving;
mod tables;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tokio::sync::{oneshot, watch};

pub use fault::OpenError;

use backend::Medium;
use fault::Fault;
use handle::Handle;
use names::Names;
use reads::View;
use serving::Kept;
use writer::{Message, Writer};

use super::{
    Batch, Changed, Commit, Head, KEPT_HISTORY, KEPT_TOMBSTONES, Listing, Query, ResourceStore, Row, Served,
    StoreError,
};
use crate::core::{Key, ResourceType, Revision, SecretData, StoreIdentity};

/// Where a store keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this file. Its directory is created if it is missing.
    File(PathBuf),
    /// In memory: gone with the process.
    Memory,
}

/// How to open an embedded store.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Where.
    pub location: Location,
    /// Refuse new secrets whose name exists in another mesh or kind.
    pub unique_names: bool,
    /// Bytes that the page cache may take.
    pub cache_bytes: usize,
    /// How many commits that changed the served set are kept; at least 1.
    pub kept_history: u64,
    /// How long a tombstone is kept, in milliseconds.
    pub kept_tombstones: i64,
}

impl EmbeddedConfig {
    /// Default size of the page cache: 16 MiB.
    pub const CACHE_BYTES: usize = 16 * 1024 * 1024;

    fn at(location: Location) -> Self {
        Self {
            location,
            unique_names: false,
            cache_bytes: Self::CACHE_BYTES,
            kept_history: KEPT_HISTORY,
            kept_tombstones: KEPT_TOMBSTONES,
        }
    }

    /// A store in a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::at(Location::File(path.into()))
    }

    /// A store in memory.
    #[must_use]
    pub fn memory() -> Self {
        // The medium is memory already: a large cache would hold everything twice.
        Self { cache_bytes: 2 * 1024 * 1024, ..Self::at(Location::Memory) }
    }
}

/// Opens a store, and creates it where there is none: blocks on the disk.
///
/// # Errors
/// Why not, in words for an operator.
pub fn open(config: &EmbeddedConfig) -> Result<Arc<EmbeddedStore>, OpenError> {
    match &config.location {
        Location::File(path) => EmbeddedStore::start(config, &open::file(path, config.cache_bytes)?, path),
        Location::Memory => open_with_backend(config, InMemoryBackend::new()),
    }
}

/// Opens a store on any medium: for tests that cut the power. The location in `config` is ignored.
///
/// # Errors
/// As [`open`].
pub fn open_with_backend(
    config: &EmbeddedConfig,
    backend: impl StorageBackend,
) -> Result<Arc<EmbeddedStore>, OpenError> {
    let medium: Medium = Arc::new(backend);
    EmbeddedStore::start(config, &medium, Path::new("memory"))
}

/// A store in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    identity: StoreIdentity,
    changes: watch::Receiver<Revision>,
    handle: Arc<Handle>,
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    fn start(config: &EmbeddedConfig, medium: &Medium, path: &Path) -> Result<Arc<Self>, OpenError> {
        let (handle, identity, state) = open::database(medium, path, config.cache_bytes)?;
        let handle = Arc::new(handle);
        let names = if config.unique_names { load_names(&handle) } else { Ok(Names::free()) };
        let names =
            names.map_err(|fault| OpenError::Corrupt { path: path.to_owned(), reason: fault.to_string() })?;
        let (queue, received) = mpsc::channel();
        let (published, changes) = watch::channel(state.revision);
        let writer = Writer {
            handle: handle.clone(),
            queue: received,
            published,
            identity,
            state,
            names,
            unique_names: config.unique_names,
            kept: Kept { history: config.kept_history, tombstones: config.kept_tombstones },
            tombstone_cursor: Vec::new(),
            failed: false,
        };
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run()).map_err(
                |source| OpenError::Io { path: path.to_owned(), doing: "start the writer thread", source },
            )?;
        Ok(Arc::new(Self { identity, changes, handle, queue, thread: Mutex::new(Some(thread)) }))
    }

    /// Runs `look` on a view of the last commit, beside the runtime.
    async fn view<T: Send + 'static>(
        &self,
        look: impl Fn(&View) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (handle, queue, identity) = (self.handle.clone(), self.queue.clone(), self.identity);
        let attempt = move || {
            let once = || {
                let (generation, txn) = handle.begin_read();
                (generation, txn.and_then(|txn| look(&View { txn, identity })))
            };
            let (generation, seen) = once();
            if !seen.as_ref().is_err_and(Fault::needs_reopen) {
                return seen;
            }
            // An I/O error, here or in a write, ends a database: wait for the next one.
            let (done, reopened) = mpsc::channel();
            let _ = queue.send(Message::Recover(generation, done));
            let _ = reopened.recv();
            once().1
        };
        let seen = tokio::task::spawn_blocking(attempt).await;
        Ok(seen.map_err(|_| StoreError::Unavailable("a read ended unexpectedly".to_owned()))??)
    }
}

fn load_names(handle: &Handle) -> Result<Names, Fault> {
    Names::load(&handle.begin_read().1?.open_table(tables::HEADS)?)
}

impl Drop for EmbeddedStore {
    /// Waits for the commit in hand, so that the file is free afterwards.
    fn drop(&mut self) {
        let _ = self.queue.send(Message::Close(None));
        if let Some(thread) = self.thread.get_mut().take() {
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl ResourceStore for EmbeddedStore {
    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.changes.clone()
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let key = key.clone();
        self.view(move |view| view.get(&key)).await
    }

    async fn list(&self, query: Query) -> Result<Listing, StoreError> {
        self.view(move |view| view.list(&query)).await
    }

    async fn heads(&self, ty: ResourceType) -> Result<Vec<(Key, Head)>, StoreError> {
        self.view(move |view| view.heads(ty)).await
    }

    async fn heads_of(&self, keys: Vec<Key>) -> Result<Vec<(Key, Option<Head>)>, StoreError> {
        self.view(move |view| view.heads_of(&keys)).await
    }

    async fn changed_since(&self, after: Revision) -> Result<Changed, StoreError> {
        self.view(move |view| view.changed_since(after)).await
    }

    async fn served(&self, after: Option<Revision>) -> Result<Option<Served>, StoreError> {
        self.view(move |view| view.served(after)).await
    }

    async fn write(&self, batch: Batch) -> Result<Commit, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Write(batch, reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn record(&self, name: &str) -> Result<Option<SecretData>, StoreError> {
        let name = name.to_owned();
        self.view(move |view| view.record(&name)).await
    }

    async fn records(&self, prefix: &str) -> Result<Vec<(String, SecretData)>, StoreError> {
        let prefix = prefix.to_owned();
        self.view(move |view| view.records(&prefix)).await
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(Some(done))).is_ok() {
            let _ = closed.await;
        }
    }
}
