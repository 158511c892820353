//! What is told: one line per scenario, and a file of JSON.
//!
//! Decides: the words; whether a figure met what it must. Never does: drop what went wrong. The file
//! keeps the last result of every scenario, also of those that were not run this time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::disk::Disk;
use crate::scenario::{Figure, Limit, Outcome, Scenario, Size};

/// See the module.
pub(crate) struct Report {
    path: PathBuf,
    size: Size,
    results: Map<String, Value>,
    failures: usize,
}

impl Report {
    /// Goes on with the file that is there.
    pub(crate) fn open(size: Size) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
        let path = target.join("bench").join(size.pick("load.json", "load-quick.json"));
        let results = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { path, size, results: results.unwrap_or_default(), failures: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn failures(&self) -> usize {
        self.failures
    }

    /// Writes a result down and tells it in a line.
    pub(crate) fn add(
        &mut self,
        scenario: &Scenario,
        disk: &Disk,
        outcome: anyhow::Result<Outcome>,
    ) -> anyhow::Result<String> {
        let mut entry = Map::new();
        let mut note = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
        note("what", scenario.what.into());
        note("kuma", scenario.kuma.into());
        note("machine", machine());
        note("fdatasync_ms", serde_json::to_value(disk)?);
        let line = match outcome {
            Ok(outcome) => {
                let verdict = self.verdict(&outcome.figures);
                note("must_reach", verdict.as_str().into());
                note("result", serde_json::to_value(&outcome)?);
                line(scenario, disk, &outcome, &verdict)
            }
            Err(error) => {
                self.failures += 1;
                note("failure", format!("{error:#}").into());
                format!("{}: FAILED: {error:#}", scenario.name)
            }
        };
        self.results.insert(scenario.name.to_owned(), entry.into());
        let folder = self.path.parent().context("no folder")?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(&self.path, serde_json::to_string_pretty(&self.results)?)?;
        Ok(line)
    }

    fn verdict(&self, figures: &[Figure]) -> String {
        if self.size == Size::Quick {
            return "not judged (--quick)".to_owned();
        }
        let word = |good: bool| if good { "met" } else { "missed" };
        let must = figures.iter().all(|figure| figure.must.holds(figure.value));
        let aims: Vec<bool> =
            figures.iter().filter_map(|figure| Some(figure.aim?.holds(figure.value))).collect();
        let aim = word(aims.iter().all(|good| *good));
        if aims.is_empty() { word(must).to_owned() } else { format!("{}; aim: {aim}", word(must)) }
    }
}

fn line(scenario: &Scenario, disk: &Disk, outcome: &Outcome, verdict: &str) -> String {
    let mut text = format!("{}:", scenario.name);
    // Writing to a String cannot fail.
    for (index, figure) in outcome.figures.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma} {} {} {}", figure.what, short(figure.value), figure.unit);
    }
    if let Some(latency) = outcome.latency_ms {
        let _ = write!(
            text,
            " | latency p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms of {}",
            latency.p50, latency.p99, latency.max, latency.count
        );
    }
    let server = outcome.server;
    let _ = write!(
        text,
        " | server CPU {:.2} s ({:.2} % of a core), RSS {:.1} MB, peak {:.1} MB",
        server.cpu_s, server.cpu_percent, server.rss_mb, server.peak_mb
    );
    if let Some(wire) = outcome.wire_bytes {
        let _ = write!(text, " | wire {} bytes up, {} bytes down", wire.up, wire.down);
    }
    let _ =
        write!(text, " | fdatasync p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", disk.p50, disk.p99, disk.max);
    for note in &outcome.notes {
        let _ = write!(text, " | {note}");
    }
    let limits: Vec<String> = outcome.figures.iter().map(limits).collect();
    let _ = write!(text, " | must reach: {verdict} [{}]", limits.join(", "));
    text
}

/// What a figure must be, and the aim.
fn limits(figure: &Figure) -> String {
    let sign = |limit: Limit| match limit {
        Limit::AtMost(value) => format!("<= {value}"),
        Limit::AtLeast(value) => format!(">= {value}"),
    };
    let aim = figure.aim.map(|aim| format!(", aim {}", sign(aim))).unwrap_or_default();
    format!("{} {} {}{aim}", figure.what, sign(figure.must), figure.unit)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1_000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// Cores and memory; nothing that names the machine.
fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    json!({"cores": cores, "memory_mib": memory.unwrap_or_default() / 1024})
}
