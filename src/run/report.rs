//! **P** What a backup is asked for, what it counts while it works, and what it reports.

use super::guard::shrunk_message;
use super::{AttemptId, Phase};
use crate::api::names::ObjectKey;
use crate::archive::encrypt::Recipient;
use crate::error::{Failure, Reason, cut};
use crate::repository::manifest::{Manifest, Object, Outcome, Owner};
use crate::source::Consistency;
use serde_json::Value;
use std::sync::atomic::AtomicU64;

/// What a backup needs to know besides its source and destination.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who writes.
    pub id: AttemptId,
    /// The owner whose archive is to be taken over: `<cluster id>/<job UID>`.
    pub adopt: Option<String>,
    /// Target as it stands in the manifest: kind, name, namespace, path, container.
    pub target: Value,
    /// `dump`, `copy`, …
    pub strategy: &'static str,
    /// zstd level.
    pub compression_level: i32,
    /// Who can read the backup; none: it is not encrypted.
    pub recipients: Vec<Recipient>,
    /// An empty backup is a success.
    pub allow_empty: bool,
    /// Least raw size in bytes of a good backup.
    pub minimum_size: Option<u64>,
    /// By how many percent a backup may be smaller than those before it without being flagged; `None`: by any.
    pub maximum_shrink_percent: Option<u32>,
    /// Name of the run whose smaller backup somebody has accepted.
    pub accepted: Option<String>,
    /// The attempt before it found that it had to wait: nothing is written before it is known whether this one has to.
    pub waited: bool,
    /// Longest object in bytes, [`super::backup::SEGMENT_SIZE`] at most; then the next one begins.
    pub segment_size: u64,
}

/// Live counters, read by whoever shows them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Raw bytes read from the source.
    pub read: AtomicU64,
    /// Bytes handed to the destination.
    pub stored: AtomicU64,
    /// Files seen in a tar.
    pub files: AtomicU64,
}

/// Whose archive a backup was written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// This BackupJob's.
    #[default]
    Ours,
    /// This BackupJob's from now on; the text says whose it was.
    TakenOver(String),
    /// Somebody else's, and it stays so.
    Foreign(Owner),
}

/// One stored object of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Name below the folder: `dump.zst`, or `web-0/dump.zst` where each pod has a folder.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of the stored bytes, in hex.
    pub digest: String,
}

/// What was made. Only `Succeeded` or `Incomplete`; everything else is a [`Failure`].
#[derive(Clone, Debug)]
pub struct Report {
    /// `Succeeded` or `Incomplete`.
    pub phase: Phase,
    /// Why it is incomplete.
    pub reason: Option<Reason>,
    /// For a person.
    pub message: String,
    /// Folder of the attempt, relative to the uri.
    pub folder: String,
    /// Whose archive that folder lies in.
    pub ownership: Ownership,
    /// What lies in it, manifest apart.
    pub objects: Vec<StoredObject>,
    /// Raw bytes.
    pub bytes_read: u64,
    /// Stored bytes.
    pub bytes_stored: u64,
    /// Files in the tar.
    pub files: Option<u64>,
    /// How much smaller it is than those before it, for a person, where that is more than the guard allows.
    pub shrunk: Option<String>,
    /// Said but not fatal.
    pub warnings: Vec<String>,
    /// Exit code of the command; of several pods that of one where it failed.
    pub exit_code: Option<i32>,
    /// Pod that was read, or the names of those that were, in order.
    pub pod: Option<String>,
    /// How far the content belongs to one moment.
    pub consistency: Consistency,
}

impl Report {
    /// What a manifest says, as it was stored in `folder`.
    pub fn of(folder: &ObjectKey, manifest: &Manifest, ownership: Ownership) -> Self {
        let reason = match manifest.outcome {
            Outcome::Complete => None,
            Outcome::Incomplete => {
                Some(manifest.reason.as_deref().and_then(Reason::parse).unwrap_or(Reason::SourceIncomplete))
            }
        };
        let bytes = format!("{} bytes read, {} bytes stored", manifest.raw.size, manifest.stored.size);
        let objects = manifest.objects().map(|Object { name, size, digest }| StoredObject {
            name: name.clone(),
            size: *size,
            digest: digest.clone(),
        });
        let pods = manifest.each().unwrap_or_default();
        let of_pods = pods.iter().flat_map(|pod| {
            let warnings = pod.data.iter().flat_map(|data| &data.warnings);
            warnings.map(|warning| format!("{}: {warning}", pod.name))
        });
        // The command's where it failed, before one where it did not.
        let failed = pods.iter().filter(|pod| pod.data.is_none()).find_map(|pod| pod.exit_code);
        let exit_code = failed.or(manifest.exit_code).or_else(|| pods.iter().find_map(|pod| pod.exit_code));
        Self {
            phase: if reason.is_none() { Phase::Succeeded } else { Phase::Incomplete },
            reason,
            message: cut(manifest.message.as_ref().unwrap_or(&bytes), Failure::MESSAGE_LIMIT).to_owned(),
            folder: folder.to_string(),
            ownership,
            objects: objects.collect(),
            bytes_read: manifest.raw.size,
            bytes_stored: manifest.stored.size,
            files: manifest.files,
            shrunk: manifest.shrunk.as_ref().map(|shrunk| shrunk_message(manifest.raw.size, shrunk)),
            warnings: manifest.warnings.iter().cloned().chain(of_pods).collect(),
            exit_code,
            pod: manifest.pod.as_ref().map(ToString::to_string),
            consistency: manifest.consistency,
        }
    }
}

/// What was found of an attempt whose process died.
#[derive(Clone, Debug)]
pub enum Recovered {
    /// A whole backup: the process died between the last look at it and the note of it.
    Whole(Box<Report>),
    /// No backup, and nothing of it is left; or what is, and why.
    Cleared(Option<String>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::manifest::tests::sample;

    #[test]
    fn what_a_manifest_says_is_cut_for_whoever_is_told() {
        let folder = ObjectKey::new("default/pg/pg-once-abcdef01-1").expect("a key");
        let manifest = Manifest { message: Some("ä".repeat(1_000_000)), ..sample() };
        let report = Report::of(&folder, &manifest, Ownership::Ours);
        assert_eq!(report.message, "ä".repeat(Failure::MESSAGE_LIMIT / 2));
    }
}
