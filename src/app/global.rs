//! A global, put together.
//!
//! Decides: its parts. Never does: more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::listen::{Purpose, listen};
use super::{Addresses, info, open_store};
use crate::api::diagnostics::{self, Readiness};
use crate::api::{self, ApiState, Limits, Mode};
use crate::config::{Admit, GlobalConfig};
use crate::core::StoreIdentity;
use crate::global::{self, Global};
use crate::store::ResourceStore;
use crate::supervisor::Tasks;
use crate::telemetry::Telemetry;

const API: Purpose = Purpose { what: "the HTTP API", flag: "--api-port (apiServer.http.port)" };
const KDS: Purpose = Purpose { what: "KDS", flag: "--kds-port (multizone.global.kds.grpcPort)" };
const DIAGNOSTICS: Purpose =
    Purpose { what: "diagnostics", flag: "--diagnostics-port (diagnostics.serverPort)" };

/// A global whose sockets are bound and whose tasks run.
#[derive(Debug)]
pub struct GlobalApp {
    addresses: Addresses,
    tasks: Tasks,
    store: Arc<dyn ResourceStore>,
    ready: tokio::sync::watch::Receiver<bool>,
}

impl GlobalApp {
    /// Opens the store, binds the sockets, starts the tasks; `cancel` ends them.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn start(config: GlobalConfig, cancel: CancellationToken) -> anyhow::Result<Self> {
        let http = &config.api_server.http;
        let api_listener = listen(http.interface, http.port, API).await?;
        let kds_listener = listen(config.kds().interface, config.kds().grpc_port, KDS).await?;
        let probes = &config.diagnostics;
        let probe_listener = listen(probes.interface, probes.server_port, DIAGNOSTICS).await?;
        let addresses = Addresses {
            api: api_listener.local_addr()?,
            diagnostics: probe_listener.local_addr()?,
            kds: Some(kds_listener.local_addr()?),
        };
        let store = open_store(&config.store, config.store_path()).await?;
        let telemetry = Telemetry::default();
        let mut tasks = Tasks::new(cancel);
        let global = Global::start(settings(&config)?, store.clone(), &telemetry, &mut tasks);
        let ready = global.ready();
        let state = ApiState {
            store: store.clone(),
            mode: Mode::Global,
            info: info(),
            telemetry: telemetry.clone(),
            zones: Some(global.directory()),
            limits: Limits::default(),
            hosts: super::hosts(addresses.api, config.insecure_listen),
        };
        let probes = diagnostics::router(telemetry, Readiness::from(ready.clone()));
        let token = tasks.token();
        tasks.spawn("kds", async move { Ok(global.serve(kds_listener, token).await?) });
        let token = tasks.token();
        tasks.spawn("api", async move { Ok(api::serve(api_listener, api::router(state), token).await?) });
        let token = tasks.token();
        tasks.spawn("diagnostics", async move { Ok(api::serve(probe_listener, probes, token).await?) });
        announce(&config, &addresses, store.identity());
        Ok(Self { addresses, tasks, store, ready })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// True once zones are answered.
    #[must_use]
    pub fn ready(&self) -> tokio::sync::watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Runs until cancelled, then closes the store.
    ///
    /// # Errors
    /// The task that failed.
    pub async fn run(self) -> anyhow::Result<()> {
        let outcome = self.tasks.run().await;
        self.store.close().await;
        tracing::info!("global stopped");
        Ok(outcome?)
    }
}

fn settings(config: &GlobalConfig) -> anyhow::Result<global::Config> {
    let kds = config.kds();
    Ok(global::Config {
        page_size: usize::try_from(kds.page_size.0).context("multizone.global.kds.pageSize")?,
        max_message: usize::try_from(kds.max_msg_size.0).context("multizone.global.kds.maxMsgSize")?,
        admit: match kds.admit {
            Admit::Operator => global::Admit::Operator,
            Admit::Auto => global::Admit::Auto,
        },
        health_interval: kds.zone_health_check.poll_interval.max(Duration::from_secs(1)),
        ..global::Config::default()
    })
}

fn announce(config: &GlobalConfig, addresses: &Addresses, identity: StoreIdentity) {
    let kds = addresses.kds.map(|kds| kds.to_string());
    let (api, diagnostics) = (addresses.api, addresses.diagnostics);
    tracing::info!(%api, kds, %diagnostics, store = %identity, "global started");
    let exposed =
        !addresses.api.ip().is_loopback() || addresses.kds.is_some_and(|kds| !kds.ip().is_loopback());
    if exposed {
        tracing::warn!(%api, kds, "listening beyond loopback without authentication: whoever reaches these addresses can read and write every secret");
    }
    if config.kds().admit == Admit::Auto {
        tracing::warn!(
            "multizone.global.kds.admit is auto: a wiped or swapped store would empty stock zones"
        );
    }
}
