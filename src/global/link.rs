//! ZoneLink, global's end: heartbeats down, reports up.
//!
//! Decides: when a heartbeat goes (every five seconds, and soon after the served set changed). Never
//! does: carry a value, or hold up the sync; a report waits until the change itself is on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::Shared;
use super::body::{Outbound, shutting_down};
use super::caller::Caller;
use super::reports::Reports;
use super::zones::Use;
use crate::core::ResourceType;
use crate::kds::wire;
use crate::kds::wire::pb::kdsync::v1::{GlobalReport, Serving, ZoneReport};
use crate::telemetry::clock;

/// The pause between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long after a change a report follows: the change itself goes first, and changes that come close
/// together are told together.
const AFTER_CHANGE: Duration = Duration::from_millis(50);

/// Serves one link to its end.
pub(super) async fn run(
    shared: Arc<Shared>,
    caller: Caller,
    mut inbound: Streaming<ZoneReport>,
    outbound: Outbound,
    cancel: CancellationToken,
) {
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => shutting_down(),
        () = outbound.frames.closed() => Status::cancelled("the zone is gone"),
        status = serve(&shared, &caller, &mut inbound, &outbound) => status,
    };
    tracing::debug!(zone = %caller.zone, code = ?status.code(), reason = status.message(), "link ended");
    outbound.finish(status);
}

async fn serve(
    shared: &Arc<Shared>,
    caller: &Caller,
    inbound: &mut Streaming<ZoneReport>,
    outbound: &Outbound,
) -> Status {
    let Some(entry) = shared.zones.enter(&caller.zone) else {
        return Status::resource_exhausted("too many zones");
    };
    let mut snapshots = shared.snapshots.clone();
    // The first report tells it.
    snapshots.mark_unchanged();
    let mut reports = Reports::new(shared.clone(), entry.zone().clone());
    let (mut sequence, mut echoed) = (0, 0);
    let mut due = clock::now();
    let mut staged: Option<Bytes> = None;
    loop {
        let now = clock::now();
        if staged.is_none() && due <= now {
            sequence += 1;
            staged = Some(report(shared, sequence, echoed));
            due = now + HEARTBEAT;
        }
        tokio::select! {
            biased;
            permit = outbound.frames.reserve(), if staged.is_some() => match permit {
                Ok(permit) => if let Some(frame) = staged.take() { permit.send(frame) },
                Err(_) => return Status::cancelled("the zone is gone"),
            },
            message = inbound.message() => match message {
                Ok(Some(report)) => {
                    if is_rival(&entry, caller) {
                        return Status::aborted("another instance holds the zone's name");
                    }
                    echoed = report.sequence;
                    if !report.events.is_empty() {
                        // The zone repeats what is not echoed.
                        due = due.min(now + AFTER_CHANGE);
                    }
                    reports.fold(&report, now);
                }
                Ok(None) => return Status::unavailable("the zone closed its side; open the link again"),
                Err(status) => return status,
            },
            Ok(()) = snapshots.changed() => {
                snapshots.mark_unchanged();
                due = due.min(now + AFTER_CHANGE);
            }
            () = sleep_until(due), if staged.is_none() => {}
        }
    }
}

/// True if the zone's seat is held by another instance: its reports are of no interest.
fn is_rival(entry: &Use, caller: &Caller) -> bool {
    let Some(instance) = &caller.instance else { return false };
    entry.zone().with(|state| state.holder().is_some_and(|holder| holder != instance.as_str()))
}

async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}

fn report(shared: &Shared, sequence: u64, echoed_sequence: u64) -> Bytes {
    let published = shared.snapshots.borrow().clone();
    let of = |ty: ResourceType| {
        let position = published.as_ref()?.snapshot.get(ty)?.position;
        Some(Serving {
            r#type: ty.to_string(),
            epoch: position.identity.epoch,
            revision: position.revision.0,
            count: position.count,
        })
    };
    wire::frame(&GlobalReport {
        sequence,
        instance: shared.instance.clone(),
        serving: ResourceType::SECRETS.into_iter().filter_map(of).collect(),
        echoed_sequence,
        commands: Vec::new(),
    })
}
