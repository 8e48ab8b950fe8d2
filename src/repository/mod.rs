//! **O** The backups of one archive at a destination: write order, read order, crash, leaks.
//!
//! ```text
//! <uri>/<archive>/owner.json                       whose folder this is; made if absent
//! <uri>/<archive>/<run>-<8 hex of the run's UID>-<attempt>/
//!     started.json                                 1  who is writing, since when
//!     archive.tar.zst | dump.zst [.0001, …]        2  staged, visible after its commit
//!     log.txt                                      3  the last of what the command said
//!     manifest.json                                4  a backup exists if and only if this does
//! ```
//! **Writing** goes from 1 to 4. Nothing is listed as a backup before 4, and 4 is written only after the source's end was
//! seen and everything else is there with its size. A folder belongs to one attempt of one run: nobody else writes there,
//! and it is never used again, so that no two writers ever meet, whatever a scheduler does.
//!
//! **Deleting** goes from 4 to 1: a backup disappears from the list before any of its bytes do, and a deletion that breaks
//! off leaves a folder without a manifest, which is no backup.
//!
//! **Reading** begins at the manifest, which names everything else with sizes and digests. Folders without one are attempts:
//! at work, or dead. Only `started.json` tells them apart, by its run.
//!
//! **Crash.** A process that dies leaves at most a folder with `started.json` (and, between 2 and 4, with data) and a
//! multipart upload that nobody sees. Both cost storage and are never listed. Removing them needs to know that their run is
//! over, and is the business of pruning.

pub mod catalog;
pub mod layout;
pub mod manifest;
