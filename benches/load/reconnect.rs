//! Up-to-date zones lose their connections and come back, all at once.
//!
//! Decides: what is counted: every byte of the new connections in both directions, from the first one
//! until two seconds after the last zone was told that nothing changed: handshakes, health checks, the
//! link and its first reports included. It is compared with the encoded resources that all of them
//! hold. Never does: let a zone forget what it holds.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::global::Global;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};

/// Until acknowledgements and first reports are through.
const AFTER: Duration = Duration::from_secs(2);
/// Between two looks whether global has noticed that zones are gone.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to notice.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn run(size: Size) -> anyhow::Result<Outcome> {
    let (zones, count) = size.pick((100, 1_000), (10, 100));
    let (mut global, revision) = Global::filled(count).await?;
    let mut fleet = Fleet::new(zones);
    fleet.converge(global.kds, revision).await?;
    let whole = fleet.encoded();
    tokio::time::sleep(AFTER).await;
    fleet.disconnect().await;
    gone(&mut global).await?;

    let (before, start, wire) = (global.usage()?, Instant::now(), fleet.traffic());
    let took = fleet.converge(global.kds, revision).await?;
    tokio::time::sleep(AFTER).await;
    let wire_bytes = fleet.traffic().since(wire);
    let server = Server::between(before, global.usage()?, start.elapsed());
    anyhow::ensure!(global.connected().await? == zones, "a zone was lost");
    global.check()?;
    let share = Figure {
        what: "bytes both ways",
        value: 100.0 * ratio(wire_bytes.both(), whole),
        unit: "% of the set",
        must: Limit::AtMost(0.1),
        aim: None,
    };
    let each = wire_bytes.both() / zones as u64;
    let notes = vec![
        format!("{each} bytes per zone; the encoded sets of all zones are {whole} bytes"),
        format!("the last zone was back after {:.0} ms", took.as_secs_f64() * 1e3),
    ];
    Ok(Outcome { figures: vec![share], latency_ms: None, server, wire_bytes: Some(wire_bytes), notes })
}

async fn gone(global: &mut Global) -> anyhow::Result<()> {
    let start = Instant::now();
    while global.connected().await? > 0 {
        anyhow::ensure!(start.elapsed() < PATIENCE, "global does not notice that zones are gone");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a share, shown with three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
