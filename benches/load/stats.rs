//! Latencies and their percentiles.
//!
//! Decides: how a distribution is summed up. Never does: leave out a sample.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Samples of a duration, kept to three digits.
#[derive(Debug)]
pub(crate) struct Samples(Histogram<u64>);

/// A distribution in four numbers, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Samples {
    /// None yet; from one microsecond to ten minutes.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 600_000_000, 3)?))
    }

    pub(crate) fn record(&mut self, sample: Duration) {
        self.0.saturating_record(u64::try_from(sample.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Takes in what another one recorded.
    pub(crate) fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.0.add(&other.0)?;
        Ok(())
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            p50: millis(self.0.value_at_quantile(0.5)),
            p99: millis(self.0.value_at_quantile(0.99)),
            max: millis(self.0.max()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}
