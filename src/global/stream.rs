//! One zone's `GlobalToZoneSync` stream.
//!
//! Decides: in which order input, output and time reach the sessions. Never does: wait for the peer
//! inside the loop; sending is an arm of its own, so a zone that does not read stalls nothing. A stream
//! never ends with OK: a 2.2.9 zone would not open it again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::body::{Outbound, gzip, shutting_down};
use super::caller::{Caller, audience, printable};
use super::metrics::Reply;
use super::observe::Observer;
use super::snapshots::Published;
use super::zones::{Ended, Introduction, Refused, Seat, Use};
use super::{Shared, admissions};
use crate::core::ResourceType;
use crate::core::insight::ZoneClass;
use crate::core::rivals::Verdict;
use crate::kds::knobs::Knobs;
use crate::kds::message::Request;
use crate::kds::plan::{Part, Transmit};
use crate::kds::server::{Peer, ServerSession};
use crate::kds::wire::decode_request;
use crate::kds::wire::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use crate::telemetry::clock;

/// Larger answers are encoded and compressed beside the runtime, in bytes.
const LARGE: usize = 64 * 1024;
/// How many types that nobody owns are remembered per stream, to name each once.
const STRANGERS: usize = 128;

/// A call that was accepted.
pub(super) struct Call {
    pub(super) caller: Caller,
    pub(super) inbound: Streaming<DeltaDiscoveryRequest>,
    pub(super) outbound: Outbound,
    pub(super) cancel: CancellationToken,
}

/// Serves one call to its end.
pub(super) async fn run(shared: Arc<Shared>, call: Call) {
    let _open = shared.metrics.stream();
    let Call { caller, mut inbound, outbound, cancel } = call;
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => shutting_down(),
        () = outbound.frames.closed() => Status::cancelled("the zone is gone"),
        status = serve(&shared, &caller, &mut inbound, &outbound) => status,
    };
    tracing::debug!(zone = %caller.zone, code = ?status.code(), reason = status.message(), "stream ended");
    outbound.finish(status);
}

/// Everything but shutdown and the peer's going.
async fn serve(
    shared: &Arc<Shared>,
    caller: &Caller,
    inbound: &mut Streaming<DeltaDiscoveryRequest>,
    outbound: &Outbound,
) -> Status {
    let Some(entry) = shared.zones.enter(&caller.zone) else {
        return Status::resource_exhausted("too many zones");
    };
    // Before the first snapshot an answer would be an empty one, which is an order to delete.
    let mut snapshots = shared.snapshots.clone();
    let published = match snapshots.wait_for(Option::is_some).await {
        Ok(published) => published.clone(),
        Err(_) => return shutting_down(),
    };
    let Some(published) = published else { return shutting_down() };
    // A stock zone tells who it is in its first request.
    let first = match next(inbound).await {
        Ok(request) => request,
        Err(status) => return status,
    };
    let class = caller.class(&first.node.version);
    let seat = match take_seat(shared, &entry, caller, class, &first) {
        Ok(seat) => seat,
        Err(status) => return status,
    };
    if let Err(status) = admit(shared, &entry, class).await {
        return status;
    }
    let stream = Stream {
        observer: Observer::new(shared.clone(), entry.zone().clone()),
        shared: shared.clone(),
        class,
        takes_gzip: caller.takes_gzip,
        zone: caller.zone.clone(),
        admission: entry.zone().admission(),
        published,
        sessions: BTreeMap::new(),
        strangers: BTreeSet::new(),
        staged: Staged::Nothing,
    };
    connected(shared, caller, &seat);
    let status = stream.run(first, seat, snapshots, inbound, outbound).await;
    let at = clock::wall();
    let reason = format!("the stream ended: {}", printable(status.message(), 200));
    shared.telemetry.events.record(at, "disconnected", &caller.zone, None, reason);
    status
}

fn connected(shared: &Shared, caller: &Caller, seat: &Seat) {
    let address = &caller.address;
    let version = seat.zone.with(|state| state.status.version.clone());
    tracing::info!(zone = %caller.zone, address, version, kdsync = caller.is_kdsync, "zone connected");
    let text = format!("connected from {address}");
    shared.telemetry.events.record(clock::wall(), "connected", &caller.zone, None, text);
}

async fn next(inbound: &mut Streaming<DeltaDiscoveryRequest>) -> Result<Request, Status> {
    match inbound.message().await {
        Ok(Some(request)) => Ok(decode_request(request)),
        Ok(None) => Err(Status::unavailable("the zone closed its side; open the stream again")),
        Err(status) => Err(status),
    }
}

fn take_seat(
    shared: &Shared,
    entry: &Use,
    caller: &Caller,
    class: ZoneClass,
    first: &Request,
) -> Result<Seat, Status> {
    let told = || (!first.node.instance.is_empty()).then(|| printable(&first.node.instance, 64).into());
    // Without an id, the same host is the same instance: it reconnects from another port.
    let host = || caller.address.rsplit_once(':').map_or(caller.address.as_str(), |(host, _)| host).into();
    let version = if caller.version.is_empty() { &first.node.version } else { caller.version.as_str() };
    let who = Introduction {
        instance: caller.instance.clone().or_else(told).unwrap_or_else(host),
        address: caller.address.clone(),
        class,
        version: printable(version, 64),
    };
    let zone = &caller.zone;
    match entry.claim(&shared.zones, &who, clock::now()) {
        Ok((seat, verdict)) => {
            if let Verdict::Replace { older, alarm } = verdict {
                tracing::warn!(%zone, newer = caller.address, older, "another instance took the zone's name");
                let text = format!("{} took the name over from {older}", caller.address);
                shared.happened("replaced", zone, text);
                if alarm {
                    rivals(shared, entry, &caller.address, &older);
                }
            }
            Ok(seat)
        }
        Err(Refused { holder, wait }) => {
            rivals(shared, entry, &holder, &caller.address);
            let text = format!(
                "another instance of zone \"{zone}\" at {holder} has served longer and stays; give this one \
                 another name or stop it"
            );
            let mut status = Status::resource_exhausted(text);
            let wait =
                tonic::metadata::MetadataValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            status.metadata_mut().insert("grpc-retry-pushback-ms", wait);
            Err(status)
        }
    }
}

/// The alarm about two instances that alternate.
fn rivals(shared: &Shared, entry: &Use, stays: &str, other: &str) {
    let zone = &entry.zone().name;
    tracing::error!(%zone, stays, other, "two live instances share one zone name");
    let text =
        format!("two live instances share the name of zone \"{zone}\": {stays} stays, {other} is refused");
    entry.zone().with(|state| state.alarm(text.clone()));
    shared.happened("rivals", zone, text);
}

/// Makes the zone's resource and finds out whether it may be served secrets.
async fn admit(shared: &Shared, entry: &Use, class: ZoneClass) -> Result<(), Status> {
    let name = &entry.zone().name;
    let is_stock = class != ZoneClass::Kdsync;
    if is_stock {
        // Before the row is read, so that a mark set in between is not missed.
        shared.zones.wait(name);
    }
    let admit = is_stock.then_some(shared.config.admit);
    match admissions::contact(shared, name, admit).await {
        Ok(admitted) if admitted || !is_stock => shared.zones.admit(name),
        Ok(_) => entry.zone().set_admitted(false),
        Err(error) => {
            tracing::error!(zone = %name, %error, "zone cannot be looked up");
            return Err(Status::unavailable("the store of this global does not answer"));
        }
    }
    Ok(())
}

/// The answer that goes next.
enum Staged {
    Nothing,
    Encoding(ResourceType, Pin<Box<dyn Future<Output = Bytes> + Send>>),
    Ready(ResourceType, Bytes),
}

struct Stream {
    shared: Arc<Shared>,
    observer: Observer,
    zone: SmolStr,
    class: ZoneClass,
    takes_gzip: bool,
    admission: watch::Receiver<bool>,
    published: Published,
    sessions: BTreeMap<ResourceType, ServerSession>,
    strangers: BTreeSet<SmolStr>,
    staged: Staged,
}

impl Stream {
    async fn run(
        mut self,
        first: Request,
        mut seat: Seat,
        mut snapshots: watch::Receiver<Option<Published>>,
        inbound: &mut Streaming<DeltaDiscoveryRequest>,
        outbound: &Outbound,
    ) -> Status {
        if let Err(status) = self.on_request(&first, clock::now()) {
            return status;
        }
        loop {
            let deadline = match self.advance(clock::now()) {
                Ok(deadline) => deadline,
                Err(status) => return status,
            };
            let sends = matches!(self.staged, Staged::Ready(..));
            tokio::select! {
                biased;
                ended = &mut seat.ended => return told(ended.unwrap_or(Ended::Again)),
                permit = outbound.frames.reserve(), if sends => match permit {
                    Ok(permit) => if let Some(frame) = self.take_frame() { permit.send(frame) },
                    Err(_) => return Status::cancelled("the zone is gone"),
                },
                (ty, frame) = encoded(&mut self.staged) => self.staged = Staged::Ready(ty, frame),
                request = next(inbound) => {
                    let request = match request {
                        Ok(request) => request,
                        Err(status) => return status,
                    };
                    if let Err(status) = self.on_request(&request, clock::now()) {
                        return status;
                    }
                }
                Ok(()) = snapshots.changed() => {
                    let newest = snapshots.borrow_and_update().clone();
                    if let Some(newest) = newest {
                        self.on_published(newest);
                    }
                }
                Ok(()) = self.admission.changed() => self.on_admission(),
                () = until(deadline) => {}
            }
        }
    }

    fn on_request(&mut self, request: &Request, now: Instant) -> Result<(), Status> {
        let ty = request.type_url.parse().ok().filter(|ty| self.published.snapshot.get(*ty).is_some());
        let Some(ty) = ty else {
            // An empty answer to a type that we do not own in full is an order to delete it.
            self.shared.metrics.received(Reply::UnknownType);
            if self.strangers.len() < STRANGERS && !self.strangers.contains(&request.type_url) {
                let type_url = printable(&request.type_url, 64);
                tracing::debug!(zone = %self.zone, type_url, "type is not owned here; silent on it");
                self.strangers.insert(request.type_url.clone());
            }
            return Ok(());
        };
        if !self.sessions.contains_key(&ty) {
            let Some(set) = self.published.snapshot.get(ty) else { return Ok(()) };
            let peer = match self.class {
                ZoneClass::Kdsync => Peer::Kdsync { page: self.shared.config.page_size },
                class => Peer::Stock {
                    audience: audience(class),
                    max_message: request.node.max_message.unwrap_or(self.shared.config.max_message),
                },
            };
            if let Peer::Stock { audience, max_message } = peer {
                self.observer.takes(ty, audience, max_message);
            }
            let admitted = *self.admission.borrow();
            self.sessions.insert(ty, ServerSession::new(peer, set.clone(), admitted, Knobs::default()));
        }
        let Some(session) = self.sessions.get_mut(&ty) else { return Ok(()) };
        let outcome = session.on_request(request, now);
        self.drain(ty, now);
        outcome.map_err(|error| Status::aborted(error.to_string()))
    }

    fn on_published(&mut self, newest: Published) {
        for (ty, session) in &mut self.sessions {
            let before = self.published.snapshot.get(*ty);
            if let Some(set) = newest.snapshot.get(*ty) {
                if before.is_some_and(|before| before.position != set.position) {
                    self.observer.published(*ty, set.position.revision, newest.at);
                }
                session.on_snapshot(set.clone());
            }
        }
        self.published = newest;
    }

    fn on_admission(&mut self) {
        if *self.admission.borrow_and_update() {
            for session in self.sessions.values_mut() {
                session.on_admitted();
            }
        }
    }

    /// Stages the next answer, if there is none, and tells when to look again.
    fn advance(&mut self, now: Instant) -> Result<Option<Instant>, Status> {
        let types: Vec<_> = self.sessions.keys().copied().collect();
        for ty in types {
            if !matches!(self.staged, Staged::Nothing) {
                break;
            }
            let Some(session) = self.sessions.get_mut(&ty) else { continue };
            let outcome = session.poll_transmit(now);
            self.drain(ty, now);
            match outcome {
                Ok(Some(transmit)) => self.staged = self.stage(ty, transmit),
                Ok(None) => {}
                Err(error) => return Err(Status::aborted(error.to_string())),
            }
        }
        if matches!(self.staged, Staged::Nothing) {
            return Ok(self.sessions.values().filter_map(|session| session.poll_timeout(now)).min());
        }
        Ok(None)
    }

    fn drain(&mut self, ty: ResourceType, now: Instant) {
        let Some(session) = self.sessions.get_mut(&ty) else { return };
        while let Some(event) = session.poll_event() {
            self.observer.record(ty, event, now);
        }
    }

    fn stage(&self, ty: ResourceType, transmit: Transmit) -> Staged {
        let takes_gzip = self.takes_gzip;
        if transmit.part().map_or(0, Part::size) <= LARGE {
            return Staged::Ready(ty, encode(&transmit, takes_gzip));
        }
        let large = self.shared.large.clone();
        Staged::Encoding(
            ty,
            Box::pin(async move {
                // The semaphore is never closed; without a permit it works too, only less well.
                let permit = large.acquire_owned().await;
                let fallback = transmit.clone();
                let work = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    encode(&transmit, takes_gzip)
                });
                // Only a runtime that is shutting down refuses.
                work.await.unwrap_or_else(|_| encode(&fallback, takes_gzip))
            }),
        )
    }

    fn take_frame(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.staged, Staged::Nothing) {
            Staged::Ready(ty, frame) => {
                self.shared.metrics.sent(ty, frame.len());
                Some(frame)
            }
            other => {
                self.staged = other;
                None
            }
        }
    }
}

fn encode(transmit: &Transmit, takes_gzip: bool) -> Bytes {
    let compressed = if takes_gzip { transmit.gzipped(gzip) } else { None };
    compressed.unwrap_or_else(|| transmit.frame())
}

async fn encoded(staged: &mut Staged) -> (ResourceType, Bytes) {
    match staged {
        Staged::Encoding(ty, work) => (*ty, work.await),
        _ => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What the older stream of a zone is told.
fn told(ended: Ended) -> Status {
    match ended {
        Ended::Again => Status::aborted("this instance opened a newer stream"),
        Ended::Replaced(address) => {
            Status::aborted(format!("another instance at {address} took the zone's name"))
        }
    }
}
