//! **P** When.

pub mod cron;
pub mod index;
