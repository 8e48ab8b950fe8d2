//! **W** ubo backup.
