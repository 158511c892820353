//! Where log lines go and how they look: to stderr, as text for people or JSON for machines.
//!
//! Decides: format, times (UTC) and which libraries may speak. Never does: choose what is logged.

use std::fmt;
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is neither a level nor a filter.
    #[error("log level \"{level}\" is no level (error, warn, info, debug, trace) and no filter: {reason}")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was set up before in this process.
    #[error("logging was set up before")]
    Twice,
}

/// Sets up logging for the whole process.
///
/// # Errors
/// The level cannot be read, or this was done before.
pub fn init(level: &str, format: Format) -> Result<(), LoggingError> {
    let terminal = std::io::stderr().is_terminal();
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .with_timer(Utc)
        .with_ansi(terminal);
    let done = if json {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    } else {
        builder.with_target(false).try_init()
    };
    done.map_err(|_| LoggingError::Twice)
}

/// A bare level is about kdsync; libraries then speak from `warn` on. They see payloads, so they are
/// not made louder by accident.
fn filter(level: &str) -> Result<EnvFilter, LoggingError> {
    let level = level.trim();
    let bare = !level.contains(['=', ',']);
    let text = if bare { format!("warn,kdsync={level}") } else { level.to_owned() };
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    if bare && !known.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(LoggingError::Level { level: level.to_owned(), reason: "unknown".to_owned() });
    }
    EnvFilter::try_new(text)
        .map_err(|error| LoggingError::Level { level: level.to_owned(), reason: error.to_string() })
}

/// UTC with milliseconds: `2026-11-24T01:46:57.724Z`.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_millisecond(super::clock::wall().0).unwrap_or_default();
        write!(writer, "{at:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read() {
        for good in ["info", "TRACE", "off", "kdsync::zone=debug,info"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "a=b=c,="] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
