//! **O** What an attempt left at its destination when the process that executed it died, or when the destination did not
//! let it clean up.
//!
//! A process that dies leaves its attempt's folder as it was then, and uploads that nobody will complete. Order:
//!
//! 1. If the folder has a manifest, and everything that it names is there as long as it says, the backup is whole: the
//!    process died between the last look and the note of it. It is not thrown away, and no second one is made.
//! 2. Otherwise nothing of it is a backup. Its uploads are aborted, then its objects go, the manifest (if any) first and
//!    `started.json` last, so that a clean-up which dies itself still finds a folder to clean ([`super::removal`]).
//! 3. The folder is looked at again. The process may have been believed dead and not be: what it wrote meanwhile goes the
//!    same way. It cannot call that a backup: the run was taken from it in the stored status before (`task`).
//!
//! What had to stay is said, not failed for: each attempt has a folder of its own, so that it is in nobody's way.

use super::AttemptId;
use super::removal::remove;
use super::report::{Ownership, Recovered, Report};
use crate::api::names::ObjectKey;
use crate::destination::{Destination, ObjectInfo};
use crate::error::{Failure, Reason};
use crate::repository::catalog::read_document;
use crate::repository::layout;
use crate::repository::manifest::{self, Manifest, Owner, OwnerDocument};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// How often the folder is looked at until nothing is in it.
const LOOKS: usize = 3;

/// Objects of a folder that are looked at, of which all are in memory: more than any attempt writes. A server may list more
/// for ever.
const LISTED: usize = 100_000;

/// Sees what a dead attempt left, and clears it away unless it is a whole backup.
pub async fn recover(destination: &dyn Destination, id: &AttemptId) -> Result<Recovered, Failure> {
    let folder = layout::folder(id)?;
    let there = list(destination, &folder).await?;
    if there.contains_key(layout::MANIFEST)
        && let Some(report) = whole(destination, &folder, id, &there).await?
    {
        return Ok(Recovered::Whole(Box::new(report)));
    }
    let mut stays = Vec::new();
    match destination.abort_uploads(&format!("{folder}/")).await {
        Ok(0) => {}
        Ok(aborted) => tracing::info!(%folder, aborted, "uploads of a dead attempt were aborted"),
        Err(failure) => {
            tracing::warn!(%folder, %failure, "uploads of a dead attempt may be open");
            stays.push(format!(
                "perhaps an unfinished upload ({}; a lifecycle rule AbortIncompleteMultipartUpload removes it)",
                failure.message
            ));
        }
    }
    for _ in 0..LOOKS {
        let mut there: BTreeSet<_> = list(destination, &folder).await?.into_values().map(|object| object.key).collect();
        if there.is_empty() {
            break;
        }
        tracing::info!(%folder, objects = there.len(), "what an attempt left is removed");
        remove(destination, &mut there).await?;
    }
    Ok(Recovered::Cleared((!stays.is_empty()).then(|| stays.join(", "))))
}

/// The objects in a folder, by their names below it.
async fn list(destination: &dyn Destination, folder: &ObjectKey) -> Result<BTreeMap<String, ObjectInfo>, Failure> {
    let prefix = format!("{folder}/");
    let all: Vec<_> = destination.list(&prefix).await?.take(LISTED).try_collect().await?;
    let named = all.into_iter().filter_map(|object| {
        let name = object.key.as_str().strip_prefix(&prefix)?.to_owned();
        Some((name, object))
    });
    Ok(named.collect())
}

/// The report of the backup in the folder, if that is what lies there.
async fn whole(
    destination: &dyn Destination,
    folder: &ObjectKey,
    id: &AttemptId,
    there: &BTreeMap<String, ObjectInfo>,
) -> Result<Option<Report>, Failure> {
    let key = folder.join(layout::MANIFEST)?;
    let bytes = read_document(destination, &key).await?;
    let Ok(manifest) = manifest::parse::<Manifest>(key.as_str(), &bytes) else { return Ok(None) };
    let ours = manifest.run_uid == id.run_uid.as_str() && manifest.attempt == id.attempt;
    let complete =
        manifest.objects().all(|object| there.get(&object.name).is_some_and(|info| info.size == object.size));
    if !(ours && complete) {
        return Ok(None);
    }
    let ownership = ownership(destination, id, &manifest.owner).await?;
    Ok(Some(Report::of(folder, &manifest, ownership)))
}

/// Whose archive it lies in. In somebody else's nothing is ever deleted, so it has to be said of a recovered backup too.
async fn ownership(destination: &dyn Destination, id: &AttemptId, writer: &Owner) -> Result<Ownership, Failure> {
    let key = id.archive.join(layout::OWNER)?;
    let there = match read_document(destination, &key).await {
        Ok(there) => there,
        Err(failure) if failure.reason == Reason::BackupNotFound => return Ok(Ownership::Ours),
        Err(failure) => return Err(failure),
    };
    Ok(match manifest::parse::<OwnerDocument>(key.as_str(), &there) {
        Ok(there) if there.owner != *writer => Ownership::Foreign(there.owner),
        // As where a backup begins: a document that nobody can read names nobody.
        _ => Ownership::Ours,
    })
}

#[cfg(test)]
mod tests;
