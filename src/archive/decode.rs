//! **P** Back to raw bytes: capped, and truncation is an error.
//!
//! [`Decoder`] is a state machine over the stored bytes, wherever they come from; [`Reader`] gives its output as
//! [`std::io::Read`]. Both refuse: another magic number, a frame that zstd refuses, a window over 16 MiB, more raw bytes
//! than announced, a stream that ends anywhere but behind a seek table which agrees with every frame that was seen, and
//! bytes after it.

use super::seek_table::{FOOTER_SIZE, FrameSize, HEADER_SIZE, SKIPPABLE_MAGIC, SeekTable};
use super::{Measure, Tally, damaged};
use crate::error::{Failure, Reason};
use bytes::Bytes;
use std::io;
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

/// Largest window that is allocated: 16 MiB. Our own frames need 2 MiB.
const WINDOW_LOG_MAX: u32 = 24;
/// Magic number of a zstd frame.
const ZSTD_MAGIC: u32 = 0xFD2F_B528;

/// What an archive turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What came out.
    pub raw: Measure,
    /// What went in.
    pub stored: Measure,
}

/// Where the decoder stands.
enum State {
    /// Between frames; so many bytes of the next magic number are there.
    Magic,
    /// In a zstd frame: its bytes so far.
    Frame { stored: u64, raw: u64 },
    /// In the head of a skippable frame.
    SkippableHead,
    /// In a skippable frame that is none of ours: bytes that are left.
    Skip { left: u64 },
    /// In the seek table: its whole size is known from the frames that were seen.
    Table,
    /// Behind the seek table.
    End,
}

/// Stored bytes in, raw bytes out.
pub struct Decoder {
    state: State,
    zstd: ZstdDecoder<'static>,
    head: Vec<u8>,
    seen: SeekTable,
    raw: Tally,
    stored: Tally,
    raw_limit: u64,
}

impl Decoder {
    /// A decoder that refuses more than `raw_limit` raw bytes.
    pub fn new(raw_limit: u64) -> Result<Self, Failure> {
        let zstd = || -> io::Result<ZstdDecoder<'static>> {
            let mut zstd = ZstdDecoder::new()?;
            zstd.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
            Ok(zstd)
        };
        Ok(Self {
            state: State::Magic,
            zstd: zstd().map_err(|e| Failure::new(Reason::Internal, format!("zstd: {e}")))?,
            head: Vec::with_capacity(HEADER_SIZE),
            seen: SeekTable::default(),
            raw: Tally::default(),
            stored: Tally::default(),
            raw_limit,
        })
    }

    /// Takes from `input` and writes to `output`; gives how much of each. Call it until all input is taken *and* it has
    /// written nothing: a frame may hold more than `output` has room for.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), Failure> {
        let (taken, written) = self.step(input, output)?;
        self.stored.add(&input[..taken]);
        self.raw.add(&output[..written]);
        if self.raw.size() > self.raw_limit {
            return Err(damaged(format!(
                "the archive holds more than the {} bytes that were announced",
                self.raw_limit
            )));
        }
        Ok((taken, written))
    }

    /// The end of the input. Fails unless the seek table was the last thing on it.
    pub fn finish(self) -> Result<Decoded, Failure> {
        match self.state {
            State::End => Ok(Decoded { raw: self.raw.measure(), stored: self.stored.measure() }),
            _ => Err(damaged("the archive ends before its seek table: it was cut short")),
        }
    }

    /// One transition.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), Failure> {
        match self.state {
            State::Magic => {
                let taken = self.fill_head(input, 4);
                if let [a, b, c, d] = self.head[..] {
                    self.state = match u32::from_le_bytes([a, b, c, d]) {
                        ZSTD_MAGIC => State::Frame { stored: 0, raw: 0 },
                        // 16 magic numbers are skippable; only one of them can be the seek table.
                        magic if magic & 0xFFFF_FFF0 == 0x184D_2A50 => State::SkippableHead,
                        _ => return Err(damaged("what should be a frame does not begin like one")),
                    };
                }
                Ok((taken, 0))
            }
            State::Frame { stored, raw } => self.frame(input, output, stored, raw),
            State::SkippableHead => {
                let taken = self.fill_head(input, HEADER_SIZE);
                if let [a, b, c, d, e, f, g, h] = self.head[..] {
                    let size = u32::from_le_bytes([e, f, g, h]) as usize;
                    self.state = if u32::from_le_bytes([a, b, c, d]) != SKIPPABLE_MAGIC {
                        self.head.clear();
                        if size == 0 { State::Magic } else { State::Skip { left: size as u64 } }
                    } else if size == self.seen.encoded_size() - HEADER_SIZE {
                        State::Table
                    } else {
                        return Err(damaged("the seek table does not have the size that the frames before it ask for"));
                    };
                }
                Ok((taken, 0))
            }
            State::Skip { left } => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - taken as u64;
                self.state = if left == 0 { State::Magic } else { State::Skip { left } };
                Ok((taken, 0))
            }
            State::Table => {
                let taken = self.fill_head(input, self.seen.encoded_size());
                if self.head.len() == self.seen.encoded_size() {
                    if SeekTable::parse(&self.head)? != self.seen {
                        return Err(damaged("the seek table does not agree with the frames before it"));
                    }
                    self.state = State::End;
                }
                Ok((taken, 0))
            }
            State::End if input.is_empty() => Ok((0, 0)),
            State::End => Err(damaged("bytes come after the seek table")),
        }
    }

    /// Decompresses within one frame.
    fn frame(&mut self, input: &[u8], output: &mut [u8], stored: u64, raw: u64) -> Result<(usize, usize), Failure> {
        let refused = |e: io::Error| damaged(format!("a frame cannot be decompressed: {e}"));
        // The magic number was taken to tell the frames apart; zstd wants it too.
        let (mut stored, mut taken) = (stored, 0);
        if stored == 0 {
            let status = self.zstd.run_on_buffers(&self.head, &mut []).map_err(refused)?;
            if status.bytes_read != self.head.len() {
                return Err(damaged("a frame's head was not taken"));
            }
            stored = self.head.len() as u64;
            self.head.clear();
        }
        let mut written = 0;
        let mut ended = false;
        if !(input.is_empty() && output.is_empty()) {
            let status = self.zstd.run_on_buffers(input, output).map_err(refused)?;
            (taken, written) = (status.bytes_read, status.bytes_written);
            ended = status.remaining == 0 && (taken > 0 || written > 0);
        }
        let (stored, raw) = (stored + taken as u64, raw + written as u64);
        self.state = State::Frame { stored, raw };
        if ended {
            let size = |n: u64| u32::try_from(n).map_err(|_| damaged("a frame has more than 4 GiB"));
            self.seen.push(FrameSize { stored: size(stored)?, raw: size(raw)? });
            self.zstd.reinit().map_err(refused)?;
            self.state = State::Magic;
        }
        Ok((taken, written))
    }

    /// Fills `head` up to `size` bytes; gives how many were taken.
    fn fill_head(&mut self, input: &[u8], size: usize) -> usize {
        let taken = input.len().min(size - self.head.len());
        self.head.extend_from_slice(&input[..taken]);
        taken
    }
}

/// Smallest archive there can be, in bytes: a seek table without entries.
pub const SMALLEST: u64 = (HEADER_SIZE + FOOTER_SIZE) as u64;

/// A [`Decoder`] as something to read from. An error of the source or the decoder comes out as an [`io::Error`] that holds
/// the [`Failure`].
pub struct Reader<I> {
    chunks: I,
    decoder: Decoder,
    chunk: Bytes,
}

impl<I: Iterator<Item = Result<Bytes, Failure>>> Reader<I> {
    /// Reads the archive in `chunks`, of which no more than `raw_limit` raw bytes are accepted.
    pub fn new(chunks: I, raw_limit: u64) -> Result<Self, Failure> {
        Ok(Self { chunks, decoder: Decoder::new(raw_limit)?, chunk: Bytes::new() })
    }

    /// Reads what is left, and says what the whole was.
    pub fn finish(mut self) -> Result<Decoded, Failure> {
        let mut rest = vec![0; 128 * 1024];
        while self.next(&mut rest)? > 0 {}
        self.decoder.finish()
    }

    /// The next raw bytes; 0 at the end of the chunks.
    fn next(&mut self, output: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let (taken, written) = self.decoder.decode(&self.chunk, output)?;
            let _ = self.chunk.split_to(taken);
            if written > 0 || output.is_empty() {
                return Ok(written);
            }
            if self.chunk.is_empty() && taken == 0 {
                match self.chunks.next() {
                    Some(chunk) => self.chunk = chunk?,
                    None => return Ok(0),
                }
            }
        }
    }
}

impl<I: Iterator<Item = Result<Bytes, Failure>>> io::Read for Reader<I> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        self.next(output).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
