//! **W** What a person types.
//!
//! The same pipeline as in the cluster, with no cluster: results on standard output, everything else on standard error.
//! Exit codes: 0 good, 1 failed, 2 wrong usage, 3 incomplete. With `--output json` exactly one JSON document is printed, an
//! error as `{"error": {"reason", "message", "exitCode"}}`.

pub mod backup;
pub mod install;
pub mod kubectl;
pub mod list;
pub mod progress;
pub mod restore;
pub mod schedule;
pub mod verify;

use crate::archive::decrypt::Identities;
use crate::args::{Args, Command, Environment};
use crate::clock::{Clock, SystemClock};
use crate::destination::Destination;
use crate::destination::address::Address;
use crate::destination::build::build;
use crate::error::{Failure, Reason};
use crate::repository::catalog::{self, Archive};
use crate::run::cancel::Cancel;
use crate::telemetry::init_logging;
use crate::validate::quantity_in_bytes;
use schedule::Format;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Everything is there.
pub const GOOD: u8 = 0;
/// It did not work.
pub const FAILED: u8 = 1;
/// It was asked for wrongly.
pub const USAGE: u8 = 2;
/// Part of it is there.
pub const INCOMPLETE: u8 = 3;

/// What all commands that talk to a destination take.
#[derive(Clone, Debug, clap::Args)]
pub struct DestinationArgs {
    /// A setting of the destination: endpoint, region, storageClass, caBundle. Credentials come from the environment:
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; AWS_ENDPOINT_URL, AWS_REGION and AWS_CA_BUNDLE are
    /// read too
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = parse_option)]
    pub options: Vec<(String, String)>,
    /// Print text for a person, or one JSON document
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
}

/// A rate as Kubernetes writes sizes.
fn parse_rate(text: &str) -> Result<u64, String> {
    match quantity_in_bytes(text)? {
        0 => Err("nothing would ever be sent".into()),
        rate => Ok(rate),
    }
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

/// Does what was asked for, and gives the exit code.
pub fn run(args: Args) -> u8 {
    if let Err(error) = init_logging(args.log_format, args.log_filter()) {
        eprintln!("error: {error}");
        return USAGE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return FAILED;
        }
    };
    let (environment, clock) = (Environment::read(), Arc::new(SystemClock) as Arc<dyn Clock>);
    runtime.block_on(async {
        match args.command {
            Command::Backup(args) => ended(args.destination.output, backup::run(&args, &environment, &clock).await),
            Command::List(args) => ended(args.destination.output, list::run(&args, &environment).await),
            Command::Restore(args) => ended(args.destination.output, restore::run(&args, &environment).await),
            Command::Verify(args) => ended(args.destination.output, verify::run(&args, &environment).await),
            Command::Kubectl(args) => kubectl::run(&args, &clock).await,
            Command::Install(args) => ended(Format::Text, install::run(&args)),
            Command::Operator(args) => ended(Format::Text, crate::app::operate(&args).await.map(|()| GOOD)),
            Command::Schedule(args) => {
                schedule::run(&args, clock.as_ref(), &mut io::stdout().lock(), &mut io::stderr().lock())
                    .unwrap_or(FAILED)
            }
        }
    })
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    reason: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

/// Says what failed, and gives the exit code.
fn ended(output: Format, result: Result<u8, Failure>) -> u8 {
    let failure = match result {
        Ok(code) => return code,
        Err(failure) => failure,
    };
    let reason = failure.reason.as_str();
    match output {
        Format::Text => eprintln!("error: {} ({reason})", failure.message),
        Format::Json => {
            let error = ErrorBody { reason, message: &failure.message, exit_code: failure.exit_code };
            // Nothing is left to say where standard output is closed.
            let _ = print_json(&ErrorDocument { error });
        }
    }
    if failure.reason == Reason::InvalidSpec { USAGE } else { FAILED }
}

/// One JSON document on standard output.
fn print_json<T: Serialize>(document: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|e| Failure::new(Reason::Internal, format!("the result cannot be written: {e}. Please report it")))?;
    print(&format!("{text}\n"))
}

/// Text on standard output. A reader that went away (`| head`) is no error of ours.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Reason::RestoreTargetUnavailable, format!("standard output cannot be written: {e}")))
        }
        _ => Ok(()),
    }
}

/// Opens the destination that a uri names, with the environment's credentials.
fn open(
    uri: &str,
    args: &DestinationArgs,
    environment: &Environment,
) -> Result<(Address, Arc<dyn Destination>), Failure> {
    let address = Address::parse(uri)?;
    let mut options: BTreeMap<String, String> = args.options.iter().cloned().collect();
    if let (Address::S3 { .. }, Some(file)) = (&address, &environment.ca_bundle_file)
        && !options.contains_key("caBundle")
    {
        let pem = std::fs::read_to_string(file)
            .map_err(|e| Failure::new(Reason::InvalidSpec, format!("AWS_CA_BUNDLE: {file} cannot be read: {e}")))?;
        options.insert("caBundle".into(), pem);
    }
    let destination = build(&address, &options, &environment.credentials)?;
    Ok((address, destination))
}

/// What commands that read encrypted backups take.
#[derive(Clone, Debug, clap::Args)]
pub struct IdentityArgs {
    /// File with the age private key (AGE-SECRET-KEY-1…, as age-keygen writes it) of an encrypted backup; may be given
    /// several times
    #[arg(long = "identity", short = 'i', value_name = "FILE")]
    pub files: Vec<String>,
}

impl IdentityArgs {
    /// Reads the files.
    fn read(&self) -> Result<Identities, Failure> {
        let mut identities = Identities::default();
        for file in &self.files {
            let text = std::fs::read_to_string(file)
                .map_err(|e| Failure::new(Reason::InvalidSpec, format!("--identity {file} cannot be read: {e}")))?;
            identities.extend(Identities::parse(&format!("--identity {file}"), &text)?);
        }
        Ok(identities)
    }
}

/// Every archive at a destination.
async fn archives(destination: &dyn Destination) -> Result<Vec<Archive>, Failure> {
    catalog::load(destination, "").await
}

/// Cancelled by the first Ctrl-C or SIGTERM; the second one ends the process at once.
fn cancel_on_signal() -> Cancel {
    let cancel = Cancel::default();
    let asked = cancel.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for again in [false, true] {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if again {
                std::process::exit(code);
            }
            eprintln!("ending and tidying up; once more to end at once");
            asked.request(Reason::CancelRequested);
        }
    });
    cancel
}
