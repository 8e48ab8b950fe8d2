//! **A** How fast a copy by exec is beside `kubectl exec … tar c`, and what memory long streams take.
//!
//! Both read the same tree in the same container, in turns, so that what else the machine does meets both. The operator's
//! time is taken by a watch: from the moment before `kubectl create` of the BackupRun, and from the opening of its
//! attempt, which comes before its first byte, to Succeeded. All of it (the API server, the S3 server, the operator)
//! shares one machine.

use super::kubectl::{Kubectl, Watch, now};
use super::operator::{Operator, Process};
use super::scene::{job, list, pod, secret};
use super::{Cell, Goal, Measured, Table};
use crate::report::{Report, Stopwatch};
use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use rig::{Cluster, remove_folder};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const NAMESPACE: &str = "bench-copy";
/// The one with GNU tar, openssl, and something to copy.
const IMAGE: &str = "localhost/postgres:15";
/// Rounds that count; one before them fills the page cache.
const ROUNDS: usize = 5;
/// Longest time for one run.
const PATIENCE: Duration = Duration::from_mins(10);
/// `/data/block` is read so often by the one stream, and by each of four: 5 GiB, and 1.25 GiB.
const BLOCKS: [usize; 2] = [80, 20];
/// Of `/data/block`, in MiB.
const BLOCK: usize = 64;
/// Streams at once; the operator's own limit is the same.
const STREAMS: usize = 4;
/// Free bytes that are needed: the S3 server stores about two thirds of 5 GiB, and twice while it joins the parts.
const DISK: u64 = 12 << 30;

/// Time of the copy against `kubectl exec` (`product.md` section 8).
const RATIO: f64 = 1.0;
/// Memory above rest, in MiB: of one stream, and of four.
const MEMORY: [f64; 2] = [64.0, 200.0];

pub(super) fn measure(cluster: &Cluster, report: &Report) -> Result<Measured> {
    let state = rustix::fs::statvfs(&cluster.state)?;
    let free = state.f_bavail.saturating_mul(state.f_frsize);
    ensure!(free >= DISK, "{} GiB are free, and the benchmark needs {} for a while", free >> 30, DISK >> 30);
    let kubectl = Kubectl { cluster, namespace: NAMESPACE };
    let bench = Bench { kubectl, data: cluster.state.join("volumes").join(NAMESPACE) };
    bench.clear()?;
    let measured = bench.measure(report);
    let cleared = report.step("everything of it is removed", || bench.clear());
    let measured = measured?;
    cleared.map(|()| measured)
}

struct Bench<'a> {
    kubectl: Kubectl<'a>,
    /// The pod's `/data`.
    data: PathBuf,
}

/// How long one run took, in seconds.
struct Took {
    /// From before `kubectl create`.
    created: f64,
    /// From the opening of the attempt.
    attempt: f64,
    read: u64,
    stored: u64,
}

impl Bench<'_> {
    fn measure(&self, report: &Report) -> Result<Measured> {
        let tree = report.step("a pod, and a tree to copy", || self.scene())?;
        let (files, bytes) = tree.trim().split_once(' ').context("the script did not say what it made")?;
        let bytes: u64 = bytes.parse()?;
        let mut runs = Runs {
            bench: self,
            watch: self.kubectl.watch("backupruns", "{.metadata.name} {.status.phase}")?,
            count: 0,
        };
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let what =
                if round == 0 { "a round that does not count".into() } else { format!("round {round} of {ROUNDS}") };
            // What one of them has written, and was removed, must not be written out at the cost of the next.
            let took = report.step(&what, || {
                let host = self.on_the_host()?;
                rustix::fs::sync();
                let kubectl = self.by_kubectl()?;
                let ours = runs.run(&["tree"])?;
                rustix::fs::sync();
                Ok((kubectl, host, ours))
            })?;
            rounds.extend((round > 0).then_some(took));
        }
        let ours =
            |of: fn(&Took) -> f64| rounds.iter().flat_map(|(_, _, took)| took.iter().map(of)).collect::<Vec<_>>();
        let (kubectl, limit): (Vec<_>, Vec<_>) = rounds.iter().map(|(kubectl, limit, _)| (*kubectl, *limit)).unzip();
        let (attempt, created) = (ours(|took| took.attempt), ours(|took| took.created));
        let stored = rounds.iter().flat_map(|(_, _, took)| took).map(|took| took.stored).max().unwrap_or(0);
        let ratio = |times: &[f64]| median(times) / median(&kubectl);
        let row = |who: &str, times: &[f64]| {
            let ends = (times.iter().copied().fold(f64::INFINITY, f64::min), times.iter().copied().fold(0.0, f64::max));
            vec![
                who.into(),
                Cell::seconds(median(times)),
                Cell::seconds(ends.0),
                Cell::seconds(ends.1),
                Cell::Amount { value: super::in_mib(bytes) / median(times), digits: 0, unit: "MiB/s" },
                Cell::Amount { value: ratio(times), digits: 2, unit: "" },
            ]
        };
        let speed = Table {
            title: format!(
                "a tree of {files} files, {}, by GNU tar; {ROUNDS} rounds in turns; {} stored",
                Cell::mib(bytes),
                Cell::mib(stored)
            ),
            columns: vec!["who", "median", "least", "most", "rate", "to kubectl"],
            rows: vec![
                row("kubectl exec POD -- tar c DIR > /dev/null", &kubectl),
                row("BackupRun, from the opening of its attempt to Succeeded", &attempt),
                row("BackupRun, from before kubectl create to Succeeded", &created),
                row("the limit: tar c | zstd -3 -T0 > file, on the node", &limit),
            ],
        };
        let mut memory = Vec::new();
        let mut goals = vec![
            Goal::new("exec copy against kubectl exec, from the opening of the attempt", ratio(&attempt), RATIO, ""),
            Goal::new("exec copy against kubectl exec, from before its creation", ratio(&created), RATIO, ""),
        ];
        let names: Vec<_> = (0..STREAMS).map(|number| format!("four-{number}")).collect();
        let four: Vec<_> = names.iter().map(String::as_str).collect();
        for (what, jobs, blocks, limit) in
            [("one stream", vec!["one"], BLOCKS[0], MEMORY[0]), ("four streams at once", four, BLOCKS[1], MEMORY[1])]
        {
            let what = format!("{what} of {} MiB", blocks * BLOCK);
            let (row, above) = report.step(&what, || self.memory(&mut runs, &what, &jobs, blocks))?;
            memory.push(row);
            goals.push(Goal::new(&format!("memory above rest, {what}"), super::in_mib(above), limit, "MiB"));
        }
        let memory = Table {
            title: "resident memory of the operator's process, started anew each time; half of each MiB cannot be compressed"
                .into(),
            columns: vec!["when", "at rest", "peak", "above rest", "after it", "took", "stored"],
            rows: memory,
        };
        Ok(Measured { tables: vec![speed, memory], goals })
    }

    /// What the runs of these jobs take above what the process had at rest, and the row that says so.
    fn memory(&self, runs: &mut Runs<'_>, what: &str, jobs: &[&str], blocks: usize) -> Result<(Vec<Cell>, u64)> {
        let processes = Operator::of(self.kubectl.cluster).fresh()?;
        let took = runs.run(jobs)?;
        let mut most: Option<(u64, u64, &Process)> = None;
        for process in &processes {
            let peak = process.peak()?;
            let above = peak.saturating_sub(process.idle);
            if most.as_ref().is_none_or(|(most, ..)| above > *most) {
                most = Some((above, peak, process));
            }
        }
        let (above, peak, process) = most.context("no process of the operator")?;
        let seconds = took.iter().map(|took| took.created).fold(0.0, f64::max);
        let (read, stored) = took.iter().fold((0, 0), |sum, took| (sum.0 + took.read, sum.1 + took.stored));
        let wanted = (jobs.len() * blocks * BLOCK) << 20;
        ensure!(read == wanted as u64, "{read} bytes were read instead of {wanted}");
        let row = vec![
            what.into(),
            Cell::mib(process.idle),
            Cell::mib(peak),
            Cell::mib(above),
            Cell::mib(process.resident()?),
            Cell::Amount { value: seconds, digits: 0, unit: "s" },
            Cell::mib(stored),
        ];
        Ok((row, above))
    }

    /// The namespace with its pod and jobs; what the script says that it made.
    fn scene(&self) -> Result<String> {
        self.kubectl.opted_in()?;
        let folder = json!({"name": "data", "hostPath": {"path": self.data, "type": "DirectoryOrCreate"}});
        let stream = |name: &str, blocks| {
            let command = format!("for n in $(seq {blocks}); do cat /data/block; done");
            self.job(name, &json!({"type": "dump", "command": command}))
        };
        let mut objects = vec![
            secret(&self.kubectl.cluster.s3),
            pod(IMAGE, &[folder]),
            self.job("tree", &json!({"type": "copy"})),
            stream("one", BLOCKS[0]),
        ];
        objects.extend((0..STREAMS).map(|number| stream(&format!("four-{number}"), BLOCKS[1])));
        self.kubectl.run(&["create", "-f", "-"], &list(&objects))?;
        self.kubectl.run(&["wait", "pod/box", "--for=condition=Ready", "--timeout=180s"], "")?;
        self.kubectl.run(&["exec", "--stdin", "box", "--", "sh", "-s"], include_str!("tree.sh"))
    }

    /// A BackupJob that runs when it is asked to.
    fn job(&self, name: &str, strategy: &Value) -> Value {
        job(&self.kubectl.cluster.s3, NAMESPACE, name, Some("/data/tree"), strategy, "0 0 29 2 *")
    }

    /// Seconds of `kubectl exec … tar c`.
    fn by_kubectl(&self) -> Result<f64> {
        let mut command = self.kubectl.command();
        command.args(["exec", "box", "--", "tar", "c", "/data/tree"]);
        seconds(command.stdout(Stdio::null()))
    }

    /// Seconds of the same tree into a file, with nothing between.
    fn on_the_host(&self) -> Result<f64> {
        let file = self.data.join("limit.tar.zst");
        let mut shell = Command::new("bash");
        shell.args(["-c", r#"set -o pipefail; tar c -C "$1" tree | zstd -q -3 -T0"#, "limit"]).arg(&self.data);
        let took = seconds(shell.stdout(File::create(&file)?))?;
        fs::remove_file(&file)?;
        Ok(took)
    }

    fn clear(&self) -> Result<()> {
        self.kubectl.clear()?;
        remove_folder(&self.data)
    }
}

/// BackupRuns, made by hand and watched.
struct Runs<'a> {
    bench: &'a Bench<'a>,
    watch: Watch,
    count: usize,
}

impl Runs<'_> {
    /// Makes a run of each of these jobs, all at once, and waits until they have succeeded.
    fn run(&mut self, jobs: &[&str]) -> Result<Vec<Took>> {
        self.count += 1;
        let name = |job: &str| format!("{job}-m{}", self.count);
        let run = |job: &&str| {
            json!({"apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": {"name": name(job)},
                "spec": {"backupJobName": job}})
        };
        let documents: Vec<_> = jobs.iter().map(run).collect();
        // Its attempt's opening, and its end.
        let mut seen: BTreeMap<String, [Option<DateTime<Utc>>; 2]> =
            jobs.iter().map(|job| (name(job), [None; 2])).collect();
        let begun = now();
        self.bench.kubectl.run(&["create", "-f", "-"], &list(&documents))?;
        let end = begun + TimeDelta::from_std(PATIENCE)?;
        while seen.values().any(|[_, ended]| ended.is_none()) {
            let (line, at) = self.watch.next(end).with_context(|| format!("{seen:?} so far"))?;
            let Some((run, phase)) = line.split_once(' ') else { continue };
            let Some([opened, ended]) = seen.get_mut(run) else { continue };
            match phase {
                "Running" => *opened = opened.or(Some(at)),
                "Succeeded" => *ended = Some(at),
                "Failed" | "Incomplete" | "Cancelled" => bail!("run {run}: {}", self.field(run, "{.status.message}")?),
                _ => {}
            }
        }
        let took = seen.iter().map(|(run, [opened, ended])| {
            let since = |from: &Option<DateTime<Utc>>| {
                let from = from.with_context(|| format!("the beginning of {run} was not seen"))?;
                anyhow::Ok((ended.context("no end")? - from).as_seconds_f64())
            };
            let bytes = self.field(run, "{.status.bytesRead} {.status.bytesStored}")?;
            let (read, stored) = bytes.split_once(' ').context("no sizes")?;
            Ok(Took {
                created: since(&Some(begun))?,
                attempt: since(opened)?,
                read: read.parse()?,
                stored: stored.parse()?,
            })
        });
        let took = took.collect::<Result<Vec<_>>>()?;
        self.bench.kubectl.clear_store()?;
        Ok(took)
    }

    fn field(&self, run: &str, path: &str) -> Result<String> {
        self.bench.kubectl.run(&["get", "backuprun", run, "-o", &format!("jsonpath={path}")], "")
    }
}

fn seconds(command: &mut Command) -> Result<f64> {
    let watch = Stopwatch::start();
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let status = child.wait()?;
    ensure!(status.success(), "{} ended with {status}", command.get_program().display());
    Ok(watch.elapsed().as_secs_f64())
}

/// The one in the middle; of an even number the later of the two.
fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
