//! **A** Whether the admission policies are in force.
