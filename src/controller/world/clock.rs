//! **P** A wall clock that was wrong: what it left behind is said, and does not stop a BackupJob for good.
//!
//! The memory of ticks never goes back, so that a clock that jumps doubles nothing. The price: a tick that was handled while
//! the clock was a year ahead keeps everything before it from being due, for a year. Nobody but a person can know which of
//! two clocks is right. So that is said, and an edit of `schedule`, `timeZone` or `suspend`, from which on ticks count anew
//! anyway, takes it back. From then on a status that was written before that edit, and comes in late, is not believed in
//! what it knows of such ticks; and the runs that were made for them are not taken for theirs when their time comes. By which
//! clock a run was made cannot be seen of it, for the operator's and the API server's may always differ. But it says since
//! when ticks counted as it was claimed ([`ANNOTATION_SINCE`]): whoever claims a tick once more, after an answer that was
//! lost, counts since then too, and after an edit a clock that only goes forward finds no tick due that it found before.

use super::ticks::{ONCE, note_handled};
use super::{World, last_tick_of};
use crate::api::ANNOTATION_SINCE;
use crate::api::backup_job::{BackupJobStatus, ScheduleAnchor};
use crate::api::backup_run::BackupRun;
use crate::api::time::from_time;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// A memory that is so far ahead of the clock is of another one. What is less passes by itself.
const AHEAD: TimeDelta = TimeDelta::hours(1);
/// How far a clock goes back before anybody takes notice.
const JUMP: TimeDelta = TimeDelta::minutes(1);

/// Until when nothing is due, because the last tick that was handled lies in the future, or the time since which ticks count.
pub(super) fn ahead(status: &BackupJobStatus, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let anchor = status.schedule_anchor.as_ref().map(|anchor| from_time(&anchor.time));
    last_tick_of(status).max(anchor).filter(|until| *until > now + AHEAD)
}

/// Whether a run was made for its tick before an edit took that tick back, which is due again since: by a clock that was
/// ahead. It is a backup of then, and the tick wants one of its own time. `since` is when ticks began to count.
pub(super) fn is_early(run: &BackupRun, since: Option<DateTime<Utc>>) -> bool {
    let noted = run.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_SINCE));
    let noted = noted.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|time| time.to_utc());
    let tick = run.spec.scheduled_at.as_ref().map(from_time);
    // Two processes that lead one after the other see an edit one after the other.
    let before_an_edit = noted.zip(since).is_some_and(|(noted, since)| (since - noted).abs() > JUMP);
    before_an_edit && tick > since && is_made_ahead(run)
}

/// Whether a run's tick is to come long after this, and by the API server's clock was when it was made.
pub(super) fn is_of_the_future(run: &BackupRun, now: DateTime<Utc>) -> bool {
    run.spec.scheduled_at.as_ref().map(from_time) > Some(now + AHEAD) && is_made_ahead(run)
}

/// Whether a run was made long before its tick, if the API server's clock is right. The run of a job without a schedule has
/// no time of its own.
fn is_made_ahead(run: &BackupRun) -> bool {
    if run.metadata.name.as_deref().is_some_and(|name| name.ends_with(ONCE)) {
        return false;
    }
    let tick = run.spec.scheduled_at.as_ref().map(from_time);
    let made = run.metadata.creation_timestamp.as_ref().map(from_time);
    tick.zip(made).is_some_and(|(tick, made)| tick > made + AHEAD)
}

/// What a person has to know of it.
pub(super) fn warning(until: DateTime<Utc>) -> String {
    format!(
        "nothing is due before {}: the operator's clock was there already, and is back. If it is right now, set spec.suspend \
         to true and back to false, or edit spec.schedule: ticks count from then on",
        until.to_rfc3339_opts(SecondsFormat::Secs, true)
    )
}

/// Takes a tick of the future back, since the anchor was moved to `now`: what lies before that is not due again.
pub(super) fn take_back(status: &mut BackupJobStatus, now: DateTime<Utc>) -> bool {
    let is_ahead = last_tick_of(status).is_some_and(|last| last > now + AHEAD);
    if is_ahead {
        status.last_schedule_time = status.schedule_anchor.as_ref().map(|anchor| anchor.time.clone());
    }
    is_ahead
}

/// The last tick that another status knows of, if it is to be believed: none that lies behind our anchor where that one's
/// is another.
pub(super) fn believed(other: &BackupJobStatus, ours: Option<&ScheduleAnchor>) -> Option<DateTime<Utc>> {
    let last = last_tick_of(other)?;
    let (Some(ours), Some(theirs)) = (ours, &other.schedule_anchor) else { return Some(last) };
    let taken_back = ours.time != theirs.time && last > from_time(&ours.time) + AHEAD;
    (!taken_back).then_some(last)
}

/// What is to be written of a BackupJob, where something else was stored meanwhile: the newer memory of ticks stays.
pub fn keep_newer(status: &mut BackupJobStatus, stored: &BackupJobStatus) {
    let time = |anchor: &Option<ScheduleAnchor>| anchor.as_ref().map(|anchor| from_time(&anchor.time));
    let (ours, theirs) = (time(&status.schedule_anchor), time(&stored.schedule_anchor));
    let late = ours.is_some() && ours < theirs;
    if late && believed(status, stored.schedule_anchor.as_ref()).is_none() {
        status.schedule_anchor.clone_from(&stored.schedule_anchor);
        status.last_schedule_time.clone_from(&stored.last_schedule_time);
    }
    let known = if late { last_tick_of(stored) } else { believed(stored, status.schedule_anchor.as_ref()) };
    if let Some(tick) = known {
        note_handled(status, tick);
    }
}

impl World {
    /// Looks at the clock. What waits for a time that it has shown already would wait for as long as it went back.
    pub(super) fn note_clock(&mut self, now: DateTime<Utc>) {
        let before = self.decided_at.replace(now);
        if before.is_none_or(|before| now + JUMP >= before) {
            return;
        }
        tracing::warn!(%now, ?before, "the clock went back");
        let waiting = std::mem::take(&mut self.alarms);
        self.alarms.extend(waiting.into_iter().map(|(at, reference)| (at.min(now), reference)));
        for (reference, job) in &mut self.jobs {
            job.access_due = job.access_due.min(now);
            self.dirty.insert(reference.clone());
        }
        self.going.clock_went_back(now);
        self.dirty.extend(self.runs.keys().cloned());
    }
}
