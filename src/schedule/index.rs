//! **P** All schedules, in memory: which tick of which job is due.
//!
//! The index is fed by a watch (`apply`, `delete`, `reset`) and asked by a ticker (`due`, `next_wakeup`). It decides
//! nothing but *when*; whether a due tick becomes a run is admission's business.
//!
//! # The life of a tick
//! Ticks of a job count from its *floor*: the later of the anchor, as the API server has it, and the last tick that was
//! handled, as this process knows it. The second half matters because the watch lags: a status read back late must not
//! make a tick due again. When `due` finds ticks between the floor and now, the last of them becomes the job's one
//! *waiting* tick; the earlier ones are counted and let go. It waits for its start: its time and its jitter, or, where it
//! is found late (more than [`LATE`]), a place in the catch-up window. Then `due` hands it out, **once**: whoever has it
//! says that it is `handled`, or `offer`s it again for a later time. The next tick takes the place of one that is not
//! handled. So a claim that fails is tried again at the pace of whoever claims, nobody spins, and a look costs what is
//! due, not what there is.
//!
//! A tick that is made up for is held back at most to the middle between now and the next tick, or its starting deadline,
//! so that it falls to neither.
//!
//! A clock that jumps back withdraws what waits for a time that has not come, and never brings back a handled tick; a
//! clock that jumps ahead gives the latest tick only.

use super::cron::Schedule;
use super::spread;
use crate::api::names::{JobRef, Uid};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeSet, HashMap, HashSet};

#[cfg(test)]
mod tests;

/// A tick that is found so long after its start counts as missed: it is made up for, or skipped, as `missedRuns` says. More
/// than the change of the leader takes (15 s, `kubernetes.md` 3.4), less than anybody would call late.
pub const LATE: TimeDelta = TimeDelta::seconds(60);

/// What the index needs to know of a BackupJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its UID: another one is another job, whatever its name.
    pub uid: Uid,
    /// When it runs; `None`: once, at the anchor.
    pub schedule: Option<Schedule>,
    /// Nothing is due while this is set.
    pub suspend: bool,
    /// Longest time by which a start is moved behind its tick; at most half the interval counts.
    pub jitter: TimeDelta,
    /// After its start (jitter included), how long a tick is still good: a tick that is made up for is not held back for
    /// longer.
    pub deadline: Option<TimeDelta>,
    /// A tick that is found late is held back somewhere in the catch-up window; otherwise it is handed out at once.
    pub spread: bool,
    /// Since when ticks count: the latest of `scheduleAnchor`, `lastScheduleTime` and the creation. A tick at this very
    /// instant does not count (it is the one that was handled); the tick of a job without schedule is this instant.
    pub anchor: DateTime<Utc>,
    /// A job without schedule has had its run (`lastScheduleTime` is set), or once had a schedule: nothing is due.
    pub once_done: bool,
}

/// A tick that is to be claimed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub job: JobRef,
    /// The UID that the job had when it was applied.
    pub uid: Uid,
    /// The nominal time, on a whole minute; of a job without schedule its anchor, as it is.
    pub tick: DateTime<Utc>,
    /// When it was meant to start: the tick and its jitter.
    pub start: DateTime<Utc>,
    /// How many ticks before this one were let go since the last handled one; counted up to
    /// [`super::cron::Missed::LIMIT`] at a time.
    pub missed: u32,
}

/// One job in the index.
#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// Ticks up to here, itself included, are handled or do not count.
    floor: DateTime<Utc>,
    /// A job without schedule has had its run, as far as this process knows.
    once_done: bool,
    /// The next tick after the floor and the waiting tick.
    next: Option<DateTime<Utc>>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    tick: DateTime<Utc>,
    start: DateTime<Utc>,
    missed: u32,
    /// When it is handed out; `None`: it has been.
    at: Option<DateTime<Utc>>,
    /// It was handed out before, so that `at` is a time that somebody offered and no time of its own.
    returned: bool,
}

impl Slot {
    /// The first tick after the floor and what waits.
    fn following(&self) -> Option<DateTime<Utc>> {
        if self.entry.suspend {
            return None;
        }
        match &self.entry.schedule {
            Some(schedule) => schedule.next_after(self.waiting.map_or(self.floor, |waiting| waiting.tick)),
            None => (!self.once_done && self.waiting.is_none()).then_some(self.entry.anchor),
        }
    }

    /// Takes the ticks up to `now` together into the waiting one.
    fn collect(&mut self, job: &JobRef, now: DateTime<Utc>, window: TimeDelta) {
        let Some(next) = self.next.filter(|next| *next <= now) else { return };
        let (tick, earlier) = match &self.entry.schedule {
            // From the next tick on: itself, and what came after it.
            Some(schedule) => {
                let after = schedule.missed_between(next, now);
                (after.latest.unwrap_or(next), after.count)
            }
            None => (next, 0),
        };
        let before = self.waiting.map_or(0, |waiting| waiting.missed.saturating_add(1));
        let (start, at) = self.place(job, tick, now, window);
        self.waiting =
            Some(Waiting { tick, start, missed: before.saturating_add(earlier), at: Some(at), returned: false });
    }

    /// When a tick is meant to start, and when it is handed out.
    fn place(
        &self,
        job: &JobRef,
        tick: DateTime<Utc>,
        now: DateTime<Utc>,
        window: TimeDelta,
    ) -> (DateTime<Utc>, DateTime<Utc>) {
        let Some(schedule) = &self.entry.schedule else { return (tick, tick) };
        let next = schedule.next_after(tick);
        let half = next.map_or(TimeDelta::MAX, |next| (next - tick) / 2);
        let start = tick + spread::jitter(job, tick, self.entry.jitter.min(half));
        if !self.entry.spread || now - start <= LATE {
            return (start, start);
        }
        let to_next = next.map_or(TimeDelta::MAX, |next| (next - now) / 2);
        let good_for = self.entry.deadline.map_or(TimeDelta::MAX, |deadline| (start + deadline - now) / 2);
        (start, now + spread::catch_up(job, tick, now, window.min(to_next).min(good_for)))
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    slots: HashMap<JobRef, Slot>,
    /// Of every slot with a `next`: that, and whose.
    wakeups: BTreeSet<(DateTime<Utc>, JobRef)>,
    /// Of every slot with a waiting tick that is not handed out yet: when it will be, and whose.
    ripening: BTreeSet<(DateTime<Utc>, JobRef)>,
    /// Ticks that are made up for are spread over so much time.
    window: TimeDelta,
    /// The time of the last look, to see a clock that jumps back.
    looked: Option<DateTime<Utc>>,
}

impl Index {
    /// Over how long ticks that are made up for are spread.
    pub fn catch_up_window(&self) -> TimeDelta {
        self.window
    }

    /// An empty index that spreads ticks that are made up for over `window`.
    pub fn new(window: TimeDelta) -> Self {
        Self { window, ..Self::default() }
    }

    /// Adds a job, or takes over what changed about it.
    pub fn apply(&mut self, job: JobRef, entry: Entry) {
        let old = self.slots.remove(&job);
        if let Some(old) = &old {
            self.forget(&job, old);
        }
        let old = old.filter(|old| old.entry.uid == entry.uid);
        let mut slot = Slot { floor: entry.anchor, once_done: entry.once_done, next: None, waiting: None, entry };
        if let Some(old) = old {
            slot.floor = slot.floor.max(old.floor);
            slot.once_done |= old.once_done || old.entry.schedule.is_some();
            // A tick that waits keeps its count as long as it is still one that is meant.
            let same = old.entry.schedule == slot.entry.schedule && old.entry.jitter == slot.entry.jitter;
            let same = same && !slot.entry.suspend;
            let still = |waiting: &Waiting| match slot.entry.schedule {
                Some(_) => waiting.tick > slot.floor,
                None => waiting.tick == slot.entry.anchor && !slot.once_done,
            };
            slot.waiting = old.waiting.filter(|waiting| same && still(waiting));
        }
        self.insert(job, slot);
    }

    /// Removes a job; one that is not there is fine.
    pub fn delete(&mut self, job: &JobRef) {
        if let Some(old) = self.slots.remove(job) {
            self.forget(job, &old);
        }
    }

    /// Makes the index hold exactly `jobs` (a watch that begins anew), and gives the ones that are gone. What this
    /// process knows of handled ticks stays.
    pub fn reset(&mut self, jobs: impl IntoIterator<Item = (JobRef, Entry)>) -> Vec<JobRef> {
        let mut seen = HashSet::new();
        for (job, entry) in jobs {
            seen.insert(job.clone());
            self.apply(job, entry);
        }
        let mut gone: Vec<JobRef> = self.slots.keys().filter(|job| !seen.contains(*job)).cloned().collect();
        gone.sort();
        for job in &gone {
            self.delete(job);
        }
        gone
    }

    /// Every tick whose time has come at `now`, by that time and name: at most one for each job, and each once (see
    /// [`Index::offer`]).
    pub fn due(&mut self, now: DateTime<Utc>) -> Vec<Due> {
        if self.looked.replace(now).is_some_and(|before| now < before) {
            self.withdraw_future(now);
        }
        while let Some((at, job)) = self.wakeups.pop_first() {
            if at > now {
                self.wakeups.insert((at, job));
                break;
            }
            let Some(mut slot) = self.slots.remove(&job) else { continue };
            self.forget(&job, &slot);
            slot.collect(&job, now, self.window);
            self.insert(job, slot);
        }
        let mut found = Vec::new();
        while let Some((at, job)) = self.ripening.pop_first() {
            if at > now {
                self.ripening.insert((at, job));
                break;
            }
            let Some(slot) = self.slots.get_mut(&job) else { continue };
            let Some(waiting) = &mut slot.waiting else { continue };
            waiting.at = None;
            let Waiting { tick, start, missed, .. } = *waiting;
            found.push(Due { uid: slot.entry.uid.clone(), job, tick, start, missed });
        }
        found
    }

    /// Gives back a tick that `due` has handed out and that nobody has handled: it is handed out again at `at`, or at an
    /// earlier time that was offered. What waits for a time of its own is left alone.
    pub fn offer(&mut self, job: &JobRef, at: DateTime<Utc>) {
        let Some(slot) = self.slots.get_mut(job) else { return };
        let Some(waiting) = &mut slot.waiting else { return };
        let stale = match waiting.at {
            None => None,
            Some(before) if waiting.returned && at < before => Some(before),
            Some(_) => return,
        };
        if let Some(before) = stale {
            self.ripening.remove(&(before, job.clone()));
        }
        (waiting.at, waiting.returned) = (Some(at), true);
        self.ripening.insert((at, job.clone()));
    }

    /// A tick has become a run, or was skipped for a reason: it and what came before it are never due again.
    pub fn handled(&mut self, job: &JobRef, tick: DateTime<Utc>) {
        let Some((job, mut slot)) = self.slots.remove_entry(job) else { return };
        self.forget(&job, &slot);
        let news = tick > slot.floor;
        slot.floor = slot.floor.max(tick);
        slot.once_done |= slot.entry.schedule.is_none();
        slot.waiting = slot.waiting.filter(|waiting| waiting.tick > tick);
        if let (true, Some(waiting), Some(schedule)) = (news, &mut slot.waiting, &slot.entry.schedule) {
            // It came while this one was under way, which it counted, and what was missed before this one.
            waiting.missed = schedule.missed_between(tick, waiting.tick - TimeDelta::seconds(1)).count;
        }
        self.insert(job, slot);
    }

    /// When `due` is to be asked again.
    pub fn next_wakeup(&self) -> Option<DateTime<Utc>> {
        self.wakeups.first().into_iter().chain(self.ripening.first()).map(|(at, _)| *at).min()
    }

    /// The tick that waits, or else the next one; `None` for a job that is suspended, done or unknown.
    pub fn next_run(&self, job: &JobRef) -> Option<DateTime<Utc>> {
        let slot = self.slots.get(job)?;
        slot.waiting.map(|waiting| waiting.tick).or(slot.next)
    }

    /// How many jobs there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes back what waits for a time that has not come: the clock has jumped back.
    fn withdraw_future(&mut self, now: DateTime<Utc>) {
        let early = |(job, slot): (&JobRef, &Slot)| {
            let waiting = slot.waiting?;
            (waiting.tick > now || waiting.at.is_some_and(|at| at > now)).then(|| job.clone())
        };
        let early: Vec<JobRef> = self.slots.iter().filter_map(early).collect();
        for job in early {
            let Some(mut slot) = self.slots.remove(&job) else { continue };
            self.forget(&job, &slot);
            slot.waiting = None;
            self.insert(job, slot);
        }
    }

    /// Computes the next tick and puts the slot where it is found.
    fn insert(&mut self, job: JobRef, mut slot: Slot) {
        slot.next = slot.following();
        if let Some(next) = slot.next {
            self.wakeups.insert((next, job.clone()));
        }
        if let Some(at) = slot.waiting.and_then(|waiting| waiting.at) {
            self.ripening.insert((at, job.clone()));
        }
        self.slots.insert(job, slot);
    }

    /// Takes the slot out of the two orders.
    fn forget(&mut self, job: &JobRef, slot: &Slot) {
        if let Some(next) = slot.next {
            self.wakeups.remove(&(next, job.clone()));
        }
        if let Some(at) = slot.waiting.and_then(|waiting| waiting.at) {
            self.ripening.remove(&(at, job.clone()));
        }
    }
}
