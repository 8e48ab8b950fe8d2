//! **P** How a target is read: `spec.strategy`.

use super::schema::{path_rules, rules, words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

words! {
    /// How a target is read.
    #[allow(non_camel_case_types, reason = "the words of the API are lower-case")]
    StrategyType {
        /// A command in the target's container writes the backup.
        dump,
        /// A tar of `target.path`.
        copy,
        /// A CSI snapshot of the volume behind `target.path`.
        snapshot,
        /// A command in a pod of one's own image.
        custom,
    }
}

words! {
    /// Where a dump's bytes come from.
    Output {
        /// Decided by the command's text.
        Auto,
        /// Standard output is the backup.
        Stdout,
        /// What the command leaves in `directory` is the backup.
        Directory,
    }
}

words! {
    /// How a copy reads files.
    Via {
        /// Volume for a claim; exec for a pod that has `tar` and `sh`, else volume.
        Auto,
        /// The container's own `tar`.
        Exec,
        /// A pod next to the target that mounts the claim.
        Volume,
    }
}

words! {
    /// What files mean that changed while they were read.
    OnChange {
        /// They are counted as warnings.
        Warn,
        /// They make the backup Incomplete.
        Fail,
    }
}

const STRATEGY_RULES: &[(&str, &str)] = &[
    ("!(self.type in ['dump', 'custom']) || has(self.command)", "command is needed with type dump and custom"),
    ("self.type in ['dump', 'custom'] || !has(self.command)", "command belongs to type dump and custom"),
    (
        "self.type == 'dump' || ((!has(self.output) || self.output == 'Auto') && !has(self.directory) && (!has(self.allowUncheckedPipes) || !self.allowUncheckedPipes))",
        "output, directory and allowUncheckedPipes belong to type dump",
    ),
    ("self.type == 'custom' || !has(self.image)", "image belongs to type custom"),
    (
        "self.type == 'copy' || ((!has(self.via) || self.via == 'Auto') && (!has(self.onChange) || self.onChange == 'Warn'))",
        "via and onChange belong to type copy",
    ),
];

/// How a target is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(STRATEGY_RULES)))]
pub struct StrategySpec {
    /// `dump` (a command in the target's container writes the backup), `copy` (a tar of `target.path`), `snapshot` (a CSI
    /// snapshot of the volume behind it) or `custom` (a command in a pod of `image`).
    #[serde(rename = "type")]
    pub kind: StrategyType,
    /// Shell text that makes the backup; for `dump` (needed) and `custom`. It ends with the first part that fails (`set -e`),
    /// and a pipe is refused where the container's shell cannot tell whether its first part failed. Example: `pg_dumpall`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub command: Option<String>,
    /// For a dump, what the backup is: `Stdout` (recommended: streamed, nothing on the container's disk), `Directory` (what
    /// the command leaves in `directory`) or `Auto` (`Directory` if the command's text names the directory as a whole path
    /// or `UBO_BACKUP_DIR`, else `Stdout`). Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// For a dump with `output: Directory`: absolute path of the directory that the command fills. It must be absent or
    /// empty before, and is emptied afterwards. Default: `/backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1024), extend("x-kubernetes-validations" = path_rules()))]
    pub directory: Option<String>,
    /// For `custom`: image of the pod that runs `command`. Default: none, the command runs in the target's container.
    /// Example: `registry.example.com/my-dump:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Runs first, in the target's container. If it fails, the run fails. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Hook>,
    /// Runs last, in the target's container, whatever happened before. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Hook>,
    /// For a copy, how files are read: `Exec` (the container's own `tar`), `Volume` (a pod next to the target mounts its
    /// claim) or `Auto`. Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// For a dump: accept a command with a pipe although no shell of the container can tell whether the pipe's first part
    /// failed, and so a cut-off dump may pass as a whole one. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_unchecked_pipes: Option<bool>,
    /// For a copy, what files mean that changed or vanished while they were read: `Warn` counts them, `Fail` makes the
    /// backup Incomplete. Default: `Warn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

/// A command around the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// Shell text. Example: `redis-cli bgsave`.
    #[schemars(length(min = 1, max = 32768))]
    pub command: String,
    /// Seconds after which it is ended and counts as failed. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
}
