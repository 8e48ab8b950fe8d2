//! **W** What happens, told to metrics, Events and the log.

use crate::api::GROUP;
use crate::api::names::{JobRef, Uid};
use crate::controller::status::{foreign_owner, shrunk_note};
use crate::controller::status_writer::StatusQueue;
use crate::run::Phase;
use crate::run::observer::{Happening, Observer, Skip, Subject};
use crate::run::ports::{StatusSink, StatusWrite};
use crate::run::record::{human_duration, human_size};
use crate::telemetry::events::{EventKind, Events};
use crate::telemetry::metrics::{Metrics, RunInFlight, Scraped, TickSkip};
use k8s_openapi::api::core::v1::ObjectReference;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Everybody who wants to know.
pub(super) struct Observers {
    metrics: Arc<Metrics>,
    events: Events,
    statuses: StatusQueue,
    at_work: Mutex<HashMap<Uid, RunInFlight>>,
}

impl Observers {
    /// They count into `metrics`, speak through `events`, and hand status on to `statuses`. `with_task` is how many runs
    /// have a task: those of them that do not work wait.
    pub(super) fn new(
        metrics: &Arc<Metrics>,
        events: Events,
        statuses: StatusQueue,
        with_task: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let observers = Arc::new(Self { metrics: Arc::clone(metrics), events, statuses, at_work: Mutex::default() });
        let asked = Arc::downgrade(&observers);
        metrics.at_scrape(move || {
            let Some(observers) = asked.upgrade() else { return Scraped::default() };
            let at_work = lock(&observers.at_work).len();
            Scraped { queued: with_task.load(Ordering::Relaxed).saturating_sub(at_work) }
        });
        observers
    }

    fn count_end(&self, subject: &Subject, phase: Phase, happening: &Happening) {
        let Happening::Ended { reason, duration, bytes_read, bytes_stored, .. } = happening else { return };
        let Some((_, uid)) = &subject.run else { return };
        let in_flight = lock(&self.at_work).remove(uid);
        let in_flight = in_flight.unwrap_or_else(|| self.metrics.run_started(&subject.job));
        in_flight.moved(*bytes_read, *bytes_stored);
        in_flight.ended(phase, *reason, *duration);
        self.metrics.attempt_ended(*reason);
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
            Happening::Claimed { tick, lag, missed } => {
                tracing::info!(%job, %tick, lag_ms = lag.as_millis(), missed, "tick claimed");
                self.metrics.tick_claimed(*lag);
                if *missed > 0 {
                    self.metrics.ticks_skipped(TickSkip::Superseded, *missed);
                    tell(
                        EventKind::ScheduleCatchUp,
                        format!("{missed} earlier ticks were missed; only {tick} is made up for"),
                    );
                }
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
            Happening::ClaimFailed { failure } => tracing::warn!(%job, %failure, "claim failed, tried again"),
            Happening::AttemptStarted { attempt } => {
                tracing::info!(%job, run, attempt, "attempt started");
                if let Some((_, uid)) = &subject.run {
                    lock(&self.at_work).entry(uid.clone()).or_insert_with(|| self.metrics.run_started(job));
                }
                if *attempt == 1 {
                    tell(EventKind::RunStarted, format!("{run} started"));
                }
            }
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
                self.count_end(subject, *phase, happening);
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
