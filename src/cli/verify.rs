//! **W** ubo verify.
