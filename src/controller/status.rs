//! **P** Status of a BackupJob: what is known of it and its runs, and the old status, to the new one.

use crate::api::backup_job::{BackupJob, BackupJobStatus, JobPhase};
use crate::api::backup_run::{BackupRun, BackupRunStatus};
use crate::api::conditions::{self, BACKUP_SHRUNK, Word};
use crate::api::names::JobRef;
use crate::api::time::{from_time, to_time};
use crate::api::{ANNOTATION_ACCEPTED, ANNOTATION_ADOPT};
use crate::error::{Failure, Reason};
use crate::run::Phase;
use crate::run::ports::phase_of;
use crate::run::record;
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use std::sync::Arc;

/// Whether a BackupJob can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not looked at yet.
    Unknown,
    /// It can.
    Ready,
    /// It cannot, and why.
    NotReady(Failure),
}

/// What a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The object.
    pub job: &'a BackupJob,
    /// Whether it can run.
    pub readiness: &'a Readiness,
    /// Its runs, in any order.
    pub runs: &'a [Arc<BackupRun>],
    /// The next tick, if any.
    pub next_run: Option<DateTime<Utc>>,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The new status. `old` is the one that we wrote last (or found): the fields that only the schedule knows
/// (`lastScheduleTime`, `scheduleAnchor`, `skippedRuns`, `consecutiveFailures`) are taken from it.
pub fn derive(facts: Facts<'_>, old: &BackupJobStatus) -> BackupJobStatus {
    let Facts { job, readiness, runs, next_run, now } = facts;
    let generation = job.metadata.generation;
    let mut status = old.clone();
    let mut all: Vec<&BackupRun> = runs.iter().map(AsRef::as_ref).collect();
    all.sort_by_key(|run| begun(run));
    // History keeps what its limits say, and that may be older than what was the last one: a run that ended before that
    // says nothing new. A time that has not come is of a clock that was ahead.
    let known = old.last_run_time.as_ref().map(from_time).filter(|known| *known <= now);
    let ended = |run: &BackupRun| status_of(run).and_then(|s| s.completion_time.as_ref()).map(from_time);
    let is_news = |run: &&BackupRun| !phase_of(run).is_final() || ended(run).or(begun(run).0) >= known;
    let runs: Vec<&BackupRun> = all.iter().copied().filter(is_news).collect();

    status.observed_generation = generation;
    status.target = Some(format!("{}/{}", job.spec.target.kind.as_str(), job.spec.target.name));
    status.next_run_time = next_run.map(to_time);
    let started = |run: &&&BackupRun| status_of(run).is_some_and(|s| s.start_time.is_some()) && begun(run).0 >= known;
    if let Some(last) = runs.iter().rev().find(started) {
        status.last_job_name.clone_from(&last.metadata.name);
        status.last_run_time = status_of(last).and_then(|s| s.start_time.clone());
    }
    let finished = runs.iter().rev().find(|run| phase_of(run).is_final());
    if let Some(exit_code) = finished.and_then(|run| status_of(run)).map(|s| s.exit_code) {
        status.last_exit_code = exit_code;
    }
    note_success(&mut status, &all);
    note_health(&mut status, job, &runs, now);
    note_owner(&mut status, job, &all, now);
    let (word, reason, message) = match readiness {
        Readiness::Unknown => (Word::Unknown, "Checking", "not looked at yet"),
        Readiness::Ready => (Word::True, "Ready", "the BackupJob can run"),
        Readiness::NotReady(failure) => (Word::False, failure.reason.as_str(), failure.message.as_str()),
    };
    conditions::set(&mut status.conditions, "Ready", word, reason, message, generation, now);

    let phases: Vec<Phase> = runs.iter().map(|run| phase_of(run)).collect();
    let suspended = job.spec.suspend.unwrap_or(false);
    status.phase = Some(match readiness {
        Readiness::NotReady(_) => JobPhase::NotReady,
        _ if phases.contains(&Phase::Running) => JobPhase::Running,
        Readiness::Unknown => JobPhase::Pending,
        Readiness::Ready if phases.contains(&Phase::Pending) => JobPhase::Pending,
        Readiness::Ready if suspended => JobPhase::Suspended,
        Readiness::Ready => finished.map_or_else(|| told_before(&status), |run| job_phase(phase_of(run))),
    });
    let told = runs.iter().rev().find(|run| !phase_of(run).is_final()).or(finished);
    status.message = match (readiness, told) {
        (Readiness::NotReady(failure), _) => Some(failure.short_message().to_owned()),
        (_, Some(run)) => status_of(run).and_then(|s| s.message.clone()),
        _ => health(&status).filter(|health| health.status == "False").map(|health| health.message.clone()),
    };
    status
}

/// The phase when the last run is not there any more, by what was known of it.
fn told_before(status: &BackupJobStatus) -> JobPhase {
    match health(status) {
        Some(health) if health.status == "True" || health.reason == BACKUP_SHRUNK => JobPhase::Succeeded,
        Some(health) if health.status == "False" => JobPhase::Failed,
        _ => JobPhase::Scheduled,
    }
}

fn health(status: &BackupJobStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == "Healthy")
}

/// Consecutive failures, from the runs that are still there and what was stored: used once, when a process first sees a
/// BackupJob; afterwards each end counts by itself. History limits are counted for successes and failures apart, so that of
/// either the newest may be gone while older ones of the other are there.
pub fn recount(runs: &[Arc<BackupRun>], stored: &BackupJobStatus) -> i64 {
    let ended = || runs.iter().map(AsRef::as_ref).filter(|run| counts(run));
    let known = stored.last_success_time.as_ref().map(from_time);
    let visible = ended().filter(|run| phase_of(run) == Phase::Succeeded).map(begun).max();
    let unknown = visible.as_ref().is_some_and(|success| success.0 > known);
    let is_since = |run: &&BackupRun| {
        let begun = begun(run);
        phase_of(run) != Phase::Succeeded && begun.0 >= known && visible.as_ref().is_none_or(|success| begun > *success)
    };
    let since = i64::try_from(ended().filter(is_since).count()).unwrap_or(i64::MAX);
    // What was stored counts from a success before the visible one; else from the same, and some may have gone since.
    if unknown { since } else { since.max(stored.consecutive_failures.unwrap_or(0)) }
}

/// Whether a run counts for health: it is final, and not because somebody stopped it.
pub fn counts(run: &BackupRun) -> bool {
    let phase = phase_of(run);
    phase.is_final() && phase != Phase::Cancelled
}

fn note_success(status: &mut BackupJobStatus, runs: &[&BackupRun]) {
    let Some(best) = runs.iter().rev().find(|run| phase_of(run) == Phase::Succeeded) else {
        return;
    };
    let Some(found) = status_of(best) else { return };
    let newer = match (&found.start_time, &status.last_success_time) {
        (Some(new), Some(old)) => from_time(new) >= from_time(old),
        (new, _) => new.is_some(),
    };
    if newer {
        status.last_success_time.clone_from(&found.start_time);
        status.last_successful_run.clone_from(&best.metadata.name);
        status.consistency = found.consistency.map(|how| format!("{how:?}"));
        status.last_size = found.bytes_stored.and_then(|bytes| u64::try_from(bytes).ok()).map(record::human_size);
    }
}

/// The last run's verdict. A backup that shrank is sound in itself, but nobody should trust it before somebody has looked.
fn note_health(status: &mut BackupJobStatus, job: &BackupJob, runs: &[&BackupRun], now: DateTime<Utc>) {
    let generation = job.metadata.generation;
    let last = runs.iter().rev().find(|run| counts(run));
    let accepted = job.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_ACCEPTED));
    let old = status.conditions.iter().find(|c| c.type_ == "Healthy");
    let shrunk = last.filter(|run| accepted.is_none() || run.metadata.name.as_ref() != accepted);
    if let Some(run) = shrunk.filter(|run| phase_of(run) == Phase::Succeeded)
        && let Some(by) = status_of(run).and_then(|found| found.shrunk.as_deref())
    {
        let name = run.metadata.name.as_deref().unwrap_or_default();
        let message = shrunk_note(name, job.metadata.name.as_deref().unwrap_or_default(), by);
        conditions::set(&mut status.conditions, "Healthy", Word::False, BACKUP_SHRUNK, &message, generation, now);
        return;
    }
    let (word, reason, message) = match last {
        Some(run) if phase_of(run) == Phase::Succeeded => {
            (Word::True, "BackupSucceeded".to_owned(), "the last backup is whole")
        }
        Some(run) => {
            let found = status_of(run);
            let reason = found.and_then(|s| s.reason.clone()).unwrap_or_else(|| Reason::Internal.as_str().to_owned());
            (Word::False, reason, found.and_then(|s| s.message.as_deref()).unwrap_or("the last backup failed"))
        }
        // Runs may all have been pruned: then the condition stays as it is, unless what it complains of is accepted.
        None if old.is_some_and(|c| c.reason == BACKUP_SHRUNK)
            && accepted.is_some()
            && status.last_successful_run.as_ref() == accepted =>
        {
            (Word::True, "BackupSucceeded".to_owned(), "the last backup is whole, and accepted as it is")
        }
        None if old.is_some() => return,
        None => (Word::Unknown, "NoBackupYet".to_owned(), "no run has ended yet"),
    };
    conditions::set(&mut status.conditions, "Healthy", word, &reason, message, generation, now);
}

/// `RetentionStopped`, once a backup has said that the archive is somebody else's, until one says that it is not.
fn note_owner(status: &mut BackupJobStatus, job: &BackupJob, runs: &[&BackupRun], now: DateTime<Utc>) {
    const KIND: &str = "RetentionStopped";
    let stored = runs.iter().rev().filter_map(|run| status_of(run)).find(|found| !found.destinations.is_empty());
    let Some(stored) = stored else { return };
    let generation = job.metadata.generation;
    match stored.destinations.iter().find_map(|at| at.foreign_owner.as_deref()) {
        Some(owner) => {
            let (namespace, name) = (job.metadata.namespace.as_deref(), job.metadata.name.as_deref());
            let message = JobRef::new(namespace.unwrap_or_default(), name.unwrap_or_default())
                .map_or_else(|failure| failure.message, |reference| foreign_owner(&reference, owner));
            conditions::set(&mut status.conditions, KIND, Word::True, "ForeignOwner", &message, generation, now);
        }
        None if status.conditions.iter().any(|c| c.type_ == KIND) => {
            let message = "the archive is this BackupJob's own";
            conditions::set(&mut status.conditions, KIND, Word::False, "OwnArchive", message, generation, now);
        }
        None => {}
    }
}

/// What is said of an archive whose owner is `owner` (`<cluster id>/<job UID>`), and what to do about it.
pub fn foreign_owner(job: &JobRef, owner: &str) -> String {
    format!(
        "the archive belongs to another BackupJob ({owner}, see owner.json in it): backups are stored, and nothing is deleted. \
         If this one continues it (a cluster that was rebuilt, a job that was renamed): kubectl annotate backupjob {} -n {} \
         --overwrite {ANNOTATION_ADOPT}={owner}; if not, give it another spec.archiveName or uri",
        job.name, job.namespace
    )
}

/// What is said of a backup that shrank: by how much, and what to do.
pub fn shrunk_note(run: &str, job: &str, by: &str) -> String {
    format!("{run}: {by}. It is kept. Look whether that is right; if it is: kubectl backup accept {job} {run}")
}

fn job_phase(phase: Phase) -> JobPhase {
    match phase {
        Phase::Pending => JobPhase::Pending,
        Phase::Running => JobPhase::Running,
        Phase::Succeeded => JobPhase::Succeeded,
        Phase::PartiallyStored => JobPhase::PartiallyStored,
        Phase::Incomplete => JobPhase::Incomplete,
        Phase::Failed => JobPhase::Failed,
        Phase::Cancelled => JobPhase::Cancelled,
    }
}

fn status_of(run: &BackupRun) -> Option<&BackupRunStatus> {
    run.status.as_ref()
}

/// The order of runs: when they began, or were made. API times are whole seconds; of two runs in one second the one that
/// was written last is the later (resourceVersions of one resource are numbers in order: KEP-5504).
fn begun(run: &BackupRun) -> (Option<DateTime<Utc>>, Option<u64>, Option<String>) {
    let started = status_of(run).and_then(|status| status.start_time.as_ref());
    let version = run.metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
    (started.or(run.metadata.creation_timestamp.as_ref()).map(from_time), version, run.metadata.name.clone())
}

#[cfg(test)]
mod tests;
