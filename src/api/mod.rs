//! **P** What users write: BackupJob and BackupRun.

pub mod backup_job;
pub mod backup_run;
pub mod names;
