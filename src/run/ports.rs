//! **T** What running needs of the outside world, as traits: `app` supplies them.

use super::cancel::Cancel;
use super::report::{Progress, Recovered, Report};
use super::{AttemptId, Phase};
use crate::api::backup_job::{BackupJob, BackupJobStatus};
use crate::api::backup_run::{BackupRun, BackupRunStatus};
use crate::api::names::{JobRef, Namespace, RunName, Uid};
use crate::error::Failure;
use crate::validate::ValidatedJob;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One BackupRun object, for good: another one of the same name has another UID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunKey {
    /// Namespace.
    pub namespace: Namespace,
    /// Name.
    pub name: RunName,
    /// UID.
    pub uid: Uid,
}

/// A claim to a tick: the BackupRun that is to be created.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The BackupJob.
    pub job: JobRef,
    /// Its UID, which becomes the run's owner.
    pub job_uid: Uid,
    /// The run's name, a function of job and tick.
    pub run: RunName,
    /// The nominal tick.
    pub tick: DateTime<Utc>,
    /// When the run was meant to start: the tick and its jitter.
    pub start: DateTime<Utc>,
    /// Since when the BackupJob's ticks count, which the run says of itself.
    pub since: Option<DateTime<Utc>>,
}

/// What became of a claim.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The run was created now.
    Created,
    /// It was there and belongs to the same BackupJob object: somebody (we, before a crash) has it.
    AlreadyOurs,
    /// The name belongs to something else.
    NameTaken,
    /// The namespace or the job is going: nothing to do any more.
    Gone,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is stored.
    Yes,
    /// The object is gone, or is another one by now.
    Gone,
}

/// What became of a write of a run's status.
#[derive(Clone, Debug)]
pub enum RunWritten {
    /// It is stored; this is the object's resourceVersion now.
    Yes(String),
    /// The object is gone, or is another one by now.
    Gone,
    /// It is not stored: the object is no longer the one that was seen, but this one.
    Conflict(Box<BackupRun>),
    /// It never will be: the API server finds it invalid, and says why.
    Refused(String),
}

/// How the task of a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// The run is over, or gone.
    Over,
    /// It is left to another process, or to a later task.
    Left,
    /// An attempt of it may be open that nobody works at: in a fault of ours, or its beginning was given up and may have been
    /// stored all the same.
    Fault,
}

/// BackupRuns and BackupJobs in the cluster.
#[async_trait]
pub trait Records: Send + Sync {
    /// Creates the BackupRun of a claim. Only that it exists proves the claim.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, Failure>;
    /// Gives a run its finalizer, its owner and its labels where they are missing. The object as it is then; `None` if it
    /// is gone.
    async fn adopt(&self, run: &BackupRun, job: &BackupJob) -> Result<Option<BackupRun>, Failure>;
    /// Whether a namespace is to be deleted, or gone.
    async fn is_going(&self, namespace: &Namespace) -> Result<bool, Failure>;
    /// Takes our finalizer off.
    async fn release(&self, run: &BackupRun) -> Result<Written, Failure>;
    /// Deletes a run (history limits).
    async fn delete(&self, run: &RunKey) -> Result<(), Failure>;
    /// Writes the whole status of a run, if the object still has this resourceVersion.
    async fn write_run(&self, run: &RunKey, version: &str, status: &BackupRunStatus) -> Result<RunWritten, Failure>;
    /// The BackupJob as the API server has it now; `None` if there is none.
    async fn job(&self, job: &JobRef) -> Result<Option<Arc<BackupJob>>, Failure>;
}

/// A BackupJob's new status, and the object that it was derived from.
#[derive(Clone, Debug)]
pub struct StatusWrite {
    /// UID of the object.
    pub uid: Uid,
    /// resourceVersion that was seen.
    pub version: String,
    /// The whole status.
    pub status: Box<BackupJobStatus>,
}

/// Where BackupJob status goes.
pub trait StatusSink: Send + Sync {
    /// Takes the newest status of a job; sees to it that it is stored.
    fn put(&self, job: JobRef, write: StatusWrite);
    /// Another process writes them from now on: what was not sent yet is dropped.
    fn forget(&self);
}

/// Does the work of attempts.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Whether all that a BackupJob refers to is there, and may be used with its namespace's rights: ServiceAccount, Secret
    /// and the keys in it, target, container. Nothing outside the cluster is contacted. A target that is not Ready is no
    /// failure: pods come and go, and a run waits for them.
    async fn check(&self, job: &ValidatedJob) -> Result<(), Failure>;
    /// Sees what an attempt whose process died left at its destination, and clears it away unless it is a whole backup.
    async fn recover(&self, job: &ValidatedJob, id: &AttemptId) -> Result<Recovered, Failure>;
    /// Reads credentials and finds the target; touches neither target nor destination.
    async fn prepare(&self, job: &ValidatedJob) -> Result<Box<dyn Prepared>, Failure>;
}

/// An attempt that only has to be started.
#[async_trait]
pub trait Prepared: Send {
    /// What it must have for itself while it works (a backup directory in each container), if anything.
    fn exclusive(&self) -> BTreeSet<String>;
    /// The pod that will be read, or the names of all.
    fn pod(&self) -> Option<String>;
    /// Does the work. `waited`: the attempt before it found that it had to wait, as this one may. After `cancel` it cleans
    /// up and ends.
    async fn run(
        self: Box<Self>,
        id: AttemptId,
        waited: bool,
        progress: Arc<Progress>,
        cancel: Cancel,
    ) -> Result<Report, Failure>;
}

/// Phase of a run that may have no status yet.
pub fn phase_of(run: &BackupRun) -> Phase {
    run.status.as_ref().map(|status| status.phase).unwrap_or_default()
}
