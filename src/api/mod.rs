//! **P** What users write: BackupJob and BackupRun.
//!
//! Everything here only describes: serde for the wire, schemars for the schema, CEL rules for what the API server can
//! check by itself. What the types mean, and what does not hold, is [`crate::validate`]'s.

pub mod backup_job;
pub mod backup_run;
pub mod conditions;
pub mod destination;
pub mod names;
pub mod runner;
pub mod schema;
pub mod settings;
pub mod strategy;
pub mod target;
pub mod time;

use backup_job::BackupJobStatus;
use backup_run::BackupRunStatus;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The definitions of BackupJob and BackupRun, as they are installed. An error would be a fault of our own schema.
pub fn definitions() -> Result<[CustomResourceDefinition; 2], serde_json::Error> {
    Ok([
        schema::finish(
            backup_job::BackupJob::crd(),
            "A BackupJob says what to back up, how, where to and when.",
            &[(
                "self.metadata.name.size() <= 49",
                "metadata.name must have at most 49 characters, so that a run's name is still a label value",
            )],
        )?,
        schema::finish(
            backup_run::BackupRun::crd(),
            "A BackupRun is one run of a BackupJob: made by the operator when it is due, or by hand to run it now.",
            &[(
                "self.metadata.name.size() <= 63",
                "metadata.name must have at most 63 characters, so that it is a label value",
            )],
        )?,
    ])
}

/// The schemas of a BackupJob's and a BackupRun's status, as they are installed.
pub(crate) static STATUS_SCHEMAS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let schema = |definition: CustomResourceDefinition| {
        json!(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"].take()
    };
    definitions().map(|both| both.map(schema)).unwrap_or_default()
});

/// A BackupJob's status as it is written: within its schema.
pub fn written_job_status(status: &BackupJobStatus) -> Value {
    let mut status = json!(status);
    schema::fit(&mut status, &STATUS_SCHEMAS[0]);
    status
}

/// A BackupRun's status as it is written: within its schema.
pub fn written_run_status(status: &BackupRunStatus) -> Value {
    let mut status = json!(status);
    schema::fit(&mut status, &STATUS_SCHEMAS[1]);
    status
}

/// Group of the custom resources.
pub const GROUP: &str = "backup.javy.dev";
/// Label on everything that belongs to a BackupJob: its name.
pub const LABEL_JOB: &str = "backup.javy.dev/job";
/// Label on everything that belongs to a BackupRun: its UID.
pub const LABEL_RUN_UID: &str = "backup.javy.dev/run-uid";
/// Annotation of a BackupRun that the schedule made: since when ticks counted as its tick was claimed.
pub const ANNOTATION_SINCE: &str = "backup.javy.dev/ticks-since";
/// Annotation of a BackupJob that makes it the owner of an archive that belongs to another: `<cluster id>/<job UID>`, as
/// they stand in that archive's `owner.json`.
pub const ANNOTATION_ADOPT: &str = "backup.javy.dev/adopt";
/// Annotation on a BackupJob: name of the run whose much smaller backup somebody has accepted.
pub const ANNOTATION_ACCEPTED: &str = "backup.javy.dev/accepted";
/// Finalizer that holds a BackupRun until nothing of it is left behind.
pub const FINALIZER_RUN: &str = "backup.javy.dev/run";
