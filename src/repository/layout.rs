//! **P** Keys.
