//! `kdsync events`.
//!
//! Decides: how an event reads in one line. Never does: lose its place while following.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::output::{Output, text};
use super::{CliError, Server};

/// Arguments of `events`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kdsync events\n  kdsync events --follow --zone east\n  kdsync events -o json"
)]
pub(super) struct EventsArgs {
    /// Keep printing as things happen
    #[arg(short, long)]
    follow: bool,
    /// Only of this zone
    #[arg(long)]
    zone: Option<String>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t)]
    output: EventFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum EventFormat {
    /// One line each
    #[default]
    Text,
    /// One JSON object each
    Json,
}

/// Seconds that the server may hold a request while nothing happens.
const WAIT: u64 = 20;

/// Runs it.
pub(super) async fn run(server: &Server, args: EventsArgs, output: &mut Output) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let mut after = 0;
    let mut wait = 0;
    loop {
        let mut page = client.get(&format!("/kdsync/events?after={after}&wait={wait}")).await?;
        let Some(Value::Array(events)) = page.get_mut("items").map(Value::take) else {
            return Err(CliError::Failed(format!("{} gave no list of events", client.address())));
        };
        for event in &events {
            after = after.max(event.get("id").and_then(Value::as_u64).unwrap_or_default());
            if args.zone.as_deref().is_none_or(|zone| zone == text(event, "zone")) {
                show(event, args.output, output)?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        wait = WAIT.min(server.timeout.as_secs() / 2).max(1);
    }
}

fn show(event: &Value, format: EventFormat, output: &mut Output) -> Result<(), CliError> {
    if format == EventFormat::Json {
        return output.line(&event.to_string());
    }
    let at = event.get("at").and_then(Value::as_i64).unwrap_or_default();
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    let resource = event.get("resource").map(|key| {
        let (mesh, name) = (text(key, "mesh"), text(key, "name"));
        let slash = if mesh.is_empty() { "" } else { "/" };
        format!(" {} {mesh}{slash}{name}", text(key, "ty"))
    });
    let zone = text(event, "zone");
    let zone = if zone.is_empty() { String::new() } else { format!(" zone {zone}") };
    let (kind, message) = (text(event, "kind"), text(event, "message"));
    output.line(&format!("{at:.3} {kind}{zone}{}: {message}", resource.unwrap_or_default()))
}
