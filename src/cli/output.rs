//! What commands print: lines, tables, JSON, YAML.
//!
//! Decides: colours and drawn tables only on a terminal. Never does: decide what is shown.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use owo_colors::OwoColorize as _;
use serde_json::Value;

use super::CliError;
use crate::telemetry::clock;

/// `-o`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Names and ages
    #[default]
    Table,
    /// Everything, values included
    Yaml,
    /// Everything, values included
    Json,
    /// Only kind/name
    Name,
}

/// The two streams.
pub(super) struct Output {
    terminal: bool,
    closed: bool,
}

impl Output {
    /// Writes to stdout and stderr of the process.
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), closed: false }
    }

    /// True after the reader of stdout went away.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes to stdout.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let mut stdout = anstream::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        self.closed |= written.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
        written.map_err(CliError::from)
    }

    /// A line to stdout. Control characters of foreign text are shown, not obeyed.
    pub(super) fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.raw(format!("{}\n", printable(text)).as_bytes())
    }

    /// Pretty JSON.
    pub(super) fn json(&mut self, value: &Value) -> Result<(), CliError> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.raw(format!("{text}\n").as_bytes())
    }

    /// YAML.
    pub(super) fn yaml(&mut self, value: &Value) -> Result<(), CliError> {
        let text = serde_saphyr::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.raw(text.as_bytes())
    }

    /// A table: drawn on a terminal, plain columns as kumactl prints them otherwise.
    pub(super) fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
        let text = if self.terminal { drawn(header, rows) } else { columns(header, rows) };
        self.raw(text.as_bytes())
    }
}

/// A remark to stderr.
pub(super) fn warning(text: &str) {
    let text = printable(text);
    let _ = writeln!(anstream::stderr(), "{} {text}", "warning:".yellow().bold());
}

/// The reason of a failure to stderr.
pub(super) fn error(text: &str) {
    let text = printable(text);
    let _ = writeln!(anstream::stderr(), "{} {text}", "error:".red().bold());
}

/// A line of `--verbose` to stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", printable(text).dimmed());
}

fn drawn(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    format!("{}\n", table.trim_fmt())
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(printable(padded.join("   ").trim_end()).as_str());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Shows control characters of foreign text instead of sending them to the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// How long ago an RFC 3339 time was, as kumactl says it: `5s`, `3m`, `2h`, `4d`.
pub(super) fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return "never".to_owned() };
    short((clock::wall().0 - then.as_millisecond()) / 1000)
}

/// Seconds in one short word.
fn short(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// `text` of a JSON field, or nothing.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_carry_no_control_characters() {
        let rows = vec![vec!["default".to_owned(), "a\u{1b}[31m".to_owned()]];
        assert_eq!(columns(&["MESH", "NAME"], &rows), "MESH      NAME\ndefault   a\u{fffd}[31m\n");
    }

    #[test]
    fn ages_are_short_and_never_negative() {
        assert_eq!(
            [short(-5), short(5), short(125), short(7_300), short(200_000)],
            ["0s", "5s", "2m", "2h", "2d"]
        );
    }
}
