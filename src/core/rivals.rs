//! Two live instances under one zone name: which of them is served.
//!
//! Decides: that the newest wins, until two of them alternate too often; then the one that has served
//! longer stays and the other waits longer each time. Never does: look at a clock or end a stream.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smol_str::SmolStr;

/// Changes of the holder within this time are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// More changes than this within [`WINDOW`] are too many.
const CHANGES: usize = 3;
/// The first and the longest wait of an instance that is refused.
const WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// An instance that was refused is not let in again while the other is served, unless it was silent for
/// this long.
const FORGIVEN: Duration = Duration::from_secs(900);
/// How many instances of one zone are remembered.
const KNOWN: usize = 8;

/// Whether a stream is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody else is there.
    Free,
    /// The same instance again: its older stream is a leftover and ends silently.
    Again,
    /// Another instance is there; the newer wins and the older is told.
    Replace {
        /// Where the older connects from.
        older: String,
        /// True if the two alternate, so that a human must look.
        alarm: bool,
    },
    /// The other stays.
    Refuse {
        /// Where the other connects from.
        holder: String,
        /// How long the refused one should wait.
        wait: Duration,
    },
}

#[derive(Clone, Debug)]
struct Holder {
    instance: SmolStr,
    address: String,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Known {
    instance: SmolStr,
    served: Duration,
    refusals: u32,
    seen: Instant,
}

/// Who holds one zone's name.
#[derive(Clone, Debug, Default)]
pub struct Rivals {
    holder: Option<Holder>,
    changes: VecDeque<Instant>,
    known: Vec<Known>,
}

impl Rivals {
    /// `instance`, connecting from `address`, wants to be served under this name.
    pub fn claim(&mut self, instance: &str, address: &str, now: Instant) -> Verdict {
        let Some(holder) = self.holder.clone() else {
            self.seat(instance, address, now);
            return Verdict::Free;
        };
        if holder.instance == instance {
            if let Some(holder) = &mut self.holder {
                address.clone_into(&mut holder.address);
            }
            return Verdict::Again;
        }
        while self.changes.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            self.changes.pop_front();
        }
        let holder_served = self.known(&holder.instance, now).served + now.duration_since(holder.since);
        let contested = self.changes.len() >= CHANGES;
        let claimant = self.known(instance, now);
        if claimant.refusals > 0 && now.saturating_duration_since(claimant.seen) >= FORGIVEN {
            claimant.refusals = 0;
        }
        claimant.seen = now;
        let loses = claimant.served <= holder_served;
        if (contested && loses) || claimant.refusals > 0 {
            let doubled = WAIT.0.saturating_mul(1 << claimant.refusals.min(6));
            claimant.refusals += 1;
            return Verdict::Refuse { holder: holder.address, wait: doubled.min(WAIT.1) };
        }
        if contested {
            // The holder is the one that has served less: it is kept out from now on.
            self.known(&holder.instance, now).refusals = 1;
        }
        self.leave(&holder.instance, now);
        self.changes.push_back(now);
        self.seat(instance, address, now);
        Verdict::Replace { older: holder.address, alarm: contested }
    }

    /// The stream of `instance` ended.
    pub fn leave(&mut self, instance: &str, now: Instant) {
        let Some(holder) = self.holder.take_if(|holder| holder.instance == instance) else { return };
        let served = now.saturating_duration_since(holder.since);
        let known = self.known(instance, now);
        known.served += served;
        known.seen = now;
    }

    /// The instance that is served now.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| holder.instance.as_str())
    }

    fn seat(&mut self, instance: &str, address: &str, now: Instant) {
        let known = self.known(instance, now);
        known.refusals = 0;
        known.seen = now;
        self.holder = Some(Holder { instance: instance.into(), address: address.to_owned(), since: now });
    }

    fn known(&mut self, instance: &str, now: Instant) -> &mut Known {
        let at = self.known.iter().position(|known| known.instance == instance);
        let at = at.unwrap_or_else(|| {
            if self.known.len() >= KNOWN {
                let oldest = self.known.iter().enumerate().min_by_key(|(_, known)| known.seen);
                let oldest = oldest.map_or(0, |(at, _)| at);
                self.known.swap_remove(oldest);
            }
            let served = Duration::ZERO;
            self.known.push(Known { instance: instance.into(), served, refusals: 0, seen: now });
            self.known.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the position was found or made just above")]
        &mut self.known[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_newest_wins_and_the_same_comes_back_silently() {
        let (mut rivals, t) = (Rivals::default(), start());
        assert_eq!(rivals.claim("a", "1:1", t), Verdict::Free);
        assert_eq!(rivals.claim("a", "1:2", t + seconds(5)), Verdict::Again);
        let verdict = rivals.claim("b", "2:1", t + seconds(9));
        assert_eq!(verdict, Verdict::Replace { older: "1:2".into(), alarm: false });
        assert_eq!(rivals.holder(), Some("b"));
        rivals.leave("a", t + seconds(9));
        assert_eq!(rivals.holder(), Some("b"), "a leftover of the older does not unseat the newer");
        rivals.leave("b", t + seconds(10));
        assert_eq!(rivals.claim("a", "1:3", t + seconds(11)), Verdict::Free);
    }

    #[test]
    fn who_served_longer_stays_when_two_alternate() {
        let (mut rivals, t) = (Rivals::default(), start());
        rivals.claim("old", "1", t);
        for (second, who) in [(100, "new"), (105, "old"), (110, "new")] {
            let verdict = rivals.claim(who, who, t + seconds(second));
            assert!(matches!(verdict, Verdict::Replace { alarm: false, .. }), "{second}");
        }
        // The fourth change within a minute is judged: "old" has served 105 s, "new" 10 s.
        let verdict = rivals.claim("old", "1", t + seconds(115));
        assert_eq!(verdict, Verdict::Replace { older: "new".into(), alarm: true });
        let waits: Vec<_> = [116, 125, 145, 190, 300, 500, 900]
            .into_iter()
            .map(|second| match rivals.claim("new", "2", t + seconds(second)) {
                Verdict::Refuse { wait, holder } => (wait.as_secs(), holder),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [10, 20, 40, 80, 160, 300, 300].map(|wait| (wait, "1".to_owned()));
        assert_eq!(waits, expected);
        assert_eq!(rivals.holder(), Some("old"));
        // The other goes: the refused one is free to serve.
        rivals.leave("old", t + seconds(950));
        assert_eq!(rivals.claim("new", "2", t + seconds(951)), Verdict::Free);
    }

    #[test]
    fn the_holder_stays_when_it_served_longer() {
        let (mut rivals, t) = (Rivals::default(), start());
        rivals.claim("old", "1", t);
        for (second, who) in [(1, "new"), (2, "old"), (3, "new")] {
            rivals.claim(who, who, t + seconds(second));
        }
        rivals.claim("old", "1", t + seconds(30));
        // 28 s for "new", about 2 s for "old".
        assert_eq!(rivals.holder(), Some("new"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut rivals, t) = (Rivals::default(), start());
        for n in 0..100 {
            rivals.claim(&format!("i{n}"), "a", t + seconds(100 * n));
        }
        assert!(rivals.known.len() <= KNOWN);
    }
}
