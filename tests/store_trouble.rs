//! Bad days of the embedded store: files it must refuse, and media that fail under it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kdsync::core::{Key, Labels, Resource, ResourceType, Revision, SecretData, Timestamp};
use kdsync::store::embedded::{EmbeddedConfig, EmbeddedStore, OpenError, open, open_with_backend};
use kdsync::store::{Batch, Op, Precondition, Query, ResourceStore as _, StoreError};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

fn put(name: &str, size: usize) -> Batch {
    let data = SecretData::new(name.bytes().cycle().take(size).collect());
    let resource = Resource::secret(Key::global_secret(name), Labels::new(), data, Timestamp(1));
    Batch { ops: vec![Op::Put { resource, expect: Precondition::Any }], ..Batch::default() }
}

async fn names(store: &EmbeddedStore) -> Vec<String> {
    let rows = store.list(Query::all(ResourceType::GlobalSecret)).await.unwrap().rows;
    rows.into_iter().map(|row| row.resource.key.name.to_string()).collect()
}

/// A store of some size in a new directory, closed.
async fn made() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/store.redb");
    let store = open(&EmbeddedConfig::file(&path)).unwrap();
    for number in 0..50 {
        store.write(put(&format!("k{number}"), 2_000)).await.unwrap();
    }
    store.close().await;
    (dir, path)
}

fn refused(path: &Path) -> OpenError {
    open(&EmbeddedConfig::file(path)).unwrap_err()
}

#[tokio::test]
async fn only_its_user_may_read_it() {
    let (_dir, path) = made().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    open(&EmbeddedConfig::file(&path)).unwrap().close().await;
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_file_that_is_held_is_refused() {
    let (_dir, path) = made().await;
    let first = open(&EmbeddedConfig::file(&path)).unwrap();
    let error = refused(&path);
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("held by another process"), "{error}");
    assert_eq!(names(&first).await.len(), 50);
    first.close().await;
    let second = open(&EmbeddedConfig::file(&path)).unwrap();
    drop(second);
    open(&EmbeddedConfig::file(&path)).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_alone() {
    let (_dir, path) = made().await;
    let whole = fs::read(&path).unwrap();
    let mut damaged: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"not a store at all".to_vec()),
        ("long garbage", vec![0xA5; 200_000]),
        ("one byte", vec![0]),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("one page", whole[..4096].to_vec()),
        ("one short", whole[..whole.len() - 1].to_vec()),
    ];
    let mut zeroed = whole.clone();
    zeroed[4096..].fill(0);
    damaged.push(("zeroed pages", zeroed));
    for (what, bytes) in damaged {
        fs::write(&path, &bytes).unwrap();
        let error = refused(&path);
        assert!(matches!(error, OpenError::Corrupt { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("Keep a copy"), "{what}: {error}");
        assert!(fs::read(&path).unwrap() == bytes, "{what}: the file was changed");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(names(&open(&EmbeddedConfig::file(&path)).unwrap()).await.len(), 50);
}

#[tokio::test]
async fn a_flipped_bit_never_becomes_a_wrong_answer() {
    let (_dir, path) = made().await;
    let whole = fs::read(&path).unwrap();
    let sound = open(&EmbeddedConfig::file(&path)).unwrap();
    let rows = sound.list(Query::all(ResourceType::GlobalSecret)).await.unwrap().rows;
    drop(sound);
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = 0;
    for _ in 0..150 {
        let mut bytes = whole.clone();
        bytes[random.usize(..whole.len())] ^= 1 << random.u8(..8);
        fs::write(&path, &bytes).unwrap();
        match open(&EmbeddedConfig::file(&path)) {
            Err(_) => found += 1,
            // Not every byte is in use.
            Ok(store) => {
                assert!(store.list(Query::all(ResourceType::GlobalSecret)).await.unwrap().rows == rows);
            }
        }
    }
    assert!(found > 20, "{found}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (_dir, path) = made().await;
    let table: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert("format", 7u32.to_le_bytes().as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = refused(&path);
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("newer kdsync"), "{error}");
}

#[tokio::test]
async fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.redb");
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("theirs");
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(table).unwrap().insert(1, 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&path), OpenError::Corrupt { .. }));
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_started_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    fs::write(dir.path().join("store.redb.new"), vec![0; 70_000]).unwrap();
    let store = open(&EmbeddedConfig::file(&path)).unwrap();
    assert_eq!(store.write(put("k", 10)).await.unwrap().revision, Revision(1));
    assert!(!dir.path().join("store.redb.new").exists());
    drop(store);
    fs::write(&path, b"").unwrap();
    let store = open(&EmbeddedConfig::file(&path)).unwrap();
    assert!(matches!(refused(&path), OpenError::InUse { .. }));
    assert!(names(&store).await.is_empty());
}

#[test]
fn a_directory_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = refused(&dir.path().join("file/data/store.redb"));
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("cannot create the data directory"), "{error}");
    let error = refused(dir.path());
    assert!(error.to_string().contains("cannot open the file for writing"), "{error}");
}

/// What is wrong with a medium at the moment.
#[derive(Debug, Default)]
struct Faults {
    full: AtomicBool,
    unwritable: AtomicBool,
    unreadable: AtomicBool,
}

/// A medium with faults.
#[derive(Debug)]
struct Faulty(InMemoryBackend, Arc<Faults>);

impl Faulty {
    fn writable(&self) -> io::Result<()> {
        let full = self.1.unwritable.load(Ordering::Relaxed);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.1.unreadable.load(Ordering::Relaxed) {
            return Err(io::Error::other("read error"));
        }
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        if self.1.full.load(Ordering::Relaxed) && len > self.0.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        self.0.write(offset, data)
    }
}

fn faulty() -> (Arc<EmbeddedStore>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let medium = Faulty(InMemoryBackend::new(), faults.clone());
    // Next to no cache: reads reach the medium.
    let config = EmbeddedConfig { cache_bytes: 0, unique_names: true, ..EmbeddedConfig::memory() };
    (open_with_backend(&config, medium).unwrap(), faults)
}

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(reason)) if !reason.is_empty())
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_serves_the_rest() {
    let (store, faults) = faulty();
    store.write(put("before", 300_000)).await.unwrap();
    store.write(put("before", 100)).await.unwrap();
    faults.full.store(true, Ordering::Relaxed);
    let mut changes = store.changes();
    changes.mark_unchanged();
    let refused = store.write(put("large", 3_000_000)).await;
    assert!(is_unavailable(&refused), "{refused:?}");
    assert!(!changes.has_changed().unwrap());
    assert_eq!(names(&store).await, ["before"]);
    // What fits into the file as it is goes on.
    assert_eq!(store.write(put("small", 100)).await.unwrap().revision, Revision(3));
    faults.full.store(false, Ordering::Relaxed);
    assert_eq!(store.write(put("large", 3_000_000)).await.unwrap().revision, Revision(4));
    assert_eq!(names(&store).await, ["before", "large", "small"]);
}

#[tokio::test]
async fn a_medium_that_takes_no_writes_is_read_until_it_does() {
    let (store, faults) = faulty();
    for number in 0..20 {
        store.write(put(&format!("k{number}"), 3_000)).await.unwrap();
    }
    let before = store.served(None).await.unwrap().unwrap();
    faults.unwritable.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let group: Vec<_> = (0..4).map(|number| store.write(put(&format!("new{number}"), 10))).collect();
        for write in group {
            assert!(is_unavailable(&write.await));
        }
        assert_eq!(names(&store).await.len(), 20);
        let served = store.served(None).await.unwrap().unwrap();
        assert_eq!((served.positions, served.revision), (before.positions.clone(), before.revision));
    }
    assert_eq!(*store.changes().borrow(), before.revision);
    faults.unwritable.store(false, Ordering::Relaxed);
    let commit = store.write(put("after", 10)).await.unwrap();
    assert_eq!(commit.revision, Revision(before.revision.0 + 1));
    assert_eq!(names(&store).await.len(), 21);
}

#[tokio::test]
async fn a_read_error_passes() {
    let (store, faults) = faulty();
    store.write(put("k", 5_000)).await.unwrap();
    faults.unreadable.store(true, Ordering::Relaxed);
    assert!(is_unavailable(&store.get(&Key::global_secret("k")).await));
    assert!(is_unavailable(&store.write(put("l", 10)).await));
    faults.unreadable.store(false, Ordering::Relaxed);
    // The next write, or the next read, opens the database again.
    assert_eq!(
        store.get(&Key::global_secret("k")).await.unwrap().map(|row| row.head.revision),
        Some(Revision(1))
    );
    assert_eq!(store.write(put("l", 10)).await.unwrap().revision, Revision(2));
    assert_eq!(names(&store).await, ["k", "l"]);
}
