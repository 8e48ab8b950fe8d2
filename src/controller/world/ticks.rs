//! **P** Ticks: which of them are claimed, what became of the claims, and since when they count.

use super::runs::{is_owned, run_identity};
use super::{Action, World, clock, last_tick_of};
use crate::api::backup_job::{BackupJob, BackupJobStatus, ScheduleAnchor};
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, RunName};
use crate::api::time::{from_time, to_time};
use crate::error::Failure;
use crate::run::observer::{Happening, Skip, Subject};
use crate::run::ports::{Claim, Claimed, phase_of};
use crate::schedule::index::{Due, Entry, LATE};
use crate::validate::{Concurrency, ValidatedJob};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How soon a claim that failed is tried again.
const CLAIM_RETRY: TimeDelta = TimeDelta::seconds(5);
/// How soon a name that was taken is looked at again.
const NAME_RETRY: TimeDelta = TimeDelta::seconds(30);
/// So many different words about one tick are told.
const REFUSALS_TOLD: usize = 8;

/// How the name of the one run of a job without a schedule ends.
pub(super) const ONCE: &str = "-once";

/// A tick whose BackupRun's name belongs to something else. It is skipped, and counted, when a later one is due; until then
/// it is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    tick: DateTime<Utc>,
    /// How many before it were missed.
    missed: u32,
}

impl World {
    /// What became of a claim.
    pub fn claim_ended(&mut self, claim: &Claim, missed: u32, result: Result<Claimed, Failure>, now: DateTime<Utc>) {
        let Some(job) = self.jobs.get_mut(&claim.job).filter(|job| job.uid == claim.job_uid) else {
            return;
        };
        job.claiming = false;
        let subject = Subject { job: claim.job.clone(), job_uid: Some(claim.job_uid.clone()), run: None };
        // A claim of which only the answer was lost: its run was seen meanwhile.
        let lost = result.is_err() && last_tick_of(&job.status).is_some_and(|last| last >= claim.tick);
        let again = match if lost { Ok(Claimed::AlreadyOurs) } else { result } {
            Ok(claimed @ (Claimed::Created | Claimed::AlreadyOurs)) => {
                note_handled(Arc::make_mut(&mut job.status), claim.tick);
                (job.taken, job.told_unclaimed) = (None, None);
                self.index.handled(&claim.job, claim.tick);
                if matches!(claimed, Claimed::Created) {
                    let lag = (now - claim.start).to_std().unwrap_or_default();
                    self.pending.push(Action::Notice(subject.clone(), Happening::Claimed { tick: claim.tick, lag }));
                }
                if missed > 0 {
                    self.pending.push(Action::Notice(subject, Happening::CaughtUp { tick: claim.tick, missed }));
                }
                now // a later tick may have come meanwhile
            }
            Ok(Claimed::NameTaken) => {
                job.taken = Some(Taken { tick: claim.tick, missed });
                self.pending.push(Action::Notice(subject, Happening::NameTaken { run: claim.run.clone() }));
                now + NAME_RETRY
            }
            Ok(Claimed::Gone) => now + NAME_RETRY,
            Err(failure) => {
                // Once for each tick, unless there is something new. In the same words for each, so that it is one row of
                // Events: what a quota says names the run.
                let message = failure.message.replace(claim.run.as_str(), "…");
                let (_, said) = match job.told_unclaimed.take().filter(|(tick, _)| *tick == claim.tick) {
                    Some(told) => job.told_unclaimed.insert(told),
                    None => job.told_unclaimed.insert((claim.tick, BTreeSet::new())),
                };
                if said.len() < REFUSALS_TOLD && said.insert(message.clone()) {
                    let failure = Failure { message, ..failure };
                    self.pending.push(Action::Notice(subject, Happening::ClaimFailed { failure }));
                }
                now + CLAIM_RETRY
            }
        };
        self.index.offer(&claim.job, again);
        self.dirty.insert(claim.job.clone());
    }

    /// A tick whose run is there is claimed, whoever made it: a process that died before it wrote that down, too. Known at
    /// once, and not when the tick is claimed again, which may never be: its BackupJob may be going, at rest, or edited since.
    pub(super) fn note_claimed(&mut self, now: DateTime<Utc>) {
        for reference in &self.dirty {
            let Some(job) = self.jobs.get_mut(reference) else { continue };
            let runs = self.runs.get(reference).into_iter().flat_map(BTreeMap::values);
            let claims = runs.filter(|run| is_owned(run, &job.uid) && !clock::is_early(run, job.since()));
            let ticks = claims.filter_map(|run| run.spec.scheduled_at.as_ref()).map(from_time);
            let newest = ticks.filter(|tick| *tick <= now).max();
            if let Some(tick) = newest.filter(|tick| last_tick_of(&job.status).is_none_or(|last| last < *tick)) {
                note_handled(Arc::make_mut(&mut job.status), tick);
                self.index.handled(reference, tick);
            }
        }
    }

    pub(super) fn decide_ticks(&mut self, now: DateTime<Utc>, actions: &mut Vec<Action>) {
        for due in self.index.due(now) {
            let Some(job) = self.jobs.get_mut(&due.job) else { continue };
            if job.claiming {
                continue; // offered again when that claim has ended
            }
            let Ok(valid) = &job.valid else { continue };
            let Ok(run) = RunName::new(run_name(&due.job, valid, due.tick)) else { continue }; // 49 + 14 = 63 characters
            let runs = self.runs.get(&due.job);
            let active = runs.into_iter().flatten().any(|(name, other)| *name != run && !phase_of(other).is_final());
            let Due { job: reference, tick, start, mut missed, .. } = due;
            let subject = Subject { job: reference.clone(), job_uid: Some(job.uid.clone()), run: None };
            if let Some(Taken { tick: earlier, missed: before }) = job.taken.take_if(|taken| taken.tick < tick) {
                note_skipped(Arc::make_mut(&mut job.status), earlier);
                self.index.handled(&reference, earlier);
                missed = missed.saturating_sub(before.saturating_add(1)); // they are told with the skip
                let skipped = Happening::Skipped { tick: earlier, why: Skip::NameTaken, missed: before };
                actions.push(Action::Notice(subject.clone(), skipped));
                self.dirty.insert(reference.clone());
            }
            if let Some(why) = skipped(valid, start, active, now) {
                note_skipped(Arc::make_mut(&mut job.status), tick);
                job.taken = None;
                self.index.handled(&reference, tick);
                actions.push(Action::Notice(subject, Happening::Skipped { tick, why, missed }));
                self.dirty.insert(reference);
                continue;
            }
            let holder = runs.and_then(|runs| runs.get(&run)).filter(|there| is_owned(there, &job.uid));
            let holder = holder.filter(|there| clock::is_early(there, job.since()));
            if let Some((key, _)) =
                holder.filter(|there| phase_of(there).is_final()).and_then(|there| run_identity(there))
            {
                tracing::warn!(job = %reference, %run, "deleted: a clock that was ahead made it, and its time comes now");
                actions.push(Action::Delete(key));
                self.index.offer(&reference, now + NAME_RETRY); // or as soon as it is gone
                continue;
            }
            job.claiming = true;
            let claim = Claim { job: reference, job_uid: job.uid.clone(), run, tick, start, since: job.since() };
            actions.push(Action::Claim(claim, missed));
        }
    }
}

/// Why a tick that was meant to start at `start` starts nothing now, if so. The one run of a job without a schedule waits
/// its turn instead: after a skip it would never come.
fn skipped(valid: &ValidatedJob, start: DateTime<Utc>, active: bool, now: DateTime<Utc>) -> Option<Skip> {
    valid.schedule.as_ref()?;
    let late = now - start;
    // In whole seconds, as the field has them: a deadline of 0 still lets a tick start in its own second.
    if valid.timing.starting_deadline.is_some_and(|deadline| late.num_seconds() > deadline.num_seconds()) {
        return Some(Skip::DeadlinePassed);
    }
    if !valid.timing.make_up && late > LATE {
        return Some(Skip::Missed);
    }
    (active && valid.timing.concurrency == Concurrency::Forbid).then_some(Skip::StillRunning)
}

/// What it means for a claim that this object has the name of its run.
pub fn whose(there: &BackupRun, claim: &Claim) -> Claimed {
    let ours = is_owned(there, &claim.job_uid);
    if ours && !clock::is_early(there, claim.since) { Claimed::AlreadyOurs } else { Claimed::NameTaken }
}

/// The name of a tick's run: a function of job and tick, so that creating it is the claim.
pub fn run_name(job: &JobRef, valid: &ValidatedJob, tick: DateTime<Utc>) -> String {
    if valid.schedule.is_some() {
        format!("{}-{}", job.name, tick.format("%Y%m%d-%H%M"))
    } else {
        format!("{}{ONCE}", job.name)
    }
}

/// Moves `lastScheduleTime` to a handled tick, never back.
pub(super) fn note_handled(status: &mut BackupJobStatus, tick: DateTime<Utc>) {
    let newest = status.last_schedule_time.as_ref().map(from_time).map_or(tick, |last| last.max(tick));
    status.last_schedule_time = Some(to_time(newest));
}

fn note_skipped(status: &mut BackupJobStatus, tick: DateTime<Utc>) {
    note_handled(status, tick);
    status.skipped_runs = Some(status.skipped_runs.unwrap_or(0).saturating_add(1));
}

/// Since when ticks count. A schedule that was taken away is remembered as suspended, so that the job does not become a
/// one-off and its return counts from then.
pub(super) fn anchor(job: &BackupJob, stored: Option<&ScheduleAnchor>, now: DateTime<Utc>) -> ScheduleAnchor {
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
pub(super) fn entry(valid: &ValidatedJob, status: &BackupJobStatus) -> Entry {
    let anchor = status.schedule_anchor.as_ref();
    let last = status.last_schedule_time.as_ref().map(from_time);
    let once_scheduled = anchor.is_some_and(|anchor| anchor.schedule.is_some());
    let since = anchor.map_or(valid.created, |anchor| from_time(&anchor.time));
    Entry {
        uid: valid.uid.clone(),
        schedule: valid.schedule.clone(),
        suspend: valid.suspend,
        jitter: valid.timing.jitter,
        deadline: valid.timing.starting_deadline,
        spread: valid.timing.make_up,
        anchor: last.map_or(since, |last| last.max(since)),
        once_done: last.is_some() || once_scheduled,
    }
}
