//! **W** ubo list.
