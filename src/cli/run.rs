//! The commands that run components: `dev`, `demo`, `global`, `zone`.
//!
//! Decides: flags, logging, and what signals do. Never does: build a component (`app` does).

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;
use super::output::Output;
use crate::app;
use crate::config::{DemoConfig, DevConfig, LogConfig, LogFormat, Override, load_global, load_zone};
use crate::telemetry::logging;

/// Flags about logs.
#[derive(Debug, Args)]
struct LogArgs {
    /// error, warn, info, debug, trace, or a filter such as kdsync::zone=debug,info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Text on a terminal and JSON otherwise, or one of them
    #[arg(long, value_enum)]
    log_format: Option<LogFormatArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Auto,
    Text,
    Json,
}

impl LogArgs {
    fn config(&self, level: &str) -> LogConfig {
        let format = match self.log_format {
            None | Some(LogFormatArg::Auto) => LogFormat::Auto,
            Some(LogFormatArg::Text) => LogFormat::Text,
            Some(LogFormatArg::Json) => LogFormat::Json,
        };
        LogConfig { level: self.log_level.clone().unwrap_or_else(|| level.to_owned()), format }
    }
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kdsync dev\n  kdsync dev --ephemeral --zones berlin,oslo,lima\n  kdsync dev --api-port 7000 --kds-port 7001 --diagnostics-port 7002 --zone-port-base 8000"
)]
pub(super) struct DevArgs {
    /// Where the components keep their files
    #[arg(long, default_value = "data/dev", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// Keep everything in memory: gone on exit
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// The zones
    #[arg(long, default_value = "east,west", value_delimiter = ',', value_name = "NAMES")]
    zones: Vec<String>,
    /// Port of global's API
    #[arg(long, default_value_t = 5681, value_name = "PORT")]
    api_port: u16,
    /// Port of global's KDS
    #[arg(long, default_value_t = 5685, value_name = "PORT")]
    kds_port: u16,
    /// Port of global's diagnostics
    #[arg(long, default_value_t = 5680, value_name = "PORT")]
    diagnostics_port: u16,
    /// API port of the first zone; each next one is 1000 higher
    #[arg(long, default_value_t = 6681, value_name = "PORT")]
    zone_port_base: u16,
    /// Serve stock zones that were never admitted: a new store then empties them
    #[arg(long)]
    admit_all: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Keep the temporary folder and say where it is
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Flags that `global` and `zone` share.
#[derive(Debug, Args)]
struct ComponentArgs {
    /// Configuration file; see kdsync config example
    #[arg(short, long, value_name = "FILE", env = "KDSYNC_CONFIG")]
    config: Option<PathBuf>,
    /// Where files are kept
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Port of the API
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Port of /healthy, /ready and /metrics
    #[arg(long, value_name = "PORT")]
    diagnostics_port: Option<u16>,
    /// Allow addresses other than loopback although nobody is authenticated
    #[arg(long)]
    insecure_listen: bool,
    #[command(flatten)]
    log: LogArgs,
}

impl ComponentArgs {
    fn overrides(&self) -> Vec<Override> {
        let mut flags = Vec::new();
        let mut set = |key, flag, value: Option<String>| {
            flags.extend(value.map(|value| Override { key, flag, value }));
        };
        set("dataDir", "--data-dir", self.data_dir.clone());
        set("apiServer.http.port", "--api-port", self.api_port.map(|port| port.to_string()));
        set("diagnostics.serverPort", "--diagnostics-port", self.diagnostics_port.map(|p| p.to_string()));
        set("insecureListen", "--insecure-listen", self.insecure_listen.then(|| "true".to_owned()));
        set("log.level", "--log-level", self.log.log_level.clone());
        let format = self.log.log_format.and_then(|format| format.to_possible_value());
        set("log.format", "--log-format", format.map(|format| format.get_name().to_owned()));
        flags
    }
}

/// Arguments of `global`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kdsync global --config global.yaml\n  kdsync global --data-dir /var/lib/kdsync --log-level debug"
)]
pub(super) struct GlobalArgs {
    #[command(flatten)]
    component: ComponentArgs,
    /// Port of KDS
    #[arg(long, value_name = "PORT")]
    kds_port: Option<u16>,
}

/// Arguments of `zone` when it runs one.
#[derive(Debug, Args)]
pub(super) struct ZoneRunArgs {
    #[command(flatten)]
    component: ComponentArgs,
    /// Name of the zone
    #[arg(long)]
    name: Option<String>,
    /// Where global's KDS listens, such as grpc://127.0.0.1:5685
    #[arg(long, value_name = "ADDRESS")]
    global_address: Option<String>,
}

/// Runs `dev`.
pub(super) fn dev(args: DevArgs) -> Result<(), CliError> {
    let config = DevConfig {
        log: args.log.config("info"),
        data_dir: args.data_dir,
        ephemeral: args.ephemeral,
        zones: args.zones,
        api_port: args.api_port,
        kds_port: args.kds_port,
        diagnostics_port: args.diagnostics_port,
        zone_port_base: args.zone_port_base,
        admit_all: args.admit_all,
    };
    let bad = config.zones.iter().find(|zone| !crate::core::validate::is_zone_name(zone));
    if let Some(zone) = bad {
        return Err(CliError::Usage(format!(
            "--zones: \"{zone}\" is no name for a zone: 1 to 63 lower case letters, digits or '-'"
        )));
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = config.zones.iter().find(|zone| !seen.insert(zone.as_str())) {
        return Err(CliError::Usage(format!(
            "--zones: \"{twice}\" is there twice; zones have names of their own"
        )));
    }
    run(&config.log.clone(), &[], |cancel| app::run_dev(config, cancel))
}

/// Runs `demo`.
pub(super) fn demo(args: &DemoArgs, output: &mut Output) -> Result<(), CliError> {
    let config = DemoConfig { keep: args.keep, log: args.log.config("off") };
    start_logging(&config.log)?;
    runtime()?.block_on(super::demo::run(config, output))
}

/// Runs `global`.
pub(super) fn global(args: &GlobalArgs) -> Result<(), CliError> {
    let mut flags = args.component.overrides();
    flags.extend(args.kds_port.map(|port| Override {
        key: "multizone.global.kds.grpcPort",
        flag: "--kds-port",
        value: port.to_string(),
    }));
    let loaded = load_global(args.component.config.as_deref(), &flags)?;
    let config = loaded.config;
    run(&config.log.clone(), &loaded.warnings, |cancel| app::run_global(config, cancel))
}

/// Runs `zone`.
pub(super) fn zone(args: ZoneRunArgs) -> Result<(), CliError> {
    let mut flags = args.component.overrides();
    let mut set = |key, flag, value: Option<String>| {
        flags.extend(value.map(|value| Override { key, flag, value }));
    };
    set("multizone.zone.name", "--name", args.name);
    set("multizone.zone.globalAddress", "--global-address", args.global_address);
    let loaded = load_zone(args.component.config.as_deref(), &flags)?;
    let config = loaded.config;
    run(&config.log.clone(), &loaded.warnings, |cancel| app::run_zone(config, cancel))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn start_logging(log: &LogConfig) -> Result<(), CliError> {
    let format = match log.format {
        LogFormat::Auto => logging::Format::Auto,
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(&log.level, format).map_err(|error| CliError::Failed(error.to_string()))
}

/// Runs a component until it ends or a signal says so.
fn run<F, Fut>(log: &LogConfig, warnings: &[String], component: F) -> Result<(), CliError>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    start_logging(log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let component = Box::pin(component(cancel.clone()));
        until_signal(component, cancel).await
    });
    // A thread stuck in the file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The first signal asks the component to end; the second does not wait.
async fn until_signal(
    component: std::pin::Pin<Box<impl Future<Output = anyhow::Result<()>>>>,
    cancel: CancellationToken,
) -> Result<(), CliError> {
    let mut component = component;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            outcome = &mut component => return outcome.map_err(CliError::from),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if cancel.is_cancelled() {
            return Err(CliError::Failed("stopped at once: a second signal arrived".to_owned()));
        }
        tracing::info!("stopping; a second signal stops at once");
        cancel.cancel();
    }
}
