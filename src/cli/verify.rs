//! **W** `ubo verify`: is it what its manifest says?

use super::progress::{Meter, human_size};
use super::schedule::Format;
use super::{DestinationArgs, GOOD, INCOMPLETE, IdentityArgs, archives, open, print, print_json};
use crate::args::Environment;
use crate::error::Failure;
use crate::repository::catalog::choose;
use crate::repository::manifest::Outcome;
use crate::repository::manifest::pods::PodEntry;
use crate::restore::execute::verify;
use crate::run::report::Progress;
use serde_json::{Value, json};
use std::sync::Arc;

/// Read a backup and compare every digest
///
/// Exit code 0: it is what its manifest says, and complete. 3: it is what its manifest says, and that says incomplete.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArgs {
    /// The destination, or one archive's folder in it
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Name of the run, as `ubo list` shows it; `latest` is the newest complete one
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
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

/// Verifies.
pub async fn run(args: &VerifyArgs, environment: &Environment) -> Result<u8, Failure> {
    let identities = args.identity.read()?;
    let (_, destination) = open(&args.uri, &args.destination, environment)?;
    let archives = archives(destination.as_ref()).await?;
    let choice = choose(&archives, args.archive.as_deref(), &args.run)?;
    let manifest = &choice.backup.manifest;
    for note in &choice.notes {
        eprintln!("note: {note}");
    }
    let json = args.destination.output == Format::Json;
    let progress = Arc::new(Progress::default());
    let total = manifest.objects().map(|object| object.size).sum();
    let meter = Meter::start("verifying", &progress, Some(total), json);
    let verified = verify(destination.as_ref(), choice.backup, &identities, &progress).await;
    drop(meter);
    let counts = verified.map_err(|failure| failure.while_doing(&manifest.run))?;
    let code = if manifest.outcome == Outcome::Complete { GOOD } else { INCOMPLETE };
    if json {
        print_json(&json!({
            "phase": "Succeeded",
            "run": manifest.run,
            "outcome": manifest.outcome,
            "reason": manifest.reason,
            "message": manifest.message,
            "bytesRead": manifest.raw.size,
            "bytesStored": manifest.stored.size,
            "files": counts.map(|counts| counts.files),
            "pods": manifest.each().map(|pods| pods.iter().map(pod_json).collect::<Vec<_>>()),
        }))?;
        return Ok(code);
    }
    if let Some(message) = manifest.message.as_deref().filter(|_| code == INCOMPLETE) {
        eprintln!("incomplete: {message}");
    }
    let parts = manifest.parts().len();
    let pods = if manifest.each().is_some() { format!(" of {parts} pods") } else { String::new() };
    let files = counts.map_or(String::new(), |counts| format!(", {} files", counts.files));
    let stored = human_size(manifest.stored.size);
    print(&format!("{}: {stored} stored{pods}{files}, every digest agrees\n", manifest.run))?;
    Ok(code)
}

fn pod_json(pod: &PodEntry) -> Value {
    json!({"name": pod.name, "outcome": pod.outcome, "reason": pod.reason, "message": pod.message})
}
