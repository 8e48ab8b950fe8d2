//! **P** What users write: BackupJob and BackupRun.
//!
//! Everything here only describes: serde for the wire, schemars for the schema, CEL rules for what the API server can
//! check by itself. What the types mean, and what does not hold, is [`crate::validate`]'s.

pub mod backup_job;
pub mod backup_run;
pub mod destination;
pub mod names;
pub mod runner;
pub mod schema;
pub mod settings;
pub mod strategy;
pub mod target;

/// Group of the custom resources.
pub const GROUP: &str = "backup.javy.dev";
/// Label on everything that belongs to a BackupJob: its name.
pub const LABEL_JOB: &str = "backup.javy.dev/job";
/// Label on everything that belongs to a BackupRun: its UID.
pub const LABEL_RUN_UID: &str = "backup.javy.dev/run-uid";
/// Finalizer that holds a BackupRun until nothing of it is left behind.
pub const FINALIZER_RUN: &str = "backup.javy.dev/run";
