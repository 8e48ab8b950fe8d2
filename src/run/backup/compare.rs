//! **O** Whether a backup is much smaller than those before it.
//!
//! An archive may hold thousands. Of its list no more than [`READ_LIMIT`] keys are kept, those of the newest; their
//! manifests are read one after the other and let go, until as many count as are compared. So a run costs the same in the
//! archive's tenth year as in its first month. What cannot be read is passed over: one object that the store has lost must
//! not switch the guard off.
//!
//! Others may store theirs in the same archive. A folder that is named by another BackupJob's tick is not looked into, so that
//! theirs do not push ours out of the list. Those that cannot be told by their names may: then nothing is known, and that is
//! said.

use super::Attempt;
use super::verdict::owner;
use crate::destination::Destination;
use crate::error::Reason;
use crate::repository::catalog::{newest, read_document};
use crate::repository::layout;
use crate::repository::manifest::{self, Manifest, Outcome, Owner, Shrunk};
use crate::run::guard::Before;
use crate::run::report::Plan;

/// How many manifests one run reads for it at most: those of others in the same archive, of incomplete and of flagged
/// backups do not count as what it is compared with.
const READ_LIMIT: usize = 64;
/// So many that the store does not give, and no more are asked for: each may take minutes to be given up.
const UNREAD_LIMIT: usize = 3;

impl Attempt<'_> {
    /// By how much it is smaller, where that is more than the guard allows. Not knowing it spoils no backup, but is said.
    pub(super) async fn compare(&mut self, raw_size: u64, outcome: Outcome) -> Option<Shrunk> {
        let maximum = self.plan.maximum_shrink_percent.filter(|_| outcome == Outcome::Complete)?;
        let mut before = Before::new(self.plan.accepted.as_deref());
        if let Some(unseen) = look_back(self.plan, self.destination, &mut before).await {
            self.warn(unseen);
        }
        before.shrunk(raw_size, maximum)
    }
}

/// Gathers what a backup is compared with; gives what is to be said of those that were not seen.
async fn look_back(plan: &Plan, destination: &dyn Destination, before: &mut Before<'_>) -> Option<String> {
    let unknown = "whether it has shrunk is not known";
    let unreadable = |reason: Reason| format!("{unknown}: the backups before it could not be read ({reason})");
    let archive = &plan.id.archive;
    // One more than is read tells whether there are more.
    let keys = match newest(destination, archive, READ_LIMIT + 1, |folder| may_be_ours(plan, folder)).await {
        Ok(keys) => keys,
        Err(failure) => return Some(unreadable(failure.reason)),
    };
    let mut unread = Vec::new();
    for key in keys.iter().take(READ_LIMIT) {
        let read = read_document(destination, key).await;
        match read.and_then(|bytes| manifest::parse::<Manifest>(key.as_str(), &bytes)) {
            Ok(manifest) if continues(plan, &manifest.owner) => {
                if !before.add(&manifest) {
                    break;
                }
            }
            Ok(_) => {}
            // Removed since it was listed; or damaged, which `ubo list` shows.
            Err(e) if matches!(e.reason, Reason::BackupNotFound | Reason::BackupDamaged | Reason::NotSupported) => {}
            Err(e) => {
                unread.push(e.reason);
                if unread.len() == UNREAD_LIMIT {
                    break;
                }
            }
        }
    }
    match unread.first() {
        Some(reason) if before.is_empty() => Some(unreadable(*reason)),
        Some(reason) => {
            Some(format!("not every backup before it could be read ({reason}); it was compared with others"))
        }
        None if before.is_empty() && keys.len() > READ_LIMIT => Some(format!(
            "{unknown}: of the {READ_LIMIT} newest backups in {archive} none is a complete one of this BackupJob, and older \
             ones are not looked at. If others store theirs there, a BackupJob with an archiveName of its own is compared"
        )),
        None => None,
    }
}

/// Whether what lies in an attempt's folder may be this job's, by the folder's name. One that a person named like another
/// job's tick is no measure, unless it is the accepted one. What is taken over from another owner is named by that one.
fn may_be_ours(plan: &Plan, folder: &str) -> bool {
    let by_another = layout::named_by(folder).is_some_and(|(job, _)| job != plan.id.job.name.as_str());
    let accepted = plan.accepted.as_ref().is_some_and(|run| folder.starts_with(run.as_str()));
    !by_another || accepted || plan.adopt.is_some()
}

/// Whether this job goes on with that owner's backups. Others may lie in the same archive, and are no measure.
fn continues(plan: &Plan, other: &Owner) -> bool {
    owner(&plan.id).is_same_job(other) || plan.adopt.as_ref() == Some(&other.id())
}
