//! What can go wrong between the store and its file.
//!
//! Decides: which faults are the medium's (the database must be opened again) and what a caller is
//! told. Never does: name a value.

use std::path::PathBuf;

use crate::store::StoreError;

/// Bytes in the store that do not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store holds {0} that cannot be read")]
pub(super) struct Damaged(pub(super) &'static str);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// From redb, or from the medium below it.
    #[error("{0}")]
    Medium(#[from] redb::Error),
    /// A row of ours does not decode.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Takes no writes, or no reads either, until it has been opened again; why.
    #[error("{0}")]
    OutOfOrder(String),
    /// Closed for good.
    #[error("the store is closed")]
    Closed,
}

impl Fault {
    /// True if redb refuses all further work on this handle until the file is opened again.
    pub(super) fn needs_reopen(&self) -> bool {
        use redb::Error as E;
        matches!(
            self,
            Self::OutOfOrder(_)
                | Self::Medium(
                    E::Io(_) | E::Backend(_) | E::PreviousIo | E::DatabaseClosed | E::LockPoisoned(_)
                )
        )
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.to_string())
    }
}

/// Converts the narrower errors of redb.
macro_rules! medium {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                Self::Medium(error.into())
            }
        }
    )*};
}
medium!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

/// Why a store was not opened. Each says what happened, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is open elsewhere.
    #[error(
        "store {path:?} is held by another process: stop that process, or choose another data directory \
         (two processes on one store would lose each other's writes)"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is no store, or a damaged one.
    #[error(
        "store {path:?} cannot be read: {reason}. Nothing was changed. Keep a copy of the file, then put a \
         backup in its place or move it away to start with an empty store"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer kdsync wrote the file.
    #[error(
        "store {path:?} has format {found}, and this kdsync knows formats up to {known}: a newer kdsync wrote \
         it. Nothing was changed. Run that version or newer"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program knows.
        known: u32,
    },
    /// The operating system refused.
    #[error(
        "store {path:?}: cannot {doing}: {source}. Check that the directory exists or can be created, that \
         this user may write it, and that the disk is not full"
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}
