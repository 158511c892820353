//! A running component: the real binary, its log, and what the kernel says of it.
//!
//! Decides: where it listens (its own log tells), what it has cost so far, whether it complained. Never
//! does: share memory with it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clock ticks per second in `/proc/<pid>/stat`; on Linux it is 100 for every program.
const TICKS: f64 = 100.0;
/// How many lines of a log are kept, for when something goes wrong.
const KEPT: usize = 50;

/// Reads every line of a log.
pub(crate) type OnLine = Box<dyn FnMut(&str) + Send>;

/// See the module.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Log>>,
    _reader: JoinSet<()>,
    /// Of its HTTP API.
    pub(crate) api: SocketAddr,
    /// Of its KDS; of a global only.
    pub(crate) kds: Option<SocketAddr>,
}

#[derive(Debug, Default)]
struct Log {
    last: Vec<String>,
    errors: Vec<String>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Usage {
    /// User and system time, in seconds; the kernel tells it in hundredths.
    pub(crate) cpu_s: f64,
    /// Memory in use, in MB (10^6 bytes).
    pub(crate) rss_mb: f64,
    /// The most memory ever in use since the start, in MB (10^6 bytes).
    pub(crate) peak_mb: f64,
}

impl Process {
    /// Starts `kdsync COMPONENT --config FILE` and waits until it listens.
    pub(crate) async fn start(component: &str, config: &Path, on_line: OnLine) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdsync"));
        command.arg(component).arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the kdsync binary does not start")?;
        let stderr = child.stderr.take().context("no log")?;
        let (log, (started, start)) = (Arc::<Mutex<Log>>::default(), oneshot::channel());
        let mut reader = JoinSet::new();
        reader.spawn(read(stderr, log.clone(), started, on_line));
        let Ok(Ok(line)) = tokio::time::timeout(PATIENCE, start).await else {
            anyhow::bail!("{component} did not start: {}", log.lock().last.join(" / "));
        };
        let address = |name: &str| line.get(name).and_then(Value::as_str)?.parse().ok();
        let api = address("api").context("it did not say where its API listens")?;
        Ok(Self { child, log, _reader: reader, api, kds: address("kds") })
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let id = self.child.id().context("the process has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        Ok(Usage {
            cpu_s: ticks(&stat).context("no times in /proc")? / TICKS,
            rss_mb: megabytes(&status, "VmRSS:").context("no VmRSS in /proc")?,
            peak_mb: megabytes(&status, "VmHWM:").context("no VmHWM in /proc")?,
        })
    }

    /// An error if it logged one, or ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let log = self.log.lock();
        anyhow::ensure!(log.errors.is_empty(), "it logged errors: {}", log.errors.join(" / "));
        let ended = self.child.try_wait()?;
        anyhow::ensure!(ended.is_none(), "it ended: {}", log.last.join(" / "));
        Ok(())
    }
}

/// Reads a log to its end; the line that tells of the start is handed over.
async fn read(
    stderr: ChildStderr,
    log: Arc<Mutex<Log>>,
    started: oneshot::Sender<Value>,
    mut on_line: OnLine,
) {
    let mut started = Some(started);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        on_line(&line);
        if started.is_some()
            && line.contains(" started\"")
            && let (Ok(value), Some(started)) = (serde_json::from_str(&line), started.take())
        {
            // Whoever gave up waiting has no use for it.
            let _ = started.send(value);
        }
        let mut log = log.lock();
        if line.contains("\"ERROR\"") || line.contains("panicked") {
            log.errors.push(line.clone());
        }
        if log.last.len() == KEPT {
            log.last.remove(0);
        }
        log.last.push(line);
    }
}

/// User and system time: the 14th and 15th field; the second one, in brackets, may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

/// A line such as `VmHWM:     5432 kB`, where kB means 1,024 bytes.
fn megabytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
