//! **W** ubo schedule.
