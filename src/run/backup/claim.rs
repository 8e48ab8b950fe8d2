//! **O** The first two documents of an attempt: whose archive it is, and who is writing.

use super::Attempt;
use super::verdict::owner;
use crate::api::names::ObjectKey;
use crate::destination::{Destination, Put, Stored};
use crate::error::{Failure, Reason};
use crate::repository::catalog::read_document;
use crate::repository::layout;
use crate::repository::manifest::{self, FORMAT_VERSION, Owner, OwnerDocument, StartedDocument};
use crate::run::report::Ownership;

impl Attempt<'_> {
    /// `owner.json` if there is none, then `started.json`; once.
    pub(super) async fn claim_folder(&mut self) -> Result<(), Failure> {
        if self.claimed {
            return Ok(());
        }
        let id = &self.plan.id;
        let owner = owner(id);
        self.claim_archive(&owner).await?;
        let started = manifest::to_bytes(&StartedDocument {
            format_version: FORMAT_VERSION,
            owner,
            run: id.run.to_string(),
            run_uid: id.run_uid.to_string(),
            attempt: id.attempt,
            started_at: self.started_at,
            operator_version: env!("CARGO_PKG_VERSION").into(),
        })?;
        let key = self.folder.join(layout::STARTED)?;
        self.written.push(key.clone());
        match self.destination.put(&key, started, Put::IfAbsent).await? {
            Stored::Written => {
                self.claimed = true;
                Ok(())
            }
            Stored::AlreadyThere => {
                // Not ours: it is not removed.
                self.written.clear();
                let message =
                    format!("the folder {} is in use by another attempt; the next one takes another", self.folder);
                Err(Failure::new(Reason::DestinationMismatch, message))
            }
        }
    }

    /// Whose archive it is. It is taken over from an earlier BackupJob of the same name in the same cluster, and from whom
    /// the user says. Another owner's is written to all the same: a backup in a strange folder is better than none, but
    /// nothing there may ever be deleted for this job's sake.
    async fn claim_archive(&mut self, owner: &Owner) -> Result<(), Failure> {
        let key = self.plan.id.archive.join(layout::OWNER)?;
        let there = match read_document(self.destination, &key).await {
            Ok(there) => there,
            Err(e) if e.reason == Reason::BackupNotFound => {
                match store(self.destination, &key, owner, Put::IfAbsent).await? {
                    Stored::Written => return Ok(()),
                    Stored::AlreadyThere => read_document(self.destination, &key).await?,
                }
            }
            Err(e) => return Err(e),
        };
        match manifest::parse::<OwnerDocument>(key.as_str(), &there) {
            Ok(there) if there.owner == *owner => {}
            Ok(OwnerDocument { owner: old, .. }) => {
                let archive = &self.plan.id.archive;
                let again = owner.is_same_job(&old);
                if again || self.plan.adopt.as_ref() == Some(&old.id()) {
                    store(self.destination, &key, owner, Put::Always).await?;
                    let which = if again { "an earlier BackupJob" } else { "BackupJob" };
                    let note = format!(
                        "{archive} belonged to {which} {}/{} ({}) of cluster {} and was taken over",
                        old.namespace, old.job, old.job_uid, old.cluster_id
                    );
                    self.warn(note.clone());
                    self.ownership = Ownership::TakenOver(note);
                } else {
                    self.warn(format!(
                        "{archive} belongs to BackupJob {}/{} ({}) of cluster {}: nothing there is ever deleted for this one",
                        old.namespace, old.job, old.job_uid, old.cluster_id
                    ));
                    self.ownership = Ownership::Foreign(old);
                }
            }
            Err(failure) => self.warn(failure.message),
        }
        Ok(())
    }
}

/// Writes `owner.json`. It outlives the attempt, so what the server has got wrong is removed at once: else every later run
/// would find a document that it cannot read.
async fn store(destination: &dyn Destination, key: &ObjectKey, ours: &Owner, when: Put) -> Result<Stored, Failure> {
    let document = manifest::to_bytes(&OwnerDocument { format_version: FORMAT_VERSION, owner: ours.clone() })?;
    let stored = destination.put(key, document, when).await;
    if stored.as_ref().is_err_and(|failure| failure.reason == Reason::DestinationMismatch)
        && let Err(stays) = remove_damaged(destination, key, ours).await
    {
        tracing::warn!(%key, reason = %stays.reason, "what the server has got wrong could not be removed");
    }
    stored
}

/// Removes an `owner.json` that nobody can have written. That other bytes arrived than were sent does not mean that they
/// were stored: a server may refuse them, and then what lies there is somebody's own.
async fn remove_damaged(destination: &dyn Destination, key: &ObjectKey, ours: &Owner) -> Result<(), Failure> {
    let there = read_document(destination, key).await;
    let damaged = match there.and_then(|bytes| manifest::parse::<OwnerDocument>(key.as_str(), &bytes)) {
        // Nobody else has this job's UID.
        Ok(there) => there.owner.job_uid == ours.job_uid && there.owner != *ours,
        Err(failure) => match failure.reason {
            Reason::BackupDamaged => true,
            // Nothing was stored; or a newer version's was.
            Reason::BackupNotFound | Reason::NotSupported => false,
            _ => return Err(failure),
        },
    };
    if damaged { destination.delete(key).await } else { Ok(()) }
}
