//! **P** Everything the controller knows, and what follows from it.
//!
//! The watches put objects in (`apply_…`, `delete_…`), what was done reports back (`claim_ended`, `access_checked`), and
//! [`World::decide`] says what is to be done now. Nothing here does IO or reads a clock, so that every decision that can
//! lose or double a backup is tested without a cluster. `ticks` decides about ticks and claims, `runs` about runs,
//! `readiness` about a BackupJob's own state.
//!
//! **The schedule's memory** is two fields of the BackupJob's status. `lastScheduleTime` is the last tick that was handled
//! (claimed, or skipped and said so). `scheduleAnchor` says since when, and for which schedule, zone and suspend, ticks
//! count: it moves to now when one of the three changes, so what lies before an edit was not missed. Both are ours alone
//! (an admission policy says so); the process keeps the newest it has written and does not take them back from a watch.

use super::status;
use crate::api::backup_job::{BackupJob, BackupJobStatus};
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, Namespace, RunName, Uid};
use crate::api::time::from_time;
use crate::error::{Failure, Reason, cut};
use crate::run::observer::{Happening, Subject};
use crate::run::ports::{Claim, RunKey, StatusWrite};
use crate::schedule::index::Index;
use crate::validate::{ValidatedJob, validate};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

mod clock;
mod duty;
mod going;
mod readiness;
mod runs;
mod slim;
mod ticks;

pub use clock::keep_newer;
pub use runs::run_identity;
pub use ticks::{run_name, whose};

use ticks::{Taken, anchor, entry, note_handled};

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
    /// See whether a namespace is going; report with [`World::namespace_seen`].
    LookAtNamespace(Namespace),
    /// Delete a run that the history limits no longer keep.
    Delete(RunKey),
    /// Write a BackupJob's status.
    Write(JobRef, StatusWrite),
    /// See whether all that the BackupJob refers to is there and may be used; report with [`World::access_checked`].
    CheckAccess(JobRef, Arc<ValidatedJob>),
    /// Tell the observers.
    Notice(Subject, Happening),
}

/// What is stored of a BackupJob's status, as far as this process knows. As a rule the same as [`Job::status`].
#[derive(Clone, Default)]
enum Handed {
    /// Nothing, or what must not stay.
    #[default]
    Nothing,
    /// This was handed to the writer, which sees to it that it is stored; it has not been seen stored yet.
    OnItsWay(Arc<BackupJobStatus>),
    /// This.
    Stored(Arc<BackupJobStatus>),
}

impl Handed {
    const fn status(&self) -> Option<&Arc<BackupJobStatus>> {
        match self {
            Self::Nothing => None,
            Self::OnItsWay(status) | Self::Stored(status) => Some(status),
        }
    }

    /// This is stored, as a watch shows it. What stands there in place of what was stored before came late, from a process
    /// that no longer leads.
    fn seen(self, stored: Option<&BackupJobStatus>) -> Self {
        match self {
            Self::OnItsWay(ours) | Self::Stored(ours) if Some(&*ours) == stored => Self::Stored(ours),
            Self::OnItsWay(ours) => Self::OnItsWay(ours),
            Self::Stored(_) | Self::Nothing => Self::Nothing,
        }
    }
}

struct Job {
    uid: Uid,
    /// As it was seen last; see [`slim::known`].
    object: Arc<BackupJob>,
    valid: Result<Arc<ValidatedJob>, Failure>,
    access: Option<Result<(), Failure>>,
    access_due: DateTime<Utc>,
    checking: bool,
    status: Arc<BackupJobStatus>,
    handed: Handed,
    claiming: bool,
    told_not_ready: Option<Reason>,
    /// Whether it was said that nothing is due because a clock was ahead.
    told_ahead: bool,
    /// The tick of which it was said that its run cannot be created, and all that was said of why.
    told_unclaimed: Option<(DateTime<Utc>, BTreeSet<String>)>,
    taken: Option<Taken>,
}

impl Job {
    /// Since when its ticks count.
    fn since(&self) -> Option<DateTime<Utc>> {
        self.status.schedule_anchor.as_ref().map(|anchor| from_time(&anchor.time))
    }
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
    duty: duty::Duty,
    /// Runs that are to be deleted.
    going: going::Going,
    /// When something was decided last.
    decided_at: Option<DateTime<Utc>>,
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
        let object = slim::job(object);
        // Until everything was listed, what is known may be older than what is shown: all of it is taken anew.
        let changed = self.jobs.get(&reference).is_none_or(|known| {
            !self.synced
                || known.object.metadata.generation != object.metadata.generation
                || known.object.metadata.deletion_timestamp != object.metadata.deletion_timestamp
        });
        if changed {
            self.take_up(&reference, uid, object, now);
        } else if let Some(known) = self.jobs.get_mut(&reference) {
            let anchor = known.status.schedule_anchor.as_ref();
            if let Some(stored) = object.status.as_ref().and_then(|stored| clock::believed(stored, anchor)) {
                note_handled(Arc::make_mut(&mut known.status), stored);
                self.index.handled(&reference, stored);
            }
            known.handed = std::mem::take(&mut known.handed).seen(object.status.as_ref());
            known.object = Arc::new(slim::known(object));
        }
        self.dirty.insert(reference);
    }

    fn take_up(&mut self, reference: &JobRef, uid: Uid, object: BackupJob, now: DateTime<Utc>) {
        let going = object.metadata.deletion_timestamp.is_some();
        let valid = validate(&object).map(Arc::new).map_err(|invalid| Failure::new(invalid.reason, invalid.message));
        let old = self.jobs.remove(reference);
        let ours = old.as_ref().filter(|_| self.synced);
        let mut status = ours.map_or_else(|| object.status.clone().unwrap_or_default(), |old| (*old.status).clone());
        for known in [old.as_ref().map(|old| &*old.status), object.status.as_ref()].into_iter().flatten() {
            if let Some(tick) = clock::believed(known, status.schedule_anchor.as_ref()) {
                note_handled(&mut status, tick);
            }
        }
        let before = status.schedule_anchor.take();
        status.schedule_anchor = Some(anchor(&object, before.as_ref(), now));
        let edited = before.is_some() && before != status.schedule_anchor && object.spec.schedule.is_some();
        if edited && clock::take_back(&mut status, now) {
            self.index.delete(reference); // it would remember
        }
        match &valid {
            Ok(valid) if !going => {
                self.index.apply(reference.clone(), entry(valid, &status));
                self.index.offer(reference, now); // an edit may have mended what kept a tick from being claimed
            }
            _ => self.index.delete(reference),
        }
        if going {
            self.pending.push(Action::CancelAll(uid.clone()));
        }
        self.alarms.insert((now, reference.clone()));
        let job = Job {
            uid,
            handed: match ours {
                Some(old) => old.handed.clone(),
                None => object.status.clone().map_or(Handed::Nothing, |found| Handed::Stored(Arc::new(found))),
            },
            taken: ours.filter(|old| old.status.schedule_anchor == status.schedule_anchor).and_then(|old| old.taken),
            told_unclaimed: None,
            object: Arc::new(slim::known(object)),
            valid,
            status: Arc::new(status),
            // What was found for another spec says nothing about this one.
            access: None,
            access_due: now,
            checking: false,
            claiming: old.as_ref().is_some_and(|old| old.claiming),
            told_ahead: old.as_ref().is_some_and(|old| old.told_ahead),
            told_not_ready: old.and_then(|old| old.told_not_ready),
        };
        self.jobs.insert(reference.clone(), job);
    }

    /// A BackupJob is there and cannot be read: what was known of it is no longer what it says, so it rests until it can be
    /// read again.
    pub fn unreadable_job(&mut self, reference: &JobRef, uid: Uid, why: &str) {
        let failure = Failure::new(
            Reason::InvalidSpec,
            format!("the BackupJob cannot be read: {}; correct it, as `kubectl explain bj.spec` says", cut(why, 300)),
        );
        if let Some(known) = self.jobs.get_mut(reference).filter(|known| known.uid == uid) {
            known.valid = Err(failure);
            self.index.delete(reference);
            self.dirty.insert(reference.clone());
        } else {
            let subject = Subject { job: reference.clone(), job_uid: Some(uid), run: None };
            self.pending.push(Action::Notice(subject, Happening::NotReady { failure }));
        }
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

    /// Both watches have shown all that is there: from now on decisions are made.
    pub fn set_synced(&mut self) {
        if self.synced {
            return;
        }
        self.synced = true;
        for (reference, job) in &mut self.jobs {
            let runs: Vec<_> = self.runs.get(reference).into_iter().flat_map(BTreeMap::values).cloned().collect();
            let failures = status::recount(&runs, &job.status);
            Arc::make_mut(&mut job.status).consecutive_failures = Some(failures);
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

    /// Whether ticks are claimed at all. While they are not, they gather in the index.
    fn claims(&self) -> bool {
        self.synced && self.policy.is_none()
    }

    /// When something becomes due by itself.
    pub fn next_wakeup(&self) -> Option<DateTime<Utc>> {
        if !self.duty.leading {
            return None;
        }
        let tick = if self.claims() { self.index.next_wakeup() } else { None };
        tick.into_iter().chain(self.alarms.first().map(|(at, _)| *at)).min()
    }

    /// What is to be done now. `has_task` says which runs are at work in this process.
    pub fn decide(&mut self, now: DateTime<Utc>, has_task: &dyn Fn(&RunKey) -> bool) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.pending);
        if !self.synced {
            return actions;
        }
        self.note_clock(now);
        if !self.duty.leading {
            self.decide_as_follower(has_task, &mut actions);
            return actions;
        }
        self.note_claimed(now);
        if self.claims() {
            self.decide_ticks(now, &mut actions);
        }
        self.decide_alarms(now, &mut actions);
        for reference in std::mem::take(&mut self.dirty) {
            self.decide_runs(&reference, now, has_task, &mut actions);
            self.decide_status(&reference, now, &mut actions);
        }
        actions
    }
}

/// The last handled tick.
fn last_tick_of(status: &BackupJobStatus) -> Option<DateTime<Utc>> {
    status.last_schedule_time.as_ref().map(from_time)
}

fn job_identity(job: &BackupJob) -> Option<(JobRef, Uid)> {
    let reference = JobRef::new(job.metadata.namespace.clone()?, job.metadata.name.clone()?).ok()?;
    Some((reference, Uid::new(job.metadata.uid.clone()?).ok()?))
}

#[cfg(test)]
mod tests;
