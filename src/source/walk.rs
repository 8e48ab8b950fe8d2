//! **A** A folder on this machine, as a tar.
//!
//! Folders, regular files, symbolic and hard links, with modes, numeric owners and times to the nanosecond. Names are
//! relative to the folder (`./a/b`), sorted by bytes in each folder, so that the same tree gives the same tar. Nothing is
//! followed: a symbolic link is archived as one, and a file is opened without following what somebody may have put in its
//! place since it was looked at.
//!
//! A file that changes while it is read must not shift what comes after it: exactly as many bytes as its header announced
//! are written, the rest cut or filled with zeros, and a warning says so; a file that vanished is a warning too. What cannot
//! be read, and what is no file (a socket, a fifo, a device), makes the backup incomplete, and is named.

use super::{CHANNEL_CHUNKS, CHUNK_LIMIT, Capture, CaptureFacts, Completion, Consistency, Content, Ending, Source};
use crate::error::{Failure, Reason};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Warnings that are kept.
const WARNING_LIMIT: usize = 100;
/// Names that are spelled out in a message.
const NAMES_IN_MESSAGE: usize = 3;
/// Longest name that a tar header holds itself, in bytes.
const NAME_LIMIT: usize = 100;

/// A folder to be walked.
#[derive(Clone, Debug)]
pub struct Walk {
    root: PathBuf,
}

impl Walk {
    /// The folder at `root`; that alone may be a symbolic link.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

#[async_trait]
impl Source for Walk {
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure> {
        let root = self.root.clone();
        let unavailable = |why: String| {
            Failure::new(Reason::SourceUnavailable, format!("{} cannot be read: {why}", self.root.display()))
        };
        let (sender, bytes) = mpsc::channel(CHANNEL_CHUNKS);
        let meta = std::fs::metadata(&root).map_err(|e| unavailable(e.to_string()))?;
        if !meta.is_dir() {
            return Err(unavailable("it is no folder (for one file: --command 'cat FILE')".into()));
        }
        std::fs::read_dir(&root).map_err(|e| unavailable(e.to_string()))?;
        let walk = tokio::task::spawn_blocking(move || {
            let stream = Stream { sender, chunk: BytesMut::with_capacity(CHUNK_LIMIT), cancel };
            let mut walker =
                Walker { root, tar: tar::Builder::new(stream), links: BTreeMap::new(), notes: Notes::default() };
            walker.archive().map(|()| walker.notes.completion())
        });
        let completion = async {
            match walk.await {
                Ok(Ok(completion)) => Ok(completion),
                // The only thing that cannot be written is a stream that nobody reads any more.
                Ok(Err(_)) => Err(Failure::new(Reason::CancelRequested, "reading was ended before its end")),
                Err(_) => Err(Failure::new(Reason::Internal, "the walk ended early. Please report it")),
            }
        };
        let facts = CaptureFacts { content: Content::Tar, consistency: Consistency::Live, pod: None, container: None };
        Ok(Capture { facts, bytes, completion: completion.boxed() })
    }
}

/// The tar's bytes, on their way into the channel.
struct Stream {
    sender: mpsc::Sender<Bytes>,
    chunk: BytesMut,
    cancel: CancellationToken,
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_LIMIT - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK_LIMIT {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let chunk = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK_LIMIT));
        self.sender.blocking_send(chunk.freeze()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What is said afterwards.
#[derive(Debug, Default)]
struct Notes {
    warnings: Vec<String>,
    missing: Vec<String>,
    missing_count: u64,
}

impl Notes {
    fn warn(&mut self, name: &Path, what: &str) {
        if self.warnings.len() < WARNING_LIMIT {
            self.warnings.push(format!("{} {what}", name.display()));
        }
    }

    fn miss(&mut self, name: &Path, why: &str) {
        self.missing_count += 1;
        if self.missing.len() < NAMES_IN_MESSAGE {
            self.missing.push(format!("{} ({why})", name.display()));
        }
    }

    fn completion(&self) -> Completion {
        let ending = Ending { exit_code: None, warnings: self.warnings.clone(), log: Vec::new() };
        if self.missing_count == 0 {
            return Completion::Complete(ending);
        }
        let more = match self.missing_count.saturating_sub(self.missing.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("not in the backup: {}{more}", self.missing.join(", "));
        Completion::Incomplete(ending, Reason::SourceIncomplete, message)
    }
}

/// Device and inode.
type FileId = (u64, u64);
/// Size, and time of the last change in seconds and nanoseconds. A number of a file that was removed is given to the next
/// one; and a name that is archived as a link to what the file held before it was written to would lose what it holds now.
type State = (u64, i64, i64);

fn file_id(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

fn state_of(meta: &Metadata) -> State {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// Walks and writes.
struct Walker {
    root: PathBuf,
    tar: tar::Builder<Stream>,
    /// Files with several names, as they were opened: the name under which each was archived.
    links: BTreeMap<FileId, (State, PathBuf)>,
    notes: Notes,
}

impl Walker {
    /// Everything. An error is one of the stream: nobody reads it any more.
    fn archive(&mut self) -> io::Result<()> {
        // Depth first and in order: what waits is pushed in reverse.
        let mut waiting = vec![PathBuf::from(".")];
        while let Some(name) = waiting.pop() {
            let path = self.path(&name);
            let meta = match if name == Path::new(".") { path.metadata() } else { path.symlink_metadata() } {
                Ok(meta) => meta,
                Err(e) => {
                    self.unreadable(&name, &e);
                    continue;
                }
            };
            if meta.is_dir() {
                self.folder(&name, &meta)?;
                match names_in(&path) {
                    Ok(names) => waiting.extend(names.into_iter().rev().map(|n| name.join(n))),
                    Err(e) => self.unreadable(&name, &e),
                }
            } else {
                self.entry(&name, &path, &meta)?;
            }
        }
        self.tar.finish()?;
        self.tar.get_mut().flush()
    }

    fn path(&self, name: &Path) -> PathBuf {
        self.root.join(name.strip_prefix(".").unwrap_or(name))
    }

    /// Vanished since its folder was read: it was deleted, which is its right. Anything else is missing.
    fn unreadable(&mut self, name: &Path, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            self.notes.warn(name, "vanished before it was read");
        } else {
            self.notes.miss(name, &error.to_string());
        }
    }

    fn folder(&mut self, name: &Path, meta: &Metadata) -> io::Result<()> {
        let mut bytes = name.as_os_str().as_bytes().to_vec();
        bytes.push(b'/');
        let header = header(meta, tar::EntryType::Directory, 0);
        self.append(header, &bytes, None, meta, io::empty())
    }

    /// Something that is no folder.
    fn entry(&mut self, name: &Path, path: &Path, meta: &Metadata) -> io::Result<()> {
        let bytes = name.as_os_str().as_bytes();
        let kind = meta.file_type();
        if kind.is_symlink() {
            return match std::fs::read_link(path) {
                Ok(target) => {
                    let header = header(meta, tar::EntryType::Symlink, 0);
                    self.append(header, bytes, Some(target.as_os_str().as_bytes()), meta, io::empty())
                }
                Err(e) => {
                    self.unreadable(name, &e);
                    Ok(())
                }
            };
        }
        if !kind.is_file() {
            let what = match () {
                () if kind.is_socket() => "a socket",
                () if kind.is_fifo() => "a fifo",
                () => "a device",
            };
            self.notes.miss(name, what);
            return Ok(());
        }
        if meta.nlink() > 1
            && let Some((state, first)) = self.links.get(&file_id(meta))
            && *state == state_of(meta)
        {
            let target = first.as_os_str().as_bytes().to_vec();
            return self.append(header(meta, tar::EntryType::Link, 0), bytes, Some(&target), meta, io::empty());
        }
        match open(path) {
            // What was opened counts, not what was looked at before.
            Ok((file, meta)) => {
                if meta.nlink() > 1 {
                    self.links.insert(file_id(&meta), (state_of(&meta), name.to_path_buf()));
                }
                self.file(name, file, &meta)
            }
            Err(e) => {
                self.unreadable(name, &e);
                Ok(())
            }
        }
    }

    fn file(&mut self, name: &Path, file: File, meta: &Metadata) -> io::Result<()> {
        let mut content = Announced { file, left: meta.len(), fault: None, short: false };
        let bytes = name.as_os_str().as_bytes();
        self.append(header(meta, tar::EntryType::Regular, meta.len()), bytes, None, meta, &mut content)?;
        let Announced { file, fault, short, .. } = content;
        if let Some(fault) = fault {
            self.notes.miss(name, &fault.to_string());
        } else if short {
            self.notes.warn(name, "became shorter while it was read; the rest is zeros");
        } else if file.metadata().is_ok_and(|now| {
            now.len() != meta.len() || now.mtime() != meta.mtime() || now.mtime_nsec() != meta.mtime_nsec()
        }) {
            self.notes.warn(name, "changed while it was read");
        }
        Ok(())
    }

    /// An entry, with PAX records for what its header has no room for.
    fn append(
        &mut self,
        mut header: tar::Header,
        name: &[u8],
        link: Option<&[u8]>,
        meta: &Metadata,
        content: impl Read,
    ) -> io::Result<()> {
        let mtime = format!("{}.{:09}", meta.mtime(), meta.mtime_nsec());
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        if meta.mtime_nsec() != 0 && meta.mtime() >= 0 {
            records.push(("mtime", mtime.as_bytes()));
        }
        let plain = |text: &[u8]| text.len() <= NAME_LIMIT && text.is_ascii();
        if !plain(name) {
            records.push(("path", name));
        }
        if let Some(link) = link.filter(|link| !plain(link)) {
            records.push(("linkpath", link));
        }
        if !records.is_empty() {
            self.tar.append_pax_extensions(records)?;
        }
        // With a record of its own the header's name is only a hint for readers that do not know PAX.
        let raw = header.as_old_mut();
        let short = &name[..name.len().min(NAME_LIMIT)];
        raw.name[..short.len()].copy_from_slice(short);
        if let Some(link) = link {
            let short = &link[..link.len().min(NAME_LIMIT)];
            raw.linkname[..short.len()].copy_from_slice(short);
        }
        header.set_cksum();
        self.tar.append(&header, content)
    }
}

/// A header with everything but names and checksum.
fn header(meta: &Metadata, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    // Before 1970 there is no time that a plain header can hold.
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

/// Names in a folder, sorted by bytes.
fn names_in(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let names: io::Result<Vec<_>> = std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}

/// Opens a regular file, and nothing that took its place: no link, and no fifo that would block.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it was replaced by something that is no file"));
    }
    Ok((file, meta))
}

/// As many bytes of a file as were announced, whatever becomes of it.
struct Announced {
    file: File,
    left: u64,
    /// It could not be read to its end.
    fault: Option<io::Error>,
    /// It ended early.
    short: bool,
}

impl Read for Announced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..room];
        let mut read = 0;
        if self.fault.is_none() && !self.short {
            match self.file.read(buffer) {
                Ok(n) => read = n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) => self.fault = Some(e),
            }
        }
        if read == 0 && room > 0 {
            self.short = self.fault.is_none();
            buffer.fill(0);
            read = room;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
