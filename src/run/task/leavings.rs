//! **O** What the attempts of a run left at its destination.
//!
//! * One that is open when the run is taken up was executed by a process that is gone: nobody has cleaned up after it.
//! * One that ended has cleaned up, as far as the destination let it: a store that is down fails the attempt, and the
//!   removal of what it wrote as well. What had to stay is in the attempt's record (`left`), so that whoever has the run
//!   next knows. Before the next attempt it is tried again; what stays then is a warning of the run (`record::finish`).
//!   Which attempt of a run that waits is the one that works is not known before, so it is tried before some of its looks
//!   (`record::to_clear`).
//! * One that was cut off while it looked at its manifest for the last time removes nothing (`backup`). What is whole of
//!   that is the run's backup, and no second one is made.

use super::{RunTask, Stop, call, in_time};
use crate::api::backup_job::BackupJob;
use crate::error::{Failure, Reason};
use crate::repository::layout;
use crate::run::observer::Happening;
use crate::run::record::{self, NOT_CLEANED_UP, Next};
use crate::run::report::{Recovered, Report};
use crate::validate::{ValidatedJob, validate};
use std::time::Duration;

/// How long clearing away what one attempt left may take; then it is said that it stays.
const RECOVER_LIMIT: Duration = Duration::from_mins(2);

impl RunTask {
    /// Tries again to remove what earlier attempts could not. Gives the backup that one made which was cut off, and its
    /// number.
    pub(super) async fn clear_left(&mut self, valid: &ValidatedJob) -> Result<Option<(u32, Report)>, Stop> {
        for attempt in record::to_clear(&self.status) {
            let id = self.attempt_id(valid, attempt);
            let folder = layout::folder(&id)?;
            let stays = match self.or_cancel(self.clear(valid, attempt)).await? {
                Ok(Recovered::Cleared(stays)) => stays,
                Ok(Recovered::Whole(report)) if record::was_cut_off(&self.status, attempt) => {
                    record::note_left(&mut self.status, attempt, None);
                    return Ok(Some((attempt, *report)));
                }
                // It failed after its manifest was written, and that could not be removed: it is listed, and good.
                Ok(Recovered::Whole(_)) => Some("a whole backup, although the attempt failed".to_owned()),
                Err(failure) => {
                    tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, attempt, %failure,
                        "what an earlier attempt left was not cleared away");
                    break;
                }
            };
            let left = stays.map(|stays| format!("In {folder} stays: {stays}"));
            record::note_left(&mut self.status, attempt, left.as_deref());
        }
        Ok(None)
    }

    /// Closes an attempt that is open: whoever opened it is gone, another process or a task of this one that ended in a
    /// fault. What it left is cleared away first, so that a process that dies over it leaves the attempt open for the next.
    pub(super) async fn close_dead_attempt(&mut self) -> Result<(), Stop> {
        let dead =
            record::open_attempt(&self.status).map(|open| (open.number, open.executor.clone().unwrap_or_default()));
        let Some((attempt, executor)) = dead else { return Ok(()) };
        // The run is taken from it first. If it lives after all (cut off, or frozen for a while), whatever it says of the run
        // from here on is refused: else it could write `Succeeded` over the removal of what it made.
        self.status.executor = Some(self.shared.instance.clone());
        if let Err(stop) = self.persist().await {
            // The run ends without a look at what it left.
            record::note_left(&mut self.status, attempt, Some(NOT_CLEANED_UP));
            return Err(stop);
        }
        let result = match self.recover(attempt).await {
            Ok(Recovered::Whole(report)) => Ok(*report),
            Ok(Recovered::Cleared(stays)) => Err(record::died(&executor, stays.as_deref())),
            Err(failure) => {
                tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, attempt, %failure,
                    "what a dead attempt left was not cleared away");
                Err(record::died(&executor, Some(&failure.message)))
            }
        };
        let retry = self.stored_retry();
        let now = self.shared.clock.now();
        let next = record::end_attempt(&mut self.status, &result, retry, self.run.metadata.generation, now);
        self.notice_owner(&result);
        if let (Next::Retry(retry_at), Err(failure)) = (next, result) {
            self.notice(&Happening::AttemptFailed { attempt, failure, retry_at });
        }
        self.persist().await
    }

    /// Sees what a dead attempt left at its destination.
    async fn recover(&mut self, attempt: u32) -> Result<Recovered, Failure> {
        let Some(found) = call(self.shared.records.job(&self.job)).await? else {
            return Err(Failure::new(Reason::JobNotFound, "its BackupJob is gone, so nobody knows where to look"));
        };
        let mut job = BackupJob::clone(&found);
        if let Some(spec) = &self.status.spec {
            job.spec = spec.clone();
        }
        let valid = validate(&job).map_err(|invalid| Failure::new(invalid.reason, invalid.message))?;
        self.clear(&valid, attempt).await
    }

    async fn clear(&self, valid: &ValidatedJob, attempt: u32) -> Result<Recovered, Failure> {
        let id = self.attempt_id(valid, attempt);
        in_time(RECOVER_LIMIT, "clearing away what it left", self.shared.executor.recover(valid, &id)).await
    }
}
