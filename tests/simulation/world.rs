//! One life: a global, its zones, the network between them, and everything that can happen to them.
//!
//! Decides: what happens next, drawn from the seed, and whether all zones agree with global in the end.
//! Never does: act twice on one seed in different ways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::global::{Branch, secret};
use super::kuma_global::{KumaGlobal, KumaStream};
use super::kuma_zone::{Kuma, KumaZone, Row};
use super::peer::{End, Peer, Server, Sets, Stream};
use super::store::{Fault, SimStore, Tamper};
use super::zone::Zone;
use super::{Profile, Stats, Step};
use crate::core::{Key, Labels, Resource};
use crate::kds::client::{Effect, Global};
use crate::kds::knobs::{Knobs, Mutation};

/// More steps than this without time passing are a hot loop.
pub(super) const HOT: usize = 20_000;

/// The global of this world.
pub(super) enum Side {
    Ours(Box<Ours>),
    Kuma(KumaGlobal),
}

pub(super) struct Ours {
    pub(super) branch: Branch,
    /// The true store, while another one stands in its place.
    pub(super) away: Option<Branch>,
    pub(super) backup: Branch,
    pub(super) replicas: Vec<Sets>,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Instant,
    pub(super) profile: Profile,
    server_knobs: Knobs,
    pub(super) side: Side,
    pub(super) peers: Vec<Peer>,
    page: usize,
    /// Somebody in a zone keeps writing one secret.
    stubborn: bool,
    /// Somebody restored a backup of global.
    pub(super) restored: bool,
    numbers: u64,
    pub(super) stable: BTreeSet<Key>,
    pub(super) chaos: Vec<Key>,
    began: Instant,
    pub(super) stats: Stats,
    story: Option<Vec<String>>,
}

/// A name that belongs to a control plane itself.
pub(super) fn internal() -> Key {
    Key::global_secret("admin-user-token")
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs some instant to start from")]
fn origin() -> Instant {
    Instant::now()
}

impl World {
    pub(super) fn new(
        seed: u64,
        profile: Profile,
        mutation: Option<Mutation>,
        story: Option<Vec<String>>,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = origin();
        let stock = rng.u8(..10) < 3;
        let stable: BTreeSet<Key> = if stock {
            (0..14).map(|n| Key::secret("default", &format!("s{n}"))).collect()
        } else {
            [Key::secret("default", "s1"), Key::secret("default", "s2"), Key::global_secret("s3")].into()
        };
        let mut chaos: Vec<Key> = ["a", "b", "c", "d"].map(|name| Key::secret("default", name)).into();
        chaos.extend(["a", "b"].map(|name| Key::secret("other", name)));
        chaos.extend(["g", "h", "zone-ingress-token-signing-key-1"].map(Key::global_secret));
        let page = rng.usize(250..2_000);
        let kept = rng.usize(2..60);
        let stubborn = rng.u8(..20) == 0;
        let branch = Branch::new(1, kept);
        let side = if stock {
            let version = if rng.bool() { Kuma::V2_14 } else { Kuma::V2_2 };
            Side::Kuma(KumaGlobal { version, rows: BTreeMap::new(), cluster_id: Some("one") })
        } else {
            let replicas = vec![branch.types.clone(); rng.usize(1..3)];
            Side::Ours(Box::new(Ours { backup: branch.clone(), branch, away: None, replicas }))
        };
        let mut world = Self {
            rng,
            now,
            profile,
            server_knobs: mutation.map(Knobs::without).unwrap_or_default(),
            side,
            peers: Vec::new(),
            page,
            stubborn,
            restored: false,
            numbers: 0,
            stable,
            chaos,
            began: now,
            stats: Stats::default(),
            story,
        };
        world.populate(stock, mutation);
        world
    }

    /// What there is at the start.
    fn populate(&mut self, stock: bool, mutation: Option<Mutation>) {
        let first: Vec<Key> = self.stable.iter().chain(self.chaos.iter().take(4)).cloned().collect();
        for key in first {
            let value = self.number();
            match &mut self.side {
                Side::Ours(ours) => ours.branch.commit(vec![(key.clone(), Some(secret(&key, value)))]),
                Side::Kuma(global) => drop(global.rows.insert(key, value)),
            }
        }
        if let Side::Ours(ours) = &mut self.side {
            ours.backup = ours.branch.clone();
            ours.replicas.fill(ours.branch.types.clone());
        }
        for _ in 0..if stock { 1 } else { self.rng.usize(1..3) } {
            let zone = self.new_zone(mutation);
            self.peers.push(zone);
        }
        if stock {
            return;
        }
        for version in [Kuma::V2_14, Kuma::V2_2] {
            if self.rng.bool() {
                let max = self.rng.bool().then(|| self.rng.usize(1_800..4_000));
                let mut zone = KumaZone::new(version, max);
                if version == Kuma::V2_14 && self.rng.bool() {
                    let row = Row { version: "".into(), local: true };
                    zone.rows.insert(Key::secret("default", "d"), row);
                }
                let admitted = self.rng.bool();
                self.peers.push(Peer {
                    end: End::Kuma(zone),
                    stream: None,
                    dialing: true,
                    admitted,
                    suspended: false,
                });
            }
        }
    }

    fn new_zone(&mut self, mutation: Option<Mutation>) -> Peer {
        let store = SimStore::new();
        let local: Vec<Key> = [Key::secret("default", "d"), Key::secret("default", "mine"), internal()]
            .into_iter()
            .filter(|_| self.rng.bool())
            .collect();
        for key in local {
            let value = self.number();
            store.tamper(Tamper::Put(secret(&key, value)));
        }
        let seed = self.rng.u64(..);
        let zone = Zone::new(store, self.stable.clone(), seed, self.profile, mutation, self.now);
        Peer {
            end: End::Zone(Box::new(zone)),
            stream: None,
            dialing: false,
            admitted: true,
            suspended: false,
        }
    }

    pub(super) fn into_stats(mut self) -> (Stats, Option<Vec<String>>) {
        for peer in &self.peers {
            if let End::Zone(zone) = &peer.end {
                self.stats.quarantined += zone.store.counts().1;
            }
        }
        (self.stats, self.story)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let at = (self.now - self.began).as_secs_f64();
            story.push(format!("{at:9.3} {}", line()));
        }
    }

    // === one life ===

    pub(super) fn live(&mut self) -> Step {
        let steps = self.rng.usize(150..500);
        for _ in 0..steps {
            self.happen()?;
            self.pump()?;
        }
        self.make_peace();
        self.come_to_rest()?;
        self.judge_end()
    }

    /// One thing happens.
    fn happen(&mut self) -> Step {
        let peer = self.rng.usize(..self.peers.len());
        if self.stubborn && self.rng.u8(..12) == 0 {
            self.tamper(peer);
        }
        match self.rng.u32(..1000) {
            0..250 => self.deliver_up(peer),
            250..500 => self.deliver_down(peer)?,
            500..680 => self.step_work(peer)?,
            680..740 => self.dial(peer),
            740..840 => self.pass_time(),
            840..900 => self.write(),
            900..950 => self.publish(),
            950..965 => self.lose(peer, "the network failed"),
            965..970 => self.crash(peer),
            970..985 => self.trouble(peer),
            985..990 => self.upheaval(),
            _ => self.tamper(peer),
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let most = if self.rng.u8(..8) == 0 { 120_000 } else { 1_500 };
        self.now += Duration::from_millis(self.rng.u64(1..most));
    }

    fn sets(&self, replica: usize) -> Sets {
        match &self.side {
            Side::Ours(ours) => ours.replicas[replica].clone(),
            Side::Kuma(_) => Sets::new(),
        }
    }

    pub(super) fn kuma(&self) -> Option<&KumaGlobal> {
        match &self.side {
            Side::Ours(_) => None,
            Side::Kuma(global) => Some(global),
        }
    }

    pub(super) fn deliver_up(&mut self, at: usize) {
        let Some(replica) = self.peers[at].stream.as_ref().map(|stream| stream.replica) else { return };
        let sets = self.sets(replica);
        let (page, knobs, now) = (self.page, self.server_knobs, self.now);
        let global = match &self.side {
            Side::Kuma(global) => Some(global),
            Side::Ours(_) => None,
        };
        if let Err(reason) = self.peers[at].deliver_up(&sets, page, knobs, global, now) {
            self.lose(at, &reason);
        }
    }

    pub(super) fn deliver_down(&mut self, at: usize) -> Step {
        let cut_short = self.rng.usize(..12);
        let now = self.now;
        let Peer { end, stream: Some(stream), .. } = &mut self.peers[at] else { return Ok(()) };
        match end {
            End::Zone(zone) if !zone.session.wants_response() => {}
            End::Zone(zone) => {
                if let Some(response) = stream.down.pop_front() {
                    let line = format!("zone {at} < {response:?}");
                    zone.on_response(response, now);
                    self.say(|| line);
                }
            }
            End::Kuma(zone) => {
                if let Some(response) = stream.down.pop_front() {
                    let reply = zone.on_response(&response, cut_short);
                    if cut_short == 7 {
                        stream.up.push_back(reply.clone());
                    }
                    stream.up.push_back(reply);
                    zone.judge_rows(&self.stable)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn step_work(&mut self, at: usize) -> Step {
        let now = self.now;
        let End::Zone(zone) = &mut self.peers[at].end else { return Ok(()) };
        zone.step_work(now)
    }

    /// The zone's attempt to connect succeeds or fails.
    pub(super) fn dial(&mut self, at: usize) {
        if !self.peers[at].dialing {
            return;
        }
        self.peers[at].dialing = false;
        if self.rng.u8(..10) == 0 && matches!(self.peers[at].end, End::Zone(_)) {
            self.lose(at, "connection refused");
            return;
        }
        let (replica, server, kind) = match &self.side {
            Side::Ours(ours) => {
                (self.rng.usize(..ours.replicas.len()), Server::Ours(BTreeMap::new()), Global::Kdsync)
            }
            Side::Kuma(_) => (0, Server::Kuma(KumaStream::default()), Global::Stock),
        };
        let now = self.now;
        let mut stream = Stream { replica, server, up: VecDeque::new(), down: VecDeque::new() };
        match &mut self.peers[at].end {
            End::Zone(zone) => {
                zone.on_opened();
                zone.session.on_connected(kind, now);
            }
            End::Kuma(zone) => stream.up.extend(zone.open()),
        }
        self.peers[at].stream = Some(stream);
        self.say(|| format!("zone {at} connects to replica {replica}"));
    }

    /// The stream, or the attempt to open it, ends. What was under way is lost.
    pub(super) fn lose(&mut self, at: usize, reason: &str) {
        let now = self.now;
        let peer = &mut self.peers[at];
        let had = peer.stream.take().is_some();
        match &mut peer.end {
            End::Zone(zone) if had || zone.session.poll_timeout().is_some() => {
                if had || reason == "connection refused" {
                    zone.session.on_disconnected(reason, None, now);
                }
            }
            End::Zone(_) => {}
            End::Kuma(_) => peer.dialing = true,
        }
        if had {
            self.say(|| format!("zone {at} loses its stream: {reason}"));
        }
    }

    fn crash(&mut self, at: usize) {
        let (seed, now) = (self.rng.u64(..), self.now);
        let peer = &mut self.peers[at];
        peer.stream = None;
        match &mut peer.end {
            End::Zone(zone) => {
                peer.dialing = false;
                zone.crash(seed, now);
            }
            End::Kuma(_) => peer.dialing = true,
        }
        self.stats.crashes += 1;
        self.say(|| format!("zone {at} crashes"));
    }

    // === letting everybody act ===

    pub(super) fn pump(&mut self) -> Step {
        for at in 0..self.peers.len() {
            self.pump_zone(at, false)?;
            self.pump_server(at)?;
        }
        Ok(())
    }

    pub(super) fn pump_server(&mut self, at: usize) -> Step {
        let now = self.now;
        let global = match &self.side {
            Side::Kuma(global) => Some(global),
            Side::Ours(_) => None,
        };
        if !self.peers[at].poll_server(global, &mut self.stats, now)? {
            self.lose(at, "global ended the stream");
        }
        Ok(())
    }

    /// Requests and effects of one zone; hints arrive late or never, unless it is peace.
    pub(super) fn pump_zone(&mut self, at: usize, peace: bool) -> Step {
        let now = self.now;
        let luck = self.rng.u8(..20);
        let Self { peers, stats, story, side, began, restored, .. } = self;
        let mismatches = stats.mismatches;
        let Peer { end, stream, dialing, .. } = &mut peers[at];
        let End::Zone(zone) = end else { return Ok(()) };
        match luck {
            _ if peace => zone.take_hint(),
            0 => zone.lose_hint(),
            1..10 => zone.take_hint(),
            _ => {}
        }
        let mut log = |line: String| {
            if let Some(story) = story {
                story.push(format!("{:9.3} {at} {line}", (now - *began).as_secs_f64()));
            }
        };
        for round in 0.. {
            if round > HOT {
                return Err("a zone asks for effects without end".to_owned());
            }
            while let Some(request) = zone.session.poll_transmit() {
                zone.judge_request(&request)?;
                log(format!("> {request:?}"));
                if let Some(stream) = stream {
                    stream.up.push_back(request);
                }
            }
            let Some(effect) = zone.session.poll_effect(now) else { break };
            log(format!("effect {effect:?}"));
            match effect {
                Effect::Connect => *dialing = true,
                Effect::Disconnect { .. } => {
                    *stream = None;
                    *dialing = false;
                }
                effect => {
                    let applies = match &effect {
                        Effect::Apply(apply) => Some(apply.ty),
                        _ => None,
                    };
                    zone.plan(effect)?;
                    if let (Some(ty), Side::Ours(ours)) = (applies, &*side)
                        && let Some(from) = zone.continued(ty)
                        && !ours.branch.contains(ty, &from)
                    {
                        return Err(format!("{ty}: goes on in a history that is not its own (KDS-10)"));
                    }
                }
            }
        }
        if zone.session.poll_timeout().is_some_and(|at| at <= now) {
            return Err("a zone at rest asks to be called again at once".to_owned());
        }
        zone.drain_events(stats, &mut log);
        if stats.mismatches > mismatches && !*restored {
            return Err("what is held is not what was announced, and no backup was restored".to_owned());
        }
        zone.judge_rows()
    }

    // === trouble for one zone ===

    fn trouble(&mut self, at: usize) {
        let keys: BTreeSet<Key> = self.chaos.iter().filter(|_| self.rng.u8(..5) == 0).cloned().collect();
        let fault = if self.rng.bool() { Fault::Before } else { Fault::After };
        let which = self.rng.u8(..4);
        match &mut self.peers[at].end {
            End::Zone(zone) if which == 0 => zone.store.fail_next(Some(fault)),
            End::Zone(zone) if which == 1 => zone.store.lose_copies(&keys),
            End::Zone(zone) => zone.store.refuse(keys),
            End::Kuma(_) if which == 0 => self.peers[at].admit(),
            End::Kuma(zone) => zone.refused = keys,
        }
        self.say(|| format!("trouble {which} for zone {at}"));
    }

    /// Somebody writes into the zone.
    fn tamper(&mut self, at: usize) {
        if self.profile == Profile::Bare {
            return;
        }
        let mut keys = self.chaos.clone();
        keys.push(Key::secret("default", "rogue"));
        let favourite = self.stubborn || self.rng.u8(..3) == 0;
        let key = keys[if favourite { 0 } else { self.rng.usize(..keys.len()) }].clone();
        let value = 1_000_000 + self.number();
        let tamper = if self.rng.bool() {
            let mut resource: Resource = secret(&key, value);
            if self.rng.bool() {
                // A label proves nothing.
                resource.labels = Labels::from([("kuma.io/origin".to_owned(), "global".to_owned())]);
            }
            Tamper::Put(resource)
        } else {
            Tamper::Delete(key)
        };
        let late = self.rng.bool();
        let line = format!("tampering in zone {at}, late {late}: {tamper:?}");
        let End::Zone(zone) = &mut self.peers[at].end else { return };
        if late {
            zone.store.meddle(tamper);
        } else {
            zone.store.tamper(tamper);
        }
        self.say(|| line);
    }
}
