//! `kdsync config`.
//!
//! Decides: whether a file is that of a global or of a zone. Never does: start anything.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::CliError;
use super::output::{self, Output};
use crate::config::{EXAMPLE_GLOBAL, EXAMPLE_ZONE, load_global, load_zone};

/// Arguments of `config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kdsync config example zone > zone.yaml\n  kdsync config check -f zone.yaml"
)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a commented example
    Example {
        /// Of which component
        #[arg(value_enum)]
        component: Component,
    },
    /// Check a file together with the environment
    Check {
        /// The file
        #[arg(short, long = "file", value_name = "FILE")]
        file: PathBuf,
        /// Of which component; found out from the file if left out
        #[arg(long, value_enum)]
        component: Option<Component>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Component {
    Global,
    Zone,
}

/// Runs it.
pub(super) fn run(args: ConfigArgs, output: &mut Output) -> Result<(), CliError> {
    match args.command {
        ConfigCommand::Example { component: Component::Global } => output.raw(EXAMPLE_GLOBAL.as_bytes()),
        ConfigCommand::Example { component: Component::Zone } => output.raw(EXAMPLE_ZONE.as_bytes()),
        ConfigCommand::Check { file, component } => check(&file, component, output),
    }
}

fn check(file: &Path, component: Option<Component>, output: &mut Output) -> Result<(), CliError> {
    let component = component.unwrap_or_else(|| guess(file));
    let (word, warnings) = match component {
        Component::Global => ("global", load_global(Some(file), &[])?.warnings),
        Component::Zone => ("zone", load_zone(Some(file), &[])?.warnings),
    };
    for warning in &warnings {
        output::warning(warning);
    }
    output.line(&format!("{} is a good configuration of a {word}", file.display()))
}

/// A zone names itself; everything else is a global.
fn guess(file: &Path) -> Component {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let zone = text.lines().any(|line| line.trim_end() == "zone:" || line.trim_end() == "  zone:");
    if zone { Component::Zone } else { Component::Global }
}
