//! **A** walk
