//! ZoneLink, the zone's end: what this zone has reached, and what happened by name.
//!
//! Decides: when a report is due. Never does: carry a value or a hash; the schema has no room for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::core::insight::NamedEvent;
use crate::kds::wire::{encode_name, pb};
use crate::telemetry::clock;
use pb::kdsync::v1::zone_link_client::ZoneLinkClient;
use pb::kdsync::v1::{NamedEvent as WireEvent, Reached, ZoneReport};

/// The pause between reports when nothing happens, and between attempts to open the link.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the first report of a link waits for the first answers, so that one report tells all.
const OPENING: Duration = Duration::from_millis(500);
/// How many events are kept while global cannot be reached.
const KEPT: usize = 1_000;
/// How many events one report carries.
const PER_REPORT: usize = 200;

/// What the loop hands to the link.
#[derive(Clone, Debug)]
pub(super) struct LinkEnd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    instance: String,
    api_address: String,
    reached: watch::Sender<Vec<Reached>>,
    outbox: Mutex<Outbox>,
    wake: Notify,
}

/// Events on their way: those with a sequence were sent and not yet echoed.
#[derive(Debug, Default)]
struct Outbox {
    events: VecDeque<(Option<u64>, WireEvent)>,
    lost: u64,
    sequence: u64,
}

impl LinkEnd {
    pub(super) fn new(instance: &str, api_address: &str) -> Self {
        Self(Arc::new(Shared {
            instance: instance.to_owned(),
            api_address: api_address.to_owned(),
            reached: watch::Sender::new(Vec::new()),
            outbox: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// What has been reached; told at once if it is news.
    pub(super) fn publish(&self, reached: Vec<Reached>) {
        let news = self.0.reached.send_if_modified(|old| {
            let news = *old != reached;
            *old = reached;
            news
        });
        if news {
            self.0.wake.notify_one();
        }
    }

    /// Something happened to a name.
    pub(super) fn record(&self, event: &NamedEvent) {
        let mut outbox = self.0.outbox.lock();
        if outbox.events.len() == KEPT {
            outbox.events.pop_front();
            outbox.lost += 1;
        }
        outbox.events.push_back((None, encode(event)));
        drop(outbox);
        self.0.wake.notify_one();
    }

    fn report(&self) -> ZoneReport {
        let mut outbox = self.0.outbox.lock();
        outbox.sequence += 1;
        let sequence = outbox.sequence;
        let due = outbox.events.iter_mut().filter(|(sent, _)| sent.is_none()).take(PER_REPORT);
        let events = due
            .map(|(sent, event)| {
                *sent = Some(sequence);
                event.clone()
            })
            .collect();
        ZoneReport {
            sequence,
            instance: self.0.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_address: self.0.api_address.clone(),
            reached: self.0.reached.borrow().clone(),
            events,
            events_lost: outbox.lost,
            ..ZoneReport::default()
        }
    }

    /// Global has every report up to this one.
    fn echoed(&self, sequence: u64) {
        let mut outbox = self.0.outbox.lock();
        outbox.events.retain(|(sent, _)| sent.is_none_or(|sent| sent > sequence));
    }

    /// The link is new: what was not echoed is sent again.
    fn rewind(&self) {
        for (sent, _) in &mut self.0.outbox.lock().events {
            *sent = None;
        }
    }

    /// True if `told` is not what has been reached. Nothing is told of a stream that is still opening.
    fn has_news(&self, told: Option<&[Reached]>) -> bool {
        let reached = self.0.reached.borrow();
        match told {
            Some(told) => *told != **reached,
            None => !reached.is_empty() && reached.iter().all(|reached| reached.complete),
        }
    }

    fn has_more(&self) -> bool {
        self.0.outbox.lock().events.iter().any(|(sent, _)| sent.is_none())
    }
}

fn encode(event: &NamedEvent) -> WireEvent {
    use crate::core::insight::Happening;
    use pb::kdsync::v1::named_event::Kind;
    let kind = match event.kind {
        Happening::Rejected => Kind::Rejected,
        Happening::Accepted => Kind::Accepted,
        Happening::Swept => Kind::Swept,
        Happening::Repaired => Kind::Repaired,
        Happening::Quarantined => Kind::Quarantined,
        Happening::Kept => Kind::Kept,
    };
    WireEvent {
        kind: kind.into(),
        resource: Some(encode_name(&event.key)),
        reason: event.reason.clone(),
        at: event.at.0,
    }
}

/// Keeps the link open for as long as the connection lives.
pub(super) async fn run(channel: Channel, metadata: MetadataMap, end: LinkEnd) {
    loop {
        end.rewind();
        if let Err(status) = hold(channel.clone(), &metadata, &end).await {
            tracing::debug!(code = ?status.code(), "zone link ended");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn hold(channel: Channel, metadata: &MetadataMap, end: &LinkEnd) -> Result<(), tonic::Status> {
    let (reports, outbound) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(outbound));
    *request.metadata_mut() = metadata.clone();
    let mut inbound = ZoneLinkClient::new(channel).link(request).await?.into_inner();
    let mut told: Option<Vec<Reached>> = None;
    let mut beat = clock::now() + OPENING;
    loop {
        let due = end.has_more() || end.has_news(told.as_deref()) || beat <= clock::now();
        tokio::select! { biased;
            permit = reports.reserve(), if due => match permit {
                Ok(permit) => {
                    let report = end.report();
                    told = Some(report.reached.clone());
                    permit.send(report);
                    beat = clock::now() + HEARTBEAT;
                }
                Err(_) => return Ok(()),
            },
            message = inbound.message() => match message? {
                Some(report) => end.echoed(report.echoed_sequence),
                None => return Ok(()),
            },
            () = end.0.wake.notified() => {}
            () = tokio::time::sleep_until(beat.into()) => {}
        }
    }
}
