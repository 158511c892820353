//! The open database, and opening it again after an I/O error.
//!
//! Decides: when a database that the medium failed is replaced, and by what: the same file again, or,
//! while that takes no writes, a view for reading. Never does: change a row.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::RwLock;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::backend::{Lent, Medium, Overlay};
use super::fault::{Damaged, Fault};

/// One database on one medium.
#[derive(Debug)]
pub(super) struct Handle {
    medium: Medium,
    cache_bytes: usize,
    present: RwLock<Present>,
}

#[derive(Debug)]
struct Present {
    /// Grows with every reopening.
    generation: u64,
    database: State,
}

#[derive(Debug)]
enum State {
    Open(Database),
    /// Reads only, and why.
    ReadOnly(Database, String),
    /// Nothing for now, and why.
    Lost(String),
    /// Nothing any more.
    Closed,
}

impl Handle {
    /// Opens a database on `medium`.
    pub(super) fn open(medium: Medium, cache_bytes: usize) -> Result<Self, Fault> {
        let database = database(Lent(medium.clone()), cache_bytes)?;
        let present = RwLock::new(Present { generation: 0, database: State::Open(database) });
        Ok(Self { medium, cache_bytes, present })
    }

    /// A view of the last commit, and the generation of the database it is of.
    pub(super) fn begin_read(&self) -> (u64, Result<ReadTransaction, Fault>) {
        let present = self.present.read();
        let txn = match &present.database {
            State::Open(database) | State::ReadOnly(database, _) => {
                database.begin_read().map_err(Fault::from)
            }
            State::Lost(reason) => Err(Fault::OutOfOrder(reason.clone())),
            State::Closed => Err(Fault::Closed),
        };
        (present.generation, txn)
    }

    /// A transaction that changes something. Two at once would wait for each other: one thread writes.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, Fault> {
        match &self.present.read().database {
            State::Open(database) => Ok(database.begin_write()?),
            State::ReadOnly(_, reason) | State::Lost(reason) => Err(Fault::OutOfOrder(reason.clone())),
            State::Closed => Err(Fault::Closed),
        }
    }

    /// The generation of the database in use.
    pub(super) fn generation(&self) -> u64 {
        self.present.read().generation
    }

    /// Opens the database again. `Err` says why it takes no writes; reads may work all the same.
    pub(super) fn reopen(&self) -> Result<(), Fault> {
        let mut present = self.present.write();
        present.generation += 1;
        // The old one goes first: it may still write while it closes.
        present.database = State::Lost("the store is being opened again".to_owned());
        let fault = match database(Lent(self.medium.clone()), self.cache_bytes) {
            Ok(database) => {
                present.database = State::Open(database);
                return Ok(());
            }
            Err(fault) => fault,
        };
        let reason = format!("the store takes no writes: {fault}");
        let view = Overlay::new(self.medium.clone())
            .map_err(|error| Fault::Medium(error.into()))
            .and_then(|overlay| database(overlay, self.cache_bytes));
        present.database = match view {
            Ok(view) => State::ReadOnly(view, reason),
            Err(_) => State::Lost(reason),
        };
        Err(fault)
    }

    /// Closes the database and the medium.
    pub(super) fn close(&self) {
        let mut present = self.present.write();
        present.generation += 1;
        present.database = State::Closed;
        // What matters is durable already; the lock of a file goes with the process at the latest.
        if let Err(error) = self.medium.close() {
            tracing::warn!(%error, "store file was not unlocked");
        }
    }
}

/// Opens redb on a medium and verifies the checksum of every page, so that damage is found now and not
/// in the middle of a read: 1 to 2 ms per MiB. Where redb panics over damage, it is an error here.
fn database(backend: impl redb::StorageBackend, cache_bytes: usize) -> Result<Database, Fault> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    let opened = catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(backend)));
    Ok(opened.map_err(|_| Damaged("pages"))??)
}
