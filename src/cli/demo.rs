//! `kdsync demo`: the story of the product, told by itself.
//!
//! Decides: the steps, each measured; a step that does not come true fails the command. Never does:
//! touch anything but a temporary folder and free ports on loopback.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::output::{Output, note, text};
use super::{CliError, Server};
use crate::app::{GlobalApp, ZoneApp};
use crate::config::{DemoConfig, GlobalConfig, LocalWrites, ZoneConfig};
use crate::telemetry::clock;

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// A temporary folder that goes with the value, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be deleted now is the system's to clean.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

struct Story<'a> {
    output: &'a mut Output,
    step: usize,
}

impl Story<'_> {
    fn tell(&mut self, what: &str, since: Instant) -> Result<(), CliError> {
        self.step += 1;
        let took = clock::now().saturating_duration_since(since);
        let (step, ms) = (self.step, took.as_secs_f64() * 1000.0);
        self.output.line(&format!("{step:>2}. {what:<78} {ms:>8.1} ms"))
    }
}

/// A part that runs until its token is cancelled.
struct Cast {
    tasks: JoinSet<anyhow::Result<()>>,
    cancel: CancellationToken,
}

impl Cast {
    fn new() -> Self {
        Self { tasks: JoinSet::new(), cancel: CancellationToken::new() }
    }

    async fn stop(mut self) -> Result<(), CliError> {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| CliError::Failed(error.to_string()))??;
        }
        Ok(())
    }
}

/// Runs the demonstration.
pub(super) async fn run(config: DemoConfig, output: &mut Output) -> Result<(), CliError> {
    let name = format!("kdsync-demo-{:08x}", fastrand::u32(..));
    let folder = Folder { path: std::env::temp_dir().join(name), keep: config.keep };
    let mut story = Story { output, step: 0 };
    let outcome = play(&folder.path, &mut story).await;
    if config.keep {
        note(&format!("the files are in {}", folder.path.display()));
    }
    outcome
}

async fn play(folder: &Path, story: &mut Story<'_>) -> Result<(), CliError> {
    let start = clock::now();
    let (mut global, kds, global_api) = start_global(folder, 0, 0).await?;
    let mut zones = Cast::new();
    let east = start_zone(&mut zones, folder, "east", kds).await?;
    let west = start_zone(&mut zones, folder, "west", kds).await?;
    story.tell("a global and two zones, east and west, are up and in sync", start)?;

    let start = clock::now();
    post(&global_api, &[secret("sample-secret", "Zmlyc3Q=")]).await?;
    story.tell("a secret is written at global, durably", start)?;
    both(&east, &west, "sample-secret", Some("Zmlyc3Q=")).await?;
    story.tell("both zones hold it, durably", start)?;

    let start = clock::now();
    post(&global_api, &[secret("sample-secret", "c2Vjb25k")]).await?;
    both(&east, &west, "sample-secret", Some("c2Vjb25k")).await?;
    story.tell("it is rotated at global; both zones have the new value", start)?;

    let start = clock::now();
    post(&east, &[secret("rogue", "bG9jYWw=")]).await?;
    holds(&east, "rogue", None).await?;
    story.tell("somebody puts the secret \"rogue\" into east; it is swept away", start)?;
    reported(&global_api, "swept", "rogue").await?;
    story.tell("global knows it by name (the value stays in east's quarantine)", start)?;

    let start = clock::now();
    delete(&west, "sample-secret").await?;
    holds(&west, "sample-secret", Some("c2Vjb25k")).await?;
    story.tell("somebody deletes the synced secret in west; it is put back", start)?;

    let start = clock::now();
    global.stop().await?;
    both(&east, &west, "sample-secret", Some("c2Vjb25k")).await?;
    story.tell("global is stopped; both zones go on serving everything", start)?;
    let start = clock::now();
    post(&west, &[secret("sample-secret", "dGFtcGVyZWQ=")]).await?;
    holds(&west, "sample-secret", Some("c2Vjb25k")).await?;
    story.tell("without global, somebody changes the secret in west; it is put back", start)?;

    let start = clock::now();
    let (again, _, global_api) = start_global(folder, kds, 0).await?;
    global = again;
    post(&global_api, &[secret("after-restart", "dGhpcmQ=")]).await?;
    both(&east, &west, "after-restart", Some("dGhpcmQ=")).await?;
    story.tell("global comes back; a new secret reaches both zones", start)?;

    let start = clock::now();
    delete(&global_api, "sample-secret").await?;
    both(&east, &west, "sample-secret", None).await?;
    story.tell("the secret is deleted at global; it is gone from both zones", start)?;
    zones.stop().await?;
    global.stop().await
}

async fn start_global(folder: &Path, kds: u16, api: u16) -> Result<(Cast, u16, Client), CliError> {
    let mut config = GlobalConfig { data_dir: folder.join("global"), ..GlobalConfig::default() };
    config.api_server.http.port = api;
    config.diagnostics.server_port = 0;
    config.multizone.global.kds.grpc_port = kds;
    let mut cast = Cast::new();
    let app = GlobalApp::start(config, cast.cancel.clone()).await?;
    let addresses = app.addresses();
    cast.tasks.spawn(app.run());
    let kds = addresses.kds.map(|kds| kds.port()).unwrap_or_default();
    Ok((cast, kds, client(addresses.api)?))
}

async fn start_zone(cast: &mut Cast, folder: &Path, name: &str, kds: u16) -> Result<Client, CliError> {
    let mut config = ZoneConfig { data_dir: folder.join(name), ..ZoneConfig::default() };
    config.api_server.http.port = 0;
    config.diagnostics.server_port = 0;
    name.clone_into(&mut config.multizone.zone.name);
    config.multizone.zone.global_address = format!("grpc://127.0.0.1:{kds}");
    config.zone.local_writes = LocalWrites::Accept;
    let app = ZoneApp::start(config, cast.cancel.clone()).await?;
    let (api, mut ready) = (app.addresses().api, app.ready());
    cast.tasks.spawn(app.run());
    let waiting = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
    match waiting {
        Ok(Ok(_)) => client(api),
        _ => Err(CliError::Failed(format!("zone {name} was not in sync within {} s", PATIENCE.as_secs()))),
    }
}

fn client(address: std::net::SocketAddr) -> Result<Client, CliError> {
    let address = format!("http://{address}");
    Ok(Client::new(&Server { address, timeout: PATIENCE.into(), verbose: false })?)
}

fn secret(name: &str, data: &str) -> Value {
    json!({ "type": "Secret", "mesh": "default", "name": name, "data": data })
}

async fn post(client: &Client, items: &[Value]) -> Result<(), CliError> {
    let body = json!({ "items": items }).to_string().into_bytes();
    client.post("/kdsync/batch", body).await?;
    Ok(())
}

async fn delete(client: &Client, name: &str) -> Result<(), CliError> {
    client.delete(&format!("/meshes/default/secrets/{name}")).await?;
    Ok(())
}

async fn both(east: &Client, west: &Client, name: &str, data: Option<&str>) -> Result<(), CliError> {
    tokio::try_join!(holds(east, name, data), holds(west, name, data))?;
    Ok(())
}

/// Waits until the secret has this value, or is gone.
async fn holds(client: &Client, name: &str, data: Option<&str>) -> Result<(), CliError> {
    let path = format!("/meshes/default/secrets/{name}");
    let deadline = clock::now() + PATIENCE;
    while clock::now() < deadline {
        let found = match client.get(&path).await {
            Ok(item) => Some(text(&item, "data").to_owned()),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        if found.as_deref() == data {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    let wanted = if data.is_some() { "did not get" } else { "did not lose" };
    Err(CliError::Failed(format!(
        "{} {wanted} secret \"{name}\" within {} s",
        client.address(),
        PATIENCE.as_secs()
    )))
}

/// Waits until an event names the secret.
async fn reported(client: &Client, kind: &str, name: &str) -> Result<(), CliError> {
    let deadline = clock::now() + PATIENCE;
    while clock::now() < deadline {
        let events = client.get("/kdsync/events").await?;
        let named = |event: &Value| {
            text(event, "kind") == kind
                && event.pointer("/resource/name").and_then(Value::as_str) == Some(name)
        };
        if events.get("items").and_then(Value::as_array).is_some_and(|items| items.iter().any(named)) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(CliError::Failed(format!("global did not report that \"{name}\" was {kind}")))
}
