//! **P** BackupJob: spec, status, CEL rules.
