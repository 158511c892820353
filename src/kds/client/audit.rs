//! Comparing the zone's rows with its ledger: what is swept, what is put back.
//!
//! Decides: when a difference is acted upon. Never does: sweep before the stream is complete (KDS-1), or
//! sweep a name that global may hold (KDS-9). Repairs need no global (KDS-2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Busy, ClientSession, Event, Mended, RETRY, Repairs, Trust, Wish};
use crate::core::reconcile::{Audit, audit};
use crate::core::{Key, Version};
use crate::kds::knobs::Mutation;

/// This many repairs of one name within [`CONTENTION`] mean that somebody else writes it.
const MANY: usize = 3;
/// Repairs are counted over this long.
const CONTENTION: Duration = Duration::from_secs(60);
/// The longest pause between repairs of a contended name.
const MAX_PAUSE: Duration = Duration::from_secs(600);

impl ClientSession {
    /// Rows may have changed: a hint, from the store.
    pub fn on_store_changed(&mut self) {
        self.wish = self.wish.max(Wish::Changed);
    }

    /// The rows asked for by [`super::Effect::List`]: for a full listing every row, else the changed keys.
    pub fn on_listed(&mut self, result: Result<BTreeMap<Key, Option<Version>>, String>, now: Instant) {
        let full = self.busy == Some(Busy::Listing { full: true });
        self.busy = None;
        self.orphaned = false;
        let mut observed = match result {
            Ok(observed) => observed,
            Err(reason) => return self.on_store_trouble(reason, now),
        };
        if full {
            for (key, _) in self.ledger.entries() {
                observed.entry(key.clone()).or_insert(None);
            }
        }
        let mut found = audit(&self.ledger, &observed);
        found.sweep.retain(|(key, _)| self.may_sweep(key));
        found.repair.retain(|drift| self.may_repair(&drift.key));
        self.mend = Some(found).filter(|found| !found.is_empty());
    }

    /// The store finished an [`super::Effect::Mend`].
    pub fn on_mended(&mut self, mended: Mended, now: Instant) {
        self.busy = None;
        self.orphaned = false;
        self.ask_for_namesakes(&mended.swept);
        for key in mended.swept {
            self.events.push_back(Event::Swept(key));
        }
        for key in mended.repaired {
            self.note_repair(key, now);
        }
        let mut ask = Vec::new();
        for key in mended.no_copy {
            let reason = "it differs from what global sent and no good copy is left";
            if self.unknown.insert(key.clone(), reason.to_owned()).is_none() {
                self.events.push_back(Event::Refetched(key.clone()));
                ask.push(key);
            }
        }
        // Global has nothing to send for a name that it no longer lists.
        ask.retain(|key| !self.ledger.kept.contains_key(key));
        if !ask.is_empty() {
            self.ask_again(&ask);
        }
        if let Some(reason) = mended.failed {
            self.on_store_trouble(reason, now);
        }
    }

    /// Plans to mend that are not yet under way.
    #[must_use]
    pub fn planned(&self) -> Option<&Audit> {
        self.mend.as_ref()
    }

    fn may_sweep(&self, key: &Key) -> bool {
        if self.knobs.broken(Mutation::SweepBeforeComplete) {
            return true;
        }
        let Some(stream) = &self.stream else { return false };
        let complete = stream.types.get(&key.ty).is_some_and(|state| state.complete);
        let apart = stream.types.values().any(|state| state.apart.is_some());
        complete && !apart && stream.trust == Trust::Full && !self.unknown.contains_key(key)
    }

    fn may_repair(&self, key: &Key) -> bool {
        let paused = self.repairs.get(key).is_some_and(|repairs| repairs.until.is_some());
        !paused && !self.knobs.broken(Mutation::NoRepair)
    }

    /// Three repairs of one name in a minute back off and say so.
    fn note_repair(&mut self, key: Key, now: Instant) {
        // A name that was left alone for long starts over.
        self.repairs.retain(|_, repairs| {
            repairs.recent.retain(|at| now.saturating_duration_since(*at) < CONTENTION);
            repairs
                .last
                .is_some_and(|last| now.saturating_duration_since(last) < repairs.pause * 2 + CONTENTION)
        });
        let Repairs { recent, last, pause, until } = self.repairs.entry(key.clone()).or_default();
        *last = Some(now);
        recent.push_back(now);
        self.events.push_back(Event::Repaired(key.clone()));
        if recent.len() >= MANY {
            *pause = (*pause * 2).clamp(CONTENTION, MAX_PAUSE);
            *until = Some(now + *pause);
            recent.clear();
            let pause = *pause;
            self.events.push_back(Event::Contended { key, pause });
        }
    }

    fn on_store_trouble(&mut self, reason: String, now: Instant) {
        self.events.push_back(Event::StoreFailed(reason));
        self.wish = Wish::Full;
        self.wish_not_before = Some(now + RETRY);
    }
}
