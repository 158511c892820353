//! The load bench: the real binary as a process of its own, zones as KDS clients over loopback.
//!
//! Decides: the order of things: measure the disk, run each scenario, tell, judge. Never does: look
//! inside the server; all it knows of it comes from the wire, from its log and from `/proc`.
//!
//! ```text
//! cargo bench --bench load                        every scenario, about 15 minutes
//! cargo bench --bench load -- first put           those whose names contain "first" or "put"
//! cargo bench --bench load -- --quick             small sizes, in seconds; nothing is judged
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to a terminal")]

mod args;
mod board;
mod disk;
mod first;
mod fleet;
mod global;
mod http;
mod idle;
mod latency;
mod process;
mod put;
mod real;
mod reconnect;
mod report;
mod scenario;
mod secrets;
mod stats;
mod thin;
mod traffic;

use std::process::ExitCode;

use clap::Parser as _;

use args::Args;
use report::Report;
use scenario::{Scenario, Size};

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for scenario in args.scenarios() {
            println!("{:<14} {}", scenario.name, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the bench could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; true if nothing failed.
fn run(args: &Args) -> anyhow::Result<bool> {
    let scenarios = args.scenarios();
    anyhow::ensure!(!scenarios.is_empty(), "no scenario has such a name; --list names them");
    let size = if args.quick { Size::Quick } else { Size::Full };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::open(size);
    for scenario in scenarios {
        eprintln!("== {}: {}", scenario.name, scenario.what);
        let (disk, outcome) = runtime.block_on(one(scenario, size))?;
        println!("{}", report.add(scenario, &disk, outcome)?);
    }
    eprintln!("written: {}", report.path().display());
    Ok(report.failures() == 0)
}

/// The disk, then the scenario.
async fn one(
    scenario: &Scenario,
    size: Size,
) -> anyhow::Result<(disk::Disk, anyhow::Result<scenario::Outcome>)> {
    let disk = disk::probe().await?;
    Ok((disk, scenario.run(size).await))
}

/// Says on stderr how far it is.
fn progress(text: &str) {
    eprintln!("   {text}");
}
