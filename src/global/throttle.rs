//! How often the same thing is said.
//!
//! Decides: whether a line about a peer is written now or only counted. Never does: write it.

use std::time::{Duration, Instant};

/// Lines per minute about one thing.
const PER_MINUTE: u32 = 20;

/// Lets the first few lines of each minute through.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle {
    since: Option<Instant>,
    said: u32,
    held_back: u64,
}

impl Throttle {
    /// `Some` with the number of lines held back before, if a line may be written now.
    pub(super) fn allow(&mut self, now: Instant) -> Option<u64> {
        let fresh = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(60);
        if !self.since.is_some_and(fresh) {
            self.since = Some(now);
            self.said = 0;
        }
        if self.said >= PER_MINUTE {
            self.held_back += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::clock;

    #[test]
    fn a_flood_is_counted_not_written() {
        let (mut throttle, start) = (Throttle::default(), clock::now());
        let written = (0..1000).filter(|_| throttle.allow(start).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(throttle.allow(start + Duration::from_secs(60)), Some(980));
    }
}
