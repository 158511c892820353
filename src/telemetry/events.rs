//! Recent happenings, in a bounded ring, with followers.
//!
//! Decides: what is forgotten first (the oldest). Never does: block a writer for a reader; a follower
//! that does not read is told how many it missed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::core::{Key, Timestamp};

/// How many events are kept.
const KEPT: usize = 1_000;

/// One thing that happened, as an operator would tell it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the event in this process, from 1.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// The word for it: `swept`, `repaired`, `rejected`, `connected`, …
    pub kind: String,
    /// The zone it is about; empty for none.
    pub zone: String,
    /// The resource it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Key>,
    /// What happened and why, in words; never a value.
    pub message: String,
}

/// A shared ring of events.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<(u64, VecDeque<Event>)>,
    followers: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        let ring = Mutex::new((0, VecDeque::with_capacity(64)));
        Self(Arc::new(Inner { ring, followers: broadcast::channel(256).0 }))
    }
}

impl Events {
    /// Records an event.
    pub fn record(
        &self,
        at: Timestamp,
        kind: &str,
        zone: &str,
        resource: Option<Key>,
        message: impl Into<String>,
    ) {
        let mut ring = self.0.ring.lock();
        ring.0 += 1;
        let (kind, zone, message) = (kind.to_owned(), zone.to_owned(), message.into());
        let event = Event { id: ring.0, at, kind, zone, resource, message };
        if ring.1.len() == KEPT {
            ring.1.pop_front();
        }
        ring.1.push_back(event.clone());
        // Nobody following is no error.
        let _ = self.0.followers.send(event);
    }

    /// The kept events with an id above `after`, oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Event> {
        self.0.ring.lock().1.iter().filter(|event| event.id > after).cloned().collect()
    }

    /// How many follow new events.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.0.followers.receiver_count()
    }

    /// Follows new events.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.0.followers.subscribe()
    }
}
