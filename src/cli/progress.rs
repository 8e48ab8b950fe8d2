//! **W** ubo progress.
