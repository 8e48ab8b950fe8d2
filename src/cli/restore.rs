//! **W** ubo restore.
