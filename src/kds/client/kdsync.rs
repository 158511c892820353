//! Answers of a kdsync global: positions, pages, tombstones.
//!
//! Decides: whether the history is this zone's (KDS-10), which names go and which are kept. Never does:
//! remove a name without a tombstone.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::{Apply, ClientSession, Event, Paging, Pending, Reached, Rejection, Upsert};
use crate::core::ledger::Source;
use crate::core::{Continuity, Digest, Key, Position, ResourceType};
use crate::kds::knobs::Mutation;
use crate::kds::message::{Answer, Header, Response};

/// True if an equal answer means this position.
fn agrees(ours: &Position, theirs: &Position) -> bool {
    (ours.identity, ours.revision) == (theirs.identity, theirs.revision)
}

impl ClientSession {
    pub(super) fn on_kdsync(&mut self, ty: ResourceType, response: Response) {
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
        let known = self.ledger.positions.get(&ty).copied();
        let header = match (header.answer, known) {
            (Answer::Equal, Some(position)) if agrees(&position, &header.position) => {
                Header { position, ..header }
            }
            _ => header,
        };
        let theirs = Source::Kdsync(header.position.identity);
        let foreign = self.ledger.source.as_ref().is_some_and(|ours| *ours != theirs);
        let behind = known.is_some_and(|ours| ours.revision > header.position.revision);
        if (foreign || behind) && !any_history {
            // Not acknowledged: such a global gets no say on this stream.
            let verdict = if foreign { Continuity::Foreign } else { Continuity::Behind };
            self.apart(ty, verdict, &header.position);
            return;
        }
        if !any_history && self.passes_over(ty) {
            return;
        }
        if header.page == 1 && !any_history && self.ledger.newest(ty) > header.position.revision {
            // Pages of a newer answer were applied before the stream was lost; this replica does not have
            // it yet.
            self.apart(ty, Continuity::Behind, &header.position);
            self.end("this global is behind what this zone holds; trying again".to_owned());
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

    /// A store whose history of one type is not this zone's gets no say in the other. The answer is not
    /// acknowledged; when the history is ours after all, the stream is opened again.
    fn passes_over(&mut self, ty: ResourceType) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let other_apart = stream.types.iter().any(|(other, state)| *other != ty && state.apart.is_some());
        if other_apart {
            stream.skipped = true;
        } else if std::mem::take(&mut stream.skipped) {
            self.end("global's history is this zone's again; opening again".to_owned());
            return true;
        }
        other_apart
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
        if whole && self.knobs.broken(Mutation::WholeWithoutTombstones) {
            remove.clear();
        }
        let listed: BTreeSet<&Key> = upserts.iter().map(|upsert| &upsert.received.key).collect();
        remove.retain(|key| self.ledger.get(key).is_some() || self.unknown.contains_key(key));
        remove.retain(|key| !listed.contains(key));
        remove.sort();
        remove.dedup();
        let mut keep = Vec::new();
        if whole {
            let missing = self.note_seen(ty, &upserts, &refused, &remove, last);
            // What was refused when it came, and is not listed, is only forgotten.
            let (missing, forget): (Vec<Key>, Vec<Key>) =
                missing.into_iter().partition(|key| self.ledger.get(key).is_some());
            remove.extend(forget);
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
        let idle = upserts.is_empty() && remove.is_empty() && keep.is_empty() && self.all_noted(&refused);
        let apply = Apply { ty, keep, reached, source, ..self.apply(upserts, remove, &refused) };
        let apply = (!(idle && (settled || reached == Reached::Unchanged))).then_some(apply);
        self.work_on(Pending { ty, nonce: response.nonce, apply, refused, last, mismatch });
    }

    /// Notes what a whole answer listed; on its last page, tells which held or refused names it did not.
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
        let refused = self.unknown.keys().filter(|key| key.ty == ty && self.ledger.get(key).is_none());
        let held = self.ledger.of_type(ty).map(|(key, _)| key);
        held.chain(refused).filter(|key| !seen.contains(*key)).cloned().collect()
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
}
