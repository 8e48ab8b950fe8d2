//! **P** The pod that is spawned next to the data: `spec.runner`.

use super::schema::{Quantity, any_object, texts, words};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

words! {
    /// Where the work is done.
    Place {
        /// In the operator where the bytes come by exec, else in a runner pod.
        Auto,
        /// In a runner pod always.
        Pod,
    }
}

/// The pod that is spawned next to the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerSpec {
    /// Where the work is done: `Auto` (in the operator where the bytes come by exec, else in a runner pod) or `Pod` (in a
    /// runner pod always). Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What the runner asks of its node. Default: requests 50m CPU and 64Mi memory, limit 256Mi memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels that the runner's node must have. Default: none. Example: `{disk: ssd}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<63>")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity of the runner, as in a pod (`kubectl explain pod.spec.affinity`). Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Value>,
    /// Taints that the runner tolerates. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Security context of the runner's pod (`kubectl explain pod.spec.securityContext`). Default: what the `restricted`
    /// pod security level demands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub security_context: Option<Value>,
    /// Labels of the runner's pod. Default: none but the operator's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<63>")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the runner's pod. Default: the ones that switch service-mesh injection off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<4096>")]
    pub annotations: BTreeMap<String, String>,
    /// Names of Secrets with credentials for the image's registry. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Vec<String>,
    /// PriorityClass of the runner's pod. Default: the cluster's. Example: `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// RuntimeClass of the runner's pod. Default: the cluster's. Example: `gvisor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Image of the runner. Default: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
}

/// What a pod asks of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside for it. Example: `{cpu: 50m, memory: 64Mi}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most. Example: `{memory: 256Mi}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, Quantity>,
}

/// A taint that is tolerated, as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint. Default: every key. Example: `dedicated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// `Equal` (the value must be `value`) or `Exists`. Default: `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, for `Equal`. Example: `backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint. Default: every effect. Example: `NoSchedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For `NoExecute`: seconds that it is tolerated. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

words! {
    /// How a taint's value is compared.
    TolerationOperator {
        /// It is `value`.
        Equal,
        /// It is anything.
        Exists,
    }
}

words! {
    /// What a taint does.
    TaintEffect {
        /// No new pods.
        NoSchedule,
        /// Rather no new pods.
        PreferNoSchedule,
        /// Running pods are evicted.
        NoExecute,
    }
}
