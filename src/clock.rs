//! **T** Time as an argument. [`SystemClock`] is the only caller of `now()` in the crate (`clippy.toml` sees to it).

use chrono::{DateTime, Utc};
use std::time::Instant;

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: for schedules, names and what people read.
    fn now(&self) -> DateTime<Utc>;
    /// A clock that only goes forward: for durations and deadlines.
    fn monotonic(&self) -> Instant;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that a test sets.
#[derive(Debug)]
pub struct FixedClock {
    now: std::sync::Mutex<DateTime<Utc>>,
    start: Instant,
}

impl FixedClock {
    /// A clock that stands at `now`.
    #[expect(clippy::disallowed_methods, reason = "the origin of a clock that stands still")]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self { now: std::sync::Mutex::new(now), start: Instant::now() }
    }

    /// Moves the clock to `now`.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn monotonic(&self) -> Instant {
        self.start
    }
}
