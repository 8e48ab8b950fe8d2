//! **A** exec
