//! Composition root: from a configuration to a running component.
//!
//! Decides: which parts a component is made of, and the order of its shutdown: stop accepting, end
//! streams, finish the outstanding store effect, close the store. Never does: anything a part can do
//! itself.

mod dev;
mod global;
mod listen;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

pub use dev::{Dev, Member};
pub use global::GlobalApp;
pub use zone::ZoneApp;

use crate::api::{Hosts, Info};
use crate::config::{DevConfig, GlobalConfig, StoreConfig, StoreType, ZoneConfig};
use crate::store::ResourceStore;
use crate::store::embedded::{self, EmbeddedConfig};

/// Where a running component listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The HTTP API.
    pub api: SocketAddr,
    /// Health, readiness, metrics.
    pub diagnostics: SocketAddr,
    /// KDS; only of a global.
    pub kds: Option<SocketAddr>,
}

/// Runs a global until cancelled.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run_global(config: GlobalConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    GlobalApp::start(config, cancel).await?.run().await
}

/// Runs a zone until cancelled.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run_zone(config: ZoneConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    ZoneApp::start(config, cancel).await?.run().await
}

/// Runs a global and zones in one process until cancelled.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run_dev(config: DevConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    let dev = Dev::start(&config, cancel).await?;
    dev.introduce(&config);
    dev.run().await
}

/// Opens the store that a configuration names.
async fn open_store(
    config: &StoreConfig,
    path: std::path::PathBuf,
) -> anyhow::Result<Arc<dyn ResourceStore>> {
    let cache = usize::try_from(config.embedded.cache_size.0).context("store.embedded.cacheSize")?;
    let base = match config.ty {
        StoreType::Embedded => EmbeddedConfig { cache_bytes: cache, ..EmbeddedConfig::file(path) },
        StoreType::Memory => EmbeddedConfig::memory(),
    };
    let settings = EmbeddedConfig { unique_names: config.unique_names, ..base };
    let opened = tokio::task::spawn_blocking(move || embedded::open(&settings)).await;
    let store = opened.context("open the store")?.context("open the store")?;
    Ok(store)
}

/// What this process tells of itself: the machine's name, and an id with four random digits.
fn info() -> Info {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = match hostname.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    };
    let instance_id = format!("{hostname}-{:04x}", fastrand::u16(..));
    Info { hostname, instance_id, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// On loopback only names of this machine are answered to, unless somebody insists.
fn hosts(api: std::net::SocketAddr, insecure_listen: bool) -> Hosts {
    if api.ip().is_loopback() && !insecure_listen { Hosts::Loopback } else { Hosts::Any }
}
