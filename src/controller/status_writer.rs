//! **A** Writes BackupJob status: a bounded set of waiting writes (the newest per job), a few workers, and a try again
//! for whatever the API server did not take.

use super::records::ClusterRecords;
use crate::api::names::JobRef;
use crate::error::{Failure, Reason};
use crate::run::ports::{StatusWrite, Written};
use crate::telemetry::metrics::{self, Metrics};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Writes at once. The API server's own fairness makes more of them useless.
const WORKERS: usize = 8;
/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether everything was written, at the end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    writes: BTreeMap<JobRef, StatusWrite>,
    in_flight: HashSet<JobRef>,
}

/// The queue. It holds at most one write per BackupJob, so it is bounded by their number; an older write that was not
/// sent yet is replaced, which loses nothing since each is the whole status.
#[derive(Clone, Default)]
pub struct StatusQueue {
    waiting: Arc<Mutex<Waiting>>,
    more: Arc<Notify>,
}

impl StatusQueue {
    /// Puts a write in, in place of an older one of the same job.
    pub fn put(&self, job: JobRef, write: StatusWrite) {
        self.lock().writes.insert(job, write);
        self.more.notify_one();
    }

    /// Drops what was not sent yet: another process writes these from now on.
    pub fn clear(&self) {
        self.lock().writes.clear();
    }

    /// Waits until nothing waits and nothing is under way, or for `limit`.
    pub async fn idle(&self, limit: Duration) {
        let idle = async {
            while !self.is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            tracing::warn!(
                waiting = self.len(),
                "statuses not written before the end; the next process derives them anew"
            );
        }
    }

    /// How many writes wait.
    pub fn len(&self) -> usize {
        self.lock().writes.len()
    }

    /// Whether none waits and none is under way.
    pub fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.writes.is_empty() && waiting.in_flight.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<(JobRef, StatusWrite)> {
        let mut waiting = self.lock();
        let job = waiting.writes.keys().find(|job| !waiting.in_flight.contains(job)).cloned()?;
        let write = waiting.writes.remove(&job)?;
        waiting.in_flight.insert(job.clone());
        Some((job, write))
    }

    /// A write has ended; one that failed comes back unless a newer one is there.
    fn done(&self, job: JobRef, again: Option<StatusWrite>) {
        let mut waiting = self.lock();
        waiting.in_flight.remove(&job);
        if let Some(write) = again {
            waiting.writes.entry(job).or_insert(write);
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// Writes until `stop`; what waits then is still written, unless the API server does not answer.
    pub async fn run(self, records: ClusterRecords, metrics: Arc<Metrics>, stop: CancellationToken) {
        let workers = (0..WORKERS).map(|_| self.clone().work(records.clone(), Arc::clone(&metrics), stop.clone()));
        futures::future::join_all(workers).await;
    }

    async fn work(self, records: ClusterRecords, metrics: Arc<Metrics>, stop: CancellationToken) {
        loop {
            let Some((job, write)) = self.take() else {
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.more.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            };
            let result = match tokio::time::timeout(WRITE_LIMIT, records.write_job(&job, &write)).await {
                Ok(result) => result,
                Err(_) => Err(Failure::new(Reason::ClusterUnavailable, "the API server did not answer")),
            };
            metrics.status_write(match &result {
                Ok(Written::Yes) => metrics::StatusWrite::Written,
                Ok(Written::Gone) => metrics::StatusWrite::Gone,
                Err(_) => metrics::StatusWrite::Failed,
            });
            match result {
                Ok(_) => self.done(job, None),
                Err(failure) if stop.is_cancelled() => {
                    tracing::warn!(%job, %failure, "status not written before the end; the next process derives it anew");
                    self.done(job, None);
                }
                Err(failure) => {
                    tracing::warn!(%job, %failure, "status not written, tried again");
                    tokio::time::sleep(RETRY).await;
                    self.done(job, Some(write));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::backup_job::BackupJobStatus;
    use crate::api::names::Uid;

    fn job() -> JobRef {
        JobRef::new("default", "pg").expect("good name")
    }

    fn write(message: &str) -> StatusWrite {
        StatusWrite {
            uid: Uid::new("00000000-0000-0000-0000-000000000001").expect("good UID"),
            version: "1".to_owned(),
            status: Box::new(BackupJobStatus { message: Some(message.to_owned()), ..BackupJobStatus::default() }),
        }
    }

    #[test]
    fn the_newest_write_of_a_job_is_the_one_that_is_sent_and_one_at_a_time() {
        let queue = StatusQueue::default();
        queue.put(job(), write("old"));
        queue.put(job(), write("new"));
        let (_, sent) = queue.take().expect("one write");
        assert_eq!(sent.status.message.as_deref(), Some("new"));
        queue.put(job(), write("newer"));
        assert!(queue.take().is_none(), "its predecessor is still under way");
        queue.done(job(), Some(sent));
        let (_, sent) = queue.take().expect("the newer write");
        assert_eq!(
            sent.status.message.as_deref(),
            Some("newer"),
            "a failed older write does not come back over a newer one"
        );
    }
}
