//! **W** What a person types.

pub mod backup;
pub mod list;
pub mod progress;
pub mod restore;
pub mod schedule;
pub mod verify;

use crate::args::{Args, Command};
use crate::clock::SystemClock;
use crate::error::Failure;
use std::io::{self, Write};

/// Everything went well.
pub const GOOD: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// The words were not understood. clap ends with the same.
pub const USAGE: u8 = 2;
/// There is a backup, but the source was not whole.
pub const INCOMPLETE: u8 = 3;

/// Does what was asked and gives the exit code.
pub fn run(args: Args) -> u8 {
    if let Err(why) = crate::telemetry::init_logging(args.log_format, &args.log) {
        eprintln!("ubo: {why}");
        return USAGE;
    }
    match args.command {
        Command::Operator(args) => finish(block_on(crate::app::operate(&args))),
        Command::Install(args) => written(
            crate::install::manifests(&args.image)
                .map(|text| io::stdout().write_all(text.as_bytes()).map(|()| GOOD))
                .unwrap_or_else(|failure| Ok(finish(Err(failure)))),
        ),
        Command::Schedule(args) => written(schedule::run(&args, &SystemClock, &mut io::stdout(), &mut io::stderr())),
    }
}

/// Output that nobody takes (`| head`) is no failure of ours to shout about.
fn written(result: io::Result<u8>) -> u8 {
    result.unwrap_or(FAILED)
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(crate::error::Reason::Internal, format!("the runtime cannot be started: {error}"))
    })?;
    runtime.block_on(work)
}

fn finish(result: Result<(), Failure>) -> u8 {
    match result {
        Ok(()) => GOOD,
        Err(failure) => {
            eprintln!("ubo: {}: {}", failure.reason, failure.message);
            FAILED
        }
    }
}
