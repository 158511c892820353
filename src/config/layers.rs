//! File, environment, flags: one over the other.
//!
//! Decides: which source wins and how a bad value is named. Never does: know what a key means.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Broken, Component, ConfigError, GlobalConfig, ZoneConfig, lines};

/// Prefix of our variables, and of Kuma's, which are accepted as well.
const PREFIXES: [&str; 2] = ["KUMA_", "KDSYNC_"];
/// Variables of the command line, which set no key.
const NO_KEYS: [&str; 3] = ["KDSYNC_ADDRESS", "KDSYNC_TIMEOUT", "KDSYNC_CONFIG"];

/// A value from a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The dotted key, such as `multizone.zone.name`.
    pub key: &'static str,
    /// The flag, for messages.
    pub flag: &'static str,
    /// The value.
    pub value: String,
}

/// A configuration with what should be said about it at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<C> {
    /// The configuration.
    pub config: C,
    /// Remarks for the log.
    pub warnings: Vec<String>,
}

/// Loads a global's configuration from this process' environment.
///
/// # Errors
/// The first value that cannot be used, with its place.
pub fn load_global(file: Option<&Path>, flags: &[Override]) -> Result<Loaded<GlobalConfig>, ConfigError> {
    load(file, &environment(), flags)
}

/// Loads a zone's configuration from this process' environment.
///
/// # Errors
/// The first value that cannot be used, with its place.
pub fn load_zone(file: Option<&Path>, flags: &[Override]) -> Result<Loaded<ZoneConfig>, ConfigError> {
    load(file, &environment(), flags)
}

fn environment() -> BTreeMap<String, String> {
    // Values that are not UTF-8 cannot be ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

fn load<C: Component>(
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
    flags: &[Override],
) -> Result<Loaded<C>, ConfigError> {
    let text = match file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { file: path.to_owned(), reason: error.to_string() })?,
    };
    let mut layers = Layers { file, text: &text, places: BTreeMap::new() };
    let config: C = layers.parse()?;
    let (config, warnings) = layers.apply(config, environment, flags)?;
    config.check().map_err(|broken| layers.invalid(&broken))?;
    Ok(Loaded { config, warnings })
}

/// One load in progress: remembers where each overridden key came from.
struct Layers<'a> {
    file: Option<&'a Path>,
    text: &'a str,
    places: BTreeMap<String, String>,
}

impl Layers<'_> {
    /// The file alone.
    fn parse<C: Component>(&self) -> Result<C, ConfigError> {
        if self.text.lines().all(|line| matches!(line.trim_start().chars().next(), None | Some('#'))) {
            return Ok(C::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(self.text, options).map_err(|error| {
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            let message = serde_saphyr::Error::render(&error);
            ConfigError::Syntax {
                file: self.file.unwrap_or(Path::new("-")).to_owned(),
                line,
                key: line.and_then(|line| lines::key_at(self.text, line)),
                reason: message,
            }
        })
    }

    /// Environment and flags over it.
    fn apply<C: Component>(
        &mut self,
        config: C,
        environment: &BTreeMap<String, String>,
        flags: &[Override],
    ) -> Result<(C, Vec<String>), ConfigError> {
        let mut tree = serde_json::to_value(&config).unwrap_or_default();
        let keys = leaves(&tree);
        let mut config = config;
        let mut known: Vec<String> = NO_KEYS.map(str::to_owned).to_vec();
        // Kuma's spelling first, so that ours wins.
        for prefix in PREFIXES {
            for key in &keys {
                let name = format!("{prefix}{}", upper_snake(key));
                if let Some(value) = environment.get(&name) {
                    config = self.set(&mut tree, key, &name, value)?;
                }
                known.push(name);
            }
        }
        for flag in flags {
            config = self.set(&mut tree, flag.key, flag.flag, &flag.value)?;
        }
        let unknown = environment.keys().filter(|name| name.starts_with("KDSYNC_") && !known.contains(name));
        let warnings = unknown.map(|name| format!("environment variable {name} sets no key and is ignored"));
        Ok((config, warnings.collect()))
    }

    fn set<C: Component>(
        &mut self,
        tree: &mut Value,
        key: &str,
        source: &str,
        text: &str,
    ) -> Result<C, ConfigError> {
        if let Some(leaf) = tree.pointer_mut(&format!("/{}", key.replace('.', "/"))) {
            *leaf = match leaf {
                Value::Bool(_) => text.parse().map_or_else(|_| Value::from(text), Value::Bool),
                Value::Number(_) => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
                _ => Value::from(text),
            };
        }
        self.places.insert(key.to_owned(), source.to_owned());
        serde_json::from_value(tree.clone()).map_err(|error| ConfigError::Override {
            source_name: source.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        })
    }

    fn invalid(&self, broken: &Broken) -> ConfigError {
        let file = || {
            let path = self.file?;
            let line = lines::line_of(self.text, broken.key)?;
            Some(format!("{}:{line}", path.display()))
        };
        let place = self.places.get(broken.key).cloned().or_else(file);
        let place = place.unwrap_or_else(|| "default value".to_owned());
        ConfigError::Invalid { place, key: broken.key.to_owned(), reason: broken.reason.clone() }
    }
}

/// The dotted keys of all values.
fn leaves(tree: &Value) -> Vec<String> {
    let Value::Object(fields) = tree else { return Vec::new() };
    let mut keys = Vec::new();
    for (key, value) in fields {
        let inner = leaves(value);
        if inner.is_empty() {
            keys.push(key.clone());
        }
        keys.extend(inner.into_iter().map(|rest| format!("{key}.{rest}")));
    }
    keys
}

/// `multizone.global.kds.grpcPort` -> `MULTIZONE_GLOBAL_KDS_GRPC_PORT`.
fn upper_snake(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 8);
    for letter in key.chars() {
        match letter {
            '.' => name.push('_'),
            letter if letter.is_ascii_uppercase() => name.extend(['_', letter]),
            letter => name.push(letter.to_ascii_uppercase()),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Admit, EXAMPLE_GLOBAL, EXAMPLE_ZONE, LocalWrites};

    fn load_text<C: Component>(
        text: &str,
        environment: &[(&str, &str)],
        flags: &[Override],
    ) -> Result<C, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(Some(&file), &environment, flags).map(|loaded| loaded.config)
    }

    fn message(error: &ConfigError) -> String {
        let text = error.to_string();
        text.rsplit_once('/').map_or(text.clone(), |(_, tail)| tail.to_owned())
    }

    #[test]
    fn examples_say_the_defaults() {
        let global: GlobalConfig = load_text(EXAMPLE_GLOBAL, &[], &[]).unwrap();
        assert_eq!(global, GlobalConfig::default());
        let mut zone: ZoneConfig = load_text(EXAMPLE_ZONE, &[], &[]).unwrap();
        assert_eq!(zone.name(), "east");
        assert_eq!(zone.global_address(), Some("grpc://127.0.0.1:5685"));
        let default = ZoneConfig::default();
        zone.multizone.zone.name.clone_from(&default.multizone.zone.name);
        zone.multizone.zone.global_address.clear();
        zone.api_server = default.api_server.clone();
        zone.diagnostics = default.diagnostics.clone();
        assert_eq!(zone, default);
    }

    #[test]
    fn flags_beat_the_environment_and_that_beats_the_file() {
        let text = "apiServer:\n  http:\n    port: 1\nmultizone:\n  global:\n    kds:\n      admit: auto\n";
        let env = [
            ("KUMA_API_SERVER_HTTP_PORT", "2"),
            ("KDSYNC_API_SERVER_HTTP_PORT", "3"),
            ("KUMA_DIAGNOSTICS_SERVER_PORT", "9"),
        ];
        let config: GlobalConfig = load_text(text, &env, &[]).unwrap();
        assert_eq!(config.api_server.http.port, 3);
        assert_eq!(config.diagnostics.server_port, 9);
        assert_eq!(config.kds().admit, Admit::Auto);
        let flag = Override { key: "apiServer.http.port", flag: "--api-port", value: "4".to_owned() };
        let config: GlobalConfig = load_text(text, &env, &[flag]).unwrap();
        assert_eq!(config.api_server.http.port, 4);
    }

    #[test]
    fn errors_name_key_file_and_line() {
        let error = load_text::<GlobalConfig>("log:\n  levle: info\n", &[], &[]).unwrap_err();
        assert!(message(&error).starts_with("c.yaml:2: log.levle: "), "{error}");
        let error = load_text::<GlobalConfig>("apiServer:\n  http:\n    port: many\n", &[], &[]).unwrap_err();
        assert!(message(&error).starts_with("c.yaml:3: apiServer.http.port: "), "{error}");
        let error = load_text::<GlobalConfig>("log: [\n", &[], &[]).unwrap_err();
        assert!(message(&error).starts_with("c.yaml:"), "{error}");
        let error = load_text::<ZoneConfig>("multizone:\n  zone:\n    name: Bad\n", &[], &[]).unwrap_err();
        assert!(message(&error).starts_with("c.yaml:3: multizone.zone.name: "), "{error}");
        let env = [("KUMA_LOG_FORMAT", "xml")];
        let error = load_text::<ZoneConfig>("", &env, &[]).unwrap_err();
        assert!(error.to_string().starts_with("KUMA_LOG_FORMAT: log.format: "), "{error}");
    }

    #[test]
    fn only_loopback_unless_somebody_insists() {
        let text = "apiServer:\n  http:\n    interface: 0.0.0.0\n";
        let error = load_text::<ZoneConfig>(text, &[], &[]).unwrap_err();
        assert!(error.to_string().contains("insecureListen"), "{error}");
        let flag = Override { key: "insecureListen", flag: "--insecure-listen", value: "true".to_owned() };
        assert!(load_text::<ZoneConfig>(text, &[], &[flag]).is_ok());
        let env = [("KDSYNC_MULTIZONE_GLOBAL_KDS_INTERFACE", "::")];
        let error = load_text::<GlobalConfig>("", &env, &[]).unwrap_err();
        assert!(error.to_string().starts_with("KDSYNC_MULTIZONE_GLOBAL_KDS_INTERFACE: "), "{error}");
        assert!(load_text::<GlobalConfig>("apiServer:\n  http:\n    interface: ::1\n", &[], &[]).is_ok());
    }

    #[test]
    fn sizes_durations_words_and_unknown_variables() {
        let text = "store:\n  embedded:\n    cacheSize: 64MiB\nmultizone:\n  global:\n    kds:\n      zoneHealthCheck:\n        pollInterval: 1m 5s\n";
        let config: GlobalConfig = load_text(text, &[], &[]).unwrap();
        assert_eq!(config.store.embedded.cache_size.0, 64 << 20);
        assert_eq!(config.kds().zone_health_check.poll_interval.as_secs(), 65);
        let config: ZoneConfig = load_text("", &[("KDSYNC_ZONE_LOCAL_WRITES", "accept")], &[]).unwrap();
        assert_eq!(config.zone.local_writes, LocalWrites::Accept);
        let environment = BTreeMap::from([("KDSYNC_TPYO".to_owned(), "1".to_owned())]);
        let loaded: Loaded<ZoneConfig> = load(None, &environment, &[]).unwrap();
        assert_eq!(loaded.warnings.len(), 1);
    }
}
