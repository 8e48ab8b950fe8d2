//! **P** BackupRun: spec and status.

use super::backup_job::BackupJobSpec;
use super::schema::{Moment, any_object, conditions, rules};
use crate::run::Phase;
use crate::source::Consistency;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SPEC_RULES: &[(&str, &str)] = &[(
    "self.backupJobName == oldSelf.backupJobName && has(self.scheduledAt) == has(oldSelf.scheduledAt) && (!has(self.scheduledAt) || self.scheduledAt == oldSelf.scheduledAt)",
    "a run cannot be changed, except for cancel; make a new BackupRun instead",
)];

/// One run of a BackupJob. It says which job, and nothing else: whoever may create a run must not be able to say what
/// it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "backup.javy.dev",
    version = "v1",
    kind = "BackupRun",
    plural = "backupruns",
    namespaced,
    status = "BackupRunStatus",
    derive = "PartialEq",
    shortname = "br",
    category = "backup",
    selectable = ".spec.backupJobName",
    selectable = ".status.phase",
    printcolumn = r#"{"name": "Job", "type": "string", "jsonPath": ".spec.backupJobName"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.reason"}"#,
    printcolumn = r#"{"name": "Started", "type": "date", "jsonPath": ".status.startTime"}"#,
    printcolumn = r#"{"name": "Duration", "type": "string", "jsonPath": ".status.duration"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.size"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(SPEC_RULES)))]
pub struct BackupRunSpec {
    /// Name of the BackupJob, in the same namespace. Example: `postgres-daily-backup`.
    #[schemars(
        length(min = 1, max = 49),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub backup_job_name: String,
    /// The time that this run was scheduled for. Set by the operator only; absent for a run that was asked for by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub scheduled_at: Option<Time>,
    /// Set to true to stop the run. The one field that can be changed. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

/// What is known of a run. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRunStatus {
    /// Where it stands: `Pending`, `Running`, or one of the final `Succeeded`, `PartiallyStored`, `Incomplete`, `Failed`,
    /// `Cancelled`.
    #[serde(default)]
    pub phase: Phase,
    /// Why, in one word out of a closed set. Example: `CommandFailed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What happened, and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,
    /// `Complete` (nothing will change any more) and `Succeeded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The BackupJob's spec as it stood when the run began; this is what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub spec: Option<BackupJobSpec>,
    /// Place in the queue, counted from 1, while the run waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<i64>,
    /// Which process of the operator executes it: pod name and five random letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub executor: Option<String>,
    /// Every attempt, in order. Of those that found one after the other that they had to wait (`BackupDirectoryBusy`) only
    /// the last one stays, and those that left something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub attempts: Vec<AttemptStatus>,
    /// When the first attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub start_time: Option<Time>,
    /// When the run became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub completion_time: Option<Time>,
    /// How long it took, for people. Example: `3m12s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub duration: Option<String>,
    /// Exit code of the command, where one ran to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Pod that was read; with `pods: Each` all that were, in order, or as many of their names as there is room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// How far the content belongs to one moment: `Snapshot`, `Command`, `Quiesced` or `Live`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Bytes read from the target so far, before compression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_read: Option<i64>,
    /// Bytes stored so far, at each destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_stored: Option<i64>,
    /// Size of the backup as it is stored, for people. Example: `1.2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// Files in the backup, where it is an archive of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<i64>,
    /// How much smaller the backup is than those before it, where that is more than `guard.maximumShrinkPercent`. It is
    /// kept; `kubectl backup accept` says that it is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub shrunk: Option<String>,
    /// Things worth knowing that did not spoil the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "atomic"))]
    pub warnings: Vec<String>,
    /// The result at each destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub destinations: Vec<DestinationStatus>,
}

/// One attempt. It is counted before its work starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptStatus {
    /// Counted from 1; no number is used again.
    pub number: u32,
    /// Which process of the operator executed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub executor: Option<String>,
    /// Why it did not succeed, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What of it could not be removed from the destination. Before the next attempt that is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub left: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub completion_time: Option<Time>,
}

/// The result at one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Name of the destination; `default` for the single form.
    #[schemars(length(max = 20))]
    pub name: String,
    /// Where it stands, in the words of the run's phase.
    #[serde(default)]
    pub phase: Phase,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// Folder of the attempt below the destination's uri.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub folder: Option<String>,
    /// Whose archive it is, where it is not this BackupJob's: cluster id and job UID, as they stand in `owner.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub foreign_owner: Option<String>,
    /// What lies in it, manifest apart; at most 1,000 objects, the manifest names all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub objects: Vec<ObjectStatus>,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// Name below the folder: `dump.zst`, or `web-0/dump.zst` where each pod has a folder of its own.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Size in bytes.
    pub size: i64,
    /// BLAKE3 of the stored bytes, in hex.
    #[schemars(length(max = 128))]
    pub digest: String,
}
