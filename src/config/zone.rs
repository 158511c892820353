//! The configuration of the zone component.
//!
//! Decides: its keys, defaults and rules. Never does: layer sources.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::common;
use super::{ApiServerConfig, Broken, Bytes, Component, DiagnosticsConfig, LogConfig, StoreConfig};
use crate::core::validate::is_zone_name;

/// Everything a zone needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneConfig {
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
    /// Towards global.
    pub multizone: ZoneMultizone,
    /// The zone's own behaviour.
    pub zone: ZoneSettings,
    /// Logs.
    pub log: LogConfig,
}

/// `multizone` of a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneMultizone {
    /// `multizone.zone`.
    pub zone: ZoneSection,
}

/// `multizone.zone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneSection {
    /// The zone's name, unique at its global.
    pub name: String,
    /// Where global's KDS listens: `grpc://host:5685`. Empty makes this a standalone store.
    pub global_address: String,
    /// The protocol.
    pub kds: ZoneKdsConfig,
}

impl Default for ZoneSection {
    fn default() -> Self {
        Self { name: "default".to_owned(), global_address: String::new(), kds: ZoneKdsConfig::default() }
    }
}

/// `multizone.zone.kds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneKdsConfig {
    /// CA certificates that may have signed global's certificate.
    pub root_ca_file: Option<PathBuf>,
    /// Takes any certificate of global.
    pub tls_skip_verify: bool,
    /// Largest message from a stock global.
    pub max_msg_size: Bytes,
}

impl Default for ZoneKdsConfig {
    fn default() -> Self {
        Self { root_ca_file: None, tls_skip_verify: false, max_msg_size: Bytes(10 << 20) }
    }
}

/// What a zone that follows a global does with writes of secrets through its own API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalWrites {
    /// Refuses them.
    #[default]
    Refuse,
    /// Takes them, with a warning that they will be deleted.
    Accept,
}

/// `zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZoneSettings {
    /// Writes through the zone's own API.
    pub local_writes: LocalWrites,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data/zone"),
            insecure_listen: false,
            api_server: ApiServerConfig::default(),
            diagnostics: DiagnosticsConfig::default(),
            store: StoreConfig::default(),
            multizone: ZoneMultizone::default(),
            zone: ZoneSettings::default(),
            log: LogConfig::default(),
        }
    }
}

impl ZoneConfig {
    /// The zone's name.
    pub fn name(&self) -> &str {
        &self.multizone.zone.name
    }

    /// Where global's KDS listens; `None` for a standalone store.
    pub fn global_address(&self) -> Option<&str> {
        Some(self.multizone.zone.global_address.as_str()).filter(|address| !address.is_empty())
    }

    /// The file of the embedded store.
    pub fn store_path(&self) -> PathBuf {
        super::path_or(self.store.embedded.path.as_ref(), &self.data_dir, "zone.redb")
    }
}

impl Component for ZoneConfig {
    fn check(&self) -> Result<(), Broken> {
        let (http, section) = (&self.api_server.http, &self.multizone.zone);
        common::loopback_only("apiServer.http.interface", http.interface, self.insecure_listen)?;
        common::message_size("multizone.zone.kds.maxMsgSize", section.kds.max_msg_size)?;
        if !is_zone_name(&section.name) {
            let reason = "must be 1 to 63 lower case letters, digits or '-', starting and ending with a letter or digit";
            return Err(Broken::new("multizone.zone.name", reason));
        }
        if let Some(address) = self.global_address() {
            check_address(address)?;
        }
        common::distinct_ports(&[
            ("apiServer.http.port", http.interface, http.port),
            ("diagnostics.serverPort", self.diagnostics.interface, self.diagnostics.server_port),
        ])
    }
}

fn check_address(address: &str) -> Result<(), Broken> {
    const KEY: &str = "multizone.zone.globalAddress";
    let uri: http::Uri = address
        .parse()
        .map_err(|_| Broken::new(KEY, "is no address; write grpc://host:5685 or grpcs://host:5685"))?;
    if !matches!(uri.scheme_str(), Some("grpc" | "grpcs")) {
        return Err(Broken::new(KEY, "must start with grpc:// (plain) or grpcs:// (TLS)"));
    }
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
        return Err(Broken::new(KEY, "needs a host and a port, as in grpc://127.0.0.1:5685"));
    }
    Ok(())
}
