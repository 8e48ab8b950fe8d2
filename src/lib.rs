//! A Kubernetes backup operator that never calls a backup good that cannot be restored.
//!
//! # The flow
//! ```text
//! tick ──► claim ──► capture ──► encode ──► stage ──► commit ──► report
//! schedule   run      source     archive   destination  repository   controller/status, telemetry
//!
//! restore ► load manifest ► fetch ► decode + verify ► write to target ► report
//!           repository  destination  archive       restore
//! ```
//! The modules are the stations of that flow. The first line of each file's documentation carries a mark that
//! `tests/architecture.rs` reads: **P** pure (no clock, network, disk, environment) · **T** trait or state only ·
//! **A** adapter (talks to one outside thing) · **O** orchestration, sees traits and pure code only · **W** wiring.
//! The glossary and the invariants are in CONTRIBUTING.md.

pub mod api;
pub mod app;
pub mod archive;
pub mod args;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod destination;
pub mod error;
pub mod install;
pub mod lease;
pub mod repository;
pub mod restore;
pub mod run;
pub mod schedule;
pub mod source;
pub mod target;
pub mod telemetry;
pub mod tenant;
pub mod validate;
