//! **P** The smaller parts of a BackupJob's spec: retry, retention, guard, compression, encryption, verification,
//! notification.

use super::schema::{Quantity, rules, schedule_rules, words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

words! {
    /// What a tick means while a run of the same BackupJob is at work.
    ConcurrencyPolicy {
        /// The tick is skipped.
        Forbid,
        /// Both run.
        Allow,
        /// The older run is cancelled.
        Replace,
    }
}

words! {
    /// What ticks mean that passed while nobody could act on them.
    MissedRuns {
        /// The latest is made up for.
        RunLatest,
        /// None is made up for.
        Skip,
    }
}

words! {
    /// What becomes of the backups when the BackupJob is deleted.
    DeletionPolicy {
        /// They stay.
        Retain,
        /// They are deleted.
        Delete,
    }
}

/// When an attempt that failed is followed by another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Attempts after the first. Only failures that may pass by themselves are tried again. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub limit: Option<u32>,
    /// Seconds before the second attempt; doubled before each further one, at most 600. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 600))]
    pub backoff_seconds: Option<u32>,
}

const RETENTION_RULES: &[(&str, &str)] = &[(
    "has(self.keepWithin) || (has(self.keepLast) && self.keepLast > 0) || (has(self.keepHourly) && self.keepHourly > 0) || (has(self.keepDaily) && self.keepDaily > 0) || (has(self.keepWeekly) && self.keepWeekly > 0) || (has(self.keepMonthly) && self.keepMonthly > 0) || (has(self.keepYearly) && self.keepYearly > 0)",
    "a retention that keeps nothing would delete every backup: set at least one keep rule, or leave retention out to keep everything",
)];

/// Which backups stay. A backup stays if any of the rules keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(RETENTION_RULES)))]
pub struct RetentionSpec {
    /// How many of the latest backups stay. Default: 0, this rule keeps none. Example: 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_last: Option<u32>,
    /// For how many of the latest hours that have a backup the last one of the hour stays. Default: 0. Example: 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_hourly: Option<u32>,
    /// For how many of the latest days that have a backup the last one of the day stays. Default: 0. Example: 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_daily: Option<u32>,
    /// For how many of the latest weeks that have a backup the last one of the week stays. Default: 0. Example: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_weekly: Option<u32>,
    /// For how many of the latest months that have a backup the last one of the month stays. Default: 0. Example: 12.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_monthly: Option<u32>,
    /// For how many of the latest years that have a backup the last one of the year stays. Default: 0. Example: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub keep_yearly: Option<u32>,
    /// Every backup younger than this stays: a whole number with `h`, `d`, `w`, `m` (months) or `y`. Default: none.
    /// Example: `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 8), regex(pattern = r"^[1-9][0-9]*[hdwmy]$"))]
    pub keep_within: Option<String>,
    /// Name of a Secret in the BackupJob's namespace with other credentials, used for deletion only, so that the ones for
    /// writing need no right to delete. Default: the destination's `secretRef`. Example: `s3-prune-credentials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_ref: Option<String>,
}

/// What a backup must look like to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardSpec {
    /// Least size of a good backup, in bytes before compression; a smaller one fails. Default: none. Example: `10Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_size: Option<Quantity>,
    /// By how many percent a backup may be smaller than the median of the last five. One that shrank more is kept and
    /// flagged, and stops the deletion of older ones until somebody accepts it. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub maximum_shrink_percent: Option<u32>,
    /// For a dump into a directory: above this size the command is ended, before the kubelet evicts the pod. Default:
    /// `4Gi`, none where a volume is mounted there. Example: `20Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_staged_size: Option<Quantity>,
    /// An empty backup is a success. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// A copy of a running database's files, which will not start after a restore, is a success. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_live_database: Option<bool>,
}

/// How archives are compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompressionSpec {
    /// zstd level. Higher is smaller and slower. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 19))]
    pub level: Option<i32>,
}

const ENCRYPTION_RULES: &[(&str, &str)] = &[
    (
        "has(self.recipients) && size(self.recipients) > 0",
        "recipients is needed; leave encryption out for archives that are not encrypted",
    ),
    // The letters are those of Bech32; its checksum is looked at by the operator. What does not hold is never stored, so
    // that a private key which was pasted here by mistake does not stay.
    (
        "!has(self.recipients) || self.recipients.all(r, r.matches('^age1[02-9ac-hj-np-z]{58}$'))",
        "recipients are age public keys: age1 and 58 letters and digits, as age-keygen prints them. A private key must never stand here",
    ),
];

/// Recipients of one archive. Each adds some 100 bytes to its header, of which 4 KiB are read when it is decrypted.
pub const RECIPIENTS_LIMIT: usize = 16;

/// Encryption of archives, with age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(ENCRYPTION_RULES)))]
pub struct EncryptionSpec {
    /// age public keys; the holder of any of their private keys can read the archive. Default: none, no encryption.
    /// Example: `["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RECIPIENTS_LIMIT), inner(length(min = 1, max = 128)))]
    pub recipients: Vec<String>,
    /// Name of a Secret in the BackupJob's namespace with an age private key; only if verification and restores on demand
    /// shall decrypt. Default: none. Example: `backup-identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub identity_secret_ref: Option<String>,
}

words! {
    /// How deep stored backups are verified.
    VerifyDepth {
        /// Manifests, and the sizes of what they list.
        Manifest,
        /// Everything is read back and its digests are checked.
        Data,
    }
}

/// Regular verification of what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifySpec {
    /// When: a schedule as in `spec.schedule`. Default: never. Example: `0 6 * * 0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-validations" = schedule_rules()))]
    pub schedule: Option<String>,
    /// How deep: `Manifest` (manifests and sizes) or `Data` (everything is read back and its digests are checked).
    /// Default: `Manifest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<VerifyDepth>,
    /// Reserved: a rehearsed restore. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::any_object")]
    pub restore: Option<serde_json::Value>,
}

words! {
    /// Where a notification goes.
    NotifyType {
        /// A JSON document by HTTP POST.
        Webhook,
        /// A Slack message.
        Slack,
    }
}

words! {
    /// What is notified.
    NotifyOn {
        /// A run that did not succeed.
        Failure,
        /// The first run that succeeded again.
        Recovery,
        /// Every run.
        Always,
    }
}

/// Somebody who is told about runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotifySpec {
    /// Name of this entry, unlike the others'. Example: `on-call`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Where it goes: `Webhook` (JSON by HTTP POST) or `Slack`.
    #[serde(rename = "type")]
    pub kind: NotifyType,
    /// What is notified: `Failure`, `Recovery` (the first success after a failure), `Always`. Default: `[Failure, Recovery]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub on: Vec<NotifyOn>,
    /// Name of a Secret in the BackupJob's namespace; its key `url` is the address. Example: `slack-webhook`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_ref: String,
}
