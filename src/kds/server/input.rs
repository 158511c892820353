//! What a zone's requests and newer snapshots do to a session.
//!
//! Decides: the baseline of a stream, and what an ACK or NACK leaves known. Never does: produce an answer.

use std::sync::Arc;
use std::time::Instant;

use super::{Event, HOLD, Held, Hold, MAX_NAMED, Peer, ProtocolError, ServerSession};
use crate::core::identity::judge;
use crate::core::served::Audience;
use crate::core::{Continuity, Key, Position};
use crate::kds::knobs::{Knobs, Mutation};
use crate::kds::message::{Answer, Nack, Request};
use crate::kds::plan::{Part, Transmit};
use crate::kds::snapshot::TypeSnapshot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl ServerSession {
    /// A session for `peer` that serves `snapshot` once the zone subscribes. A stock zone that is not
    /// `admitted` gets no secrets.
    #[must_use]
    pub fn new(peer: Peer, snapshot: Arc<TypeSnapshot>, admitted: bool, knobs: Knobs) -> Self {
        Self {
            ty: snapshot.ty,
            peer,
            knobs,
            snapshot,
            admitted,
            held: Held::Silent,
            unknown: BTreeSet::new(),
            parked: BTreeMap::new(),
            sending: None,
            in_flight: None,
            trusted: false,
            ghosts: BTreeSet::new(),
            refused_at: None,
            hold: Hold::default(),
            attempts: None,
            greet: false,
            withheld: None,
            size_level: 0,
            named: 0,
            events: VecDeque::new(),
        }
    }

    /// A request of this type arrived.
    ///
    /// # Errors
    /// If the stream must end.
    pub fn on_request(&mut self, request: &Request, now: Instant) -> Result<(), ProtocolError> {
        if !request.nonce.is_empty() {
            self.on_reply(request, now);
            return self.on_named(request);
        }
        if self.held != Held::Silent {
            // A second subscription. Answering it would let a peer that "ACKs" with empty nonces spin.
            let named = request.subscribe.iter().any(|name| name != "*");
            if !named || self.is_stock() {
                self.events.push_back(Event::Ignored);
                return Ok(());
            }
            return self.on_named(request);
        }
        self.open(request.position);
        self.events.push_back(Event::Opened);
        self.on_named(request)
    }

    /// A newer snapshot was published.
    pub fn on_snapshot(&mut self, next: Arc<TypeSnapshot>) {
        if next.position == self.snapshot.position {
            return;
        }
        let changed = next.changed_since(self.snapshot.position.revision).unwrap_or_default();
        if self.unknown.iter().any(|key| changed.contains(key)) {
            self.hold = Hold::default();
        }
        self.parked.retain(|key, refused| {
            let version = next.entries.get(key).map(|entry| entry.version);
            version == *refused
        });
        self.snapshot = next;
        if let Held::Apart { stated, verdict, .. } = self.held {
            match self.continuity(&stated) {
                again if again == verdict => {}
                Continuity::Foreign => {
                    self.held = Held::Apart { stated, verdict: Continuity::Foreign, told: false }
                }
                _ => self.open(Some(stated)),
            }
        }
    }

    /// An operator admitted the zone.
    pub fn on_admitted(&mut self) {
        self.admitted = true;
    }

    pub(super) fn is_stock(&self) -> bool {
        matches!(self.peer, Peer::Stock { .. })
    }

    pub(super) fn audience(&self) -> Audience {
        match self.peer {
            Peer::Kdsync { .. } => Audience::All,
            Peer::Stock { audience, .. } => audience,
        }
    }

    fn continuity(&self, stated: &Position) -> Continuity {
        let recorded = self.snapshot.recorded(stated.revision);
        judge(stated, &self.snapshot.position, recorded, self.snapshot.oldest)
    }

    /// KDS-4: the opening request is the baseline.
    fn open(&mut self, stated: Option<Position>) {
        self.greet = !self.is_stock() && !self.knobs.broken(Mutation::FirstMayBeSilent);
        let stated = stated.filter(|_| !self.is_stock());
        self.held = match stated {
            None => Held::Nothing,
            Some(_) if self.knobs.broken(Mutation::IgnoreStatement) => {
                Held::At(self.snapshot.position.revision)
            }
            Some(stated) => match self.continuity(&stated) {
                Continuity::Equal | Continuity::Continues => Held::At(stated.revision),
                Continuity::Pruned => Held::Old(stated.revision),
                verdict => Held::Apart { stated, verdict, told: false },
            },
        };
    }

    /// KDS-7: a named subscribe means "I hold something else".
    fn on_named(&mut self, request: &Request) -> Result<(), ProtocolError> {
        if self.is_stock() || self.knobs.broken(Mutation::NamedSubscribeIgnored) {
            return Ok(());
        }
        let keys = request.subscribe.iter().filter(|name| *name != "*");
        for key in keys.filter_map(|name| Key::from_wire_name(self.ty, name)) {
            self.named += 1;
            if self.named > MAX_NAMED {
                return Err(ProtocolError::TooManyNames);
            }
            self.parked.remove(&key);
            self.unknown.insert(key);
        }
        Ok(())
    }

    /// An ACK or NACK.
    fn on_reply(&mut self, request: &Request, now: Instant) {
        let matches = |sent: &Transmit| sent.nonce() == request.nonce;
        let Some(sent) = self.in_flight.take_if(|sent| matches(sent)) else {
            self.events.push_back(Event::Stale);
            return;
        };
        let nack = request.nack.clone().filter(|_| !self.knobs.broken(Mutation::NackIsAck));
        let last = sent.is_last();
        self.sending = if last { None } else { Some((sent.plan.clone(), sent.part + 1)) };
        match &nack {
            None => self.on_ack(&sent),
            Some(nack) if !nack.rejected.is_empty() => self.on_named_nack(&sent, nack),
            Some(_) => self.on_whole_nack(&sent, now),
        }
        let revision = sent.plan.position.revision;
        match nack {
            Some(nack) => self.events.push_back(Event::Nacked { nack }),
            // A zone that was told that it stands apart took nothing.
            None if matches!(sent.plan.answer, Answer::Behind | Answer::Foreign) => {}
            None => {
                let complete = last && revision == self.snapshot.position.revision;
                self.events.push_back(Event::Acked { revision, complete });
            }
        }
    }

    fn on_ack(&mut self, sent: &Transmit) {
        for key in sent.part().into_iter().flat_map(Part::keys) {
            self.unknown.remove(key);
        }
        if self.unknown.is_empty() {
            self.hold = Hold::default();
        }
        self.trusted = true;
        self.ghosts.clear();
        self.refused_at = None;
    }

    /// KDS-6 from a kdsync zone: the others were taken; these are parked until their version changes.
    fn on_named_nack(&mut self, sent: &Transmit, nack: &Nack) {
        self.on_ack(sent);
        let Some(part) = sent.part() else { return };
        for rejection in &nack.rejected {
            let upsert = part.upserts.iter().find(|entry| entry.key == rejection.key);
            if let Some(entry) = upsert {
                let current = self.snapshot.entries.get(&entry.key).map(|now| now.version);
                if current == Some(entry.version) {
                    self.parked.insert(entry.key.clone(), current);
                }
            }
        }
    }

    /// KDS-6 without names: everything in the message, upserts and removals, is unknown.
    fn on_whole_nack(&mut self, sent: &Transmit, now: Instant) {
        let keys = sent.part().into_iter().flat_map(Part::keys).cloned();
        if self.is_stock() && !self.trusted {
            self.ghosts.extend(keys);
            self.refused_at = Some((now, sent.plan.position.revision));
            self.held = if self.knobs.broken(Mutation::PartialBeforeAck) { self.held } else { Held::Nothing };
        } else {
            self.unknown.extend(keys);
        }
        self.hold.delay = (self.hold.delay * 2).clamp(HOLD.0, HOLD.1);
        self.hold.until = Some(now + self.hold.delay);
    }
}
