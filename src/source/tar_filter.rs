//! **P** A copy's tar as it passes: entries that are not wanted are taken out, and what the names tell is noted.
//!
//! # Why here
//! `tar` in the container packs everything, and what was not asked for is cut out on the way: then a pattern means the same
//! whatever `tar` there is (see [`super::selection`]). The price is that what is left out has been read and carried to us.
//! For the usual case (a whole folder, by its name) the wrapper tells `tar` not to enter it, where that `tar` can.
//!
//! # What passes
//! Each entry is its headers (GNU long names, PAX records), one header of its own, and its content; it passes whole, byte
//! for byte, or not at all. Headers are held until the name is known, at most [`HELD_LIMIT`] bytes. A folder that is wanted
//! only if something below it is waits until that comes: most tars go down into it at once, libarchive's lists its
//! neighbours first, and so they wait side by side, up to [`WAITING_LIMIT`]. One for which there was no room is lost (it
//! comes back without its mode and owner). Zeros after the end-of-archive marker (tar fills its last record)
//! are dropped. What cannot be read as a tar passes as it is, from there to the end: [`super::tar_end`] refuses it.
//!
//! # Hard links
//! The second name of a file is stored as a link to the first. When the first was left out and the second is wanted, there
//! is nothing to link to: that name is cut out as well and told as lost, which makes the backup Incomplete. Whether the first
//! was left out is a question to the patterns alone, so that no names need to be remembered.
//!
//! # Databases that run
//! Some tell by a file that they are at work ([`LOCK_FILES`]). One that is wanted, or that was left out by its own name
//! while its folder is wanted, says that the files around it belong to no one moment.

use super::CHUNK_LIMIT;
use super::selection::{Choice, Selection};
use super::tar_end::{BLOCK, PAX_LIMIT, TarFault, check_sum, for_each_record, min, number, padded};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Most bytes of headers that wait for a name. One list of PAX records may be as long as [`PAX_LIMIT`].
const HELD_LIMIT: u64 = PAX_LIMIT + 64 * 1024;
/// Most bytes of folders that wait, about 12,000 of them; then only those stay that lie above the entry that comes.
const WAITING_LIMIT: usize = 8 * 1024 * 1024;
/// What a folder takes that waits, beside its headers and its path.
const WAITING_EACH: usize = 128;
/// Lost links and lock files that are named.
const NAMED_LIMIT: usize = 5;
/// As much of a name as is shown, in bytes: a tar may hold one of megabytes.
const NAME_SHOWN: usize = 200;

/// What databases that run keep in their folder: PostgreSQL its pid, InnoDB its system tablespace (there is no lock file
/// beside it), MongoDB its pid (the file stays, empty, after an orderly end). And whether it must have content.
const LOCK_FILES: [(&[u8], bool); 3] = [(b"postmaster.pid", false), (b"ibdata1", false), (b"mongod.lock", true)];

/// What was noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Lock files of databases that run, at most five.
    pub lock_files: Vec<String>,
    /// Hard links whose file was left out, at most five.
    pub lost_links: Vec<String>,
    /// How many there are of them.
    pub lost: u64,
    /// Folders without owner and mode, should something below them be wanted after all: too many waited.
    pub bare_folders: usize,
    /// Entries whose owner or group may be cut off: busybox writes the low digits of an id for which a header has no room.
    pub cut_owners: u64,
    /// From some point on it was no tar that can be filtered, and all passed.
    pub unfiltered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a header; what has come of it lies at the end of `held`.
    Header,
    /// In the content of a header that tells about the next entry: bytes of it left, padding included.
    About { kind: u8, size: usize, left: u64 },
    /// In the extension of an old GNU sparse header; content of this size follows.
    Sparse { size: u64, taken: bool },
    /// In content: bytes left, padding included.
    Content { left: u64, taken: bool },
    /// One block of zeros has come.
    HalfEnd,
    /// The marker has come.
    End,
    /// Not a tar that we know. All passes.
    Unknown,
}

/// Filters one tar.
#[derive(Debug)]
pub struct TarFilter {
    selection: Option<Selection>,
    state: State,
    /// Headers of the entry that comes, and the beginning of a block.
    held: Vec<u8>,
    /// Where the block that is being read, or the header whose content is, begins in `held`.
    block: usize,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// PAX records tell owner or group: then the header's fields do not count.
    owned: bool,
    /// Folders that wait, by their paths, with their headers; and the bytes of them all.
    folders: BTreeMap<Vec<u8>, Bytes>,
    waiting: usize,
    /// Headers of those that pass before the entry that comes.
    released: Vec<Bytes>,
    noted: Noted,
}

/// What becomes of the bytes that a step took.
enum Step {
    /// They pass.
    Pass,
    /// They are dropped, or wait in `held`.
    Keep,
    /// They are the last of what waits in `held`: all of that passes.
    Release,
}

/// What a header is.
enum Header {
    /// It tells about the entry after it.
    About,
    /// Its entry is taken.
    Taken,
    /// Its entry is not.
    LeftOut,
    /// A folder that waits; its path.
    OnTheWay(Vec<u8>),
}

impl TarFilter {
    /// A filter for these patterns; without any, all passes and only the names are looked at.
    pub fn new(selection: Option<Selection>) -> Self {
        Self {
            selection,
            state: State::Header,
            held: Vec::with_capacity(BLOCK),
            block: 0,
            path: None,
            link: None,
            size: None,
            owned: false,
            folders: BTreeMap::new(),
            waiting: 0,
            released: Vec::new(),
            noted: Noted::default(),
        }
    }

    /// What the names told.
    pub const fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Takes the next bytes, and puts what passes of them into `onward`.
    pub fn push(&mut self, chunk: &Bytes, onward: &mut VecDeque<Bytes>) {
        let mut at = 0;
        // What passes is cut out of the chunk in pieces as long as can be: most often all of it is one.
        let mut from = 0;
        while at < chunk.len() {
            let (taken, step) = self.step(&chunk[at..]);
            if !matches!(step, Step::Pass) {
                pass(onward, chunk, from, at);
                from = at + taken;
            }
            if matches!(step, Step::Release) {
                onward.extend(self.released.drain(..));
                let mut held = Bytes::from(std::mem::take(&mut self.held));
                while held.len() > CHUNK_LIMIT {
                    onward.push_back(held.split_to(CHUNK_LIMIT));
                }
                onward.push_back(held);
                self.block = 0;
            }
            at += taken;
        }
        pass(onward, chunk, from, at);
    }

    /// The end of the stream: what was held back of a tar that is not whole passes.
    pub fn finish(&mut self, onward: &mut VecDeque<Bytes>) {
        if !self.held.is_empty() {
            onward.push_back(std::mem::take(&mut self.held).into());
        }
    }

    /// How many bytes were taken, and what becomes of them.
    fn step(&mut self, bytes: &[u8]) -> (usize, Step) {
        match self.state {
            State::Unknown => (bytes.len(), Step::Pass),
            State::End => {
                if bytes.iter().all(|b| *b == 0) {
                    return (bytes.len(), Step::Keep);
                }
                self.unknown(bytes.len())
            }
            State::Content { left, taken } => {
                let size = min(left, bytes.len());
                self.content(left - size as u64, taken);
                (size, if taken { Step::Pass } else { Step::Keep })
            }
            State::About { kind, size, left } => {
                let taken = min(left, bytes.len());
                self.held.extend_from_slice(&bytes[..taken]);
                let left = left - taken as u64;
                self.state = State::About { kind, size, left };
                if left == 0 {
                    let from = self.block + BLOCK;
                    let about = self.held[from..from + size].to_vec();
                    self.block = self.held.len();
                    self.state = State::Header;
                    if self.about(kind, &about).is_err() {
                        return (taken, self.unknown(0).1);
                    }
                }
                (taken, Step::Keep)
            }
            State::Header | State::HalfEnd | State::Sparse { .. } => {
                // The usual case: a whole block, and nothing waits. It is looked at where it lies.
                if let (true, Some(block)) = (self.held.is_empty(), bytes.first_chunk::<BLOCK>()) {
                    return (BLOCK, self.judge(block, false));
                }
                let taken = (BLOCK - (self.held.len() - self.block)).min(bytes.len());
                self.held.extend_from_slice(&bytes[..taken]);
                let Some(block) = self.held[self.block..].first_chunk::<BLOCK>().copied() else {
                    return (taken, Step::Keep);
                };
                (taken, self.judge(&block, true))
            }
        }
    }

    /// A whole block, which is in `held` already or not.
    fn judge(&mut self, block: &[u8; BLOCK], held: bool) -> Step {
        let Ok(header) = self.header(block) else { return self.unknown(0).1 };
        match header {
            Header::Taken if held => Step::Release,
            Header::Taken if self.released.is_empty() => Step::Pass,
            Header::Taken => {
                self.held.extend_from_slice(block);
                Step::Release
            }
            Header::LeftOut => {
                self.held.clear();
                self.block = 0;
                Step::Keep
            }
            Header::About | Header::OnTheWay(_) if !held => {
                self.held.extend_from_slice(block);
                self.wait(header)
            }
            Header::About | Header::OnTheWay(_) => self.wait(header),
        }
    }

    fn wait(&mut self, header: Header) -> Step {
        if let Header::OnTheWay(path) = header {
            let headers = Bytes::from(std::mem::take(&mut self.held));
            self.block = 0;
            if self.waiting > WAITING_LIMIT {
                let before = self.folders.len();
                self.folders.retain(|folder, _| is_below(&path, folder));
                self.noted.bare_folders += before - self.folders.len();
                self.waiting = self.folders.iter().map(|(path, headers)| weight(path, headers)).sum();
            }
            self.waiting += weight(&path, &headers);
            self.folders.insert(path, headers);
        }
        Step::Keep
    }

    /// Lets those folders pass that lie above `path`, from the top.
    fn release(&mut self, path: &[u8]) {
        if self.folders.is_empty() {
            return;
        }
        for end in std::iter::once(0).chain(memchr::memchr_iter(b'/', path)) {
            if let Some(headers) = self.folders.remove(&path[..end]) {
                self.waiting = self.waiting.saturating_sub(weight(&path[..end], &headers));
                self.released.push(headers);
            }
        }
    }

    /// No tar from here on. What is held passes first.
    fn unknown(&mut self, taken: usize) -> (usize, Step) {
        self.state = State::Unknown;
        self.noted.unfiltered = true;
        self.folders.clear();
        (taken, if self.held.is_empty() { Step::Pass } else { Step::Release })
    }

    fn content(&mut self, left: u64, taken: bool) {
        self.state = if left == 0 { State::Header } else { State::Content { left, taken } };
    }

    /// What a header told about the next entry.
    fn about(&mut self, kind: u8, about: &[u8]) -> Result<(), TarFault> {
        match kind {
            b'L' => self.path = Some(text(about).to_vec()),
            b'K' => self.link = Some(text(about).to_vec()),
            _ => for_each_record(about, |key, value| {
                match key {
                    // A sparse file's own name; `path` then holds one that was made up (GNU.sparse formats 0.0 to 1.0).
                    b"GNU.sparse.name" => self.path = Some(value.to_vec()),
                    b"path" if self.path.is_none() => self.path = Some(value.to_vec()),
                    b"linkpath" => self.link = Some(value.to_vec()),
                    b"uid" | b"gid" => self.owned = true,
                    b"size" => {
                        let size = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok());
                        self.size = Some(size.ok_or(TarFault::Damaged("a size that is no number"))?);
                    }
                    _ => {}
                }
                Ok(())
            })?,
        }
        Ok(())
    }

    fn header(&mut self, block: &[u8; BLOCK]) -> Result<Header, TarFault> {
        if let State::Sparse { size, taken } = self.state {
            if block[504] == 0 {
                self.content(padded(size)?, taken);
            }
            return Ok(if taken { Header::Taken } else { Header::LeftOut });
        }
        if block.iter().all(|b| *b == 0) {
            // Folders that waited for something wait in vain.
            self.folders.clear();
            self.state = if self.state == State::HalfEnd { State::End } else { State::HalfEnd };
            return Ok(Header::Taken);
        }
        if self.state == State::HalfEnd {
            return Err(TarFault::Damaged("one block of zeros stands alone in it"));
        }
        check_sum(block)?;
        let size = number(&block[124..136]).ok_or(TarFault::Damaged("a size that is no number"))?;
        let kind = block[156];
        match kind {
            b'x' | b'L' | b'K' => {
                let left = padded(size)?;
                if self.held.len() as u64 + left > HELD_LIMIT {
                    return Err(TarFault::Damaged("headers that are longer than any that are written"));
                }
                let size = usize::try_from(size).map_err(|_| TarFault::Damaged("a size that cannot be"))?;
                self.state = State::About { kind, size, left };
                return Ok(Header::About);
            }
            b'g' | b'V' => {
                self.content(padded(size)?, true);
                return Ok(Header::Taken);
            }
            _ => {}
        }
        let size = self.size.take().unwrap_or(size);
        // As GNU tar reads it: a hard link has no content, whatever its header says.
        let size = if kind == b'1' { 0 } else { size };
        let stored = self.path.take().unwrap_or_else(|| name_of(block));
        let link = self.link.take().unwrap_or_else(|| text(&block[157..257]).to_vec());
        let is_folder = matches!(kind, b'5' | b'D') || (matches!(kind, 0 | b'0') && stored.ends_with(b"/"));
        let path = relative(&stored);
        let choice = self.choose(path, &link, kind, is_folder, size);
        let full = !std::mem::take(&mut self.owned) && (is_full(&block[108..116]) || is_full(&block[116..124]));
        self.noted.cut_owners += u64::from(full && choice != Choice::LeftOut);
        if choice == Choice::OnTheWay && size == 0 {
            self.state = State::Header;
            return Ok(Header::OnTheWay(path.to_vec()));
        }
        let taken = choice != Choice::LeftOut;
        if taken {
            self.release(path);
        }
        if kind == b'S' && block[482] != 0 {
            self.state = State::Sparse { size, taken };
        } else {
            self.content(padded(size)?, taken);
        }
        Ok(if taken { Header::Taken } else { Header::LeftOut })
    }

    fn choose(&mut self, path: &[u8], link: &[u8], kind: u8, is_folder: bool, size: u64) -> Choice {
        let choose = |path, is_folder| match &self.selection {
            None => Choice::Taken,
            Some(selection) => selection.choose(path, is_folder),
        };
        let choice = choose(path, is_folder);
        let shown = || String::from_utf8_lossy(&path[..path.len().min(NAME_SHOWN)]).into_owned();
        let base = memchr::memrchr(b'/', path).map_or(0, |slash| slash + 1);
        let locks = LOCK_FILES.iter().any(|(name, content)| path[base..] == **name && (size > 0 || !content));
        if locks && !is_folder {
            let wanted = choice == Choice::Taken || choose(&path[..base.saturating_sub(1)], true) == Choice::Taken;
            if wanted && self.noted.lock_files.len() < NAMED_LIMIT {
                self.noted.lock_files.push(shown());
            }
        }
        if kind == b'1' && choice == Choice::Taken && choose(relative(link), false) != Choice::Taken {
            self.noted.lost += 1;
            if self.noted.lost_links.len() < NAMED_LIMIT {
                self.noted.lost_links.push(shown());
            }
            return Choice::LeftOut;
        }
        choice
    }
}

/// What a folder that waits takes, in bytes.
fn weight(path: &[u8], headers: &Bytes) -> usize {
    path.len() + headers.len() + WAITING_EACH
}

fn pass(onward: &mut VecDeque<Bytes>, chunk: &Bytes, from: usize, to: usize) {
    if from < to {
        onward.push_back(chunk.slice(from..to));
    }
}

/// Whether an id takes the place of its terminator too. busybox writes the low eight digits of any id so, and what it cut off
/// nobody sees; other tars write a larger one in another way.
fn is_full(field: &[u8]) -> bool {
    field.iter().all(|byte| (b'0'..=b'7').contains(byte))
}

/// Up to the first zero.
fn text(field: &[u8]) -> &[u8] {
    &field[..memchr::memchr(0, field).unwrap_or(field.len())]
}

/// The name in a header, with its prefix where the format has one.
fn name_of(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = text(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// A name from the copied folder on, without a slash at its end; empty for that folder itself.
fn relative(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    if name == b"." { b"" } else { name }
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests;
