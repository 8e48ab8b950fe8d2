//! **P** The zstd seekable format's table: where each frame begins.
//!
//! Little-endian, as published: skippable frame `0x184D2A5E`, its size, one entry per frame (compressed size, raw size,
//! and a checksum where bit 7 of the descriptor says so), then the footer: number of frames, descriptor, `0x8F92EAB1`.

use super::damaged;
use crate::error::Failure;

/// Magic number of the skippable frame that the format uses.
pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
/// Last four bytes of a seekable archive.
pub const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Magic and size of a skippable frame, in bytes.
pub const HEADER_SIZE: usize = 8;
/// Number of frames, descriptor, magic: in bytes.
pub const FOOTER_SIZE: usize = 9;
/// Compressed size and raw size, in bytes.
const ENTRY_SIZE: usize = 8;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSize {
    /// Bytes of the compressed frame.
    pub stored: u32,
    /// Bytes that it decompresses to.
    pub raw: u32,
}

/// All frames, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<FrameSize>,
}

impl SeekTable {
    /// Adds the next frame.
    pub fn push(&mut self, frame: FrameSize) {
        self.frames.push(frame);
    }

    /// The frames, in order.
    pub fn frames(&self) -> &[FrameSize] {
        &self.frames
    }

    /// Size of [`SeekTable::to_bytes`].
    pub const fn encoded_size(&self) -> usize {
        HEADER_SIZE + self.frames.len() * ENTRY_SIZE + FOOTER_SIZE
    }

    /// The whole skippable frame. Fails only beyond the 4 GiB that a skippable frame can hold (1 PiB of raw bytes).
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        let too_many = |_| damaged("the archive has more frames than a seek table can hold");
        let content = u32::try_from(self.encoded_size() - HEADER_SIZE).map_err(too_many)?;
        let count = u32::try_from(self.frames.len()).map_err(too_many)?;
        let mut bytes = Vec::with_capacity(self.encoded_size());
        bytes.extend(SKIPPABLE_MAGIC.to_le_bytes());
        bytes.extend(content.to_le_bytes());
        for frame in &self.frames {
            bytes.extend(frame.stored.to_le_bytes());
            bytes.extend(frame.raw.to_le_bytes());
        }
        bytes.extend(count.to_le_bytes());
        bytes.push(0);
        bytes.extend(SEEKABLE_MAGIC.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a whole skippable frame, header included.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let footer = bytes.len().checked_sub(FOOTER_SIZE).filter(|at| *at >= HEADER_SIZE);
        let Some(footer) = footer else { return Err(damaged("the seek table is shorter than its footer")) };
        if word(bytes, 0) != Some(SKIPPABLE_MAGIC) || word(bytes, footer + 5) != Some(SEEKABLE_MAGIC) {
            return Err(damaged("the seek table's magic numbers are not there"));
        }
        if word(bytes, 4).map(|size| size as usize) != Some(bytes.len() - HEADER_SIZE) {
            return Err(damaged("the seek table's size is not the one that it names"));
        }
        let descriptor = bytes[footer + 4];
        if descriptor & 0x7f != 0 {
            return Err(damaged("the seek table uses bits that are reserved"));
        }
        let entry = ENTRY_SIZE + if descriptor & 0x80 == 0 { 0 } else { 4 };
        let entries = &bytes[HEADER_SIZE..footer];
        if word(bytes, footer).map(|count| count as usize * entry) != Some(entries.len()) {
            return Err(damaged("the seek table has another number of entries than it names"));
        }
        let frames = entries.chunks_exact(entry);
        let frames = frames.filter_map(|it| Some(FrameSize { stored: word(it, 0)?, raw: word(it, 4)? })).collect();
        Ok(Self { frames })
    }
}

/// The little-endian word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(sizes: &[(u32, u32)]) -> SeekTable {
        SeekTable { frames: sizes.iter().map(|&(stored, raw)| FrameSize { stored, raw }).collect() }
    }

    #[test]
    fn the_bytes_are_the_published_ones() {
        let bytes = table(&[(5, 7)]).to_bytes().unwrap();
        assert_eq!(bytes[..8], [0x5e, 0x2a, 0x4d, 0x18, 17, 0, 0, 0]);
        assert_eq!(bytes[8..16], [5, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[16..], [1, 0, 0, 0, 0, 0xb1, 0xea, 0x92, 0x8f]);
    }

    #[test]
    fn entries_with_checksums_are_read() {
        let mut bytes = vec![0x5e, 0x2a, 0x4d, 0x18, 21, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 9, 9, 9, 9];
        bytes.extend([1, 0, 0, 0, 0x80, 0xb1, 0xea, 0x92, 0x8f]);
        assert_eq!(SeekTable::parse(&bytes).unwrap(), table(&[(5, 7)]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sizes in proptest::collection::vec(any::<(u32, u32)>(), 0..50)) {
            let table = table(&sizes);
            let bytes = table.to_bytes().unwrap();
            prop_assert_eq!(bytes.len(), table.encoded_size());
            prop_assert_eq!(SeekTable::parse(&bytes).unwrap(), table);
        }

        #[test]
        fn anything_may_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SeekTable::parse(&bytes);
        }

        #[test]
        fn a_cut_table_is_refused(sizes in proptest::collection::vec(any::<(u32, u32)>(), 0..9), cut in 1_usize..90) {
            let bytes = table(&sizes).to_bytes().unwrap();
            let end = bytes.len().saturating_sub(cut);
            prop_assert!(SeekTable::parse(&bytes[..end]).is_err());
        }
    }
}
