//! **T** What Leases need of the outside world.

use super::Record;
use crate::error::Failure;
use async_trait::async_trait;
use std::time::Duration;

/// What a Lease is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the Lease.
    pub name: String,
    /// Who holds it; `None` gives it up.
    pub holder: Option<String>,
    /// How long the holder wants to be believed.
    pub lasts: Duration,
    /// Whether the holder changes with this write: it is counted and dated.
    pub taken: bool,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored(Record),
    /// Somebody was quicker: the Lease is not (or no longer) what it was taken for.
    Refused,
}

/// The Leases in the operator's namespace.
#[async_trait]
pub trait Leases: Send + Sync {
    /// The Lease as it is now; `None` if there is none.
    async fn get(&self, name: &str) -> Result<Option<Record>, Failure>;
    /// Makes a Lease.
    async fn create(&self, entry: &Entry) -> Result<Put, Failure>;
    /// Replaces the record that was seen.
    async fn replace(&self, entry: &Entry, seen: &Record) -> Result<Put, Failure>;
    /// Every Lease whose name begins so.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>, Failure>;
    /// Removes a Lease if it is still the record that was seen; one that is not there is fine.
    async fn delete(&self, name: &str, seen: &Record) -> Result<(), Failure>;
}
