//! **O** A backup back to where it can be used.

pub mod execute;
pub mod local_target;
