//! **O** Write order, read order, crash, leaks.

pub mod catalog;
pub mod layout;
pub mod manifest;
