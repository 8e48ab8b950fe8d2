//! **O** A backup exists if and only if its manifest does: the list of them.

use super::layout::{self, MANIFEST, Place};
use super::manifest::{self, DOCUMENT_LIMIT, Manifest, Outcome};
use crate::api::names::ObjectKey;
use crate::destination::{Destination, ObjectInfo};
use crate::error::{Failure, Reason};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// Manifests that are read at the same time.
const READS_AT_ONCE: usize = 8;

/// One backup.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its folder, relative to the destination.
    pub folder: ObjectKey,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl Backup {
    /// Key of one of its objects.
    pub fn key(&self, name: &str) -> Result<ObjectKey, Failure> {
        // Of several pods each has a folder; which names may stand there was looked at when the manifest was read.
        let steps = if self.manifest.each().is_some() { 2 } else { 1 };
        if name.split('/').count() > steps {
            let message = format!("{} names {name:?}, which is outside its folder", self.folder);
            return Err(Failure::new(Reason::BackupDamaged, message));
        }
        self.folder.join(name)
    }
}

/// A folder whose manifest is there and cannot be used. It is shown and never dropped: somebody believes in that backup.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// Its folder.
    pub folder: ObjectKey,
    /// What is wrong.
    pub failure: Failure,
}

/// The backups of one job.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Its folder, relative to the destination; empty where the destination's uri is that folder.
    pub name: String,
    /// Newest first.
    pub backups: Vec<Backup>,
    /// What has a manifest and is none.
    pub damaged: Vec<Damaged>,
    /// Folders without a manifest: attempts that are at work, or dead.
    pub unfinished: Vec<String>,
}

impl Archive {
    /// Whether a user who asks for `name` may mean this one: by its folder, or by namespace and job.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name.trim_matches('/') || self.is_of(name)
    }

    /// Whether its newest backup is of this `namespace/job`.
    fn is_of(&self, name: &str) -> bool {
        self.backups.first().is_some_and(|Backup { manifest: Manifest { owner, .. }, .. }| {
            name.split_once('/').is_some_and(|(namespace, job)| namespace == owner.namespace && job == owner.job)
        })
    }

    /// For messages: the folder, or namespace and job where the uri is the folder itself.
    pub fn shown_name(&self) -> String {
        match self.backups.first() {
            Some(Backup { manifest: Manifest { owner, .. }, .. }) if self.name.is_empty() => {
                format!("{}/{}", owner.namespace, owner.job)
            }
            _ => self.name.clone(),
        }
    }
}

/// A document, whole; refused above [`DOCUMENT_LIMIT`].
pub async fn read_document(destination: &dyn Destination, key: &ObjectKey) -> Result<Bytes, Failure> {
    let mut stream = destination.read(key, None).await?;
    let mut document = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        if document.len() + piece.len() > DOCUMENT_LIMIT {
            let message = format!("{key} is larger than any document that ubo writes");
            return Err(Failure::new(Reason::BackupDamaged, message));
        }
        document.extend_from_slice(&piece);
    }
    Ok(document.into())
}

/// An archive and a folder in it.
type Folder = (String, String);

/// What is known of folders after a listing.
#[derive(Debug, Default)]
struct Folders {
    /// Archives: what has an `owner.json`.
    owned: BTreeSet<String>,
    /// Every folder with an object in it.
    all: BTreeMap<Folder, Marks>,
}

/// What of an attempt's own was found in a folder.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    started: bool,
    manifest: bool,
}

impl Marks {
    /// Whether it is an attempt's folder, whatever lies above.
    const fn any(self) -> bool {
        self.started || self.manifest
    }
}

impl Folders {
    fn add(&mut self, key: &ObjectKey) {
        let name = key.file_name();
        if name == layout::OWNER {
            self.owned.insert(key.as_str().strip_suffix(name).unwrap_or_default().trim_end_matches('/').to_owned());
            return;
        }
        let Some(Place { archive, folder, name }) = layout::place(key) else { return };
        let marks = self.all.entry((archive.into(), folder.into())).or_default();
        marks.started |= name == layout::STARTED;
        marks.manifest |= name == MANIFEST;
    }

    /// The attempts' folders, and whether they have a manifest. The folder of a pod in one of them is a part of it.
    fn attempts(self) -> BTreeMap<Folder, bool> {
        let mut attempts: BTreeMap<Folder, bool> = BTreeMap::new();
        for (folder, marks) in &self.all {
            let above = if marks.any() { None } else { self.attempt_above(folder) };
            let attempt = above.unwrap_or_else(|| folder.clone());
            *attempts.entry(attempt).or_default() |= marks.manifest;
        }
        attempts
    }

    /// The attempt that a pod's folder lies in: a folder with an attempt's documents, or one right below an archive. An
    /// archive may lie in another one's folder, and is none.
    fn attempt_above(&self, (above, _): &Folder) -> Option<Folder> {
        if above.is_empty() || self.owned.contains(above) {
            return None;
        }
        let (archive, folder) = above.rsplit_once('/').unwrap_or(("", above));
        let attempt = (archive.to_owned(), folder.to_owned());
        let marked = self.all.get(&attempt).is_some_and(|marks| marks.any());
        (marked || self.owned.contains(archive)).then_some(attempt)
    }
}

/// Every archive below `prefix` (empty, or ending in `/`), by name. What cannot be *reached* is an error; what is damaged is
/// in the list.
pub async fn load(destination: &dyn Destination, prefix: &str) -> Result<Vec<Archive>, Failure> {
    let mut found = Folders::default();
    let mut objects = destination.list(prefix).await?;
    while let Some(object) = objects.try_next().await? {
        found.add(&object.key);
    }
    let mut archives: BTreeMap<String, Archive> = BTreeMap::new();
    let mut with_manifest = Vec::new();
    for ((archive, folder), complete) in found.attempts() {
        let entry =
            archives.entry(archive.clone()).or_insert_with(|| Archive { name: archive.clone(), ..Archive::default() });
        if complete {
            let folder = if archive.is_empty() { folder } else { format!("{archive}/{folder}") };
            with_manifest.push((archive, ObjectKey::new(folder)?));
        } else {
            entry.unfinished.push(folder);
        }
    }
    let read = |(archive, folder): (String, ObjectKey)| async move {
        let key = folder.join(MANIFEST)?;
        match read_document(destination, &key).await {
            Ok(bytes) => Ok(Some((archive, folder, manifest::parse::<Manifest>(key.as_str(), &bytes)))),
            // Pruned since it was listed.
            Err(e) if e.reason == Reason::BackupNotFound => Ok(None),
            Err(e) if e.reason == Reason::BackupDamaged => Ok(Some((archive, folder, Err(e)))),
            Err(e) => Err(e),
        }
    };
    let mut manifests = futures::stream::iter(with_manifest.into_iter().map(read)).buffer_unordered(READS_AT_ONCE);
    while let Some(found) = manifests.try_next().await? {
        let Some((archive, folder, manifest)) = found else { continue };
        let archive = archives.entry(archive).or_default();
        match manifest {
            Ok(manifest) => archive.backups.push(Backup { folder, manifest }),
            Err(failure) => archive.damaged.push(Damaged { folder, failure }),
        }
    }
    let mut archives: Vec<Archive> = archives.into_values().collect();
    for archive in &mut archives {
        archive.backups.sort_by(|a, b| {
            let of = |b: &Backup| (b.manifest.started_at, b.manifest.attempt, b.folder.clone());
            of(b).cmp(&of(a))
        });
        archive.damaged.sort_by(|a, b| a.folder.cmp(&b.folder));
    }
    Ok(archives)
}

/// Keys of the newest manifests of one archive, the newest first, at most `limit`; of those in folders whose name is
/// `wanted`. That name says how old each is, or else the store. No more keys than these are in memory at any time.
pub async fn newest(
    destination: &dyn Destination,
    archive: &ObjectKey,
    limit: usize,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<ObjectKey>, Failure> {
    let mut newest = BTreeSet::new();
    let mut objects = destination.list(&format!("{archive}/")).await?;
    while let Some(ObjectInfo { key, modified, .. }) = objects.try_next().await? {
        let Some(Place { archive: above, folder, name: MANIFEST }) = layout::place(&key) else { continue };
        // Other archives may lie below this one.
        if above != archive.as_str() || !wanted(folder) {
            continue;
        }
        let time = layout::named_by(folder).map(|(_, time)| time);
        newest.insert((time.or(modified), key));
        if newest.len() > limit {
            newest.pop_first();
        }
    }
    Ok(newest.into_iter().rev().map(|(_, key)| key).collect())
}

/// What a user chose, and what he should know about it.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// The archive.
    pub archive: &'a Archive,
    /// The backup.
    pub backup: &'a Backup,
    /// What was passed over.
    pub notes: Vec<String>,
}

/// Finds one backup: in the archive of that name (its folder, or else the one that holds that namespace and job; needed
/// only where there are several), the run of that name, or its folder's; `latest` is the newest **complete** one.
pub fn choose<'a>(archives: &'a [Archive], archive: Option<&str>, run: &str) -> Result<Choice<'a>, Failure> {
    let not_found = |message: String| Failure::new(Reason::BackupNotFound, message);
    let names = |of: &[&Archive]| of.iter().map(|archive| archive.shown_name()).collect::<Vec<_>>().join(", ");
    let all: Vec<&Archive> = archives.iter().collect();
    // A folder has one name; backups of one BackupJob can lie in several folders.
    let candidates = match archive.map(|name| (name, name.trim_matches('/'))) {
        None => all.clone(),
        Some((name, folder)) => match archives.iter().find(|archive| archive.name == folder) {
            Some(exact) => vec![exact],
            None => archives.iter().filter(|archive| archive.is_of(name)).collect(),
        },
    };
    let archive = match (candidates.as_slice(), archive) {
        ([one], _) => *one,
        ([], None) => {
            return Err(not_found("there is no backup. Check the uri; `ubo list` shows what is there".into()));
        }
        ([], Some(name)) => {
            let known = if all.is_empty() { "none".into() } else { names(&all) };
            return Err(not_found(format!("there is no archive {name:?}; there are: {known}")));
        }
        (several, _) => {
            let known = names(several);
            return Err(not_found(format!("there are several archives: say which with --archive: {known}")));
        }
    };
    let damaged = |name: &str| archive.damaged.iter().find(|d| d.folder.file_name() == name);
    if run != "latest" {
        let found = archive.backups.iter().find(|b| b.manifest.run == run || b.folder.file_name() == run);
        return match found {
            Some(backup) => Ok(Choice { archive, backup, notes: vec![] }),
            None => Err(damaged(run).map_or_else(
                || not_found(format!("{} has no backup {run:?}. `ubo list` shows what is there", archive.shown_name())),
                |damaged| damaged.failure.clone(),
            )),
        };
    }
    let Some(index) = archive.backups.iter().position(|b| b.manifest.outcome == Outcome::Complete) else {
        let incomplete = archive.backups.first().map_or(String::new(), |b| {
            format!(" The newest incomplete one is {}: name it to take it all the same", b.manifest.run)
        });
        return Err(not_found(format!("{} has no complete backup.{incomplete}", archive.shown_name())));
    };
    let mut notes: Vec<String> = archive.backups[..index]
        .iter()
        .map(|b| format!("{} is newer, but incomplete; it was passed over", b.manifest.run))
        .collect();
    notes.extend(archive.damaged.iter().map(|d| format!("{} is damaged: {}", d.folder.file_name(), d.failure.message)));
    Ok(Choice { archive, backup: &archive.backups[index], notes })
}

#[cfg(test)]
mod tests;
