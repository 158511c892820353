//! The first sync of many zones at once.
//!
//! Decides: from when to when: from the moment all zones begin to connect until the last one has
//! decoded and hashed everything, and found count and digest as announced. CPU is counted half a second
//! longer, so that the last acknowledgements are in it; memory is the highest since the process began,
//! loading included. Never does: warm anything up.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::global::Global;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};

/// What is asked of one such row: what must be reached, and the aim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    zones: usize,
    secrets: usize,
    seconds: (f64, f64),
    cpu: Option<(f64, f64)>,
    peak: Option<(f64, f64)>,
}

pub(crate) const ZONES_100: Wanted = Wanted {
    zones: 100,
    secrets: 1_000,
    seconds: (0.8, 0.5),
    cpu: Some((0.5, 0.3)),
    peak: Some((100.0, 64.0)),
};
pub(crate) const ZONES_300: Wanted = Wanted {
    zones: 300,
    secrets: 1_000,
    seconds: (2.0, 1.2),
    cpu: Some((1.2, 0.8)),
    peak: Some((150.0, 96.0)),
};
pub(crate) const BIG: Wanted =
    Wanted { zones: 10, secrets: 10_000, seconds: (1.5, 0.7), cpu: None, peak: None };

/// How long CPU is counted after the last zone has everything.
const AFTER: Duration = Duration::from_millis(500);

pub(crate) async fn run(wanted: Wanted, size: Size) -> anyhow::Result<Outcome> {
    let (zones, count) =
        size.pick((wanted.zones, wanted.secrets), (wanted.zones / 10 + 1, wanted.secrets / 10));
    let (mut global, revision) = Global::filled(count).await?;
    let mut fleet = Fleet::new(zones);
    let (before, start) = (global.usage()?, Instant::now());
    let took = fleet.converge(global.kds, revision).await?;
    let wire_bytes = fleet.traffic();
    tokio::time::sleep(AFTER).await;
    let server = Server::between(before, global.usage()?, start.elapsed());
    anyhow::ensure!(global.connected().await? == zones, "a zone was lost");
    global.check()?;
    let figure = |what, value, unit, wanted: Option<(f64, f64)>| {
        let (must, aim) = wanted?;
        Some(Figure { what, value, unit, must: Limit::AtMost(must), aim: Some(Limit::AtMost(aim)) })
    };
    let figures = [
        figure("last zone", took.as_secs_f64(), "s", Some(wanted.seconds)),
        figure("CPU", server.cpu_s, "s", wanted.cpu),
        figure("peak RSS", server.peak_mb, "MB", wanted.peak),
    ];
    let notes = vec![format!("peak RSS before the zones came: {:.1} MB", before.peak_mb)];
    let figures = figures.into_iter().flatten().collect();
    Ok(Outcome { figures, latency_ms: None, server, wire_bytes: Some(wire_bytes), notes })
}
