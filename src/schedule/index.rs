//! **P** All schedules, in memory: which tick of which job is due.
//!
//! The index is fed by a watch (`apply`, `delete`, `reset`) and asked by a ticker (`due`, `next_wakeup`). It decides
//! nothing but *when*; whether a due tick becomes a run is admission's business.
//!
//! # The life of a tick
//! Ticks of a job count from its *floor*: the later of the anchor, as the API server has it, and the last tick that was
//! handled, as this process knows it. The second half matters because the watch lags: a status read back late must not
//! make a tick due again. When `due` finds ticks between the floor and now, the last of them becomes the job's one
//! *waiting* tick; the earlier ones are counted and let go. It stays waiting, and `due` repeats it, until it is `handled`,
//! or until the next tick takes its place. `next_wakeup` looks past waiting ticks, so that a claim that fails is tried
//! again by whoever claims, at his pace, and nobody spins.
//!
//! A clock that jumps back withdraws waiting ticks that lie in the future again, and never brings back a handled one; a
//! clock that jumps ahead gives the latest tick only.

use super::cron::Schedule;
use crate::api::names::{JobRef, Uid};
use chrono::{DateTime, Utc};
use std::collections::{BTreeSet, HashMap, HashSet};

#[cfg(test)]
mod tests;

/// What the index needs to know of a BackupJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its UID: another one is another job, whatever its name.
    pub uid: Uid,
    /// When it runs; `None`: once, at the anchor.
    pub schedule: Option<Schedule>,
    /// Nothing is due while this is set.
    pub suspend: bool,
    /// Since when ticks count: the latest of `scheduleAnchor`, `lastScheduleTime` and the creation. A tick at this very
    /// instant does not count (it is the one that was handled); the tick of a job without schedule is this instant.
    pub anchor: DateTime<Utc>,
    /// A job without schedule has had its run (`lastScheduleTime` is set), or once had a schedule: nothing is due.
    pub once_done: bool,
}

/// A tick that waits to be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose.
    pub job: JobRef,
    /// The UID that the job had when it was applied.
    pub uid: Uid,
    /// The nominal time, on a whole minute; of a job without schedule its anchor, as it is.
    pub tick: DateTime<Utc>,
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
    missed: u32,
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
    fn collect(&mut self, now: DateTime<Utc>) {
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
        self.waiting = Some(Waiting { tick, missed: before.saturating_add(earlier) });
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    slots: HashMap<JobRef, Slot>,
    /// Of every slot with a `next`: that, and whose.
    wakeups: BTreeSet<(DateTime<Utc>, JobRef)>,
    /// Jobs with a waiting tick, by name, so that the order is the same every time.
    waiting: BTreeSet<JobRef>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
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
            let same = old.entry.schedule == slot.entry.schedule && !slot.entry.suspend;
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

    /// Every tick that waits at `now`, by job: at most one for each.
    pub fn due(&mut self, now: DateTime<Utc>) -> Vec<Due> {
        self.withdraw_future(now);
        while let Some((at, job)) = self.wakeups.pop_first() {
            if at > now {
                self.wakeups.insert((at, job));
                break;
            }
            let Some(mut slot) = self.slots.remove(&job) else { continue };
            slot.collect(now);
            self.insert(job, slot);
        }
        let found = self.waiting.iter().filter_map(|job| {
            let slot = self.slots.get(job)?;
            let Waiting { tick, missed } = slot.waiting?;
            Some(Due { job: job.clone(), uid: slot.entry.uid.clone(), tick, missed })
        });
        found.collect()
    }

    /// A tick has become a run, or was skipped for a reason: it and what came before it are never due again.
    pub fn handled(&mut self, job: &JobRef, tick: DateTime<Utc>) {
        let Some((job, mut slot)) = self.slots.remove_entry(job) else { return };
        self.forget(&job, &slot);
        slot.floor = slot.floor.max(tick);
        slot.once_done |= slot.entry.schedule.is_none();
        slot.waiting = slot.waiting.filter(|waiting| waiting.tick > tick);
        self.insert(job, slot);
    }

    /// When there will be something in `due` that is not in it yet.
    pub fn next_wakeup(&self) -> Option<DateTime<Utc>> {
        self.wakeups.first().map(|(at, _)| *at)
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
        let early = |job: &&JobRef| {
            let waiting = self.slots.get(*job).and_then(|slot| slot.waiting);
            waiting.is_some_and(|waiting| waiting.tick > now)
        };
        let early: Vec<JobRef> = self.waiting.iter().filter(early).cloned().collect();
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
        if slot.waiting.is_some() {
            self.waiting.insert(job.clone());
        }
        self.slots.insert(job, slot);
    }

    /// Takes the slot out of the two orders.
    fn forget(&mut self, job: &JobRef, slot: &Slot) {
        if let Some(next) = slot.next {
            self.wakeups.remove(&(next, job.clone()));
        }
        self.waiting.remove(job);
    }
}
