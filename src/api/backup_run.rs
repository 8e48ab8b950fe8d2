//! **P** BackupRun: spec and status.
