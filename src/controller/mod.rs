//! **O** Watches BackupJobs and BackupRuns: validate, index, status.

pub mod policy;
pub mod status;
pub mod status_writer;
