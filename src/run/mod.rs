//! **P** A run, its attempts and outcomes.

pub mod backup;
pub mod cancel;
pub mod exclusive;
pub mod guard;
pub mod observer;
pub mod pace;
pub mod ports;
pub mod queue;
pub mod record;
pub mod recover;
mod removal;
pub mod report;
pub mod supervisor;
pub mod task;
pub mod turns;

use crate::api::names::{JobRef, ObjectKey, RunName, Uid};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a run stands. The last five are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It waits: for its turn, or for the next attempt.
    #[default]
    Pending,
    /// An attempt is at work.
    Running,
    /// Source whole, destination committed, manifest read back.
    Succeeded,
    /// Source whole, but some destination failed.
    PartiallyStored,
    /// The source was not whole; what could be read is kept and marked.
    Incomplete,
    /// No backup was made.
    Failed,
    /// Somebody asked for it to stop.
    Cancelled,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Running,
        Self::Succeeded,
        Self::PartiallyStored,
        Self::Incomplete,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether nothing will change any more.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// The word, as in a status, a metric label and a log line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::PartiallyStored => "PartiallyStored",
            Self::Incomplete => "Incomplete",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Which attempt of which run: enough to name everything it leaves anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptId {
    /// The BackupJob.
    pub job: JobRef,
    /// Its UID; on the command line one derived from the job's name.
    pub job_uid: Uid,
    /// UID of the kube-system namespace; `local` installations have one of their own.
    pub cluster_id: Uid,
    /// The BackupRun.
    pub run: RunName,
    /// Its UID.
    pub run_uid: Uid,
    /// Counted from 1.
    pub attempt: u32,
    /// The nominal tick, for a scheduled run.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Folder of the job's backups below the destination's uri.
    pub archive: ObjectKey,
}
