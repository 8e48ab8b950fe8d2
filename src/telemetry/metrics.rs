//! **P** The single registry.
