//! **O** The cluster tests, file by file, on several clusters at once.
//!
//! The operator of a cluster is one, and so are its API server, its node and its S3 server: a file that kills or cuts off
//! any of them must have the cluster for itself, and a fifth backup waits until one of four is over. So files never share
//! a cluster. What most of them wait for is time (Leases that expire, minutes that begin, Deployments that roll over),
//! and each cluster has its own.
//!
//! ```text
//!             those that wait, the longest first         those that work
//! files:      disruption  schedule  kills  …        …  target  dump  exec
//!             ▲ the others take from here       the second cluster from here ▲
//! ```
//!
//! One works while the others wait, as long as there is something of both, and none is idle before the last file.

use crate::place::Place;
use crate::process::Record;
use crate::report::{Report, Stopwatch};
use crate::tally::{Tally, TestResult, libtest};
use crate::test::Binary;
use crate::{command, down, netns, parts, status, up};
use anyhow::{Context, Result, anyhow};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Cluster tests mostly wait for the cluster, which has the same two cores.
const THREADS: &str = "--test-threads=2";

/// Files whose tests wait more than they work, the longest first.
const PATIENT: [&str; 12] = [
    "disruption",
    "schedule",
    "failing_server",
    "kills",
    "luck",
    "failing_api",
    "example",
    "life",
    "policies",
    "seen",
    "slow_server",
    "ready",
];

/// A cluster of this run.
pub struct Member {
    place: Place,
    /// Whether it was brought up for this run, and is taken down after it.
    fresh: bool,
}

/// Brings up so many clusters, side by side. If one does not come up, those that did are taken down again.
pub fn bring_up(place: &Place, report: &Report, count: usize) -> Result<Vec<Member>> {
    let places = (1..=u8::try_from(count)?).map(|number| place.numbered(number));
    let members: Vec<(Place, Result<bool>)> = thread::scope(|scope| {
        let begun: Vec<_> = places
            .map(|place| {
                scope.spawn(move || {
                    let fresh = up::up(&place, report, true);
                    (place, fresh)
                })
            })
            .collect();
        begun
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("bringing a cluster up panicked")))
            .collect::<Result<_>>()
    })?;
    let (mut up, mut failed) = (Vec::new(), None);
    for (place, fresh) in members {
        match fresh {
            Ok(fresh) => up.push(Member { place, fresh }),
            Err(error) => failed = Some(error.context(format!("cluster {} does not come up", place.number))),
        }
    }
    match failed {
        None => Ok(up),
        Some(error) => {
            take_down(&up, report)?;
            Err(error)
        }
    }
}

/// Takes down what was brought up for this run.
pub fn take_down(members: &[Member], report: &Report) -> Result<()> {
    members.iter().filter(|member| member.fresh).try_for_each(|member| down::down(&member.place, report))
}

/// Something failed: if a part of a cluster died, that is why.
pub fn explain(members: &[Member]) -> Result<()> {
    for Member { place, .. } in members {
        for part in parts::ALL {
            if Record::read(place, part).is_some_and(|record| !record.lives()) {
                println!("{part} of cluster {} has died meanwhile\n{}", place.number, command::tail(&place.log(part)?));
            }
        }
    }
    Ok(())
}

/// How a file ended.
struct Ended {
    name: String,
    results: Vec<TestResult>,
    status: ExitStatus,
    took: Duration,
}

/// Runs every file once, each on one of the clusters. What a file prints is shown as a whole when it ends.
pub fn run(members: &[Member], files: &[Binary], tally: &mut Tally) -> Result<()> {
    let files = Mutex::new(in_order(files.iter().collect()));
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for member in members {
            let (files, ended) = (&files, &ended);
            scope.spawn(move || {
                while let Some(file) = next(files, member.place.number) {
                    let outcome = one(&member.place, file).with_context(|| file.name.clone());
                    ended.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut ended =
        ended.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect::<Result<Vec<_>>>()?;
    ended.sort_by(|one, other| one.name.cmp(&other.name));
    for Ended { name, results, status, took } in ended {
        tally.suite(&name, &results, status, took);
    }
    Ok(())
}

/// Those that wait, then those that work.
fn in_order(mut files: Vec<&Binary>) -> VecDeque<&Binary> {
    let rank = |file: &Binary| PATIENT.iter().position(|name| file.target == *name).unwrap_or(PATIENT.len());
    files.sort_by_key(|file| (rank(file), &file.name));
    files.into()
}

fn next<'a>(files: &Mutex<VecDeque<&'a Binary>>, cluster: u8) -> Option<&'a Binary> {
    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
    if cluster == 2 { files.pop_back() } else { files.pop_front() }
}

/// One file. Both of its outputs go to one place, so that they stay in their order.
fn one(place: &Place, file: &Binary) -> Result<Ended> {
    let number = place.number;
    eprintln!("  … {} on cluster {number}", file.name);
    let watch = Stopwatch::start();
    let mut said = tempfile::tempfile().context("cannot make a file for its output")?;
    let status = command(place, file)?.stdout(said.try_clone()?).stderr(said.try_clone()?).status()?;
    let took = watch.elapsed();
    let text = read_all(&mut said)?;
    println!("\n--- {} (cluster {number}, {})\n{text}", file.name, watch.text());
    Ok(Ended { name: file.name.clone(), results: text.lines().filter_map(libtest).collect(), status, took })
}

/// The command that runs a file's tests inside a cluster's network.
pub fn command(place: &Place, file: &Binary) -> Result<Command> {
    let mut command = netns::command(place, &file.path.display().to_string());
    command.envs(status::variables(place)?);
    command.current_dir(place.checkout.join("tests/cluster")).arg(THREADS);
    command.args(file.filter.as_deref());
    Ok(command)
}

/// Not as text from the start: a test may print any bytes.
fn read_all(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{PATIENT, in_order, next};
    use crate::test::Binary;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    fn file(target: &str) -> Binary {
        Binary {
            name: format!("rig {target} (test)"),
            target: target.to_owned(),
            path: PathBuf::new(),
            cluster: true,
            filter: None,
        }
    }

    #[test]
    fn each_file_runs_once_and_one_cluster_works_while_the_others_wait() {
        let all: Vec<_> = ["copy", "kills", "zebra", "disruption", "schedule"].map(file).into();
        let files = Mutex::new(in_order(all.iter().collect()));
        let order: Vec<_> = [1, 2, 3, 2, 1].map(|cluster| next(&files, cluster).map(|file| &*file.target)).into();
        assert_eq!(order, [Some("disruption"), Some("zebra"), Some("schedule"), Some("copy"), Some("kills")]);
        assert!(next(&files, 1).is_none() && next(&files, 2).is_none());
    }

    #[test]
    fn what_is_said_to_wait_is_there() {
        for name in PATIENT {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{name}.rs"));
            assert!(file.is_file(), "{} is not there", file.display());
        }
    }
}
