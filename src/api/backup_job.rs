//! **P** BackupJob: spec, status, CEL rules.

pub use super::destination::{DestinationSpec, DestinationType, NamedDestination};
pub use super::runner::{Place, Resources, RunnerSpec, Toleration};
pub use super::schema::Quantity;
pub use super::settings::{
    CompressionSpec, ConcurrencyPolicy, DeletionPolicy, EncryptionSpec, GuardSpec, MissedRuns, NotifyOn, NotifySpec,
    NotifyType, RetentionSpec, RetrySpec, VerifyDepth, VerifySpec,
};
pub use super::strategy::{Hook, OnChange, Output, StrategySpec, StrategyType, Via};
pub use super::target::{LabelOperator, LabelRule, PodChoice, PodSelector, TargetKind, TargetSpec};

use super::schema::{Moment, conditions, rules, schedule_rules, words};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const TIME_ZONE_RULES: &[(&str, &str)] =
    &[("self != ''", "must be an IANA name such as Europe/Berlin; leave it out for UTC")];

const ARCHIVE_NAME_RULES: &[(&str, &str)] = &[(
    r"!self.matches('^/|/$|//|(^|/)[.]{1,2}(/|$)')",
    "must be a relative path: segments parted by single slashes, none of them . or ..",
)];

const SPEC_RULES: &[(&str, &str)] = &[
    (
        "has(self.destination) != (has(self.destinations) && size(self.destinations) > 0)",
        "exactly one of destination and destinations is needed",
    ),
    (
        "(has(self.archiveName) ? self.archiveName : '') == (has(oldSelf.archiveName) ? oldSelf.archiveName : '')",
        "archiveName cannot be changed, set or removed: the backups lie there; make a new BackupJob instead",
    ),
    (
        "!(self.strategy.type in ['copy', 'snapshot']) || self.target.kind in ['PersistentVolumeClaim', 'PVC'] || has(self.target.path)",
        "target.path is needed for copy and snapshot of a workload",
    ),
    (
        "self.strategy.type != 'dump' || !(self.target.kind in ['PersistentVolumeClaim', 'PVC'])",
        "a dump runs in a container: target the pod or workload that uses the claim",
    ),
    (
        "self.strategy.type == 'copy' || ((!has(self.target.include) || size(self.target.include) == 0) && (!has(self.target.exclude) || size(self.target.exclude) == 0))",
        "target.include and target.exclude belong to strategy copy",
    ),
];

/// What to back up, how, where to and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "backup.javy.dev",
    version = "v1",
    kind = "BackupJob",
    plural = "backupjobs",
    namespaced,
    status = "BackupJobStatus",
    derive = "PartialEq",
    shortname = "bj",
    category = "backup",
    selectable = ".status.phase",
    printcolumn = r#"{"name": "Target", "type": "string", "jsonPath": ".status.target"}"#,
    printcolumn = r#"{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}"#,
    printcolumn = r#"{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}"#,
    printcolumn = r#"{"name": "Last success", "type": "date", "jsonPath": ".status.lastSuccessTime"}"#,
    printcolumn = r#"{"name": "Next run", "type": "string", "jsonPath": ".status.nextRunTime"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.lastSize"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Consistency", "type": "string", "jsonPath": ".status.consistency", "priority": 1}"#,
    printcolumn = r#"{"name": "Destination", "type": "string", "jsonPath": ".spec.destination.uri", "priority": 1}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(SPEC_RULES)))]
pub struct BackupJobSpec {
    /// What is backed up.
    pub target: TargetSpec,
    /// Where to. Exactly one of `destination` and `destinations` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationSpec>,
    /// Where to, if there are several places: the target is read once and streamed to all of them, each with a result of
    /// its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub destinations: Vec<NamedDestination>,
    /// Folder of this BackupJob's backups below the destination's uri. Cannot be changed. Default:
    /// `<namespace>/<name>`. Example: `production/postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), extend("x-kubernetes-validations" = rules(ARCHIVE_NAME_RULES)))]
    pub archive_name: Option<String>,
    /// How the target is read.
    pub strategy: StrategySpec,
    /// When: five-field cron as in a CronJob, `@daily` and friends, `@every 90m` (counted from the object's creation), or
    /// `H` in a field for a stable value of this object's own. Default: none, one run, once. Example: `0 2 * * *`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = schedule_rules()))]
    pub schedule: Option<String>,
    /// IANA name of the time zone that `schedule` is meant in. Default: `UTC`. Example: `Europe/Berlin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = rules(TIME_ZONE_RULES)))]
    pub time_zone: Option<String>,
    /// Seconds after its time within which a run may still start; later it is skipped. Default: no limit. Example: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub starting_deadline_seconds: Option<i64>,
    /// What is done when a run is due while an older one is at work: `Forbid` (the new one is skipped), `Allow` (both run)
    /// or `Replace` (the older one is cancelled). Default: `Forbid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_policy: Option<ConcurrencyPolicy>,
    /// While true, nothing is started by the schedule; what runs goes on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// What is done about runs that were missed while the operator was down: `RunLatest` (the latest one is made up for)
    /// or `Skip`. Default: `RunLatest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_runs: Option<MissedRuns>,
    /// Each run starts up to so many seconds after its time, by a stable hash of job and time; at most half the interval.
    /// Default: 0. Example: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub jitter_seconds: Option<u32>,
    /// Seconds after which a run is ended, all its attempts together. Default: 86400. Example: 7200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub active_deadline_seconds: Option<i64>,
    /// When an attempt that failed is followed by another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Which backups stay. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// What a backup must look like to be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardSpec>,
    /// How archives are compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// Encryption of archives, with age. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// Regular verification of what is stored. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,
    /// Who is told about runs. Default: nobody; Events and metrics are always there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub notify: Vec<NotifySpec>,
    /// The pod that is spawned next to the data, where one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerSpec>,
    /// ServiceAccount of the BackupJob's namespace whose rights are used. Default: `backup-runner`. Naming another one
    /// needs the right to impersonate it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// How many BackupRuns stay of those that the schedule started and that succeeded. Backups themselves are kept by
    /// `retention`. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub successful_runs_history_limit: Option<u32>,
    /// How many BackupRuns stay of those that the schedule started and that did not succeed. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub failed_runs_history_limit: Option<u32>,
    /// What becomes of the backups when the BackupJob alone is deleted: `Retain` or `Delete`. When its whole namespace
    /// goes, they always stay. Default: `Retain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

words! {
    /// Where a BackupJob stands: the first that holds, in the order of `product.md` section 2.
    JobPhase {
        /// Something has to be mended first; condition `Ready` says what.
        NotReady,
        /// A run is at work.
        Running,
        /// A run waits, or nothing was looked at yet.
        Pending,
        /// The schedule is suspended.
        Suspended,
        /// The last run succeeded.
        Succeeded,
        /// The last run failed at some destination.
        PartiallyStored,
        /// The last run could not read all.
        Incomplete,
        /// The last run failed.
        Failed,
        /// The last run was cancelled.
        Cancelled,
        /// No run yet.
        Scheduled,
    }
}

/// What is known of a BackupJob. Written by the operator alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupJobStatus {
    /// Where it stands, in one word: the first that holds of `NotReady`, `Running`, `Pending`, `Suspended`, the phase of
    /// the last finished run, `Scheduled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// When the last run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last_run_time: Option<Time>,
    /// What happened last, and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub message: Option<String>,
    /// Name of the last BackupRun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_job_name: Option<String>,
    /// Exit code of the command in the last run that ran one to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
    /// `Ready` (it can run), `Healthy` (its last run was good), `RetentionStopped` (old backups are not deleted).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// `metadata.generation` that this status was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Time of the latest tick that was dealt with: run, or skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last_schedule_time: Option<Time>,
    /// Since when ticks count, and for which schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_anchor: Option<ScheduleAnchor>,
    /// When the next run is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub next_run_time: Option<Time>,
    /// When the last run that succeeded started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last_success_time: Option<Time>,
    /// Name of the last BackupRun that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_successful_run: Option<String>,
    /// How many runs in a row did not succeed; cancelled ones apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<i64>,
    /// How many ticks were skipped, ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_runs: Option<i64>,
    /// What is backed up, in short. Example: `StatefulSet/postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub target: Option<String>,
    /// Size of the last backup as it is stored, for people. Example: `1.2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub last_size: Option<String>,
    /// How far the last backup's content belongs to one moment: `Snapshot`, `Command`, `Quiesced` or `Live`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub consistency: Option<String>,
    /// What lies at each destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub backups: Vec<BackupsAt>,
}

/// Since when ticks count, and for which values: an edit that was made while the operator was down is seen by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleAnchor {
    /// Ticks after this time count.
    #[schemars(with = "Moment")]
    pub time: Time,
    /// `spec.schedule` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub schedule: Option<String>,
    /// `spec.timeZone` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// `spec.suspend` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// What lies at one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupsAt {
    /// Name of the destination; `default` for the single form.
    #[schemars(length(max = 20))]
    pub name: String,
    /// How many backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Start of the oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub oldest: Option<Time>,
    /// Start of the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub newest: Option<Time>,
    /// Size of all of them together, in bytes as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<i64>,
}
