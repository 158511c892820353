//! The scenarios: what each one is, what it must reach, and what came of it.
//!
//! Decides: whether a figure is good enough. Never does: measure one.

use std::time::Duration;

use serde::Serialize;

use crate::process::Usage;
use crate::stats::Summary;
use crate::traffic::Bytes;
use crate::{first, idle, latency, put, real, reconnect};

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// As in the table.
    Full,
    /// To see that it works.
    Quick,
}

impl Size {
    pub(crate) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// What Kuma 2.14.3 needs for it.
    pub(crate) kuma: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write,
    WriteReal,
    Idle,
    First(first::Wanted),
    Reconnect,
    Put,
}

/// Every scenario, in the order of the table.
pub(crate) const ALL: [Scenario; 8] = [
    Scenario {
        name: "write-100",
        what: "a write at global until the last of 100 thin zones has it",
        kuma: "2,830 ms",
        kind: Kind::Write,
    },
    Scenario {
        name: "write-10-real",
        what: "a write at global until the last of 10 real zones has committed it durably",
        kuma: "-",
        kind: Kind::WriteReal,
    },
    Scenario {
        name: "idle-100",
        what: "CPU of global with 100 idle zones x 1,000 secrets",
        kuma: "138 % of a core",
        kind: Kind::Idle,
    },
    Scenario {
        name: "first-100",
        what: "first sync of 100 zones x 1,000 secrets",
        kuma: "5.1 s, 8.9 s, 982 MB",
        kind: Kind::First(first::ZONES_100),
    },
    Scenario {
        name: "first-300",
        what: "first sync of 300 zones x 1,000 secrets",
        kuma: "17.3 s, 29 s, 2,364 MB",
        kind: Kind::First(first::ZONES_300),
    },
    Scenario {
        name: "big-10",
        what: "first sync of 10 zones x 10,000 secrets",
        kuma: "never finishes (message limit)",
        kind: Kind::First(first::BIG),
    },
    Scenario {
        name: "reconnect-100",
        what: "100 up-to-date zones reconnect at once",
        kuma: "the whole set again",
        kind: Kind::Reconnect,
    },
    Scenario {
        name: "put-8",
        what: "durable PUT through the HTTP API, 8 at a time",
        kuma: "3,447/s in memory, 1,116/s on PostgreSQL",
        kind: Kind::Put,
    },
];

impl Scenario {
    /// Measures it.
    pub(crate) async fn run(&self, size: Size) -> anyhow::Result<Outcome> {
        match self.kind {
            Kind::Write => latency::run(size).await,
            Kind::WriteReal => real::run(size).await,
            Kind::Idle => idle::run(size).await,
            Kind::First(wanted) => first::run(wanted, size).await,
            Kind::Reconnect => reconnect::run(size).await,
            Kind::Put => put::run(size).await,
        }
    }
}

/// Where a figure must lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// What the table asks for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) must: Limit,
    pub(crate) aim: Option<Limit>,
}

/// What the server process did in a scenario.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Server {
    /// CPU while it was measured, in seconds.
    pub(crate) cpu_s: f64,
    /// The same as a share of one core.
    pub(crate) cpu_percent: f64,
    /// Memory in use at the end, in MB.
    pub(crate) rss_mb: f64,
    /// The most memory since its start, in MB; loading the secrets is included.
    pub(crate) peak_mb: f64,
}

impl Server {
    /// Between two looks that lie `elapsed` apart.
    pub(crate) fn between(before: Usage, after: Usage, elapsed: Duration) -> Self {
        let cpu_s = after.cpu_s - before.cpu_s;
        let cpu_percent = 100.0 * cpu_s / elapsed.as_secs_f64();
        Self { cpu_s, cpu_percent, rss_mb: after.rss_mb, peak_mb: after.peak_mb }
    }
}

/// What came of a scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    /// Of writes, in milliseconds.
    pub(crate) latency_ms: Option<Summary>,
    pub(crate) server: Server,
    /// Where zones run in this process.
    pub(crate) wire_bytes: Option<Bytes>,
    /// What else is worth knowing.
    pub(crate) notes: Vec<String>,
}
