//! What a zone reports over ZoneLink, folded into what is known of it.
//!
//! Decides: which report is a line, an event and a count. Never does: believe a name to be more than a
//! name; everything is cut, cleaned and rationed.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::caller::printable;
use super::observe::{KEPT_NAMES, LONGEST_REASON};
use super::throttle::Throttle;
use super::zones::{State, Zone};
use crate::core::insight::{Happening, NamedEvent};
use crate::core::{Key, ResourceType, Timestamp, validate};
use crate::kds::wire::decode_name;
use crate::kds::wire::pb::kdsync::v1::{NamedEvent as WireEvent, Reached, ZoneReport, named_event::Kind};
use crate::telemetry::clock;

/// How many events of one report are looked at.
const PER_REPORT: usize = 1_000;

/// Folds the reports of one link.
pub(super) struct Reports {
    shared: Arc<Shared>,
    zone: Arc<Zone>,
    throttle: Throttle,
    /// How many events the zone has dropped, as it told last.
    lost: u64,
}

impl Reports {
    pub(super) fn new(shared: Arc<Shared>, zone: Arc<Zone>) -> Self {
        Self { shared, zone, throttle: Throttle::default(), lost: 0 }
    }

    /// Takes one report.
    pub(super) fn fold(&mut self, report: &ZoneReport, now: Instant) {
        let events: Vec<_> = report.events.iter().take(PER_REPORT).filter_map(decode_event).collect();
        self.zone.with(|state| {
            state.status.last_report = Some(clock::wall());
            state.status.api_address = printable(&report.api_address, 128);
            if !report.version.is_empty() {
                state.status.version = printable(&report.version, 64);
            }
            for reached in &report.reached {
                fold_reached(state, reached);
            }
            for event in &events {
                fold_event(state, event);
            }
        });
        for event in events {
            self.tell(event, now);
        }
        if report.events_lost > self.lost {
            self.lost = report.events_lost;
            tracing::warn!(zone = %self.zone.name, lost = self.lost, "zone dropped events of its own");
        }
    }

    fn tell(&mut self, event: NamedEvent, now: Instant) {
        let NamedEvent { kind, key, reason, .. } = event;
        let kind = kind.as_str();
        self.shared.metrics.happened(kind);
        // The ring takes all: it is bounded. Lines are rationed.
        let events = &self.shared.telemetry.events;
        events.record(clock::wall(), kind, &self.zone.name, Some(key.clone()), reason.clone());
        if let Some(held_back) = self.throttle.allow(now) {
            tracing::info!(zone = %self.zone.name, %key, kind, reason, held_back, "zone reports");
        }
    }
}

fn fold_reached(state: &mut State, reached: &Reached) {
    let Ok(ty) = reached.r#type.parse::<ResourceType>() else { return };
    if !ResourceType::SYNCED.contains(&ty) {
        return;
    }
    let status = state.of(ty);
    status.reached = Some(reached.revision);
    status.held = Some(reached.held);
    status.kept = reached.kept;
    status.complete = reached.complete;
}

fn fold_event(state: &mut State, event: &NamedEvent) {
    let status = state.of(event.key.ty);
    let name = event.key.wire_name();
    match event.kind {
        Happening::Rejected => {
            if status.rejected.len() < KEPT_NAMES || status.rejected.contains_key(&name) {
                status.rejected.insert(name, event.reason.clone());
            }
        }
        Happening::Accepted => {
            status.rejected.remove(&name);
        }
        Happening::Swept | Happening::Repaired | Happening::Quarantined | Happening::Kept => {}
    }
}

fn decode_event(event: &WireEvent) -> Option<NamedEvent> {
    let kind = match event.kind() {
        Kind::Unspecified => return None,
        Kind::Rejected => Happening::Rejected,
        Kind::Accepted => Happening::Accepted,
        Kind::Swept => Happening::Swept,
        Kind::Repaired => Happening::Repaired,
        Kind::Quarantined => Happening::Quarantined,
        Kind::Kept => Happening::Kept,
    };
    let key: Key = event.resource.as_ref().and_then(decode_name)?;
    let is_name = key.ty.is_secret() && validate::key(&key).is_empty();
    let reason = printable(&event.reason, LONGEST_REASON);
    is_name.then_some(NamedEvent { kind, key, reason, at: Timestamp(event.at) })
}
