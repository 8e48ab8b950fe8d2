//! **A** command
