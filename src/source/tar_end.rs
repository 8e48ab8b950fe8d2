//! **P** Watches a tar as it passes: is its end-of-archive marker there, and does anything in it have content?
//!
//! A tar that was cut between two entries is a valid beginning, and readers accept it silently. Only the two blocks of
//! zeros at its end say that it is whole. [`TarWatch`] follows the headers (ustar; GNU long names and sparse files; PAX
//! sizes; base-256 numbers), skips the content, and keeps one header and one PAX record list in memory, at most
//! [`PAX_LIMIT`].

/// Size of a block.
pub(super) const BLOCK: usize = 512;
/// Largest list of PAX records that is kept to look for `size=`, in bytes. Linux allows 64 KiB per extended attribute.
pub const PAX_LIMIT: u64 = 8 * 1024 * 1024;

/// What a tar turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files and hard links.
    pub files: u64,
    /// Regular files with at least one byte.
    pub with_content: u64,
}

/// Why a tar is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TarFault {
    /// It ends before its marker.
    #[error("the tar ends before its end-of-archive marker")]
    Truncated,
    /// Something in it is not a tar.
    #[error("what should be a tar is none: {0}")]
    Damaged(&'static str),
}

/// Where the watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a header; what has come is in `buffer`.
    Header,
    /// In the extension of an old GNU sparse header; content of this size follows.
    Sparse { size: u64 },
    /// In content or padding: bytes left.
    Skip { left: u64 },
    /// In PAX records: bytes of them left, padding excluded.
    Pax { left: u64, padding: u64 },
    /// One block of zeros has come.
    HalfEnd,
    /// The marker has come; only zeros may follow.
    End,
}

/// Follows a tar.
#[derive(Debug)]
pub struct TarWatch {
    state: State,
    buffer: Vec<u8>,
    next_size: Option<u64>,
    /// A longer name than the header has room for has come before it.
    named: bool,
    counts: Counts,
    fault: Option<TarFault>,
}

impl Default for TarWatch {
    fn default() -> Self {
        Self {
            state: State::Header,
            buffer: Vec::with_capacity(BLOCK),
            next_size: None,
            named: false,
            counts: Counts::default(),
            fault: None,
        }
    }
}

impl TarWatch {
    /// Follows the next bytes. After a fault nothing more is looked at.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.fault.is_none() {
            match self.step(bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(fault) => self.fault = Some(fault),
            }
        }
    }

    /// What has been counted so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The end of the stream: whether the tar was whole.
    pub fn finish(self) -> Result<Counts, TarFault> {
        match (self.fault, self.state) {
            (Some(fault), _) => Err(fault),
            (None, State::End) => Ok(self.counts),
            (None, _) => Err(TarFault::Truncated),
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<usize, TarFault> {
        match self.state {
            State::Skip { left } => {
                let taken = min(left, bytes.len());
                self.skip(left - taken as u64);
                Ok(taken)
            }
            State::Pax { left, padding } => {
                let taken = min(left, bytes.len());
                self.buffer.extend_from_slice(&bytes[..taken]);
                let left = left - taken as u64;
                self.state = State::Pax { left, padding };
                if left == 0 {
                    self.next_size = pax_size(&self.buffer)?.or(self.next_size);
                    self.buffer.clear();
                    self.skip(padding);
                }
                Ok(taken)
            }
            State::End => {
                if bytes.iter().any(|b| *b != 0) {
                    return Err(TarFault::Damaged("bytes come after its end-of-archive marker"));
                }
                Ok(bytes.len())
            }
            State::Header | State::HalfEnd | State::Sparse { .. } => {
                let taken = min((BLOCK - self.buffer.len()) as u64, bytes.len());
                self.buffer.extend_from_slice(&bytes[..taken]);
                if self.buffer.len() == BLOCK {
                    let block = std::mem::take(&mut self.buffer);
                    self.block(&block)?;
                    if self.buffer.capacity() == 0 {
                        self.buffer = block;
                        self.buffer.clear();
                    }
                }
                Ok(taken)
            }
        }
    }

    /// Goes on with `left` bytes to skip, if any.
    fn skip(&mut self, left: u64) {
        self.state = if left == 0 { State::Header } else { State::Skip { left } };
    }

    /// A whole block where a header, or one of its extensions, is due.
    fn block(&mut self, block: &[u8]) -> Result<(), TarFault> {
        if let State::Sparse { size } = self.state {
            if block[504] == 0 {
                self.skip(padded(size)?);
            }
            return Ok(());
        }
        if block.iter().all(|b| *b == 0) {
            self.state = if self.state == State::HalfEnd { State::End } else { State::HalfEnd };
            return Ok(());
        }
        if self.state == State::HalfEnd {
            return Err(TarFault::Damaged("one block of zeros stands alone in it"));
        }
        check_sum(block)?;
        let size = number(&block[124..136]).ok_or(TarFault::Damaged("a size that is no number"))?;
        let kind = block[156];
        match kind {
            // The records of the next entry, or (`g`) of all that follow; no sensible `g` has a size.
            b'x' => {
                self.named = true;
                if size > PAX_LIMIT {
                    return Err(TarFault::Damaged("its PAX records are larger than any that are written"));
                }
                let padding = padded(size)? - size;
                self.state = if size == 0 { State::Header } else { State::Pax { left: size, padding } };
                return Ok(());
            }
            b'g' | b'L' | b'K' | b'V' => {
                self.named |= kind == b'L';
                self.skip(padded(size)?);
                return Ok(());
            }
            _ => {}
        }
        let size = self.next_size.take().unwrap_or(size);
        // As GNU tar reads it: a hard link has no content, whatever its header says.
        let size = if kind == b'1' { 0 } else { size };
        // Before there were types, a folder was told by its name's end; a cut name's end says nothing.
        let cut = std::mem::take(&mut self.named);
        let named_as_folder = || block[..100].split(|b| *b == 0).next().is_some_and(|name| name.ends_with(b"/"));
        let folder_of_old = kind == 0 && !cut && named_as_folder();
        if matches!(kind, 0 | b'0' | b'7' | b'S' | b'1') && !folder_of_old {
            self.counts.files += 1;
            self.counts.with_content += u64::from(size > 0);
        }
        if kind == b'S' && block[482] != 0 {
            self.state = State::Sparse { size };
        } else {
            self.skip(padded(size)?);
        }
        Ok(())
    }
}

pub(super) fn min(left: u64, there: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(there)
}

/// With the padding to a whole block.
pub(super) fn padded(size: u64) -> Result<u64, TarFault> {
    size.checked_next_multiple_of(BLOCK as u64).ok_or(TarFault::Damaged("a size that cannot be"))
}

/// The sum of a header, its own field counted as blanks; old tars added signed bytes.
pub(super) fn check_sum(block: &[u8]) -> Result<(), TarFault> {
    let wanted = number(&block[148..156]).ok_or(TarFault::Damaged("a checksum that is no number"))?;
    let outside = || block[..148].iter().chain(&block[156..]).copied();
    let unsigned: u64 = outside().map(u64::from).sum::<u64>() + 8 * 32;
    let signed: i64 = outside().map(|b| i64::from(b.cast_signed())).sum::<i64>() + 8 * 32;
    if wanted == unsigned || i64::try_from(wanted) == Ok(signed) {
        Ok(())
    } else {
        Err(TarFault::Damaged("the checksum of a header does not hold"))
    }
}

/// A number field: octal digits, or base 256 where the highest bit is set.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        // Negative numbers (0xff…) and such over 64 bits are no sizes.
        return rest.iter().try_fold(u64::from(first & 0x7f), |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let digits = field.split(|b| *b == 0).next().unwrap_or_default().trim_ascii();
    digits.iter().try_fold(0_u64, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 8)?;
        n.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

/// `size` among PAX records.
fn pax_size(records: &[u8]) -> Result<Option<u64>, TarFault> {
    let mut size = None;
    for_each_record(records, |key, value| {
        if key == b"size" {
            size = Some(std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).ok_or(PAX_FAULT)?);
        }
        Ok(())
    })?;
    Ok(size)
}

const PAX_FAULT: TarFault = TarFault::Damaged("PAX records that cannot be read");

/// Goes through PAX records (`<length> <key>=<value>\n`).
pub(super) fn for_each_record<'a>(
    mut records: &'a [u8],
    mut take: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), TarFault>,
) -> Result<(), TarFault> {
    // Some writers fill up with zeros.
    while !records.is_empty() && records.iter().any(|b| *b != 0) {
        let blank = records.iter().position(|b| *b == b' ').ok_or(PAX_FAULT)?;
        let length: usize =
            std::str::from_utf8(&records[..blank]).ok().and_then(|n| n.parse().ok()).ok_or(PAX_FAULT)?;
        let record = records.get(blank + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or(PAX_FAULT)?;
        let equals = memchr::memchr(b'=', record).ok_or(PAX_FAULT)?;
        take(&record[..equals], &record[equals + 1..])?;
        records = &records[length..];
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
