//! **T** Things that one attempt at a time may have: keyed locks that are granted in the order they were asked for.

use std::collections::{BTreeSet, HashMap};
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

    /// All of these turns, if nobody has one of them or waits for it.
    pub fn try_lock_all(&self, keys: &BTreeSet<String>) -> Option<Vec<Turn>> {
        keys.iter().map(|key| self.try_lock(key)).collect()
    }

    /// All of these turns. Everybody asks in the order of the keys, so that no two wait for each other.
    pub async fn lock_all(&self, keys: &BTreeSet<String>) -> Vec<Turn> {
        let mut turns = Vec::with_capacity(keys.len());
        for key in keys {
            turns.push(self.lock(key).await);
        }
        turns
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

    #[tokio::test]
    async fn several_are_had_together_or_not_at_all() {
        let all = Exclusive::default();
        let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let first = all.try_lock_all(&keys(&["a", "b"])).expect("free");
        assert!(all.try_lock_all(&keys(&["b", "c"])).is_none());
        assert!(all.try_lock("c").is_some(), "one that was not granted holds nothing");
        assert!(all.try_lock_all(&keys(&[])).is_some());
        // Two that want the same in another order do not wait for each other for ever.
        drop(first);
        let (one, other) = (keys(&["c", "a", "b"]), keys(&["b", "c", "a"]));
        let take = async |keys: &BTreeSet<String>| {
            for _ in 0..50 {
                let turns = all.lock_all(keys).await;
                tokio::task::yield_now().await;
                drop(turns);
            }
        };
        tokio::time::timeout(std::time::Duration::from_mins(1), async { tokio::join!(take(&one), take(&other)) })
            .await
            .expect("nobody waits for ever");
    }
}
