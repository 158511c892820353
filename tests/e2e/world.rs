//! Processes, what they log, and what they hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("it took too long: {what}"))
}

/// Looks again and again until something is there.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    soon(what, async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    })
    .await
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdsync"));
    command.env_remove("KDSYNC_ADDRESS").current_dir(env!("CARGO_MANIFEST_DIR")).kill_on_drop(true);
    command
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) async fn run(args: &[&str]) -> Said {
    let output = soon(&format!("kdsync {args:?}"), binary().args(args).stdin(Stdio::null()).output()).await;
    let output = output.unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command that must succeed.
pub(crate) async fn good(args: &[&str]) -> String {
    let said = run(args).await;
    assert_eq!(said.code, Some(0), "kdsync {args:?}: {said:?}");
    said.out
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        self.0.lock().join("\n")
    }

    fn line(&self, message: &str) -> Option<Value> {
        let lines = self.0.lock();
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.into_iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message)))
    }

    /// ERROR lines, and panics, that none of `allowed` explains.
    fn unexpected(&self, allowed: &[&str]) -> Vec<String> {
        let bad = |line: &&String| line.contains("\"ERROR\"") || line.contains("panicked");
        let known = |line: &&String| allowed.iter().any(|text| line.contains(text));
        self.0.lock().iter().filter(|line| bad(line) && !known(line)).cloned().collect()
    }
}

/// A running component.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) log: Log,
    news: watch::Receiver<usize>,
    _readers: JoinSet<()>,
    /// Where its API listens.
    pub(crate) api: String,
    pub(crate) kds: String,
}

async fn read(from: impl AsyncRead + Unpin, log: Log, news: watch::Sender<usize>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.0.lock().push(line);
        news.send_modify(|count| *count += 1);
    }
}

impl Process {
    /// Starts a process and reads what it says.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (log, (sender, news)) = (Log::default(), watch::channel(0));
        let mut readers = JoinSet::new();
        readers.spawn(read(child.stderr.take().unwrap(), log.clone(), sender));
        Self { child, log, news, _readers: readers, api: String::new(), kds: String::new() }
    }

    /// Waits for a log line.
    pub(crate) async fn line(&self, message: &str) -> Value {
        let mut news = self.news.clone();
        let found = async {
            loop {
                news.borrow_and_update();
                if let Some(line) = self.log.line(message) {
                    return Some(line);
                }
                if news.changed().await.is_err() {
                    return self.log.line(message);
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await.ok().flatten();
        found.unwrap_or_else(|| panic!("no line \"{message}\" in:\n{}", self.log.text()))
    }

    /// Waits for words anywhere in what it says: for what is no log line.
    pub(crate) async fn line_of_text(&self, words: &str) {
        let mut news = self.news.clone();
        let found = async {
            while !self.log.text().contains(words) && news.changed().await.is_ok() {}
            self.log.text().contains(words)
        };
        let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_default();
        assert!(found, "no \"{words}\" in:\n{}", self.log.text());
    }

    /// Waits until it listens.
    async fn started(mut self, message: &str) -> Self {
        let line = self.line(message).await;
        self.api = format!("http://{}", line["api"].as_str().unwrap());
        self.kds = line["kds"].as_str().map(|kds| format!("grpc://{kds}")).unwrap_or_default();
        self
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) -> Log {
        soon("killing", self.child.kill()).await.unwrap();
        self.log
    }

    /// SIGINT, as Ctrl-C sends it.
    pub(crate) async fn interrupt(mut self, allowed: &[&str]) -> Log {
        let id = self.child.id().unwrap().to_string();
        let status = Command::new("kill").args(["-INT", &id]).status().await.unwrap();
        assert!(status.success());
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.log.text());
        while soon("its last words", self.news.changed()).await.is_ok() {}
        assert_eq!(self.log.unexpected(allowed), [""; 0]);
        self.log
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("ending", self.child.wait()).await.unwrap()
    }
}

/// A place for a global and its zones.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn global_command(&self, data: &str, kds_port: &str) -> Command {
        let mut command = binary();
        command.args(["global", "--api-port", "0", "--diagnostics-port", "0", "--log-format", "json"]);
        command.args(["--kds-port", kds_port, "--data-dir"]).arg(self.folder(data));
        command
    }

    /// A global on a free port, or on the one of an earlier one.
    pub(crate) async fn global(&self, data: &str, kds: &str) -> Process {
        let port = kds.rsplit_once(':').map_or("0", |(_, port)| port);
        Process::start(self.global_command(data, port)).started("global started").await
    }

    pub(crate) fn zone_command(&self, name: &str, data: &str, kds: &str) -> Command {
        let mut command = binary();
        command.args(["zone", "--api-port", "0", "--diagnostics-port", "0", "--log-format", "json"]);
        command.args(["--name", name, "--global-address", kds, "--data-dir"]).arg(self.folder(data));
        command.env("KDSYNC_ZONE_LOCAL_WRITES", "accept");
        command
    }

    pub(crate) async fn zone(&self, name: &str, kds: &str) -> Process {
        Process::start(self.zone_command(name, name, kds)).started("zone started").await
    }
}

/// An HTTP client.
pub(crate) struct Http(Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>);

impl Http {
    pub(crate) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    pub(crate) async fn send(&self, method: &str, url: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = http::Request::builder().method(method).uri(url);
        let request = request.header("content-type", "application/json").body(Full::new(body)).unwrap();
        let response = soon(url, self.0.request(request)).await.ok()?;
        let status = response.status().as_u16();
        let body = soon(url, response.into_body().collect()).await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Every secret with its value; `None` if nobody answers.
    pub(crate) async fn held(&self, api: &str) -> Option<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for path in ["secrets", "globalsecrets"] {
            let mut offset = 0;
            loop {
                let url = format!("{api}/{path}?size=1000&offset={offset}");
                let (status, page) = self.send("GET", &url, &Value::Null).await?;
                assert_eq!(status, 200, "{page}");
                let items = page["items"].as_array().unwrap();
                for item in items {
                    let name = format!("{}/{}", item["mesh"].as_str().unwrap_or(""), item["name"].as_str()?);
                    all.insert(name, item["data"].as_str()?.to_owned());
                }
                offset += items.len();
                if items.len() < 1000 {
                    break;
                }
            }
        }
        Some(all)
    }

    /// Waits until both hold the same, and tells what.
    pub(crate) async fn converge(&self, global: &str, zone: &str) -> BTreeMap<String, String> {
        until("converging", || async {
            let (ours, theirs) = (self.held(global).await?, self.held(zone).await?);
            (ours == theirs).then_some(ours)
        })
        .await
    }

    /// Writes a batch of names with one value, and tells whether it was acknowledged.
    pub(crate) async fn batch(&self, api: &str, names: &[String], value: &str) -> bool {
        let item =
            |name: &String| json!({"type": "Secret", "mesh": "default", "name": name, "data": base64(value)});
        let items: Vec<_> = names.iter().map(item).collect();
        let sent = self.send("POST", &format!("{api}/kdsync/batch"), &json!({"items": items})).await;
        sent.is_some_and(|(status, answer)| {
            assert_eq!(status, 200, "{answer}");
            true
        })
    }

    pub(crate) async fn put(&self, api: &str, name: &str, value: &str) -> (u16, Value) {
        let url = format!("{api}/meshes/default/secrets/{name}");
        let body = json!({"type": "Secret", "mesh": "default", "name": name, "data": base64(value)});
        self.send("PUT", &url, &body).await.unwrap()
    }
}

pub(crate) fn base64(value: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(value)
}

/// A port nobody listens on now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
