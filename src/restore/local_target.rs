//! **A** A folder on this machine, or standard output.
//!
//! # Into a folder
//! It must be absent or empty: nothing is ever overwritten. A tar is unpacked, a dump becomes the file [`DUMP`]. Every step
//! of a path is opened from the folder above it without following links, so that no archive, however made, writes outside
//! the folder. As root owners are restored (by number), set-user-ID bits with them; otherwise both are left out. Folders get
//! their mode and time when everything in them is there. Devices, fifos and sockets are not made; that is a problem that is
//! told, and makes the restore incomplete. Zeros are not written: the image of a disk takes no more room than it did.
//!
//! # To standard output
//! The raw bytes as they are: `| psql`, `| tar x`. They have been passed on before the last digest is known; a caller who
//! pipes them looks at the exit code (`set -o pipefail`).

use super::{RestoreTarget, Written, failure_of};
use crate::archive::entries::{SafePath, safe_mode, safe_path};
use crate::error::{Failure, Reason};
use crate::source::Content;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of a restored dump.
pub const DUMP: &str = "dump";
/// Bytes that are copied at once.
const PIECE: usize = 128 * 1024;
/// A file's piece that becomes a hole where it is all zeros.
const HOLE: usize = 64 * 1024;

/// Standard output, or anything that takes bytes.
pub struct StreamTarget<W> {
    out: W,
}

impl<W: Write + Send> StreamTarget<W> {
    /// Writes to `out`.
    pub const fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> RestoreTarget for StreamTarget<W> {
    fn write(&mut self, _content: Content, raw: &mut dyn Read) -> Result<Written, Failure> {
        let unwritable = |e: &io::Error| unavailable(format!("standard output cannot be written: {e}"));
        let bytes = copy(raw, &mut self.out, &unwritable)?;
        self.out.flush().map_err(|e| unwritable(&e))?;
        Ok(Written { entries: 1, bytes, ..Written::default() })
    }

    fn confirm(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A folder.
#[derive(Debug)]
pub struct FolderTarget {
    folder: PathBuf,
    /// Only these, and what lies below them; all where it is empty.
    paths: Vec<SafePath>,
    owners: bool,
}

impl FolderTarget {
    /// Makes the folder where it is absent; fails where it is not empty. `owners`: they are restored, which only root can.
    pub fn new(folder: impl Into<PathBuf>, paths: Vec<SafePath>, owners: bool) -> Result<Self, Failure> {
        let folder = folder.into();
        let shown = folder.display();
        match std::fs::read_dir(&folder).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => {
                let message = format!(
                    "{shown} is not empty, and nothing is overwritten. Restore into a new folder: --to {shown}/restored"
                );
                return Err(unavailable(message));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&folder).map_err(|e| unavailable(format!("{shown} cannot be made: {e}")))?;
            }
            Err(e) => return Err(unavailable(format!("{shown} cannot be used: {e}"))),
        }
        Ok(Self { folder, paths, owners })
    }

    /// Whether this is wanted: it, or something above it, was asked for; or it is a folder on the way to what was.
    fn wants(&self, path: &SafePath, is_folder: bool) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|asked| path.is_in(asked) || (is_folder && asked.is_in(path)))
    }
}

impl RestoreTarget for FolderTarget {
    fn write(&mut self, content: Content, raw: &mut dyn Read) -> Result<Written, Failure> {
        match content {
            Content::Raw if !self.paths.is_empty() => Err(Failure::new(
                Reason::InvalidSpec,
                "the backup is the output of a command: it has no paths to choose from",
            )),
            Content::Raw => {
                let path = self.folder.join(DUMP);
                let unwritable = |e: &io::Error| unavailable(format!("{} cannot be written: {e}", path.display()));
                let mut file = File::create_new(&path).map_err(|e| unwritable(&e))?;
                let bytes = copy(raw, &mut file, &unwritable)?;
                file.sync_all().map_err(|e| unwritable(&e))?;
                Ok(Written { entries: 1, bytes, ..Written::default() })
            }
            Content::Tar => {
                let root = rustix::fs::openat(CWD, &self.folder, folder_flags() & !OFlags::NOFOLLOW, Mode::empty());
                let root = root.map_err(|e| unavailable(format!("{} cannot be opened: {e}", self.folder.display())))?;
                let mut unpack = Unpack {
                    target: self,
                    root,
                    below: None,
                    folders: Vec::new(),
                    found: BTreeSet::new(),
                    written: Written::default(),
                };
                unpack.all(raw)?;
                Ok(unpack.written)
            }
        }
    }

    fn confirm(&mut self) -> Result<(), Failure> {
        let sync = || File::open(&self.folder)?.sync_all();
        sync().map_err(|e| unavailable(format!("{} cannot be synced: {e}", self.folder.display())))
    }
}

fn unavailable(message: String) -> Failure {
    Failure::new(Reason::RestoreTargetUnavailable, message)
}

/// Copies until `from` ends; an error of `from` and one of `to` are told apart.
fn copy(from: &mut dyn Read, to: &mut dyn Write, unwritable: &dyn Fn(&io::Error) -> Failure) -> Result<u64, Failure> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failure_of(e, "reading")),
        };
        to.write_all(&piece[..read]).map_err(|e| unwritable(&e))?;
        bytes += read as u64;
    }
}

/// The same into a new file, with holes where there is nothing but zeros.
fn fill(from: &mut dyn Read, to: &mut File, unwritable: &dyn Fn(&io::Error) -> Failure) -> Result<u64, Failure> {
    let mut piece = Vec::with_capacity(HOLE);
    let mut bytes = 0;
    loop {
        piece.clear();
        let read = (&mut *from).take(HOLE as u64).read_to_end(&mut piece).map_err(|e| failure_of(e, "reading"))?;
        if read == 0 {
            // A hole at the end is one only when the file is said to be so long.
            to.set_len(bytes).map_err(|e| unwritable(&e))?;
            return Ok(bytes);
        }
        bytes += read as u64;
        let is_hole = piece.iter().all(|byte| *byte == 0);
        let done = if is_hole { to.seek(SeekFrom::Start(bytes)).map(drop) } else { to.write_all(&piece) };
        done.map_err(|e| unwritable(&e))?;
    }
}

/// A folder is opened as one, and never through a link.
fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Modes, owners and times of an entry.
#[derive(Clone, Copy, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timespec,
}

/// One tar on its way into a folder.
struct Unpack<'a> {
    target: &'a FolderTarget,
    root: OwnedFd,
    /// The folder that was written to last: its names, and it.
    below: Option<(Vec<OsString>, OwnedFd)>,
    /// What folders get at the end; the root's names are empty.
    folders: Vec<(Vec<OsString>, Attributes)>,
    /// What was asked for and is there.
    found: BTreeSet<SafePath>,
    written: Written,
}

impl Unpack<'_> {
    fn all(&mut self, raw: &mut dyn Read) -> Result<(), Failure> {
        let mut archive = tar::Archive::new(raw);
        for entry in archive.entries().map_err(|e| failure_of(e, "unpacking"))? {
            let mut entry = entry.map_err(|e| failure_of(e, "unpacking"))?;
            self.entry(&mut entry)?;
        }
        // The deepest first: a folder without write permission could not be changed inside afterwards.
        self.folders.sort_by_key(|(names, _)| std::cmp::Reverse(names.len()));
        for (names, attributes) in std::mem::take(&mut self.folders) {
            let shown: PathBuf = names.iter().collect();
            match self.open_folder(&names) {
                Ok(folder) => self.set(&folder, &attributes, &shown),
                Err(e) => self.written.problem(format!("{}: {e}", shown.display())),
            }
        }
        let missing = self.target.paths.iter().filter(|path| !self.found.contains(path));
        let missing: Vec<PathBuf> = missing.map(SafePath::to_path).collect();
        if !missing.is_empty() && missing.len() == self.target.paths.len() {
            return Err(Failure::new(
                Reason::BackupNotFound,
                "none of the paths is in the backup. They are written as in `tar t`",
            ));
        }
        for path in missing {
            self.written.problem(format!("{} is not in the backup", path.display()));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, &mut dyn Read>) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let raw_name = entry.path_bytes().into_owned();
        let shown = PathBuf::from(OsStr::from_bytes(&raw_name));
        let refuse = |why: &dyn std::fmt::Display| {
            let message = format!("the archive names {}, and {why}. Nothing more was unpacked", shown.display());
            Failure::new(Reason::BackupDamaged, message)
        };
        let attributes = attributes(entry).map_err(|e| failure_of(e, "unpacking"))?;
        let Some(path) = safe_path(&raw_name).map_err(|e| refuse(&e))? else {
            if kind.is_dir() && self.target.paths.is_empty() {
                self.folders.push((Vec::new(), attributes));
            }
            return Ok(());
        };
        if !self.target.wants(&path, kind.is_dir()) {
            return Ok(());
        }
        self.found.extend(self.target.paths.iter().filter(|asked| path.is_in(asked)).cloned());
        let link = match entry.link_name_bytes() {
            Some(link) => link.into_owned(),
            None => Vec::new(),
        };
        let done = match kind {
            tar::EntryType::Directory => self.folder(&path, attributes),
            tar::EntryType::Symlink => self.symlink(&path, OsStr::from_bytes(&link), &attributes),
            tar::EntryType::Link => {
                let first = safe_path(&link).map_err(|e| refuse(&format!("links to what {e}")))?;
                match first {
                    Some(first) if self.target.wants(&first, false) => self.hard_link(&path, &first),
                    _ => {
                        let first = OsStr::from_bytes(&link).display();
                        self.written
                            .problem(format!("{} is another name of {first}: ask for that too", shown.display()));
                        return Ok(());
                    }
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                return self.file(&path, entry, &attributes);
            }
            _ => {
                self.written
                    .problem(format!("{} is a device, a fifo or something else that is not made", shown.display()));
                return Ok(());
            }
        };
        match done {
            Ok(()) => self.written.entries += 1,
            Err(e) if fatal(e) => return Err(unavailable(format!("{} cannot be made: {e}", shown.display()))),
            Err(e) => self.written.problem(format!("{} cannot be made: {e}", shown.display())),
        }
        Ok(())
    }

    fn folder(&mut self, path: &SafePath, attributes: Attributes) -> Result<(), Errno> {
        let above = self.open_above(path)?;
        match rustix::fs::mkdirat(&above, path.file_name(), Mode::RWXU) {
            Ok(()) => {}
            // Named twice, or made on the way to something in it. A link is not one.
            Err(Errno::EXIST) => drop(rustix::fs::openat(&above, path.file_name(), folder_flags(), Mode::empty())?),
            Err(e) => return Err(e),
        }
        self.folders.retain(|(names, _)| names != path.names());
        self.folders.push((path.names().to_vec(), attributes));
        Ok(())
    }

    fn symlink(&mut self, path: &SafePath, to: &OsStr, attributes: &Attributes) -> Result<(), Errno> {
        let above = self.open_above(path)?;
        replace(&above, path.file_name(), || rustix::fs::symlinkat(to, &above, path.file_name()))?;
        if self.target.owners {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(&above, path.file_name(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let times = times(attributes);
        rustix::fs::utimensat(&above, path.file_name(), &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn hard_link(&mut self, path: &SafePath, first: &SafePath) -> Result<(), Errno> {
        let from = self.open_folder(first.folders())?;
        let above = self.open_above(path)?;
        replace(&above, path.file_name(), || {
            rustix::fs::linkat(&from, first.file_name(), &above, path.file_name(), AtFlags::empty())
        })
    }

    fn file(&mut self, path: &SafePath, content: &mut dyn Read, attributes: &Attributes) -> Result<(), Failure> {
        let shown = path.to_path();
        let unwritable = |e: &io::Error| unavailable(format!("{} cannot be written: {e}", shown.display()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self.open_above(path).and_then(|above| {
            replace(&above, path.file_name(), || {
                rustix::fs::openat(&above, path.file_name(), flags, Mode::RUSR | Mode::WUSR)
            })
        });
        let mut file = match opened {
            Ok(file) => File::from(file),
            Err(e) if fatal(e) => return Err(unwritable(&e.into())),
            Err(e) => {
                self.written.problem(format!("{} cannot be made: {e}", shown.display()));
                return Ok(());
            }
        };
        self.written.bytes += fill(content, &mut file, &unwritable)?;
        self.written.entries += 1;
        self.set(&file, attributes, &shown);
        Ok(())
    }

    /// Owner, mode, time, in this order: a change of owner takes the set-user-ID bit away.
    fn set(&mut self, on: impl AsFd, attributes: &Attributes, shown: &Path) {
        let set = || -> Result<(), Errno> {
            if self.target.owners {
                rustix::fs::fchown(&on, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
            }
            rustix::fs::fchmod(&on, Mode::from_raw_mode(safe_mode(attributes.mode, self.target.owners)))?;
            rustix::fs::futimens(&on, &times(attributes))
        };
        if let Err(e) = set() {
            self.written.problem(format!("owner, mode or time of {} cannot be set: {e}", shown.display()));
        }
    }

    /// The folder that `path` lies in, made where it is missing.
    fn open_above(&mut self, path: &SafePath) -> Result<OwnedFd, Errno> {
        self.open_folder(path.folders())
    }

    /// Opens a folder step by step, and makes what is missing.
    fn open_folder(&mut self, names: &[OsString]) -> Result<OwnedFd, Errno> {
        if let Some((known, folder)) = &self.below
            && known == names
        {
            return rustix::io::dup(folder);
        }
        let mut folder = rustix::io::dup(&self.root)?;
        for name in names {
            folder = match rustix::fs::openat(&folder, name, folder_flags(), Mode::empty()) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, name, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH)?;
                    rustix::fs::openat(&folder, name, folder_flags(), Mode::empty())?
                }
                opened => opened?,
            };
        }
        self.below = Some((names.to_vec(), rustix::io::dup(&folder)?));
        Ok(folder)
    }
}

/// The folder was empty when the restore began: what is in the way came out of the same archive, where the later one wins.
fn replace<T>(above: &OwnedFd, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(above, name, AtFlags::empty())?;
            make()
        }
        first => first,
    }
}

/// What will fail for everything else too.
fn fatal(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)
}

fn times(attributes: &Attributes) -> Timestamps {
    Timestamps { last_access: attributes.mtime, last_modification: attributes.mtime }
}

/// From the header, and from PAX records where they say it better.
fn attributes(entry: &mut tar::Entry<'_, &mut dyn Read>) -> io::Result<Attributes> {
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner that cannot be"));
    let header = entry.header();
    let mut attributes = Attributes {
        mode: header.mode()?,
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        // Before 1970 GNU tar writes the two's complement.
        mtime: Timespec { tv_sec: header.mtime()?.cast_signed(), tv_nsec: 0 },
    };
    let Some(records) = entry.pax_extensions()? else { return Ok(attributes) };
    for record in records {
        let record = record?;
        let (Ok(key), Ok(value)) = (record.key(), record.value()) else { continue };
        match key {
            "uid" => attributes.uid = value.parse().map_err(io::Error::other)?,
            "gid" => attributes.gid = value.parse().map_err(io::Error::other)?,
            "mtime" => {
                if let Some(mtime) = pax_time(value) {
                    attributes.mtime = mtime;
                }
            }
            _ => {}
        }
    }
    Ok(attributes)
}

/// `<seconds>[.<fraction>]`; a time before 1970 is left to the header.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse().ok().filter(|s| *s >= 0)?, tv_nsec: digits.parse().ok()? })
}

#[cfg(test)]
mod tests;
