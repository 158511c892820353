//! What zones cost that have nothing to do.
//!
//! Decides: what idle is: every zone has everything and nobody writes. What goes on is what a real zone
//! keeps up: the sync stream, the link with a report each way every five seconds, a health check every
//! thirty, HTTP/2 pings from both ends every fifteen. Never does: begin before the first sync has
//! settled.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::global::Global;
use crate::progress;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};

/// After the first sync.
const SETTLE: Duration = Duration::from_secs(10);

pub(crate) async fn run(size: Size) -> anyhow::Result<Outcome> {
    let (zones, count, seconds) = size.pick((100, 1_000, 120), (10, 100, 5));
    let (mut global, revision) = Global::filled(count).await?;
    let mut fleet = Fleet::new(zones);
    fleet.converge(global.kds, revision).await?;
    tokio::time::sleep(size.pick(SETTLE, SETTLE / 10)).await;
    progress(&format!("idle for {seconds} s"));
    let (before, start, wire) = (global.usage()?, Instant::now(), fleet.traffic());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let server = Server::between(before, global.usage()?, start.elapsed());
    let wire_bytes = fleet.traffic().since(wire);
    anyhow::ensure!(global.connected().await? == zones, "a zone was lost");
    fleet.board().wait(revision, Duration::ZERO).await?;
    global.check()?;
    let cpu = Figure {
        what: "CPU",
        value: server.cpu_percent,
        unit: "% of a core",
        must: Limit::AtMost(0.5),
        aim: Some(Limit::AtMost(0.2)),
    };
    let notes = vec![format!("{zones} zones x {count} secrets over {seconds} s")];
    Ok(Outcome { figures: vec![cpu], latency_ms: None, server, wire_bytes: Some(wire_bytes), notes })
}
