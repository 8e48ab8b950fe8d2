//! **P** BackupJob to [`ValidatedJob`]: parse once, all errors at once, each with its field path.
//!
//! `read` takes the document apart, every struct without `..`, so that a new field cannot be forgotten; `later` names
//! what is not implemented; `timing` says how ticks are taken; `strategy`, `options`, `dump_form` and `quantity` read the
//! parts; `problems` collects. What
//! the schema's CEL rules say is said here again: an object may be older than the schema, and the command line has none.

use crate::api::backup_job::BackupJob;
use crate::api::names::{JobRef, Namespace, ObjectKey, Uid};
use crate::archive::encrypt::Recipient;
use crate::destination::address::Address;
use crate::schedule::cron::Schedule;
use chrono::{DateTime, Utc};
use kube::core::Selector;
use std::collections::BTreeMap;
use std::time::Duration;

mod dump_form;
mod later;
mod options;
mod pod_selector;
mod problems;
mod quantity;
mod read;
mod settings;
mod strategy;
#[cfg(test)]
mod tests;
mod timing;
mod work;

pub use dump_form::dump_form;
pub use options::word;
pub use problems::Invalid;
pub use quantity::bytes as quantity_in_bytes;
pub use read::{ACTIVE_DEADLINE, is_object_name};
pub use strategy::COMMANDS_LIMIT;
pub use timing::{Concurrency, Timing};
pub use work::{Copy, Dump, DumpForm, Hook, Hooks, Work};

/// Default of `strategy.directory`.
pub const DEFAULT_DIRECTORY: &str = "/backup";
/// Default of `serviceAccountName`.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "backup-runner";
/// Options that an s3 destination honours.
pub const S3_OPTIONS: [&str; 4] = ["endpoint", "region", "caBundle", "storageClass"];

/// Reads a BackupJob. Either everything in it holds and is implemented, or the error names every field that is wrong or
/// not implemented.
///
/// The object must come from an API server: with namespace, UID and creation time.
pub fn validate(job: &BackupJob) -> Result<ValidatedJob, Invalid> {
    read::job(job)
}

/// Workloads that a dump can run in, in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// One pod by name.
    Pod,
    /// First Ready pod by ordinal.
    StatefulSet,
    /// First Ready pod by age, those of the newest ReplicaSet before others.
    Deployment,
    /// First Ready pod by age.
    DaemonSet,
    /// First Ready pod by age.
    ReplicaSet,
}

impl WorkloadKind {
    /// The kind, as it is written in `target.kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
        }
    }
}

/// Which pods of a workload are backed up in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// The first Ready one.
    First,
    /// All of them, each with an archive of its own.
    Each,
}

/// What is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Kind of workload.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Path inside the container, without a trailing slash; given to a dump as `UBO_TARGET_PATH`.
    pub path: Option<String>,
    /// Container by name; `None`: the default-container annotation, else the first.
    pub container: Option<String>,
    /// Which of a workload's pods.
    pub pods: Pods,
    /// What a workload's pods must have to be chosen; without a rule, all of them.
    pub pod_selector: Selector,
}

/// Where to, before its Secret has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPlan {
    /// From `uri`.
    pub address: Address,
    /// From `options`, known keys only.
    pub options: BTreeMap<String, String>,
    /// Secret in the job's namespace.
    pub secret: Option<String>,
    /// Bytes per second that are uploaded at most.
    pub bandwidth_limit: Option<u64>,
}

/// A BackupJob that holds. Only what this version implements can be in it.
#[derive(Clone, Debug)]
pub struct ValidatedJob {
    /// Namespace and name.
    pub job: JobRef,
    /// UID.
    pub uid: Uid,
    /// When the object was created: origin of `@every`, first anchor.
    pub created: DateTime<Utc>,
    /// `None`: one run, once per object.
    pub schedule: Option<Schedule>,
    /// No ticks while set.
    pub suspend: bool,
    /// How ticks are taken.
    pub timing: Timing,
    /// What is backed up.
    pub target: Target,
    /// How.
    pub work: Work,
    /// What runs before and after.
    pub hooks: Hooks,
    /// Where to.
    pub destination: DestinationPlan,
    /// Folder below the uri.
    pub archive: ObjectKey,
    /// The owner whose archive is to be taken over: `<cluster id>/<job UID>`.
    pub adopt: Option<String>,
    /// Longest time for a run, all its attempts together.
    pub active_deadline: Duration,
    /// Attempts after the first.
    pub retry_limit: u32,
    /// Wait before the second attempt; doubled each time, at most 600 s.
    pub retry_backoff: Duration,
    /// ServiceAccount whose rights are used.
    pub service_account: String,
    /// zstd level.
    pub compression_level: i32,
    /// Who can read the backups; none: they are not encrypted.
    pub recipients: Vec<Recipient>,
    /// An empty backup is a success.
    pub allow_empty: bool,
    /// Least raw size in bytes of a good backup.
    pub minimum_size: Option<u64>,
    /// By how many percent a backup may be smaller than those before it without being flagged.
    pub maximum_shrink_percent: u32,
    /// Name of the run whose smaller backup somebody has accepted (an annotation).
    pub accepted: Option<String>,
    /// Limit of a dump's directory in bytes, where one was said.
    pub maximum_staged_size: Option<u64>,
    /// How many succeeded scheduled BackupRuns stay.
    pub keep_successful: u32,
    /// How many others stay.
    pub keep_failed: u32,
}
