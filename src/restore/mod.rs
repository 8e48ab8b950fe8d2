//! **T** A backup back to where it can be used.
//!
//! A restore reads what the manifest names, in order, compares every stored object and the raw bytes with the manifest's
//! digests, and hands the raw bytes to a [`RestoreTarget`] as they come. It has succeeded when all of that agrees *and* the
//! target says that everything was written. What was written before a digest turned out wrong stays where it is (half of a
//! database may be better than none) and is called what it is.

use crate::error::{Failure, Reason};
use crate::source::Content;
use std::io::{self, Read};

pub mod execute;
pub mod local_target;

/// What a target has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What could not be written or set, for a person; the restore is incomplete then. At most [`PROBLEM_LIMIT`].
    pub problems: Vec<String>,
    /// How many problems there were.
    pub problem_count: u64,
}

/// Problems that are spelled out.
pub const PROBLEM_LIMIT: usize = 100;

impl Written {
    /// Notes something that could not be done.
    pub fn problem(&mut self, what: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEM_LIMIT {
            self.problems.push(what);
        }
    }
}

/// Where a backup goes. It works on a thread that may block.
pub trait RestoreTarget: Send {
    /// Takes all raw bytes. An error of `raw` that holds a [`Failure`] is given back as that failure. It need not read to
    /// the end.
    fn write(&mut self, content: Content, raw: &mut dyn Read) -> Result<Written, Failure>;

    /// Everything agreed with the manifest: what was written may be called what it is.
    fn confirm(&mut self) -> Result<(), Failure>;
}

/// The failure inside an error of a reader, or one that says what was being done.
pub fn failure_of(error: io::Error, doing: &str) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::new(Reason::BackupDamaged, format!("{doing} the backup: {error}")),
    }
}
