//! Durable writes through the HTTP API, several at a time.
//!
//! Decides: that each of the clients keeps one connection open and sends the next request when it has
//! the answer to the last. First every name is new, as when Kuma was measured, then every name gets a
//! new value; the slower of the two counts. Never does: send a batch; each answer stands for a commit
//! that was durable before it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::global::Global;
use crate::http::Http;
use crate::scenario::{Figure, Limit, Outcome, Server, Size};
use crate::stats::Samples;
use crate::{progress, secrets};

/// Clients.
const AT_A_TIME: usize = 8;

pub(crate) async fn run(size: Size) -> anyhow::Result<Outcome> {
    let count = size.pick(20_000, 400);
    let mut global = Global::start().await?;
    let (before, start) = (global.usage()?, Instant::now());
    let created = phase(global.api(), count, StatusCode::CREATED).await?;
    progress(&format!("{count} new names: {:.0}/s", created.rate()));
    let updated = phase(global.api(), count, StatusCode::OK).await?;
    progress(&format!("{count} new values: {:.0}/s", updated.rate()));
    let server = Server::between(before, global.usage()?, start.elapsed());
    let held = global.held().await?.len();
    anyhow::ensure!(held == count, "{held} of {count} secrets are there");
    global.check()?;
    let figure = Figure {
        what: "durable PUTs",
        value: created.rate().min(updated.rate()),
        unit: "/s",
        must: Limit::AtLeast(3_500.0),
        aim: Some(Limit::AtLeast(5_000.0)),
    };
    let told = |what: &str, phase: &Phase| {
        let took = phase.samples.summary();
        format!("{what}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms", phase.rate(), took.p50, took.p99)
    };
    let notes = vec![told("new names", &created), told("new values", &updated)];
    let mut samples = created.samples;
    samples.merge(&updated.samples)?;
    let latency_ms = Some(samples.summary());
    Ok(Outcome { figures: vec![figure], latency_ms, server, wire_bytes: None, notes })
}

struct Phase {
    samples: Samples,
    took: Duration,
}

impl Phase {
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    fn rate(&self) -> f64 {
        self.samples.summary().count as f64 / self.took.as_secs_f64()
    }
}

/// Puts every name once; bodies are made before the clock runs.
async fn phase(api: SocketAddr, count: usize, wanted: StatusCode) -> anyhow::Result<Phase> {
    let ready = Arc::new(Barrier::new(AT_A_TIME + 1));
    let mut clients = JoinSet::new();
    for client in 0..AT_A_TIME {
        let mine = (client..count).step_by(AT_A_TIME);
        let requests = mine.map(|number| (secrets::path(number), secrets::body(number))).collect();
        clients.spawn(puts(api, requests, wanted, ready.clone()));
    }
    ready.wait().await;
    let start = Instant::now();
    let mut samples = Samples::new()?;
    while let Some(client) = clients.join_next().await {
        samples.merge(&client??)?;
    }
    Ok(Phase { samples, took: start.elapsed() })
}

async fn puts(
    api: SocketAddr,
    requests: Vec<(String, Bytes)>,
    wanted: StatusCode,
    ready: Arc<Barrier>,
) -> anyhow::Result<Samples> {
    let connected = Http::connect(api).await;
    ready.wait().await;
    let (mut http, mut samples) = (connected?, Samples::new()?);
    for (path, body) in requests {
        let start = Instant::now();
        let (status, answer) = http.send(Method::PUT, &path, body).await?;
        samples.record(start.elapsed());
        anyhow::ensure!(status == wanted, "{path}: {status}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(samples)
}
