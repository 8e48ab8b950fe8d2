//! **W** `cargo rig`: the test cluster, the demo and the run of all tests, from one command.

#![allow(
    unreachable_pub,
    reason = "nothing of a binary is reachable from outside; `pub` says that other modules use it"
)]

mod bench;
mod cgroup;
mod clusters;
mod command;
mod debian;
mod demo;
mod deny;
mod down;
mod elf;
mod go;
mod image;
mod images;
mod mounts;
mod netns;
mod operator_image;
mod packages;
mod parts;
mod pki;
mod place;
mod process;
mod report;
mod status;
mod tally;
mod test;
mod up;
mod wait;

use anyhow::Result;
use clap::{Parser, Subcommand};
use place::{CLUSTERS, Place};
use report::Report;
use std::process::ExitCode;

/// A real Kubernetes on this machine, in a network namespace of its own: for the tests and the demo.
#[derive(Parser)]
#[command(name = "cargo rig", bin_name = "cargo rig", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what is missing and bring the cluster up; what runs already is left alone
    Up {
        /// Leave the operator's own image out (when it does not build yet)
        #[arg(long)]
        no_operator: bool,
    },
    /// End exactly what `up` started, and remove what it made
    Down,
    /// Show each part, and whether it lives
    Status,
    /// End a part of the cluster and start it again: what tests do to see who survives it
    Restart {
        /// A part, by the name that `status` shows
        part: String,
        /// Kill it, instead of letting it end in good order
        #[arg(long)]
        kill: bool,
    },
    /// Print `export` lines: eval "$(cargo rig env)"
    Env,
    /// Run kubectl inside the cluster's network
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run any command inside the cluster's network, with the variables of `env`
    Exec {
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Check and test everything, on the cluster too; ends with `N passed, N failed`
    Test {
        /// Only tests whose own name, or whose file's name, contains this, and no checks
        filter: Option<String>,
    },
    /// Kill the operator's replicas at random while BackupJobs run every minute, and count what came of every tick
    ///
    /// Exit code 0: nothing was lost, doubled, half or left behind. Progress goes to standard error.
    Soak {
        /// BackupJobs, each due every minute
        #[arg(long, default_value_t = 20)]
        jobs: usize,
        /// Minutes in which replicas are killed
        #[arg(long, default_value_t = 50)]
        minutes: u64,
        /// Kills in that time
        #[arg(long, default_value_t = 100)]
        kills: u64,
        /// How the result is printed
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show the main job: a PostgreSQL is backed up by the clock and by hand, and restored into an empty one
    ///
    /// Brings the cluster up first where it is not (minutes the first time, half a minute later), and takes down what it
    /// brought up.
    Demo {
        /// Leave everything up, to look around
        #[arg(long)]
        keep: bool,
    },
    /// Measure what the operator is held to, beside what others do in the same cluster and the same run
    Bench {
        /// What is measured; without it all of it, one after the other
        part: Option<bench::Part>,
        /// How it is printed
        #[arg(long, default_value = "text")]
        output: bench::Output,
        /// With the development build: for work on the benchmark itself
        #[arg(long)]
        debug: bool,
        /// Exit code 1 where a goal is missed
        #[arg(long)]
        check: bool,
    },
    /// Build the operator's image anew and import it where the cluster runs
    Image {
        /// Build with the release profile (minutes)
        #[arg(long)]
        release: bool,
    },
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a program.
    Json,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let place = Place::here()?;
    let report = Report::new();
    match command {
        Command::Up { no_operator } => {
            up::up(&place, &report, !no_operator)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Down => {
            // The further ones, too, if a run of the tests was broken off.
            for place in (1..=CLUSTERS).map(|number| place.numbered(number)) {
                if place.number == 1 || place.state.exists() {
                    down::down(&place, &report)?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Restart { part, kill } => {
            up::restart(&place, &report, &part, kill)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status => status::print(&place),
        Command::Env => {
            print!("{}", status::exports(&place)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Kubectl { arguments } => {
            let mut line = vec![place.kubectl().display().to_string()];
            line.extend(arguments);
            status::inside(&place, &line)
        }
        Command::Exec { arguments } => status::inside(&place, &arguments),
        Command::Test { filter } => Ok(test::test(&place, &Report::plain(), filter.as_deref())),
        Command::Soak { jobs, minutes, kills, output } => {
            let result = place.folder("soak")?.join("result.json");
            let seconds = minutes.saturating_mul(60);
            let measure = rig::soak::Measure { jobs, seconds, kills, result: Some(result) };
            let outcome = test::soak(&place, &report, &measure)?;
            match output {
                Output::Text => print!("{}", outcome.text()),
                Output::Json => println!("{}", serde_json::to_string_pretty(&outcome)?),
            }
            Ok(if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Demo { keep } => {
            demo::demo(&place, &report, keep)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench { part, output, debug, check } => {
            let met = bench::bench(&place, &report, part, output, debug)?;
            Ok(if met || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Image { release } => {
            operator_image::refresh(&place, &report, release)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
