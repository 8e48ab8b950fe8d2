//! **T** Things that one attempt at a time may have: keyed locks that are granted in the order they were asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::OwnedMutexGuard;

/// The right to the thing; ends when dropped.
pub type Turn = OwnedMutexGuard<()>;

/// All keys in use.
#[derive(Debug, Default)]
pub struct Exclusive {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Exclusive {
    fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0); // as many entries as runs, so this is cheap
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// The turn, if nobody has it or waits for it.
    pub fn try_lock(&self, key: &str) -> Option<Turn> {
        self.of(key).try_lock_owned().ok()
    }

    /// The turn, when those before have had theirs.
    pub async fn lock(&self, key: &str) -> Turn {
        self.of(key).lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_per_key() {
        let all = Exclusive::default();
        let first = all.try_lock("a").expect("free");
        assert!(all.try_lock("a").is_none());
        assert!(all.try_lock("b").is_some());
        drop(first);
        assert!(all.try_lock("a").is_some());
    }
}
