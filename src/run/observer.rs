//! **T** What happens to runs, told to whoever counts it, logs it or shows it. The flow itself knows no metric and no
//! Event; `app` joins them.

use super::Phase;
use crate::api::names::{JobRef, RunName, Uid};
use crate::error::{Failure, Reason};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// A BackupJob or a BackupRun, as an Event refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The BackupJob (for a run: the one that it is of).
    pub job: JobRef,
    /// UID of the BackupJob.
    pub job_uid: Option<Uid>,
    /// The BackupRun, with its UID, where it is about one.
    pub run: Option<(RunName, Uid)>,
}

/// Why a due tick started nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// `concurrencyPolicy: Forbid`, and a run of the job is not through.
    StillRunning,
    /// It could not be claimed within `startingDeadlineSeconds` after its start.
    DeadlinePassed,
    /// It was missed, and `missedRuns: Skip` says that it is not made up for.
    Missed,
    /// The name of its BackupRun belonged to something else until a later tick was due.
    NameTaken,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A tick was claimed: its BackupRun exists.
    Claimed {
        /// The nominal tick.
        tick: DateTime<Utc>,
        /// How long after it was meant to start.
        lag: Duration,
    },
    /// A tick has its BackupRun, and earlier ones that nobody claimed are not made up for.
    CaughtUp {
        /// The nominal tick.
        tick: DateTime<Utc>,
        /// How many.
        missed: u32,
    },
    /// A due tick started nothing.
    Skipped {
        /// The nominal tick.
        tick: DateTime<Utc>,
        /// Why.
        why: Skip,
        /// Earlier ticks that nobody claimed and that are not made up for.
        missed: u32,
    },
    /// The name that a tick's run must have belongs to something else. Said at each try; the tick is skipped when a later
    /// one is due ([`Skip::NameTaken`]).
    NameTaken {
        /// The name.
        run: RunName,
    },
    /// A claim failed for another reason and is tried again. Said once for each tick and reason.
    ClaimFailed {
        /// Why.
        failure: Failure,
    },
    /// An attempt began.
    AttemptStarted {
        /// Counted from 1.
        attempt: u32,
    },
    /// An attempt that began has ended, in whatever way: what it moved.
    Moved {
        /// Raw bytes read.
        read: u64,
        /// Bytes handed to the destination.
        stored: u64,
    },
    /// An attempt failed and another follows.
    AttemptFailed {
        /// Counted from 1.
        attempt: u32,
        /// Why.
        failure: Failure,
        /// When the next one starts.
        retry_at: DateTime<Utc>,
    },
    /// A run has begun to wait for something that somebody else has.
    Waits {
        /// For what.
        failure: Failure,
    },
    /// A run is over.
    Ended {
        /// A final phase.
        phase: Phase,
        /// Why, unless it succeeded.
        reason: Option<Reason>,
        /// For a person.
        message: String,
        /// From the first attempt's start.
        duration: Duration,
        /// Bytes stored.
        bytes_stored: u64,
        /// How much smaller the backup is than those before it, where that is more than the guard allows.
        shrunk: Option<String>,
        /// When the run started.
        started: Option<DateTime<Utc>>,
    },
    /// This process has nothing more to do with a run: it is over, gone, or left to another process. The last that is told
    /// of each run that was taken up.
    Left,
    /// An archive that was another BackupJob's is this one's from now on.
    TookOver {
        /// Whose it was.
        note: String,
    },
    /// A backup was written into an archive that is somebody else's.
    ForeignOwner {
        /// Whose it is: `<cluster id>/<job UID>`.
        owner: String,
    },
    /// Nothing of the BackupJob is due, because a clock was ahead when its last tick was handled.
    ClockWentBack {
        /// Until when, and the way out.
        warning: String,
    },
    /// The BackupJob cannot run as it is.
    NotReady {
        /// Why.
        failure: Failure,
    },
    /// A BackupJob is gone: what is kept of it in memory goes too.
    JobDeleted,
}

/// Somebody who wants to know. Never blocks.
pub trait Observer: Send + Sync {
    /// Takes note.
    fn notice(&self, subject: &Subject, happening: &Happening);
}
