//! A global and its zones in one process, on loopback, for trying things.
//!
//! Decides: ports and folders. Never does: listen beyond loopback.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Addresses, GlobalApp, ZoneApp};
use crate::config::{Admit, DevConfig, GlobalConfig, LocalWrites, StoreType, ZoneConfig};
use crate::supervisor::Tasks;

/// A running zone of `dev`, seen from outside.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// True once it has completed a sync.
    pub ready: watch::Receiver<bool>,
}

/// A global and its zones.
#[derive(Debug)]
pub struct Dev {
    /// Where global listens.
    pub global: Addresses,
    /// The zones.
    pub zones: Vec<Member>,
    tasks: Tasks,
}

/// Ports of the nth zone: the API at the base plus n thousand, diagnostics one below.
fn zone_ports(base: u16, index: usize) -> anyhow::Result<(u16, u16)> {
    if base == 0 {
        return Ok((0, 0));
    }
    let step = u16::try_from(index).ok().and_then(|index| index.checked_mul(1000));
    let api = step.and_then(|step| base.checked_add(step));
    let api = api.context("there are more zones than ports; choose a lower --zone-port-base")?;
    Ok((api, api.saturating_sub(1)))
}

impl Dev {
    /// Starts everything; `cancel` ends it.
    ///
    /// # Errors
    /// What kept a part from starting.
    pub async fn start(config: &DevConfig, cancel: CancellationToken) -> anyhow::Result<Self> {
        let mut tasks = Tasks::new(cancel);
        let global = GlobalApp::start(global_config(config), tasks.token()).await.context("global")?;
        let addresses = global.addresses();
        tasks.spawn("global", global.run());
        let kds = addresses.kds.context("global has no KDS address")?;
        let mut zones = Vec::new();
        for (index, name) in config.zones.iter().enumerate() {
            let mut settings = zone_config(config, name, &format!("grpc://{kds}"));
            let (api, diagnostics) = zone_ports(config.zone_port_base, index)?;
            settings.api_server.http.port = api;
            settings.diagnostics.server_port = diagnostics;
            let started = ZoneApp::start_in_dev(settings, tasks.token()).await;
            let zone = started.with_context(|| format!("zone {name}"))?;
            zones.push(Member { name: name.clone(), addresses: zone.addresses(), ready: zone.ready() });
            tasks.spawn("zone", zone.run());
        }
        Ok(Self { global: addresses, zones, tasks })
    }

    /// Runs until cancelled.
    ///
    /// # Errors
    /// The part that failed.
    pub async fn run(self) -> anyhow::Result<()> {
        Ok(self.tasks.run().await?)
    }

    /// Says what is there and what to try next, on stderr.
    pub fn introduce(&self, config: &DevConfig) {
        let mut text = format!("\n  global    API http://{}", self.global.api);
        if let Some(kds) = self.global.kds {
            let _ = write!(text, "   KDS grpc://{kds}");
        }
        let _ = writeln!(text, "   diagnostics http://{}", self.global.diagnostics);
        for zone in &self.zones {
            let _ = writeln!(text, "  {:<9} API http://{}", zone.name, zone.addresses.api);
        }
        let place = if config.ephemeral {
            "in memory".to_owned()
        } else {
            format!("in {}", config.data_dir.display())
        };
        let _ = write!(text, "  data      {place}\n\n{}\n", self.next_steps());
        // A closed stderr is no reason to stop.
        let _ = anstream::stderr().write_all(text.as_bytes());
    }

    fn next_steps(&self) -> String {
        // As it was typed: after `cargo run` the program is not on the path.
        let program = std::env::args().next().unwrap_or_else(|| "kdsync".to_owned());
        let address = match self.global.api.port() {
            5681 => String::new(),
            _ => format!(" --address http://{}", self.global.api),
        };
        let mut text = "  Try in another terminal:\n".to_owned();
        let mut step = |command: &str, what: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "    # {what}\n    {program} {command}");
        };
        step(&format!("apply -f examples/secrets.yaml{address}"), "write three secrets at global");
        if let Some(zone) = self.zones.first() {
            let (name, api) = (&zone.name, zone.addresses.api);
            step(&format!("get secrets --zone {name}{address}"), &format!("zone {name} has them"));
            let local = format!("apply -f examples/local.yaml --address http://{api}");
            step(&local, &format!("put one into zone {name} behind the back of global: it is swept away"));
            step(&format!("events{address}"), "and reported by name");
        }
        text.push_str("  Ctrl-C stops everything.\n");
        text
    }
}

fn global_config(config: &DevConfig) -> GlobalConfig {
    let mut global = GlobalConfig { data_dir: config.data_dir.join("global"), ..GlobalConfig::default() };
    global.api_server.http.port = config.api_port;
    global.diagnostics.server_port = config.diagnostics_port;
    global.multizone.global.kds.grpc_port = config.kds_port;
    global.multizone.global.kds.admit = if config.admit_all { Admit::Auto } else { Admit::Operator };
    global.store.ty = if config.ephemeral { StoreType::Memory } else { StoreType::Embedded };
    global
}

fn zone_config(config: &DevConfig, name: &str, global: &str) -> ZoneConfig {
    let folder: &Path = &config.data_dir;
    let mut zone = ZoneConfig { data_dir: folder.join("zones").join(name), ..ZoneConfig::default() };
    name.clone_into(&mut zone.multizone.zone.name);
    global.clone_into(&mut zone.multizone.zone.global_address);
    zone.zone.local_writes = LocalWrites::Accept;
    zone.store.ty = if config.ephemeral { StoreType::Memory } else { StoreType::Embedded };
    zone
}
