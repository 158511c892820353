//! Connecting, opening, losing the stream, and the order of effects.
//!
//! Decides: when to try again and what to ask for first. Never does: delete anything because a
//! connection is gone (KDS-2).

use std::time::{Duration, Instant};

use smol_str::SmolStr;

use super::{
    Busy, ClientSession, Effect, Event, Facts, Global, Link, Loaded, Pending, Stream, Trust, TypeState, Wish,
};
use crate::core::{Key, ResourceType};
use crate::kds::knobs::Mutation;
use crate::kds::message::{Nack, Node, Request};

/// Reconnects back off between these, with full jitter.
const BACKOFF_KDSYNC: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// The same towards stock Kuma, as its own zones do.
const BACKOFF_STOCK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A stock global is asked again for a drifted name by reopening the stream, at most this often (KDS-7).
const REOPEN: Duration = Duration::from_secs(60);
/// With more names to ask for than this the whole set is fetched; a global takes 10,000 on one stream.
const MOST_NAMED: usize = 5_000;

impl ClientSession {
    /// The stream is open; `global` is who announced itself at the other end.
    pub fn on_connected(&mut self, global: Global, now: Instant) {
        self.link = Link::Open;
        self.last_global = global;
        self.ending = None;
        let trust = match global {
            Global::Kdsync => Trust::Full,
            Global::Stock => Trust::Pending(now + self.config.cluster_id),
        };
        let types = [].into();
        self.stream = Some(Stream { global, opened: now, skipped: false, trust, cluster_id: None, types });
        self.events.push_back(Event::Connected(global));
        match global {
            Global::Kdsync => self.open_secrets(now),
            Global::Stock => self.open_type(ResourceType::Config, now),
        }
    }

    /// The stream or the attempt to open it ended. `retry_after` is the least pause the peer asked for.
    pub fn on_disconnected(&mut self, reason: &str, retry_after: Option<Duration>, now: Instant) {
        let (least, most) = match self.last_global {
            Global::Kdsync => BACKOFF_KDSYNC,
            Global::Stock => BACKOFF_STOCK,
        };
        if let Some(stream) = self.stream.take() {
            if now.saturating_duration_since(stream.opened) >= most {
                self.attempt = 0;
            }
            if self.knobs.broken(Mutation::CompleteSurvivesReconnect) {
                let complete = stream.types.iter().filter(|(_, state)| state.complete);
                self.survivors = complete.map(|(ty, _)| *ty).collect();
            }
        }
        if self.knobs.broken(Mutation::ClearOnDisconnect) {
            self.ledger = crate::core::ledger::Ledger::default();
        }
        self.requests.clear();
        self.pending = None;
        self.ending = None;
        // An answer that the store is still writing stays valid: it will be entered in the ledger, only
        // not acknowledged. Sweeps that were planned for the lost stream are dropped.
        self.orphaned = self.busy.is_some();
        if let Some(mend) = &mut self.mend {
            mend.sweep.clear();
        }
        let ceiling = least.saturating_mul(2 << self.attempt.min(16)).clamp(least, most);
        let jitter = ceiling.saturating_sub(least).mul_f64(self.rng.f64());
        let retry_in = (least + jitter).max(retry_after.unwrap_or_default());
        self.attempt = self.attempt.saturating_add(1);
        self.link = Link::Waiting { until: now + retry_in };
        self.events.push_back(Event::Disconnected { reason: reason.to_owned(), retry_in });
    }

    /// The next thing for the driver to do.
    pub fn poll_effect(&mut self, now: Instant) -> Option<Effect> {
        self.on_time(now);
        if let Some(reason) = self.ending.take() {
            self.on_disconnected(&reason, None, now);
            return Some(Effect::Disconnect { reason });
        }
        if let Link::Waiting { until } = self.link
            && until <= now
            && self.knows_ledger()
        {
            // Not before: the position that is stated must be the durable one.
            self.link = Link::Connecting;
            return Some(Effect::Connect);
        }
        if self.busy.is_some() {
            return None;
        }
        if let Loaded::Not(until) = self.loaded {
            // Every other effect would start from a ledger that may be wrong.
            self.busy = (until <= now).then_some(Busy::Loading);
            return self.busy.map(|_| Effect::Load);
        }
        // Before any answer: the plan was made from the ledger as it is now.
        if let Some(audit) = self.mend.take().filter(|audit| !audit.is_empty()) {
            self.busy = Some(Busy::Mending);
            return Some(Effect::Mend(audit));
        }
        if let Some(pending) = &mut self.pending
            && let Some(apply) = pending.apply.take()
        {
            self.busy = Some(Busy::Applying);
            let (ty, reached, source) = (apply.ty, apply.reached, apply.source.clone());
            let refused = apply.refused.clone();
            let (keep, completes) = (apply.keep.clone(), apply.completes);
            self.facts = Some(Facts { ty, reached, source, keep, refused, completes });
            return Some(Effect::Apply(apply));
        }
        if self.wish != Wish::Nothing && self.wish_not_before.is_none_or(|at| at <= now) {
            let full = self.wish == Wish::Full;
            self.wish = Wish::Nothing;
            self.wish_not_before = None;
            self.busy = Some(Busy::Listing { full });
            return Some(Effect::List { full });
        }
        None
    }

    /// When to call [`ClientSession::poll_effect`] again although nothing happened.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut at = vec![self.next_full];
        match (self.loaded, self.link) {
            (Loaded::Not(until), _) => at.extend(self.busy.is_none().then_some(until)),
            (Loaded::Yes, Link::Waiting { until }) if self.knows_ledger() => at.push(until),
            _ => {}
        }
        // While the store is busy, or the ledger is not known, nothing is listed whatever the time is.
        let may_list = self.busy.is_none() && self.loaded == Loaded::Yes && self.wish != Wish::Nothing;
        at.extend(self.wish_not_before.filter(|_| may_list));
        at.extend(self.repairs.values().filter_map(|repairs| repairs.until));
        if let Some(stream) = &self.stream {
            if let Trust::Pending(until) = stream.trust {
                at.push(until);
            }
            let waiting = stream.types.iter().filter(|(ty, state)| ty.is_secret() && !state.answered);
            at.extend(waiting.filter_map(|(_, state)| Some(state.asked_at? + self.config.first_answer)));
            if self.reopen {
                at.extend(self.reopened.map(|last| last + REOPEN));
            }
        }
        at.into_iter().min()
    }

    fn on_time(&mut self, now: Instant) {
        if self.next_full <= now {
            self.next_full = now + self.config.full_audit;
            self.wish = Wish::Full;
        }
        let mut resumed = false;
        for repairs in self.repairs.values_mut() {
            resumed |= repairs.until.take_if(|until| *until <= now).is_some();
        }
        if resumed {
            self.wish = Wish::Full;
        }
        let Some(stream) = &self.stream else { return };
        if matches!(stream.trust, Trust::Pending(until) if until <= now) {
            self.trust(Trust::OnlyNew, now);
            self.events.push_back(Event::NoClusterId);
            return;
        }
        let late = stream.types.iter().find(|(ty, state)| {
            let asked = state.asked_at.filter(|_| !state.answered && ty.is_secret());
            asked.is_some_and(|asked| asked + self.config.first_answer <= now)
        });
        if let Some((ty, _)) = late {
            let seconds = self.config.first_answer.as_secs();
            self.end(format!("no first answer for {ty} within {seconds} s"));
        } else if self.reopen && self.reopened.is_none_or(|last| last + REOPEN <= now) {
            self.reopened = Some(now);
            self.reopen = false;
            self.attempt = 0;
            self.end("the stream is opened again to fetch drifted secrets".to_owned());
        }
    }

    /// Ends the stream at the next [`ClientSession::poll_effect`].
    pub(super) fn end(&mut self, reason: String) {
        self.ending.get_or_insert(reason);
    }

    /// Settles how far a stock global is trusted, and asks for secrets if at all.
    pub(super) fn trust(&mut self, trust: Trust, now: Instant) {
        if let Some(stream) = &mut self.stream {
            stream.trust = trust;
        }
        if trust != Trust::Nothing {
            self.open_secrets(now);
        }
    }

    fn open_secrets(&mut self, now: Instant) {
        for ty in ResourceType::SECRETS {
            self.open_type(ty, now);
        }
    }

    fn open_type(&mut self, ty: ResourceType, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        let complete = self.survivors.contains(&ty);
        let state = TypeState { asked_at: Some(now), complete, ..TypeState::default() };
        stream.types.insert(ty, state);
        // To a kdsync global the call's metadata already told who this is.
        let node = match stream.global {
            Global::Kdsync => Node { id: self.config.node.id.clone(), ..Node::default() },
            Global::Stock => self.config.node.clone(),
        };
        let mut request = Request {
            type_url: SmolStr::new_static(ty.as_str()),
            subscribe: vec![SmolStr::new_static("*")],
            node,
            ..Request::default()
        };
        let exceptions: Vec<&Key> = self.unknown.keys().filter(|key| key.ty == ty).collect();
        match stream.global {
            Global::Kdsync => {
                if exceptions.len() > MOST_NAMED {
                    self.ledger.positions.remove(&ty);
                }
                request.position = self.ledger.positions.get(&ty).copied();
                // Without a position everything comes anyway.
                let named = exceptions.iter().filter(|_| request.position.is_some());
                request.subscribe.extend(named.map(|key| SmolStr::from(key.wire_name())));
            }
            Global::Stock => {
                // What is kept stays until a person decides: it is not offered for judgement again.
                let is_kept = |key: &Key| self.ledger.kept.contains_key(key);
                let held = self.ledger.of_type(ty);
                let held = held.filter(|(key, _)| !self.unknown.contains_key(*key) && !is_kept(key));
                request.versions =
                    held.map(|(key, entry)| (key.wire_name().into(), entry.received.clone())).collect();
            }
        }
        self.requests.push_back(request);
    }

    /// Asks a kdsync global for names again (KDS-7).
    pub(super) fn ask_again(&mut self, keys: &[Key]) {
        let Some(stream) = &self.stream else { return };
        if stream.global == Global::Stock {
            self.reopen = true;
            return;
        }
        for ty in ResourceType::SECRETS {
            let names: Vec<SmolStr> =
                keys.iter().filter(|key| key.ty == ty).map(|key| key.wire_name().into()).collect();
            if !names.is_empty() && stream.types.contains_key(&ty) {
                self.requests.push_back(Request {
                    type_url: SmolStr::new_static(ty.as_str()),
                    subscribe: names,
                    node: self.identity(),
                    ..Request::default()
                });
            }
        }
    }

    /// Acknowledges an answer, or refuses what is listed.
    pub(super) fn reply(&mut self, ty: ResourceType, nonce: SmolStr, refused: &[super::Rejection]) {
        if nonce.is_empty() {
            // KDS-5: an ACK with an empty nonce would be a subscription, and spin.
            self.end("an answer came without a nonce".to_owned());
            return;
        }
        let stock = self.stream.as_ref().is_some_and(|stream| stream.global == Global::Stock);
        let nack = (!refused.is_empty()).then(|| Nack {
            message: refused
                .iter()
                .map(|r| format!("{}: {}", r.key, r.reason))
                .collect::<Vec<_>>()
                .join("; "),
            rejected: if stock { Vec::new() } else { refused.to_vec() },
        });
        let subscribe = if stock && nack.is_some() { vec![SmolStr::new_static("*")] } else { Vec::new() };
        let type_url = SmolStr::new_static(ty.as_str());
        let node = self.identity();
        self.requests.push_back(Request { type_url, nonce, subscribe, nack, node, ..Request::default() });
    }

    /// Every request names the node; only the first of a type describes it.
    fn identity(&self) -> Node {
        Node { id: self.config.node.id.clone(), ..Node::default() }
    }

    /// The answer in hand, once the store is done with it.
    pub(super) fn take_pending(&mut self) -> Option<Pending> {
        self.pending.take_if(|pending| pending.apply.is_none())
    }
}
