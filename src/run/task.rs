//! **O** The life of one BackupRun inside this process: taken up, tried, tried again, closed.
//!
//! One task owns a run's status from the moment it takes it up, so nothing else in this process writes it; another process
//! that writes it takes the run away (`record::is_ours`), and the task stops its work. The order:
//!
//! 1. An attempt that is open is closed (`OperatorRestarted`): whoever executed it is gone, or the run had a task. What it
//!    left at the destination is cleared away first; a backup that is whole is taken for what it is.
//! 2. Wait: for the back-off, for a turn in the queue and for the job's other runs (`waiting`), for the target's backup
//!    directory. Phase `Pending`. What an earlier attempt could not remove is tried to be removed once more (`leavings`).
//! 3. The attempt is opened *in the stored status*; only then its work starts. A crash from here on counts as an attempt.
//!    One that finds the directory in use by a run that this process knows nothing of (another replica began it, or it is
//!    in another pod on the same volume) has not failed: the run waits, and looks again after a pause
//!    ([`record::WAIT_PAUSE`]), as often as it takes within `activeDeadlineSeconds`. Those looks write nothing at the
//!    destination as long as the directory is in use.
//! 4. The work ends, or is cancelled and cleans up. Others have its turn from here on. The status is written until it is
//!    stored (`stored`): what happened to a backup is never known to this process alone.
//!
//! A run that is gone (deleted with force, or its namespace ended) stops all this; its work is cancelled first. A task that
//! waits in a process that no longer starts runs, or that is to end, leaves its run to the next process.

use super::cancel::Cancel;
use super::exclusive::{Exclusive, Turn};
use super::observer::{Happening, Observer, Subject};
use super::pace::Pace;
use super::ports::{Executor, Prepared, Records, RunKey, TaskEnd};
use super::record::{self, NOT_CLEANED_UP, Next, Retry};
use super::report::{Ownership, Progress, Report};
use super::turns::{Place, Turns};
use super::{AttemptId, Phase};
use crate::api::backup_job::BackupJob;
use crate::api::backup_run::{BackupRun, BackupRunStatus};
use crate::api::names::{JobRef, Uid};
use crate::api::time::from_time;
use crate::clock::Clock;
use crate::error::{Class, Failure, Reason, cut};
use crate::validate::{ACTIVE_DEADLINE, ValidatedJob, validate};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod leavings;
mod stored;
mod waiting;

/// How often live byte counts are written (`product.md` section 2): of one run, and of all together.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// See [`PROGRESS_EVERY`]: 50 a second.
pub const PROGRESS_GAP: Duration = Duration::from_millis(20);
/// How long an attempt may clean up after it was cancelled; then it is dropped, and the log says so.
const CLEANUP_LIMIT: Duration = Duration::from_mins(2);
/// How long one call to the API server may take. A connection that is half open answers never, and no run may hang on it.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long the preparation of an attempt may take: a token, a Secret and two looks for the target.
const PREPARE_LIMIT: Duration = Duration::from_mins(2);
/// How long a run that is another's is left alone at least.
const LOST_PAUSE: Duration = Duration::from_secs(1);
/// Waits between tries to store a status, and between questions to the API server.
const WRITE_BACKOFF: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// What every run needs; one for the process.
pub struct Shared {
    /// The cluster's objects.
    pub records: Arc<dyn Records>,
    /// Who does the work.
    pub executor: Arc<dyn Executor>,
    /// Who wants to know.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This process, as the status of its runs names it.
    pub instance: String,
    /// UID of kube-system.
    pub cluster_id: Uid,
    /// How many attempts may work at once, and whose turn it is.
    pub turns: Turns,
    /// What one attempt has for itself.
    pub exclusive: Exclusive,
    /// How often live byte counts are written, of all runs together.
    pub progress: Pace,
    /// Set when this process is to end: no attempt is begun any more.
    pub draining: CancellationToken,
    /// Whether this process starts runs; set by the supervisor.
    pub leading: watch::Sender<bool>,
}

/// Why a task stopped early.
enum Stop {
    /// The object is gone.
    Gone,
    /// Another process has the run by now.
    Lost,
    /// Somebody asked.
    Cancelled(Reason),
    /// It cannot work.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What an attempt needs to begin: its place among those at work, what it does, and what it has for itself meanwhile.
type Ready = (Place, Box<dyn Prepared>, Vec<Turn>);

/// One run in this process.
pub struct RunTask {
    shared: Arc<Shared>,
    key: RunKey,
    run: BackupRun,
    status: BackupRunStatus,
    /// resourceVersion of the object as it was seen or written last.
    version: String,
    /// The status as it was seen or written last.
    stored: BackupRunStatus,
    /// A status that may be stored as well: it was given up, and only the answer may have been lost.
    given_up: Option<Box<BackupRunStatus>>,
    cancel: Cancel,
    job: JobRef,
    job_uid: Option<Uid>,
    /// When `activeDeadlineSeconds` is over; counted by a clock that only goes forward, so that a jump of the wall clock
    /// ends nothing.
    deadline: Option<tokio::time::Instant>,
    /// `activeDeadlineSeconds`.
    limit: Duration,
    /// Whether it is to be the only run of its BackupJob at work; not known before the BackupJob was looked at.
    alone: Option<bool>,
}

impl RunTask {
    /// A task for `run`, which is not final.
    pub fn new(shared: Arc<Shared>, key: RunKey, run: BackupRun, job: JobRef, cancel: Cancel) -> Self {
        let status = run.status.clone().unwrap_or_default();
        let owner = run.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "BackupJob");
        let job_uid = owner.and_then(|owner| Uid::new(owner.uid.clone()).ok());
        let version = run.metadata.resource_version.clone().unwrap_or_default();
        Self {
            shared,
            key,
            run,
            stored: status.clone(),
            given_up: None,
            status,
            version,
            cancel,
            job,
            job_uid,
            deadline: None,
            limit: ACTIVE_DEADLINE,
            alone: None,
        }
    }

    /// Lives until the run is final, gone, or left to the next process. Once it is over no other task may take it up, whatever
    /// a watch that lags behind our last write still shows.
    pub async fn live(mut self: Box<Self>) -> TaskEnd {
        // A thousand runs wait at once. Boxed, here and below, is what those do not need at the time; and the task itself, of
        // which a future would hold a second copy, as of every argument.
        let lived = match Box::pin(self.close_dead_attempt()).await {
            Ok(()) => self.attempts().await,
            stopped => stopped,
        };
        let ended = match lived {
            Ok(()) => Ok(()),
            Err(Stop::Cancelled(cause)) if cause.class() != Class::Cancelled => {
                tracing::info!(run = %self.key.name, namespace = %self.key.namespace, "left to the next process");
                return if self.given_up.is_some() { TaskEnd::Fault } else { TaskEnd::Left };
            }
            Err(Stop::Cancelled(cause)) => {
                let message = match cause {
                    Reason::Deleted => "deleted before it was through",
                    Reason::Replaced => "a later run took its place (concurrencyPolicy: Replace)",
                    _ => "spec.cancel was set",
                };
                self.finish(Phase::Cancelled, cause, message).await
            }
            Err(Stop::Failed(failure)) => self.finish(Phase::Failed, failure.reason, failure.short_message()).await,
            Err(stop) => Err(stop),
        };
        match ended {
            Err(Stop::Gone) => return TaskEnd::Over,
            Err(_) => {
                tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, "another process has the run by now");
                // Or our watch is behind; it is not asked again and again until it has caught up.
                tokio::time::sleep(LOST_PAUSE).await;
                return TaskEnd::Left;
            }
            Ok(()) => {}
        }
        if let Some(happening) = record::ended(&self.status, self.shared.clock.now()) {
            self.notice(&happening);
        }
        if self.status.phase.is_final() { TaskEnd::Over } else { TaskEnd::Left }
    }

    fn attempt_id(&self, valid: &ValidatedJob, attempt: u32) -> AttemptId {
        AttemptId {
            job: self.job.clone(),
            job_uid: valid.uid.clone(),
            cluster_id: self.shared.cluster_id.clone(),
            run: self.key.name.clone(),
            run_uid: self.key.uid.clone(),
            attempt,
            scheduled_at: self.run.spec.scheduled_at.as_ref().map(from_time),
            archive: valid.archive.clone(),
        }
    }

    /// `retry` as it stood when the first attempt began.
    fn stored_retry(&self) -> Retry {
        let defaults = Retry { limit: 2, backoff: Duration::from_secs(30) };
        let Some(retry) = self.status.spec.as_ref().and_then(|spec| spec.retry.as_ref()) else {
            return defaults;
        };
        Retry {
            limit: retry.limit.unwrap_or(defaults.limit),
            backoff: retry.backoff_seconds.map_or(defaults.backoff, |seconds| Duration::from_secs(u64::from(seconds))),
        }
    }

    /// `activeDeadlineSeconds` as it stood when the first attempt began.
    fn stored_deadline(&self) -> Duration {
        let seconds = self.status.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(ACTIVE_DEADLINE, Duration::from_secs)
    }

    async fn attempts(&mut self) -> Result<(), Stop> {
        if self.status.phase.is_final() {
            return Ok(());
        }
        self.note_deadline(self.stored_deadline());
        self.check_cancel()?;
        if !self.is_claimed() {
            Box::pin(self.take_up()).await?;
        }
        let mut not_before = record::resume_at(&self.status, self.stored_retry());
        loop {
            if let Some(at) = not_before {
                self.wait_until(at).await?;
            }
            let (place, _job_turn) = self.turn().await?;
            match Box::pin(self.one_attempt(place)).await? {
                Next::Over => return Ok(()),
                Next::Retry(at) => not_before = Some(at),
            }
        }
    }

    /// The BackupJob, as it is now; later attempts run the spec that the first one ran.
    async fn find_job(&mut self) -> Result<Arc<BackupJob>, Stop> {
        let (shared, job) = (Arc::clone(&self.shared), self.job.clone());
        let Some(found) = self.insist(|| shared.records.job(&job)).await? else {
            return Err(Stop::Failed(Failure::new(
                Reason::JobNotFound,
                format!(
                    "there is no BackupJob {}; `kubectl get backupjobs -n {}` shows which are",
                    self.job, self.job.namespace
                ),
            )));
        };
        let uid = Uid::new(found.metadata.uid.clone().unwrap_or_default())?;
        let owner = self.run.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "BackupJob");
        if owner.is_some_and(|owner| owner.uid != uid.as_str()) {
            return Err(Stop::Cancelled(Reason::Deleted)); // its BackupJob was replaced by another of the same name
        }
        self.job_uid = Some(uid);
        Ok(found)
    }

    async fn valid_job(&mut self) -> Result<(BackupJob, ValidatedJob), Stop> {
        let mut job = BackupJob::clone(&*self.find_job().await?);
        if let Some(spec) = &self.status.spec {
            job.spec = spec.clone();
        }
        let valid = validate(&job).map_err(|invalid| Failure::new(invalid.reason, invalid.message))?;
        Ok((job, valid))
    }

    async fn one_attempt(&mut self, place: Place) -> Result<Next, Stop> {
        let (job, valid) = self.valid_job().await?;
        let retry = Retry { limit: valid.retry_limit, backoff: valid.retry_backoff };
        if let Some((attempt, report)) = self.clear_left(&valid).await? {
            drop(place); // as below: nobody waits until that is written
            return self.conclude(attempt, Ok(report), retry).await;
        }
        let generation = self.run.metadata.generation;
        let (place, prepared, directory_turns) = match self.prepare(&valid, place).await {
            Ok(ready) => ready,
            Err(Stop::Failed(failure)) => {
                let backed_up = job.status.as_ref().is_some_and(|status| status.last_success_time.is_some());
                let failure = record::judge_missing_target(failure, self.status.pod.is_some(), backed_up);
                // A preparation that failed is an attempt that failed: it is counted and limited like one.
                let now = self.shared.clock.now();
                let attempt =
                    record::begin_attempt(&mut self.status, &self.shared.instance, &job.spec, generation, now);
                return self.conclude(attempt, Err(failure), retry).await;
            }
            Err(stop) => return Err(stop),
        };
        let waited = record::is_waiting(&self.status);
        let now = self.shared.clock.now();
        let before = self.status.clone();
        let attempt = record::begin_attempt(&mut self.status, &self.shared.instance, &job.spec, generation, now);
        self.status.pod = prepared.pod();
        if let Some(why) = self.persist_for(CALL_LIMIT).await? {
            // A webhook may deny what is written in one namespace: nobody else waits for that. Nothing was begun, so it is no
            // attempt either; its number is used again.
            drop((place, directory_turns, prepared));
            self.status = before;
            self.until_written(&why).await?;
            return Ok(Next::Retry(self.shared.clock.now() + record::WAIT_PAUSE));
        }
        self.note_deadline(valid.active_deadline);
        self.notice(&Happening::AttemptStarted { attempt });
        let id = self.attempt_id(&valid, attempt);
        let result = self.work(prepared, id, waited).await;
        drop((place, directory_turns)); // nobody waits for an API server that does not take what came of it
        self.conclude(attempt, result, retry).await
    }

    /// Finds the target and takes what the attempt must have for itself. The place in the queue is given back while others
    /// have that: three that wait for one directory must not keep everybody else from work.
    async fn prepare(&mut self, valid: &ValidatedJob, mut place: Place) -> Result<Ready, Stop> {
        let shared = Arc::clone(&self.shared);
        let prepare = || in_time(PREPARE_LIMIT, "preparing the attempt", shared.executor.prepare(valid));
        loop {
            let prepared = self.or_cancel(prepare()).await??;
            let keys = prepared.exclusive();
            if let Some(turns) = shared.exclusive.try_lock_all(&keys) {
                return Ok((place, prepared, turns));
            }
            drop(place);
            self.say_waiting("waits for another backup that uses the same directory in the same container").await?;
            let turns = self.or_cancel(shared.exclusive.lock_all(&keys)).await?;
            place = self.place().await?;
            // The pod may be another one by now, so it is looked for again.
            let again = self.or_cancel(prepare()).await??;
            if again.exclusive() == keys {
                return Ok((place, again, turns));
            }
        }
    }

    /// The work itself, in a task of its own so that nothing that is written meanwhile can hold it up.
    async fn work(&mut self, prepared: Box<dyn Prepared>, id: AttemptId, waited: bool) -> Result<Report, Failure> {
        let progress = Arc::new(Progress::default());
        let mut work = tokio::spawn(prepared.run(id, waited, Arc::clone(&progress), self.cancel.clone()));
        let mut every = tokio::time::interval(PROGRESS_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        every.tick().await; // the first one is due at once
        let (cancelled, shared) = (self.cancel.clone(), Arc::clone(&self.shared));
        let deadline = self.deadline.unwrap_or_else(far_off);
        let ended = loop {
            tokio::select! {
                ended = &mut work => break Some(ended),
                () = async {
                    every.tick().await;
                    shared.progress.turn().await;
                } => self.write_progress(&progress).await,
                () = tokio::time::sleep_until(deadline), if self.cancel.cause().is_none() => {
                    self.cancel.request(Reason::DeadlineExceeded);
                }
                _ = cancelled.requested() => break tokio::time::timeout(CLEANUP_LIMIT, &mut work).await.ok(),
            }
        };
        let (read, stored) = (progress.read.load(Ordering::Relaxed), progress.stored.load(Ordering::Relaxed));
        self.notice(&Happening::Moved { read, stored });
        let result = match ended {
            Some(Ok(result)) => result,
            Some(Err(panicked)) => {
                let message = format!("the attempt ended in a fault of ours: {panicked}");
                Err(Failure::new(Reason::Internal, message).leaving(NOT_CLEANED_UP))
            }
            None => {
                work.abort();
                tracing::error!(run = %self.key.name, namespace = %self.key.namespace,
                    "the attempt did not clean up in time; a process, a folder or an upload of it may be left");
                Err(Failure::new(Reason::Internal, "did not clean up in time").leaving(NOT_CLEANED_UP))
            }
        };
        match (result, self.cancel.cause()) {
            (Err(failure), Some(cause)) => Err(record::stopped(cause, failure, self.limit, &self.status)),
            (result, _) => result,
        }
    }

    async fn write_progress(&mut self, progress: &Progress) {
        let read = record::signed(progress.read.load(Ordering::Relaxed));
        let stored = record::signed(progress.stored.load(Ordering::Relaxed));
        if (self.status.bytes_read, self.status.bytes_stored) == (Some(read), Some(stored)) {
            return;
        }
        self.status.bytes_read = Some(read);
        self.status.bytes_stored = Some(stored);
        // Only a picture for people: one that cannot be written is written in ten seconds. One that is refused because the
        // run is no longer ours, or is gone, ends the work.
        match self.write_once().await {
            Ok(_) => {}
            Err(Stop::Gone) => self.cancel.request(Reason::Deleted),
            Err(_) => self.cancel.request(Reason::OperatorRestarted),
        }
    }

    async fn conclude(&mut self, attempt: u32, result: Result<Report, Failure>, retry: Retry) -> Result<Next, Stop> {
        let now = self.shared.clock.now();
        let waited = record::is_waiting(&self.status);
        let next = record::end_attempt(&mut self.status, &result, retry, self.run.metadata.generation, now);
        if let Err(failure) = &result
            && !failure.reason.is_waiting()
        {
            tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, job = %self.job.name, attempt,
                reason = %failure.reason, message = failure.short_message(), "attempt failed");
        }
        match (next, &result) {
            // Said when it began to wait.
            (_, Err(failure)) if failure.reason.is_waiting() && waited => {}
            (_, Err(failure)) if failure.reason.is_waiting() => {
                self.notice(&Happening::Waits { failure: failure.clone() });
            }
            (Next::Retry(retry_at), Err(failure)) => {
                self.notice(&Happening::AttemptFailed { attempt, failure: failure.clone(), retry_at });
            }
            _ => {}
        }
        self.notice_owner(&result);
        self.persist().await?;
        match (next, self.cancel.cause()) {
            // Asked to stop, and not by somebody who wants the run to end: the next process takes it up.
            (Next::Retry(_), Some(cause)) => Err(Stop::Cancelled(cause)),
            _ => Ok(next),
        }
    }

    fn notice_owner(&self, result: &Result<Report, Failure>) {
        match result.as_ref().map(|report| &report.ownership) {
            Ok(Ownership::TakenOver(note)) => self.notice(&Happening::TookOver { note: note.clone() }),
            Ok(Ownership::Foreign(owner)) => self.notice(&Happening::ForeignOwner { owner: owner.id() }),
            Ok(Ownership::Ours) | Err(_) => {}
        }
    }

    /// Waits out a back-off. The wall clock is looked at once; from then on a clock counts that only goes forward, so that
    /// a jump makes no attempt late or early.
    async fn wait_until(&self, at: DateTime<Utc>) -> Result<(), Stop> {
        let left = (at - self.shared.clock.now()).to_std().unwrap_or_default();
        self.or_cancel(tokio::time::sleep(left.min(record::BACKOFF_LIMIT))).await
    }

    /// Sets the deadline once there is a first attempt to count from.
    fn note_deadline(&mut self, limit: Duration) {
        if self.deadline.is_none() {
            self.limit = limit;
            let left = record::time_left(&self.status, limit, self.shared.clock.now());
            self.deadline = left.map(|left| tokio::time::Instant::now() + left);
        }
    }

    fn check_cancel(&self) -> Result<(), Stop> {
        self.cancel.cause().map_or(Ok(()), |cause| Err(Stop::Cancelled(cause)))
    }

    async fn or_cancel<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut leading = self.shared.leading.subscribe();
        tokio::select! {
            biased;
            cause = self.cancel.requested() => Err(Stop::Cancelled(cause)),
            () = self.shared.draining.cancelled() => Err(Stop::Cancelled(Reason::OperatorShutdown)),
            _ = leading.wait_for(|leading| !leading) => Err(Stop::Cancelled(Reason::OperatorShutdown)),
            () = tokio::time::sleep_until(self.deadline.unwrap_or_else(far_off)) => {
                Err(Stop::Failed(record::took_too_long(self.limit, &self.status)))
            }
            value = work => Ok(value),
        }
    }

    /// Asks the API server until it answers: that it does not is no reason to fail a backup.
    async fn insist<T, F>(&mut self, mut ask: impl FnMut() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 0usize;
        loop {
            match self.or_cancel(call(ask())).await? {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.pause(failure, &mut tries).await?,
            }
        }
    }

    /// Waits before the API server is asked again, and says for what: from the second time on in the status too, since a
    /// person may have to mend it. A refusal is of the operator's own rights (`ubo install` prints them), and a person gives
    /// them back: no fault of the run either.
    async fn pause(&mut self, failure: Failure, tries: &mut usize) -> Result<(), Stop> {
        if failure.class() != Class::Transient && failure.reason != Reason::Forbidden {
            return Err(Stop::Failed(failure));
        }
        if *tries == 0 {
            tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, why = failure.message,
                "the Kubernetes API is asked again until it does it");
        } else {
            self.say_waiting(&waits_for_the_api(&failure.message)).await?;
        }
        self.or_cancel(tokio::time::sleep(WRITE_BACKOFF[(*tries).min(WRITE_BACKOFF.len() - 1)])).await?;
        *tries += 1;
        Ok(())
    }

    fn notice(&self, happening: &Happening) {
        let subject = Subject {
            job: self.job.clone(),
            job_uid: self.job_uid.clone(),
            run: Some((self.key.name.clone(), self.key.uid.clone())),
        };
        self.shared.observer.notice(&subject, happening);
    }
}

/// What a run says that waits for the API server, and why.
fn waits_for_the_api(why: &str) -> String {
    format!("waits for the Kubernetes API: {}", cut(why, Failure::MESSAGE_LIMIT))
}

/// Later than anything that a task waits for.
fn far_off() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_hours(24 * 365)
}

/// One call to the API server, which answers within [`CALL_LIMIT`] or counts as one that did not.
pub async fn call<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    in_time(CALL_LIMIT, "a call to the Kubernetes API", work).await
}

async fn in_time<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::new(Reason::ClusterUnavailable, format!("{what} was not through after {} s", limit.as_secs())))
    })
}

#[cfg(test)]
mod tests;
