//! **O** How often something is done by all who do it together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Turns with a gap between them.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    /// When the next turn may be.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// One turn in `gap`.
    pub const fn new(gap: Duration) -> Self {
        Self { gap, next: Mutex::new(None) }
    }

    /// Waits for a turn. Who does not wait for it any more leaves it unused.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.gap);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_a_gap_between_turns_and_none_after_a_rest() {
        let pace = Pace::new(Duration::from_millis(20));
        let start = Instant::now();
        futures::future::join_all((0..101).map(|_| pace.turn())).await;
        assert_eq!(start.elapsed().as_millis() / 20, 100);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rested = Instant::now();
        pace.turn().await;
        assert_eq!(rested.elapsed(), Duration::ZERO);
    }
}
