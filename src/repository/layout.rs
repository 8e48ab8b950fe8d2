//! **P** Keys: where each object of a backup lies.

use crate::api::names::{ObjectKey, RunName, Uid};
use crate::error::Failure;
use crate::run::AttemptId;
use crate::source::Content;
use chrono::{DateTime, NaiveDateTime, Utc};

/// Whose folder it is.
pub const OWNER: &str = "owner.json";
/// Who is writing, since when.
pub const STARTED: &str = "started.json";
/// What is put behind the name of what is encrypted.
const ENCRYPTED: &str = ".age";
/// What the command said, where it is not encrypted.
const LOG: &str = "log.txt";
/// What makes it a backup.
pub const MANIFEST: &str = "manifest.json";

/// Name of the first data object. Later ones are continued in `.0001`, `.0002`, …
pub const fn data_name(content: Content) -> &'static str {
    match content {
        Content::Tar => "archive.tar.zst",
        Content::Raw => "dump.zst",
    }
}

/// Name of the `index`-th data object (from 0), so that `cat archive.tar.zst*` is in order.
pub fn segment_name(content: Content, encrypted: bool, index: usize) -> String {
    let name = data_name(content);
    let age = if encrypted { ENCRYPTED } else { "" };
    match index {
        0 => format!("{name}{age}"),
        _ => format!("{name}{age}.{index:04}"),
    }
}

/// Name of what the command said.
pub fn log_name(encrypted: bool) -> String {
    format!("{LOG}{}", if encrypted { ENCRYPTED } else { "" })
}

/// Name of an attempt's folder: `<run>-<8 hex of the run's UID>-<attempt>`.
pub fn folder_name(run: &RunName, run_uid: &Uid, attempt: u32) -> String {
    let hex: String = run_uid.as_str().chars().filter(char::is_ascii_hexdigit).take(8).collect();
    format!("{run}-{}-{attempt}", hex.to_ascii_lowercase())
}

/// The BackupJob and the time in the name of an attempt's folder, where its run is named by them: `<job>-<YYYYMMDD-HHMM>`, on
/// the command line with seconds.
pub fn named_by(folder: &str) -> Option<(&str, DateTime<Utc>)> {
    let mut steps = folder.rsplitn(5, '-').skip(2);
    let (clock, day, job) = (steps.next()?, steps.next()?, steps.next()?);
    let format = match (day.len(), clock.len()) {
        (8, 4) => "%Y%m%d%H%M",
        (8, 6) => "%Y%m%d%H%M%S",
        _ => return None,
    };
    NaiveDateTime::parse_from_str(&format!("{day}{clock}"), format).ok().map(|time| (job, time.and_utc()))
}

/// The attempt's folder, relative to the uri.
pub fn folder(id: &AttemptId) -> Result<ObjectKey, Failure> {
    id.archive.join(&folder_name(&id.run, &id.run_uid, id.attempt))
}

/// Name of an object below the attempt's folder: in the folder of its pod, where each pod has its own.
pub fn object_name(pod: Option<&str>, name: &str) -> String {
    pod.map_or_else(|| name.to_owned(), |pod| format!("{pod}/{name}"))
}

/// A key below a destination, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The archive's folder; empty where the uri is that folder itself.
    pub archive: &'a str,
    /// The attempt's folder.
    pub folder: &'a str,
    /// The object in it.
    pub name: &'a str,
}

/// The last three steps of a key: `archive/folder/name`; `None` if there is no folder.
pub fn place(key: &ObjectKey) -> Option<Place<'_>> {
    let (path, name) = key.as_str().rsplit_once('/')?;
    let (archive, folder) = path.rsplit_once('/').unwrap_or(("", path));
    Some(Place { archive, folder, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_by_run_uid_and_attempt() {
        let run = RunName::new("pg-20260102-0304").unwrap();
        let uid = Uid::new("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9").unwrap();
        assert_eq!(folder_name(&run, &uid, 2), "pg-20260102-0304-0a1b2c3d-2");
        assert_eq!(folder_name(&run, &Uid::new("0A-1b-2C-3d-4e").unwrap(), 1), "pg-20260102-0304-0a1b2c3d-1");
    }

    #[test]
    fn a_folder_tells_its_job_and_time_where_its_run_does() {
        let told = |folder| named_by(folder).map(|(job, time)| format!("{job} {}", time.format("%FT%T")));
        assert_eq!(told("my-pg-20260102-0304-0a1b2c3d-12").as_deref(), Some("my-pg 2026-01-02T03:04:00"));
        assert_eq!(told("data-20261124-122733-0a1b2c3d-1").as_deref(), Some("data 2026-11-24T12:27:33"));
        for none in [
            "pg-mx7k2q-0a1b2c3d-1",
            "pg-20261324-0304-0a1b2c3d-1",
            "pg-2026012-0304-0a1b2c3d-1",
            "20260102-0304-0a1b2c3d-1",
            "a-1",
            "",
        ] {
            assert_eq!(told(none), None, "{none}");
        }
    }

    #[test]
    fn data_is_in_order_for_cat() {
        for (encrypted, first) in [
            (false, ["archive.tar.zst", "archive.tar.zst.0001", "archive.tar.zst.0002"]),
            (true, ["archive.tar.zst.age", "archive.tar.zst.age.0001", "archive.tar.zst.age.0002"]),
        ] {
            let mut names: Vec<_> = (0..12).map(|n| segment_name(Content::Tar, encrypted, n)).collect();
            assert_eq!(names[..3], first);
            let written = names.clone();
            names.sort();
            assert_eq!(names, written);
        }
        assert_eq!(object_name(Some("web-0"), "dump.zst"), "web-0/dump.zst");
        assert_eq!(object_name(None, "dump.zst"), "dump.zst");
        assert_eq!(segment_name(Content::Raw, true, 1), "dump.zst.age.0001");
        assert_eq!((log_name(false), log_name(true)), ("log.txt".into(), "log.txt.age".into()));
    }

    #[test]
    fn keys_are_taken_apart() {
        let key = |text: &str| ObjectKey::new(text).unwrap();
        let whole = key("default/pg/run-1/manifest.json");
        assert_eq!(place(&whole), Some(Place { archive: "default/pg", folder: "run-1", name: "manifest.json" }));
        assert_eq!(place(&key("run-1/x")), Some(Place { archive: "", folder: "run-1", name: "x" }));
        assert_eq!(place(&key("x")), None);
    }
}
