//! A zone, put together.
//!
//! Decides: its parts; without a global address there is no sync loop, only a store with an API.
//! Never does: more.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::listen::{Purpose, listen};
use super::{Addresses, info, open_store};
use crate::api::diagnostics::{self, Readiness};
use crate::api::{self, ApiState, Limits, Mode};
use crate::config::{LocalWrites, ZoneConfig};
use crate::store::ResourceStore;
use crate::supervisor::Tasks;
use crate::telemetry::Telemetry;
use crate::tls::Trust;
use crate::zone::{Config, Zone};

const API: Purpose = Purpose { what: "the zone's HTTP API", flag: "--api-port (apiServer.http.port)" };
const DIAGNOSTICS: Purpose =
    Purpose { what: "the zone's diagnostics", flag: "--diagnostics-port (diagnostics.serverPort)" };
const DEV: &str = "--zone-port-base";

/// A zone whose sockets are bound and whose tasks run.
#[derive(Debug)]
pub struct ZoneApp {
    name: String,
    addresses: Addresses,
    tasks: Tasks,
    store: Arc<dyn ResourceStore>,
    ready: watch::Receiver<bool>,
}

impl ZoneApp {
    /// Opens the store, binds the sockets, starts the tasks; `cancel` ends them.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn start(config: ZoneConfig, cancel: CancellationToken) -> anyhow::Result<Self> {
        Self::start_on(config, cancel, [API, DIAGNOSTICS]).await
    }

    /// The same as a part of `dev`, where another flag moves the ports.
    pub(super) async fn start_in_dev(config: ZoneConfig, cancel: CancellationToken) -> anyhow::Result<Self> {
        let ports = [API, DIAGNOSTICS].map(|purpose| Purpose { flag: DEV, ..purpose });
        Self::start_on(config, cancel, ports).await
    }

    async fn start_on(
        config: ZoneConfig,
        cancel: CancellationToken,
        [api, diagnostics]: [Purpose; 2],
    ) -> anyhow::Result<Self> {
        let name = config.name().to_owned();
        let http = &config.api_server.http;
        let api_listener = listen(http.interface, http.port, api).await?;
        let probes = &config.diagnostics;
        let probe_listener = listen(probes.interface, probes.server_port, diagnostics).await?;
        let addresses = Addresses {
            api: api_listener.local_addr()?,
            diagnostics: probe_listener.local_addr()?,
            kds: None,
        };
        let store = open_store(&config.store, config.store_path()).await?;
        let telemetry = Telemetry::default();
        let mut tasks = Tasks::new(cancel);
        let info = info();
        let ready = match settings(&config, &info.instance_id, &addresses)? {
            Some(settings) => {
                let (zone, handle) = Zone::open(settings, store.clone(), &telemetry).await?;
                let token = tasks.token();
                tasks.spawn("sync", zone.run(token));
                handle.ready()
            }
            None => watch::channel(true).1,
        };
        let state = ApiState {
            store: store.clone(),
            mode: mode(&config),
            info,
            telemetry: telemetry.clone(),
            zones: None,
            limits: Limits::default(),
            hosts: super::hosts(addresses.api, config.insecure_listen),
        };
        let probes = diagnostics::router(telemetry, Readiness::from(ready.clone()));
        let token = tasks.token();
        tasks.spawn("api", async move { Ok(api::serve(api_listener, api::router(state), token).await?) });
        let token = tasks.token();
        tasks.spawn("diagnostics", async move { Ok(api::serve(probe_listener, probes, token).await?) });
        announce(&config, &addresses);
        Ok(Self { name, addresses, tasks, store, ready })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// True once it has completed one sync ever.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Runs until cancelled, then closes the store.
    ///
    /// # Errors
    /// The task that failed.
    pub async fn run(self) -> anyhow::Result<()> {
        let outcome = self.tasks.run().await;
        self.store.close().await;
        tracing::info!(zone = self.name, "zone stopped");
        Ok(outcome?)
    }
}

fn mode(config: &ZoneConfig) -> Mode {
    Mode::Zone {
        name: config.name().to_owned(),
        global_address: config.global_address().map(str::to_owned),
        local_writes: match config.zone.local_writes {
            LocalWrites::Refuse => api::LocalWrites::Refuse,
            LocalWrites::Accept => api::LocalWrites::Accept,
        },
    }
}

/// What the sync loop needs; `None` for a standalone store.
fn settings(config: &ZoneConfig, instance: &str, addresses: &Addresses) -> anyhow::Result<Option<Config>> {
    let Some(global) = config.global_address() else { return Ok(None) };
    let kds = &config.multizone.zone.kds;
    let tls = match &kds.root_ca_file {
        _ if kds.tls_skip_verify => Trust::Nothing,
        Some(path) => Trust::Pinned(path.clone()),
        None => Trust::System,
    };
    Ok(Some(Config {
        name: config.name().to_owned(),
        global: global.parse().context("multizone.zone.globalAddress")?,
        tls,
        instance: instance.to_owned(),
        max_message: usize::try_from(kds.max_msg_size.0).context("multizone.zone.kds.maxMsgSize")?,
        api_address: format!("http://{}", addresses.api),
    }))
}

fn announce(config: &ZoneConfig, addresses: &Addresses) {
    let (zone, global) = (config.name(), config.global_address());
    let (api, diagnostics) = (addresses.api, addresses.diagnostics);
    match global {
        Some(global) => tracing::info!(zone, %api, %diagnostics, global, "zone started"),
        None => tracing::info!(zone, %api, %diagnostics, "zone started without a global: a standalone store"),
    }
    if !api.ip().is_loopback() {
        tracing::warn!(%api, "listening beyond loopback without authentication: whoever reaches this address can read every secret");
    }
    if config.multizone.zone.kds.tls_skip_verify {
        tracing::warn!("multizone.zone.kds.tlsSkipVerify is on: anybody can pose as global");
    }
}
