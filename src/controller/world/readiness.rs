//! **P** Whether a BackupJob can run (policies, its namespace's rights, its own text), and the status that says so.

use super::{Action, Handed, World, clock};
use crate::api::names::JobRef;
use crate::controller::status::{self, Facts, Readiness};
use crate::error::Failure;
use crate::run::observer::{Happening, Subject};
use crate::run::ports::StatusWrite;
use crate::validate::ValidatedJob;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How soon what was missing is looked for again, and how often what was there is checked.
const ACCESS_RETRY: (TimeDelta, TimeDelta) = (TimeDelta::seconds(15), TimeDelta::minutes(10));
/// For each BackupJob that lacks something: twenty looks a second in all, whatever their number. A cluster with thousands
/// of them (a ClusterRole that was taken away) must not be asked without a pause.
const BETWEEN_LOOKS: TimeDelta = TimeDelta::milliseconds(50);

impl World {
    /// Whether the admission policies are in force; while they are not, nothing starts.
    pub fn set_policy(&mut self, missing: Option<Failure>) {
        if self.policy != missing {
            self.policy = missing;
            self.dirty.extend(self.jobs.keys().cloned());
        }
    }

    /// Whether a look that ended was at the BackupJob as it is now.
    pub fn is_current(&self, reference: &JobRef, looked_at: &Arc<ValidatedJob>) -> bool {
        let valid = self.jobs.get(reference).map(|job| &job.valid);
        valid.is_some_and(|valid| valid.as_ref().is_ok_and(|valid| Arc::ptr_eq(valid, looked_at)))
    }

    /// Whether all that the BackupJob refers to is there and may be used.
    pub fn access_checked(&mut self, reference: &JobRef, result: Result<(), Failure>, now: DateTime<Utc>) {
        let wait = if result.is_ok() { ACCESS_RETRY.1 } else { self.look_again_in() };
        let Some(job) = self.jobs.get_mut(reference) else { return };
        job.checking = false;
        job.access_due = now + wait;
        self.alarms.insert((job.access_due, reference.clone()));
        let passing = matches!(&result, Err(failure) if failure.class() == crate::error::Class::Transient);
        if !(passing && job.access.is_some()) {
            job.access = Some(result); // an API server that does not answer says nothing about rights
        }
        self.dirty.insert(reference.clone());
    }

    fn look_again_in(&self) -> TimeDelta {
        let (soon, later) = ACCESS_RETRY;
        let lacking = self.jobs.values().filter(|job| matches!(job.access, Some(Err(_)))).count();
        (BETWEEN_LOOKS * i32::try_from(lacking).unwrap_or(i32::MAX)).clamp(soon, later)
    }

    pub(super) fn decide_alarms(&mut self, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, reference)) = self.alarms.pop_first() else { return };
            if let Some(job) = self.jobs.get_mut(&reference)
                && let Ok(valid) = &job.valid
                && !job.checking
                && job.access_due <= now
            {
                job.checking = true;
                actions.push(Action::CheckAccess(reference.clone(), Arc::clone(valid)));
            }
            self.dirty.insert(reference); // also where the BackupJob is gone: its runs may be there
        }
    }

    pub(super) fn decide_status(&mut self, reference: &JobRef, now: DateTime<Utc>, actions: &mut Vec<Action>) {
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
                actions.push(Action::Notice(subject.clone(), Happening::NotReady { failure: failure.clone() }));
            }
            Readiness::Ready => job.told_not_ready = None,
            _ => {}
        }
        let next_run = self.index.next_run(reference);
        let facts = Facts { job: &job.object, readiness: &readiness, runs: &runs, next_run, now };
        let mut status = status::derive(facts, &job.status);
        let ticking = job.object.spec.schedule.is_some() && !job.object.spec.suspend.unwrap_or(false);
        let ahead = clock::ahead(&status, now).filter(|_| ticking);
        if let (Some(until), false) = (ahead, matches!(readiness, Readiness::NotReady(_))) {
            status.message = Some(clock::warning(until));
        }
        if let (Some(until), false) = (ahead, job.told_ahead) {
            let warning = clock::warning(until);
            actions.push(Action::Notice(subject, Happening::ClockWentBack { warning }));
        }
        job.told_ahead = ahead.is_some();
        job.status = match job.handed.status() {
            Some(handed) if **handed == status => Arc::clone(handed),
            _ => {
                let version = job.object.metadata.resource_version.clone().unwrap_or_default();
                let write = StatusWrite { uid: job.uid.clone(), version, status: Box::new(status.clone()) };
                actions.push(Action::Write(reference.clone(), write));
                let status = Arc::new(status);
                job.handed = Handed::OnItsWay(Arc::clone(&status));
                status
            }
        };
    }
}
