//! **O** At most so many bytes per second: a decorator of a destination.
//!
//! All uploads that share a [`Bandwidth`] share its rate, in the order in which they ask. Nothing is ever dropped: a write
//! waits until its bytes are due, and its source waits behind it. Only the data is counted; manifests and other small
//! documents pass at once, and reading back is not limited. What comes after this decorator may collect bytes before it
//! sends them (S3: parts of 8 MiB), so that the rate holds on average, not from moment to moment.

use super::{Capability, Destination, ObjectInfo, Put, Staged, Stored};
use crate::api::names::ObjectKey;
use crate::clock::Clock;
use crate::error::Failure;
use crate::source::Completion;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A rate, and since when it is used up: a token bucket that holds nothing in reserve, so that a pause is not made up for by
/// a burst.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When everything that was let through so far is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// So many bytes per second; 0 counts as 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_at: Mutex::new(None) }
    }

    /// Lets `bytes` through at `now`, and says for how long they have to wait before they are sent.
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = paid_at.map_or(now, |at| at.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Beyond what a clock can count is for ever either way.
        *paid_at = Some(due.checked_add(takes).unwrap_or(due));
        due.saturating_duration_since(now)
    }
}

/// A destination whose uploads are slowed down.
pub struct Throttled {
    inner: Arc<dyn Destination>,
    bandwidth: Arc<Bandwidth>,
    clock: Arc<dyn Clock>,
}

impl Throttled {
    /// Uploads to `inner` share `bandwidth`.
    pub fn new(inner: Arc<dyn Destination>, bandwidth: Arc<Bandwidth>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, bandwidth, clock }
    }
}

#[async_trait]
impl Destination for Throttled {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn stage(&self, key: &ObjectKey) -> Result<Box<dyn Staged>, Failure> {
        let inner = self.inner.stage(key).await?;
        Ok(Box::new(ThrottledUpload { inner, bandwidth: self.bandwidth.clone(), clock: self.clock.clone() }))
    }

    async fn put(&self, key: &ObjectKey, content: Bytes, when: Put) -> Result<Stored, Failure> {
        self.inner.put(key, content, when).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Failure> {
        self.inner.stat(key).await
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        self.inner.read(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo, Failure>>, Failure> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Failure> {
        self.inner.delete(key).await
    }

    async fn abort_uploads(&self, prefix: &str) -> Result<usize, Failure> {
        self.inner.abort_uploads(prefix).await
    }
}

struct ThrottledUpload {
    inner: Box<dyn Staged>,
    bandwidth: Arc<Bandwidth>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Staged for ThrottledUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let wait = self.bandwidth.take(bytes.len() as u64, self.clock.monotonic());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.inner.write(bytes).await
    }

    async fn commit(self: Box<Self>, proof: &Completion) -> Result<u64, Failure> {
        self.inner.commit(proof).await
    }

    async fn abort(self: Box<Self>) -> Result<(), Failure> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::object_store::ObjectStore;
    use crate::source::Ending;
    use chrono::{DateTime, Utc};
    use futures::TryStreamExt;
    use proptest::prelude::*;

    /// A clock that tokio's own paused time moves.
    struct Paused(tokio::time::Instant, Instant);

    impl Clock for Paused {
        fn now(&self) -> DateTime<Utc> {
            DateTime::UNIX_EPOCH
        }
        fn monotonic(&self) -> Instant {
            self.1 + self.0.elapsed()
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the origin of a clock that a test moves")]
    fn origin() -> Instant {
        Instant::now()
    }

    proptest! {
        /// Whoever asks when: what was let through until any moment is never more than the rate times the time, one piece
        /// apart (the one that is under way).
        #[test]
        fn the_rate_holds(
            rate in 1_u64..10_000_000,
            asks in proptest::collection::vec((0_u64..5_000_000, 0_u64..3_000), 1..50),
        ) {
            let start = origin();
            let bandwidth = Bandwidth::new(rate);
            let (mut now, mut passed) = (start, 0_u128);
            for (bytes, pause) in asks {
                now += Duration::from_millis(pause);
                let sent_at = now + bandwidth.take(bytes, now);
                let paid = (sent_at - start).as_nanos() * u128::from(rate);
                // Each division loses less than a byte's worth.
                prop_assert!(passed * 1_000_000_000 <= paid + 50 * u128::from(rate), "{passed} bytes");
                passed += u128::from(bytes);
            }
        }

        /// Nobody waits for longer than what was let through before takes.
        #[test]
        fn a_pause_costs_nothing(rate in 1_u64..10_000_000, bytes in 0_u64..5_000_000) {
            let (start, bandwidth) = (origin(), Bandwidth::new(rate));
            prop_assert_eq!(bandwidth.take(bytes, start), Duration::ZERO);
            let takes = bandwidth.take(0, start);
            prop_assert_eq!(bandwidth.take(1, start + takes), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_uploads_share_it_and_nothing_is_lost() {
        let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
        let inner: Arc<dyn Destination> = Arc::new(ObjectStore::without_http(&operator, "memory"));
        let clock = Arc::new(Paused(tokio::time::Instant::now(), origin()));
        let throttled = Throttled::new(inner, Arc::new(Bandwidth::new(1000)), clock.clone());
        let upload = async |name: &str, fill: u8| {
            let key = ObjectKey::new(name).unwrap();
            let mut staged = throttled.stage(&key).await.unwrap();
            for _ in 0..10 {
                staged.write(Bytes::from(vec![fill; 500])).await.unwrap();
            }
            let ended = clock.0.elapsed();
            staged.commit(&Completion::Complete(Ending::default())).await.unwrap();
            let read: Vec<Bytes> = throttled.read(&key, None).await.unwrap().try_collect().await.unwrap();
            assert_eq!(read.concat(), vec![fill; 5000]);
            ended
        };
        let (one, two) = tokio::join!(upload("one", 1), upload("two", 2));
        // 20 pieces of half a second, in turn; the last one is paid for by whoever comes after it.
        let (first, last) = (one.min(two), one.max(two));
        let half = Duration::from_millis(500);
        assert!(first >= half * 16 && last >= half * 19 && last < half * 20, "{one:?}, {two:?}");
    }
}
