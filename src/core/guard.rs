//! The guard: is a removal plausible, when nothing but a stock global's word stands behind it?
//!
//! Decides: [`Verdict::Proceed`] or [`Verdict::Hold`] for a planned removal, over a sliding ten minutes.
//! Never does: judge a removal that has a tombstone; between kdsync ends the tombstone decides.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Removals are counted over this long.
const WINDOW: Duration = Duration::from_secs(600);
/// More than this many *and* more than [`SHARE`] is implausible.
const MANY: usize = 10;
/// Percent of what is held.
const SHARE: usize = 20;
/// Removing everything is implausible if it is more than this many.
const FEW: usize = 3;

/// What the guard says of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// Keep every name of the plan, and say why.
    Hold(String),
}

/// Remembers the removals of the last ten minutes.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    removed: VecDeque<(Instant, usize)>,
}

impl Guard {
    /// Judges the removal of `planned` names where `held` are held from global now.
    #[must_use]
    pub fn judge(&mut self, planned: usize, held: usize, now: Instant) -> Verdict {
        if planned == 0 {
            return Verdict::Proceed;
        }
        self.removed.retain(|(at, _)| now.saturating_duration_since(*at) < WINDOW);
        let before: usize = self.removed.iter().map(|(_, count)| count).sum();
        let (total, held) = (before + planned, before + held);
        if total > MANY && total * 100 > held * SHARE {
            return Verdict::Hold(format!(
                "{total} of {held} secrets would go within 10 minutes, more than {MANY} and more than {SHARE} %"
            ));
        }
        if total >= held && total > FEW {
            return Verdict::Hold(format!("all {total} secrets would go within 10 minutes"));
        }
        Verdict::Proceed
    }

    /// Records that `count` names were removed.
    pub fn record(&mut self, count: usize, now: Instant) {
        if count > 0 {
            self.removed.push_back((now, count));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn hold(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Hold(_))
    }

    #[test]
    fn thresholds_are_as_written() {
        let now = Instant::now();
        let judge = |planned, held| hold(&Guard::default().judge(planned, held, now));
        assert!(!judge(10, 20));
        assert!(!judge(11, 55));
        assert!(judge(11, 54));
        assert!(!judge(3, 3));
        assert!(judge(4, 4));
        assert!(!judge(4, 5));
        assert!(!judge(0, 0));
    }

    #[test]
    fn small_steps_add_up_and_expire() {
        let start = Instant::now();
        let mut guard = Guard::default();
        let mut held = 30;
        for step in 0..10 {
            assert!(!hold(&guard.judge(1, held, start)), "{step}");
            guard.record(1, start);
            held -= 1;
        }
        assert!(hold(&guard.judge(1, held, start)));
        assert!(!hold(&guard.judge(1, held, start + WINDOW)));
    }
}
