//! **A** A folder: `file://` on the command line (and, once there is a runner pod, `nfs` and `local` inside it).
//!
//! An object is written to a temporary file next to its place (same file system), synced, read back and compared with what
//! was written, renamed without replacing, and the folder is synced: after `commit` returned, a power cut does not undo it.
//! Before it is read back the system is asked to forget its copy of the file, so that what is compared comes from the disk,
//! or from the server. The temporary name begins with
//! [`PARTIAL`], is never listed, and is removed by an abort or a drop; a process that was killed leaves it.

use super::{Capability, Destination, ObjectInfo, Put, Staged, Stored};
use crate::api::names::ObjectKey;
use crate::archive::Tally;
use crate::error::{Failure, Reason};
use crate::source::Completion;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::StreamExt;
use futures::stream::BoxStream;
use rustix::fs::{CWD, RenameFlags};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// How the name of an unfinished file begins.
const PARTIAL: &str = ".ubo-partial-";
/// Bytes per piece when an object is read.
const PIECE: usize = 256 * 1024;

/// A folder that keeps backups.
#[derive(Clone, Debug)]
pub struct Volume {
    root: PathBuf,
}

impl Volume {
    /// The folder at `root`, an absolute path. It is made when the first object is written.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let ended = |_| Failure::new(Reason::Internal, "a thread that writes files ended early");
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// An error of the file system, as one of ours.
fn failure(error: &io::Error, doing: &str, path: &Path) -> Failure {
    let (reason, hint) = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (Reason::DestinationDenied, "; check its owner and mode")
        }
        ErrorKind::NotFound => (Reason::DestinationNotFound, "; check the path"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (Reason::DestinationUnavailable, "; make room there"),
        _ => (Reason::DestinationUnavailable, ""),
    };
    Failure::new(reason, format!("{doing} {}: {error}{hint}", path.display()))
}

fn info(key: ObjectKey, meta: &Metadata) -> ObjectInfo {
    ObjectInfo { key, size: meta.len(), modified: meta.modified().ok().map(DateTime::from) }
}

#[async_trait]
impl Destination for Volume {
    fn capability(&self) -> Capability {
        Capability { put_if_absent: true, checks_integrity: true, abort_leaves_nothing: true }
    }

    async fn stage(&self, key: &ObjectKey) -> Result<Box<dyn Staged>, Failure> {
        let path = self.path(key);
        let root = self.root.clone();
        let partial = blocking(move || Partial::create(&root, &path)).await?;
        Ok(Box::new(Staging { partial: Some(partial) }))
    }

    async fn put(&self, key: &ObjectKey, content: Bytes, when: Put) -> Result<Stored, Failure> {
        let (root, path) = (self.root.clone(), self.path(key));
        blocking(move || {
            let mut partial = Partial::create(&root, &path)?;
            partial.write(&content)?;
            partial.publish(when)
        })
        .await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Failure> {
        let (path, key) = (self.path(key), key.clone());
        blocking(move || match path.metadata() {
            Ok(meta) if meta.is_file() => Ok(Some(info(key, &meta))),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(failure(&e, "looking at", &path)),
        })
        .await
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let path = self.path(key);
        let opened = path.clone();
        let range = range.unwrap_or(0..u64::MAX);
        let file = blocking(move || {
            let open = || -> io::Result<File> {
                let mut file = File::open(&opened)?;
                file.seek(SeekFrom::Start(range.start))?;
                Ok(file)
            };
            match open() {
                Ok(file) => Ok(file.take(range.end.saturating_sub(range.start))),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    Err(Failure::new(Reason::BackupNotFound, format!("{} does not exist", opened.display())))
                }
                Err(e) => Err(failure(&e, "opening", &opened)),
            }
        })
        .await?;
        let pieces = futures::stream::try_unfold(file, move |mut file| {
            let path = path.clone();
            blocking(move || {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece).map_err(|e| failure(&e, "reading", &path))?;
                piece.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(piece), file)))
            })
        });
        Ok(pieces.boxed())
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo, Failure>>, Failure> {
        let root = self.root.clone();
        let below = root.join(prefix);
        let missing = root.clone();
        // A folder that is not there is a mistake; one below it that is not there is empty.
        blocking(move || std::fs::read_dir(&missing).map(|_| ()).map_err(|e| failure(&e, "listing", &missing))).await?;
        let (found, objects) = mpsc::channel(64);
        tokio::task::spawn_blocking(move || {
            if let Err(failure) = list_below(&root, &below, &found) {
                let _ = found.blocking_send(Err(failure));
            }
        });
        let stream =
            futures::stream::unfold(objects, |mut objects| async move { Some((objects.recv().await?, objects)) });
        Ok(stream.boxed())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Failure> {
        let (root, path) = (self.root.clone(), self.path(key));
        blocking(move || {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(failure(&e, "removing", &path)),
            }
            let folder = remove_empty(&root, &path);
            sync(folder).map_err(|e| failure(&e, "syncing", folder))
        })
        .await
    }
}

type Found = mpsc::Sender<Result<ObjectInfo, Failure>>;

/// Sends every finished file below `folder`; stops when nobody listens.
fn list_below(root: &Path, folder: &Path, found: &Found) -> Result<(), Failure> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(failure(&e, "listing", &folder)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| failure(&e, "listing", &folder))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| failure(&e, "looking at", &path))?;
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            if !kind.is_file() || entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                continue;
            }
            // A name that cannot be a key is none of ours.
            let key = path.strip_prefix(root).ok().and_then(Path::to_str).and_then(|key| ObjectKey::new(key).ok());
            let Some(key) = key else { continue };
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(failure(&e, "looking at", &path)),
            };
            if found.blocking_send(Ok(info(key, &meta))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Makes what was renamed in this folder outlast a power cut.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// An object store has no folders; those above `path` that are empty go too. One that is not empty stays by itself. Gives
/// the folder that stayed.
fn remove_empty<'a>(root: &'a Path, path: &'a Path) -> &'a Path {
    let mut folder = path.parent().unwrap_or(root);
    while folder != root && folder.starts_with(root) && std::fs::remove_dir(folder).is_ok() {
        folder = folder.parent().unwrap_or(root);
    }
    folder
}

/// Makes a folder with those above it, and each of them lasting.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
        match std::fs::create_dir(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(e) => return Err(e),
        }
        sync(above)?;
    }
    Ok(())
}

/// An unfinished file. Dropped, it is removed.
struct Partial {
    file: File,
    /// Of what was written.
    tally: Tally,
    root: PathBuf,
    temporary: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Partial {
    fn create(root: &Path, path: &Path) -> Result<Self, Failure> {
        let folder = path.parent().unwrap_or(root);
        let temporary = folder.join(format!("{PARTIAL}{:016x}", rand::random::<u64>()));
        let create = || -> io::Result<File> {
            make_folder(folder)?;
            OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)
        };
        // Another run that tidies up may remove a folder between the two steps, while it is still empty.
        let file = (0..3).find_map(|_| {
            create().map_or_else(|e| (e.kind() != ErrorKind::NotFound).then_some(Err(e)), |f| Some(Ok(f)))
        });
        let file = file.unwrap_or_else(create).map_err(|e| failure(&e, "writing below", folder))?;
        Ok(Self { file, tally: Tally::default(), root: root.into(), temporary, path: path.into(), published: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.tally.add(bytes);
        self.file.write_all(bytes).map_err(|e| failure(&e, "writing", &self.path))
    }

    /// Compares what lies there, once it was synced, with what was written.
    fn check(&mut self) -> Result<(), Failure> {
        // Advice: where it is not taken, the comparison is with the system's own copy.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        let mut back = Tally::default();
        let mut read = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(0))?;
            let mut piece = vec![0; PIECE];
            loop {
                match self.file.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(read) => back.add(&piece[..read]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        };
        read().map_err(|e| failure(&e, "reading back", &self.path))?;
        if back.measure() == self.tally.measure() {
            return Ok(());
        }
        let message = format!("{} reads back differently from what was written", self.path.display());
        Err(Failure::new(Reason::DestinationMismatch, message))
    }

    /// Syncs, compares, renames, syncs the folder.
    fn publish(mut self, when: Put) -> Result<Stored, Failure> {
        self.file.sync_all().map_err(|e| failure(&e, "writing", &self.path))?;
        self.check()?;
        let publish = || -> io::Result<Stored> {
            let stored = match when {
                Put::Always => std::fs::rename(&self.temporary, &self.path).map(|()| Stored::Written)?,
                Put::IfAbsent => rename_if_absent(&self.temporary, &self.path)?,
            };
            if let Some(folder) = self.path.parent() {
                sync(folder)?;
            }
            Ok(stored)
        };
        let stored = publish().map_err(|e| failure(&e, "writing", &self.path))?;
        self.published = stored == Stored::Written;
        Ok(stored)
    }
}

/// Renames unless something is there.
fn rename_if_absent(from: &Path, to: &Path) -> io::Result<Stored> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(Stored::Written),
        Err(Errno::EXIST) => return Ok(Stored::AlreadyThere),
        // NFS and some others do not know the flag; a second name for the file has the same effect there.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(e) => return Err(e.into()),
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from).map(|()| Stored::Written),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Stored::AlreadyThere),
        Err(e) => Err(e),
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about an error here; the name says what the file is.
            let _ = std::fs::remove_file(&self.temporary);
            remove_empty(&self.root, &self.path);
        }
    }
}

/// An object that is being written.
struct Staging {
    /// `None` while a thread has it, and after the end.
    partial: Option<Partial>,
}

impl Staging {
    fn take(&mut self) -> Result<Partial, Failure> {
        self.partial
            .take()
            .ok_or_else(|| Failure::new(Reason::Internal, "a file was written to after its end. Please report it"))
    }
}

#[async_trait]
impl Staged for Staging {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let mut partial = self.take()?;
        self.partial = Some(
            blocking(move || {
                partial.write(&bytes)?;
                Ok(partial)
            })
            .await?,
        );
        Ok(())
    }

    async fn commit(mut self: Box<Self>, _proof: &Completion) -> Result<u64, Failure> {
        let partial = self.take()?;
        blocking(move || {
            let path = partial.path.clone();
            partial.publish(Put::Always)?;
            path.metadata().map(|meta| meta.len()).map_err(|e| failure(&e, "looking at", &path))
        })
        .await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), Failure> {
        // Already gone where a write failed: its thread has dropped it.
        let Some(partial) = self.partial.take() else { return Ok(()) };
        blocking(move || {
            drop(partial);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_back_differently_is_never_published() {
        for change in [Some(b"othxr".as_slice()), Some(b""), None] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a/b");
            let mut partial = Partial::create(folder.path(), &path).unwrap();
            partial.write(b"oth").unwrap();
            partial.write(b"er").unwrap();
            if let Some(content) = change {
                // What a disk, or a server, does that loses or changes bytes.
                std::fs::write(&partial.temporary, content).unwrap();
            }
            let published = partial.publish(Put::Always);
            if change.is_some() {
                assert_eq!(published.unwrap_err().reason, Reason::DestinationMismatch);
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
            } else {
                assert_eq!(published.unwrap(), Stored::Written);
                assert_eq!(std::fs::read(&path).unwrap(), b"other");
            }
        }
    }
}
