//! What a session sends next, and when to ask it again.
//!
//! Decides: the next answer. Never does: look at a request; all it knows is what the zone holds.

use std::sync::Arc;
use std::time::Instant;

use smol_str::SmolStr;

use super::{Event, Held, Peer, ProtocolError, SETTLE, ServerSession};
use crate::core::served::Audience;
use crate::core::{Continuity, Key, ResourceType};
use crate::kds::knobs::Mutation;
use crate::kds::message::Answer;
use crate::kds::plan::{Cut, Part, Plan, Transmit};

impl ServerSession {
    /// The next answer, if one may be sent now.
    ///
    /// # Errors
    /// If the stream must end.
    pub fn poll_transmit(&mut self, now: Instant) -> Result<Option<Transmit>, ProtocolError> {
        if self.in_flight.is_some() && !self.knobs.broken(Mutation::ManyInFlight) {
            return Ok(None);
        }
        if let Some((plan, part)) = self.sending.take() {
            return Ok(Some(self.send(plan, part)));
        }
        let Some(plan) = self.next_plan(now)? else { return Ok(None) };
        for key in &plan.oversize {
            self.events.push_back(Event::Oversize(key.clone()));
        }
        if plan.parts.is_empty() {
            // Nothing of it is for this zone, or it is too large for it. What is held back after a NACK
            // stays due.
            let done: Vec<Key> = self.due(now).cloned().collect();
            for key in &done {
                self.unknown.remove(key);
            }
            self.held = Held::At(plan.position.revision);
            return Ok(None);
        }
        Ok(Some(self.send(plan, 0)))
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`ServerSession::poll_transmit`] again although nothing happened: always later than
    /// `now`, so that nothing can loop hot.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let at = match self.refused_at {
            Some((at, revision)) if revision != self.snapshot.position.revision => Some(at + SETTLE),
            Some(_) => self.hold.until,
            None if self.unknown.is_empty() => None,
            None => self.hold.until,
        };
        at.filter(|at| *at > now)
    }

    fn send(&mut self, plan: Arc<Plan>, part: usize) -> Transmit {
        if part == 0 {
            self.begin(&plan);
        }
        let transmit = Transmit { plan, part, attempt: self.attempts.map_or(0, |(_, count)| count) };
        if let Some(part) = transmit.part() {
            let revision = transmit.plan.position.revision;
            let (upserts, removed) = (part.upserts.len(), part.removed.len());
            self.events.push_back(Event::Sent { revision, upserts, removed });
        }
        self.in_flight = Some(transmit.clone());
        transmit
    }

    /// Takes the plan's end as the zone's position. What of the plan is refused becomes an exception when
    /// the refusal arrives; if the stream dies instead, this session dies with it.
    fn begin(&mut self, plan: &Arc<Plan>) {
        let revision = plan.position.revision;
        self.attempts = match self.attempts {
            Some((last, count)) if last == revision => Some((revision, count + 1)),
            _ => Some((revision, 0)),
        };
        self.greet = false;
        match plan.answer {
            Answer::Behind | Answer::Foreign => {}
            _ => self.held = Held::At(revision),
        }
    }

    fn next_plan(&mut self, now: Instant) -> Result<Option<Arc<Plan>>, ProtocolError> {
        match self.peer {
            Peer::Kdsync { page } => Ok(self.plan_for_kdsync(Cut::Pages(page), now)),
            Peer::Stock { max_message, .. } => self.plan_for_stock(max_message, now),
        }
    }

    fn plan_for_kdsync(&mut self, cut: Cut, now: Instant) -> Option<Arc<Plan>> {
        let snapshot = self.snapshot.clone();
        match self.held {
            Held::Silent => None,
            Held::Nothing => Some(snapshot.whole(Audience::All, cut)),
            Held::Old(stated) => Some(snapshot.pruned(stated, cut)),
            Held::Apart { told: true, .. } => None,
            Held::Apart { stated, verdict, told: false } => {
                self.held = Held::Apart { stated, verdict, told: true };
                self.events.push_back(Event::Apart(verdict));
                let answer = if verdict == Continuity::Behind { Answer::Behind } else { Answer::Foreign };
                Some(snapshot.only([], answer, Audience::All, cut))
            }
            Held::At(revision) => {
                if self.due(now).next().is_some() {
                    let Some(mut keys) = snapshot.changed_since(revision) else {
                        return Some(snapshot.pruned(revision, cut));
                    };
                    keys.extend(self.due(now).cloned());
                    return Some(snapshot.only(&keys, Answer::Since(revision), Audience::All, cut));
                }
                if revision != snapshot.position.revision {
                    let since = snapshot.since(revision, Audience::All, cut);
                    return Some(since.unwrap_or_else(|| snapshot.pruned(revision, cut)));
                }
                self.greet.then(|| snapshot.only([], Answer::Equal, Audience::All, cut))
            }
        }
    }

    fn plan_for_stock(&mut self, max: usize, now: Instant) -> Result<Option<Arc<Plan>>, ProtocolError> {
        if self.held == Held::Silent {
            return Ok(None);
        }
        if self.ty.is_secret() && !self.admitted {
            self.withhold(Some("this store has never served the zone; an operator must admit it".to_owned()));
            return Ok(None);
        }
        let snapshot = self.snapshot.clone();
        match self.held {
            Held::At(revision) if self.trusted || self.knobs.broken(Mutation::PartialBeforeAck) => {
                self.measure(None, max);
                let audience = self.audience();
                if self.due(now).next().is_none() {
                    if revision == snapshot.position.revision {
                        return Ok(None);
                    }
                    let plan = snapshot.since(revision, audience, Cut::Split(max));
                    let plan = plan.ok_or(ProtocolError::TooFarBehind)?;
                    return Ok(Some(plan));
                }
                let mut keys = snapshot.changed_since(revision).ok_or(ProtocolError::TooFarBehind)?;
                keys.extend(self.due(now).cloned());
                Ok(Some(snapshot.only(&keys, Answer::Since(revision), audience, Cut::Split(max))))
            }
            _ => Ok(self.first_for_stock(max, now)),
        }
    }

    /// KDS-8: the whole set in one message, or nothing.
    fn first_for_stock(&mut self, max: usize, now: Instant) -> Option<Arc<Plan>> {
        if let Some((at, revision)) = self.refused_at {
            let changed = revision != self.snapshot.position.revision;
            let ready = if changed { Some(at + SETTLE) } else { self.hold.until };
            if ready.is_some_and(|ready| now < ready) {
                return None;
            }
        }
        let plan = if self.ghosts.is_empty() {
            self.snapshot.whole(self.audience(), Cut::One)
        } else {
            self.snapshot.whole_again(self.audience(), &self.ghosts)
        };
        let size = plan.parts.first().map(Part::size).unwrap_or_default();
        self.measure(Some(size), max);
        if size > max {
            let reason = format!(
                "the whole set is {size} bytes, more than the {max} bytes the zone takes in one message"
            );
            self.withhold(Some(reason));
            return None;
        }
        self.withhold(None);
        Some(plan)
    }

    /// Names that are exceptions and may be sent now.
    fn due(&self, now: Instant) -> impl Iterator<Item = &Key> {
        let held = self.hold.until.is_some_and(|until| now < until);
        self.unknown.iter().filter(move |key| !held && !self.parked.contains_key(*key))
    }

    fn withhold(&mut self, reason: Option<String>) {
        if self.withheld != reason {
            self.withheld.clone_from(&reason);
            self.events.push_back(Event::Withheld(reason));
        }
    }

    /// Tells when the set comes near the limit of a stock zone, each time a level is crossed.
    fn measure(&mut self, size: Option<usize>, limit: usize) {
        let bytes = size.unwrap_or_else(|| self.snapshot.whole_size(self.audience()));
        let level = u8::from(bytes * 5 >= limit * 4) + u8::from(bytes > limit);
        if level != self.size_level {
            self.size_level = level;
            self.events.push_back(Event::Size { bytes, limit });
        }
    }

    /// The type of this session.
    #[must_use]
    pub fn ty(&self) -> ResourceType {
        self.ty
    }

    /// Names that the zone refused and that are parked.
    #[must_use]
    pub fn parked(&self) -> Vec<SmolStr> {
        self.parked.keys().map(|key| key.wire_name().into()).collect()
    }
}
