//! The global under test: a process with an embedded store in a folder of its own.
//!
//! Decides: its configuration: the defaults, on free ports. Never does: tune it for a scenario.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::disk;
use crate::http::Http;
use crate::process::{Process, Usage};
use crate::secrets;

/// Secrets per batch while the store is filled.
const PER_BATCH: usize = 100;
/// Secrets per page when everything is read.
const PER_PAGE: usize = 1_000;

/// See the module.
pub(crate) struct Global {
    process: Process,
    http: Http,
    folder: TempDir,
    /// Of its KDS.
    pub(crate) kds: SocketAddr,
}

impl Global {
    /// Starts one on an empty store.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = disk::folder()?;
        let config = folder.path().join("global.yaml");
        let text = format!(
            "dataDir: {}\napiServer: {{http: {{port: 0}}}}\ndiagnostics: {{serverPort: 0}}\n\
             multizone: {{global: {{kds: {{grpcPort: 0}}}}}}\n",
            folder.path().join("global").display()
        );
        std::fs::write(&config, text)?;
        let process = Process::start("global", &config, Box::new(|_| {})).await?;
        let kds = process.kds.context("it did not say where KDS listens")?;
        let http = Http::connect(process.api).await?;
        Ok(Self { process, http, folder, kds })
    }

    /// Starts one and fills it with `count` secrets. Also tells the revision of the last.
    pub(crate) async fn filled(count: usize) -> anyhow::Result<(Self, u64)> {
        let mut global = Self::start().await?;
        let mut revision = 0;
        for first in (0..count).step_by(PER_BATCH) {
            revision = global.batch(secrets::batch(first..count.min(first + PER_BATCH))).await?;
        }
        Ok((global, revision))
    }

    /// Writes a batch durably, and tells its revision.
    pub(crate) async fn batch(&mut self, body: Bytes) -> anyhow::Result<u64> {
        let answer = self.http.json(Method::POST, "/kdsync/batch", body).await?;
        answer.get("revision").and_then(Value::as_u64).context("a batch without a revision")
    }

    /// How many zones it believes to be connected.
    pub(crate) async fn connected(&mut self) -> anyhow::Result<usize> {
        let zones = self.http.json(Method::GET, "/kdsync/zones", Bytes::new()).await?;
        let zones = zones.get("items").and_then(Value::as_array).context("no list of zones")?;
        Ok(zones.iter().filter(|zone| zone.get("connected") == Some(&Value::Bool(true))).count())
    }

    /// Everything it holds, as name and value.
    pub(crate) async fn held(&mut self) -> anyhow::Result<BTreeMap<String, String>> {
        held(&mut self.http).await
    }

    /// Where its API listens.
    pub(crate) fn api(&self) -> SocketAddr {
        self.process.api
    }

    /// Where it keeps its files; there is room for those of zones.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    /// An error if it complained or ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.check().context("global")
    }
}

/// Every secret behind an API.
pub(crate) async fn held(http: &mut Http) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    loop {
        let path = format!("/secrets?size={PER_PAGE}&offset={}", all.len());
        let page = http.json(Method::GET, &path, Bytes::new()).await?;
        let items = page.get("items").and_then(Value::as_array).context("a list without items")?;
        for item in items {
            let text = |field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            all.insert(text("name"), text("data"));
        }
        if items.len() < PER_PAGE {
            return Ok(all);
        }
    }
}
