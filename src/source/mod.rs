//! **T** Where the bytes of a backup come from.
//!
//! A [`Source`] is opened once per attempt and gives a [`Capture`]: a bounded channel of bytes, and a future that says
//! afterwards whether they were *all* the bytes. The channel closing proves nothing; only [`Completion`] does, and no
//! [`crate::destination::Staged`] can be committed without one.

use crate::error::{Failure, Reason};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod command;
pub mod exec;
pub mod exec_loop;
pub mod hidden;
pub mod selection;
pub mod tar_end;
pub mod tar_filter;
pub mod walk;
pub mod wrapper;

/// How many chunks may wait between source and encoder. A chunk has at most [`CHUNK_LIMIT`] bytes, so this bounds memory.
pub const CHANNEL_CHUNKS: usize = 32;
/// Largest chunk that a source hands on, in bytes.
pub const CHUNK_LIMIT: usize = 128 * 1024;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A tar; the object is `archive.tar.zst`, and its end-of-archive blocks must have been seen.
    Tar,
    /// Whatever the command wrote; the object is `dump.zst`.
    Raw,
}

/// How far the content belongs to one moment (`product.md` section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Consistency {
    /// A storage snapshot.
    Snapshot,
    /// Whatever the command guarantees (a dump tool: usually one transaction).
    Command,
    /// A `before` hook had quieted the application.
    Quiesced,
    /// Files as they were when each was read.
    Live,
}

/// What is known of a capture when it has been opened.
#[derive(Clone, Debug)]
pub struct CaptureFacts {
    /// What the bytes are.
    pub content: Content,
    /// How far they belong to one moment.
    pub consistency: Consistency,
    /// The pod they come from.
    pub pod: Option<String>,
    /// The container in it.
    pub container: Option<String>,
}

/// An open source.
pub struct Capture {
    /// What is known of it.
    pub facts: CaptureFacts,
    /// The bytes, in order; each chunk at most [`CHUNK_LIMIT`] bytes. Closed when the source has ended, for whatever reason.
    pub bytes: mpsc::Receiver<Bytes>,
    /// Resolves after `bytes` was drained and closed: whether they were all. Dropping it (or cancelling) ends the source
    /// and removes what it left in the target.
    pub completion: BoxFuture<'static, Result<Completion, Failure>>,
}

/// What a source says after its last byte.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Exit code of the command, where one ran.
    pub exit_code: Option<i32>,
    /// Things worth saying that did not make the backup incomplete, at most 100.
    pub warnings: Vec<String>,
    /// The last part (at most 1 MiB) of what command and hooks said on standard error (and on standard output, in the
    /// directory form).
    pub log: Vec<u8>,
}

/// Proof that the source's end was seen.
#[derive(Clone, Debug)]
pub enum Completion {
    /// Every byte was seen.
    Complete(Ending),
    /// The end was seen, but part of the source could not be read: reason and message say what.
    Incomplete(Ending, Reason, String),
}

impl Completion {
    /// What the source said, in either case.
    pub const fn ending(&self) -> &Ending {
        match self {
            Self::Complete(ending) | Self::Incomplete(ending, _, _) => ending,
        }
    }
}

/// Something that can be backed up.
#[async_trait]
pub trait Source: Send + Sync {
    /// Starts reading. `run` names the attempt to the target (`UBO_RUN`, markers). After `cancel` the channel closes soon
    /// and the completion is an error. A failure here has left nothing behind.
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure>;
}
