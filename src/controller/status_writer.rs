//! **A** Writes BackupJob status: a bounded set of waiting writes (the newest per job), a few workers, and a try again
//! for whatever the API server did not take.
//!
//! Who comes first is written first. What the API server did not take comes in again behind all others, and not before it
//! has rested: BackupJobs whose status a webhook denies must not keep the others' from being written.

use super::records::ClusterRecords;
use crate::api::names::JobRef;
use crate::error::{Failure, Reason};
use crate::run::ports::{StatusWrite, Written};
use crate::telemetry::metrics::{self, Metrics};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Writes at once. The API server's own fairness makes more of them useless.
const WORKERS: usize = 8;
/// How long one write may take.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether everything was written, at the end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a BackupJob whose write failed rests.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    writes: HashMap<JobRef, StatusWrite>,
    /// Of the jobs with a write that may be taken now: whose turn it is.
    ready: VecDeque<JobRef>,
    /// Of those that rest: until when. All rest for the same time, so that the first one's is over first.
    resting: VecDeque<(Instant, JobRef)>,
    in_flight: HashSet<JobRef>,
    /// Ends when another process writes: what is under way then is not tried again.
    term: CancellationToken,
}

/// A write that was taken to be sent.
struct Taken {
    job: JobRef,
    write: StatusWrite,
    term: CancellationToken,
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
        let mut waiting = self.lock();
        if waiting.writes.insert(job.clone(), write).is_none() && !waiting.in_flight.contains(&job) {
            waiting.ready.push_back(job);
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// Drops what was not sent yet, and tries nothing again that was: another process writes these from now on, and an older
    /// status must not come over its own.
    pub fn clear(&self) {
        let mut waiting = self.lock();
        waiting.writes.clear();
        waiting.ready.clear();
        waiting.resting.clear();
        std::mem::take(&mut waiting.term).cancel();
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

    /// The next write; `last`: nobody rests any more.
    fn take(&self, now: Instant, last: bool) -> Option<Taken> {
        let mut waiting = self.lock();
        while let Some((_, job)) = waiting.resting.pop_front_if(|(until, _)| last || *until <= now) {
            waiting.ready.push_back(job);
        }
        let job = waiting.ready.pop_front()?;
        let write = waiting.writes.remove(&job)?;
        waiting.in_flight.insert(job.clone());
        Some(Taken { job, write, term: waiting.term.clone() })
    }

    /// When the first of those that rest may be taken.
    fn rested(&self) -> Option<Instant> {
        self.lock().resting.front().map(|(until, _)| *until)
    }

    /// A write has ended. One that failed comes back, unless a newer one is there or another process writes by now.
    fn done(&self, taken: Taken, failed: Option<Instant>) {
        let Taken { job, write, term } = taken;
        let mut waiting = self.lock();
        waiting.in_flight.remove(&job);
        if failed.is_some() && !term.is_cancelled() {
            waiting.writes.entry(job.clone()).or_insert(write);
        }
        if waiting.writes.contains_key(&job) {
            match failed {
                Some(now) => waiting.resting.push_back((now + RETRY, job)),
                None => waiting.ready.push_back(job),
            }
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
            let last = stop.is_cancelled();
            let Some(taken) = self.take(Instant::now(), last) else {
                if last {
                    return;
                }
                let rested = self.rested();
                tokio::select! {
                    () = self.more.notified() => {}
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep_until(rested.unwrap_or_else(Instant::now)), if rested.is_some() => {}
                }
                continue;
            };
            let job = &taken.job;
            let result = tokio::select! {
                result = tokio::time::timeout(WRITE_LIMIT, records.write_job(job, &taken.write)) => result,
                () = taken.term.cancelled() => {
                    self.done(taken, None);
                    continue;
                }
            };
            let result = result
                .unwrap_or_else(|_| Err(Failure::new(Reason::ClusterUnavailable, "the API server did not answer")));
            metrics.status_write(match &result {
                Ok(Written::Yes) => metrics::StatusWrite::Written,
                Ok(Written::Gone) => metrics::StatusWrite::Gone,
                Err(_) => metrics::StatusWrite::Failed,
            });
            match result {
                Ok(_) => self.done(taken, None),
                Err(failure) if stop.is_cancelled() => {
                    tracing::warn!(%job, %failure, "status not written before the end; the next process derives it anew");
                    self.done(taken, None);
                }
                Err(failure) => {
                    tracing::warn!(%job, %failure, "status not written, tried again");
                    self.done(taken, Some(Instant::now()));
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

    fn named(name: &str) -> JobRef {
        JobRef::new("default", name).expect("good name")
    }

    fn job() -> JobRef {
        named("pg")
    }

    fn write(message: &str) -> StatusWrite {
        StatusWrite {
            uid: Uid::new("00000000-0000-0000-0000-000000000001").expect("good UID"),
            version: "1".to_owned(),
            status: Box::new(BackupJobStatus { message: Some(message.to_owned()), ..BackupJobStatus::default() }),
        }
    }

    fn take(queue: &StatusQueue) -> Option<Taken> {
        queue.take(Instant::now(), false)
    }

    fn said(taken: &Taken) -> &str {
        taken.write.status.message.as_deref().unwrap_or_default()
    }

    #[test]
    fn the_newest_write_of_a_job_is_the_one_that_is_sent_and_one_at_a_time() {
        let queue = StatusQueue::default();
        queue.put(job(), write("old"));
        queue.put(job(), write("new"));
        let sent = take(&queue).expect("one write");
        assert_eq!(said(&sent), "new");
        queue.put(job(), write("newer"));
        assert!(take(&queue).is_none(), "its predecessor is still under way");
        queue.done(sent, Some(Instant::now()));
        let sent = queue.take(Instant::now() + RETRY, false).expect("the newer write");
        assert_eq!(said(&sent), "newer", "a failed older write does not come back over a newer one");
        queue.done(sent, None);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_failed_rests_and_comes_in_again_behind_all_others() {
        let queue = StatusQueue::default();
        for name in ["b", "a", "c"] {
            queue.put(named(name), write(name));
        }
        let now = Instant::now();
        let failed = queue.take(now, false).expect("a write");
        assert_eq!(said(&failed), "b", "who comes first is written first, whatever his name is");
        queue.done(failed, Some(now));
        queue.put(named("b"), write("b, newer"));
        for name in ["a", "c"] {
            let taken = queue.take(now, false).expect("a write");
            assert_eq!(said(&taken), name);
            queue.done(taken, None);
        }
        assert!(queue.take(now, false).is_none() && queue.rested() == Some(now + RETRY));
        queue.put(named("d"), write("d"));
        assert_eq!(queue.take(now, false).map(|taken| taken.job), Some(named("d")));
        let again = queue.take(now + RETRY, false).expect("rested");
        assert_eq!(said(&again), "b, newer");
        queue.done(again, Some(now));
        assert!(queue.take(now, true).is_some(), "at the end nobody rests");
    }

    #[test]
    fn what_was_under_way_when_another_process_took_over_does_not_come_back() {
        let queue = StatusQueue::default();
        queue.put(job(), write("old"));
        queue.put(named("waits"), write("old"));
        let sent = take(&queue).expect("a write");
        queue.clear();
        assert!(sent.term.is_cancelled(), "it is not tried under a newer version either");
        queue.done(sent, Some(Instant::now()));
        assert!(queue.is_empty());
        // This process leads again.
        queue.put(job(), write("new"));
        let sent = take(&queue).expect("a write");
        assert!(!sent.term.is_cancelled() && said(&sent) == "new");
    }

    /// As many as there are workers are denied.
    #[tokio::test(start_paused = true)]
    async fn jobs_whose_status_is_denied_keep_nobodys_from_being_written() {
        let written = Arc::new(Mutex::new(HashSet::new()));
        let taken = Arc::clone(&written);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let taken = Arc::clone(&taken);
            async move {
                let path = request.uri().path().to_owned();
                let (code, answer) = if path.contains("/denied-") {
                    (
                        403,
                        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"code":403,"message":"denied the request"}"#,
                    )
                } else {
                    taken.lock().expect("sound").insert(path);
                    (404, r#"{"kind":"Status","apiVersion":"v1","metadata":{},"code":404,"message":"gone"}"#)
                };
                let body = kube::client::Body::from(answer.as_bytes().to_vec());
                Ok::<_, kube::Error>(http::Response::builder().status(code).body(body).expect("a response"))
            }
        });
        let records = ClusterRecords::new(kube::Client::new(service, "default"));
        let (queue, stop) = (StatusQueue::default(), CancellationToken::new());
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let writers = tokio::spawn(queue.clone().run(records, metrics, stop.clone()));
        for number in 0..WORKERS {
            queue.put(named(&format!("denied-{number}")), write("x"));
        }
        for number in 0..100 {
            queue.put(named(&format!("pg-{number}")), write("x"));
        }
        let begun = Instant::now();
        while written.lock().expect("sound").len() < 100 {
            tokio::time::sleep(LOOK_AGAIN).await;
            assert!(begun.elapsed() < RETRY, "they wait for those that are denied");
        }
        stop.cancel();
        tokio::time::timeout(WRITE_LIMIT, writers).await.expect("it ends").expect("in order");
    }
}
