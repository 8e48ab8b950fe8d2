//! **P** Runs: which of them get a task, a wish to stop, their finalizer taken off, or are no longer kept.

use super::going::Patience;
use super::{Action, Job, World, clock, slim};
use crate::api::FINALIZER_RUN;
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, Namespace, RunName, Uid};
use crate::api::time::from_time;
use crate::controller::status;
use crate::error::{Failure, Reason};
use crate::run::Phase;
use crate::run::ports::{RunKey, TaskEnd, phase_of};
use crate::validate::Concurrency;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// No clock that is right is so far behind another one.
const FAR_OFF: TimeDelta = TimeDelta::days(1);

/// When to look again whether a finalizer is off, or a run deleted: in half a minute to a minute. All that ask for it within
/// half a minute get the same time, so that one look follows however often something happens meanwhile.
fn again(now: DateTime<Utc>) -> DateTime<Utc> {
    let half_minutes = now.timestamp().div_euclid(30) + 2;
    DateTime::from_timestamp(half_minutes.saturating_mul(30), 0).unwrap_or(now)
}

impl World {
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
                Arc::make_mut(&mut known.status).consecutive_failures =
                    Some(if succeeded { 0 } else { failures.saturating_add(1) });
            }
        }
        self.runs.entry(job.clone()).or_default().insert(key.name, Arc::new(slim::run(run)));
        self.dirty.insert(job);
    }

    /// A BackupRun is gone.
    pub fn delete_run(&mut self, run: &BackupRun, now: DateTime<Utc>) {
        let Some((key, job)) = run_identity(run) else { return };
        self.counted.remove(key.uid.as_str());
        self.over.remove(key.uid.as_str());
        self.going.forget(key.uid.as_str());
        self.duty.forget(key.uid.as_str());
        if let Some(runs) = self.runs.get_mut(&job) {
            if runs.get(&key.name).is_some_and(|known| known.metadata.uid == run.metadata.uid) {
                runs.remove(&key.name);
                // The name may be the one that a claim waits for.
                self.index.offer(&job, now);
            }
            if runs.is_empty() {
                self.runs.remove(&job);
            }
        }
        self.dirty.insert(job);
    }

    /// A BackupRun that could not be read any more is gone.
    pub fn forget_run(&mut self, uid: &str, now: DateTime<Utc>) {
        let known = self.runs.values().flat_map(BTreeMap::values).find(|run| run.metadata.uid.as_deref() == Some(uid));
        if let Some(run) = known.cloned() {
            self.delete_run(&run, now);
        }
    }

    /// After a watch began anew: what is known and was not shown again is gone.
    pub fn retain_runs(&mut self, shown: &HashSet<String>, now: DateTime<Utc>) {
        let all = self.runs.values().flat_map(BTreeMap::values);
        let gone: Vec<_> =
            all.filter(|run| run.metadata.uid.as_ref().is_none_or(|uid| !shown.contains(uid))).cloned().collect();
        for run in &gone {
            self.delete_run(run, now);
        }
    }

    /// Whether a namespace is going, which [`Action::LookAtNamespace`] asked for.
    pub fn namespace_seen(&mut self, namespace: &Namespace, going: Result<bool, Failure>, now: DateTime<Utc>) {
        if let Err(failure) = &going {
            tracing::warn!(%namespace, %failure, "whether the namespace is going is not known; asked again within a minute");
        }
        self.going.looked_at(namespace, going.unwrap_or(false), now);
        self.dirty.extend(self.runs.keys().filter(|job| job.namespace == *namespace).cloned());
    }

    /// The task of a run of `job` has ended.
    pub fn task_ended(&mut self, run: &RunKey, job: &JobRef, end: TaskEnd) {
        // Also while the watches begin anew, and show it later.
        match end {
            TaskEnd::Fault => self.duty.note_fault(run),
            TaskEnd::Over => self.duty.forget(run.uid.as_str()),
            TaskEnd::Left => {}
        }
        if self.runs.get(job).is_some_and(|runs| runs.contains_key(&run.name)) {
            self.dirty.insert(job.clone());
            if end == TaskEnd::Over {
                self.over.insert(run.uid.as_str().to_owned());
            }
        }
    }

    pub(super) fn decide_runs(
        &mut self,
        reference: &JobRef,
        now: DateTime<Utc>,
        has_task: &dyn Fn(&RunKey) -> bool,
        actions: &mut Vec<Action>,
    ) {
        let job = self.jobs.get(reference);
        let elsewhere = self.duty.executes_elsewhere(self.runs.get(reference).into_iter().flat_map(BTreeMap::values));
        let replacing = job.and_then(|job| self.replacing(reference, job));
        let valid = job.and_then(|job| job.valid.as_ref().ok());
        let overlaps = valid.is_some_and(|valid| valid.timing.concurrency == Concurrency::Allow);
        for run in self.runs.get(reference).into_iter().flat_map(BTreeMap::values) {
            let Some((key, _)) = run_identity(run) else { continue };
            let deleted = run.metadata.deletion_timestamp.as_ref().map(|_| self.going.seen(key.uid.as_str(), now));
            let at_work = has_task(&key);
            if self.over.contains(key.uid.as_str()) && !phase_of(run).is_final() {
                continue; // our last write is on its way through the watch
            }
            let through = phase_of(run).is_final();
            let patience = deleted.filter(|_| !through).map(|since| self.going.patience(&key.namespace, since, now));
            let given_up = if let Some(Patience::Over(why)) = patience { Some(why) } else { None };
            if through || given_up.is_some() {
                let ours = run.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_RUN);
                if deleted.is_some() && ours && ((!at_work && is_recorded(run, job, now)) || given_up.is_some()) {
                    if let Some(why) = given_up {
                        tracing::error!(run = %key.name, namespace = %key.namespace, at_work,
                            "the finalizer gives up {why}: a process, a folder or an upload of the run may be left");
                    }
                    actions.push(Action::Release(Arc::clone(run)));
                    self.alarms.insert((again(now), reference.clone()));
                }
                continue;
            }
            match patience {
                Some(Patience::Until(then)) => {
                    self.alarms.insert((then, reference.clone()));
                }
                Some(Patience::Look) => {
                    actions.push(Action::LookAtNamespace(key.namespace.clone()));
                    self.alarms.insert((again(now), reference.clone()));
                }
                Some(Patience::Over(_)) | None => {}
            }
            match (at_work, stops(run, replacing)) {
                (true, Some(cause)) => actions.push(Action::Cancel(key, cause)),
                // The process that executes it sees the same wish.
                (false, _) if self.duty.is_anothers(run, reference) => {}
                // One run of a job at a time, whoever executes it, unless they may overlap.
                (false, None) if elsewhere && !overlaps => {}
                (false, cause) if self.policy.is_none() || cause.is_some() => {
                    self.duty.forget(key.uid.as_str());
                    actions.push(Action::Start(key, Arc::clone(run), reference.clone(), cause));
                }
                _ => {}
            }
        }
        self.decide_history(reference, now, actions);
    }

    /// The latest scheduled run of a job whose runs take the place of each other.
    pub(super) fn replacing(&self, reference: &JobRef, job: &Job) -> Option<DateTime<Utc>> {
        let valid = job.valid.as_ref().ok()?;
        if valid.timing.concurrency != Concurrency::Replace {
            return None;
        }
        let runs = self.runs.get(reference)?.values().filter(|run| is_of(run, job));
        let runs = runs.filter(|run| self.decided_at.is_none_or(|now| !is_of_a_wrong_clock(run, job, now)));
        runs.filter_map(|run| run.spec.scheduled_at.as_ref()).map(from_time).max()
    }

    /// Scheduled runs beyond the history limits go, oldest first, once the schedule no longer needs them.
    fn decide_history(&mut self, reference: &JobRef, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(reference) else { return };
        let Ok(valid) = &job.valid else { return };
        let mut kept = (0u32, 0u32);
        let runs = self.runs.get(reference).into_iter().flat_map(BTreeMap::values);
        let ours = runs.filter(|run| run.spec.scheduled_at.is_some() && is_owned(run, &job.uid));
        let mut ended: Vec<_> = ours.filter(|run| phase_of(run).is_final()).collect();
        // What a clock that was ahead has made is no newer than what is made now.
        ended.sort_by_key(|run| {
            let tick = run.spec.scheduled_at.as_ref().map(from_time);
            (!is_of_a_wrong_clock(run, job, now), tick)
        });
        for run in ended.into_iter().rev() {
            let (count, limit) = if phase_of(run) == Phase::Succeeded {
                (&mut kept.0, valid.keep_successful)
            } else {
                (&mut kept.1, valid.keep_failed)
            };
            *count += 1;
            if *count > limit
                && run.metadata.deletion_timestamp.is_none()
                && is_recorded(run, Some(job), now)
                && let Some((key, _)) = run_identity(run)
            {
                actions.push(Action::Delete(key));
                self.alarms.insert((again(now), reference.clone()));
            }
        }
    }
}

/// Why this run is to stop, if it is: somebody wishes it, or the run of the tick `replacing` takes its place.
pub(super) fn stops(run: &BackupRun, replacing: Option<DateTime<Utc>>) -> Option<Reason> {
    if run.metadata.deletion_timestamp.is_some() {
        Some(Reason::Deleted)
    } else if run.spec.cancel.unwrap_or(false) {
        Some(Reason::CancelRequested)
    } else if is_replaced(run, replacing) {
        Some(Reason::Replaced)
    } else {
        None
    }
}

/// Whether a later run of the schedule is there, which takes this one's place. That it exists is what counts, so that a
/// crash between its creation and this wish changes nothing. Runs that were asked for by hand are waited for instead.
fn is_replaced(run: &BackupRun, latest: Option<DateTime<Utc>>) -> bool {
    match (run.spec.scheduled_at.as_ref().map(from_time), latest) {
        (Some(tick), Some(latest)) => tick < latest,
        _ => false,
    }
}

/// Whether this BackupJob object owns a run. Only what it owns can be its claim to a tick, and is its to delete: a run that
/// nobody owns is one that nobody has taken up yet, or was kept when an earlier BackupJob was deleted (`--cascade=orphan`).
pub(super) fn is_owned(run: &BackupRun, job: &Uid) -> bool {
    run.metadata.owner_references.iter().flatten().any(|owner| owner.uid == job.as_str())
}

/// Whether a run belongs to this BackupJob object, and not to an earlier one of the same name. One without an owner does.
pub(super) fn is_of(run: &BackupRun, job: &Job) -> bool {
    let owner = run.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "BackupJob");
    owner.is_none_or(|owner| owner.uid == job.uid.as_str())
}

/// Whether a run was made for a tick that had not come, or is far from having come.
fn is_of_a_wrong_clock(run: &BackupRun, job: &Job, now: DateTime<Utc>) -> bool {
    let far_off = run.spec.scheduled_at.as_ref().map(from_time) > Some(now + FAR_OFF);
    far_off || clock::is_of_the_future(run, now) || clock::is_early(run, job.since())
}

/// Whether losing this run cannot fire its tick again: the stored BackupJob knows the tick, or is going and fires nothing any
/// more, or the tick is not this run's: another BackupJob's was, or a clock that was wrong claimed it, and its time is to come.
fn is_recorded(run: &BackupRun, job: Option<&Job>, now: DateTime<Utc>) -> bool {
    let (Some(tick), Some(job)) = (run.spec.scheduled_at.as_ref().map(from_time), job) else {
        return true; // made by hand, or its BackupJob is gone
    };
    if !is_owned(run, &job.uid) || is_of_a_wrong_clock(run, job, now) {
        return true; // it is no claim to its tick
    }
    if job.object.metadata.deletion_timestamp.is_some() {
        return true;
    }
    let stored = job.object.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    stored.map(from_time).is_some_and(|last| last >= tick)
}

/// The run's key and the BackupJob that it is of.
pub fn run_identity(run: &BackupRun) -> Option<(RunKey, JobRef)> {
    let namespace = Namespace::new(run.metadata.namespace.clone()?).ok()?;
    let name = RunName::new(run.metadata.name.clone()?).ok()?;
    let uid = Uid::new(run.metadata.uid.clone()?).ok()?;
    let job = JobRef::new(namespace.as_str(), run.spec.backup_job_name.clone()).ok()?;
    Some((RunKey { namespace, name, uid }, job))
}
