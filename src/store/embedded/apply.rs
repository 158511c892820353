//! One batch inside a transaction.
//!
//! Decides: whether a batch is taken, what each operation did, and which revision it gets. Everything
//! is judged before anything is changed, so a refused batch leaves no trace in the transaction, which
//! it shares with others. Never does: commit.

use std::collections::{BTreeMap, BTreeSet};

use redb::{AccessGuard, ReadableTable as _};

use super::codec;
use super::fault::Fault;
use super::names::{Claim, Names};
use super::serving::{Change, Kept, is_mapped, provides};
use super::tables::{State, Tables};
use crate::core::served::served_key;
use crate::core::{Key, Resource, Revision, Spec};
use crate::store::{Batch, Commit, Head, Op, Outcome, Precondition, Row, StoreError};

/// A row before and after a batch.
struct Touch {
    before: Option<Row>,
    after: Option<Row>,
    changed: bool,
}

/// What a batch comes to.
struct Plan {
    rows: BTreeMap<Key, Touch>,
    outcomes: Vec<Outcome>,
    claims: Vec<Claim>,
    revision: Revision,
}

/// Batches being applied to one transaction.
pub(super) struct Applier<'a, 'txn> {
    pub(super) tables: Tables<'txn>,
    pub(super) state: State,
    pub(super) names: &'a mut Names,
    pub(super) tombstone_cursor: &'a mut Vec<u8>,
    pub(super) kept: Kept,
}

/// The outer error is the medium's and spoils the transaction; the inner one refuses this batch alone.
type Judged<T> = Result<Result<T, StoreError>, Fault>;

impl Applier<'_, '_> {
    /// Applies one batch, or refuses it without a trace.
    pub(super) fn apply(&mut self, batch: &Batch) -> Judged<Commit> {
        let mut plan = Plan {
            rows: BTreeMap::new(),
            outcomes: Vec::with_capacity(batch.ops.len()),
            claims: Vec::new(),
            revision: Revision(self.state.revision.0 + 1),
        };
        for op in &batch.ops {
            match self.judge(&mut plan, op)? {
                Ok(outcome) => plan.outcomes.push(outcome),
                Err(refused) => {
                    self.names.undo(plan.claims);
                    return Ok(Err(refused));
                }
            }
        }
        if batch.rehearsal {
            self.names.undo(plan.claims);
            return Ok(Ok(Commit { revision: self.state.revision, outcomes: plan.outcomes }));
        }
        plan.rows.retain(|_, touch| touch.changed && (touch.before.is_some() || touch.after.is_some()));
        let records = self.set_records(batch)?;
        if !plan.rows.is_empty() {
            self.change(&plan, batch)?;
        }
        if records || !plan.rows.is_empty() {
            self.state.revision = plan.revision;
        }
        Ok(Ok(Commit { revision: self.state.revision, outcomes: plan.outcomes }))
    }

    /// Judges one operation against the rows as the operations before it left them.
    fn judge(&mut self, plan: &mut Plan, op: &Op) -> Judged<Outcome> {
        let (key, expect) = match op {
            Op::Put { resource, expect } => (&resource.key, *expect),
            Op::Delete { key, expect } => (key, *expect),
        };
        if !plan.rows.contains_key(key) {
            let row = self.tables.row(key)?;
            plan.rows.insert(key.clone(), Touch { before: row.clone(), after: row, changed: false });
        }
        let Some(touch) = plan.rows.get_mut(key) else { return Ok(Ok(Outcome::Missing)) };
        if let Err(refused) = holds(expect, key, touch.after.as_ref()) {
            return Ok(Err(refused));
        }
        let outcome = match op {
            Op::Delete { .. } => {
                if touch.after.is_none() {
                    return Ok(Ok(Outcome::Missing));
                }
                touch.after = None;
                plan.claims.extend(self.names.release(key));
                Outcome::Deleted
            }
            Op::Put { resource, .. } => {
                if let Err(refused) = valid(resource) {
                    return Ok(Err(refused));
                }
                let outcome = match &touch.after {
                    Some(row) if same(&row.resource, resource) => return Ok(Ok(Outcome::Unchanged)),
                    Some(_) => Outcome::Updated,
                    None => match self.names.claim(key) {
                        Ok(claim) => {
                            plan.claims.extend(claim);
                            Outcome::Created
                        }
                        Err(refused) => return Ok(Err(refused)),
                    },
                };
                let mut resource = resource.clone();
                if let Some(row) = &touch.after {
                    resource.created = row.resource.created;
                }
                let head = Head { version: resource.version(), revision: plan.revision };
                touch.after = Some(Row { resource, head });
                outcome
            }
        };
        touch.changed = true;
        Ok(Ok(outcome))
    }

    /// Writes the rows of a plan, and what follows from them.
    fn change(&mut self, plan: &Plan, batch: &Batch) -> Result<(), Fault> {
        let mut served = self.served_before(plan)?;
        for (key, touch) in &plan.rows {
            let encoded = codec::key_bytes(key);
            if let Some(row) = &touch.after {
                self.tables.rows.insert(encoded.as_slice(), codec::row_bytes(row)?.as_slice())?;
                self.tables.heads.insert(encoded.as_slice(), codec::head_bytes(row.head).as_slice())?;
            } else {
                self.tables.rows.remove(encoded.as_slice())?;
                self.tables.heads.remove(encoded.as_slice())?;
            }
        }
        self.served_after(plan, &mut served)?;
        // A row that was hidden by a mapped one is touched when that one goes, though it did not change.
        let uncovered = served.iter().filter(|(_, before, after)| before != after);
        let uncovered = uncovered.filter_map(|(_, _, after)| after.as_ref().map(|(stored, _)| stored));
        let touched: BTreeSet<_> = plan.rows.keys().chain(uncovered).map(codec::key_bytes).collect();
        self.tables.touched.insert(plan.revision.0, codec::encode(&touched)?.as_slice())?;
        self.tables.record_served(&mut self.state, plan.revision, &served, (&batch.by, batch.at))?;
        self.tables.prune_history(&mut self.state, self.kept)?;
        self.tables.prune_tombstones(self.tombstone_cursor, batch.at, self.kept)
    }

    fn served_before(&self, plan: &Plan) -> Result<Vec<Change>, Fault> {
        let keys: BTreeSet<_> = plan.rows.keys().filter(|key| key.ty.is_secret()).map(served_key).collect();
        let before = |key: Key| {
            let before = match plan.rows.get(&key) {
                Some(touch) if !is_mapped(&key) => touch.before.as_ref().and_then(provides),
                _ => self.tables.provider(&key)?,
            };
            Ok((key, before, None))
        };
        keys.into_iter().map(before).collect()
    }

    fn served_after(&self, plan: &Plan, served: &mut [Change]) -> Result<(), Fault> {
        for (key, _, after) in served {
            *after = match plan.rows.get(key) {
                Some(touch) if !is_mapped(key) => touch.after.as_ref().and_then(provides),
                _ => self.tables.provider(key)?,
            };
        }
        Ok(())
    }

    /// Sets the records of a batch. True if that changed any.
    fn set_records(&mut self, batch: &Batch) -> Result<bool, Fault> {
        let mut changed = false;
        for (name, value) in &batch.records {
            let bytes = value.as_ref().map(codec::record_bytes);
            let same = {
                let present = self.tables.records.get(name.as_str())?;
                present.as_ref().map(AccessGuard::value) == bytes.as_ref().map(|bytes| bytes.as_slice())
            };
            match bytes {
                _ if same => continue,
                Some(bytes) => drop(self.tables.records.insert(name.as_str(), bytes.as_slice())?),
                None => drop(self.tables.records.remove(name.as_str())?),
            }
            changed = true;
        }
        Ok(changed)
    }
}

/// Judges a precondition.
fn holds(expect: Precondition, key: &Key, row: Option<&Row>) -> Result<(), StoreError> {
    let conflict = |reason: &str| Err(StoreError::Conflict { key: key.clone(), reason: reason.to_owned() });
    match (expect, row) {
        (Precondition::Absent, Some(_)) => conflict("exists already"),
        (Precondition::Present, None) => Err(StoreError::NotFound { key: key.clone() }),
        (Precondition::Version(_), None) => conflict("was deleted by somebody else"),
        (Precondition::Version(version), Some(row)) if row.head.version != version => {
            conflict("was changed by somebody else")
        }
        _ => Ok(()),
    }
}

/// Refuses what could not be stored without loss.
fn valid(resource: &Resource) -> Result<(), StoreError> {
    let key = &resource.key;
    let invalid = |reason: &str| Err(StoreError::Invalid { key: key.clone(), reason: reason.to_owned() });
    if !codec::fits(key) {
        return invalid("a name or mesh is missing, is where none belongs, or contains a zero byte");
    }
    match resource.spec {
        Spec::Secret(_) if !key.ty.is_secret() => invalid("only secrets hold a value"),
        Spec::Zone(_) if key.ty.is_secret() => invalid("a secret must hold a value"),
        _ => Ok(()),
    }
}

/// True if both have the same labels and content; times do not count.
fn same(stored: &Resource, new: &Resource) -> bool {
    stored.labels == new.labels && stored.spec == new.spec
}
