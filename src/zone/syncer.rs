//! The zone's only writer of synced rows: executes what the session decided, against the store.
//!
//! Decides: with `core::reconcile`, row by row, at commit time. Never does: lose what only this zone
//! knew: a copy is in quarantine in the same commit. Every row is compared again when it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::records;
use crate::core::ledger::{Entry, Ledger};
use crate::core::reconcile::{Audit, Drift, RowPlan, plan_row};
use crate::core::{Key, Resource, ResourceType, Revision, Timestamp, Version};
use crate::kds::client::{Applied, Apply, Mended, Reached, Upsert};
use crate::kds::message::Rejection;
use crate::store::{Batch, Changed, Head, Op, Precondition, ResourceStore, StoreError};
use crate::telemetry::clock;

/// How often a commit is planned again because somebody wrote in between.
const TRIES: usize = 8;

/// Heads, by key.
pub(crate) type Listed = BTreeMap<Key, Option<Version>>;

/// What an effect did, and which values were put into quarantine by it.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub(crate) result: T,
    pub(crate) quarantined: Vec<(Key, &'static str)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Syncer {
    store: Arc<dyn ResourceStore>,
    /// The commit up to which rows were compared with the ledger.
    seen: Option<Revision>,
}

/// A commit in the making.
#[derive(Default)]
struct Draft {
    batch: Batch,
    quarantined: Vec<(Key, &'static str)>,
}

type Heads = BTreeMap<Key, Option<Head>>;

fn version(heads: &Heads, key: &Key) -> Option<Version> {
    heads.get(key).copied().flatten().map(|head| head.version)
}

fn expect(row: Option<Version>) -> Precondition {
    row.map_or(Precondition::Absent, Precondition::Version)
}

impl Syncer {
    pub(crate) fn new(store: Arc<dyn ResourceStore>) -> Self {
        Self { store, seen: None }
    }

    /// Reads what the zone holds from global.
    pub(crate) async fn load(&self) -> Result<Ledger, StoreError> {
        let entries = self.store.records(records::LEDGER).await?;
        let positions = self.store.records(records::POSITION).await?;
        let rejected = self.store.records(records::REJECTED).await?;
        let complete = self.store.records(records::COMPLETE).await?;
        let source = self.store.record(records::SOURCE).await?;
        records::read_ledger(&entries, &positions, &rejected, &complete, source.as_ref())
            .map_err(|bad| StoreError::Unavailable(bad.to_string()))
    }

    // === apply ===

    pub(crate) async fn apply(&mut self, mut apply: Apply) -> Result<Outcome<Applied>, String> {
        let mut rejected = Vec::new();
        let mut tries = 0;
        while tries < TRIES {
            tries += 1;
            let (draft, entered) = match self.draft_apply(&apply, &rejected).await {
                Ok(drafted) => drafted,
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(error.to_string()),
            };
            match self.store.write(draft.batch).await {
                Ok(_) => {
                    let struck = apply.remove.into_iter().map(|(key, _)| key).collect();
                    let result = Applied { entered, struck, rejected };
                    return Ok(Outcome { result, quarantined: draft.quarantined });
                }
                Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                Err(StoreError::Invalid { key, reason }) => {
                    let before = apply.upserts.len();
                    apply.upserts.retain(|upsert| upsert.received.key != key);
                    if apply.upserts.len() == before {
                        return Err(reason);
                    }
                    rejected.push(Rejection { key, reason });
                    // Each refusal makes the answer smaller, so it is no try.
                    tries -= 1;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error.to_string()),
            }
        }
        Err("somebody else keeps writing the same secrets".to_owned())
    }

    async fn draft_apply(
        &self,
        apply: &Apply,
        rejected: &[Rejection],
    ) -> Result<(Draft, Vec<(Key, Entry)>), StoreError> {
        let mut keys: Vec<Key> = apply.upserts.iter().map(|upsert| upsert.received.key.clone()).collect();
        keys.extend(apply.remove.iter().map(|(key, _)| key.clone()));
        let heads: Heads = self.store.heads_of(keys).await?.into_iter().collect();
        let at = clock::wall();
        let mut draft = Draft::default();
        "sync".clone_into(&mut draft.batch.by);
        draft.batch.at = at;
        let mut entered = Vec::with_capacity(apply.upserts.len());
        // Removals first: a later store may not hold two rows of one name.
        for (key, held) in &apply.remove {
            self.draft_removal(&mut draft, key, *held, version(&heads, key)).await?;
        }
        for upsert in &apply.upserts {
            let row = version(&heads, &upsert.received.key);
            if apply.only_new && (row.is_some() || upsert.held.is_some()) {
                continue;
            }
            entered.push(self.draft_upsert(&mut draft, upsert, row, at).await?);
        }
        for key in &apply.cleared {
            draft.record(records::rejected_name(key), None);
        }
        for Rejection { key, reason } in apply.refused.iter().chain(rejected) {
            draft.record(records::rejected_name(key), Some(records::rejected(reason)));
        }
        for (key, reason) in &apply.keep {
            self.draft_keep(&mut draft, key, reason).await?;
        }
        if apply.completes {
            draft.record(records::complete_name(apply.ty), Some(crate::core::SecretData::new(vec![1])));
        }
        match &apply.reached {
            Reached::Unchanged => {}
            Reached::Forget => draft.record(records::position_name(apply.ty), None),
            Reached::At(position) => {
                draft.record(records::position_name(apply.ty), Some(records::position(position)));
            }
        }
        if let Some(source) = &apply.source {
            draft.record(records::SOURCE.to_owned(), Some(records::source(source)));
        }
        Ok((draft, entered))
    }

    async fn draft_upsert(
        &self,
        draft: &mut Draft,
        upsert: &Upsert,
        row: Option<Version>,
        at: Timestamp,
    ) -> Result<(Key, Entry), StoreError> {
        let Upsert { received, content, revision, held } = upsert;
        let plan = plan_row(*held, row, Some(*content));
        if plan == RowPlan::ChangeLocal {
            self.quarantine(draft, &received.key, row, "overwritten by global").await?;
        }
        if plan != RowPlan::Keep {
            let (labels, data) = (received.labels.clone(), received.data.clone());
            let resource = Resource::secret(received.key.clone(), labels, data, at);
            draft.batch.ops.push(Op::Put { resource, expect: expect(row) });
        }
        let entry = Entry { received: received.version.clone(), content: *content, revision: *revision };
        draft.record(records::ledger_name(&received.key), Some(records::entry(&entry, None)));
        let copy = records::copy(*content, &received.labels, &received.data, "", at);
        draft.record(records::last_good_name(&received.key), Some(copy));
        Ok((received.key.clone(), entry))
    }

    async fn draft_removal(
        &self,
        draft: &mut Draft,
        key: &Key,
        held: Option<Version>,
        row: Option<Version>,
    ) -> Result<(), StoreError> {
        if held.is_some() {
            let plan = plan_row(held, row, None);
            if plan == RowPlan::ChangeLocal {
                self.quarantine(draft, key, row, "removed by global after it was changed here").await?;
            }
            if plan != RowPlan::Keep {
                draft.batch.ops.push(Op::Delete { key: key.clone(), expect: expect(row) });
            }
        }
        draft.record(records::ledger_name(key), None);
        draft.record(records::last_good_name(key), None);
        Ok(())
    }

    async fn draft_keep(&self, draft: &mut Draft, key: &Key, reason: &str) -> Result<(), StoreError> {
        let name = records::ledger_name(key);
        if let Some(data) = self.store.record(&name).await?
            && let Ok((entry, _)) = records::read_entry(&name, &data)
        {
            draft.record(name, Some(records::entry(&entry, Some(reason.to_owned()))));
        }
        Ok(())
    }

    /// Adds a copy of the row to the commit that will destroy it.
    async fn quarantine(
        &self,
        draft: &mut Draft,
        key: &Key,
        row: Option<Version>,
        reason: &'static str,
    ) -> Result<(), StoreError> {
        let Some(found) = self.store.get(key).await? else {
            return Err(StoreError::Conflict { key: key.clone(), reason: "is gone".to_owned() });
        };
        let Some(data) = found.resource.data().filter(|_| Some(found.head.version) == row) else {
            return Err(StoreError::Conflict { key: key.clone(), reason: "changed meanwhile".to_owned() });
        };
        // Somebody who writes the same value again and again fills no disk.
        let copies = self.store.records(&records::quarantine_prefix(key)).await?;
        let newest = copies.last().and_then(|(name, data)| records::read_copy(name, data).ok());
        if newest.is_none_or(|newest| newest.version != found.head.version) {
            let copy =
                records::copy(found.head.version, &found.resource.labels, data, reason, draft.batch.at);
            draft.record(records::quarantine_name(key, found.head.revision), Some(copy));
        }
        draft.quarantined.push((key.clone(), reason));
        Ok(())
    }

    // === list ===

    pub(crate) async fn list(&mut self, full: bool) -> Result<Listed, String> {
        self.try_list(full).await.map_err(|error| error.to_string())
    }

    async fn try_list(&mut self, full: bool) -> Result<Listed, StoreError> {
        if let Some(seen) = self.seen.filter(|_| !full)
            && let Changed::Keys { revision, mut keys } = self.store.changed_since(seen).await?
        {
            keys.retain(|key| key.ty.is_secret());
            let heads = if keys.is_empty() { Vec::new() } else { self.store.heads_of(keys).await? };
            self.seen = Some(revision);
            return Ok(heads.into_iter().map(|(key, head)| (key, head.map(|head| head.version))).collect());
        }
        // What is committed after this reading of the revision is listed again later: harmless.
        let revision = *self.store.changes().borrow();
        let mut listed = Listed::new();
        for (name, _) in self.store.records(records::LEDGER).await? {
            listed.extend(records::ledger_key(&name).map(|key| (key, None)));
        }
        for ty in ResourceType::SECRETS {
            let heads = self.store.heads(ty).await?;
            listed.extend(heads.into_iter().map(|(key, head)| (key, Some(head.version))));
        }
        self.seen = Some(revision);
        Ok(listed)
    }

    // === mend ===

    pub(crate) async fn mend(&mut self, audit: Audit) -> Outcome<Mended> {
        let failed = |mut outcome: Outcome<Mended>, reason| {
            outcome.result.failed = Some(reason);
            outcome
        };
        let mut outcome = Outcome { result: Mended::default(), quarantined: Vec::new() };
        // In pieces, so that one contended row does not hold up the others.
        for (key, row) in audit.sweep {
            match self.sweep(&key, row).await {
                Ok(quarantined) => {
                    outcome.quarantined.extend(quarantined);
                    outcome.result.swept.push(key);
                }
                Err(StoreError::Unavailable(reason)) => return failed(outcome, reason),
                // Somebody wrote meanwhile: the next listing will show what is there now.
                Err(_) => {}
            }
        }
        let mut no_copy = BTreeSet::new();
        for drift in audit.repair {
            match self.repair(&drift).await {
                Ok(Some(quarantined)) => {
                    outcome.quarantined.extend(quarantined);
                    outcome.result.repaired.push(drift.key);
                }
                Ok(None) => drop(no_copy.insert(drift.key)),
                Err(StoreError::Unavailable(reason)) => return failed(outcome, reason),
                Err(_) => {}
            }
        }
        outcome.result.no_copy = no_copy.into_iter().collect();
        outcome
    }

    async fn sweep(&self, key: &Key, row: Version) -> Result<Vec<(Key, &'static str)>, StoreError> {
        let mut draft = Draft::default();
        "sweep".clone_into(&mut draft.batch.by);
        draft.batch.at = clock::wall();
        self.quarantine(&mut draft, key, Some(row), "created in this zone").await?;
        draft.batch.ops.push(Op::Delete { key: key.clone(), expect: Precondition::Version(row) });
        self.store.write(draft.batch).await?;
        Ok(draft.quarantined)
    }

    /// `None` if there is no good copy to put back.
    async fn repair(&self, drift: &Drift) -> Result<Option<Vec<(Key, &'static str)>>, StoreError> {
        let name = records::last_good_name(&drift.key);
        let Some(data) = self.store.record(&name).await? else { return Ok(None) };
        let Some(copy) = records::read_copy(&name, &data).ok().filter(|copy| copy.version == drift.held)
        else {
            return Ok(None);
        };
        let mut draft = Draft::default();
        "repair".clone_into(&mut draft.batch.by);
        draft.batch.at = clock::wall();
        if drift.row.is_some() {
            self.quarantine(&mut draft, &drift.key, drift.row, "changed in this zone").await?;
        }
        let resource = Resource::secret(drift.key.clone(), copy.labels, copy.data, draft.batch.at);
        draft.batch.ops.push(Op::Put { resource, expect: expect(drift.row) });
        self.store.write(draft.batch).await?;
        Ok(Some(draft.quarantined))
    }
}

impl Draft {
    fn record(&mut self, name: String, data: Option<crate::core::SecretData>) {
        self.batch.records.push((name, data));
    }
}
