//! **P** The byte layout of an archive.
//!
//! An archive is what a source wrote (a tar, or the output of a dump command: the *raw* bytes), compressed so that
//! `zstd -d` gives exactly those bytes back and nothing of ours is needed to read it in ten years.
//!
//! ```text
//! ┌──────────────┬──────────────┬───┬──────────────┬──────────────────────────────────────────────┐
//! │ zstd frame 0 │ zstd frame 1 │ … │ zstd frame n │ skippable frame: seek table                  │
//! │ 2 MiB raw    │ 2 MiB raw    │   │ the rest     │ magic 0x184D2A5E, size, n+1 entries, footer  │
//! └──────────────┴──────────────┴───┴──────────────┴──────────────────────────────────────────────┘
//! ```
//! * Every frame stands alone: it names its content size, carries the checksum of its content, and needs no frame before
//!   it. Two of them are compressed at the same time, and a reader may begin at any of them.
//! * The table is the published *zstd seekable format* (facebook/zstd, `contrib/seekable_format`), without its optional
//!   checksums, since the frames have their own. Plain `zstd -d` skips it. It is the end marker too: a stream that was cut
//!   between two frames is a valid zstd stream, but has no table; [`decode`] refuses it.
//! * 2 MiB: against 4 MiB frames 0.15 % larger, half the memory, half the bytes to fetch for one small file.
//!
//! Where there are recipients, all of that is the content of one age file ([`encrypt`], [`decrypt`]); it is cut into segments
//! only after that.
//!
//! Digests are BLAKE3 of the raw and of the stored bytes. They stand in the manifest, not here: an archive that proves
//! itself can be replaced together with its proof.
//!
//! # Memory
//! [`encode`] holds at most one block that fills, two that are being compressed, room for their two frames, and the frame
//! that is handed on: 6 × 2 MiB; and two compression contexts (4 MiB in all at level 3, 40 MiB at level 19); encryption adds
//! one frame. [`decode`] holds one window of at most 16 MiB (our own frames: 2 MiB), one output buffer of the caller's, and 8
//! bytes per frame. What a header *claims* is never allocated.

use crate::error::{Failure, Reason};

pub mod decode;
pub mod decrypt;
pub mod encode;
pub mod encrypt;
pub mod entries;
pub mod seek_table;

/// Size and digest of a run of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of them, 64 hex digits.
    pub digest: String,
}

/// Counts and digests bytes as they pass.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    size: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    /// Takes the next bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// Bytes so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What has passed.
    pub fn measure(&self) -> Measure {
        Measure { size: self.size, digest: self.hasher.finalize().to_hex().to_string() }
    }
}

/// An archive is not what it should be.
fn damaged(what: impl Into<String>) -> Failure {
    Failure::new(Reason::BackupDamaged, what)
}
