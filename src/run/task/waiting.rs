//! **O** How a run waits for its turn, and says so.
//!
//! A run that the schedule claimed has its owner and its finalizer from the beginning, so nothing is asked of the API
//! server before its turn has come: a thousand runs that wait cost a thousand entries in memory. One that somebody made
//! by hand is looked at first, so that a wrong name is said at once and nobody deletes it unseen.

use super::{RunTask, Stop, call};
use crate::api::FINALIZER_RUN;
use crate::api::backup_job::ConcurrencyPolicy;
use crate::api::time::from_time;
use crate::error::Failure;
use crate::run::Phase;
use crate::run::exclusive::Turn;
use crate::run::turns::Place;
use std::sync::Arc;
use std::time::Duration;

/// How often the place in the queue is written (`product.md` section 2).
const PLACE_EVERY: Duration = Duration::from_secs(30);
/// Who comes in behind the first twenty says that he waits once, this much later for each who waits before him: a burst of
/// a thousand runs becomes 50 writes a second, and the claims go before.
const PLACE_SPACING: Duration = Duration::from_millis(20);

impl RunTask {
    /// Whether the schedule claimed this run: then it was created with its owner and its finalizer.
    pub(super) fn is_claimed(&self) -> bool {
        let held = self.run.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_RUN);
        self.run.spec.scheduled_at.is_some() && held && self.job_uid.is_some()
    }

    /// Looks at the BackupJob and gives the run what it must have of it; once.
    pub(super) async fn take_up(&mut self) -> Result<(), Stop> {
        let mut tries = 0;
        while let Err(failure) = self.try_to_take_up().await? {
            self.pause(failure, &mut tries).await?;
        }
        Ok(())
    }

    async fn try_to_take_up(&mut self) -> Result<Result<(), Failure>, Stop> {
        if self.alone.is_some() {
            return Ok(Ok(()));
        }
        let owner = self.find_job().await?;
        match self.or_cancel(call(self.shared.records.adopt(&self.run, &owner))).await? {
            Ok(None) => return Err(Stop::Gone),
            Ok(Some(now)) => self.note_seen(&now)?,
            Err(failure) => return Ok(Err(failure)),
        }
        let spec = self.status.spec.as_ref().unwrap_or(&owner.spec);
        self.alone = Some(spec.concurrency_policy != Some(ConcurrencyPolicy::Allow));
        Ok(Ok(()))
    }

    /// Waits for a turn in the queue and, unless runs of this job may overlap, for the job's other runs.
    pub(super) async fn turn(&mut self) -> Result<(Place, Option<Turn>), Stop> {
        let mut tries = 0;
        let place = loop {
            let place = self.place().await?;
            match Box::pin(self.try_to_take_up()).await? {
                Ok(()) => break place,
                Err(failure) => {
                    drop(place); // a webhook may deny it in this namespace; the others can work meanwhile
                    self.pause(failure, &mut tries).await?;
                }
            }
        };
        if self.alone == Some(false) {
            return Ok((place, None));
        }
        // One run of a job at a time, whoever asked for it: that is what Forbid promises, and Replace.
        let shared = Arc::clone(&self.shared);
        let key = format!("job/{}", self.job_uid.as_ref().map_or("", crate::api::names::Uid::as_str));
        if let Some(turn) = shared.exclusive.try_lock(&key) {
            return Ok((place, Some(turn)));
        }
        drop(place); // others can work meanwhile
        self.say_waiting("waits for another run of the same BackupJob to end").await?;
        let turn = self.or_cancel(shared.exclusive.lock(&key)).await?;
        Ok((self.place().await?, Some(turn)))
    }

    pub(super) async fn place(&mut self) -> Result<Place, Stop> {
        let created = self.run.metadata.creation_timestamp.as_ref();
        let tick = self.run.spec.scheduled_at.as_ref().or(created).map_or_else(|| self.shared.clock.now(), from_time);
        let mut place = self.shared.turns.enter(&self.key.namespace, tick);
        let waited = self.wait_in_queue(&mut place).await;
        self.status.queue_position = None;
        waited.map(|()| place)
    }

    async fn wait_in_queue(&mut self, place: &mut Place) -> Result<(), Stop> {
        let ahead = u32::try_from(place.ahead()).unwrap_or(u32::MAX);
        let mut wait = if place.position().is_some() { Duration::ZERO } else { PLACE_SPACING.saturating_mul(ahead) };
        loop {
            if place.is_called() || self.or_cancel(tokio::time::timeout(wait, place.called())).await?.is_ok() {
                return Ok(());
            }
            self.status.queue_position = place.position().and_then(|place| i64::try_from(place).ok());
            let why = match self.status.queue_position {
                Some(place) => format!("waits for its turn, at place {place}: as many backups as allowed are at work"),
                None => "waits for its turn: as many backups as allowed are at work".to_owned(),
            };
            self.say_waiting(&why).await?;
            wait = PLACE_EVERY;
        }
    }

    /// Writes that the run waits, and for what, unless that is what is stored. Where it cannot be written, the run waits all
    /// the same, and its turn comes all the same.
    pub(super) async fn say_waiting(&mut self, why: &str) -> Result<(), Stop> {
        self.status.phase = Phase::Pending;
        self.status.message = Some(why.to_owned());
        if (self.stored.phase, &self.stored.message) == (self.status.phase, &self.status.message) {
            return Ok(());
        }
        self.write_in_passing().await.map(drop)
    }
}
