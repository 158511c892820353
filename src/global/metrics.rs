//! The numbers of the global component.
//!
//! Decides: which numbers there are and under which labels. Never does: label with a secret's name;
//! zone labels go when a zone is forgotten.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::zones::Zones;
use crate::core::ResourceType;
use crate::telemetry::Telemetry;

/// Bounds of the delivery histogram, in seconds.
const DELIVERY: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.08, 0.15, 0.3, 1.0, 5.0, 30.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfType {
    resource_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReply {
    confirmation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfZone {
    zone_name: String,
    resource_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

/// What a request was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Ack,
    Nack,
    Subscribe,
    Stale,
    Ignored,
    UnknownType,
}

impl Reply {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Subscribe => "subscribe",
            Self::Stale => "stale",
            Self::Ignored => "ignored",
            Self::UnknownType => "unknown-type",
        }
    }
}

/// Handles of the global's metrics; cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    responses_sent: Family<OfType, Counter>,
    requests: Family<OfReply, Counter>,
    nacks: Family<OfZone, Counter>,
    streams: Gauge,
    connections: Gauge,
    sent_bytes: Counter,
    delivery: Histogram,
    events: Family<OfKind, Counter>,
    snapshot_failures: Counter,
}

impl Metrics {
    /// Registers everything, once per component.
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let metrics = Self {
            responses_sent: Family::default(),
            requests: Family::default(),
            nacks: Family::default(),
            streams: Gauge::default(),
            connections: Gauge::default(),
            sent_bytes: Counter::default(),
            delivery: Histogram::new(DELIVERY),
            events: Family::default(),
            snapshot_failures: Counter::default(),
        };
        let all = metrics.clone();
        telemetry.register(|registry| {
            registry.register("kds_delta_responses_sent", "answers sent to zones", all.responses_sent);
            registry.register(
                "kds_delta_requests_received",
                "requests of zones, by what they were",
                all.requests,
            );
            registry.register("kds_nack", "answers that zones refused", all.nacks);
            registry.register("kds_delta_streams_active", "open sync streams", all.streams);
            registry.register("kds_connections_active", "open connections", all.connections);
            let name = "kds_delta_sent";
            registry.register_with_unit(name, "bytes of answers sent", Unit::Bytes, all.sent_bytes);
            let (name, help) = ("kds_delta_delivery", "from the publication of a change to a zone's ACK");
            registry.register_with_unit(name, help, Unit::Seconds, all.delivery);
            registry.register("kds_zone_events", "what happened at zones, by kind", all.events);
            let help = "reads of the served set that failed or were not what was committed";
            registry.register("kds_snapshot_failures", help, all.snapshot_failures);
        });
        metrics
    }

    /// Registers what is read from the registry of zones at each scrape.
    pub(super) fn collect_zones(telemetry: &Telemetry, zones: Arc<Zones>) {
        telemetry.register(|registry| registry.register_collector(Box::new(ZoneGauges(zones))));
    }

    pub(super) fn sent(&self, ty: ResourceType, bytes: usize) {
        self.responses_sent.get_or_create(&OfType { resource_type: ty.as_str() }).inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    pub(super) fn received(&self, reply: Reply) {
        self.requests.get_or_create(&OfReply { confirmation: reply.as_str() }).inc();
    }

    pub(super) fn nacked(&self, zone: &str, ty: ResourceType) {
        self.nacks.get_or_create(&of_zone(zone, ty)).inc();
    }

    pub(super) fn delivered(&self, after: Duration) {
        self.delivery.observe(after.as_secs_f64());
    }

    pub(super) fn happened(&self, kind: &str) {
        self.events.get_or_create(&OfKind { kind: kind.to_owned() }).inc();
    }

    pub(super) fn snapshot_failed(&self) {
        self.snapshot_failures.inc();
    }

    /// Drops the labels of a zone that was forgotten.
    pub(super) fn forget(&self, zone: &str) {
        for ty in ResourceType::SYNCED {
            self.nacks.remove(&of_zone(zone, ty));
        }
    }

    /// Counts an open stream until it is dropped.
    pub(super) fn stream(&self) -> Open {
        Open::new(&self.streams)
    }

    /// Counts an open connection until it is dropped.
    pub(super) fn connection(&self) -> Open {
        Open::new(&self.connections)
    }
}

fn of_zone(zone: &str, ty: ResourceType) -> OfZone {
    OfZone { zone_name: zone.to_owned(), resource_type: ty.as_str() }
}

/// Something open, counted.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Gauges of the zones, computed when somebody looks.
#[derive(Debug)]
struct ZoneGauges(Arc<Zones>);

impl Collector for ZoneGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let totals = self.0.totals();
        let gauges = [
            ("kds_zones_connected", "zones with an open sync stream", totals.connected),
            ("kds_zones_unadmitted", "connected zones that wait for an operator", totals.unadmitted),
            ("kds_zones_near_limit", "stock zones with a set near their message limit", totals.near_limit),
            ("kds_zones_warned", "zones that an operator should look at", totals.warned),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
