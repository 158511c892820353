//! The command line of the load bench.
//!
//! Decides: which scenarios run, at which size. Never does: run one.

use clap::Parser;

use crate::scenario::{ALL, Scenario};

/// Measures a global under load: real processes, real gRPC over loopback, an embedded store.
#[derive(Debug, Parser)]
#[command(
    name = "load",
    version,
    about,
    after_help = "Run it with: cargo bench --bench load -- [SCENARIO]..."
)]
pub(crate) struct Args {
    /// Scenarios to run, by any part of their names; all without one
    #[arg(value_name = "SCENARIO")]
    filter: Vec<String>,
    /// Small sizes, to see that everything works; nothing is judged
    #[arg(long)]
    pub(crate) quick: bool,
    /// Name the scenarios and end
    #[arg(long)]
    pub(crate) list: bool,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// The scenarios that were asked for, in their own order.
    pub(crate) fn scenarios(&self) -> Vec<&'static Scenario> {
        let wanted = |scenario: &&Scenario| {
            self.filter.is_empty() || self.filter.iter().any(|part| scenario.name.contains(part.as_str()))
        };
        ALL.iter().filter(wanted).collect()
    }
}
