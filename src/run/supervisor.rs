//! **O** The runs that are at work in this process: started, cancelled, waited for.

use super::cancel::Cancel;
use super::observer::{Happening, Subject};
use super::ports::{RunKey, TaskEnd};
use super::task::{RunTask, Shared};
use crate::api::backup_run::BackupRun;
use crate::api::names::{JobRef, Uid};
use crate::error::Reason;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinSet;

struct Active {
    cancel: Cancel,
    owner: Option<String>,
}

/// The set of run tasks. Owned by the controller loop.
pub struct Supervisor {
    shared: Arc<Shared>,
    active: HashMap<RunKey, Active>,
    tasks: JoinSet<(RunKey, JobRef, TaskEnd)>,
}

impl Supervisor {
    /// No runs yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, active: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Whether a task has this run.
    pub fn has(&self, key: &RunKey) -> bool {
        self.active.contains_key(key)
    }

    /// How many runs have a task.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether no run has a task.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Starts a task for a run that has none. `cancelled` starts one that only closes the run.
    pub fn start(&mut self, key: RunKey, run: BackupRun, job: JobRef, cancelled: Option<Reason>) {
        if self.has(&key) {
            return;
        }
        let cancel = Cancel::default();
        if let Some(cause) = cancelled {
            cancel.request(cause);
        }
        let owner =
            run.metadata.owner_references.iter().flatten().find(|o| o.kind == "BackupJob").map(|o| o.uid.clone());
        self.active.insert(key.clone(), Active { cancel: cancel.clone(), owner });
        let task = RunTask::new(Arc::clone(&self.shared), key.clone(), run, job.clone(), cancel);
        // A panic must not leave the entry behind, so the run's own future is a task of its own.
        let life = tokio::spawn(Box::new(task).live());
        self.tasks.spawn(async move {
            let end = match life.await {
                Ok(end) => end,
                Err(fault) => {
                    tracing::error!(run = %key.name, namespace = %key.namespace, %fault, "the run's task ended in a fault");
                    TaskEnd::Fault
                }
            };
            (key, job, end)
        });
    }

    /// Asks a run to stop.
    pub fn cancel(&self, key: &RunKey, cause: Reason) {
        if let Some(active) = self.active.get(key) {
            active.cancel.request(cause);
        }
    }

    /// Asks every run of a BackupJob object to stop.
    pub fn cancel_owned_by(&self, job: &Uid, cause: Reason) {
        for active in self.active.values().filter(|active| active.owner.as_deref() == Some(job.as_str())) {
            active.cancel.request(cause);
        }
    }

    /// The next run whose task has ended, its BackupJob, and how; pending for ever while there is none.
    pub async fn ended(&mut self) -> (RunKey, JobRef, TaskEnd) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((key, job, end))) => {
                    self.active.remove(&key);
                    let run = Some((key.name.clone(), key.uid.clone()));
                    let subject = Subject { job: job.clone(), job_uid: None, run };
                    self.shared.observer.notice(&subject, &Happening::Left);
                    return (key, job, end);
                }
                Some(Err(_)) => {} // its inner task catches everything; nothing else can fail
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// Whether this process starts runs. When it no longer does, those that wait are left to the one that does.
    pub fn set_leading(&self, leading: bool) {
        self.shared.leading.send_replace(leading);
    }

    /// Asks every run to stop.
    pub fn cancel_all(&self, cause: Reason) {
        for active in self.active.values() {
            active.cancel.request(cause);
        }
    }

    /// Begins nothing any more: runs that wait are left to the next process, running work goes on.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }
}
