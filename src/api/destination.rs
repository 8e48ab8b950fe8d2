//! **P** Where backups are kept: `spec.destination` and `spec.destinations`.

use super::schema::{Quantity, rules, texts, words};
use super::settings::RetentionSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

words! {
    /// Type of a destination.
    #[allow(non_camel_case_types, reason = "the words of the API are lower-case")]
    DestinationType {
        /// S3 and what speaks its protocol.
        s3,
        /// Google Cloud Storage.
        gcs,
        /// Azure Blob Storage.
        azure,
        /// A git repository.
        git,
        /// An NFS export.
        nfs,
        /// A PersistentVolumeClaim.
        local,
        /// A command of the user's.
        custom,
    }
}

const DESTINATION_RULES: &[(&str, &str)] = &[
    ("self.type == 'custom' || has(self.uri)", "uri is needed"),
    ("self.type != 'custom' || has(self.command)", "command is needed with type custom"),
    (
        "self.type == 'custom' || !(has(self.image) || has(self.command) || has(self.listCommand) || has(self.readCommand) || has(self.deleteCommand))",
        "image, command, listCommand, readCommand and deleteCommand belong to type custom",
    ),
    (
        "!has(self.uri) || self.type == 'custom' || self.uri.matches(self.type == 's3' ? '^s3://' : self.type == 'gcs' ? '^gs://' : self.type == 'azure' ? '^az://' : self.type == 'nfs' ? '^nfs://' : self.type == 'local' ? '^pvc://' : '^(ssh://|https://|[A-Za-z0-9._-]+@[^/:]+:)')",
        "type and uri must agree: s3 s3://bucket/prefix, gcs gs://bucket/prefix, azure az://container/prefix, nfs nfs://server/path, local pvc://claim/path, git git@host:org/repo.git or ssh:// or https://",
    ),
    (
        "!has(self.uri) || !self.uri.matches(self.type == 'git' ? '^(https://[^/]*@|ssh://[^/@]*:[^/]*@)' : '^[^/]*//[^/]*@')",
        "uri must not hold a user or password: they belong into the Secret that secretRef names",
    ),
    (
        "!has(self.uri) || !self.uri.matches('[?#]')",
        "uri must not hold a query or a fragment: settings belong into options",
    ),
    (r"!has(self.uri) || !self.uri.matches('(^|/)[.][.](/|$)')", "uri must not have a segment .."),
];

/// Where backups are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(DESTINATION_RULES)))]
pub struct DestinationSpec {
    /// Type of the destination; the scheme of `uri` must agree. Example: `s3`.
    #[serde(rename = "type")]
    pub kind: DestinationType,
    /// Where it is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `git@host:org/repo.git` (or
    /// `ssh://…`, `https://….git`), `nfs://server/export/path`, `pvc://claim/path`. No user, password or query in it.
    /// Example: `s3://my-bucket/backups/postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub uri: Option<String>,
    /// Name of a Secret in the BackupJob's namespace that holds the credentials. Its keys are the environment names of
    /// each ecosystem: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for short-lived ones, `AWS_SESSION_TOKEN`.
    /// Example: `s3-credentials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_ref: Option<String>,
    /// Settings that are no secret; for s3: `endpoint`, `region`, `caBundle` (PEM text), `storageClass`. An unknown key is
    /// refused by name. `endpoint` and `region` may also stand in the Secret (`AWS_ENDPOINT_URL`, `AWS_REGION`); the
    /// option goes first. Example: `{endpoint: "https://minio.example.com", region: us-east-1}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<65536>")]
    pub options: BTreeMap<String, String>,
    /// At most this many bytes per second. Default: no limit. Example: `50Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Quantity>,
    /// For type `custom`: image of the pod that stores the archive. Example: `registry.example.com/tape:1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// For type `custom`: gets the archive on standard input; its exit code 0 is the commit. Example: `tape-put`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub command: Option<String>,
    /// For type `custom`: prints what is stored, one key and size a line. Default: none, and the backups are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub list_command: Option<String>,
    /// For type `custom`: prints one object to standard output. Default: none, and nothing is read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub read_command: Option<String>,
    /// For type `custom`: removes one object. Default: none, and `retention` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub delete_command: Option<String>,
}

/// One of several destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(DESTINATION_RULES)))]
pub struct NamedDestination {
    /// Name of this destination, unlike the others'; at most 20 characters. The single form is called `default`.
    /// Example: `offsite`.
    #[schemars(length(min = 1, max = 20))]
    pub name: String,
    /// Which backups stay in this destination. Default: the BackupJob's `retention`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// The destination itself.
    #[serde(flatten)]
    pub destination: DestinationSpec,
}
