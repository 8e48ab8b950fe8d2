//! **P** When: cron expressions in their zone, and the index of all schedules.
//!
//! Nothing here reads a clock; the caller says what time it is. `cron` answers for one schedule, `index` for all of them, `spread` moves starts apart.

pub mod cron;
mod expression;
pub mod index;
mod spread;
