//! **W** Flags and environment; the only reader of both.

use crate::cli::schedule::ScheduleArgs;
use crate::telemetry::LogFormat;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::time::Duration;

/// A Kubernetes backup operator that never calls a backup good that cannot be restored
#[derive(Debug, Parser)]
#[command(name = "ubo", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines are written (to standard error): `info`, `warn,ubo::run=debug`, …
    #[arg(long, global = true, env = "UBO_LOG", default_value = "warn,ubo=info")]
    pub log: String,
    /// How log lines look
    #[arg(long, global = true, env = "UBO_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The invocations.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the cluster: watch BackupJobs, keep their schedules, make their backups
    Operator(OperatorArgs),
    /// Print every manifest that this version needs in a cluster
    Install(InstallArgs),
    /// Show when a schedule fires
    Schedule(ScheduleArgs),
}

/// `ubo install`
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Image of the operator
    #[arg(long, default_value = crate::install::DEFAULT_IMAGE)]
    pub image: String,
}

/// `ubo operator`
#[derive(Debug, clap::Args)]
pub struct OperatorArgs {
    /// Where `/metrics`, `/livez` and `/readyz` are served
    #[arg(long, env = "UBO_METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// How many backups may work at once; the others wait
    #[arg(long, env = "UBO_MAX_CONCURRENT_RUNS", default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub max_concurrent_runs: usize,
    /// How long running backups may take to end after SIGTERM, in seconds; keep it below the pod's grace period
    #[arg(long, env = "UBO_SHUTDOWN_GRACE_SECONDS", default_value_t = 570)]
    shutdown_grace_seconds: u32,
    /// Name of this pod
    #[arg(long, env = "POD_NAME", default_value = "ubo")]
    pub pod_name: String,
}

impl OperatorArgs {
    /// How long running backups may take to end after SIGTERM.
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.shutdown_grace_seconds))
    }
}
