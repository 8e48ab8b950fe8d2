//! **P** What is backed up: `spec.target`.

use super::schema::{path_rules, rules, texts, words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

words! {
    /// Kind of a target.
    TargetKind {
        /// One pod by name.
        Pod,
        /// Pods of a Deployment.
        Deployment,
        /// Pods of a StatefulSet.
        StatefulSet,
        /// Pods of a DaemonSet.
        DaemonSet,
        /// Pods of a ReplicaSet.
        ReplicaSet,
        /// A volume, whether or not a pod uses it.
        PersistentVolumeClaim | "PVC",
    }
}

words! {
    /// Which pods of a workload.
    PodChoice {
        /// The first Ready one.
        First,
        /// All of them, one archive per pod.
        Each,
    }
}

const TARGET_RULES: &[(&str, &str)] = &[
    ("!(self.kind in ['PersistentVolumeClaim', 'PVC']) || !has(self.container)", "container: a claim has no container"),
    (
        "!(self.kind in ['PersistentVolumeClaim', 'PVC', 'Pod']) || (!has(self.podSelector) && (!has(self.pods) || self.pods == 'First'))",
        "pods and podSelector choose among a workload's pods; a Pod or a claim has none to choose from",
    ),
];

/// What is backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(TARGET_RULES)))]
pub struct TargetSpec {
    /// Kind of what is backed up. `PVC` is the same as `PersistentVolumeClaim`. Example: `StatefulSet`.
    pub kind: TargetKind,
    /// Name of the workload, pod or claim. Example: `postgres`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the target. Default: the BackupJob's own. Another one is reached by exec only, with a RoleBinding
    /// there from ClusterRole `backup-target` to this namespace's ServiceAccount. Example: `databases`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Absolute path of a directory or file in the container, or inside the volume (default `/`) for a claim. Needed
    /// for `copy` and `snapshot` of a workload; a dump's command gets it as `UBO_TARGET_PATH`.
    /// Example: `/var/lib/postgresql/data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = path_rules()))]
    pub path: Option<String>,
    /// Name of the container. Default: the one that annotation `kubectl.kubernetes.io/default-container` of the pod
    /// names, else the first. Example: `postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Which pods of a workload: `First` (the first Ready one, by ordinal or age; the run's status says which it was)
    /// or `Each` (one archive per pod, at most 500 pods; a run that lacks one is `Incomplete`). Default: `First`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodChoice>,
    /// Narrows the pods of a workload by their labels: a replica instead of the primary, for instance. Default: no
    /// narrowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    /// For a copy: only what matches one of these patterns, written as in .gitignore. Default: everything.
    /// Example: `["*.sql", "/etc/"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub include: Vec<String>,
    /// For a copy: all but what matches one of these patterns, written as in .gitignore. Default: nothing is left out.
    /// Example: `["*.tmp", "/cache/"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub exclude: Vec<String>,
    /// Reserved: many targets from one object, by their labels. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
}

/// A label selector: all of `matchLabels` and all of `matchExpressions` must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// Labels that a pod must have, with their values. Example: `{role: replica}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<63>")]
    pub match_labels: BTreeMap<String, String>,
    /// Rules on labels. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<LabelRule>,
}

words! {
    /// How a label is compared.
    LabelOperator {
        /// The value is one of `values`.
        In,
        /// The label is absent, or its value is none of `values`.
        NotIn,
        /// The label is there.
        Exists,
        /// The label is not there.
        DoesNotExist,
    }
}

/// One rule on a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelRule {
    /// The label's key. Example: `role`.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared with `values`: `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`; none for the others. Example: `[replica]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}
