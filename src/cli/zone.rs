//! `kdsync zone`: runs one, or decides about one.
//!
//! Decides: nothing. Never does: run a zone itself (`run` does).

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, segment};
use super::output::Output;
use super::{CliError, Server, run::ZoneRunArgs};

/// Arguments of `zone`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  kdsync zone --config zone.yaml                                         run a zone\n  kdsync zone --name east --global-address grpc://127.0.0.1:5685        the same without a file\n  kdsync zone admit east                                                 let global serve a stock zone"
)]
pub(super) struct ZoneArgs {
    /// What to decide; without it, a zone is run.
    #[command(subcommand)]
    pub(super) command: Option<ZoneCommand>,
    #[command(flatten)]
    pub(super) run: ZoneRunArgs,
}

/// Decisions about a zone.
#[derive(Debug, Subcommand)]
pub(super) enum ZoneCommand {
    /// Let this global serve secrets to a stock Kuma zone that it has never served
    ///
    /// A stock zone replaces everything it has by the first answer of a global. A store that was wiped,
    /// swapped or restored empty would so empty the zone; therefore a stock zone gets nothing until an
    /// operator says that this store is the right one.
    Admit {
        /// Name of the zone
        name: String,
    },
}

/// Runs a decision.
pub(super) async fn run(server: &Server, command: ZoneCommand, output: &mut Output) -> Result<(), CliError> {
    let ZoneCommand::Admit { name } = command;
    let client = Client::new(server)?;
    let answer = client.post(&format!("/kdsync/zones/{}/admit", segment(&name)), Vec::new()).await?;
    let changed = answer.get("changed").and_then(Value::as_bool).unwrap_or_default();
    let word = if changed { "admitted" } else { "was admitted already" };
    output.line(&format!("zone/{name} {word}"))
}
