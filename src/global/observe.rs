//! What the sessions of one stream tell, recorded once everywhere: metrics, status, log, events.
//!
//! Decides: which happening is worth a line and at which level. Never does: change what is sent. What a
//! peer says is cut, cleaned and rationed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::caller::printable;
use super::metrics::Reply;
use super::throttle::Throttle;
use super::zones::{Warned, Zone, near_limit};
use crate::core::served::Audience;
use crate::core::{Continuity, Key, ResourceType, Revision};
use crate::kds::message::Nack;
use crate::kds::server::Event;
use crate::telemetry::clock;

/// The longest reason of a peer that is kept, in bytes.
pub(super) const LONGEST_REASON: usize = 512;
/// How many refused names of a type are kept.
pub(super) const KEPT_NAMES: usize = 1_000;

/// How many unacknowledged changes of a type are timed.
const TIMED: usize = 64;

/// Records what happens on one stream.
#[derive(Debug)]
pub(super) struct Observer {
    shared: Arc<Shared>,
    zone: Arc<Zone>,
    /// Per type, the changes that the zone has not acknowledged, and when they were published.
    undelivered: BTreeMap<ResourceType, VecDeque<(Revision, Instant)>>,
    throttle: Throttle,
}

impl Observer {
    pub(super) fn new(shared: Arc<Shared>, zone: Arc<Zone>) -> Self {
        Self { shared, zone, undelivered: BTreeMap::new(), throttle: Throttle::default() }
    }

    /// A change of this type was published for a zone that had everything.
    pub(super) fn published(&mut self, ty: ResourceType, revision: Revision, at: Instant) {
        let waiting = self.undelivered.entry(ty).or_default();
        // A zone that does not answer is timed by the oldest.
        if waiting.len() < TIMED {
            waiting.push_back((revision, at));
        }
    }

    /// The zone acknowledged everything up to this revision; of an answer in pages, the first of them.
    fn delivered(&mut self, ty: ResourceType, revision: Revision, now: Instant) {
        let Some(waiting) = self.undelivered.get_mut(&ty) else { return };
        while let Some((_, at)) = waiting.pop_front_if(|(published, _)| *published <= revision) {
            self.shared.metrics.delivered(now.saturating_duration_since(at));
        }
    }

    /// A session told something.
    pub(super) fn record(&mut self, ty: ResourceType, event: Event, now: Instant) {
        let metrics = &self.shared.metrics;
        match event {
            Event::Opened => {
                metrics.received(Reply::Subscribe);
                self.zone.with(|state| {
                    let status = state.of(ty);
                    status.rejected.clear();
                    status.complete = false;
                });
            }
            Event::Sent { revision, .. } => self.zone.with(|state| {
                let status = state.of(ty);
                status.sent = revision.0;
                status.counters.responses_sent += 1;
            }),
            Event::Acked { revision, complete } => {
                metrics.received(Reply::Ack);
                self.delivered(ty, revision, now);
                self.zone.with(|state| {
                    let status = state.of(ty);
                    status.acknowledged = revision.0;
                    status.complete |= complete;
                    status.counters.responses_acknowledged += 1;
                    state.warn(Warned::Refused(ty), None);
                    state.warn(Warned::Apart(ty), None);
                });
            }
            Event::Nacked { nack } => self.nacked(ty, &nack, now),
            Event::Stale => metrics.received(Reply::Stale),
            Event::Ignored => metrics.received(Reply::Ignored),
            Event::Withheld(reason) => self.withheld(ty, reason, now),
            Event::Size { bytes, limit } => self.measured(ty, bytes, limit, now),
            Event::Oversize(key) => self.oversize(ty, key, now),
            Event::Apart(verdict) => self.apart(ty, verdict, now),
        }
    }

    /// What a stock zone takes.
    pub(super) fn takes(&self, ty: ResourceType, audience: Audience, limit: usize) {
        self.zone.with(|state| {
            state.limits.insert(ty, (audience, limit));
        });
    }

    fn nacked(&mut self, ty: ResourceType, nack: &Nack, now: Instant) {
        let zone = self.zone.name.clone();
        self.shared.metrics.received(Reply::Nack);
        self.shared.metrics.nacked(&zone, ty);
        let message = printable(&nack.message, LONGEST_REASON);
        self.zone.with(|state| {
            let status = state.of(ty);
            status.counters.responses_rejected += 1;
            for rejection in &nack.rejected {
                let name = rejection.key.wire_name();
                if status.rejected.len() < KEPT_NAMES || status.rejected.contains_key(&name) {
                    status.rejected.insert(name, printable(&rejection.reason, LONGEST_REASON));
                }
            }
            if nack.rejected.is_empty() {
                let text = format!("zone \"{zone}\" refused an answer of type {ty}: {message}");
                state.warn(Warned::Refused(ty), Some(text));
            }
        });
        let Some(held_back) = self.throttle.allow(now) else { return };
        tracing::warn!(%zone, %ty, names = nack.rejected.len(), message, held_back, "answer refused");
        // A kdsync zone tells each name over ZoneLink.
        if nack.rejected.is_empty() {
            self.event("rejected", None, format!("the zone refused an answer of type {ty}: {message}"));
        }
    }

    fn withheld(&mut self, ty: ResourceType, reason: Option<String>, now: Instant) {
        let zone = self.zone.name.clone();
        let admitted = self.zone.with(|state| {
            state.of(ty).withheld.clone_from(&reason);
            state.status.admitted
        });
        let Some(reason) = reason else {
            self.zone.with(|state| state.warn(Warned::Withheld(ty), None));
            tracing::info!(%zone, %ty, "answers of this type flow again");
            return;
        };
        if !admitted {
            self.unadmitted(now);
            return;
        }
        let text = format!("zone \"{zone}\" is sent nothing of type {ty}: {reason}");
        self.zone.with(|state| state.warn(Warned::Withheld(ty), Some(text.clone())));
        if let Some(held_back) = self.throttle.allow(now) {
            tracing::error!(%zone, %ty, reason, held_back, "answer withheld");
            self.event("withheld", None, text);
        }
    }

    fn unadmitted(&mut self, now: Instant) {
        let zone = self.zone.name.clone();
        let text = format!(
            "zone \"{zone}\" runs unmodified Kuma and was never served by this store, so it is sent no \
             secrets: type \"kdsync zone admit {zone}\" to serve it"
        );
        // Said once, not once per type.
        let is_new = self.zone.with(|state| state.warn(Warned::Unadmitted, Some(text.clone())));
        if is_new && let Some(held_back) = self.throttle.allow(now) {
            let command = format!("kdsync zone admit {zone}");
            tracing::warn!(%zone, command, held_back, "zone waits to be admitted");
            self.event("unadmitted", None, text);
        }
    }

    fn measured(&mut self, ty: ResourceType, bytes: usize, limit: usize, now: Instant) {
        let zone = self.zone.name.clone();
        let text = near_limit(&zone, ty, bytes, limit);
        self.zone.with(|state| state.warn(Warned::Size(ty), text.clone()));
        if let Some(text) = text
            && let Some(held_back) = self.throttle.allow(now)
        {
            tracing::warn!(%zone, %ty, bytes, limit, held_back, "set is near the zone's message limit");
            self.event("near-limit", None, text);
        }
    }

    fn oversize(&mut self, ty: ResourceType, key: Key, now: Instant) {
        let zone = self.zone.name.clone();
        let text = format!("{key} is larger than zone \"{zone}\" takes in one message and is not sent to it");
        self.zone.with(|state| state.warn(Warned::Oversize(ty), Some(text.clone())));
        if let Some(held_back) = self.throttle.allow(now) {
            tracing::error!(%zone, %key, held_back, "resource is too large for the zone");
            self.event("oversize", Some(key), text);
        }
    }

    fn apart(&mut self, ty: ResourceType, verdict: Continuity, now: Instant) {
        let zone = self.zone.name.clone();
        let text = match verdict {
            Continuity::Behind => {
                format!(
                    "zone \"{zone}\" is ahead of this global in type {ty}: this store lost commits or is a copy that is behind"
                )
            }
            _ => format!(
                "zone \"{zone}\" holds type {ty} from another history and takes nothing from this global"
            ),
        };
        self.zone.with(|state| state.warn(Warned::Apart(ty), Some(text.clone())));
        if let Some(held_back) = self.throttle.allow(now) {
            tracing::error!(%zone, %ty, ?verdict, held_back, "zone stands in another history");
            self.event("apart", None, text);
        }
    }

    fn event(&self, kind: &str, resource: Option<Key>, message: String) {
        self.shared.metrics.happened(kind);
        self.shared.telemetry.events.record(clock::wall(), kind, &self.zone.name, resource, message);
    }
}
