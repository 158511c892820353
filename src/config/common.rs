//! Parts that both components have.
//!
//! Decides: their keys and defaults, and the loopback rule. Never does: layer sources.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Broken;

/// A number of bytes: `1048576`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes, such as 1048576 or 1MiB")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Bytes, E> {
                Ok(Bytes(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Bytes, E> {
                u64::try_from(number).map(Bytes).map_err(|_| E::custom("must not be negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                parse_bytes(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn parse_bytes(text: &str) -> Option<Bytes> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: u64 = match text.get(digits.len()..)?.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Bytes)
}

/// `apiServer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiServerConfig {
    /// Plain HTTP.
    pub http: HttpConfig,
}

/// `apiServer.http`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address to listen on.
    pub interface: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { interface: LOOPBACK, port: 5681 }
    }
}

/// 127.0.0.1.
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// `diagnostics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DiagnosticsConfig {
    /// Address to listen on. No values and no names of secrets are shown there, so any is allowed.
    pub interface: IpAddr,
    /// Port; 0 takes a free one.
    pub server_port: u16,
}

impl Default for DiagnosticsConfig {
    fn default() -> Self {
        Self { interface: LOOPBACK, server_port: 5680 }
    }
}

/// Where secrets are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreType {
    /// One file.
    #[default]
    Embedded,
    /// In memory: gone when the process ends.
    Memory,
}

/// `store`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoreConfig {
    /// The kind.
    #[serde(rename = "type")]
    pub ty: StoreType,
    /// The embedded store.
    pub embedded: EmbeddedConfig,
    /// Names are unique across meshes and kinds, as a Kubernetes zone needs.
    pub unique_names: bool,
}

/// `store.embedded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EmbeddedConfig {
    /// The file; by default in `dataDir`.
    pub path: Option<PathBuf>,
    /// Memory for pages of the file.
    pub cache_size: Bytes,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { path: None, cache_size: Bytes(32 << 20) }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `kdsync::zone=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto }
    }
}

/// Nobody is authenticated yet, so what serves secrets listens on loopback unless somebody insists.
pub(super) fn loopback_only(
    key: &'static str,
    interface: IpAddr,
    insecure_listen: bool,
) -> Result<(), Broken> {
    if interface.is_loopback() || insecure_listen {
        return Ok(());
    }
    let reason = format!(
        "{interface} is not loopback, and there is no authentication yet: whoever reaches this address \
         could read and write every secret. Use 127.0.0.1 or ::1, or insist with insecureListen: true \
         (--insecure-listen)"
    );
    Err(Broken::new(key, reason))
}

/// Two ports of one component must differ.
pub(super) fn distinct_ports(ports: &[(&'static str, IpAddr, u16)]) -> Result<(), Broken> {
    for (index, (key, interface, port)) in ports.iter().enumerate() {
        let clash = ports.iter().take(index).find(|(_, other, taken)| {
            *port != 0
                && taken == port
                && (other == interface || other.is_unspecified() || interface.is_unspecified())
        });
        if let Some((other, ..)) = clash {
            return Err(Broken::new(key, format!("port {port} is taken by {other}; choose another")));
        }
    }
    Ok(())
}

/// A sane size of messages and pages.
pub(super) fn message_size(key: &'static str, size: Bytes) -> Result<(), Broken> {
    const LEAST: u64 = 64 << 10;
    const MOST: u64 = 1 << 30;
    if (LEAST..=MOST).contains(&size.0) {
        return Ok(());
    }
    Err(Broken::new(key, format!("{} bytes is outside of 64KiB to 1GiB", size.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_units() {
        for (text, bytes) in [("5", 5), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(parse_bytes(text), Some(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "1MB", "-1", "99999999999GiB", "1.5MiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
