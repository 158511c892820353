//! A write at global until the last zone has it.
//!
//! Decides: the pace (two writes per second on average, at random, whether or not the last one has
//! arrived) and from when to when is measured: from the moment the request is about to be sent until
//! the last zone holds the value. Never does: leave out a write.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::board::Board;
use crate::fleet::Fleet;
use crate::global::Global;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};
use crate::stats::Samples;
use crate::{progress, secrets};

/// From one write to the next, on average. Each pause is half of it to one and a half, so that writes do
/// not fall into step with timers that tick in whole seconds, in the zones or in global.
const PACE: Duration = Duration::from_millis(500);
/// A write that starts later than this counts from when it was due.
const LATE: Duration = Duration::from_millis(5);
/// Writes before the first that counts.
const WARM_UP: usize = 10;
/// How long the last write may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes between two lines that tell how far it is.
const TOLD: usize = 60;

/// With thin zones.
pub(crate) async fn run(size: Size) -> anyhow::Result<Outcome> {
    let (zones, count, writes) = size.pick((100, 1_000, 500), (10, 100, 10));
    let (mut global, revision) = Global::filled(count).await?;
    let mut fleet = Fleet::new(zones);
    let took = fleet.converge(global.kds, revision).await?;
    progress(&format!("{} zones hold {count} secrets each after {:.2} s", fleet.len(), took.as_secs_f64()));
    let board = fleet.board().clone();
    let written = write(&mut global, &board, count, WARM_UP).await?;
    drop(written);
    let (before, start, wire) = (global.usage()?, Instant::now(), fleet.traffic());
    let written = write(&mut global, &board, count, writes).await?;
    let server = Server::between(before, global.usage()?, start.elapsed());
    let wire_bytes = Some(fleet.traffic().since(wire));
    global.check()?;
    let latency = written.until_last.summary();
    let p99 = Figure {
        what: "p99",
        value: latency.p99,
        unit: "ms",
        must: Limit::AtMost(40.0),
        aim: Some(Limit::AtMost(15.0)),
    };
    let notes = vec![written.note()];
    Ok(Outcome { figures: vec![p99], latency_ms: Some(latency), server, wire_bytes, notes })
}

/// What writes took.
pub(crate) struct Written {
    /// Until the last zone had it.
    pub(crate) until_last: Samples,
    /// Until global answered: by then it is durable there.
    answered: Samples,
}

impl Written {
    pub(crate) fn note(&self) -> String {
        let answered = self.answered.summary();
        format!("durable at global: p50 {:.2} ms, p99 {:.2} ms", answered.p50, answered.p99)
    }
}

/// Rotates secrets at the pace, then waits until every write has arrived.
pub(crate) async fn write(
    global: &mut Global,
    board: &Board,
    count: usize,
    writes: usize,
) -> anyhow::Result<Written> {
    let (mut begun, mut answered) = (Vec::with_capacity(writes), Samples::new()?);
    let start = Instant::now() + PACE;
    let mut due = start;
    for number in 0..writes {
        let body = secrets::batch([fastrand::usize(..count)]);
        sleep_until(due).await;
        let now = Instant::now();
        let at = if now - due < LATE { now } else { due };
        let revision = global.batch(body).await?;
        answered.record(at.elapsed());
        begun.push((at, revision));
        due += PACE.mul_f64(0.5 + fastrand::f64());
        if number % TOLD == TOLD - 1 {
            progress(&format!("{} of {writes} writes", number + 1));
        }
    }
    let mut until_last = Samples::new()?;
    for (at, revision) in begun {
        let last = board.wait(revision, PATIENCE).await?;
        until_last.record(last.saturating_duration_since(at));
    }
    Ok(Written { until_last, answered })
}
