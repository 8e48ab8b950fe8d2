//! **W** What a person types.

pub mod backup;
pub mod list;
pub mod progress;
pub mod restore;
pub mod schedule;
pub mod verify;
