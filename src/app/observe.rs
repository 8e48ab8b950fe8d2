//! **W** What happens, told to metrics, Events and the log.

use crate::api::GROUP;
use crate::api::names::{JobRef, Uid};
use crate::controller::status::{foreign_owner, shrunk_note};
use crate::controller::status_writer::StatusQueue;
use crate::run::Phase;
use crate::run::observer::{Happening, Observer, Skip, Subject};
use crate::run::ports::{StatusSink, StatusWrite};
use crate::run::record::{human_duration, human_size};
use crate::run::turns::Turns;
use crate::telemetry::events::{EventKind, Events};
use crate::telemetry::metrics::{Metrics, RunSeries, Scraped, TickSkip};
use k8s_openapi::api::core::v1::ObjectReference;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Everybody who wants to know.
pub(super) struct Observers {
    metrics: Arc<Metrics>,
    events: Events,
    statuses: StatusQueue,
    /// Of the runs that this process has and has begun: where what they do is counted.
    begun: Mutex<HashMap<Uid, RunSeries>>,
}

impl Observers {
    /// They count into `metrics`, speak through `events`, and hand status on to `statuses`. Who works and who waits, `turns`
    /// knows: a turn goes with the attempt that has it, however that ends.
    pub(super) fn new(metrics: &Arc<Metrics>, events: Events, statuses: StatusQueue, turns: Turns) -> Self {
        metrics.at_scrape(move || {
            let (in_flight, queued) = turns.counts();
            Scraped { in_flight, queued }
        });
        Self { metrics: Arc::clone(metrics), events, statuses, begun: Mutex::default() }
    }

    /// Does something with the series of a run; of one that has not begun with those of its BackupJob as they are now.
    fn count(&self, subject: &Subject, count: impl FnOnce(&RunSeries)) {
        let Some((_, uid)) = &subject.run else { return };
        match lock(&self.begun).get(uid) {
            Some(series) => count(series),
            None => count(&self.metrics.run_series(&subject.job)),
        }
    }
}

impl Observer for Observers {
    fn notice(&self, subject: &Subject, happening: &Happening) {
        let run = subject.run.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
        let job = &subject.job;
        let tell = |kind: EventKind, note: String| {
            // Both are looked at by people, so both say it.
            if let Some(reference) = run_reference(subject) {
                self.events.publish(reference, kind, note.clone());
            }
            self.events.publish(job_reference(subject), kind, note);
        };
        match happening {
            Happening::Claimed { tick, lag } => {
                tracing::info!(%job, %tick, lag_ms = lag.as_millis(), "tick claimed");
                self.metrics.tick_claimed(*lag);
            }
            Happening::CaughtUp { tick, missed } => {
                tracing::info!(%job, %tick, missed, "earlier ticks were missed");
                self.metrics.ticks_skipped(TickSkip::Superseded, *missed);
                tell(
                    EventKind::ScheduleCatchUp,
                    format!("{missed} earlier ticks were missed; only {tick} is made up for"),
                );
            }
            Happening::Skipped { tick, why, missed } => {
                let (word, text) = match why {
                    Skip::StillRunning => {
                        (TickSkip::RunStillActive, "a run of this BackupJob is not through (concurrencyPolicy: Forbid)")
                    }
                    Skip::DeadlinePassed => {
                        (TickSkip::DeadlinePassed, "it could not be started within startingDeadlineSeconds")
                    }
                    Skip::Missed => (TickSkip::Missed, "it was missed (missedRuns: Skip)"),
                    Skip::NameTaken => (TickSkip::NameTaken, "another object had the name of its BackupRun"),
                };
                tracing::info!(%job, %tick, why = word.as_str(), missed, "tick skipped");
                self.metrics.ticks_skipped(word, 1);
                self.metrics.ticks_skipped(TickSkip::Superseded, *missed);
                let earlier = if *missed > 0 { format!("; {missed} earlier ticks were missed") } else { String::new() };
                tell(EventKind::TickSkipped, format!("{tick} starts nothing: {text}{earlier}"));
            }
            Happening::NameTaken { run } => {
                tracing::warn!(%job, %run, "the name of the tick's BackupRun is taken");
                tell(
                    EventKind::NameTaken,
                    format!(
                        "a BackupRun {run} is in the way that is not of this BackupJob, or that a clock which was ahead has made \
                         before its time; delete it: kubectl delete backuprun {run} -n {}",
                        job.namespace
                    ),
                );
            }
            Happening::ClaimFailed { failure } => {
                tracing::warn!(%job, %failure, "claim failed, tried until it is through");
                // The same words for each tick, so that it is one row of Events.
                let message = failure.short_message();
                tell(
                    EventKind::ClaimFailed,
                    format!("a tick that is due has no BackupRun, and is tried again: {message}"),
                );
            }
            Happening::AttemptStarted { attempt } => {
                tracing::info!(%job, run, attempt, "attempt started");
                if let Some((_, uid)) = &subject.run {
                    lock(&self.begun).entry(uid.clone()).or_insert_with(|| self.metrics.run_series(job));
                }
                if *attempt == 1 {
                    tell(EventKind::RunStarted, format!("{run} started"));
                }
            }
            Happening::Moved { read, stored } => self.count(subject, |series| series.moved(*read, *stored)),
            Happening::AttemptFailed { attempt, failure, retry_at } => {
                self.metrics.attempt_ended(Some(failure.reason));
                let message = failure.short_message();
                tell(
                    EventKind::AttemptRetried,
                    format!(
                        "{run}: attempt {attempt} failed with {}, the next one starts at {retry_at}: {message}",
                        failure.reason
                    ),
                );
            }
            Happening::Waits { failure } => {
                let message = failure.short_message();
                tracing::info!(%job, run, reason = %failure.reason, message, "the run waits");
                self.metrics.attempt_ended(Some(failure.reason));
                tell(EventKind::RunWaits, format!("{run} {message}"));
            }
            Happening::Ended { phase, reason, message, duration, bytes_stored, shrunk, .. } => {
                self.count(subject, |series| series.ended(*phase, *reason, *duration));
                self.metrics.attempt_ended(*reason);
                let phase_word = phase.as_str();
                let reason_word = reason.map(crate::error::Reason::as_str).unwrap_or_default();
                tracing::info!(%job, run, phase = phase_word, reason = reason_word, seconds = duration.as_secs(), bytes_stored, message, "run ended");
                let note = match phase {
                    Phase::Succeeded => {
                        format!("{run}: {} stored in {}", human_size(*bytes_stored), human_duration(*duration))
                    }
                    _ => format!("{run}: {message}"),
                };
                let kind = match (phase, reason) {
                    (Phase::Succeeded, _) => EventKind::BackupSucceeded,
                    (Phase::Incomplete | Phase::PartiallyStored, _) => EventKind::BackupIncomplete,
                    (_, reason) => EventKind::Failed(reason.unwrap_or(crate::error::Reason::Internal)),
                };
                tell(kind, note);
                if let Some(shrunk) = shrunk {
                    tracing::warn!(%job, run, shrunk, "the backup is much smaller than those before it");
                    tell(EventKind::BackupShrunk, shrunk_note(run, job.name.as_str(), shrunk));
                }
            }
            Happening::Left => {
                if let Some((_, uid)) = &subject.run {
                    lock(&self.begun).remove(uid);
                }
            }
            Happening::TookOver { note } => {
                tracing::info!(%job, run, note, "archive taken over");
                tell(EventKind::ArchiveTakenOver, note.clone());
            }
            Happening::ForeignOwner { owner } => {
                tracing::warn!(%job, run, owner, "the archive is somebody else's");
                tell(EventKind::ForeignOwner, foreign_owner(job, owner));
            }
            Happening::ClockWentBack { warning } => {
                tracing::warn!(%job, warning, "ticks are held up by a clock that was ahead");
                tell(EventKind::ClockWentBack, warning.clone());
            }
            Happening::NotReady { failure } => {
                tracing::warn!(%job, reason = %failure.reason, message = failure.short_message(), "the BackupJob cannot run");
                tell(EventKind::Failed(failure.reason), failure.message.clone());
            }
            Happening::JobDeleted => {
                tracing::info!(%job, "the BackupJob is gone");
                self.metrics.job_removed(job);
            }
        }
    }
}

impl StatusSink for Observers {
    fn put(&self, job: JobRef, write: StatusWrite) {
        self.metrics.job_seen(&job, &write.status);
        self.statuses.put(job, write);
    }

    fn forget(&self) {
        self.statuses.clear();
        self.metrics.jobs_are_anothers();
    }
}

fn job_reference(subject: &Subject) -> ObjectReference {
    reference("BackupJob", &subject.job, subject.job.name.as_str(), subject.job_uid.as_ref())
}

fn run_reference(subject: &Subject) -> Option<ObjectReference> {
    subject.run.as_ref().map(|(name, uid)| reference("BackupRun", &subject.job, name.as_str(), Some(uid)))
}

fn reference(kind: &str, job: &JobRef, name: &str, uid: Option<&Uid>) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/v1")),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(job.namespace.to_string()),
        uid: uid.map(ToString::to_string),
        ..ObjectReference::default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::{Namespace, RunName};
    use crate::clock::SystemClock;
    use crate::telemetry::readiness::Readiness;
    use chrono::DateTime;
    use kube::Client;
    use std::time::Duration;

    /// Observers whose Events nobody writes.
    fn observers(turns: &Turns) -> (Arc<Metrics>, Observers) {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let nowhere = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nobody there"))
        });
        let client = Client::new(nowhere, "default");
        let (events, _) = Events::new(client, "ubo-0", Arc::clone(&metrics), Arc::new(SystemClock));
        let observers = Observers::new(&metrics, events, StatusQueue::default(), turns.clone());
        (metrics, observers)
    }

    fn subject(run: &str) -> Subject {
        let uid = Uid::new(format!("22222222-{}", run.len())).expect("a UID");
        let job = JobRef::new("default", "pg").expect("a job");
        Subject { job, job_uid: None, run: Some((RunName::new(run).expect("a name"), uid)) }
    }

    fn shows(metrics: &Metrics, line: &str) -> bool {
        metrics.render(&Readiness::new()).expect("text").lines().any(|shown| shown == line)
    }

    const ENDED: Happening = Happening::Ended {
        phase: Phase::Succeeded,
        reason: None,
        message: String::new(),
        duration: Duration::from_secs(1),
        bytes_stored: 3,
        shrunk: None,
        started: None,
    };

    #[tokio::test]
    async fn bytes_of_every_attempt_are_counted_and_a_run_once() {
        let (metrics, observers) = observers(&Turns::new(1));
        let pg = subject("pg-m1");
        for attempt in 1..=2 {
            observers.notice(&pg, &Happening::AttemptStarted { attempt });
            observers.notice(&pg, &Happening::Moved { read: 7, stored: 3 });
        }
        observers.notice(&pg, &ENDED);
        for line in [
            r#"ubo_read_bytes_total{job="pg",namespace="default"} 14"#,
            r#"ubo_stored_bytes_total{job="pg",namespace="default"} 6"#,
            r#"ubo_runs_total{job="pg",namespace="default",phase="Succeeded",reason="None"} 1"#,
        ] {
            assert!(shows(&metrics, line), "{line}");
        }
    }

    #[tokio::test]
    async fn what_was_handed_over_is_forgotten_and_is_no_end() {
        let (metrics, observers) = observers(&Turns::new(1));
        let pg = subject("pg-m1");
        observers.notice(&pg, &Happening::AttemptStarted { attempt: 1 });
        assert_eq!(lock(&observers.begun).len(), 1);
        observers.notice(&pg, &Happening::Left);
        assert!(lock(&observers.begun).is_empty());
        assert!(!metrics.render(&Readiness::new()).expect("text").contains("ubo_runs_total{"));
        // One whose BackupJob goes while it works counts for nobody, also not for one that is made anew under its name.
        observers.notice(&pg, &Happening::AttemptStarted { attempt: 1 });
        observers.notice(&Subject { run: None, ..pg.clone() }, &Happening::JobDeleted);
        observers.notice(&pg, &Happening::Moved { read: 7, stored: 3 });
        observers.notice(&pg, &ENDED);
        observers.notice(&pg, &Happening::Left);
        assert!(!metrics.render(&Readiness::new()).expect("text").contains("\"pg\""));
    }

    #[tokio::test]
    async fn who_works_and_who_waits_is_asked_when_somebody_looks() {
        let turns = Turns::new(1);
        let (metrics, _observers) = observers(&turns);
        let enter = || turns.enter(&Namespace::new("shop").expect("good"), DateTime::UNIX_EPOCH);
        let (works, waits) = (enter(), enter());
        assert!(shows(&metrics, "ubo_runs_in_flight 1") && shows(&metrics, "ubo_runs_queued 1"));
        drop(works);
        assert!(shows(&metrics, "ubo_runs_in_flight 1") && shows(&metrics, "ubo_runs_queued 0"));
        drop(waits);
        assert!(shows(&metrics, "ubo_runs_in_flight 0") && shows(&metrics, "ubo_runs_queued 0"));
    }
}
