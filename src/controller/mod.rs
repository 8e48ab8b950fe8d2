//! **O** The controller: one loop that owns the [`world::World`] and the runs at work.
//!
//! Everything that happens arrives as a [`Signal`]; after each, [`world::World::decide`] says what follows, and it is
//! done. Calls to the API server are tasks of their own that report back as signals, so the loop itself never waits for
//! anything but the next signal or the next tick. It is the only place that starts a run.

mod claim_turns;
pub mod policy;
pub mod records;
pub mod status;
pub mod status_writer;
pub mod world;

use crate::api::backup_job::BackupJob;
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, Namespace, Uid};
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use crate::run::observer::Observer;
use crate::run::ports::{Claim, Claimed, Executor, Records, RunKey, StatusSink};
use crate::run::supervisor::Supervisor;
use crate::run::task::call;
use crate::validate::ValidatedJob;
use chrono::TimeDelta;
use claim_turns::ClaimTurns;
use kube::core::ObjectMeta;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use world::{Action, World};

/// The wall clock may jump, so it is looked at again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a watch says of one kind of object.
#[derive(Debug)]
pub enum Seen<K> {
    /// It is so.
    Apply(Box<K>),
    /// It is gone.
    Delete(Box<K>),
    /// It is so that it cannot be read, and why; or it was so, and is gone.
    Unreadable {
        /// All that could be read of it.
        metadata: Box<ObjectMeta>,
        /// `None`: it is gone.
        why: Option<String>,
    },
    /// The watch began anew and has shown everything: `Apply` since the last `Begin` was all there is.
    Complete,
    /// The watch begins anew, with a list that was asked for in this epoch (see [`Controller::new`]) or later.
    Begin(u64),
}

/// Something that the controller has to know.
#[derive(Debug)]
pub enum Signal {
    /// What this process may do, from its Leases.
    Duty(Duty),
    /// The executors that live: each list of their Leases is told.
    Executors(BTreeSet<String>),
    /// Of the BackupJobs.
    Job(Seen<BackupJob>),
    /// Of the BackupRuns.
    Run(Seen<BackupRun>),
    /// Whether the admission policies are in force (`None`), or why not.
    Policy(Option<Failure>),
    /// Whether a namespace is going.
    NamespaceSeen(Namespace, Result<bool, Failure>),
    /// What became of a claim.
    ClaimEnded(Claim, u32, Result<Claimed, Failure>),
    /// Whether all that a BackupJob refers to is there and may be used.
    AccessChecked(JobRef, Arc<ValidatedJob>, Result<(), Failure>),
}

/// How many looks at what BackupJobs refer to are at work at once: thousands may be due together, and none is urgent.
const LOOKS_AT_ONCE: usize = 4;

/// What this process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It holds both Leases: it claims ticks, starts runs, writes BackupJobs' status and prunes history.
    Leads,
    /// Another process does that (`world/duty.rs` says what that means).
    Follows,
    /// Its own Lease could not be renewed ([`crate::lease::Terms::EXECUTOR`]).
    CutOff,
}

/// What the controller needs of the outside.
pub struct Ports {
    /// The cluster's objects.
    pub records: Arc<dyn Records>,
    /// Who does the work.
    pub executor: Arc<dyn Executor>,
    /// Who wants to know.
    pub observer: Arc<dyn Observer>,
    /// Where BackupJob status goes.
    pub statuses: Arc<dyn StatusSink>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The loop's own state.
pub struct Controller {
    ports: Ports,
    world: World,
    supervisor: Supervisor,
    signals: mpsc::Receiver<Signal>,
    sender: mpsc::Sender<Signal>,
    shown_jobs: Option<(u64, HashSet<JobRef>)>,
    shown_runs: Option<(u64, HashSet<String>)>,
    complete: (bool, bool, bool),
    ready: Box<dyn Fn() + Send>,
    /// Turns of looks at what BackupJobs refer to.
    looks: Arc<Semaphore>,
    duty: Duty,
    /// Told to end: nothing is begun any more.
    draining: bool,
    epoch: watch::Sender<u64>,
    claims: ClaimTurns,
}

impl Controller {
    /// A controller that reads `signals`; its own tasks report through `sender`. Ticks that are made up for after downtime
    /// are spread over `catch_up_window`. `ready` is called when all that is in the cluster has been seen. The watches begin
    /// anew, with a list of everything, whenever `epoch` changes: a process that begins to lead decides from what is stored
    /// then, not from what its watches have brought so far.
    pub fn new(
        ports: Ports,
        supervisor: Supervisor,
        instance: &str,
        catch_up_window: Duration,
        (sender, signals): (mpsc::Sender<Signal>, mpsc::Receiver<Signal>),
        epoch: watch::Sender<u64>,
        ready: Box<dyn Fn() + Send>,
    ) -> Self {
        Self {
            ports,
            world: World::new(instance, TimeDelta::from_std(catch_up_window).unwrap_or(TimeDelta::MAX)),
            supervisor,
            signals,
            sender,
            shown_jobs: None,
            shown_runs: None,
            complete: (false, false, false),
            ready,
            looks: Arc::new(Semaphore::new(LOOKS_AT_ONCE)),
            duty: Duty::Follows,
            draining: false,
            epoch,
            claims: ClaimTurns::new(),
        }
    }

    /// Runs until `stop`, and then as a follower until its runs have ended: what they have not done within `grace` is cancelled
    /// (the order stands in `app`).
    pub async fn run(mut self, stop: CancellationToken, grace: Duration) {
        let mut patience = std::pin::pin!(async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        });
        let mut patient = true;
        while !(self.draining && self.supervisor.is_empty()) {
            let wait = self.wait();
            tokio::select! {
                () = stop.cancelled(), if !self.draining => self.drain(),
                () = &mut patience, if patient => {
                    patient = false;
                    self.supervisor.cancel_all(Reason::OperatorShutdown);
                }
                (run, job, end) = self.supervisor.ended() => self.world.task_ended(&run, &job, end),
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.take(signal),
                    None => return,
                },
                () = tokio::time::sleep(wait) => {}
            }
            // What has arrived meanwhile is taken in one go: a burst of events is one decision.
            while let Ok(signal) = self.signals.try_recv() {
                self.take(signal);
            }
            self.act();
        }
    }

    fn drain(&mut self) {
        tracing::info!(running = self.supervisor.len(), "no more ticks are claimed; running backups may end");
        self.draining = true;
        self.supervisor.drain();
        self.world.set_leading(false);
    }

    fn wait(&self) -> Duration {
        let until = self.world.next_wakeup().map(|at| (at - self.ports.clock.now()).to_std().unwrap_or_default());
        until.map_or(LOOK_AGAIN, |until| until.min(LOOK_AGAIN))
    }

    fn take(&mut self, signal: Signal) {
        let now = self.ports.clock.now();
        match signal {
            Signal::Duty(duty) => self.take_duty(duty),
            Signal::Executors(living) => self.world.set_living(living),
            Signal::Job(Seen::Begin(epoch)) => self.shown_jobs = Some((epoch, HashSet::new())),
            Signal::Job(Seen::Apply(job)) => {
                let name = JobRef::new(
                    job.metadata.namespace.clone().unwrap_or_default(),
                    job.metadata.name.clone().unwrap_or_default(),
                );
                if let (Some((_, shown)), Ok(name)) = (&mut self.shown_jobs, name) {
                    shown.insert(name);
                }
                self.world.apply_job(*job, now);
            }
            Signal::Job(Seen::Delete(job)) => {
                let name = JobRef::new(
                    job.metadata.namespace.clone().unwrap_or_default(),
                    job.metadata.name.clone().unwrap_or_default(),
                );
                if let Ok(name) = name {
                    self.world.delete_job(&name);
                }
            }
            Signal::Job(Seen::Unreadable { metadata, why }) => {
                let name = JobRef::new(
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone().unwrap_or_default(),
                );
                let (Ok(name), Ok(uid)) = (name, Uid::new(metadata.uid.unwrap_or_default())) else { return };
                match why {
                    None => self.world.delete_job(&name),
                    Some(why) => {
                        if let Some((_, shown)) = &mut self.shown_jobs {
                            shown.insert(name.clone());
                        }
                        self.world.unreadable_job(&name, uid, &why);
                    }
                }
            }
            Signal::Job(Seen::Complete) => {
                if let Some((epoch, shown)) = self.shown_jobs.take() {
                    self.world.retain_jobs(&shown);
                    let new = epoch == *self.epoch.borrow();
                    self.note_complete(|complete| complete.0 |= new);
                }
            }
            Signal::Run(Seen::Begin(epoch)) => self.shown_runs = Some((epoch, HashSet::new())),
            Signal::Run(Seen::Apply(run)) => {
                if let (Some((_, shown)), Some(uid)) = (&mut self.shown_runs, &run.metadata.uid) {
                    shown.insert(uid.clone());
                }
                self.world.apply_run(*run);
            }
            Signal::Run(Seen::Delete(run)) => self.world.delete_run(&run, now),
            Signal::Run(Seen::Unreadable { metadata, why }) => match (metadata.uid, why) {
                (Some(uid), None) => self.world.forget_run(&uid, now),
                (uid, Some(why)) => {
                    tracing::warn!(run = ?metadata.name, namespace = ?metadata.namespace, why, "a BackupRun cannot be read");
                    if let (Some((_, shown)), Some(uid)) = (&mut self.shown_runs, uid) {
                        shown.insert(uid);
                    }
                }
                (None, None) => {}
            },
            Signal::Run(Seen::Complete) => {
                if let Some((epoch, shown)) = self.shown_runs.take() {
                    self.world.retain_runs(&shown, now);
                    let new = epoch == *self.epoch.borrow();
                    self.note_complete(|complete| complete.1 |= new);
                }
            }
            Signal::Policy(missing) => {
                self.world.set_policy(missing);
                self.note_complete(|complete| complete.2 = true);
            }
            Signal::NamespaceSeen(namespace, going) => self.world.namespace_seen(&namespace, going, now),
            Signal::ClaimEnded(claim, missed, result) => {
                self.claims.ended(&claim.job.namespace);
                self.world.claim_ended(&claim, missed, result, now);
            }
            Signal::AccessChecked(job, looked_at, result) => {
                if self.world.is_current(&job, &looked_at) {
                    self.world.access_checked(&job, result, now);
                }
            }
        }
    }

    fn take_duty(&mut self, duty: Duty) {
        if duty == self.duty {
            return;
        }
        self.duty = duty;
        if duty != Duty::Leads {
            // Also on the way out, when the Lease is given up: another process writes from now on.
            self.ports.statuses.forget();
        }
        if self.draining && duty != Duty::CutOff {
            return;
        }
        tracing::info!(?duty, running = self.supervisor.len(), "this process' duty");
        let leads = duty == Duty::Leads;
        self.supervisor.set_leading(leads);
        self.world.set_leading(leads);
        if leads {
            // What another process wrote last may still be on its way through the watches.
            self.complete.0 = false;
            self.complete.1 = false;
            self.epoch.send_modify(|epoch| *epoch += 1);
        }
        if duty == Duty::CutOff {
            self.supervisor.cancel_all(Reason::ClusterUnavailable);
        }
    }

    /// Decisions begin when jobs, runs and policies have all been seen once.
    fn note_complete(&mut self, set: impl Fn(&mut (bool, bool, bool))) {
        let before = self.complete;
        set(&mut self.complete);
        if self.complete == (true, true, true) && before != self.complete {
            self.world.set_synced();
            (self.ready)();
        }
    }

    fn act(&mut self) {
        loop {
            let supervisor = &self.supervisor;
            let actions = self.world.decide(self.ports.clock.now(), &|key: &RunKey| supervisor.has(key));
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Claim(claim, missed) => {
                let (records, sender) = (Arc::clone(&self.ports.records), self.sender.clone());
                let turn = self.claims.turn(&claim.job.namespace);
                tokio::spawn(async move {
                    let result = turn.take(call(records.claim(&claim))).await;
                    let _ = sender.send(Signal::ClaimEnded(claim, missed, result)).await; // nobody listens at the end
                });
            }
            Action::Start(key, run, job, cancelled) => self.supervisor.start(key, run.as_ref().clone(), job, cancelled),
            Action::Cancel(key, cause) => self.supervisor.cancel(&key, cause),
            Action::CancelAll(job) => self.supervisor.cancel_owned_by(&job, Reason::Deleted),
            Action::Release(run) => {
                let records = Arc::clone(&self.ports.records);
                tokio::spawn(async move {
                    if let Err(failure) = call(records.release(&run)).await {
                        tracing::warn!(run = ?run.metadata.name, %failure, "finalizer not removed, tried again within a minute");
                    }
                });
            }
            Action::LookAtNamespace(namespace) => {
                let (records, sender) = (Arc::clone(&self.ports.records), self.sender.clone());
                tokio::spawn(async move {
                    let going = call(records.is_going(&namespace)).await;
                    let _ = sender.send(Signal::NamespaceSeen(namespace, going)).await; // nobody listens at the end
                });
            }
            Action::Delete(key) => {
                let records = Arc::clone(&self.ports.records);
                tokio::spawn(async move {
                    if let Err(failure) = call(records.delete(&key)).await {
                        tracing::warn!(run = %key.name, %failure, "run beyond the history limit not deleted, tried again within a minute");
                    }
                });
            }
            Action::Write(job, write) => self.ports.statuses.put(job, write),
            Action::CheckAccess(job, valid) => self.check_access(job, valid),
            Action::Notice(subject, happening) => self.ports.observer.notice(&subject, &happening),
        }
    }

    fn check_access(&self, job: JobRef, valid: Arc<ValidatedJob>) {
        let (executor, sender, looks) =
            (Arc::clone(&self.ports.executor), self.sender.clone(), Arc::clone(&self.looks));
        tokio::spawn(async move {
            // Never closed; its turn is waited for outside of the call's own time.
            let _turn = looks.acquire_owned().await;
            let result = call(executor.check(&valid)).await;
            let _ = sender.send(Signal::AccessChecked(job, valid, result)).await; // nobody listens at the end
        });
    }
}

#[cfg(test)]
mod tests;
