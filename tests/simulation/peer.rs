//! One zone and its stream, and what the server at the other end keeps of it.
//!
//! Decides: what a real global checks of its own answers: one in flight, nonces used once, whole first
//! answers. Never does: order events; the world does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use smol_str::SmolStr;

use super::kuma_global::{KumaGlobal, KumaStream};
use super::kuma_zone::{Kuma, KumaZone};
use super::zone::Zone;
use super::{Stats, Step};
use crate::core::served::Audience;
use crate::core::{Key, ResourceType};
use crate::kds::knobs::Knobs;
use crate::kds::message::{Answer, Request, Response};
use crate::kds::plan::{Part, Transmit};
use crate::kds::server::{Event, Peer as PeerKind, ServerSession};
use crate::kds::snapshot::TypeSnapshot;
use crate::kds::wire::{self, Message as _};

pub(super) type Sets = BTreeMap<ResourceType, Arc<TypeSnapshot>>;

/// A zone, ours or stock.
pub(super) enum End {
    Zone(Box<Zone>),
    Kuma(KumaZone),
}

pub(super) struct Peer {
    pub(super) end: End,
    pub(super) stream: Option<Stream>,
    /// The zone wants a stream.
    pub(super) dialing: bool,
    pub(super) admitted: bool,
    /// Another store than the one that admitted it is in place.
    pub(super) suspended: bool,
}

pub(super) struct Stream {
    pub(super) replica: usize,
    pub(super) server: Server,
    pub(super) up: VecDeque<Request>,
    pub(super) down: VecDeque<Response>,
}

pub(super) enum Server {
    Ours(BTreeMap<ResourceType, Serving>),
    Kuma(KumaStream),
}

/// One session of a kdsync global, with what the checks remember of it.
pub(super) struct Serving {
    session: ServerSession,
    snapshot: Arc<TypeSnapshot>,
    in_flight: Option<SmolStr>,
    acked: bool,
    nonces: BTreeSet<SmolStr>,
}

impl Peer {
    /// As a kdsync global sees this zone.
    fn kind(&self, page: usize) -> PeerKind {
        match &self.end {
            End::Zone(_) => PeerKind::Kdsync { page },
            End::Kuma(zone) => PeerKind::Stock {
                audience: audience(zone.version),
                max_message: zone.max_message.unwrap_or(10 * 1024 * 1024),
            },
        }
    }

    /// A request reaches the server. An error of the second kind ends the stream.
    pub(super) fn deliver_up(
        &mut self,
        sets: &Sets,
        page: usize,
        knobs: Knobs,
        kuma: Option<&KumaGlobal>,
        now: Instant,
    ) -> Result<(), String> {
        let kind = self.kind(page);
        let admitted = self.admitted && !self.suspended;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let Some(request) = stream.up.pop_front() else { return Ok(()) };
        match (&mut stream.server, kuma) {
            (Server::Kuma(state), Some(global)) => global.on_request(state, &request),
            (Server::Ours(sessions), _) => {
                let Ok(ty) = request.type_url.parse::<ResourceType>() else { return Ok(()) };
                let Some(snapshot) = sets.get(&ty) else { return Ok(()) };
                let serving = sessions.entry(ty).or_insert_with(|| Serving {
                    session: ServerSession::new(kind, snapshot.clone(), admitted, knobs),
                    snapshot: snapshot.clone(),
                    in_flight: None,
                    acked: false,
                    nonces: BTreeSet::new(),
                });
                if serving.in_flight.as_ref() == Some(&request.nonce) {
                    serving.in_flight = None;
                    serving.acked |= request.nack.is_none();
                }
                return serving.session.on_request(&request, now).map_err(|error| error.to_string());
            }
            (Server::Kuma(_), None) => {}
        }
        Ok(())
    }

    pub(super) fn on_snapshot(&mut self, sets: &Sets) {
        let Some(Stream { server: Server::Ours(sessions), .. }) = &mut self.stream else { return };
        for (ty, serving) in sessions {
            if let Some(set) = sets.get(ty) {
                serving.session.on_snapshot(set.clone());
                serving.snapshot = set.clone();
            }
        }
    }

    pub(super) fn admit(&mut self) {
        self.admitted = true;
        if let Some(Stream { server: Server::Ours(sessions), .. }) = &mut self.stream
            && !self.suspended
        {
            for serving in sessions.values_mut() {
                serving.session.on_admitted();
            }
        }
    }

    /// Lets the server send what it may send. `Ok(false)` means that it ended the stream.
    pub(super) fn poll_server(
        &mut self,
        kuma: Option<&KumaGlobal>,
        stats: &mut Stats,
        now: Instant,
    ) -> Result<bool, String> {
        let kind = self.kind(0);
        let admitted = self.admitted && !self.suspended;
        let Some(stream) = &mut self.stream else { return Ok(true) };
        match &mut stream.server {
            Server::Kuma(state) => {
                while let Some(response) = kuma.and_then(|global| global.poll(state)) {
                    stream.down.push_back(response);
                }
            }
            Server::Ours(sessions) => {
                for serving in sessions.values_mut() {
                    // Twice: a session that sends again without a reply is caught by its own check.
                    for _ in 0..2 {
                        let outcome = serving.session.poll_transmit(now);
                        serving.drain(stats);
                        let transmit = match outcome {
                            Ok(Some(transmit)) => transmit,
                            Ok(None) => break,
                            Err(_) => return Ok(false),
                        };
                        serving.judge(&transmit, kind, admitted)?;
                        stats.answer(&transmit);
                        stream.down.push_back(read(&transmit));
                    }
                }
            }
        }
        Ok(true)
    }

    pub(super) fn server_timeout(&self, now: Instant) -> Option<Instant> {
        let Some(Stream { server: Server::Ours(sessions), .. }) = &self.stream else { return None };
        sessions.values().filter_map(|serving| serving.session.poll_timeout(now)).min()
    }
}

pub(super) fn audience(version: Kuma) -> Audience {
    match version {
        Kuma::V2_14 => Audience::All,
        Kuma::V2_2 => Audience::Legacy,
    }
}

/// Over the wire and back.
fn read(transmit: &Transmit) -> Response {
    let frame = transmit.frame();
    let message = wire::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse::decode(frame.slice(5..));
    wire::decode_response(message.unwrap()).unwrap()
}

impl Serving {
    fn drain(&mut self, stats: &mut Stats) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Nacked { .. } => stats.nacked += 1,
                Event::Withheld(Some(_)) => stats.withheld += 1,
                Event::Stale => stats.stale += 1,
                _ => {}
            }
        }
    }

    /// What must be true of every answer of a kdsync global.
    fn judge(&mut self, transmit: &Transmit, kind: PeerKind, admitted: bool) -> Step {
        let (ty, nonce) = (transmit.plan.ty, transmit.nonce());
        if let Some(other) = self.in_flight.replace(nonce.clone()) {
            return Err(format!("{ty}: {nonce} was sent while {other} was in flight (KDS-5)"));
        }
        if !self.nonces.insert(nonce.clone()) {
            return Err(format!("{ty}: nonce {nonce} was used twice"));
        }
        let PeerKind::Stock { audience, max_message } = kind else { return Ok(()) };
        let part = transmit.part().unwrap();
        if transmit.header().is_some() {
            return Err("a stock zone got a kdsync header".to_owned());
        }
        if ty.is_secret() && !admitted {
            return Err(format!("{ty}: sent to a zone that nobody admitted"));
        }
        if part.size() > max_message {
            return Err(format!("{ty}: {} bytes to a zone that takes {max_message}", part.size()));
        }
        self.judge_whole(transmit, part, audience)?;
        let names: BTreeSet<&SmolStr> = part.upserts.iter().map(|entry| &entry.key.name).collect();
        if self.acked && part.removed.iter().any(|key| names.contains(&key.name)) {
            return Err(format!("{ty}: a removal and an upsert of one name in one message (KDS-8)"));
        }
        Ok(())
    }

    fn judge_whole(&self, transmit: &Transmit, part: &Part, audience: Audience) -> Step {
        let ty = transmit.plan.ty;
        if self.acked || !ty.is_secret() {
            return Ok(());
        }
        let visible = self.snapshot.entries.iter().map(|(key, _)| key).filter(|key| audience.sees(key));
        let visible: BTreeSet<&Key> = visible.collect();
        let sent: BTreeSet<&Key> = part.upserts.iter().map(|entry| &entry.key).collect();
        if sent != visible || transmit.plan.answer != Answer::Whole {
            return Err(format!("{ty}: an answer before the first ACK is not the whole set (KDS-8)"));
        }
        Ok(())
    }
}
