//! The command line: talks to the HTTP API like any other client, and starts the components.
//!
//! Decides: commands, flags, exit codes (0 ok, 1 refused or failed, 2 usage, 3 cannot reach). Never
//! does: open a store, or show a value that was not asked for with `-o yaml` or `-o json`.

mod apply;
mod client;
mod config;
mod delete;
mod demo;
mod document;
mod events;
mod get;
mod output;
mod run;
mod zone;

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use client::{Client, ClientError};
use output::Output;

const ABOUT: &str = "Keeps the secrets of a service mesh the same in every zone";
const LONG_ABOUT: &str = "\
Keeps the secrets of a service mesh the same in every zone.

A global streams secrets to zones over Kuma's KDS protocol, one way. Each zone applies what arrives and
deletes secrets that did not come from global.";
const EXAMPLES: &str = "\
Examples:
  kdsync dev                                a global and two zones on this machine
  kdsync apply -f examples/secrets.yaml     write secrets at global
  kdsync get secrets                        list them
  kdsync get secrets --zone east            list what zone east holds
  kdsync events --follow                    watch what happens
  kdsync demo                               see the whole story in ten seconds

Exit codes: 0 ok, 1 refused or failed, 2 wrong usage, 3 server cannot be reached";

#[derive(Debug, Parser)]
#[command(name = "kdsync", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

/// Where requests go.
#[derive(Debug, Clone, Args)]
struct Server {
    /// Address of the HTTP API
    #[arg(long, global = true, env = "KDSYNC_ADDRESS", default_value = "http://127.0.0.1:5681")]
    address: String,
    /// Longest time a request may take
    #[arg(long, global = true, env = "KDSYNC_TIMEOUT", default_value = "60s")]
    timeout: humantime::Duration,
    /// Say on stderr what is requested
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a global and zones on this machine, to try things
    Dev(run::DevArgs),
    /// See a secret reach two zones and a zone-local one being swept, then exit
    Demo(run::DemoArgs),
    /// Run a global
    Global(run::GlobalArgs),
    /// Run a zone, or decide about one
    Zone(zone::ZoneArgs),
    /// Write secrets from YAML or JSON files, all of them or none
    Apply(apply::ApplyArgs),
    /// Show secrets, global secrets or zones
    Get(get::GetArgs),
    /// Delete a secret or a global secret
    Delete(delete::DeleteArgs),
    /// Show what happened
    Events(events::EventsArgs),
    /// Print or check configuration files
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the versions of this program and of the server
    Version,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Why a command failed, with its exit code.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// 1: refused by the server or by our own checks, or it failed on the way.
    #[error("{0}")]
    Failed(String),
    /// 2: the command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// 3: nobody answers.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Address(_) => Self::Usage(error.to_string()),
            ClientError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            ClientError::Refused { .. } | ClientError::Broken { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<crate::config::ConfigError> for CliError {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// Parses the command line, runs it, and tells the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also how clap shows help and version.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut output = Output::new();
    match dispatch(cli, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        // `kdsync get … | head` is no failure.
        Err(CliError::Failed(_)) if output.is_closed() => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error.to_string());
            ExitCode::from(error.code())
        }
    }
}

fn dispatch(cli: Cli, output: &mut Output) -> Result<(), CliError> {
    let Cli { server, command } = cli;
    match command {
        Command::Dev(args) => run::dev(args),
        Command::Demo(args) => run::demo(&args, output),
        Command::Global(args) => run::global(&args),
        Command::Zone(args) => match args.command {
            Some(command) => client_command(zone::run(&server, command, output)),
            None => run::zone(args.run),
        },
        Command::Apply(args) => client_command(apply::run(&server, args, output)),
        Command::Get(args) => client_command(get::run(&server, args, output)),
        Command::Delete(args) => client_command(delete::run(&server, args, output)),
        Command::Events(args) => client_command(events::run(&server, args, output)),
        Command::Config(args) => config::run(args, output),
        Command::Completion { shell } => completion(shell, output),
        Command::Version => client_command(version(&server, output)),
    }
}

/// Runs a command that is a client: one thread is plenty.
fn client_command(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn completion(shell: Shell, output: &mut Output) -> Result<(), CliError> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kdsync", &mut script);
    output.raw(&script)
}

async fn version(server: &Server, output: &mut Output) -> Result<(), CliError> {
    output.line(&format!("Client: kdsync {}", env!("CARGO_PKG_VERSION")))?;
    let client = Client::new(server)?;
    match client.get("/").await {
        Ok(index) => {
            let text =
                |field: &str| index.get(field).and_then(|v| v.as_str()).unwrap_or("unknown").to_owned();
            output.line(&format!("Server: {} {} at {}", text("product"), text("version"), client.address()))
        }
        Err(ClientError::Unreachable { .. }) => output.line(&format!("Server: none at {}", client.address())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_zone_runs_or_is_decided_about() {
        let run = Cli::try_parse_from(["kdsync", "zone", "--config", "z.yaml"]).unwrap();
        assert!(matches!(run.command, Command::Zone(args) if args.command.is_none()));
        let admit = Cli::try_parse_from(["kdsync", "zone", "admit", "east"]).unwrap();
        assert!(matches!(admit.command, Command::Zone(args) if args.command.is_some()));
    }
}
