//! The store of a simulated zone: rows and records in memory, with faults and with somebody else who writes.
//!
//! Decides: what a commit did, and whether it destroyed something without a copy. Never does: keep what a
//! failed commit would have written, unless it was told to fail after the commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::core::{Key, Resource, ResourceType, Revision, SecretData, StoreId, StoreIdentity, Version};
use crate::store::{
    Batch, Changed, Commit, Head, Listing, Op, Outcome, Precondition, Query, ResourceStore, Row, Served,
    StoreError,
};

/// A change that somebody makes in a zone, behind the back of the sync.
#[derive(Clone, Debug)]
pub(super) enum Tamper {
    /// Writes this row.
    Put(Resource),
    /// Deletes this row.
    Delete(Key),
}

/// What happens to the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails, and nothing of it is there.
    Before,
    /// It fails, and all of it is there.
    After,
}

#[derive(Debug, Clone)]
struct Stored {
    resource: Resource,
    head: Head,
    /// Somebody in the zone wrote this value; global never sent it.
    local: bool,
}

#[derive(Debug, Default)]
struct Inner {
    revision: Revision,
    rows: BTreeMap<Key, Stored>,
    records: BTreeMap<String, SecretData>,
    touched: Vec<(Revision, Key)>,
    refused: BTreeSet<Key>,
    fault: Option<Fault>,
    meddling: VecDeque<Tamper>,
    violation: Option<String>,
    swept: u64,
    quarantined: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct SimStore {
    inner: Arc<Mutex<Inner>>,
    changes: watch::Sender<Revision>,
}

impl SimStore {
    pub(super) fn new() -> Self {
        Self { inner: Arc::default(), changes: watch::Sender::new(Revision(0)) }
    }

    /// Somebody writes; the change hint is for the caller to pass on.
    pub(super) fn tamper(&self, tamper: Tamper) {
        self.inner.lock().tamper(tamper);
        self.hint();
    }

    /// Somebody will write between the next read of the syncer and what it does about it.
    pub(super) fn meddle(&self, tamper: Tamper) {
        self.inner.lock().meddling.push_back(tamper);
    }

    /// The last-good copies of these keys are damaged.
    pub(super) fn lose_copies(&self, keys: &BTreeSet<Key>) {
        let mut inner = self.inner.lock();
        for key in keys {
            inner.records.remove(&crate::zone::records::last_good_name(key));
        }
    }

    pub(super) fn fail_next(&self, fault: Option<Fault>) {
        self.inner.lock().fault = fault;
    }

    /// From now on rows of these keys are refused.
    pub(super) fn refuse(&self, keys: BTreeSet<Key>) {
        self.inner.lock().refused = keys;
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&self) {
        let mut inner = self.inner.lock();
        inner.refused.clear();
        inner.meddling.clear();
        inner.fault = None;
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.inner.lock().violation.clone()
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.swept, inner.quarantined)
    }

    /// The versions of all rows.
    pub(super) fn versions(&self) -> BTreeMap<Key, Version> {
        self.inner.lock().rows.iter().map(|(key, row)| (key.clone(), row.head.version)).collect()
    }

    pub(super) fn version(&self, key: &Key) -> Option<Version> {
        self.inner.lock().rows.get(key).map(|row| row.head.version)
    }

    pub(super) fn record_now(&self, name: &str) -> Option<SecretData> {
        self.inner.lock().records.get(name).cloned()
    }

    fn hint(&self) {
        let revision = self.inner.lock().revision;
        self.changes.send_replace(revision);
    }
}

impl Inner {
    fn tamper(&mut self, tamper: Tamper) {
        self.revision.0 += 1;
        let revision = self.revision;
        let key = match tamper {
            Tamper::Put(resource) => {
                let key = resource.key.clone();
                let head = Head { version: resource.version(), revision };
                self.rows.insert(key.clone(), Stored { resource, head, local: true });
                key
            }
            Tamper::Delete(key) => {
                self.rows.remove(&key);
                key
            }
        };
        self.touched.push((revision, key));
    }

    fn heads(&self, keys: Vec<Key>) -> Vec<(Key, Option<Head>)> {
        keys.into_iter()
            .map(|key| {
                let head = self.rows.get(&key).map(|row| row.head);
                (key, head)
            })
            .collect()
    }

    /// What somebody else does between a read and the write that follows from it.
    fn meddle(&mut self) {
        if let Some(tamper) = self.meddling.pop_front() {
            self.tamper(tamper);
        }
    }

    fn check(&self, op: &Op) -> Result<(), StoreError> {
        let (key, expect) = match op {
            Op::Put { resource, expect } => (&resource.key, *expect),
            Op::Delete { key, expect } => (key, *expect),
        };
        if matches!(op, Op::Put { .. }) && self.refused.contains(key) {
            return Err(StoreError::Invalid { key: key.clone(), reason: "refused by the store".to_owned() });
        }
        let row = self.rows.get(key).map(|row| row.head.version);
        let holds = match expect {
            Precondition::Any => true,
            Precondition::Absent => row.is_none(),
            Precondition::Present => row.is_some(),
            Precondition::Version(version) => row == Some(version),
        };
        if holds {
            return Ok(());
        }
        Err(StoreError::Conflict { key: key.clone(), reason: "is not what it was".to_owned() })
    }

    /// What a commit destroys must be global's, or in the quarantine of the same commit.
    fn judge(&mut self, batch: &Batch) {
        for op in &batch.ops {
            let key = match op {
                Op::Put { resource, .. } => &resource.key,
                Op::Delete { key, .. } => key,
            };
            let Some(row) = self.rows.get(key) else { continue };
            let prefix = format!("{}{}/{}/{}/", crate::zone::QUARANTINE, key.ty, key.mesh, key.name);
            let mut copies = batch.records.iter().filter_map(|(name, data)| Some((name, data.as_ref()?)));
            let in_batch = copies.any(|(name, _)| name.starts_with(&prefix));
            let is_copy = |(name, data): (&String, &SecretData)| {
                let copy = crate::zone::records::read_copy(name, data).ok();
                copy.is_some_and(|copy| copy.version == row.head.version)
            };
            let of_key = self.records.range(prefix.clone()..);
            let copied = in_batch || of_key.take_while(|(name, _)| name.starts_with(&prefix)).any(is_copy);
            if row.local && !copied {
                self.violation = Some(format!("{key}: a value that only the zone knew was destroyed"));
            }
            if batch.by == "sweep" && !row.local {
                self.violation = Some(format!("{key}: swept, although it came from global"));
            }
            self.quarantined += u64::from(copied);
        }
        self.swept += u64::from(batch.by == "sweep");
    }

    fn commit(&mut self, batch: &Batch) -> Commit {
        self.revision.0 += 1;
        let revision = self.revision;
        let mut outcomes = Vec::new();
        for op in &batch.ops {
            let (key, outcome) = match op {
                Op::Put { resource, .. } => {
                    let head = Head { version: resource.version(), revision };
                    let stored = Stored { resource: resource.clone(), head, local: false };
                    let before = self.rows.insert(resource.key.clone(), stored);
                    (&resource.key, if before.is_some() { Outcome::Updated } else { Outcome::Created })
                }
                Op::Delete { key, .. } => {
                    let before = self.rows.remove(key);
                    (key, if before.is_some() { Outcome::Deleted } else { Outcome::Missing })
                }
            };
            self.touched.push((revision, key.clone()));
            outcomes.push(outcome);
        }
        for (name, data) in &batch.records {
            match data {
                Some(data) => self.records.insert(name.clone(), data.clone()),
                None => self.records.remove(name),
            };
            // A row that already was what global sends is global's from now on.
            if let (Some(key), true) = (crate::zone::records::ledger_key(name), data.is_some())
                && let Some(row) = self.rows.get_mut(&key)
            {
                row.local = false;
            }
        }
        Commit { revision, outcomes }
    }
}

#[async_trait]
impl ResourceStore for SimStore {
    fn identity(&self) -> StoreIdentity {
        StoreIdentity { id: StoreId(uuid::Uuid::from_u128(99)), epoch: 1 }
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.changes.subscribe()
    }

    async fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        let mut inner = self.inner.lock();
        let row = inner.rows.get(key).map(|row| Row { resource: row.resource.clone(), head: row.head });
        inner.meddle();
        Ok(row)
    }

    async fn list(&self, _: Query) -> Result<Listing, StoreError> {
        Err(StoreError::Unavailable("a simulated zone has no API".to_owned()))
    }

    async fn heads(&self, ty: ResourceType) -> Result<Vec<(Key, Head)>, StoreError> {
        let inner = self.inner.lock();
        Ok(inner
            .rows
            .iter()
            .filter(|(key, _)| key.ty == ty)
            .map(|(key, row)| (key.clone(), row.head))
            .collect())
    }

    async fn heads_of(&self, keys: Vec<Key>) -> Result<Vec<(Key, Option<Head>)>, StoreError> {
        let mut inner = self.inner.lock();
        let heads = inner.heads(keys);
        inner.meddle();
        Ok(heads)
    }

    async fn changed_since(&self, after: Revision) -> Result<Changed, StoreError> {
        let inner = self.inner.lock();
        let keys: BTreeSet<Key> =
            inner.touched.iter().filter(|(at, _)| *at > after).map(|(_, key)| key.clone()).collect();
        Ok(Changed::Keys { revision: inner.revision, keys: keys.into_iter().collect() })
    }

    async fn served(&self, _: Option<Revision>) -> Result<Option<Served>, StoreError> {
        Ok(None)
    }

    async fn write(&self, batch: Batch) -> Result<Commit, StoreError> {
        let mut inner = self.inner.lock();
        for op in &batch.ops {
            inner.check(op)?;
        }
        let fault = inner.fault.take();
        if fault == Some(Fault::Before) {
            return Err(StoreError::Unavailable("the disk is full".to_owned()));
        }
        inner.judge(&batch);
        let commit = inner.commit(&batch);
        self.changes.send_replace(commit.revision);
        match fault {
            Some(_) => Err(StoreError::Unavailable("the disk went away".to_owned())),
            None => Ok(commit),
        }
    }

    async fn record(&self, name: &str) -> Result<Option<SecretData>, StoreError> {
        Ok(self.record_now(name))
    }

    async fn records(&self, prefix: &str) -> Result<Vec<(String, SecretData)>, StoreError> {
        let inner = self.inner.lock();
        let from = inner.records.range(prefix.to_owned()..);
        Ok(from
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, data)| (name.clone(), data.clone()))
            .collect())
    }

    async fn close(&self) {}
}
