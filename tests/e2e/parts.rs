//! Processes with settings of their own, what they tell on their diagnostics port, and content that fills
//! many pages.
//!
//! Decides: how a test starts and asks what `world` does not. Never does: judge.

use std::ops::Range;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::world::{Http, Process, World, base64, soon, until};

/// A running component and its diagnostics port.
pub(crate) struct Part {
    pub(crate) process: Process,
    diagnostics: String,
}

impl Part {
    async fn start(command: Command, message: &str) -> Self {
        let mut process = Process::start(command);
        let line = process.line(message).await;
        process.api = format!("http://{}", line["api"].as_str().unwrap());
        process.kds = line["kds"].as_str().map(|kds| format!("grpc://{kds}")).unwrap_or_default();
        Self { process, diagnostics: line["diagnostics"].as_str().unwrap().to_owned() }
    }

    /// A global with more in its environment.
    pub(crate) async fn global(world: &World, env: &[(&str, &str)]) -> Self {
        let mut command = world.global_command("global", "0");
        command.envs(env.iter().copied());
        Self::start(command, "global started").await
    }

    /// The zone "east" with more in its environment.
    pub(crate) async fn east(world: &World, kds: &str, env: &[(&str, &str)]) -> Self {
        let mut command = world.zone_command("east", "east", kds);
        command.envs(env.iter().copied());
        Self::zone(command).await
    }

    /// A zone by its whole command.
    pub(crate) async fn zone(command: Command) -> Self {
        Self::start(command, "zone started").await
    }

    pub(crate) fn api(&self) -> &str {
        &self.process.api
    }

    /// Asks the diagnostics port: the status and the body.
    async fn ask(&self, path: &str) -> (u16, String) {
        let mut tcp = soon(path, TcpStream::connect(&self.diagnostics)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, tcp.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What `/ready` answers.
    pub(crate) async fn ready(&self) -> u16 {
        self.ask("/ready").await.0
    }

    /// A number from `/metrics`; 0 where it is not told yet.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (status, body) = self.ask("/metrics").await;
        assert_eq!(status, 200, "{body}");
        let found = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.map_or(0, |number| number.parse().unwrap())
    }

    /// The log lines with exactly this message.
    pub(crate) fn lines(&self, message: &str) -> Vec<Value> {
        let text = self.process.log.text();
        let parsed = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|line| line["message"] == message).collect()
    }
}

/// What global knows of zone east.
pub(crate) async fn east_at(http: &Http, global: &str) -> Option<Value> {
    let url = format!("{global}/kdsync/zones/east");
    let (status, zone) = http.send("GET", &url, &Value::Null).await?;
    (status == 200).then_some(zone)
}

/// Waits until global sees zone east as wanted.
pub(crate) async fn until_east(
    http: &Http,
    global: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    until(what, || async { east_at(http, global).await.filter(&wanted) }).await
}

/// Secrets of one mesh, `<prefix>000` and so on, each with its own value that no compression makes smaller
/// than three quarters.
pub(crate) fn secrets(mesh: &str, prefix: &str, range: Range<usize>, bytes: usize) -> Vec<Value> {
    let mut random = fastrand::Rng::with_seed(range.start as u64 + 5);
    let mut value = || base64(&(0..bytes).map(|_| random.alphanumeric()).collect::<String>());
    range
        .map(|n| json!({"type": "Secret", "mesh": mesh, "name": format!("{prefix}{n:03}"), "data": value()}))
        .collect()
}

/// Writes them in one transaction.
pub(crate) async fn write_all(http: &Http, api: &str, items: &[Value]) {
    let body = json!({"items": items});
    let (status, answer) = http.send("POST", &format!("{api}/kdsync/batch"), &body).await.unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// Deletes a secret by what `Http::held` calls it: `mesh/name`.
pub(crate) async fn delete(http: &Http, api: &str, held: &str) {
    let (mesh, name) = held.split_once('/').unwrap();
    let url = format!("{api}/meshes/{mesh}/secrets/{name}");
    let (status, answer) = http.send("DELETE", &url, &Value::Null).await.unwrap();
    assert_eq!(status, 200, "{answer}");
}
