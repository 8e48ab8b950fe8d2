//! **P** The documents of a backup: `manifest.json`, `owner.json`, `started.json`.
//!
//! Readers ignore fields that they do not know, and refuse a higher format version. A field is never given another meaning;
//! what changes meaning is a new version: [`FORMAT_VERSION`] is a backup of one pod, [`EACH_FORMAT_VERSION`] one of each pod
//! of a workload (see [`pods`]). Every document is written in the lowest version that can say it.

use crate::api::names::{JobRef, Uid};
use crate::archive::Measure;
use crate::error::{Failure, Reason};
use crate::source::{Consistency, Content};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod pods;

pub use pods::Pods;

/// The version of all documents but one.
pub const FORMAT_VERSION: u32 = 1;
/// The version of a manifest over several pods, and the highest that is read.
pub const EACH_FORMAT_VERSION: u32 = 2;
/// Largest document that is read, in bytes. 100 warnings and thousands of segments fit.
pub const DOCUMENT_LIMIT: usize = 4 * 1024 * 1024;

/// Whose folder it is; the same fields stand in all three documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// UID of the kube-system namespace; on the command line one derived from the folder.
    pub cluster_id: String,
    /// The BackupJob's namespace.
    pub namespace: String,
    /// The BackupJob's name.
    pub job: String,
    /// The BackupJob's UID.
    pub job_uid: String,
}

impl Owner {
    /// What names it beyond doubt, and what the annotation `backup.javy.dev/adopt` says: `<cluster id>/<job UID>`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.cluster_id, self.job_uid)
    }

    /// Whether `other` is a BackupJob of the same name in the same cluster; it may have been deleted and made again since.
    pub fn is_same_job(&self, other: &Self) -> bool {
        (&self.cluster_id, &self.namespace, &self.job) == (&other.cluster_id, &other.namespace, &other.job)
    }

    /// Whether it can be the name of a BackupJob. Whoever may write to a destination can write anything there, and what
    /// stands here is shown and compared.
    fn check(&self) -> Result<(), String> {
        let is_uid = |text: &String| Uid::new(text.as_str()).is_ok();
        if is_uid(&self.cluster_id) && is_uid(&self.job_uid) && JobRef::new(&self.namespace, &self.job).is_ok() {
            Ok(())
        } else {
            Err("names no BackupJob and its cluster, so whose it is is not known".into())
        }
    }
}

/// `owner.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerDocument {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose folder.
    #[serde(flatten)]
    pub owner: Owner,
}

/// `started.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartedDocument {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose folder.
    #[serde(flatten)]
    pub owner: Owner,
    /// The BackupRun.
    pub run: String,
    /// Its UID.
    pub run_uid: String,
    /// Counted from 1.
    pub attempt: u32,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// Version of the writer.
    pub operator_version: String,
}

/// What a backup is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The source was whole.
    Complete,
    /// It was not; `reason` says why.
    Incomplete,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// File name below the backup's folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the stored bytes, in hex.
    pub digest: String,
}

/// Size and digest of all bytes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// Bytes.
    pub size: u64,
    /// BLAKE3, in hex.
    pub digest: String,
}

impl From<Measure> for Sum {
    fn from(measure: Measure) -> Self {
        Self { size: measure.size, digest: measure.digest }
    }
}

impl Sum {
    /// Whether these are the same bytes.
    pub fn is(&self, measure: &Measure) -> bool {
        self.size == measure.size && self.digest == measure.digest
    }
}

/// How the data was compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// `zstd-seekable`.
    pub format: String,
    /// zstd level.
    pub level: i32,
    /// Raw bytes in a frame.
    pub frame_size: u64,
}

/// How much smaller a backup is than those before it, where that is more than `guard.maximumShrinkPercent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shrunk {
    /// By so many percent of the median, cut off.
    pub percent: u32,
    /// Raw bytes: the median of the backups that it was compared with.
    pub median: u64,
    /// How many those were.
    pub of: u32,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT_VERSION`] or [`EACH_FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose backup.
    #[serde(flatten)]
    pub owner: Owner,
    /// The BackupRun.
    pub run: String,
    /// Its UID.
    pub run_uid: String,
    /// Counted from 1.
    pub attempt: u32,
    /// Whether the source was whole.
    pub outcome: Outcome,
    /// Why it was not, out of the closed set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The nominal tick, for a scheduled run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// When everything but this document was stored.
    pub completed_at: DateTime<Utc>,
    /// What was backed up: kind, name, namespace, path, container.
    pub target: Value,
    /// The pod that was read, or a list of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pods>,
    /// The container in it, where it is one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `dump`, `copy`, …
    pub strategy: String,
    /// Exit code of the command, where it is one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What the raw bytes are.
    pub content: Content,
    /// How far they belong to one moment.
    pub consistency: Consistency,
    /// How they are stored.
    pub compression: Compression,
    /// age recipients (public keys) that data and log are encrypted for; none: they are not encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encryption_recipients: Vec<String>,
    /// All raw bytes; of several pods [`pods::together`].
    pub raw: Sum,
    /// All stored bytes of the data, segments put together; of several pods [`pods::together`].
    pub stored: Sum,
    /// It is much smaller than those before it, and nobody had said that this is right when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk: Option<Shrunk>,
    /// Regular files in the tar, or in all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// The data, in order: `cat` of them is the archive. Of several pods each has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<Object>,
    /// `log.txt` or `log.txt.age`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Object>,
    /// Said but not fatal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Version of the writer.
    pub operator_version: String,
}

impl Manifest {
    /// Every object that it names.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.parts().into_iter().flat_map(|part| part.segments.iter().chain(part.log))
    }
}

/// Only the version, to judge before the rest is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u32,
}

/// A document as it is stored: JSON that a person can read, with a newline at its end.
pub fn to_bytes<T: Serialize>(document: &T) -> Result<Bytes, Failure> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|e| Failure::new(Reason::Internal, format!("a document cannot be written: {e}. Please report it")))?;
    text.push(b'\n');
    Ok(text.into())
}

/// A document of ours, as it is read.
pub trait Document: DeserializeOwned {
    /// The highest version that is read.
    const HIGHEST_VERSION: u32;

    /// Whether it agrees with itself; what does not, for a message.
    fn agrees(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Document for OwnerDocument {
    const HIGHEST_VERSION: u32 = FORMAT_VERSION;

    fn agrees(&self) -> Result<(), String> {
        self.owner.check()
    }
}

impl Document for StartedDocument {
    const HIGHEST_VERSION: u32 = FORMAT_VERSION;
}

impl Document for Manifest {
    const HIGHEST_VERSION: u32 = EACH_FORMAT_VERSION;

    fn agrees(&self) -> Result<(), String> {
        self.check()
    }
}

/// Reads a document; `name` is for the message.
pub fn parse<T: Document>(name: &str, bytes: &[u8]) -> Result<T, Failure> {
    let damaged = |what: String| Failure::new(Reason::BackupDamaged, format!("{name} {what}"));
    let unreadable = |e: serde_json::Error| damaged(format!("cannot be read as what it should be (line {})", e.line()));
    let Version { format_version } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if format_version > T::HIGHEST_VERSION {
        let message = format!(
            "{name} has format version {format_version}; this version of ubo reads up to {}. Use a newer ubo",
            T::HIGHEST_VERSION
        );
        return Err(Failure::new(Reason::NotSupported, message));
    }
    if format_version == 0 {
        return Err(damaged("has format version 0".into()));
    }
    let document: T = serde_json::from_slice(bytes).map_err(unreadable)?;
    document.agrees().map_err(damaged)?;
    Ok(document)
}

#[cfg(test)]
pub(crate) mod tests;
