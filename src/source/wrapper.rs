//! **P** wrapper
