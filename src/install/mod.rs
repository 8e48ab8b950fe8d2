//! **P** Every manifest that this version serves.
