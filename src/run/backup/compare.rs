//! **O** Whether a backup is much smaller than those before it.
//!
//! An archive may hold thousands. Of its list no more than [`READ_LIMIT`] keys are kept, those of the newest; their
//! manifests are read one after the other and let go, until as many count as are compared. So a run costs the same in the
//! archive's tenth year as in its first month. What cannot be read is passed over: one object that the store has lost must
//! not switch the guard off.

use super::Attempt;
use super::verdict::owner;
use crate::destination::Destination;
use crate::error::Reason;
use crate::repository::catalog::{newest, read_document};
use crate::repository::manifest::{self, Manifest, Outcome, Owner, Shrunk};
use crate::run::guard::Before;
use crate::run::report::Plan;

/// How many manifests one run reads for it at most: those of others in the same archive, of incomplete and of flagged
/// backups do not count.
const READ_LIMIT: usize = 64;
/// So many that the store does not give, and no more are asked for: each may take minutes to be given up.
const UNREAD_LIMIT: usize = 3;

impl Attempt<'_> {
    /// By how much it is smaller, where that is more than the guard allows. Not knowing it spoils no backup, but is said.
    pub(super) async fn compare(&mut self, raw_size: u64, outcome: Outcome) -> Option<Shrunk> {
        let maximum = self.plan.maximum_shrink_percent.filter(|_| outcome == Outcome::Complete)?;
        let mut before = Before::new(self.plan.accepted.as_deref());
        if let Some(reason) = look_back(self.plan, self.destination, &mut before).await {
            self.warn(if before.is_empty() {
                format!("whether it has shrunk is not known: the backups before it could not be read ({reason})")
            } else {
                format!("not every backup before it could be read ({reason}); it was compared with others")
            });
        }
        before.shrunk(raw_size, maximum)
    }
}

/// Gathers what a backup is compared with; gives the reason why something could not be read.
async fn look_back(plan: &Plan, destination: &dyn Destination, before: &mut Before<'_>) -> Option<Reason> {
    let keys = match newest(destination, &plan.id.archive, READ_LIMIT).await {
        Ok(keys) => keys,
        Err(failure) => return Some(failure.reason),
    };
    let mut unread = Vec::new();
    for key in keys {
        let read = read_document(destination, &key).await;
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
    unread.first().copied()
}

/// Whether this job goes on with that owner's backups. Others may lie in the same archive, and are no measure.
fn continues(plan: &Plan, other: &Owner) -> bool {
    owner(&plan.id).is_same_job(other) || plan.adopt.as_ref() == Some(&other.id())
}
