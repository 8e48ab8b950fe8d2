//! **A** How late a thousand jobs are that are due in one minute, and what ten thousand cost in memory.
//!
//! BackupJobs and CronJobs are made in namespaces of their own, and each is due in a minute of its own, so that neither
//! waits for the other. When an object was made is the moment in which a watch of it, begun before, shows it: creation
//! times in the API have whole seconds only. CronJobs make suspended Jobs, so that no pod is started for them; runs of
//! BackupJobs do start, at a pod that is not there.

use super::Table;
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use rig::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Due in one minute.
const DUE: usize = 1000;
/// In the schedule, due at some other time.
const QUIET: usize = 9000;
/// Objects per kubectl, and kubectls at once.
const BATCH: usize = 500;
const KUBECTLS: usize = 4;
/// How long all of them may take to appear after their minute: CronJobs needed two minutes on this cluster.
const PATIENCE: Duration = Duration::from_mins(5);
const NAMESPACE: &str = "bench-schedule";
const DEPLOYMENT: &str = "deployment/operator";

#[expect(clippy::disallowed_methods, reason = "lateness against the operator's clock: one machine")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

pub(super) fn measure(cluster: &Cluster, report: &Report) -> Result<Vec<Table>> {
    let bench = Bench { cluster };
    bench.clear()?;
    bench.kubectl(&["create", "namespace", NAMESPACE], "")?;
    let opt_in = cluster.checkout.join("manifests/namespace.yaml").display().to_string();
    bench.kubectl(&["apply", "-n", NAMESPACE, "-f", &opt_in], "")?;
    let idle = bench.memory()?;

    let quiet: Vec<_> = (0..QUIET).map(|number| job(&format!("quiet-{number}"), "0 0 29 2 *")).collect();
    report.step(&format!("{QUIET} BackupJobs that are not due"), || bench.create(&quiet))?;
    let ours = bench
        .lateness(report, "BackupJobs", "backupruns", |number, schedule| job(&format!("due-{number}"), schedule))?;
    report.step("every BackupJob was looked at", || bench.looked_at(QUIET + DUE))?;
    let (resident, peak) = bench.memory()?;
    // CronJobs have the API server for themselves.
    let replicas = bench.kubectl(&["get", DEPLOYMENT, "-n", "backup-system", "-o", "jsonpath={.spec.replicas}"], "")?;
    bench.kubectl(&["scale", DEPLOYMENT, "-n", "backup-system", "--replicas=0"], "")?;
    let theirs = bench.lateness(report, "CronJobs", "jobs.batch", cron_job);
    bench.kubectl(&["scale", DEPLOYMENT, "-n", "backup-system", &format!("--replicas={replicas}")], "")?;
    let theirs = theirs?;
    report.step("everything of it is removed", || bench.clear())?;

    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    Ok(vec![
        Table {
            title: format!(
                "from the tick to the created object, {DUE} due in one minute, {QUIET} more in the schedule"
            ),
            columns: vec!["who", "created", "p50", "p99", "max"],
            rows: vec![row("BackupRuns of BackupJobs", &ours), row("Jobs of CronJobs (suspended)", &theirs)],
        },
        Table {
            title: "resident memory of the operator".into(),
            columns: vec!["when", "now", "peak"],
            rows: vec![
                vec!["no BackupJob".into(), mib(idle.0), mib(idle.1)],
                vec![format!("{} BackupJobs, {DUE} BackupRuns", QUIET + DUE), mib(resident), mib(peak)],
            ],
        },
    ])
}

/// A BackupJob whose target is not there.
fn job(name: &str, schedule: &str) -> Value {
    json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "metadata": {"name": name},
        "spec": {
            "target": {"kind": "StatefulSet", "name": "postgres", "path": "/var/lib/postgresql/data"},
            "destination": {"type": "s3", "uri": "s3://my-bucket/bench", "options": {"endpoint": "http://192.0.2.1"}},
            "strategy": {"type": "dump", "command": "pg_dumpall > /backup/dump.sql"},
            "schedule": schedule,
        },
    })
}

fn cron_job(number: usize, schedule: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": format!("due-{number}")},
        "spec": {"schedule": schedule, "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"suspend": true, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "localhost/busybox:1", "command": ["true"]}],
        }}}}},
    })
}

fn row(who: &str, late: &[TimeDelta]) -> Vec<String> {
    let at = |share: usize| {
        let index = (late.len() * share).div_ceil(100).max(1) - 1;
        late.get(index).map_or_else(String::new, |late| {
            format!("{}.{:02} s", late.num_milliseconds() / 1000, late.num_milliseconds() % 1000 / 10)
        })
    };
    vec![who.to_owned(), late.len().to_string(), at(50), at(99), at(100)]
}

struct Bench<'a> {
    cluster: &'a Cluster,
}

impl Bench<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.cluster.kubectl);
        command.env("KUBECONFIG", &self.cluster.kubeconfig);
        command
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let input = input.to_owned();
        let feed = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        feed.join().map_err(|_| anyhow::anyhow!("the writer of kubectl's input ended in a fault"))??;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes the objects, several kubectls at a time: one alone is held to 50 requests a second by its own client.
    fn create(&self, objects: &[Value]) -> Result<()> {
        let batches: Vec<_> = objects.chunks(BATCH).collect();
        for group in batches.chunks(KUBECTLS) {
            thread::scope(|scope| {
                let made: Vec<_> = group
                    .iter()
                    .map(|batch| {
                        let list = json!({"apiVersion": "v1", "kind": "List", "items": batch}).to_string();
                        scope.spawn(move || self.kubectl(&["create", "-n", NAMESPACE, "-f", "-"], &list))
                    })
                    .collect();
                made.into_iter().try_for_each(|one| {
                    one.join().map_err(|_| anyhow::anyhow!("a kubectl ended in a fault"))?.map(drop)
                })
            })?;
        }
        Ok(())
    }

    /// How late each of [`DUE`] objects of `what` was, sorted.
    fn lateness(
        &self,
        report: &Report,
        who: &str,
        what: &str,
        make: impl Fn(usize, &str) -> Value,
    ) -> Result<Vec<TimeDelta>> {
        let tick = (now() + TimeDelta::minutes(3)).with_second(0).and_then(|tick| tick.with_nanosecond(0));
        let tick = tick.context("a whole minute")?;
        let schedule = format!("{} {} * * *", tick.minute(), tick.hour());
        let all: Vec<_> = (0..DUE).map(|number| make(number, &schedule)).collect();
        report.step(&format!("{DUE} {who} that are due at {}", tick.format("%H:%M")), || self.create(&all))?;
        ensure!(
            now() + TimeDelta::seconds(5) < tick,
            "the machine is too slow: {who} were not there before their minute"
        );
        let mut watch = Watch::begin(self.command(), what)?;
        let wait = (tick - now()).to_std().unwrap_or_default();
        report.countdown(&format!("{DUE} {what}"), wait, || watch.until(tick, DUE, wait + PATIENCE))
    }

    /// Waits until the operator has written a status for so many BackupJobs.
    fn looked_at(&self, count: usize) -> Result<()> {
        let begun = now();
        loop {
            let path = "jsonpath={range .items[*]}{.status.observedGeneration}{\"\\n\"}{end}";
            let seen = self.kubectl(&["get", "backupjobs", "-n", NAMESPACE, "-o", path], "")?;
            let seen = seen.lines().filter(|line| !line.is_empty()).count();
            if seen >= count {
                return Ok(());
            }
            ensure!(now() - begun < TimeDelta::minutes(10), "{seen} of {count} only");
            thread::sleep(Duration::from_secs(2));
        }
    }

    /// Resident bytes of the operator, and their peak.
    fn memory(&self) -> Result<(u64, u64)> {
        let path = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
        let pods = ["get", "pods", "-n", "backup-system", "-l", "app.kubernetes.io/name=ubo", "-o", path];
        let ids = self.kubectl(&pods, "")?;
        let ids: Vec<_> = ids.split_whitespace().filter_map(|id| id.split("://").nth(1)).collect();
        let mut most = None;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if !ids.iter().any(|id| groups.contains(id)) {
                continue;
            }
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let bytes = |field: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(field))?;
                Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
            };
            most = most.max(bytes("VmRSS:").zip(bytes("VmHWM:"))); // of several replicas the one that has most
        }
        most.context("no process of the operator")
    }

    fn clear(&self) -> Result<()> {
        self.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=900s"], "").map(drop)
    }
}

/// A watch of one kind of object: its names, as they appear.
struct Watch {
    kubectl: Child,
    names: mpsc::Receiver<(String, DateTime<Utc>)>,
}

impl Watch {
    fn begin(mut command: Command, what: &str) -> Result<Self> {
        let path = "jsonpath={.metadata.name}{\"\\n\"}";
        command.args(["get", what, "-n", NAMESPACE, "--watch-only", "-o", path]);
        let mut kubectl = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(kubectl.stdout.take().context("no standard output")?).lines();
        let (sender, names) = mpsc::channel();
        thread::spawn(move || {
            for name in lines.map_while(Result::ok) {
                if sender.send((name, now())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { kubectl, names })
    }

    /// Waits until `count` objects have appeared, and gives how late each first did, sorted.
    fn until(&mut self, tick: DateTime<Utc>, count: usize, patience: Duration) -> Result<Vec<TimeDelta>> {
        let end = now() + TimeDelta::from_std(patience)?;
        let mut seen = BTreeSet::new();
        let mut late = Vec::with_capacity(count);
        while seen.len() < count {
            let left = (end - now()).to_std().unwrap_or_default();
            let (name, at) =
                self.names.recv_timeout(left).with_context(|| format!("{} of {count} only", seen.len()))?;
            if seen.insert(name) {
                late.push(at - tick);
            }
        }
        late.sort_unstable();
        Ok(late)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill(); // it may have ended by itself
        let _ = self.kubectl.wait();
    }
}
