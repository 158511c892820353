//! A write at global until the last of several real zones has committed it.
//!
//! Decides: when a zone has committed: when its own log says that it applied the revision. A zone says
//! so right after its store acknowledged the commit, and a store acknowledges what is durable alone
//! (KDS-3). The line is pushed through a pipe, so nothing is polled and nothing waits for a clock; what
//! it adds (formatting, a pipe, a wake-up of this process) counts against the result. Never does: ask a
//! zone anything while it is measured. In the end every zone is read through its API and must hold what
//! global holds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::board::Board;
use crate::global::{self, Global};
use crate::http::Http;
use crate::latency::write;
use crate::process::{OnLine, Process};
use crate::progress;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};

/// How long the first sync may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Writes before the first that counts.
const WARM_UP: usize = 10;

pub(crate) async fn run(size: Size) -> anyhow::Result<Outcome> {
    let (zones, count, writes) = size.pick((10, 1_000, 500), (3, 100, 10));
    let (mut global, revision) = Global::filled(count).await?;
    let board = Arc::new(Board::new(zones));
    let mut running = Vec::new();
    for number in 0..zones {
        running.push(start(&global, number, board.clone()).await?);
    }
    board.wait(revision, PATIENCE).await?;
    progress(&format!("{zones} zones hold {count} secrets each, durably"));
    write(&mut global, &board, count, WARM_UP).await?;
    let (before, of_zones, start) = (global.usage()?, cpu(&running)?, Instant::now());
    let written = write(&mut global, &board, count, writes).await?;
    let server = Server::between(before, global.usage()?, start.elapsed());
    let of_zones = cpu(&running)? - of_zones;
    check(&mut global, &mut running).await?;
    let latency = written.until_last.summary();
    let p99 = Figure {
        what: "p99",
        value: latency.p99,
        unit: "ms",
        must: Limit::AtMost(80.0),
        aim: Some(Limit::AtMost(30.0)),
    };
    let of_zones = format!("CPU of the {zones} zones together: {of_zones:.2} s");
    let notes = vec![written.note(), of_zones];
    Ok(Outcome { figures: vec![p99], latency_ms: Some(latency), server, wire_bytes: None, notes })
}

/// Starts a zone whose log reports to the board.
async fn start(global: &Global, number: usize, board: Arc<Board>) -> anyhow::Result<Process> {
    let name = format!("zone-{number:03}");
    let config = global.folder().join(format!("{name}.yaml"));
    let text = format!(
        "dataDir: {}\napiServer: {{http: {{port: 0}}}}\ndiagnostics: {{serverPort: 0}}\n\
         multizone: {{zone: {{name: {name}, globalAddress: \"grpc://{}\"}}}}\n",
        global.folder().join(&name).display(),
        global.kds
    );
    std::fs::write(&config, text)?;
    let on_line: OnLine = Box::new(move |line| {
        if let Some(revision) = applied(line) {
            board.reached(number, revision);
        }
    });
    Process::start("zone", &config, on_line).await
}

/// The revision in a line that says that an answer was applied to its end.
fn applied(line: &str) -> Option<u64> {
    if !line.contains("\"applied\"") {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let is_secret = line.get("ty")? == "Secret" && line.get("message")? == "applied";
    line.get("revision")?.as_u64().filter(|_| is_secret)
}

fn cpu(running: &[Process]) -> anyhow::Result<f64> {
    running.iter().map(|zone| Ok(zone.usage()?.cpu_s)).sum()
}

/// Nobody complained, and everybody holds the same.
async fn check(global: &mut Global, running: &mut [Process]) -> anyhow::Result<()> {
    global.check()?;
    let wanted = global.held().await?;
    for zone in running {
        zone.check().context("a zone")?;
        let held = global::held(&mut Http::connect(zone.api).await?).await?;
        anyhow::ensure!(held == wanted, "a zone does not hold what global holds");
    }
    Ok(())
}
