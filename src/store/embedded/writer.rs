//! The one thread that writes.
//!
//! Decides: which batches share a commit. It never lingers: it takes what queued during the last
//! commit and what arrives while it applies that, commits once, and then answers everybody. Never
//! does: acknowledge anything before it is durable, or publish a commit that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use redb::{Durability, WriteTransaction};
use tokio::sync::{oneshot, watch};

use super::apply::Applier;
use super::fault::{Damaged, Fault};
use super::handle::Handle;
use super::names::Names;
use super::serving::Kept;
use super::tables::{self, State, Tables};
use crate::core::{Revision, StoreIdentity};
use crate::store::{Batch, Commit, Op, StoreError};

/// Most operations in one commit, and most bytes of values: bounds memory and the wait of the first.
const GROUP_OPS: usize = 1_024;
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Where the answer to a write goes.
type Reply = oneshot::Sender<Result<Commit, StoreError>>;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Message {
    /// Commit a batch.
    Write(Batch, Reply),
    /// A read failed on the database of this generation: open it again unless that has been done.
    Recover(u64, Sender<()>),
    /// Close, and say so.
    Close(Option<oneshot::Sender<()>>),
}

/// The thread's own.
pub(super) struct Writer {
    pub(super) handle: Arc<Handle>,
    pub(super) queue: Receiver<Message>,
    pub(super) published: watch::Sender<Revision>,
    pub(super) identity: StoreIdentity,
    pub(super) state: State,
    pub(super) names: Names,
    pub(super) unique_names: bool,
    pub(super) kept: Kept,
    /// Where the search for old tombstones goes on.
    pub(super) tombstone_cursor: Vec<u8>,
    /// The database takes no writes until it has been opened again.
    pub(super) failed: bool,
}

/// A group of batches in one transaction.
struct Group {
    answers: Vec<(Reply, Result<Commit, StoreError>)>,
    /// What the thread found in its queue that is no write.
    next: Option<Message>,
}

impl Writer {
    /// Serves the queue until it is told to close, or until nobody can write any more.
    pub(super) fn run(mut self) {
        let mut next = None;
        while let Some(message) = next.take().or_else(|| self.queue.recv().ok()) {
            match message {
                Message::Write(batch, reply) => next = self.commit(batch, reply),
                Message::Recover(seen, done) => {
                    if self.handle.generation() == seen {
                        let _ = self.recover();
                    }
                    // The reader may have gone.
                    let _ = done.send(());
                }
                Message::Close(done) => {
                    self.handle.close();
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                    return;
                }
            }
        }
        self.handle.close();
    }

    /// Commits a batch and what queued behind it, and answers.
    fn commit(&mut self, batch: Batch, reply: Reply) -> Option<Message> {
        let txn = match self.begin() {
            Ok(txn) => txn,
            Err(fault) => {
                let _ = reply.send(Err(fault.into()));
                return None;
            }
        };
        let mut group = Group { answers: Vec::new(), next: None };
        // redb panics over some kinds of damage; what follows finds out whether this was one.
        let attempt = AssertUnwindSafe(|| self.apply_and_commit(txn, batch, reply, &mut group));
        let committed = catch_unwind(attempt).unwrap_or_else(|_| Err(Damaged("pages").into()));
        match committed {
            Ok(state) => {
                self.state = state;
                self.publish();
                for (reply, answer) in group.answers {
                    // Who stopped waiting has no use for the answer.
                    let _ = reply.send(answer);
                }
            }
            Err(fault) => {
                tracing::error!(error = %fault, waiting = group.answers.len(), "commit failed, nothing was acknowledged");
                let _ = self.recover();
                let unavailable = StoreError::from(fault);
                for (reply, _) in group.answers {
                    let _ = reply.send(Err(unavailable.clone()));
                }
            }
        }
        group.next
    }

    /// A transaction. Nothing has been tried in it, so a database that a read found broken is opened
    /// again for it.
    fn begin(&mut self) -> Result<WriteTransaction, Fault> {
        if !self.failed {
            match self.handle.begin_write() {
                Err(fault) if fault.needs_reopen() => {}
                other => return other,
            }
        }
        self.recover()?;
        self.handle.begin_write()
    }

    /// Applies batches while there are any, then commits once.
    fn apply_and_commit(
        &mut self,
        mut txn: WriteTransaction,
        mut batch: Batch,
        mut reply: Reply,
        group: &mut Group,
    ) -> Result<State, Fault> {
        txn.set_durability(Durability::Immediate)?;
        // Two-phase: what a crash leaves is decided by an fsync, not by a checksum that somebody who
        // chooses values could aim for.
        txn.set_two_phase_commit(true);
        let mut outcome = Ok(());
        let state = {
            let (names, tombstone_cursor) = (&mut self.names, &mut self.tombstone_cursor);
            let (tables, state) = (Tables::open(&txn), self.state.clone());
            let tables = match tables {
                Ok(tables) => tables,
                Err(fault) => {
                    group.answers.push((reply, Err(StoreError::Unavailable(String::new()))));
                    return Err(fault);
                }
            };
            let mut applier = Applier { tables, state, names, tombstone_cursor, kept: self.kept };
            let (mut ops, mut bytes) = (0, 0);
            loop {
                let answer = match applier.apply(&batch) {
                    Ok(answer) => answer,
                    Err(fault) => {
                        outcome = Err(fault);
                        Err(StoreError::Unavailable(String::new()))
                    }
                };
                group.answers.push((reply, answer));
                ops += batch.ops.len() + batch.records.len();
                bytes += size(&batch);
                if outcome.is_err() || ops >= GROUP_OPS || bytes >= GROUP_BYTES {
                    break;
                }
                match self.queue.try_recv() {
                    Ok(Message::Write(more, to)) => (batch, reply) = (more, to),
                    Ok(other) => {
                        group.next = Some(other);
                        break;
                    }
                    Err(_) => break,
                }
            }
            outcome?;
            if applier.state.revision == self.state.revision {
                // Nothing changed, and everything before is durable: there is nothing to wait for.
                return Ok(applier.state);
            }
            applier.state.save(&mut applier.tables.meta)?;
            applier.state
        };
        txn.commit()?;
        Ok(state)
    }

    /// Opens the database again after an error and takes its state as the truth: a commit whose last
    /// fsync failed may be in it although nobody was told so.
    fn recover(&mut self) -> Result<(), Fault> {
        self.failed = true;
        let reopened = self.handle.reopen().and_then(|()| {
            let txn = self.handle.begin_read().1?;
            self.state = State::of(&txn, self.identity)?;
            if self.unique_names {
                self.names = Names::load(&txn.open_table(tables::HEADS)?)?;
            }
            Ok(())
        });
        match &reopened {
            Ok(()) => {
                self.failed = false;
                tracing::warn!(revision = %self.state.revision, "store opened again after an i/o error");
                self.publish();
            }
            Err(error) => tracing::error!(%error, "store takes no writes until it can be opened again"),
        }
        reopened
    }

    /// Tells followers of a new commit; silent if there is none.
    fn publish(&self) {
        let revision = self.state.revision;
        self.published.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

/// Bytes of values in a batch.
fn size(batch: &Batch) -> usize {
    let ops = batch.ops.iter().map(|op| match op {
        Op::Put { resource, .. } => resource.data().map_or(0, crate::core::SecretData::len),
        Op::Delete { .. } => 0,
    });
    let records =
        batch.records.iter().map(|(_, value)| value.as_ref().map_or(0, crate::core::SecretData::len));
    ops.chain(records).sum()
}
