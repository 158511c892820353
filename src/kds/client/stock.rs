//! Answers of a stock global: no positions, no tombstones, a `kuma-cluster-id` at best.
//!
//! Decides: whether it is the global that this zone follows, and which removals are plausible. Never does:
//! delete or overwrite on the word of a global that it does not know.

use std::collections::BTreeSet;
use std::time::Instant;

use smol_str::SmolStr;

use super::{Apply, ClientSession, Event, Pending, Rejection, Trust, Upsert};
use crate::core::guard::Verdict;
use crate::core::ledger::Source;
use crate::core::{Continuity, Key, ResourceType, Revision};
use crate::kds::knobs::Mutation;
use crate::kds::message::Response;
use crate::kds::wire::CLUSTER_ID;

impl ClientSession {
    pub(super) fn on_config(&mut self, response: Response, now: Instant) {
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

    pub(super) fn on_stock(&mut self, ty: ResourceType, response: Response, now: Instant) {
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
        // What is kept was judged once.
        gone.retain(|key| !self.ledger.kept.contains_key(key));
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
        let completes = first && !self.ledger.completed.contains(&ty);
        let nothing = upserts.is_empty() && remove.is_empty() && keep.is_empty();
        let idle = nothing && source.is_none() && !completes && self.all_noted(&refused);
        let only_new = trust == Trust::OnlyNew;
        let apply = Apply { ty, keep, source, only_new, completes, ..self.apply(upserts, remove, &refused) };
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
}
