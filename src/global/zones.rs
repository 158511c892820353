//! The registry of zones: who is connected, and what is known of everybody seen since the start.
//!
//! Decides: which names are forgotten when there are too many (the longest disconnected), and what the
//! directory tells. Never does: hand out a lock; callers get clones or pass closures, so no guard can
//! live across an `.await`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{oneshot, watch};

use super::metrics::Metrics;
use crate::core::insight::{TypeStatus, ZoneClass, ZoneDirectory, ZoneStatus};
use crate::core::rivals::{Rivals, Verdict};
use crate::core::served::Audience;
use crate::core::{Key, ResourceType, Revision};
use crate::kds::snapshot::Snapshot;
use crate::telemetry::clock;

/// How many names are remembered.
const KEPT: usize = 10_000;
/// How long an alarm about two rivals is shown after the last time.
const ALARMED: Duration = Duration::from_secs(600);

/// Why somebody else ends a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The same instance opened a newer stream.
    Again,
    /// Another instance took the name; it connects from there.
    Replaced(String),
}

/// What an operator should look at; one text of each kind per zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warned {
    /// It waits for an operator.
    Unadmitted,
    /// The set is near the zone's limit, or over it.
    Size(ResourceType),
    /// Nothing of a type is sent.
    Withheld(ResourceType),
    /// The zone refused an answer.
    Refused(ResourceType),
    /// Resources too large for the zone.
    Oversize(ResourceType),
    /// The zone holds another history.
    Apart(ResourceType),
}

/// What is known of one zone.
#[derive(Debug)]
pub(super) struct State {
    /// As it is shown, but for the warnings.
    pub(super) status: ZoneStatus,
    /// What an operator should look at.
    warnings: BTreeMap<Warned, String>,
    /// Of a connected stock zone: what it sees of a type, and the largest message it takes.
    pub(super) limits: BTreeMap<ResourceType, (Audience, usize)>,
    /// When two instances were last seen to alternate, and which.
    alarm: Option<(Instant, String)>,
    rivals: Rivals,
    live: Option<Live>,
}

#[derive(Debug)]
struct Live {
    stream: u64,
    end: oneshot::Sender<Ended>,
}

impl State {
    /// What is known of one type at this zone.
    pub(super) fn of(&mut self, ty: ResourceType) -> &mut TypeStatus {
        self.status.types.entry(ty).or_default()
    }

    /// Sets or clears a warning; true if that changed something.
    pub(super) fn warn(&mut self, about: Warned, text: Option<String>) -> bool {
        match text {
            Some(text) => {
                let before = self.warnings.insert(about, text.clone());
                before.as_deref() != Some(text.as_str())
            }
            None => self.warnings.remove(&about).is_some(),
        }
    }

    /// Two instances alternate.
    pub(super) fn alarm(&mut self, text: String) {
        self.alarm = Some((clock::now(), text));
    }

    /// The instance that is served now.
    pub(super) fn holder(&self) -> Option<&str> {
        self.rivals.holder()
    }

    fn shown(&self) -> ZoneStatus {
        let now = clock::now();
        let alarm = self.alarm.iter().filter(|(at, _)| now.saturating_duration_since(*at) < ALARMED);
        let warnings = alarm.map(|(_, text)| text).chain(self.warnings.values()).cloned().collect();
        ZoneStatus { warnings, ..self.status.clone() }
    }
}

/// One zone of the registry.
#[derive(Debug)]
pub(super) struct Zone {
    /// Its name.
    pub(super) name: SmolStr,
    state: Mutex<State>,
    admitted: watch::Sender<bool>,
    /// Streams that hold this entry; it is not forgotten while there are any.
    in_use: AtomicUsize,
}

impl Zone {
    fn new(name: &str) -> Self {
        let status = ZoneStatus {
            name: name.to_owned(),
            connected: false,
            since: clock::wall(),
            class: ZoneClass::KumaDeletesLocal,
            instance: String::new(),
            address: String::new(),
            version: String::new(),
            api_address: String::new(),
            admitted: false,
            last_report: None,
            types: BTreeMap::new(),
            warnings: Vec::new(),
        };
        let state = State {
            status,
            warnings: BTreeMap::new(),
            limits: BTreeMap::new(),
            alarm: None,
            rivals: Rivals::default(),
            live: None,
        };
        Self {
            name: name.into(),
            state: Mutex::new(state),
            admitted: watch::Sender::new(false),
            in_use: AtomicUsize::new(0),
        }
    }

    /// Reads or changes what is known.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.state.lock())
    }

    /// Follows whether the zone may be served secrets.
    pub(super) fn admission(&self) -> watch::Receiver<bool> {
        self.admitted.subscribe()
    }

    /// The zone may, or may not, be served secrets.
    pub(super) fn set_admitted(&self, admitted: bool) {
        self.with(|state| {
            state.status.admitted = admitted;
            if admitted {
                state.warn(Warned::Unadmitted, None);
            }
        });
        self.admitted.send_if_modified(|before| std::mem::replace(before, admitted) != admitted);
    }
}

/// The caller of a stream that may be served.
#[derive(Debug)]
pub(super) struct Seat {
    /// The zone.
    pub(super) zone: Arc<Zone>,
    /// Who holds it.
    instance: SmolStr,
    stream: u64,
    /// Ends the stream from outside.
    pub(super) ended: oneshot::Receiver<Ended>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = clock::now();
        self.zone.with(|state| {
            if state.live.as_ref().is_some_and(|live| live.stream == self.stream) {
                state.live = None;
                state.rivals.leave(&self.instance, now);
                state.status.connected = false;
                state.status.since = clock::wall();
                for ty in state.status.types.values_mut() {
                    ty.complete = false;
                }
            }
        });
    }
}

/// What a zone says of itself when it takes its seat.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    /// Its instance; its host address where it tells none.
    pub(super) instance: SmolStr,
    /// Where it connects from.
    pub(super) address: String,
    /// Its class.
    pub(super) class: ZoneClass,
    /// Its version.
    pub(super) version: String,
}

/// A zone was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Where the instance that stays connects from.
    pub(super) holder: String,
    /// How long to wait.
    pub(super) wait: Duration,
}

/// Holds a zone's entry while a stream uses it.
#[derive(Debug)]
pub(super) struct Use(Arc<Zone>);

impl Use {
    /// The zone.
    pub(super) fn zone(&self) -> &Arc<Zone> {
        &self.0
    }

    /// Takes the zone's seat. `Ok` carries what happened to a rival.
    pub(super) fn claim(
        &self,
        zones: &Zones,
        who: &Introduction,
        now: Instant,
    ) -> Result<(Seat, Verdict), Refused> {
        let stream = zones.streams.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = oneshot::channel();
        let verdict = self.0.with(|state| {
            let verdict = state.rivals.claim(&who.instance, &who.address, now);
            let told = match &verdict {
                Verdict::Refuse { holder, wait } => {
                    return Err(Refused { holder: holder.clone(), wait: *wait });
                }
                Verdict::Replace { .. } => Ended::Replaced(who.address.clone()),
                Verdict::Free | Verdict::Again => Ended::Again,
            };
            if let Some(older) = state.live.replace(Live { stream, end }) {
                // It may have ended by itself in this moment.
                let _ = older.end.send(told);
            }
            state.warnings.clear();
            state.limits.clear();
            let status = &mut state.status;
            status.connected = true;
            status.since = clock::wall();
            status.class = who.class;
            status.instance = who.instance.to_string();
            status.address.clone_from(&who.address);
            status.version.clone_from(&who.version);
            Ok(verdict)
        })?;
        let seat = Seat { zone: self.0.clone(), instance: who.instance.clone(), stream, ended };
        Ok((seat, verdict))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What an operator is told of a set that a stock zone can hardly take in one message, from 80 % on.
pub(super) fn near_limit(zone: &str, ty: ResourceType, bytes: usize, limit: usize) -> Option<String> {
    let percent = bytes.saturating_mul(100) / limit.max(1);
    (percent >= 80).then(|| {
        format!(
            "the set of type {ty} has {bytes} bytes, {percent} % of the {limit} bytes that zone \"{zone}\" \
             takes in one message; raise multizone.zone.kds.maxMsgSize there"
        )
    })
}

/// Everybody.
#[derive(Debug)]
pub(super) struct Zones {
    seen: DashMap<SmolStr, Arc<Zone>>,
    waiting: Mutex<BTreeSet<SmolStr>>,
    unusable: Mutex<BTreeMap<Key, String>>,
    streams: AtomicU64,
    measured: AtomicU64,
    metrics: Metrics,
}

/// Sums over all zones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) connected: usize,
    pub(super) unadmitted: usize,
    pub(super) near_limit: usize,
    pub(super) warned: usize,
}

impl Zones {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            seen: DashMap::new(),
            waiting: Mutex::default(),
            unusable: Mutex::default(),
            streams: AtomicU64::new(1),
            measured: AtomicU64::new(0),
            metrics,
        }
    }

    /// Compares a snapshot that is about to be published with what each connected stock zone takes.
    pub(super) fn measure(&self, snapshot: &Snapshot) {
        let mut sizes = BTreeMap::new();
        for zone in self.all() {
            zone.with(|state| {
                let limits = if state.status.connected { state.limits.clone() } else { BTreeMap::new() };
                for (ty, (audience, limit)) in limits {
                    let size = || snapshot.get(ty).map_or(0, |set| set.whole_size(audience));
                    // A walk through the whole set, for some: once for all zones.
                    let bytes = *sizes.entry((ty, audience)).or_insert_with(size);
                    state.warn(Warned::Size(ty), near_limit(&zone.name, ty, bytes, limit));
                }
            });
        }
        self.measured.store(snapshot.revision.0, Ordering::Release);
    }

    /// The entry of a zone, made if it is new. `None` if there are too many zones in use.
    pub(super) fn enter(&self, name: &str) -> Option<Use> {
        if self.seen.len() >= KEPT && !self.seen.contains_key(name) {
            self.forget_oldest();
            if self.seen.len() >= KEPT {
                return None;
            }
        }
        let entry = self.seen.entry(name.into()).or_insert_with(|| Arc::new(Zone::new(name)));
        let zone = entry.value().clone();
        zone.in_use.fetch_add(1, Ordering::AcqRel);
        drop(entry);
        Some(Use(zone))
    }

    /// A tenth of the names go at once, so that a stream of new names costs little.
    fn forget_oldest(&self) {
        let unused = self.seen.iter().filter(|zone| zone.in_use.load(Ordering::Acquire) == 0);
        let mut unused: Vec<_> =
            unused.map(|zone| (zone.with(|state| state.status.since), zone.key().clone())).collect();
        unused.sort_unstable();
        for (_, name) in unused.into_iter().take(KEPT / 10) {
            let gone = self.seen.remove_if(&name, |_, zone| zone.in_use.load(Ordering::Acquire) == 0);
            if gone.is_some() {
                self.metrics.forget(&name);
                self.waiting.lock().remove(&name);
            }
        }
    }

    /// The zone waits for an operator from now on.
    pub(super) fn wait(&self, name: &SmolStr) {
        self.waiting.lock().insert(name.clone());
    }

    /// Zones that wait for an operator.
    pub(super) fn waiting(&self) -> BTreeSet<SmolStr> {
        self.waiting.lock().clone()
    }

    /// The zone was admitted.
    pub(super) fn admit(&self, name: &str) {
        self.waiting.lock().remove(name);
        let zone = self.seen.get(name).map(|zone| zone.value().clone());
        if let Some(zone) = zone {
            zone.set_admitted(true);
        }
    }

    /// Replaces the resources that cannot be served, with the reasons.
    pub(super) fn set_unusable(&self, unusable: BTreeMap<Key, String>) {
        *self.unusable.lock() = unusable;
    }

    fn all(&self) -> Vec<Arc<Zone>> {
        self.seen.iter().map(|zone| zone.value().clone()).collect()
    }

    /// Sums for the gauges.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for zone in self.all() {
            zone.with(|state| {
                let has = |test: fn(&Warned) -> bool| usize::from(state.warnings.keys().any(test));
                totals.connected += usize::from(state.status.connected);
                totals.unadmitted += has(|warned| *warned == Warned::Unadmitted);
                totals.near_limit += has(|warned| matches!(warned, Warned::Size(_)));
                totals.warned += has(|_| true);
            });
        }
        totals
    }
}

impl ZoneDirectory for Zones {
    fn zones(&self) -> Vec<ZoneStatus> {
        let mut all: Vec<_> = self.all().iter().map(|zone| zone.with(|state| state.shown())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn zone(&self, name: &str) -> Option<ZoneStatus> {
        let zone = self.seen.get(name).map(|zone| zone.value().clone())?;
        Some(zone.with(|state| state.shown()))
    }

    fn measured(&self) -> Option<Revision> {
        let limited =
            |zone: &Arc<Zone>| zone.with(|state| state.status.connected && !state.limits.is_empty());
        let any = self.all().iter().any(limited);
        any.then(|| Revision(self.measured.load(Ordering::Acquire)))
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<_> = self.unusable.lock().values().cloned().collect();
        let about_the_set =
            |warned: &Warned| matches!(warned, Warned::Size(_) | Warned::Oversize(_) | Warned::Unadmitted);
        for zone in self.all() {
            zone.with(|state| {
                let connected = state.status.connected;
                let told = state.warnings.iter().filter(|(warned, _)| connected && about_the_set(warned));
                warnings.extend(told.map(|(_, text)| text.clone()));
            });
        }
        warnings.sort();
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn names_in_use_are_never_forgotten() {
        let zones = Zones::new(Metrics::new(&Telemetry::default()));
        let kept = zones.enter("kept").unwrap();
        for n in 0..KEPT + 500 {
            assert!(zones.enter(&format!("z{n}")).is_some());
        }
        assert!(zones.seen.len() <= KEPT);
        assert!(zones.zone("kept").is_some());
        assert_eq!(kept.zone().name, "kept");
    }

    #[test]
    fn a_leftover_does_not_disconnect_the_newer_stream() {
        let zones = Zones::new(Metrics::new(&Telemetry::default()));
        let (first, second) = (zones.enter("east").unwrap(), zones.enter("east").unwrap());
        let who = |instance: &str| Introduction {
            instance: instance.into(),
            address: format!("{instance}:1"),
            class: ZoneClass::Kdsync,
            version: String::new(),
        };
        let (mut older, verdict) = first.claim(&zones, &who("a"), clock::now()).unwrap();
        assert_eq!(verdict, Verdict::Free);
        let (newer, _) = second.claim(&zones, &who("b"), clock::now()).unwrap();
        assert_eq!(older.ended.try_recv(), Ok(Ended::Replaced("b:1".into())));
        drop(older);
        assert!(zones.zone("east").unwrap().connected);
        drop(newer);
        assert!(!zones.zone("east").unwrap().connected);
    }
}
