//! A simulated kdsync zone: the real session and the real syncer over a simulated store.
//!
//! Decides: whether what they do is justified by what this stream told them. Never does: trust their own
//! idea of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::store::SimStore;
use super::{Profile, Stats, Step};
use crate::core::ledger::{Ledger, Source};
use crate::core::reconcile::Audit;
use crate::core::{Key, Position, ResourceType, Revision};
use crate::kds::client::{Applied, Apply, ClientSession, Config, Effect, Event, Mended, Reached};
use crate::kds::knobs::{Knobs, Mutation};
use crate::kds::message::{Answer, Header, Node, Request, Response};
use crate::zone::records;
use crate::zone::syncer::{Listed, Outcome, Syncer};

/// What the session wants the store to do, or what the store did.
enum Work {
    Planned(Effect),
    Done(Done),
}

enum Done {
    Applied(Result<Outcome<Applied>, String>),
    Listed(Result<Listed, String>),
    Mended(Outcome<Mended>),
    Loaded(Result<Ledger, String>),
}

/// An answer as it was delivered.
#[derive(Clone)]
struct Delivered {
    nonce: SmolStr,
    header: Option<Header>,
    resources: BTreeMap<Key, SmolStr>,
    unreadable: BTreeSet<Key>,
    removed: BTreeSet<Key>,
}

/// What the present stream told, as far as the zone replied to it.
#[derive(Default)]
struct Told {
    listed: BTreeSet<Key>,
    complete: BTreeSet<ResourceType>,
    open: BTreeMap<ResourceType, Delivered>,
    cluster_id: Option<SmolStr>,
    only_new: bool,
}

pub(super) struct Zone {
    pub(super) store: SimStore,
    pub(super) session: ClientSession,
    syncer: Syncer,
    changes: watch::Receiver<Revision>,
    work: Option<Work>,
    told: Told,
    knobs: Knobs,
    /// Keys that nobody ever deletes, once this zone has them.
    stable: BTreeSet<Key>,
    held: BTreeSet<Key>,
}

fn session(store: &SimStore, seed: u64, knobs: Knobs, now: Instant) -> (Syncer, ClientSession) {
    let syncer = Syncer::new(Arc::new(store.clone()));
    let ledger = syncer.load().now_or_never().unwrap().unwrap();
    let node = Node { id: "east".into(), instance: "east-1".to_owned(), ..Node::default() };
    let session = ClientSession::new(Config { node, ..Config::default() }, ledger, seed, knobs, now);
    (syncer, session)
}

impl Zone {
    pub(super) fn new(
        store: SimStore,
        stable: BTreeSet<Key>,
        seed: u64,
        profile: Profile,
        mutation: Option<Mutation>,
        now: Instant,
    ) -> Self {
        let mut knobs = mutation.map(Knobs::without).unwrap_or_default();
        if profile == Profile::Bare {
            knobs = knobs.and_without(Mutation::NoRepair);
        }
        let changes = {
            use crate::store::ResourceStore as _;
            store.changes()
        };
        let (syncer, session) = session(&store, seed, knobs, now);
        let (work, told, held) = (None, Told::default(), BTreeSet::new());
        Self { store, session, syncer, changes, work, told, knobs, stable, held }
    }

    /// The process dies and starts again; what the store has is what it knows.
    pub(super) fn crash(&mut self, seed: u64, now: Instant) {
        (self.syncer, self.session) = session(&self.store, seed, self.knobs, now);
        self.work = None;
        self.told = Told::default();
    }

    pub(super) fn on_opened(&mut self) {
        self.told = Told::default();
    }

    /// The store's hint reaches the session.
    pub(super) fn take_hint(&mut self) {
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.borrow_and_update();
            self.session.on_store_changed();
        }
    }

    /// The hint is lost.
    pub(super) fn lose_hint(&mut self) {
        self.changes.borrow_and_update();
    }

    pub(super) fn on_response(&mut self, response: Response, now: Instant) {
        let ty: ResourceType = response.type_url.parse().unwrap();
        if ty == ResourceType::Config {
            let id = response.resources.first().and_then(|r| std::str::from_utf8(r.data.expose()).ok());
            self.told.cluster_id = id.map(SmolStr::new);
        }
        let resources = response.resources.iter().map(|r| (r.key.clone(), r.version.clone()));
        // Of an equal answer count and digest do not travel.
        let stated = self.durable_position(ty);
        let header = response.header.map(|header| match (header.answer, stated) {
            (Answer::Equal, Some(position))
                if (position.identity, position.revision)
                    == (header.position.identity, header.position.revision) =>
            {
                Header { position, ..header }
            }
            _ => header,
        });
        let delivered = Delivered {
            nonce: response.nonce.clone(),
            header,
            resources: resources.collect(),
            unreadable: response.unreadable.iter().map(|rejection| rejection.key.clone()).collect(),
            removed: response.removed.iter().cloned().collect(),
        };
        self.told.open.insert(ty, delivered);
        self.session.on_response(response, now);
    }

    /// The session wants the store to do something.
    pub(super) fn plan(&mut self, effect: Effect) -> Step {
        if self.work.is_some() {
            return Err("two store effects at once".to_owned());
        }
        match &effect {
            Effect::Apply(apply) => self.judge_apply(apply)?,
            Effect::Mend(audit) => self.judge_mend(audit)?,
            _ => {}
        }
        self.work = Some(Work::Planned(effect));
        Ok(())
    }

    pub(super) fn has_work(&self) -> bool {
        self.work.is_some()
    }

    /// One step of the store effect: it is executed, or the session hears of it.
    pub(super) fn step_work(&mut self, now: Instant) -> Step {
        match self.work.take() {
            None => Ok(()),
            Some(Work::Planned(effect)) => {
                self.work = Some(Work::Done(self.execute(effect)));
                self.judge_rows()
            }
            Some(Work::Done(done)) => {
                match done {
                    Done::Applied(result) => self.session.on_applied(result.map(|o| o.result), now),
                    Done::Listed(result) => self.session.on_listed(result, now),
                    Done::Mended(result) => self.session.on_mended(result.result, now),
                    Done::Loaded(result) => self.session.on_loaded(result, now),
                }
                Ok(())
            }
        }
    }

    fn execute(&mut self, effect: Effect) -> Done {
        match effect {
            Effect::Apply(apply) => Done::Applied(self.syncer.apply(apply).now_or_never().unwrap()),
            Effect::List { full } => Done::Listed(self.syncer.list(full).now_or_never().unwrap()),
            Effect::Mend(audit) => Done::Mended(self.syncer.mend(audit).now_or_never().unwrap()),
            Effect::Load => {
                let result = self.syncer.load().now_or_never().unwrap();
                Done::Loaded(result.map_err(|error| error.to_string()))
            }
            Effect::Connect | Effect::Disconnect { .. } => unreachable!("no store effect"),
        }
    }

    pub(super) fn drain_events(&mut self, stats: &mut Stats, log: &mut dyn FnMut(String)) {
        while let Some(event) = self.session.poll_event() {
            match &event {
                Event::Swept(_) => stats.swept += 1,
                Event::Repaired(_) => stats.repaired += 1,
                Event::Contended { .. } => stats.contended += 1,
                Event::Rejected(_) => stats.rejected += 1,
                Event::Accepted(_) => stats.accepted += 1,
                Event::Kept { .. } => stats.kept += 1,
                Event::Apart { .. } => stats.apart += 1,
                Event::NoClusterId => stats.no_cluster_id += 1,
                Event::Refetched(_) => stats.refetched += 1,
                Event::StoreFailed(_) => stats.store_failures += 1,
                Event::DigestMismatch(_) => stats.mismatches += 1,
                Event::Disconnected { .. } => stats.disconnects += 1,
                _ => {}
            }
            log(format!("zone: {event:?}"));
        }
    }

    // === what must be true ===

    fn durable_position(&self, ty: ResourceType) -> Option<Position> {
        let name = records::position_name(ty);
        self.store.record_now(&name).map(|data| records::read_position(&name, &data).unwrap())
    }

    fn durable_source(&self) -> Option<Source> {
        self.store.record_now(records::SOURCE).map(|data| records::read_source(&data).unwrap())
    }

    fn judge_apply(&self, apply: &Apply) -> Step {
        let Some(answer) = self.told.open.get(&apply.ty) else {
            return Err(format!("{}: an apply without an answer", apply.ty));
        };
        for upsert in &apply.upserts {
            if answer.resources.get(&upsert.received.key) != Some(&upsert.received.version) {
                return Err(format!("{}: written, but not sent", upsert.received.key));
            }
        }
        match &answer.header {
            Some(header) => self.judge_kdsync(apply, answer, header),
            None => self.judge_stock(apply, answer),
        }
    }

    /// KDS-10, and absence is not deletion.
    fn judge_kdsync(&self, apply: &Apply, answer: &Delivered, header: &Header) -> Step {
        let theirs = Source::Kdsync(header.position.identity);
        if self.durable_source().is_some_and(|ours| ours != theirs) {
            return Err("something was taken from another store".to_owned());
        }
        if !header.is_last() && (!apply.remove.is_empty() || apply.reached != Reached::Unchanged) {
            return Err("removals or a position were taken before the last page (KDS-8)".to_owned());
        }
        let unproven =
            apply.remove.iter().find(|(key, held)| held.is_some() && !answer.removed.contains(key));
        if let Some((key, _)) = unproven {
            return Err(format!("{key}: removed without a tombstone"));
        }
        match (&apply.reached, header.answer) {
            (Reached::At(at), _) if *at != header.position => Err("a wrong position is noted".to_owned()),
            (_, Answer::Behind | Answer::Foreign) => Err("a refusal was applied".to_owned()),
            _ => Ok(()),
        }
    }

    /// The position that the zone goes on from, if the answer in hand claims to continue it.
    pub(super) fn continued(&self, ty: ResourceType) -> Option<Position> {
        let header = self.told.open.get(&ty)?.header?;
        let planned = matches!(&self.work, Some(Work::Planned(Effect::Apply(apply))) if apply.ty == ty);
        self.durable_position(ty).filter(|_| planned && header.answer != Answer::Pruned)
    }

    fn judge_stock(&self, apply: &Apply, answer: &Delivered) -> Step {
        let source = self.durable_source();
        let same = match (&source, &self.told.cluster_id) {
            (Some(Source::Stock(ours)), Some(theirs)) => ours == theirs,
            (None, Some(_)) => true,
            _ => false,
        };
        if !same && (!apply.only_new || !apply.remove.is_empty()) {
            return Err("an unknown global deletes or overwrites".to_owned());
        }
        let first = !self.told.complete.contains(&apply.ty);
        let unasked = apply.remove.iter().find(|(key, _)| {
            let listed = answer.resources.contains_key(key) || answer.unreadable.contains(key);
            !answer.removed.contains(key) && (listed || !first)
        });
        match unasked {
            Some((key, _)) => Err(format!("{key}: removed, but not by global")),
            None => Ok(()),
        }
    }

    /// KDS-1 and KDS-9.
    fn judge_mend(&self, audit: &Audit) -> Step {
        for (key, _) in &audit.sweep {
            if !self.told.complete.contains(&key.ty) {
                return Err(format!("{key}: swept before the first answer was applied (KDS-1)"));
            }
            if self.told.listed.contains(key) {
                return Err(format!("{key}: swept, although global lists it (KDS-9)"));
            }
        }
        Ok(())
    }

    /// What must hold of the rows after every step.
    pub(super) fn judge_rows(&mut self) -> Step {
        if let Some(violation) = self.store.violation() {
            return Err(violation);
        }
        for key in &self.stable {
            let present = self.store.version(key).is_some();
            if present {
                self.held.insert(key.clone());
            } else if self.held.contains(key) {
                return Err(format!("{key}: a secret that nobody deleted is gone"));
            }
        }
        Ok(())
    }

    /// KDS-3: what is acknowledged is durable.
    pub(super) fn judge_request(&mut self, request: &Request) -> Step {
        if request.nonce.is_empty() {
            return Ok(());
        }
        let ty: ResourceType = request.type_url.parse().unwrap();
        let Some(answer) = self.told.open.get(&ty).filter(|answer| answer.nonce == request.nonce) else {
            return Err(format!("{ty}: a reply to an answer that never came"));
        };
        let answer = answer.clone();
        let is_stock = answer.header.is_none();
        self.told.only_new |= is_stock && self.told.cluster_id.is_none();
        let refused: BTreeSet<&Key> =
            request.nack.iter().flat_map(|nack| nack.rejected.iter().map(|r| &r.key)).collect();
        let excused =
            |key: &Key| refused.contains(key) || (is_stock && self.session.unknown().contains_key(key));
        let told_off = answer.header.is_some_and(|h| matches!(h.answer, Answer::Behind | Answer::Foreign));
        if ty.is_secret() && !told_off && !self.told.only_new {
            for (key, version) in answer.resources.iter().filter(|(key, _)| !excused(key)) {
                let name = records::ledger_name(key);
                let entry =
                    self.store.record_now(&name).map(|data| records::read_entry(&name, &data).unwrap());
                if entry.is_none_or(|(entry, _)| entry.received != *version) {
                    return Err(format!("{key}: acknowledged, but not durable (KDS-3)"));
                }
            }
        }
        for key in &answer.removed {
            self.told.listed.remove(key);
        }
        self.told.listed.extend(answer.resources.into_keys());
        self.told.listed.extend(answer.unreadable);
        if !told_off && answer.header.is_none_or(|header| header.is_last()) {
            self.told.complete.insert(ty);
        }
        Ok(())
    }
}
