//! **W** `ubo list`: the backups at a destination.

use super::progress::human_size;
use super::schedule::Format;
use super::{DestinationArgs, GOOD, archives, open, print, print_json};
use crate::args::Environment;
use crate::error::{Failure, Reason};
use crate::repository::catalog::{Archive, Backup};
use crate::repository::manifest::pods::PodEntry;
use crate::repository::manifest::{Manifest, Outcome};
use serde_json::{Value, json};
use std::fmt::Write;

/// Show the backups at a destination
#[derive(Clone, Debug, clap::Args)]
pub struct ListArgs {
    /// The destination, or one archive's folder in it
    #[arg(value_name = "URI")]
    pub uri: String,
    /// Only this archive
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub archive: Option<String>,
    /// Destination and output.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// Lists.
pub async fn run(args: &ListArgs, environment: &Environment) -> Result<u8, Failure> {
    let (address, destination) = open(&args.uri, &args.destination, environment)?;
    let mut archives = archives(destination.as_ref()).await?;
    if let Some(name) = &args.archive {
        archives.retain(|archive| archive.is_called(name));
        if archives.is_empty() {
            let message = format!("there is no archive {name:?} at {address}. `ubo list {address}` shows all");
            return Err(Failure::new(Reason::BackupNotFound, message));
        }
    }
    match args.destination.output {
        Format::Json => print_json(&json!({
            "uri": address.to_string(),
            "archives": archives.iter().map(archive_json).collect::<Vec<_>>(),
        }))?,
        Format::Text if archives.is_empty() => print(&format!("no backups at {address}\n"))?,
        Format::Text => print(&text(&archives))?,
    }
    Ok(GOOD)
}

fn archive_json(archive: &Archive) -> Value {
    let damaged = archive.damaged.iter().map(|damaged| {
        json!({
            "folder": damaged.folder.as_str(),
            "reason": damaged.failure.reason.as_str(),
            "message": damaged.failure.message,
        })
    });
    json!({
        "name": archive.shown_name(),
        "backups": archive.backups.iter().map(backup_json).collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
        "unfinished": archive.unfinished,
    })
}

fn backup_json(backup: &Backup) -> Value {
    let manifest = &backup.manifest;
    json!({
        "run": manifest.run,
        "folder": backup.folder.as_str(),
        "outcome": manifest.outcome,
        "reason": manifest.reason,
        "message": manifest.message,
        "startedAt": manifest.started_at,
        "completedAt": manifest.completed_at,
        "content": manifest.content,
        "consistency": manifest.consistency,
        "target": manifest.target,
        "pod": pod_json(manifest),
        "bytesRead": manifest.raw.size,
        "bytesStored": manifest.stored.size,
        "files": manifest.files,
        "encryptionRecipients": manifest.encryption_recipients,
        "warnings": manifest.warnings,
    })
}

/// The pod's name, or a list of all.
fn pod_json(manifest: &Manifest) -> Value {
    let Some(pods) = manifest.each() else { return json!(manifest.pod) };
    let entry = |pod: &PodEntry| {
        let data = pod.data.as_ref();
        json!({
            "name": pod.name,
            "outcome": pod.outcome,
            "reason": pod.reason,
            "message": pod.message,
            "bytesRead": data.map(|data| data.raw.size),
            "bytesStored": data.map(|data| data.stored.size),
            "files": data.and_then(|data| data.files),
        })
    };
    Value::Array(pods.iter().map(entry).collect())
}

/// A pod's columns, from the outcome on.
fn pod_text(pod: &PodEntry) -> String {
    let outcome = pod.outcome.as_str();
    match &pod.data {
        Some(data) => format!(
            "{outcome:10}  {:>10}  {:>10}  {:>8}",
            human_size(data.raw.size),
            human_size(data.stored.size),
            data.files.map_or_else(|| "-".into(), |files| files.to_string()),
        ),
        None => format!("{outcome:10}  {}", pod.reason.as_deref().unwrap_or_default()),
    }
}

/// A table per archive, newest backup first.
fn text(archives: &[Archive]) -> String {
    let mut text = String::new();
    for (index, archive) in archives.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let name = archive.shown_name();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{gap}{name}");
        let pods = archive.backups.iter().flat_map(|b| b.manifest.each().unwrap_or_default());
        let names = archive.backups.iter().map(|b| b.manifest.run.len()).chain(pods.map(|pod| pod.name.len() + 2));
        let width = names.max().unwrap_or(0).max(3);
        if !archive.backups.is_empty() {
            let _ = writeln!(
                text,
                "  {:width$}  {:20}  {:10}  {:>10}  {:>10}  {:>8}",
                "RUN", "STARTED", "OUTCOME", "SIZE", "STORED", "FILES"
            );
        }
        for Backup { manifest, .. } in &archive.backups {
            let outcome = match manifest.outcome {
                Outcome::Complete => "Complete",
                Outcome::Incomplete => "Incomplete",
            };
            let _ = writeln!(
                text,
                "  {:width$}  {:20}  {outcome:10}  {:>10}  {:>10}  {:>8}",
                manifest.run,
                manifest.started_at.format("%Y-%m-%dT%H:%M:%SZ"),
                human_size(manifest.raw.size),
                human_size(manifest.stored.size),
                manifest.files.map_or_else(|| "-".into(), |files| files.to_string()),
            );
            for pod in manifest.each().unwrap_or_default() {
                let _ = writeln!(text, "  {:width$}  {:20}  {}", format!("  {}", pod.name), "", pod_text(pod));
            }
        }
        for damaged in &archive.damaged {
            let _ = writeln!(text, "  DAMAGED {}: {}", damaged.folder.file_name(), damaged.failure.message);
        }
        for unfinished in &archive.unfinished {
            let _ = writeln!(text, "  unfinished {unfinished}: no backup (at work, or broken off)");
        }
    }
    text
}
