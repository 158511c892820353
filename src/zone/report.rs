//! What the loop did, for people: each happening becomes a log line, an event, a counter and a report.
//!
//! Decides: the words. Never does: show a value, a version or a digest.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Config;
use super::link::LinkEnd;
use super::syncer::Outcome;
use crate::core::insight::{Happening, NamedEvent};
use crate::core::{Continuity, Key, ResourceType};
use crate::kds::client::{ClientSession, Event, Global};
use crate::kds::wire::pb::kdsync::v1::Reached;
use crate::telemetry::{Events, Telemetry, clock};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Debug, Default)]
struct Metrics {
    happenings: Family<OfKind, Counter>,
    applied: Family<OfType, Counter>,
    connects: Counter,
    store_failures: Counter,
    connected: Gauge,
    held: Family<OfType, Gauge>,
    rejected: Family<OfType, Gauge>,
    kept: Family<OfType, Gauge>,
    revision: Family<OfType, Gauge>,
    complete: Family<OfType, Gauge>,
}

impl Metrics {
    fn register(telemetry: &Telemetry) -> Self {
        let all = Self::default();
        telemetry.register(|registry| {
            let kinds = "Secrets that were swept, repaired, rejected, accepted, kept or quarantined";
            registry.register("kdsync_zone_happenings", kinds, all.happenings.clone());
            registry.register(
                "kdsync_zone_applied",
                "Secrets written or removed by sync",
                all.applied.clone(),
            );
            registry.register("kdsync_zone_connects", "Streams opened to global", all.connects.clone());
            let failures = "Store operations of the sync loop that failed";
            registry.register("kdsync_zone_store_failures", failures, all.store_failures.clone());
            registry.register(
                "kdsync_zone_connected",
                "1 while a stream to global is open",
                all.connected.clone(),
            );
            registry.register("kdsync_zone_held", "Secrets held from global", all.held.clone());
            let refused = "Secrets not held as global has them";
            registry.register("kdsync_zone_rejected", refused, all.rejected.clone());
            let kept = "Secrets kept although global no longer lists them";
            registry.register("kdsync_zone_kept", kept, all.kept.clone());
            let reached = "Revision of global's served set that is durably applied";
            registry.register("kdsync_zone_revision", reached, all.revision.clone());
            let complete = "1 once the first answer of the present stream is applied";
            registry.register("kdsync_zone_complete", complete, all.complete.clone());
        });
        all
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reporter {
    zone: String,
    global: String,
    events: Events,
    metrics: Metrics,
    link: LinkEnd,
}

impl Reporter {
    pub(super) fn new(config: &Config, telemetry: &Telemetry) -> Self {
        Self {
            zone: config.name.clone(),
            global: config.global.to_string(),
            events: telemetry.events.clone(),
            metrics: Metrics::register(telemetry),
            link: LinkEnd::new(&config.instance, &config.api_address),
        }
    }

    pub(super) fn link(&self) -> LinkEnd {
        self.link.clone()
    }

    /// Reports what was put into quarantine, and passes the rest on.
    pub(super) fn unpack<T>(&self, outcome: Outcome<T>) -> T {
        for (key, reason) in outcome.quarantined {
            let reason = format!("a copy of the value of this zone was kept: {reason}");
            self.named(Happening::Quarantined, key, reason);
        }
        outcome.result
    }

    /// Records one event of the session.
    pub(super) fn record(&self, event: Event, session: &ClientSession) {
        let zone = self.zone.as_str();
        match event {
            Event::Connected(global) => {
                self.metrics.connects.inc();
                let kind = match global {
                    Global::Kdsync => "kdsync",
                    Global::Stock => "kuma",
                };
                tracing::info!(zone, global = self.global, kind, "connected to global");
                self.plain("connected", format!("connected to {} ({kind})", self.global));
            }
            Event::Disconnected { reason, retry_in } => {
                let seconds = retry_in.as_secs_f32();
                tracing::warn!(
                    zone,
                    reason,
                    retry_in_s = seconds,
                    "no connection to global; keeping everything"
                );
                self.plain("disconnected", format!("{reason}; next attempt in {seconds:.1} s"));
            }
            Event::Applied { ty, upserts, removed, revision } => {
                let label = OfType { r#type: ty.as_str() };
                self.metrics.applied.get_or_create(&label).inc_by((upserts + removed) as u64);
                let revision = revision.map(|revision| revision.0);
                tracing::info!(zone, %ty, upserts, removed, revision, "applied");
            }
            Event::Complete(ty) => {
                let held = session.progress(ty).held;
                tracing::info!(zone, %ty, held, "in sync with global");
                self.plain("complete", format!("{ty}: in sync with global, {held} held"));
            }
            Event::Rejected(rejection) => self.named(Happening::Rejected, rejection.key, rejection.reason),
            Event::Accepted(key) => {
                self.named(Happening::Accepted, key, "it is held as global has it".to_owned());
            }
            Event::Swept(key) => self.named(Happening::Swept, key, "it did not come from global".to_owned()),
            Event::Repaired(key) => {
                self.named(Happening::Repaired, key, "it was changed or deleted in this zone".to_owned());
            }
            Event::Kept { key, reason } => self.named(Happening::Kept, key, reason),
            Event::Contended { key, pause } => {
                let seconds = pause.as_secs();
                tracing::error!(zone, resource = %key, pause_s = seconds, "somebody else keeps writing a synced secret; find out who");
                let text = format!("somebody else keeps writing it; the next repair is in {seconds} s");
                self.events.record(clock::wall(), "contended", zone, Some(key), text);
            }
            Event::Refetched(key) => {
                tracing::warn!(zone, resource = %key, "no good copy is left; fetching it from global");
                self.events.record(clock::wall(), "refetched", zone, Some(key), "no good copy is left");
            }
            Event::Apart { verdict, theirs } => self.apart(verdict, &theirs),
            Event::NoClusterId => {
                tracing::error!(
                    zone,
                    global = self.global,
                    "global did not tell its kuma-cluster-id; nothing is overwritten or deleted"
                );
                self.plain(
                    "no-cluster-id",
                    "nothing is overwritten or deleted until global tells its kuma-cluster-id".to_owned(),
                );
            }
            Event::DigestMismatch(ty) => {
                tracing::error!(zone, %ty, "what is held is not what global announced; fetching the whole set");
                self.plain(
                    "digest-mismatch",
                    format!("{ty}: what is held is not what global announced; fetching the whole set"),
                );
            }
            Event::StoreFailed(reason) => {
                self.metrics.store_failures.inc();
                tracing::error!(zone, reason, "the zone's store failed; nothing was acknowledged");
                self.plain("store-failed", reason);
            }
        }
    }

    fn apart(&self, verdict: Continuity, theirs: &str) {
        let zone = self.zone.as_str();
        if verdict == Continuity::Behind {
            tracing::warn!(
                zone,
                global = self.global,
                theirs,
                "global is behind this zone; waiting and keeping everything"
            );
            self.plain("behind", format!("global is behind this zone ({theirs}); waiting"));
        } else {
            tracing::error!(
                zone,
                global = self.global,
                theirs,
                "this global has another history; nothing is taken from it, everything is kept"
            );
            self.plain(
                "foreign",
                format!("this global has another history ({theirs}); nothing is taken from it"),
            );
        }
    }

    fn plain(&self, kind: &str, message: String) {
        self.events.record(clock::wall(), kind, &self.zone, None, message);
    }

    fn named(&self, kind: Happening, key: Key, reason: String) {
        let zone = self.zone.as_str();
        self.metrics.happenings.get_or_create(&OfKind { kind: kind.as_str() }).inc();
        match kind {
            Happening::Accepted => tracing::info!(zone, resource = %key, reason, "{}", kind.as_str()),
            _ => tracing::warn!(zone, resource = %key, reason, "{}", kind.as_str()),
        }
        let at = clock::wall();
        self.events.record(at, kind.as_str(), zone, Some(key.clone()), reason.clone());
        self.link.record(&NamedEvent { kind, key, reason, at });
    }

    /// Publishes what has been reached, to metrics and to global.
    pub(super) fn publish(&self, session: &ClientSession) {
        self.metrics.connected.set(i64::from(session.is_connected()));
        let reached = ResourceType::SECRETS.map(|ty| {
            let progress = session.progress(ty);
            let label = OfType { r#type: ty.as_str() };
            let set = |family: &Family<OfType, Gauge>, value: u64| {
                family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            let revision = progress.position.map_or(0, |position| position.revision.0);
            set(&self.metrics.held, progress.held as u64);
            set(&self.metrics.rejected, progress.rejected as u64);
            set(&self.metrics.kept, progress.kept as u64);
            set(&self.metrics.revision, revision);
            set(&self.metrics.complete, u64::from(progress.complete));
            Reached {
                r#type: ty.to_string(),
                epoch: progress.position.map_or(0, |position| position.identity.epoch),
                revision,
                held: progress.held as u64,
                rejected: progress.rejected as u64,
                kept: progress.kept as u64,
                complete: progress.complete,
            }
        });
        self.link.publish(reached.into());
    }
}
