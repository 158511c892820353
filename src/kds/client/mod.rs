//! One zone's life: connect, open, apply, audit, sweep.
//!
//! Decides: what the zone asks for, what it takes, when it acknowledges, what it sweeps and repairs, and
//! when it tries again. Never does: touch a store or a socket; it yields [`Effect`]s, one outstanding at
//! a time on the store, so applying and sweeping can never race.

mod answer;
mod audit;
mod kdsync;
mod life;
mod stock;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use smol_str::SmolStr;

use super::knobs::{Knobs, Mutation};
use super::message::{Node, Received, Rejection, Request};
use crate::core::guard::Guard;
use crate::core::ledger::{Entry, Ledger, Source};
use crate::core::reconcile::Audit;
use crate::core::{Continuity, Key, Position, ResourceType, Revision, Version};

/// The pause after the store failed to list, to mend or to load.
const RETRY: Duration = Duration::from_secs(1);

/// What the session needs to know of its zone.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sent with every request.
    pub node: Node,
    /// How long the first answer of a type may take before the stream is opened anew.
    pub first_answer: Duration,
    /// How long a stock global's `kuma-cluster-id` may take before the zone goes on without it.
    pub cluster_id: Duration,
    /// How often everything is compared with the ledger although no hint came.
    pub full_audit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: Node::default(),
            first_answer: Duration::from_secs(30),
            cluster_id: Duration::from_secs(5),
            full_audit: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// A kdsync global.
    Kdsync,
    /// Unmodified Kuma.
    Stock,
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Connect and open the sync stream, then `on_connected` or `on_disconnected`.
    Connect,
    /// End the stream and the connection; `on_disconnected` is already counted in.
    Disconnect {
        /// Why, in words.
        reason: String,
    },
    /// Compare-and-write an answer to the store, then `on_applied`.
    Apply(Apply),
    /// Read heads from the store, then `on_listed`.
    List {
        /// All rows, or only those that changed since the last listing.
        full: bool,
    },
    /// Sweep and repair, then `on_mended`.
    Mend(Audit),
    /// Read the ledger again, then `on_loaded`: a commit failed, and may be there all the same.
    Load,
}

/// What becomes of the recorded position of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It stays.
    Unchanged,
    /// It advances, in the same commit as the values.
    At(Position),
    /// It is forgotten: the next stream starts from the whole set.
    Forget,
}

/// A resource to write.
#[derive(Debug)]
pub struct Upsert {
    /// As it arrived.
    pub received: Received,
    /// The version of its content, recomputed here.
    pub content: Version,
    /// The revision to note.
    pub revision: Revision,
    /// The version in the ledger, if the name is held already.
    pub held: Option<Version>,
}

/// One answer, or one page of it, for the store: one commit.
#[derive(Debug)]
pub struct Apply {
    /// The type.
    pub ty: ResourceType,
    /// New and changed resources.
    pub upserts: Vec<Upsert>,
    /// Names that are gone, with the version in the ledger; without one, a row is not global's to remove.
    pub remove: Vec<(Key, Option<Version>)>,
    /// Names that are no longer listed and stay for lack of proof.
    pub keep: Vec<(Key, String)>,
    /// Names of this answer that are refused: noted in the same commit, because the position counts on
    /// them (KDS-9).
    pub refused: Vec<Rejection>,
    /// Names that were refused once and are written or gone with this answer.
    pub cleared: Vec<Key>,
    /// The position after this commit.
    pub reached: Reached,
    /// The history to follow from now on, where there was none.
    pub source: Option<Source>,
    /// Only names that have no row: nothing may be overwritten.
    pub only_new: bool,
    /// With this commit the zone has completed a sync of the type for the first time ever, from a stock
    /// global, whose answers have no position.
    pub completes: bool,
}

/// What an [`Apply`] did, durably.
#[derive(Debug, Default)]
pub struct Applied {
    /// Names written, with their ledger entries.
    pub entered: Vec<(Key, Entry)>,
    /// Names removed.
    pub struck: Vec<Key>,
    /// Names that the store refused.
    pub rejected: Vec<Rejection>,
}

/// What a [`Effect::Mend`] did, durably.
#[derive(Debug, Default)]
pub struct Mended {
    /// Zone-local secrets that are gone.
    pub swept: Vec<Key>,
    /// Synced secrets that were put back.
    pub repaired: Vec<Key>,
    /// Drifted names without a good copy: to be fetched again.
    pub no_copy: Vec<Key>,
    /// Why the rest could not be done, if so.
    pub failed: Option<String>,
}

/// What happened, for logs, metrics, events and the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream is open.
    Connected(Global),
    /// The stream is gone.
    Disconnected {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// An answer was applied.
    Applied {
        /// Its type.
        ty: ResourceType,
        /// Names written.
        upserts: usize,
        /// Names removed.
        removed: usize,
        /// The revision reached; `None` from a stock global or between pages.
        revision: Option<Revision>,
    },
    /// The first answer of a type on this stream was applied: from here on its zone-local secrets go.
    Complete(ResourceType),
    /// A name was refused.
    Rejected(Rejection),
    /// A name that had been refused is fine.
    Accepted(Key),
    /// A zone-local secret was deleted.
    Swept(Key),
    /// A synced secret was put back.
    Repaired(Key),
    /// A synced secret was put back three times in a minute: somebody else writes it.
    Contended {
        /// Which.
        key: Key,
        /// The next repair.
        pause: Duration,
    },
    /// A drifted secret has no good copy and is fetched again.
    Refetched(Key),
    /// A name is kept although global no longer lists it.
    Kept {
        /// Which.
        key: Key,
        /// Why.
        reason: String,
    },
    /// Global's history is not this zone's: nothing is taken from it.
    Apart {
        /// How it differs.
        verdict: Continuity,
        /// Whose history it is, in words.
        theirs: String,
    },
    /// A stock global did not tell its `kuma-cluster-id`: nothing is overwritten or deleted.
    NoClusterId,
    /// What is held does not have the digest that global announced; the whole set is fetched.
    DigestMismatch(ResourceType),
    /// The store failed.
    StoreFailed(String),
}

/// How far a stock global is trusted, by its `kuma-cluster-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Not known yet; until when it is waited for.
    Pending(Instant),
    /// It is the one this zone follows.
    Full,
    /// It told no id: new names only.
    OnlyNew,
    /// It is another one: nothing.
    Nothing,
}

/// The answer that is being received in pages.
#[derive(Debug)]
struct Paging {
    position: Position,
    next_page: u32,
    seen: BTreeSet<Key>,
}

/// One type on the present stream.
#[derive(Debug, Default)]
struct TypeState {
    asked_at: Option<Instant>,
    answered: bool,
    complete: bool,
    apart: Option<Continuity>,
    paging: Option<Paging>,
    /// Names and versions that were NACKed on this stream: said once, so that a global that sends
    /// everything again after a NACK (2.2.9) does not loop.
    nacked: BTreeSet<(Key, SmolStr)>,
}

/// The present stream.
#[derive(Debug)]
struct Stream {
    global: Global,
    opened: Instant,
    /// An answer was passed over, because the history of another type is not this zone's.
    skipped: bool,
    trust: Trust,
    cluster_id: Option<SmolStr>,
    types: BTreeMap<ResourceType, TypeState>,
}

/// An answer that is being applied.
#[derive(Debug)]
struct Pending {
    ty: ResourceType,
    nonce: SmolStr,
    apply: Option<Apply>,
    refused: Vec<(Rejection, SmolStr)>,
    last: bool,
    mismatch: bool,
}

/// What an outstanding [`Apply`] makes true beside its rows; kept when the stream is lost meanwhile.
#[derive(Debug)]
struct Facts {
    ty: ResourceType,
    reached: Reached,
    source: Option<Source>,
    keep: Vec<(Key, String)>,
    refused: Vec<Rejection>,
    completes: bool,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Waiting { until: Instant },
    Connecting,
    Open,
}

/// How urgently rows are to be compared with the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Nothing,
    Changed,
    Full,
}

/// The store effect that is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Applying,
    Listing { full: bool },
    Mending,
    Loading,
}

/// Whether the ledger in memory is the durable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    Yes,
    /// It may not be; it is read again at this time, and nothing is stated or written before.
    Not(Instant),
}

/// The repairs of one name.
#[derive(Debug, Default)]
struct Repairs {
    recent: VecDeque<Instant>,
    last: Option<Instant>,
    pause: Duration,
    until: Option<Instant>,
}

/// One zone's life. See the module.
#[derive(Debug)]
pub struct ClientSession {
    config: Config,
    knobs: Knobs,
    rng: fastrand::Rng,
    ledger: Ledger,
    loaded: Loaded,
    /// Names that are not held as global has them: refused, or drifted without a copy (KDS-9).
    unknown: BTreeMap<Key, String>,
    link: Link,
    stream: Option<Stream>,
    attempt: u32,
    last_global: Global,
    requests: VecDeque<Request>,
    pending: Option<Pending>,
    ending: Option<String>,
    busy: Option<Busy>,
    facts: Option<Facts>,
    /// True if the stream that the outstanding store effect belongs to is gone.
    orphaned: bool,
    wish: Wish,
    wish_not_before: Option<Instant>,
    next_full: Instant,
    mend: Option<Audit>,
    repairs: BTreeMap<Key, Repairs>,
    guard: Guard,
    reopened: Option<Instant>,
    reopen: bool,
    survivors: BTreeSet<ResourceType>,
    events: VecDeque<Event>,
}

/// What a zone has reached of one type, for reports and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeProgress {
    /// The position in a kdsync global's history.
    pub position: Option<Position>,
    /// Names held from global.
    pub held: usize,
    /// Names not held as global has them.
    pub rejected: usize,
    /// Names kept although global no longer lists them.
    pub kept: usize,
    /// The first answer of the present stream was applied.
    pub complete: bool,
    /// Global's history is not this zone's.
    pub apart: Option<Continuity>,
}

impl ClientSession {
    /// A session that starts from what the store holds; `seed` feeds the jitter of reconnects.
    #[must_use]
    pub fn new(config: Config, mut ledger: Ledger, seed: u64, knobs: Knobs, now: Instant) -> Self {
        let unknown = std::mem::take(&mut ledger.rejected);
        Self {
            config,
            knobs,
            rng: fastrand::Rng::with_seed(seed),
            ledger,
            loaded: Loaded::Yes,
            unknown,
            link: Link::Waiting { until: now },
            stream: None,
            attempt: 0,
            last_global: Global::Kdsync,
            requests: VecDeque::new(),
            pending: None,
            ending: None,
            busy: None,
            facts: None,
            orphaned: false,
            wish: Wish::Full,
            wish_not_before: None,
            next_full: now,
            mend: None,
            repairs: BTreeMap::new(),
            guard: Guard::default(),
            reopened: None,
            reopen: false,
            survivors: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// What the zone holds from global.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Names that are not held as global has them, with the reason.
    #[must_use]
    pub fn unknown(&self) -> &BTreeMap<Key, String> {
        &self.unknown
    }

    /// True while a stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// What has been reached of one type.
    #[must_use]
    pub fn progress(&self, ty: ResourceType) -> TypeProgress {
        let state = self.stream.as_ref().and_then(|stream| stream.types.get(&ty));
        TypeProgress {
            position: self.ledger.positions.get(&ty).copied(),
            held: self.ledger.count(ty),
            rejected: self.unknown.keys().filter(|key| key.ty == ty).count(),
            kept: self.ledger.kept.keys().filter(|key| key.ty == ty).count(),
            complete: state.is_some_and(|state| state.complete),
            apart: state.and_then(|state| state.apart),
        }
    }

    /// The next request to send.
    pub fn poll_transmit(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// What happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True if the driver may read the next answer: one is worked on at a time, and from a ledger that is
    /// the durable one.
    #[must_use]
    pub fn wants_response(&self) -> bool {
        self.stream.is_some() && self.pending.is_none() && self.knows_ledger()
    }

    /// False while it is not known what the store holds: a commit is under way, or failed.
    fn knows_ledger(&self) -> bool {
        let known = self.facts.is_none() && self.loaded == Loaded::Yes;
        known || self.knobs.broken(Mutation::StaleLedger)
    }
}
