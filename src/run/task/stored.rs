//! **O** How a run's status is stored: until the API server has it, and under the version of the object that was seen.
//!
//! What the API server finds invalid it will never take, however often it is asked. Of a run that is not over that is a
//! fault that ends it; of one that is, less is said ([`record::reduce`]). What a policy or a webhook of the cluster denies is
//! not invalid: it is tried again, and the log says whose word it is. While that takes, the run has nothing that others wait
//! for: what denies the writes of one namespace keeps no other from its backups.

use super::{RunTask, Stop, WRITE_BACKOFF, call, waits_for_the_api};
use crate::api::backup_run::BackupRun;
use crate::error::{Reason, cut};
use crate::run::ports::RunWritten;
use crate::run::{Phase, record};
use std::time::Duration;

/// How often a status is written again at once because something else of the object had changed.
const CONFLICT_TRIES: usize = 5;

/// What became of one try.
pub(super) enum Stored {
    /// It is stored.
    Yes,
    /// Not yet, and why.
    No(String),
    /// It never will be, and why.
    Refused(String),
}

impl RunTask {
    pub(super) async fn finish(&mut self, phase: Phase, reason: Reason, message: &str) -> Result<(), Stop> {
        let now = self.shared.clock.now();
        record::finish(&mut self.status, phase, Some(reason), message, self.run.metadata.generation, now);
        self.persist().await
    }

    /// Writes the status until it is stored, or the run is gone or no longer ours.
    pub(super) async fn persist(&mut self) -> Result<(), Stop> {
        self.persist_for(Duration::MAX).await.map(drop)
    }

    /// The same, and tries no more when `limit` is over: then why it is not stored.
    pub(super) async fn persist_for(&mut self, limit: Duration) -> Result<Option<String>, Stop> {
        let begun = tokio::time::Instant::now();
        let (mut tries, mut reduced, mut told) = (0usize, false, None);
        loop {
            let why = match self.write_once().await? {
                Stored::Yes => return Ok(None),
                Stored::Refused(why) if !reduced => {
                    let said = self.status.message.as_deref().map(|said| cut(said, 1024));
                    tracing::error!(run = %self.key.name, namespace = %self.key.namespace, why, said,
                        "the API server finds the status of a run invalid; please report it");
                    if !self.status.phase.is_final() {
                        return Err(Stop::Failed(record::refused(&why)));
                    }
                    let now = self.shared.clock.now();
                    record::reduce(&mut self.status, &why, self.run.metadata.generation, now);
                    reduced = true;
                    continue;
                }
                Stored::No(why) | Stored::Refused(why) => why,
            };
            if told.as_ref() != Some(&why) {
                tracing::warn!(run = %self.key.name, namespace = %self.key.namespace, why,
                    "status not written, tried until it is");
                told = Some(why.clone());
            }
            if begun.elapsed() >= limit {
                self.given_up = Some(Box::new(self.status.clone()));
                return Ok(Some(why));
            }
            tokio::time::sleep(WRITE_BACKOFF[tries.min(WRITE_BACKOFF.len() - 1)]).await;
            tries += 1;
        }
    }

    /// Waits until the API server takes what is written of the run, and says that it waits for that.
    pub(super) async fn until_written(&mut self, why: &str) -> Result<(), Stop> {
        self.status.phase = Phase::Pending;
        self.status.message = Some(waits_for_the_api(why));
        let mut tries = 0usize;
        while !self.write_in_passing().await? {
            self.or_cancel(tokio::time::sleep(WRITE_BACKOFF[tries.min(WRITE_BACKOFF.len() - 1)])).await?;
            tries += 1;
        }
        Ok(())
    }

    /// Writes the status of a run that is not over, once; whether it is stored. Only a picture for people: where it cannot be
    /// stored, what the run does goes on.
    pub(super) async fn write_in_passing(&mut self) -> Result<bool, Stop> {
        match self.write_once().await? {
            Stored::Yes => Ok(true),
            Stored::No(_) => Ok(false),
            Stored::Refused(why) => Err(Stop::Failed(record::refused(&why))),
        }
    }

    /// Writes the status once, and again where only something else of the object had changed.
    pub(super) async fn write_once(&mut self) -> Result<Stored, Stop> {
        for _ in 0..CONFLICT_TRIES {
            match call(self.shared.records.write_run(&self.key, &self.version, &self.status)).await {
                Ok(RunWritten::Yes(version)) => {
                    self.version = version;
                    self.stored.clone_from(&self.status);
                    self.given_up = None;
                    return Ok(Stored::Yes);
                }
                Ok(RunWritten::Gone) => return Err(Stop::Gone),
                Ok(RunWritten::Conflict(now)) => self.note_seen(&now)?,
                Ok(RunWritten::Refused(why)) => return Ok(Stored::Refused(why)),
                Err(failure) => return Ok(Stored::No(failure.message)),
            }
        }
        Ok(Stored::No("it is written to by somebody else all the time".to_owned()))
    }

    /// The object as it is now: its version counts from here on, if the run is still ours.
    pub(super) fn note_seen(&mut self, now: &BackupRun) -> Result<(), Stop> {
        let there = now.status.clone().unwrap_or_default();
        let given_up = self.given_up.as_deref().is_some_and(|ours| record::is_ours(&there, ours, ours));
        if !given_up && !record::is_ours(&there, &self.stored, &self.status) {
            return Err(Stop::Lost);
        }
        self.version = now.metadata.resource_version.clone().unwrap_or_default();
        Ok(())
    }
}
