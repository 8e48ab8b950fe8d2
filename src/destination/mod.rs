//! **T** Where backups are kept: a place that stores objects.
//!
//! Keys are relative to the destination's `uri`. An object is visible only after [`Staged::commit`], which takes a
//! [`Completion`] and so cannot be called by somebody who has not seen the source's end.

use crate::api::names::ObjectKey;
use crate::error::Failure;
use crate::source::Completion;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use std::ops::Range;

pub mod address;
pub mod build;
pub mod egress;
pub mod faulty;
pub mod object_store;
mod resolver;
pub mod throttle;
mod transport;
mod uploads;
pub mod volume;

/// Size of a part of an upload in bytes, where a destination takes parts.
pub const PART_SIZE: usize = 8 * 1024 * 1024;

/// What a commit leaves that could neither be completed nor thrown away.
const UNFINISHED: &str = "An unfinished upload of it may stay";

/// What a destination can do, declared; the conformance suite checks each declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// `put` with [`Put::IfAbsent`] is atomic: of two writers one is told.
    pub put_if_absent: bool,
    /// What `commit` calls stored has been compared (a checksum that the server confirmed, or reading back), so that sizes
    /// are enough afterwards.
    pub checks_integrity: bool,
    /// Nothing of a staged object is visible, or paid for, after an abort.
    pub abort_leaves_nothing: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, where the destination says so.
    pub modified: Option<DateTime<Utc>>,
}

/// When a small document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Whatever is there is replaced.
    Always,
    /// Only if nothing is there.
    IfAbsent,
}

/// What became of a `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was written.
    Written,
    /// With [`Put::IfAbsent`]: something was there, and stays.
    AlreadyThere,
}

/// A place that stores objects. Every error is a [`Failure`] with a `Destination…` reason.
#[async_trait]
pub trait Destination: Send + Sync {
    /// What it can do.
    fn capability(&self) -> Capability;
    /// Begins an object of unknown length.
    async fn stage(&self, key: &ObjectKey) -> Result<Box<dyn Staged>, Failure>;
    /// Writes a small document (a manifest) in one request.
    async fn put(&self, key: &ObjectKey, content: Bytes, when: Put) -> Result<Stored, Failure>;
    /// Size of an object; `None` if there is none.
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Failure>;
    /// Reads an object, or a range of its bytes, in order. A missing object is [`crate::error::Reason::BackupNotFound`].
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure>;
    /// Every object whose key begins with `prefix` (which ends in `/`, or is empty), in any order.
    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo, Failure>>, Failure>;
    /// Removes an object; one that is not there is fine.
    async fn delete(&self, key: &ObjectKey) -> Result<(), Failure>;
    /// Throws away what a process that died has staged under keys that begin with `prefix` (which ends in `/`) and that no
    /// list shows. Says how much there was. A destination that hides nothing has nothing to do.
    async fn abort_uploads(&self, _prefix: &str) -> Result<usize, Failure> {
        Ok(0)
    }
}

/// An object that is being written. It ends in `commit` or `abort`; drop is neither (the operator's log says so).
#[async_trait]
pub trait Staged: Send {
    /// Appends; returns when there is room again.
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure>;
    /// Makes the object visible and gives its size as the destination reports it. The completion is the proof that the
    /// source's end was seen. A commit that fails has thrown everything away, as far as the destination lets it: an upload
    /// that may be there all the same stands in the failure's `left`.
    async fn commit(self: Box<Self>, proof: &Completion) -> Result<u64, Failure>;
    /// Throws everything away that was written.
    async fn abort(self: Box<Self>) -> Result<(), Failure>;
}
