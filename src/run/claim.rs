//! **A** Creating the BackupRun is the claim.
