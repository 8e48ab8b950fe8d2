//! **W** Logs, metrics, Events, admin server.

pub mod admin;
pub mod events;
pub mod metrics;
