//! Opening a store: the directory, the file and its lock, the format, the identity.
//!
//! Decides: whether a file is a store of ours that this program may use, and with which words it is
//! refused. Never does: change a file that it refuses, or open one that somebody else holds.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::backend::{LockedFile, Medium};
use super::fault::{Damaged, Fault, OpenError};
use super::handle::Handle;
use super::tables::{self, FORMAT, META, META_FORMAT, META_IDENTITY, State, Tables};
use crate::core::{StoreId, StoreIdentity};

/// Opens or creates the file of a store and locks it for this process.
pub(super) fn file(path: &Path, cache_bytes: usize) -> Result<Medium, OpenError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(failed(parent, "create the data directory"))?;
    if is_missing(path)? {
        return new_file(path, parent, cache_bytes);
    }
    let file = locked(path)?;
    let mode = file.metadata().map_err(failed(path, "look at the file"))?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(failed(path, "take access from others"))?;
    }
    Ok(Arc::new(LockedFile(file)))
}

/// Makes a whole store under another name first: a power cut meanwhile leaves no half of one.
fn new_file(path: &Path, parent: &Path, cache_bytes: usize) -> Result<Medium, OpenError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let file = locked(&draft)?;
    if !is_missing(path)? {
        // Another process was faster, and holds it.
        return Err(OpenError::InUse { path: path.to_owned() });
    }
    file.set_len(0).map_err(failed(&draft, "empty the file"))?;
    let medium: Medium = Arc::new(LockedFile(file.clone()));
    drop(database(&medium, &draft, cache_bytes)?);
    file.sync_all().map_err(failed(&draft, "sync the file"))?;
    fs::rename(&draft, path).map_err(failed(path, "give the new file its name"))?;
    // Or the name could be lost with the power although the content is safe.
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed(parent, "sync the data directory"))?;
    Ok(medium)
}

/// True if there is no file, or one with nothing in it.
fn is_missing(path: &Path) -> Result<bool, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file() && metadata.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(failed(path, "look at the file")(source)),
    }
}

/// Opens a file and locks it until it is closed.
fn locked(path: &Path) -> Result<Arc<File>, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed(path, "open the file for writing"))?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(path, "lock the file")(source)),
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { path, doing, source }
}

/// Opens the database on a medium; in an empty one, creates a store. `path` is for messages.
pub(super) fn database(
    medium: &Medium,
    path: &Path,
    cache_bytes: usize,
) -> Result<(Handle, StoreIdentity, State), OpenError> {
    let opened = Handle::open(medium.clone(), cache_bytes).map_err(|fault| refusal(path, fault))?;
    let described = describe(&opened, path);
    if described.is_err() {
        opened.close();
    }
    described.map(|(identity, state)| (opened, identity, state))
}

fn describe(handle: &Handle, path: &Path) -> Result<(StoreIdentity, State), OpenError> {
    let found = format(handle).map_err(|fault| refusal(path, fault))?;
    match found {
        None => create(handle).map_err(|fault| refusal(path, fault)),
        Some(found) if found > FORMAT => {
            Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT })
        }
        Some(_) => read(handle).map_err(|fault| refusal(path, fault)),
    }
}

/// The format of the store, `None` if there is nothing in the database yet.
fn format(handle: &Handle) -> Result<Option<u32>, Fault> {
    let txn = handle.begin_read().1?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) if txn.list_tables()?.next().is_none() => {
            return Ok(None);
        }
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Err(Damaged("the tables of another program and").into()),
    };
    let bytes = meta.get(META_FORMAT)?.ok_or(Damaged("no format"))?;
    let number = bytes.value().try_into().map_err(|_| Damaged("a format"))?;
    Ok(Some(u32::from_le_bytes(number)))
}

/// Writes a new store: its identity is drawn here, once.
fn create(handle: &Handle) -> Result<(StoreIdentity, State), Fault> {
    let identity = StoreIdentity { id: StoreId(Uuid::new_v4()), epoch: 1 };
    let state = State::new(identity);
    let mut txn = handle.begin_write()?;
    txn.set_two_phase_commit(true);
    {
        let mut tables = Tables::open(&txn)?;
        let mut bytes = identity.id.0.as_bytes().to_vec();
        bytes.extend_from_slice(&identity.epoch.to_le_bytes());
        tables.meta.insert(META_FORMAT, FORMAT.to_le_bytes().as_slice())?;
        tables.meta.insert(META_IDENTITY, bytes.as_slice())?;
        state.save(&mut tables.meta)?;
    }
    txn.commit()?;
    Ok((identity, state))
}

fn read(handle: &Handle) -> Result<(StoreIdentity, State), Fault> {
    let txn = handle.begin_read().1?;
    let meta = txn.open_table(META)?;
    let identity = {
        let bytes = meta.get(META_IDENTITY)?.ok_or(Damaged("no identity"))?;
        let (id, epoch) = bytes.value().split_first_chunk::<16>().ok_or(Damaged("an identity"))?;
        let epoch = epoch.try_into().map(u64::from_le_bytes).map_err(|_| Damaged("an identity"))?;
        StoreIdentity { id: StoreId(Uuid::from_bytes(*id)), epoch }
    };
    let state = State::load(&meta, identity)?;
    for table in [tables::ROWS, tables::HEADS, tables::TOMBSTONES] {
        txn.open_table(table)?;
    }
    Ok((identity, state))
}

/// Sorts what redb says into what an operator can do about it.
fn refusal(path: &Path, fault: Fault) -> OpenError {
    let path = PathBuf::from(path);
    match fault {
        Fault::Medium(redb::Error::DatabaseAlreadyOpen) => OpenError::InUse { path },
        Fault::Medium(redb::Error::Io(source)) if !is_about_content(&source) => {
            OpenError::Io { path, doing: "read or write the file", source }
        }
        Fault::Medium(redb::Error::Io(_)) => {
            OpenError::Corrupt { path, reason: "it is no store, or it was cut short".to_owned() }
        }
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

/// redb reports a file that is not one of its own as an I/O error of these kinds.
fn is_about_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}
