//! **P** Everything the controller knows, and what follows from it.
//!
//! The watches put objects in (`apply_…`, `delete_…`), what was done reports back (`claim_ended`, `access_checked`), and
//! [`World::decide`] says what is to be done now. Nothing here does IO or reads a clock, so that every decision that can
//! lose or double a backup is tested without a cluster.
//!
//! **The schedule's memory** is two fields of the BackupJob's status. `lastScheduleTime` is the last tick that was handled
//! (claimed, or skipped and said so). `scheduleAnchor` says since when, and for which schedule, zone and suspend, ticks
//! count: it moves to now when one of the three changes, so what lies before an edit was not missed. Both are ours alone
//! (an admission policy says so); the process keeps the newest it has written and does not take them back from a watch.

use super::status::{self, Facts, Readiness};
use crate::api::FINALIZER_RUN;
use crate::api::backup_job::{BackupJob, BackupJobStatus, ScheduleAnchor};
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, Namespace, RunName, Uid};
use crate::api::time::{from_time, to_time};
use crate::error::{Failure, Reason};
use crate::run::Phase;
use crate::run::observer::{Happening, Skip, Subject};
use crate::run::ports::{Claim, Claimed, RunKey, phase_of};
use crate::schedule::index::{Due, Entry, Index};
use crate::validate::{ValidatedJob, validate};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// How long a finalizer holds a run that is to be deleted (`product.md` section 2).
const FINALIZER_LIMIT: TimeDelta = TimeDelta::minutes(5);
/// How soon a claim that failed is tried again.
const CLAIM_RETRY: TimeDelta = TimeDelta::seconds(5);
/// How soon a name that was taken is looked at again.
const NAME_RETRY: TimeDelta = TimeDelta::seconds(30);
/// How soon rights that were missing are looked for again, and how often rights that were there are checked.
const ACCESS_RETRY: (TimeDelta, TimeDelta) = (TimeDelta::seconds(15), TimeDelta::minutes(10));

/// Something to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Create the BackupRun of a tick; report with [`World::claim_ended`].
    Claim(Claim, u32),
    /// Give a run a task (which only closes it, when cancelled).
    Start(RunKey, Arc<BackupRun>, JobRef, Option<Reason>),
    /// Ask a run to stop.
    Cancel(RunKey, Reason),
    /// Ask every run of a BackupJob object to stop.
    CancelAll(Uid),
    /// Take our finalizer off.
    Release(Arc<BackupRun>),
    /// Delete a run that the history limits no longer keep.
    Delete(RunKey),
    /// Write a BackupJob's status.
    Write(JobRef, Uid, Box<BackupJobStatus>),
    /// See whether the namespace lets its ServiceAccount be used; report with [`World::access_checked`].
    CheckAccess(JobRef, Namespace, String),
    /// Tell the observers.
    Notice(Subject, Happening),
}

struct Job {
    uid: Uid,
    object: Arc<BackupJob>,
    valid: Result<Arc<ValidatedJob>, Failure>,
    access: Option<Result<(), Failure>>,
    access_due: DateTime<Utc>,
    checking: bool,
    status: BackupJobStatus,
    /// What was last handed to the writer (or found); the writer sees to it that it is stored.
    handed: Option<BackupJobStatus>,
    claim_not_before: Option<DateTime<Utc>>,
    claiming: bool,
    told_not_ready: Option<Reason>,
}

/// The controller's memory.
#[derive(Default)]
pub struct World {
    jobs: HashMap<JobRef, Job>,
    runs: HashMap<JobRef, BTreeMap<RunName, Arc<BackupRun>>>,
    index: Index,
    policy: Option<Failure>,
    dirty: BTreeSet<JobRef>,
    counted: HashSet<String>,
    /// UIDs of runs that this process has brought to their end: the watch may not show it yet.
    over: HashSet<String>,
    synced: bool,
    pending: Vec<Action>,
    /// When to look at a BackupJob again although nothing happened to it.
    alarms: BTreeSet<(DateTime<Utc>, JobRef)>,
}

impl World {
    /// A BackupJob was seen.
    pub fn apply_job(&mut self, object: BackupJob, now: DateTime<Utc>) {
        let Some((reference, uid)) = job_identity(&object) else {
            tracing::warn!(name = ?object.metadata.name, "a BackupJob without a usable name or UID was passed over");
            return;
        };
        if self.jobs.get(&reference).is_some_and(|known| known.uid != uid) {
            self.delete_job(&reference); // replaced: what belonged to the old object ends
        }
        let object = Arc::new(object);
        let changed = self.jobs.get(&reference).is_none_or(|known| {
            known.object.metadata.generation != object.metadata.generation
                || known.object.metadata.deletion_timestamp != object.metadata.deletion_timestamp
        });
        if changed {
            self.take_up(&reference, uid, object, now);
        } else if let Some(known) = self.jobs.get_mut(&reference) {
            known.object = object;
        }
        self.dirty.insert(reference);
    }

    fn take_up(&mut self, reference: &JobRef, uid: Uid, object: Arc<BackupJob>, now: DateTime<Utc>) {
        let going = object.metadata.deletion_timestamp.is_some();
        let valid = validate(&object).map(Arc::new).map_err(|invalid| Failure::new(invalid.reason, invalid.message));
        let old = self.jobs.remove(reference);
        let mut status =
            old.as_ref().map_or_else(|| object.status.clone().unwrap_or_default(), |old| old.status.clone());
        status.schedule_anchor = Some(anchor(&object, status.schedule_anchor.as_ref(), now));
        match &valid {
            Ok(valid) if !going => self.index.apply(reference.clone(), entry(valid, &status)),
            _ => self.index.delete(reference),
        }
        if going {
            self.pending.push(Action::CancelAll(uid.clone()));
        }
        self.alarms.insert((now, reference.clone()));
        let job = Job {
            uid,
            handed: old.as_ref().map_or_else(|| object.status.clone(), |old| old.handed.clone()),
            object,
            valid,
            status,
            access: old.as_ref().and_then(|old| old.access.clone()),
            access_due: now,
            checking: old.as_ref().is_some_and(|old| old.checking),
            claim_not_before: None,
            claiming: old.as_ref().is_some_and(|old| old.claiming),
            told_not_ready: old.and_then(|old| old.told_not_ready),
        };
        self.jobs.insert(reference.clone(), job);
    }

    /// A BackupJob is gone.
    pub fn delete_job(&mut self, reference: &JobRef) {
        self.index.delete(reference);
        if let Some(job) = self.jobs.remove(reference) {
            self.pending.push(Action::CancelAll(job.uid.clone()));
            let subject = Subject { job: reference.clone(), job_uid: Some(job.uid), run: None };
            self.pending.push(Action::Notice(subject, Happening::JobDeleted));
        }
        self.dirty.insert(reference.clone());
    }

    /// A BackupRun was seen.
    pub fn apply_run(&mut self, run: BackupRun) {
        let Some((key, job)) = run_identity(&run) else {
            tracing::warn!(name = ?run.metadata.name, "a BackupRun without a usable name, UID or backupJobName was passed over");
            return;
        };
        if self.synced && status::counts(&run) && self.counted.insert(key.uid.as_str().to_owned()) {
            let owner = run.metadata.owner_references.iter().flatten().next().map(|owner| owner.uid.clone());
            if let Some(known) =
                self.jobs.get_mut(&job).filter(|known| owner.is_none_or(|owner| owner == known.uid.as_str()))
            {
                let failures = known.status.consecutive_failures.unwrap_or(0);
                let succeeded = phase_of(&run) == Phase::Succeeded;
                known.status.consecutive_failures = Some(if succeeded { 0 } else { failures.saturating_add(1) });
            }
        }
        self.runs.entry(job.clone()).or_default().insert(key.name, Arc::new(run));
        self.dirty.insert(job);
    }

    /// A BackupRun is gone.
    pub fn delete_run(&mut self, run: &BackupRun) {
        let Some((key, job)) = run_identity(run) else { return };
        self.counted.remove(key.uid.as_str());
        self.over.remove(key.uid.as_str());
        if let Some(runs) = self.runs.get_mut(&job) {
            if runs.get(&key.name).is_some_and(|known| known.metadata.uid == run.metadata.uid) {
                runs.remove(&key.name);
                // The name may be the one that a claim waits for.
                if let Some(waiting) = self.jobs.get_mut(&job) {
                    waiting.claim_not_before = None;
                }
            }
            if runs.is_empty() {
                self.runs.remove(&job);
            }
        }
        self.dirty.insert(job);
    }

    /// Both watches have shown all that is there: from now on decisions are made.
    pub fn set_synced(&mut self) {
        if self.synced {
            return;
        }
        self.synced = true;
        for (reference, job) in &mut self.jobs {
            let runs: Vec<_> = self.runs.get(reference).into_iter().flat_map(BTreeMap::values).cloned().collect();
            let stored = job.status.consecutive_failures.unwrap_or(0);
            job.status.consecutive_failures = Some(status::recount(&runs, stored));
        }
        let ended = self.runs.values().flat_map(BTreeMap::values).filter(|run| status::counts(run));
        self.counted.extend(ended.filter_map(|run| run.metadata.uid.clone()));
        self.dirty.extend(self.jobs.keys().cloned());
        self.dirty.extend(self.runs.keys().cloned());
    }

    /// After a watch began anew: what is known and was not shown again is gone.
    pub fn retain_jobs(&mut self, shown: &HashSet<JobRef>) {
        let gone: Vec<JobRef> = self.jobs.keys().filter(|job| !shown.contains(job)).cloned().collect();
        for job in &gone {
            self.delete_job(job);
        }
    }

    /// After a watch began anew: what is known and was not shown again is gone.
    pub fn retain_runs(&mut self, shown: &HashSet<String>) {
        let all = self.runs.values().flat_map(BTreeMap::values);
        let gone: Vec<_> =
            all.filter(|run| run.metadata.uid.as_ref().is_none_or(|uid| !shown.contains(uid))).cloned().collect();
        for run in &gone {
            self.delete_run(run);
        }
    }

    /// Whether the admission policies are in force; while they are not, nothing starts.
    pub fn set_policy(&mut self, missing: Option<Failure>) {
        if self.policy != missing {
            self.policy = missing;
            self.dirty.extend(self.jobs.keys().cloned());
        }
    }

    /// What became of a claim.
    pub fn claim_ended(&mut self, claim: &Claim, missed: u32, result: Result<Claimed, Failure>, now: DateTime<Utc>) {
        let Some(job) = self.jobs.get_mut(&claim.job).filter(|job| job.uid == claim.job_uid) else {
            return;
        };
        job.claiming = false;
        let subject = Subject { job: claim.job.clone(), job_uid: Some(claim.job_uid.clone()), run: None };
        match result {
            Ok(claimed @ (Claimed::Created | Claimed::AlreadyOurs)) => {
                job.claim_not_before = None;
                note_handled(&mut job.status, claim.tick);
                self.index.handled(&claim.job, claim.tick);
                if matches!(claimed, Claimed::Created) {
                    let lag = (now - claim.tick).to_std().unwrap_or_default();
                    self.pending.push(Action::Notice(subject, Happening::Claimed { tick: claim.tick, lag, missed }));
                }
            }
            Ok(Claimed::NameTaken) => {
                job.claim_not_before = Some(now + NAME_RETRY);
                self.pending.push(Action::Notice(subject, Happening::NameTaken { run: claim.run.clone() }));
            }
            Ok(Claimed::Gone) => job.claim_not_before = Some(now + NAME_RETRY),
            Err(failure) => {
                job.claim_not_before = Some(now + CLAIM_RETRY);
                self.pending.push(Action::Notice(subject, Happening::ClaimFailed { failure }));
            }
        }
        self.alarms.extend(job.claim_not_before.map(|at| (at, claim.job.clone())));
        self.dirty.insert(claim.job.clone());
    }

    /// Whether the namespace lets its ServiceAccount be used.
    pub fn access_checked(&mut self, reference: &JobRef, result: Result<(), Failure>, now: DateTime<Utc>) {
        let Some(job) = self.jobs.get_mut(reference) else { return };
        job.checking = false;
        let (soon, later) = ACCESS_RETRY;
        job.access_due = now + if result.is_ok() { later } else { soon };
        self.alarms.insert((job.access_due, reference.clone()));
        let passing = matches!(&result, Err(failure) if failure.class() == crate::error::Class::Transient);
        if !(passing && job.access.is_some()) {
            job.access = Some(result); // an API server that does not answer says nothing about rights
        }
        self.dirty.insert(reference.clone());
    }

    /// When something becomes due by itself.
    pub fn next_wakeup(&self) -> Option<DateTime<Utc>> {
        self.index.next_wakeup().into_iter().chain(self.alarms.first().map(|(at, _)| *at)).min()
    }

    /// What is to be done now. `has_task` says which runs are at work in this process.
    pub fn decide(&mut self, now: DateTime<Utc>, has_task: &dyn Fn(&RunKey) -> bool) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.pending);
        if !self.synced {
            return actions;
        }
        let due = self.index.due(now);
        if self.policy.is_none() {
            self.decide_ticks(due, now, &mut actions);
        }
        self.decide_alarms(now, &mut actions);
        for reference in std::mem::take(&mut self.dirty) {
            self.decide_runs(&reference, now, has_task, &mut actions);
            self.decide_status(&reference, now, &mut actions);
        }
        actions
    }

    /// A run's task has ended; `over` says whether the run has, too.
    pub fn task_ended(&mut self, run: &RunKey, over: bool) {
        let found = self.runs.iter().find(|(job, runs)| job.namespace == run.namespace && runs.contains_key(&run.name));
        if let Some((job, _)) = found {
            self.dirty.insert(job.clone());
            if over {
                self.over.insert(run.uid.as_str().to_owned());
            }
        }
    }

    fn decide_ticks(&mut self, due: Vec<Due>, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        for Due { job: reference, tick, missed, .. } in due {
            let Some(job) = self.jobs.get_mut(&reference) else { continue };
            if job.claiming || job.claim_not_before.is_some_and(|at| at > now) {
                continue;
            }
            let Ok(valid) = &job.valid else { continue };
            let Ok(run) = RunName::new(run_name(&reference, valid, tick)) else { continue }; // 49 + 14 = 63 characters
            let runs = self.runs.get(&reference);
            let active = runs.into_iter().flatten().any(|(name, other)| *name != run && !phase_of(other).is_final());
            // The one run of a job without a schedule waits its turn instead: after a skip it would never come.
            if active && valid.schedule.is_some() {
                note_handled(&mut job.status, tick);
                job.status.skipped_runs = Some(job.status.skipped_runs.unwrap_or(0).saturating_add(1));
                self.index.handled(&reference, tick);
                let subject = Subject { job: reference.clone(), job_uid: Some(job.uid.clone()), run: None };
                actions.push(Action::Notice(subject, Happening::Skipped { tick, why: Skip::StillRunning }));
                self.dirty.insert(reference);
                continue;
            }
            job.claiming = true;
            let claim = Claim { job: reference, job_uid: job.uid.clone(), run, tick };
            actions.push(Action::Claim(claim, missed));
        }
    }

    fn decide_alarms(&mut self, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, reference)) = self.alarms.pop_first() else { return };
            let Some(job) = self.jobs.get_mut(&reference) else { continue };
            if let Ok(valid) = &job.valid
                && !job.checking
                && job.access_due <= now
            {
                job.checking = true;
                let account = valid.service_account.clone();
                actions.push(Action::CheckAccess(reference.clone(), reference.namespace.clone(), account));
            }
            self.dirty.insert(reference);
        }
    }

    fn decide_runs(
        &mut self,
        reference: &JobRef,
        now: DateTime<Utc>,
        has_task: &dyn Fn(&RunKey) -> bool,
        actions: &mut Vec<Action>,
    ) {
        let job = self.jobs.get(reference);
        for run in self.runs.get(reference).into_iter().flat_map(BTreeMap::values) {
            let Some((key, _)) = run_identity(run) else { continue };
            let deleted = run.metadata.deletion_timestamp.as_ref().map(from_time);
            let at_work = has_task(&key);
            if self.over.contains(key.uid.as_str()) && !phase_of(run).is_final() {
                continue; // our last write is on its way through the watch
            }
            if phase_of(run).is_final() || deleted.is_some_and(|since| now - since > FINALIZER_LIMIT) {
                let ours = run.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_RUN);
                let given_up = !phase_of(run).is_final();
                if deleted.is_some() && ours && ((!at_work && is_recorded(run, job)) || given_up) {
                    if given_up {
                        tracing::error!(run = %key.name, namespace = %key.namespace,
                            "the finalizer gives up after 5 minutes: a process, a folder or an upload of the run may be left");
                    }
                    actions.push(Action::Release(Arc::clone(run)));
                }
                continue;
            }
            let cause = if deleted.is_some() {
                Some(Reason::Deleted)
            } else if run.spec.cancel.unwrap_or(false) {
                Some(Reason::CancelRequested)
            } else {
                None
            };
            match (at_work, cause) {
                (true, Some(cause)) => actions.push(Action::Cancel(key, cause)),
                (false, cause) if self.policy.is_none() || cause.is_some() => {
                    actions.push(Action::Start(key, Arc::clone(run), reference.clone(), cause));
                }
                _ => {}
            }
        }
        self.decide_history(reference, actions);
    }

    /// Scheduled runs beyond the history limits go, oldest first, once the schedule no longer needs them.
    fn decide_history(&self, reference: &JobRef, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(reference) else { return };
        let Ok(valid) = &job.valid else { return };
        let mut kept = (0u32, 0u32);
        let runs = self.runs.get(reference).into_iter().flat_map(BTreeMap::values);
        let mut ended: Vec<_> =
            runs.filter(|run| run.spec.scheduled_at.is_some() && phase_of(run).is_final()).collect();
        ended.sort_by_key(|run| run.spec.scheduled_at.as_ref().map(from_time));
        for run in ended.into_iter().rev() {
            let (count, limit) = if phase_of(run) == Phase::Succeeded {
                (&mut kept.0, valid.keep_successful)
            } else {
                (&mut kept.1, valid.keep_failed)
            };
            *count += 1;
            if *count > limit
                && run.metadata.deletion_timestamp.is_none()
                && is_recorded(run, Some(job))
                && let Some((key, _)) = run_identity(run)
            {
                actions.push(Action::Delete(key));
            }
        }
    }

    fn decide_status(&mut self, reference: &JobRef, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(reference) else { return };
        let runs: Vec<_> = self.runs.get(reference).into_iter().flat_map(BTreeMap::values).cloned().collect();
        let readiness = match (&job.valid, &self.policy, &job.access) {
            (Err(failure), _, _) | (_, Some(failure), _) | (_, _, Some(Err(failure))) => {
                Readiness::NotReady(failure.clone())
            }
            (Ok(_), None, Some(Ok(()))) => Readiness::Ready,
            (Ok(_), None, None) => Readiness::Unknown,
        };
        let subject = Subject { job: reference.clone(), job_uid: Some(job.uid.clone()), run: None };
        match &readiness {
            Readiness::NotReady(failure) if job.told_not_ready != Some(failure.reason) => {
                job.told_not_ready = Some(failure.reason);
                actions.push(Action::Notice(subject, Happening::NotReady { failure: failure.clone() }));
            }
            Readiness::Ready => job.told_not_ready = None,
            _ => {}
        }
        let next_run = self.index.next_run(reference);
        let facts = Facts { job: &job.object, readiness: &readiness, runs: &runs, next_run, now };
        let status = status::derive(facts, &job.status);
        job.status = status.clone();
        if job.handed.as_ref() != Some(&status) {
            job.handed = Some(status.clone());
            actions.push(Action::Write(reference.clone(), job.uid.clone(), Box::new(status)));
        }
    }
}

/// The name of a tick's run: a function of job and tick, so that creating it is the claim.
pub fn run_name(job: &JobRef, valid: &ValidatedJob, tick: DateTime<Utc>) -> String {
    if valid.schedule.is_some() {
        format!("{}-{}", job.name, tick.format("%Y%m%d-%H%M"))
    } else {
        format!("{}-once", job.name)
    }
}

/// Moves `lastScheduleTime` to a handled tick, never back.
fn note_handled(status: &mut BackupJobStatus, tick: DateTime<Utc>) {
    let newest = status.last_schedule_time.as_ref().map(from_time).map_or(tick, |last| last.max(tick));
    status.last_schedule_time = Some(to_time(newest));
}

/// Whether the stored BackupJob already knows this run's tick, so that losing the run cannot fire it again.
fn is_recorded(run: &BackupRun, job: Option<&Job>) -> bool {
    let (Some(tick), Some(job)) = (run.spec.scheduled_at.as_ref().map(from_time), job) else {
        return true; // made by hand, or its BackupJob is gone
    };
    let owner = run.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "BackupJob");
    if owner.is_some_and(|owner| owner.uid != job.uid.as_str()) {
        return true; // of an earlier object of the same name
    }
    let stored = job.object.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    stored.map(from_time).is_some_and(|last| last >= tick)
}

/// Since when ticks count. A schedule that was taken away is remembered as suspended, so that the job does not become a
/// one-off and its return counts from then.
fn anchor(job: &BackupJob, stored: Option<&ScheduleAnchor>, now: DateTime<Utc>) -> ScheduleAnchor {
    let created = job.metadata.creation_timestamp.as_ref().map_or(now, from_time);
    let suspend = job.spec.suspend.unwrap_or(false);
    let (schedule, zone) = (job.spec.schedule.clone(), job.spec.time_zone.clone());
    match stored {
        None => ScheduleAnchor { time: to_time(created), schedule, time_zone: zone, suspend: Some(suspend) },
        Some(old) if schedule.is_none() && old.schedule.is_some() => {
            if old.suspend == Some(true) {
                old.clone()
            } else {
                ScheduleAnchor { time: to_time(now), suspend: Some(true), ..old.clone() }
            }
        }
        Some(old) if (&old.schedule, &old.time_zone, old.suspend.unwrap_or(false)) == (&schedule, &zone, suspend) => {
            old.clone()
        }
        Some(_) => ScheduleAnchor { time: to_time(now), schedule, time_zone: zone, suspend: Some(suspend) },
    }
}

/// The schedule's entry.
fn entry(valid: &ValidatedJob, status: &BackupJobStatus) -> Entry {
    let anchor = status.schedule_anchor.as_ref();
    let last = status.last_schedule_time.as_ref().map(from_time);
    let once_scheduled = anchor.is_some_and(|anchor| anchor.schedule.is_some());
    let since = anchor.map_or(valid.created, |anchor| from_time(&anchor.time));
    Entry {
        uid: valid.uid.clone(),
        schedule: valid.schedule.clone(),
        suspend: valid.suspend,
        anchor: last.map_or(since, |last| last.max(since)),
        once_done: last.is_some() || once_scheduled,
    }
}

fn job_identity(job: &BackupJob) -> Option<(JobRef, Uid)> {
    let reference = JobRef::new(job.metadata.namespace.clone()?, job.metadata.name.clone()?).ok()?;
    Some((reference, Uid::new(job.metadata.uid.clone()?).ok()?))
}

/// The run's key and the BackupJob that it is of.
pub fn run_identity(run: &BackupRun) -> Option<(RunKey, JobRef)> {
    let namespace = Namespace::new(run.metadata.namespace.clone()?).ok()?;
    let name = RunName::new(run.metadata.name.clone()?).ok()?;
    let uid = Uid::new(run.metadata.uid.clone()?).ok()?;
    let job = JobRef::new(namespace.as_str(), run.spec.backup_job_name.clone()).ok()?;
    Some((RunKey { namespace, name, uid }, job))
}

#[cfg(test)]
mod tests;
