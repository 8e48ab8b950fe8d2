//! **W** Flags and environment; the only reader of both.

use crate::cli::backup::BackupArgs;
use crate::cli::install::InstallArgs;
use crate::cli::kubectl::KubectlArgs;
use crate::cli::list::ListArgs;
use crate::cli::restore::RestoreArgs;
use crate::cli::schedule::ScheduleArgs;
use crate::cli::verify::VerifyArgs;
use crate::telemetry::LogFormat;
use clap::{Args as _, FromArgMatches, Parser};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// What is read from the environment for a destination on the command line: keys of `secretRef`, and settings.
const DESTINATION_VARIABLES: &[&str] =
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"];

/// Backups that can be restored: a Kubernetes operator, and the same pipeline on the command line
///
/// Exit codes: 0 good, 1 failed, 2 wrong usage, 3 incomplete (something could not be read or written; the rest is there).
#[derive(Debug, clap::Parser)]
#[command(name = "ubo", version, arg_required_else_help = true, max_term_width = 120)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines are written (to standard error): `info`, `warn,ubo::run=debug`, … (default: `warn,ubo=info` for the
    /// operator, `off` for `kubectl`, `error` otherwise)
    #[arg(long, global = true, env = "UBO_LOG")]
    pub log: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "UBO_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The name under which kubectl finds the plug-in.
const PLUGIN: &str = "kubectl-backup";

impl Args {
    /// The command line of this process. Where the binary is called `kubectl-backup` (a symbolic link will do), it is what
    /// `kubectl backup` runs. Ends the process with exit code 2 where it does not hold.
    pub fn of_process() -> Self {
        Self::of(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// The same for these words, the program's name first.
    fn of(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        let called = words.first().map(Path::new).and_then(Path::file_name);
        if called.is_some_and(|name| name == PLUGIN) {
            // As the person typed it, in usage and errors.
            let plugin = clap::Command::new(PLUGIN)
                .bin_name("kubectl backup")
                .about("Run, watch and judge the BackupJobs of a cluster")
                .version(env!("CARGO_PKG_VERSION"))
                .max_term_width(120);
            let matches = KubectlArgs::augment_args(plugin).try_get_matches_from(words)?;
            let command = Command::Kubectl(KubectlArgs::from_arg_matches(&matches)?);
            return Ok(Self { command, log: None, log_format: LogFormat::default() });
        }
        Self::try_parse_from(words)
    }

    /// Which log lines are written.
    pub fn log_filter(&self) -> &str {
        let default = match self.command {
            Command::Operator(_) => "warn,ubo=info",
            // What the client library says of a server that is not there, the error says too.
            Command::Kubectl(_) => "off",
            _ => "error",
        };
        self.log.as_deref().unwrap_or(default)
    }
}

/// Everything that `ubo` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Back up a folder, or the output of a command
    Backup(BackupArgs),
    /// Show the backups at a destination
    List(ListArgs),
    /// Get a backup back
    Restore(RestoreArgs),
    /// Read a backup and compare every digest
    Verify(VerifyArgs),
    /// Print the next times at which a schedule fires
    Schedule(ScheduleArgs),
    /// Run, watch and judge the BackupJobs of a cluster: the same as `kubectl backup`
    Kubectl(KubectlArgs),
    /// Print what is installed in a cluster
    Install(InstallArgs),
    /// Run the operator (in a cluster)
    Operator(OperatorArgs),
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
    /// Over how long ticks that were missed while the operator was away are spread when it is back: `90s`, `10m`, `1h`, or 0
    /// for at once
    #[arg(long, env = "UBO_CATCH_UP_WINDOW", default_value = "10m", value_parser = length_of_time)]
    catch_up_window: Duration,
    /// How long running backups may take to end after SIGTERM, in seconds; keep it below the pod's grace period
    #[arg(long, env = "UBO_SHUTDOWN_GRACE_SECONDS", default_value_t = 570)]
    shutdown_grace_seconds: u32,
    /// Name of this pod
    #[arg(long, env = "POD_NAME", default_value = "ubo")]
    pub pod_name: String,
    /// Addresses of this pod; no backup goes there
    #[arg(long, env = "POD_IPS", value_delimiter = ',')]
    pub pod_ips: Vec<IpAddr>,
    /// Networks in which no destination may be, besides those that never are one (loopback, link-local, metadata, the API
    /// server), as `10.0.0.0/8`; may be given several times
    #[arg(long, env = "UBO_DENY_DESTINATION_CIDR", value_delimiter = ',')]
    pub deny_destination_cidr: Vec<IpNet>,
}

impl OperatorArgs {
    /// Over how long missed ticks are spread.
    pub const fn catch_up_window(&self) -> Duration {
        self.catch_up_window
    }

    /// How long running backups may take to end after SIGTERM.
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(u64::from(self.shutdown_grace_seconds))
    }
}

/// A whole number of seconds, minutes or hours, up to a day.
fn length_of_time(text: &str) -> Result<Duration, String> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let seconds = match (unit, number) {
        ("s", _) => 1,
        ("m", _) => 60,
        ("h", _) => 3600,
        ("", "0") => 0,
        _ => return Err("write it as 90s, 10m or 1h".into()),
    };
    let whole = number.parse::<u32>().ok().and_then(|number| u64::from(number).checked_mul(seconds));
    match whole {
        Some(seconds @ 0..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("it is between 0 and 24h".into()),
    }
}

/// What the environment says about destinations.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// As the keys of a Secret. Never shown.
    pub credentials: BTreeMap<String, String>,
    /// `AWS_CA_BUNDLE`: a file with PEM text.
    pub ca_bundle_file: Option<String>,
}

impl Environment {
    /// Reads it.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn read() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut credentials: BTreeMap<String, String> =
            DESTINATION_VARIABLES.iter().filter_map(|name| Some(((*name).to_string(), variable(name)?))).collect();
        // The AWS tools' own second names.
        for (name, other) in [("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), ("AWS_REGION", "AWS_DEFAULT_REGION")] {
            if let Some(value) =
                variable(other).filter(|_| other == "AWS_ENDPOINT_URL_S3" || !credentials.contains_key(name))
            {
                credentials.insert(name.into(), value);
            }
        }
        Self { credentials, ca_bundle_file: variable("AWS_CA_BUNDLE") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_hold_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_the_documentation_shows_is_understood() {
        for line in [
            "ubo backup --from ./data --to file:///backups",
            "ubo backup --command pg_dumpall --to s3://b/p --name pg --output json",
            "ubo list s3://b/p",
            "ubo restore file:///backups --to ./x --path a --path b/c",
            "ubo restore file:///backups data-20260102-030405 --to - --archive default/pg",
            "ubo verify file:///backups latest --option region=eu-central-1",
            "ubo schedule @daily",
            "ubo install",
            "ubo kubectl run pg --wait -n shop",
            "ubo kubectl -n shop run pg --dry-run",
            "ubo kubectl run pg --dry-run=server -o json",
            "ubo kubectl list -A -o wide --context prod --kubeconfig x",
            "ubo kubectl accept pg pg-mabcde",
            "kubectl-backup status pg",
            "/usr/local/bin/kubectl-backup list",
            "ubo install --namespace shop --service-account dba",
            "ubo operator --max-concurrent-runs 8",
            "ubo operator --deny-destination-cidr 10.0.0.0/8,fd00::/8 --deny-destination-cidr 192.168.0.0/16",
            "ubo operator --catch-up-window 0",
            "ubo operator --catch-up-window 90s",
        ] {
            assert!(Args::of(line.split(' ').map(OsString::from)).is_ok(), "{line}");
        }
        for line in [
            "ubo backup --to file:///backups",
            "ubo backup --from a --command b --to file:///backups",
            "ubo restore file:///backups",
            "ubo operator --max-concurrent-runs 0",
            "ubo kubectl list -A -n shop",
            "ubo kubectl run pg --dry-run=perhaps",
            "ubo status",
            "kubectl-backup install",
            "ubo operator --deny-destination-cidr 10.0.0.1/33",
            "ubo operator --catch-up-window 10",
            "ubo operator --catch-up-window 25h",
            "ubo operator --catch-up-window 99999999999h",
            "ubo operator --catch-up-window m",
        ] {
            assert!(Args::of(line.split(' ').map(OsString::from)).is_err(), "{line}");
        }
    }
}
