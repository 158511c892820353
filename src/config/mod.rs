//! Configuration: YAML file < environment < flags.
//!
//! Decides: the keys, their defaults, where a value may come from, and whether the whole makes sense.
//! The only module that reads the environment. Never does: open a port or a store.
//!
//! Kuma's key names are used where the concept is Kuma's (2.14.3 `pkg/config`).

mod common;
mod dev;
mod global;
mod layers;
mod lines;
mod zone;

use std::path::{Path, PathBuf};

pub use common::{
    ApiServerConfig, Bytes, DiagnosticsConfig, EmbeddedConfig, HttpConfig, LogConfig, LogFormat, StoreConfig,
    StoreType,
};
pub use dev::{DemoConfig, DevConfig};
pub use global::{Admit, GlobalConfig, GlobalKdsConfig, GlobalMultizone, GlobalSection, HealthCheckConfig};
pub use layers::{Loaded, Override, load_global, load_zone};
pub use zone::{LocalWrites, ZoneConfig, ZoneKdsConfig, ZoneMultizone, ZoneSection, ZoneSettings};

/// A commented example of a global's configuration.
pub const EXAMPLE_GLOBAL: &str = include_str!("../../examples/global.yaml");
/// A commented example of a zone's configuration.
pub const EXAMPLE_ZONE: &str = include_str!("../../examples/zone.yaml");

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is no YAML, or a key in it is unknown or of the wrong kind.
    #[error("{}{}: {}{reason}", file.display(), line_text(*line), key_text(key.as_deref()))]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, from 1, if known.
        line: Option<u64>,
        /// The key on that line, if known.
        key: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A value from the environment or a flag cannot be used.
    #[error("{source_name}: {key}: {reason}")]
    Override {
        /// The variable or flag.
        source_name: String,
        /// The key it sets.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The values do not make sense together, or alone.
    #[error("{place}: {key}: {reason}")]
    Invalid {
        /// File and line, variable or flag.
        place: String,
        /// The key.
        key: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

fn line_text(line: Option<u64>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn key_text(key: Option<&str>) -> String {
    key.map(|key| format!("{key}: ")).unwrap_or_default()
}

/// A rule that a configuration breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    key: &'static str,
    reason: String,
}

impl Broken {
    fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self { key, reason: reason.into() }
    }
}

/// A component's configuration.
pub(crate) trait Component:
    serde::Serialize + serde::de::DeserializeOwned + Default + Clone + std::fmt::Debug
{
    /// Checks what a type cannot.
    fn check(&self) -> Result<(), Broken>;
}

/// Joins a path that may be left out.
fn path_or(path: Option<&PathBuf>, folder: &Path, name: &str) -> PathBuf {
    path.cloned().unwrap_or_else(|| folder.join(name))
}
