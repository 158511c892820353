//! What `kdsync dev` and `kdsync demo` are told on their command line; they read no file.
//!
//! Decides: the shape. Never does: parse.

use std::path::PathBuf;

use super::LogConfig;

/// A global and zones in one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevConfig {
    /// Where each component gets a folder.
    pub data_dir: PathBuf,
    /// Keep everything in memory.
    pub ephemeral: bool,
    /// The zones.
    pub zones: Vec<String>,
    /// Port of global's API.
    pub api_port: u16,
    /// Port of global's KDS.
    pub kds_port: u16,
    /// Port of global's diagnostics.
    pub diagnostics_port: u16,
    /// API port of the first zone; each next one is 1000 higher. With 0 all are free ones.
    pub zone_port_base: u16,
    /// Serve stock zones that were never admitted.
    pub admit_all: bool,
    /// Logs.
    pub log: LogConfig,
}

/// The demonstration: a private `dev` in a temporary folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DemoConfig {
    /// Keep the folder and say where it is.
    pub keep: bool,
    /// Logs.
    pub log: LogConfig,
}
