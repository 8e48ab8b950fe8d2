//! **W** Flags and environment; the only reader of both.

use std::net::SocketAddr;
use std::time::Duration;

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
