//! What an answer means, and what is acknowledged.
//!
//! Decides: which resources are taken, and what follows once the store is done with them. Never does:
//! acknowledge before the store committed (KDS-3). What differs by who is at the other end is in `kdsync`
//! and `stock`.

use std::collections::HashSet;
use std::time::Instant;

use smol_str::SmolStr;

use super::{
    Applied, Apply, ClientSession, Event, Facts, Global, Loaded, Pending, RETRY, Reached, Rejection, Trust,
    Upsert, Wish,
};
use crate::core::ledger::Ledger;
use crate::core::resource::{LABEL_ORIGIN, version_of};
use crate::core::served::is_internal;
use crate::core::validate::{self, MAX_VALUE};
use crate::core::{Key, ResourceType, Revision};
use crate::kds::knobs::Mutation;
use crate::kds::message::{Received, Response};

impl ClientSession {
    /// An answer arrived. Only to be called while [`ClientSession::wants_response`].
    pub fn on_response(&mut self, response: Response, now: Instant) {
        let ty = response.type_url.parse::<ResourceType>().ok();
        let asked = ty.filter(|ty| self.stream.as_ref().is_some_and(|stream| stream.types.contains_key(ty)));
        let Some(ty) = asked.filter(|_| self.pending.is_none()) else {
            self.end(format!("an answer of type \"{}\" came that was not asked for", response.type_url));
            return;
        };
        let Some(stream) = &mut self.stream else { return };
        if let Some(state) = stream.types.get_mut(&ty) {
            state.answered = true;
        }
        match (ty, stream.global) {
            (ResourceType::Config, _) => self.on_config(response, now),
            (_, Global::Kdsync) => self.on_kdsync(ty, response),
            (_, Global::Stock) => self.on_stock(ty, response, now),
        }
    }

    /// The store finished an [`Apply`].
    pub fn on_applied(&mut self, result: Result<Applied, String>, now: Instant) {
        self.busy = None;
        let orphaned = std::mem::take(&mut self.orphaned);
        let facts = self.facts.take();
        let pending = self.take_pending();
        let applied = match result {
            Ok(applied) => applied,
            Err(reason) => {
                self.events.push_back(Event::StoreFailed(reason.clone()));
                if self.knobs.broken(Mutation::AckDespiteStoreError) {
                    if let Some(pending) = pending.filter(|_| !orphaned) {
                        self.reply(pending.ty, pending.nonce, &[]);
                    }
                    return;
                }
                // The commit may be there or not. A stream that was opened meanwhile stated a position
                // that may be wrong; it ends, too.
                self.mend = None;
                if !self.knobs.broken(Mutation::TrustAfterFailure) {
                    self.loaded = Loaded::Not(now);
                }
                if self.stream.is_some() {
                    self.end(format!("the zone's store failed: {reason}"));
                }
                return;
            }
        };
        let (upserts, removed) = (applied.entered.len(), applied.struck.len());
        self.enter(&applied, facts);
        self.guard.record(removed, now);
        let Some(mut pending) = pending.filter(|_| !orphaned) else { return };
        pending.refused.extend(applied.rejected.into_iter().map(|r| (r, SmolStr::default())));
        let position = self.ledger.positions.get(&pending.ty);
        let revision = position.filter(|_| pending.last && !pending.mismatch).map(|p| p.revision);
        if upserts + removed > 0 {
            self.events.push_back(Event::Applied { ty: pending.ty, upserts, removed, revision });
        }
        self.finish(pending);
    }

    /// The ledger as it is in the store.
    pub fn on_loaded(&mut self, result: Result<Ledger, String>, now: Instant) {
        self.busy = None;
        self.orphaned = false;
        match result {
            Ok(mut ledger) => {
                self.unknown.retain(|key, _| ledger.get(key).is_some());
                self.unknown.append(&mut ledger.rejected);
                self.ledger = ledger;
                self.loaded = Loaded::Yes;
                self.wish = Wish::Full;
            }
            Err(reason) => {
                self.events.push_back(Event::StoreFailed(reason));
                self.loaded = Loaded::Not(now + RETRY);
            }
        }
    }

    /// Enters in the ledger what is durable.
    fn enter(&mut self, applied: &Applied, facts: Option<Facts>) {
        for (key, entry) in &applied.entered {
            self.ledger.insert(key.clone(), entry.clone());
            if self.unknown.remove(key).is_some() {
                self.events.push_back(Event::Accepted(key.clone()));
                self.reopen &= !self.unknown.is_empty();
            }
        }
        for key in &applied.struck {
            if self.ledger.remove(key).is_none() {
                // It was refused when it came, so a row of that name is zone-local now.
                self.wish = Wish::Full;
            }
            self.unknown.remove(key);
        }
        self.ask_for_namesakes(&applied.struck);
        let Some(facts) = facts else { return };
        if facts.completes {
            self.ledger.completed.insert(facts.ty);
        }
        // Known even if the stream is gone: the position that was reached counts on it.
        for Rejection { key, reason } in facts.refused.into_iter().chain(applied.rejected.iter().cloned()) {
            let forget = [Mutation::RejectedIsSwept, Mutation::ForgetRefusals];
            if !forget.iter().any(|rule| self.knobs.broken(*rule)) {
                self.unknown.insert(key, reason);
            }
        }
        if facts.source.is_some() {
            self.ledger.source = facts.source;
        }
        match facts.reached {
            Reached::Unchanged => {}
            Reached::Forget => drop(self.ledger.positions.remove(&facts.ty)),
            Reached::At(position) => self.ledger.reach(facts.ty, position),
        }
        for (key, reason) in facts.keep {
            if self.ledger.kept.insert(key.clone(), reason.clone()).is_none() {
                self.events.push_back(Event::Kept { key, reason });
            }
        }
    }

    /// The answer is durable: say so, and note what follows from it.
    fn finish(&mut self, pending: Pending) {
        let Pending { ty, nonce, refused, last, mismatch, .. } = pending;
        let mut news = Vec::new();
        for (rejection, version) in refused {
            let new = self
                .stream
                .as_mut()
                .and_then(|stream| stream.types.get_mut(&ty))
                .is_some_and(|state| state.nacked.insert((rejection.key.clone(), version)));
            if !self.knobs.broken(Mutation::RejectedIsSwept) {
                self.unknown.insert(rejection.key.clone(), rejection.reason.clone());
            }
            if new || self.last_global == Global::Kdsync {
                self.events.push_back(Event::Rejected(rejection.clone()));
                news.push(rejection);
            }
        }
        self.reply(ty, nonce, &news);
        if mismatch {
            self.events.push_back(Event::DigestMismatch(ty));
            self.end(format!("what this zone holds of {ty} is not what global announced"));
        } else if last {
            self.complete(ty);
        }
    }

    /// KDS-1: from here on zone-local secrets of this type may go.
    pub(super) fn complete(&mut self, ty: ResourceType) {
        let Some(stream) = &mut self.stream else { return };
        if stream.trust != Trust::Full {
            return;
        }
        let Some(state) = stream.types.get_mut(&ty) else { return };
        if !state.complete {
            state.complete = true;
            self.wish = Wish::Full;
            self.events.push_back(Event::Complete(ty));
        }
        let is_complete = |ty| stream.types.get(ty).is_some_and(|state| state.complete);
        if ResourceType::SECRETS.iter().all(is_complete) {
            self.attempt = 0;
        }
    }

    /// A name that is gone may have been the reason why others of that name were refused.
    pub(super) fn ask_for_namesakes(&mut self, gone: &[Key]) {
        let is_namesake = |key: &&Key| gone.iter().any(|gone| gone.name == key.name && gone != *key);
        let again: Vec<Key> = self.unknown.keys().filter(is_namesake).cloned().collect();
        if !again.is_empty() {
            self.ask_again(&again);
        }
    }

    /// Separates what can be taken from what is refused by name.
    pub(super) fn sort_out(
        &self,
        resources: Vec<Received>,
        unreadable: Vec<Rejection>,
        revision: Revision,
    ) -> (Vec<Upsert>, Vec<(Rejection, SmolStr)>) {
        let mut refused: Vec<_> = unreadable.into_iter().map(|r| (r, SmolStr::default())).collect();
        let mut upserts = Vec::with_capacity(resources.len());
        let mut seen = HashSet::with_capacity(resources.len());
        for received in resources {
            match objection(&received) {
                Some(reason) => {
                    refused.push((Rejection { key: received.key, reason }, received.version));
                }
                None if !seen.insert(received.key.clone()) => {}
                None => {
                    let content = version_of(&received.key, &received.labels, received.data.expose());
                    let held = self.ledger.get(&received.key).map(|entry| entry.content);
                    upserts.push(Upsert { received, content, revision, held });
                }
            }
        }
        (upserts, refused)
    }

    /// What to write and remove, and which refusals to note or to forget with it.
    pub(super) fn apply(
        &self,
        upserts: Vec<Upsert>,
        remove: Vec<Key>,
        refused: &[(Rejection, SmolStr)],
    ) -> Apply {
        let held = |key: &Key| self.ledger.get(key).map(|entry| entry.content);
        let written = upserts.iter().map(|upsert| &upsert.received.key);
        let settled = written.chain(&remove).filter(|key| self.unknown.contains_key(*key));
        let cleared = settled.cloned().collect();
        let refused = refused.iter().map(|(rejection, _)| rejection.clone()).collect();
        let remove = remove.into_iter().map(|key| (held(&key), key)).map(|(held, key)| (key, held)).collect();
        Apply {
            ty: ResourceType::Secret,
            upserts,
            remove,
            keep: Vec::new(),
            refused,
            cleared,
            reached: Reached::Unchanged,
            source: None,
            only_new: false,
            completes: false,
        }
    }

    /// True if every refusal is durable already.
    pub(super) fn all_noted(&self, refused: &[(Rejection, SmolStr)]) -> bool {
        let noted = |key: &Key| self.unknown.contains_key(key) && self.ledger.get(key).is_none();
        refused.iter().all(|(rejection, _)| noted(&rejection.key))
    }

    pub(super) fn work_on(&mut self, pending: Pending) {
        if pending.apply.is_some() {
            self.pending = Some(pending);
        } else {
            self.finish(pending);
        }
    }
}

/// Why a resource cannot be taken, if so.
fn objection(received: &Received) -> Option<String> {
    let violations = validate::key(&received.key);
    if !violations.is_empty() {
        return Some(validate::describe(&violations));
    }
    if is_internal(&received.key) {
        return Some("this name belongs to a control plane itself and must not leave global".to_owned());
    }
    if received.labels.get(LABEL_ORIGIN).is_some_and(|origin| origin == "zone") {
        return Some("its origin label says that a zone made it".to_owned());
    }
    (received.data.len() > MAX_VALUE).then(|| {
        format!("its value is {} bytes, more than the limit of {MAX_VALUE} bytes", received.data.len())
    })
}
