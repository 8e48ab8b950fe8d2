//! **P** All schedules, in memory.
