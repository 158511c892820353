//! A zone's store, with the rows, the ledger and the last-good copies that its one commit keeps together.
//!
//! Decides: as `src/zone/syncer.rs` does. Never does: forget a commit; what a session does not hear of is
//! there all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kdsync::core::ledger::{Entry, Ledger};
use kdsync::core::reconcile::Audit;
use kdsync::core::resource::version_of;
use kdsync::core::{Key, Labels, SecretData, Version};
use kdsync::kds::client::{Applied, Apply, Effect, Mended, Reached};
use kdsync::kds::message::Rejection;

use super::notation::{short, value};

#[derive(Clone, Debug)]
struct Row {
    labels: Labels,
    data: SecretData,
}

/// What a store effect did.
#[derive(Debug)]
pub(crate) enum Done {
    Applied(Result<Applied, String>),
    Listed(Result<BTreeMap<Key, Option<Version>>, String>),
    Mended(Mended),
    Loaded(Result<Ledger, String>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Store {
    rows: BTreeMap<Key, Row>,
    copies: BTreeMap<Key, (Version, Row)>,
    pub(crate) ledger: Ledger,
    touched: BTreeSet<Key>,
    /// The next effects fail with these.
    pub(crate) fails: VecDeque<String>,
    /// Names that the store does not take, and why.
    pub(crate) refuses: BTreeMap<Key, String>,
}

impl Store {
    /// Somebody in the zone writes or deletes a row.
    pub(crate) fn touch(&mut self, key: Key, data: Option<SecretData>) {
        self.touched.insert(key.clone());
        match data {
            Some(data) => drop(self.rows.insert(key, Row { labels: Labels::new(), data })),
            None => drop(self.rows.remove(&key)),
        }
    }

    pub(crate) fn lose_copy(&mut self, key: &Key) {
        self.copies.remove(key);
    }

    /// The rows as a script writes them.
    pub(crate) fn shown(&self) -> String {
        let rows = self.rows.iter();
        let words: Vec<_> =
            rows.map(|(key, row)| format!(" {}={}", short(key), value(row.data.expose()))).collect();
        if words.is_empty() { " none".to_owned() } else { words.concat() }
    }

    fn version(&self, key: &Key) -> Option<Version> {
        self.rows.get(key).map(|row| version_of(key, &row.labels, row.data.expose()))
    }

    pub(crate) fn execute(&mut self, effect: Effect) -> Result<Done, String> {
        let fails = self.fails.pop_front();
        Ok(match effect {
            Effect::Apply(apply) => {
                Done::Applied(fails.map_or_else(|| Ok(()), Err).map(|()| self.apply(apply)))
            }
            Effect::List { full } => {
                Done::Listed(fails.map_or_else(|| Ok(()), Err).map(|()| self.list(full)))
            }
            Effect::Mend(audit) => Done::Mended(match fails {
                Some(reason) => Mended { failed: Some(reason), ..Mended::default() },
                None => self.mend(audit),
            }),
            Effect::Load => Done::Loaded(fails.map_or_else(|| Ok(self.ledger.clone()), Err)),
            Effect::Connect | Effect::Disconnect { .. } => return Err("not for the store".to_owned()),
        })
    }

    fn apply(&mut self, apply: Apply) -> Applied {
        let mut applied = Applied::default();
        for (key, held) in apply.remove {
            if held.is_some() {
                self.rows.remove(&key);
            }
            self.copies.remove(&key);
            self.ledger.remove(&key);
            applied.struck.push(key);
        }
        for upsert in apply.upserts {
            let (key, data) = (upsert.received.key, upsert.received.data);
            if let Some(reason) = self.refuses.get(&key) {
                applied.rejected.push(Rejection { key, reason: reason.clone() });
                continue;
            }
            if apply.only_new && (self.rows.contains_key(&key) || upsert.held.is_some()) {
                continue;
            }
            let row = Row { labels: upsert.received.labels, data };
            let (received, content, revision) = (upsert.received.version, upsert.content, upsert.revision);
            let entry = Entry { received, content, revision };
            self.copies.insert(key.clone(), (content, row.clone()));
            self.rows.insert(key.clone(), row);
            self.ledger.insert(key.clone(), entry.clone());
            applied.entered.push((key, entry));
        }
        self.ledger.kept.extend(apply.keep);
        self.ledger.rejected.retain(|key, _| !apply.cleared.contains(key));
        for Rejection { key, reason } in apply.refused.iter().chain(&applied.rejected) {
            self.ledger.rejected.insert(key.clone(), reason.clone());
        }
        if apply.completes {
            self.ledger.completed.insert(apply.ty);
        }
        match apply.reached {
            Reached::Unchanged => {}
            Reached::Forget => drop(self.ledger.positions.remove(&apply.ty)),
            Reached::At(position) => drop(self.ledger.positions.insert(apply.ty, position)),
        }
        if apply.source.is_some() {
            self.ledger.source = apply.source;
        }
        applied
    }

    fn list(&mut self, full: bool) -> BTreeMap<Key, Option<Version>> {
        let mut keys = std::mem::take(&mut self.touched);
        if full {
            keys.extend(self.rows.keys().cloned());
            keys.extend(self.ledger.entries().map(|(key, _)| key.clone()));
        }
        keys.into_iter().map(|key| (key.clone(), self.version(&key))).collect()
    }

    fn mend(&mut self, audit: Audit) -> Mended {
        let mut mended = Mended::default();
        for (key, row) in audit.sweep {
            if self.version(&key) == Some(row) {
                self.rows.remove(&key);
                mended.swept.push(key);
            }
        }
        for drift in audit.repair {
            if self.version(&drift.key) != drift.row {
                continue;
            }
            match self.copies.get(&drift.key) {
                Some((version, row)) if *version == drift.held => {
                    self.rows.insert(drift.key.clone(), row.clone());
                    mended.repaired.push(drift.key);
                }
                _ => mended.no_copy.push(drift.key),
            }
        }
        mended
    }
}
