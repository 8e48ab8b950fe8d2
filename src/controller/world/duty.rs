//! **P** What this process may do: schedule only while it leads, and take a run over only from a process that is dead.
//!
//! The Lease governs scheduling only. A follower claims nothing, starts nothing and writes no BackupJob's status; what it
//! executes goes on, and ends when somebody wishes it to. Where a task of its own ended in a fault it closes the attempt that
//! this left open: nobody else may while it lives. A process that begins to lead forgets what it knew and decides
//! when everything was listed anew ([`World::set_leading`]).
//!
//! A run belongs to the executor that its open attempt names, for as long as that one lives. Missing in one list of the
//! executors' Leases is not dead yet: the list may be older than that process. Missing in the second list after that is.

use super::runs::{run_identity, stops};
use super::{Action, World};
use crate::api::backup_run::BackupRun;
use crate::api::names::JobRef;
use crate::run::ports::RunKey;
use crate::run::record::open_attempt;
use crate::schedule::index::Index;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// How many further lists an executor must be missing in. The first of them may have been asked for before the run was
/// seen; the second was not.
const LISTS: u64 = 2;

/// This process' place among its peers.
#[derive(Default)]
pub(super) struct Duty {
    pub(super) leading: bool,
    me: String,
    living: BTreeSet<String>,
    /// Lists of executors that were seen so far.
    lists: u64,
    /// Executors of open attempts that were not in the list, and how many lists there had been then.
    missed: HashMap<String, u64>,
    /// UIDs of runs whose task ended in a fault here while another process led.
    faulted: HashSet<String>,
    /// BackupJobs with a run that another executor has: looked at again after each list.
    waiting: BTreeSet<JobRef>,
}

impl Duty {
    /// Whether another living process, or one that may live, has this run.
    pub(super) fn is_anothers(&mut self, run: &BackupRun, job: &JobRef) -> bool {
        let Some(executor) = executor(run).filter(|executor| *executor != self.me) else { return false };
        let executor = executor.to_owned();
        if self.living.contains(&executor) {
            self.missed.remove(&executor);
        } else if self.lists >= self.missed.entry(executor).or_insert(self.lists).saturating_add(LISTS) {
            return false;
        }
        self.waiting.insert(job.clone());
        true
    }

    /// The task of this run ended in a fault. Who leads gives it another one, unless the lead is lost before that.
    pub(super) fn note_fault(&mut self, run: &RunKey) {
        self.faulted.insert(run.uid.as_str().to_owned());
    }

    pub(super) fn forget(&mut self, uid: &str) {
        self.faulted.remove(uid);
    }

    /// Whether a task that ended in a fault has left an attempt of this run open; asked once.
    fn is_left_open(&mut self, run: &BackupRun, key: &RunKey) -> bool {
        executor(run) == Some(&*self.me) && self.faulted.remove(key.uid.as_str())
    }

    /// Whether one of these runs is executed by another process that lives.
    pub(super) fn executes_elsewhere<'a>(&self, mut runs: impl Iterator<Item = &'a Arc<BackupRun>>) -> bool {
        runs.any(|run| executor(run).is_some_and(|executor| executor != self.me && self.living.contains(executor)))
    }
}

/// Who executes the run now.
fn executor(run: &BackupRun) -> Option<&str> {
    open_attempt(run.status.as_ref()?)?.executor.as_deref()
}

impl World {
    /// The memory of the process `instance`, which follows until it is told to lead. Ticks that are made up for after
    /// downtime are spread over `catch_up_window`.
    pub fn new(instance: &str, catch_up_window: TimeDelta) -> Self {
        let duty = Duty { me: instance.to_owned(), ..Duty::default() };
        Self { index: Index::new(catch_up_window), duty, ..Self::default() }
    }

    /// Whether this process leads from now on. One that begins to lead forgets what it saw: it may be older than what the
    /// one before it wrote last. The watches show everything anew.
    pub fn set_leading(&mut self, leading: bool) {
        if leading && !self.duty.leading {
            let old = std::mem::take(self);
            self.index = Index::new(old.index.catch_up_window());
            (self.policy, self.pending, self.duty) = (old.policy, old.pending, old.duty);
        }
        self.duty.leading = leading;
    }

    /// The executors whose Leases were there and fresh in a list that was just taken.
    pub fn set_living(&mut self, living: BTreeSet<String>) {
        self.duty.living = living;
        self.duty.lists += 1;
        self.dirty.append(&mut self.duty.waiting);
    }

    /// What a follower decides: that runs which it executes stop when somebody wishes it, and that attempts which it left
    /// open are closed. A task that closes one goes no further, for this process starts nothing.
    pub(super) fn decide_as_follower(&mut self, has_task: &dyn Fn(&RunKey) -> bool, actions: &mut Vec<Action>) {
        self.alarms.clear(); // made anew when everything is
        for reference in std::mem::take(&mut self.dirty) {
            let replacing = self.jobs.get(&reference).and_then(|job| self.replacing(&reference, job));
            for run in self.runs.get(&reference).into_iter().flat_map(BTreeMap::values) {
                let Some((key, _)) = run_identity(run) else { continue };
                match (has_task(&key), stops(run, replacing)) {
                    (true, Some(cause)) => actions.push(Action::Cancel(key, cause)),
                    (false, cause) if self.duty.is_left_open(run, &key) => {
                        actions.push(Action::Start(key, Arc::clone(run), reference.clone(), cause));
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
