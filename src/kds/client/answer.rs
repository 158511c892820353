//! What an answer means, and what is acknowledged.
//!
//! Decides: which resources are taken, which names go, which are kept, and whether the history is this
//! zone's. Never does: acknowledge before the store committed (KDS-3).

use std::collections::BTreeSet;
use std::time::Instant;

use smol_str::SmolStr;

use super::{
    Applied, Apply, ClientSession, Event, Facts, Global, Loaded, Paging, Pending, RETRY, Reached, Rejection,
    Trust, Upsert, Wish,
};
use crate::core::guard::Verdict;
use crate::core::ledger::{Ledger, Source};
use crate::core::resource::{LABEL_ORIGIN, version_of};
use crate::core::served::is_internal;
use crate::core::validate::{self, MAX_VALUE};
use crate::core::{Continuity, Digest, Key, Position, ResourceType, Revision, Version};
use crate::kds::knobs::Mutation;
use crate::kds::message::{Answer, Header, Received, Response};
use crate::kds::wire::CLUSTER_ID;

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
                self.loaded = Loaded::Not(now);
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
            }
        }
        for key in &applied.struck {
            if self.ledger.remove(key).is_none() {
                // It was refused when it came, so a row of that name is zone-local now.
                self.wish = Wish::Full;
            }
            self.unknown.remove(key);
        }
        let Some(facts) = facts else { return };
        // Known even if the stream is gone: the position that was reached counts on it.
        for Rejection { key, reason } in facts.refused.into_iter().chain(applied.rejected.iter().cloned()) {
            if !self.knobs.broken(Mutation::RejectedIsSwept) {
                self.unknown.insert(key, reason);
            }
        }
        if facts.source.is_some() {
            self.ledger.source = facts.source;
        }
        match facts.reached {
            Reached::Unchanged => {}
            Reached::Forget => drop(self.ledger.positions.remove(&facts.ty)),
            Reached::At(position) => drop(self.ledger.positions.insert(facts.ty, position)),
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
        self.attempt = 0;
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
    fn complete(&mut self, ty: ResourceType) {
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
    }

    // === from a kdsync global ===

    fn on_kdsync(&mut self, ty: ResourceType, response: Response) {
        let Some(header) = response.header else {
            self.end("an answer came without an identity".to_owned());
            return;
        };
        let any_history = self.knobs.broken(Mutation::TakeAnyHistory);
        if matches!(header.answer, Answer::Behind | Answer::Foreign) {
            let verdict =
                if header.answer == Answer::Behind { Continuity::Behind } else { Continuity::Foreign };
            self.apart(ty, verdict, &header.position);
            self.reply(ty, response.nonce, &[]);
            return;
        }
        let theirs = Source::Kdsync(header.position.identity);
        let known = self.ledger.positions.get(&ty).copied();
        let foreign = self.ledger.source.as_ref().is_some_and(|ours| *ours != theirs);
        let behind = known.is_some_and(|ours| ours.revision > header.position.revision);
        if (foreign || behind) && !any_history {
            // Not acknowledged: such a global gets no say on this stream.
            let verdict = if foreign { Continuity::Foreign } else { Continuity::Behind };
            self.apart(ty, verdict, &header.position);
            return;
        }
        if let Err(reason) = self.follow_pages(ty, &header, known.as_ref()) {
            self.end(reason);
            return;
        }
        self.plan_kdsync(ty, response, header, theirs);
    }

    fn apart(&mut self, ty: ResourceType, verdict: Continuity, theirs: &Position) {
        if let Some(state) = self.stream.as_mut().and_then(|stream| stream.types.get_mut(&ty)) {
            state.apart = Some(verdict);
        }
        let theirs = format!(
            "store {} epoch {} revision {}",
            theirs.identity.id, theirs.identity.epoch, theirs.revision
        );
        self.events.push_back(Event::Apart { verdict, theirs });
    }

    /// Pages come in order, from one snapshot, and start from where this zone stands.
    fn follow_pages(
        &mut self,
        ty: ResourceType,
        header: &Header,
        known: Option<&Position>,
    ) -> Result<(), String> {
        let state = self.stream.as_mut().and_then(|stream| stream.types.get_mut(&ty));
        let Some(state) = state else { return Ok(()) };
        state.apart = None;
        if header.page == 1 {
            let starts_here = match header.answer {
                Answer::Since(base) => known.is_some_and(|known| known.revision == base),
                Answer::Equal => known == Some(&header.position),
                // Only for a zone that stated nothing, or something too old: else it could be another
                // history of the same store.
                Answer::Whole => known.is_none(),
                Answer::Pruned => known.is_some(),
                Answer::Behind | Answer::Foreign => false,
            };
            if !starts_here && !self.knobs.broken(Mutation::TakeAnyHistory) {
                return Err(format!("an answer for {ty} does not start from where this zone stands"));
            }
            state.paging = Some(Paging { position: header.position, next_page: 2, seen: BTreeSet::new() });
            return Ok(());
        }
        match &mut state.paging {
            Some(paging) if paging.next_page == header.page && paging.position == header.position => {
                paging.next_page += 1;
                Ok(())
            }
            _ => Err(format!("page {} of an answer for {ty} came out of order", header.page)),
        }
    }

    fn plan_kdsync(&mut self, ty: ResourceType, response: Response, header: Header, theirs: Source) {
        let last = header.is_last() || self.knobs.broken(Mutation::CompleteOnFirstPage);
        let whole = matches!(header.answer, Answer::Whole | Answer::Pruned);
        let (upserts, refused) =
            self.sort_out(response.resources, response.unreadable, header.position.revision);
        let mut remove = if last { response.removed } else { Vec::new() };
        remove.retain(|key| self.ledger.get(key).is_some() || self.unknown.contains_key(key));
        let mut keep = Vec::new();
        if whole {
            let missing = self.note_seen(ty, &upserts, &refused, &remove, last);
            if self.knobs.broken(Mutation::AbsenceDeletes) {
                remove.extend(missing);
            } else {
                let reason = "global no longer lists it and has no tombstone for it";
                keep.extend(missing.into_iter().map(|key| (key, reason.to_owned())));
            }
        }
        let mut mismatch = false;
        let reached = if last {
            mismatch = !self.digest_fits(ty, &upserts, &remove, &refused, &keep, &header.position);
            if mismatch { Reached::Forget } else { Reached::At(header.position) }
        } else {
            Reached::Unchanged
        };
        let source = self.ledger.source.is_none().then_some(theirs);
        let settled = reached == Reached::At(header.position)
            && self.ledger.positions.get(&ty) == Some(&header.position)
            && source.is_none();
        let idle = upserts.is_empty() && remove.is_empty() && keep.is_empty();
        let apply = Apply { ty, keep, reached, source, ..self.apply(upserts, remove, &refused) };
        let apply = (!(idle && (settled || reached == Reached::Unchanged))).then_some(apply);
        self.work_on(Pending { ty, nonce: response.nonce, apply, refused, last, mismatch });
    }

    /// Notes what a whole answer listed; on its last page, tells which held names it did not.
    fn note_seen(
        &mut self,
        ty: ResourceType,
        upserts: &[Upsert],
        refused: &[(Rejection, SmolStr)],
        remove: &[Key],
        last: bool,
    ) -> Vec<Key> {
        let state = self.stream.as_mut().and_then(|stream| stream.types.get_mut(&ty));
        let Some(paging) = state.and_then(|state| state.paging.as_mut()) else { return Vec::new() };
        paging.seen.extend(upserts.iter().map(|upsert| upsert.received.key.clone()));
        paging.seen.extend(refused.iter().map(|(rejection, _)| rejection.key.clone()));
        paging.seen.extend(remove.iter().cloned());
        if !last {
            return Vec::new();
        }
        let seen = std::mem::take(&mut paging.seen);
        self.ledger.of_type(ty).map(|(key, _)| key.clone()).filter(|key| !seen.contains(key)).collect()
    }

    /// True if the ledger will have exactly the announced digest, or has known exceptions.
    fn digest_fits(
        &self,
        ty: ResourceType,
        upserts: &[Upsert],
        remove: &[Key],
        refused: &[(Rejection, SmolStr)],
        keep: &[(Key, String)],
        position: &Position,
    ) -> bool {
        let asked_again: BTreeSet<&Key> = upserts.iter().map(|upsert| &upsert.received.key).collect();
        let open = |key: &&Key| key.ty == ty && !asked_again.contains(*key) && !remove.contains(*key);
        let exceptions = self.unknown.keys().filter(open).count()
            + self.ledger.kept.keys().filter(open).count()
            + refused.len()
            + keep.len();
        if exceptions > 0 {
            return true;
        }
        let mut digest: Digest = self.ledger.digest(ty);
        let mut count = self.ledger.count(ty) as u64;
        for key in remove {
            if let Some(entry) = self.ledger.get(key) {
                digest.remove(key, &entry.content);
                count -= 1;
            }
        }
        for Upsert { received, content, .. } in upserts {
            match self.ledger.get(&received.key) {
                Some(entry) => digest.remove(&received.key, &entry.content),
                None => count += 1,
            }
            digest.add(&received.key, content);
        }
        (count, digest) == (position.count, position.digest)
    }

    // === from a stock global ===

    fn on_config(&mut self, response: Response, now: Instant) {
        self.reply(ResourceType::Config, response.nonce, &[]);
        let found = response.resources.iter().find(|resource| resource.key.name == CLUSTER_ID);
        let id = found.and_then(|resource| std::str::from_utf8(resource.data.expose()).ok());
        let (Some(id), Some(stream)) = (id.filter(|id| !id.is_empty()).map(SmolStr::new), &mut self.stream)
        else {
            return;
        };
        let ours = self.ledger.source.clone().unwrap_or(Source::Stock(id.clone()));
        let same = ours == Source::Stock(id.clone()) || self.knobs.broken(Mutation::TakeAnyHistory);
        let was = stream.cluster_id.replace(id.clone());
        match stream.trust {
            Trust::Pending(_) if same => self.trust(Trust::Full, now),
            Trust::Full if same => {}
            Trust::OnlyNew | Trust::Nothing if same => {
                self.end("the global told its kuma-cluster-id late; opening again".to_owned());
            }
            _ if was.as_ref() == Some(&id) => {}
            _ => {
                self.trust(Trust::Nothing, now);
                let theirs = format!("kuma-cluster-id {id}");
                self.events.push_back(Event::Apart { verdict: Continuity::Foreign, theirs });
            }
        }
    }

    fn on_stock(&mut self, ty: ResourceType, response: Response, now: Instant) {
        let Some(stream) = &self.stream else { return };
        let (trust, cluster_id) = (stream.trust, stream.cluster_id.clone());
        let first = stream.types.get(&ty).is_some_and(|state| !state.complete);
        if trust == Trust::Nothing {
            self.end("this global is another one than before".to_owned());
            return;
        }
        let (upserts, refused) = self.sort_out(response.resources, response.unreadable, Revision(0));
        let first = first && trust == Trust::Full;
        let mut gone = response.removed;
        let listed: BTreeSet<&Key> = upserts.iter().map(|upsert| &upsert.received.key).collect();
        if first {
            gone.extend(self.unlisted(ty, &upserts, &refused));
        }
        gone.retain(|key| !listed.contains(key));
        gone.sort();
        gone.dedup();
        if trust == Trust::OnlyNew {
            gone.clear();
        }
        // What was refused when it came has no entry; it is only forgotten, which removes nothing.
        let (mut remove, mut forget): (Vec<Key>, Vec<Key>) =
            gone.into_iter().partition(|key| self.ledger.get(key).is_some());
        forget.retain(|key| self.unknown.contains_key(key));
        let keep = self.guarded(&mut remove, now);
        remove.extend(forget);
        let source = match (&self.ledger.source, cluster_id) {
            (None, Some(id)) => Some(Source::Stock(id)),
            _ => None,
        };
        let idle = upserts.is_empty() && remove.is_empty() && keep.is_empty() && source.is_none();
        let only_new = trust == Trust::OnlyNew;
        let apply = Apply { ty, keep, source, only_new, ..self.apply(upserts, remove, &refused) };
        let apply = (!idle).then_some(apply);
        let nonce = response.nonce;
        self.work_on(Pending { ty, nonce, apply, refused, last: true, mismatch: false });
    }

    /// Names that the first answer of a stock global would have listed, if it had them.
    fn unlisted(
        &self,
        ty: ResourceType,
        upserts: &[Upsert],
        refused: &[(Rejection, SmolStr)],
    ) -> BTreeSet<Key> {
        let refused: BTreeSet<&Key> = refused.iter().map(|(rejection, _)| &rejection.key).collect();
        // What is not as global has it was not stated, so it was sent again.
        let unstated = self.unknown.keys().filter(|key| key.ty == ty);
        let mut missing: BTreeSet<Key> = unstated.filter(|key| !refused.contains(*key)).cloned().collect();
        // A global that does not resume sends names again that it was told we hold; then what it does
        // not send is missing.
        let resent = |upsert: &Upsert| {
            let key = &upsert.received.key;
            let held = self.ledger.get(key).filter(|_| !self.unknown.contains_key(key));
            held.is_some_and(|entry| entry.received == upsert.received.version)
        };
        if upserts.iter().any(resent) {
            let held = self.ledger.of_type(ty).map(|(key, _)| key);
            missing.extend(held.filter(|key| !refused.contains(*key)).cloned());
        }
        missing
    }

    /// Lets the guard judge removals that have no tombstone; what it holds is moved to the kept names.
    fn guarded(&mut self, remove: &mut Vec<Key>, now: Instant) -> Vec<(Key, String)> {
        if self.knobs.broken(Mutation::NoGuard) {
            return Vec::new();
        }
        let held = ResourceType::SECRETS.into_iter().map(|ty| self.ledger.count(ty)).sum();
        match self.guard.judge(remove.len(), held, now) {
            Verdict::Proceed => Vec::new(),
            Verdict::Hold(reason) => {
                std::mem::take(remove).into_iter().map(|key| (key, reason.clone())).collect()
            }
        }
    }

    // === both ===

    /// Separates what can be taken from what is refused by name.
    fn sort_out(
        &self,
        resources: Vec<Received>,
        unreadable: Vec<Rejection>,
        revision: Revision,
    ) -> (Vec<Upsert>, Vec<(Rejection, SmolStr)>) {
        let mut refused: Vec<_> = unreadable.into_iter().map(|r| (r, SmolStr::default())).collect();
        let mut upserts = Vec::with_capacity(resources.len());
        for received in resources {
            match objection(&received) {
                Some(reason) => {
                    refused.push((Rejection { key: received.key, reason }, received.version));
                }
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
    fn apply(&self, upserts: Vec<Upsert>, remove: Vec<Key>, refused: &[(Rejection, SmolStr)]) -> Apply {
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
        }
    }

    fn work_on(&mut self, pending: Pending) {
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
