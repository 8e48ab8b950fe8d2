//! **A** The parts as processes: started, recorded, found again, ended.
//!
//! A pid alone may belong to somebody else by tomorrow. So the record has the time at which the process started too
//! (clock ticks since boot, the 22nd field of `/proc/PID/stat`): only a process with both is ours.

use crate::place::Place;
use crate::{cgroup, netns, wait};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// So long a part may take to end in good order before it is killed.
const GRACE: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_millis(50);

/// How a part is started.
pub struct Start<'a> {
    /// Its name, also of its log.
    pub name: &'a str,
    /// The program and its arguments.
    pub line: Vec<String>,
    /// Its environment beside the rig's own: here a secret may stand, on the command line never.
    pub variables: Vec<(&'a str, String)>,
}

/// Which process a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Record {
    /// The record of a part, if it was ever started.
    pub fn read(place: &Place, name: &str) -> Option<Record> {
        let text = fs::read(path(place, name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether that very process still runs.
    pub fn lives(self) -> bool {
        look(self.pid).is_some_and(|(runs, started)| runs && started == self.started)
    }

    fn signal(self, signal: Signal) {
        if self.lives()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Starts a part inside the network namespace and the cgroup root, apart from this terminal, and records it.
pub fn start(place: &Place, start: &Start<'_>) -> Result<Record> {
    let log = File::options().create(true).append(true).open(place.log(start.name)?)?;
    // Neither nsenter nor setsid forks here, so that the pid is the program's own.
    let child = netns::command(place, "setsid")
        .args(&start.line)
        .envs(start.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", start.name))?;
    let pid = i32::try_from(child.id())?;
    let (_, started) = look(pid).with_context(|| format!("{} ended at once", start.name))?;
    let record = Record { pid, started };
    place.folder("parts")?;
    fs::write(path(place, start.name), serde_json::to_vec(&record)?)?;
    cgroup::join(&place.name, pid)?;
    Ok(record)
}

/// Ends a part in good order and waits for it; after a while it is killed.
pub fn end(place: &Place, name: &str) -> Result<()> {
    let Some(record) = Record::read(place, name) else { return Ok(()) };
    if record.lives() {
        cgroup::leave(&place.name, record.pid);
    }
    record.signal(Signal::TERM);
    if wait::until(name, GRACE, GLANCE, || Ok(!record.lives())).is_err() {
        record.signal(Signal::KILL);
        wait::until(&format!("the end of {name}"), GRACE, GLANCE, || Ok(!record.lives()))?;
    }
    fs::remove_file(path(place, name)).with_context(|| format!("cannot remove the record of {name}"))
}

/// Kills a part, as a crash would, and waits until it is gone. Its record goes, too.
pub fn kill(place: &Place, name: &str) -> Result<()> {
    let Some(record) = Record::read(place, name) else { return Ok(()) };
    if record.lives() {
        cgroup::leave(&place.name, record.pid);
    }
    record.signal(Signal::KILL);
    wait::until(&format!("the end of {name}"), GRACE, GLANCE, || Ok(!record.lives()))?;
    fs::remove_file(path(place, name)).with_context(|| format!("cannot remove the record of {name}"))
}

/// Kills every process of the cgroup root (or of its containers only) and waits until none is left.
pub fn kill_members(place: &Place, containers_only: bool) -> Result<()> {
    wait::until("the end of what runs in the cluster's control group", GRACE, GLANCE, || {
        let mut left = false;
        for pid in cgroup::members(&place.name, containers_only)? {
            if look(pid).is_none_or(|(runs, _)| !runs) {
                continue;
            }
            left = true;
            if !containers_only {
                cgroup::leave(&place.name, pid);
            }
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Ok(!left)
    })
}

fn path(place: &Place, name: &str) -> PathBuf {
    place.state.join("parts").join(format!("{name}.json"))
}

/// Whether a process runs, and its start time.
fn look(pid: i32) -> Option<(bool, u64)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of `/proc/PID/stat`. The second field is the program's name in parentheses, which may hold anything. One that
/// was killed is a zombie as soon as its first thread has gone: until the last one has, its ports are taken.
fn parse(stat: &str) -> Option<(bool, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    // The state is the third field, the number of threads the 20th, the start time the 22nd.
    let threads: u64 = fields.nth(16)?.parse().ok()?;
    Some((state != "Z" || threads > 1, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Record, look, parse};

    #[test]
    fn a_program_named_to_mislead_is_read_right() {
        let line = "77 (a) Z 1 (b) S 1 77 77 0 -1 4194560 2 0 0 0 0 0 0 0 20 0 1 0 98765 1000 10 18446744073709551615";
        assert_eq!(parse(line), Some((true, 98765)));
        assert_eq!(parse("77 (cut"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn who_was_killed_runs_until_his_last_thread_has_gone() {
        for (state, threads, runs) in [("Z", 1, false), ("Z", 0, false), ("Z", 2, true), ("S", 1, true), ("D", 9, true)]
        {
            let line = format!("77 (a) {state} 1 77 77 0 -1 4194560 2 0 0 0 0 0 0 0 20 0 {threads} 0 98765 1000 10");
            assert_eq!(parse(&line), Some((runs, 98765)), "{line}");
        }
    }

    #[test]
    fn a_pid_that_somebody_else_has_now_is_not_ours() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let (_, started) = look(pid).expect("this process");
        assert!(Record { pid, started }.lives());
        assert!(!Record { pid, started: started + 1 }.lives());
    }
}
