//! **W** What the operator says about itself: logs, metrics, Events, and the server that shows them.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

pub mod admin;
pub mod events;
pub mod metrics;
pub mod readiness;

/// What signs requests describes at `debug` and `trace` what it signs, and with what. No filter turns that on.
const SIGNERS: [&str; 2] = ["reqsign_core=info", "reqsign_aws_v4=info"];

/// How log lines look. They go to standard error; standard output belongs to results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object per line, the fields of the event at its top level.
    Json,
}

/// Starts logging. `filter` is what `RUST_LOG` usually holds (`info`, `info,ubo::run=debug`). The error is for a person:
/// a filter that cannot be read, or logging that runs already.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), String> {
    let mut filter = EnvFilter::builder().parse(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    for quiet in SIGNERS {
        filter = filter.add_directive(quiet.parse().map_err(|error| format!("log filter {quiet:?}: {error}"))?);
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    started.map_err(|error| format!("logging: {error}"))
}
