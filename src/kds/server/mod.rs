//! One type on one zone's stream, seen from global.
//!
//! Decides: what is sent to this zone next, and what the zone holds for sure. Never does: keep a copy of
//! the set per zone; all it remembers is a revision and the names that are exceptions to it.

mod input;
mod output;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::knobs::Knobs;
use super::message::Nack;
use super::plan::{Plan, Transmit};
use super::snapshot::TypeSnapshot;
use crate::core::served::Audience;
use crate::core::{Continuity, Key, Position, ResourceType, Revision, Version};

/// The first pause after a NACK, and the longest.
const HOLD: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// The shortest time between a stock zone's NACK and the next whole answer, although something changed.
const SETTLE: Duration = Duration::from_secs(1);
/// How many names of one type a zone may ask for by name on one stream.
const MAX_NAMED: usize = 10_000;

/// What kind of peer the zone is, for the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A kdsync zone: reads headers, takes pages of about this many bytes, NACKs by name.
    Kdsync {
        /// Bytes per page.
        page: usize,
    },
    /// Unmodified Kuma.
    Stock {
        /// What it may see.
        audience: Audience,
        /// The largest message it takes, in bytes, uncompressed.
        max_message: usize,
    },
}

/// What happened, for metrics, logs and insight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The zone subscribed.
    Opened,
    /// An answer was handed out.
    Sent {
        /// The revision it leads to.
        revision: Revision,
        /// Resources in it.
        upserts: usize,
        /// Removals in it.
        removed: usize,
    },
    /// The zone acknowledged an answer.
    Acked {
        /// The revision it leads to.
        revision: Revision,
        /// True if nothing more is to come for now.
        complete: bool,
    },
    /// The zone refused an answer or some of it.
    Nacked {
        /// What it said.
        nack: Nack,
    },
    /// A nonce that belongs to no answer in flight; ignored.
    Stale,
    /// A request that asks for nothing that can be given; ignored.
    Ignored,
    /// Nothing of this type is sent, and why; `None` when that is over.
    Withheld(Option<String>),
    /// The whole set measures this much of what the stock zone takes.
    Size {
        /// Bytes.
        bytes: usize,
        /// Bytes.
        limit: usize,
    },
    /// A resource was left out because it alone is larger than the zone takes.
    Oversize(Key),
    /// The zone's history is not ours, or ahead of ours.
    Apart(Continuity),
}

/// The peer broke the protocol, or the stream must be opened anew; it ends with a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Too many names.
    #[error("more than {MAX_NAMED} names were asked for by name on one stream")]
    TooManyNames,
    /// What changed since the zone's last answer is no longer known.
    #[error("the zone is too far behind; open the stream again")]
    TooFarBehind,
}

/// What the zone holds for sure, apart from the exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It has not subscribed.
    Silent,
    /// Nothing that counts: it needs the whole set.
    Nothing,
    /// Nothing that the kept history covers: it needs the whole set and the tombstones.
    Old(Revision),
    /// The set as of this revision.
    At(Revision),
    /// Another history; told so or not yet.
    Apart { stated: Position, verdict: Continuity, told: bool },
}

/// A pause after a NACK.
#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    until: Option<Instant>,
    delay: Duration,
}

/// One type on one zone's stream.
#[derive(Debug)]
pub struct ServerSession {
    ty: ResourceType,
    peer: Peer,
    knobs: Knobs,
    snapshot: Arc<TypeSnapshot>,
    admitted: bool,
    held: Held,
    /// Names that may differ from what `held` says and are due.
    unknown: BTreeSet<Key>,
    /// Names that the zone refused, with the version it refused.
    parked: BTreeMap<Key, Option<Version>>,
    /// An answer whose last message is not acknowledged.
    sending: Option<(Arc<Plan>, usize)>,
    in_flight: Option<Transmit>,
    /// Stock: an answer was ACKed on this stream.
    trusted: bool,
    /// Stock: names of whole answers that were refused before the first ACK.
    ghosts: BTreeSet<Key>,
    /// Stock: when the last NACK came, and at which revision, before the first ACK.
    refused_at: Option<(Instant, Revision)>,
    hold: Hold,
    /// The revision of the last answers and how many there were at it.
    attempts: Option<(Revision, u64)>,
    /// kdsync: an empty answer is owed, because the zone just subscribed.
    greet: bool,
    withheld: Option<String>,
    /// The last level that was told: 0 fine, 1 near the limit, 2 over it.
    size_level: u8,
    named: usize,
    events: VecDeque<Event>,
}
