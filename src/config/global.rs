//! The configuration of the global component.
//!
//! Decides: its keys, defaults and rules. Never does: layer sources.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::common::{self, LOOPBACK};
use super::{ApiServerConfig, Broken, Bytes, Component, DiagnosticsConfig, LogConfig, StoreConfig};

/// Everything a global needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GlobalConfig {
    /// Where files are kept.
    pub data_dir: PathBuf,
    /// Allows addresses other than loopback although nobody is authenticated.
    pub insecure_listen: bool,
    /// The HTTP API.
    pub api_server: ApiServerConfig,
    /// Health, readiness, metrics.
    pub diagnostics: DiagnosticsConfig,
    /// Where secrets are kept.
    pub store: StoreConfig,
    /// Towards the zones.
    pub multizone: GlobalMultizone,
    /// Logs.
    pub log: LogConfig,
}

/// `multizone` of a global.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GlobalMultizone {
    /// `multizone.global`.
    pub global: GlobalSection,
}

/// `multizone.global`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GlobalSection {
    /// The protocol.
    pub kds: GlobalKdsConfig,
}

/// Who may be served secrets by a store that has never served them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admit {
    /// A stock zone waits for `kdsync zone admit NAME`.
    #[default]
    Operator,
    /// Everybody at once: a wiped store then empties stock zones.
    Auto,
}

/// `multizone.global.kds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GlobalKdsConfig {
    /// Address to listen on.
    pub interface: IpAddr,
    /// Port; 0 takes a free one.
    pub grpc_port: u16,
    /// Largest message to and from a stock zone, unless the zone tells its own limit.
    pub max_msg_size: Bytes,
    /// Size of a page between kdsync ends.
    pub page_size: Bytes,
    /// Who may be served.
    pub admit: Admit,
    /// Health checks of stock zones.
    pub zone_health_check: HealthCheckConfig,
}

impl Default for GlobalKdsConfig {
    fn default() -> Self {
        Self {
            interface: LOOPBACK,
            grpc_port: 5685,
            max_msg_size: Bytes(10 << 20),
            page_size: Bytes(1 << 20),
            admit: Admit::default(),
            zone_health_check: HealthCheckConfig::default(),
        }
    }
}

/// `multizone.global.kds.zoneHealthCheck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheckConfig {
    /// How often a zone is asked to call.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
}

impl Default for HealthCheckConfig {
    fn default() -> Self {
        Self { poll_interval: Duration::from_secs(30) }
    }
}

impl Default for GlobalConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data/global"),
            insecure_listen: false,
            api_server: ApiServerConfig::default(),
            diagnostics: DiagnosticsConfig::default(),
            store: StoreConfig::default(),
            multizone: GlobalMultizone::default(),
            log: LogConfig::default(),
        }
    }
}

impl GlobalConfig {
    /// The protocol's section.
    pub fn kds(&self) -> &GlobalKdsConfig {
        &self.multizone.global.kds
    }

    /// The file of the embedded store.
    pub fn store_path(&self) -> PathBuf {
        super::path_or(self.store.embedded.path.as_ref(), &self.data_dir, "global.redb")
    }
}

impl Component for GlobalConfig {
    fn check(&self) -> Result<(), Broken> {
        let (http, kds) = (&self.api_server.http, self.kds());
        common::loopback_only("apiServer.http.interface", http.interface, self.insecure_listen)?;
        common::loopback_only("multizone.global.kds.interface", kds.interface, self.insecure_listen)?;
        common::message_size("multizone.global.kds.maxMsgSize", kds.max_msg_size)?;
        common::message_size("multizone.global.kds.pageSize", kds.page_size)?;
        if kds.page_size > kds.max_msg_size {
            let reason = "a page must not be larger than multizone.global.kds.maxMsgSize";
            return Err(Broken::new("multizone.global.kds.pageSize", reason));
        }
        common::distinct_ports(&[
            ("apiServer.http.port", http.interface, http.port),
            ("multizone.global.kds.grpcPort", kds.interface, kds.grpc_port),
            ("diagnostics.serverPort", self.diagnostics.interface, self.diagnostics.server_port),
        ])
    }
}
