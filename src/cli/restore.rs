//! **W** `ubo restore`: a backup into a folder, or on standard output.

use super::progress::{Meter, human_size};
use super::schedule::Format;
use super::{DestinationArgs, GOOD, INCOMPLETE, IdentityArgs, archives, open, print, print_json};
use crate::archive::entries::asked_path;
use crate::args::Environment;
use crate::error::{Failure, Reason};
use crate::repository::catalog::choose;
use crate::repository::manifest::Outcome;
use crate::restore::execute::restore;
use crate::restore::local_target::{DUMP, FolderTarget, StreamTarget};
use crate::restore::{RestoreTarget, Written};
use crate::run::report::Progress;
use crate::source::Content;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Get a backup back
///
/// A folder comes back as a folder, the output of a command as the file `dump` in it. Nothing is overwritten: the folder
/// must be new or empty. As root owners are restored too. Every digest is compared before it says that it is done.
#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// The destination, or one archive's folder in it
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Name of the run, as `ubo list` shows it; `latest` is the newest complete one
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
    /// A new or empty folder; or `-` for the bytes themselves on standard output (a tar, or the dump): `| tar x`, `| psql`.
    /// Those are passed on before the last digest is compared: look at the exit code too (set -o pipefail)
    #[arg(long, value_name = "DIR")]
    pub to: String,
    /// Only this file or folder, as it is called in the backup; may be given several times
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Which archive, where there are several
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub archive: Option<String>,
    /// Keys to encrypted backups.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Destination and output.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// Restores.
pub async fn run(args: &RestoreArgs, environment: &Environment) -> Result<u8, Failure> {
    let usage = |message: &str| Failure::new(Reason::InvalidSpec, message);
    let json = args.destination.output == Format::Json;
    let to_stdout = args.to == "-";
    if to_stdout && (json || !args.paths.is_empty()) {
        return Err(usage("--to - gives all bytes on standard output: without --path and without --output json"));
    }
    let mut paths = Vec::new();
    for text in &args.paths {
        // The whole of it is no choice.
        paths.extend(asked_path(text).map_err(|e| usage(&format!("--path {text}: {e}")))?);
    }
    let identities = args.identity.read()?;
    let (address, destination) = open(&args.uri, &args.destination, environment)?;
    let archives = archives(destination.as_ref()).await?;
    let choice = choose(&archives, args.archive.as_deref(), &args.run)?;
    let backup = choice.backup;
    let manifest = &backup.manifest;
    for note in &choice.notes {
        eprintln!("note: {note}");
    }
    if manifest.outcome == Outcome::Incomplete {
        eprintln!(
            "note: {} is incomplete: {}",
            manifest.run,
            manifest.message.as_deref().unwrap_or("no reason is given")
        );
    }
    let target: Box<dyn RestoreTarget> = if to_stdout {
        Box::new(StreamTarget::new(std::io::stdout()))
    } else {
        Box::new(FolderTarget::new(&args.to, paths, rustix::process::geteuid().is_root())?)
    };
    let progress = Arc::new(Progress::default());
    let meter = Meter::start("restoring", &progress, Some(manifest.stored.size), json);
    let restored = restore(destination.as_ref(), backup, &identities, target, &progress).await;
    drop(meter);
    let written = restored.map_err(|mut failure| {
        let anything = !to_stdout && std::fs::read_dir(&args.to).is_ok_and(|mut entries| entries.next().is_some());
        if anything {
            failure.message = format!(
                "{}. What had been written until then is in {}, and is not the backup: `ubo verify {address} {}` tells more",
                failure.message, args.to, manifest.run
            );
        }
        failure
    })?;
    show(args, &manifest.run, manifest.content, &written)
}

fn show(args: &RestoreArgs, run: &str, content: Content, written: &Written) -> Result<u8, Failure> {
    let code = if written.problem_count == 0 { GOOD } else { INCOMPLETE };
    if args.destination.output == Format::Json {
        print_json(&json!({
            "phase": if code == GOOD { "Succeeded" } else { "Incomplete" },
            "run": run,
            "to": args.to,
            "entries": written.entries,
            "bytes": written.bytes,
            "problems": written.problems,
            "problemCount": written.problem_count,
        }))?;
        return Ok(code);
    }
    for problem in &written.problems {
        eprintln!("problem: {problem}");
    }
    if written.problem_count > 0 {
        eprintln!("incomplete: {} things could not be restored as they were", written.problem_count);
    }
    if args.to == "-" {
        eprintln!("{run}: {}, every digest agrees", human_size(written.bytes));
        return Ok(code);
    }
    let place = match content {
        Content::Raw => Path::new(&args.to).join(DUMP).display().to_string(),
        Content::Tar => args.to.clone(),
    };
    print(&format!(
        "{run}: {} in {} entries restored to {place}, every digest agrees\n",
        human_size(written.bytes),
        written.entries
    ))?;
    Ok(code)
}
