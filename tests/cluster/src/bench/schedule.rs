//! **A** How late a thousand jobs are that are due in one minute, and what ten thousand cost in memory.
//!
//! BackupJobs and CronJobs are made in namespaces of their own, and each is due in a minute of its own, so that neither
//! waits for the other. When an object was made is the moment in which a watch of it, begun before, shows it: creation
//! times in the API have whole seconds only. CronJobs make suspended Jobs, so that no pod is started for them; runs of
//! BackupJobs do start, and back up a few bytes each, four at a time, while the others are still being claimed.
//!
//! Beside the operator's memory stands that of kube-controller-manager. It is one process for all of its controllers, so that
//! what CronJobs cost is the difference.

use super::kubectl::{Kubectl, now};
use super::operator::{Operator, Process};
use super::scene::{job, list, pod, secret};
use super::{Cell, Goal, Measured, Table, in_mib};
use crate::place::Place;
use crate::process::Record;
use crate::report::Report;
use anyhow::{Context, Result, anyhow, ensure};
use chrono::{TimeDelta, Timelike};
use rig::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
/// A list of ten thousand objects is work for the machine that is measured.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const READY: &str = ".status.conditions[?(@.type==\"Ready\")].status";
const IMAGE: &str = "localhost/busybox:1";
const NAMESPACE: &str = "bench-schedule";
/// Of the last BackupRun of those that are due together, in milliseconds (`product.md` section 8).
const LATEST: f64 = 5000.0;
/// Resident memory with all of them, in MiB.
const MEMORY: f64 = 150.0;

pub(super) fn measure(place: &Place, cluster: &Cluster, report: &Report) -> Result<Measured> {
    let controllers = Record::read(place, "controllers").filter(|record| record.lives());
    let controllers = Process::of(controllers.context("kube-controller-manager does not run")?.pid);
    let bench = Bench { kubectl: Kubectl { cluster, namespace: NAMESPACE } };
    bench.kubectl.clear()?;
    let measured = bench.measure(cluster, controllers, report);
    let cleared = report.step("everything of it is removed", || bench.kubectl.clear());
    let measured = measured?;
    cleared.map(|()| measured)
}

fn cron_job(number: usize, schedule: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": format!("due-{number}")},
        "spec": {"schedule": schedule, "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"suspend": true, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": IMAGE, "command": ["true"]}],
        }}}}},
    })
}

fn row(who: &str, late: &[TimeDelta]) -> Vec<Cell> {
    let at = |share: usize| {
        let index = (late.len() * share).div_ceil(100).max(1) - 1;
        Cell::seconds(late.get(index).map_or(f64::NAN, |late| late.as_seconds_f64()))
    };
    vec![who.into(), Cell::Count(late.len() as u64), at(50), at(99), at(100)]
}

struct Bench<'a> {
    kubectl: Kubectl<'a>,
}

impl Bench<'_> {
    fn measure(&self, cluster: &Cluster, mut controllers: Process, report: &Report) -> Result<Measured> {
        report.step("a pod to back up", || {
            self.kubectl.opted_in()?;
            let objects = [secret(&cluster.s3), pod(IMAGE, &[])];
            self.kubectl.run(&["create", "-f", "-"], &list(&objects))?;
            self.kubectl.run(&["wait", "pod/box", "--for=condition=Ready", "--timeout=180s"], "")
        })?;
        let operator = Operator::of(cluster);
        let idle = most(&operator)?;
        let quiet: Vec<_> = (0..QUIET).map(|number| self.job(&format!("quiet-{number}"), "0 0 29 2 *")).collect();
        report.step(&format!("{QUIET} BackupJobs that are not due"), || self.create(&quiet))?;
        report.step("all of them are Ready", || self.all("backupjobs", READY, "True", QUIET))?;
        let ours = self.lateness(report, "BackupJobs", "backupruns", |number, schedule| {
            self.job(&format!("due-{number}"), schedule)
        })?;
        report.step("all of their backups are made", || self.all("backupruns", ".status.phase", "Succeeded", DUE))?;
        let full = most(&operator)?;
        // CronJobs have the API server for themselves.
        let replicas = operator.replicas()?;
        operator.scale("0")?;
        controllers.rest()?;
        let before = (controllers.idle, controllers.peak()?);
        let theirs = self.lateness(report, "CronJobs", "jobs.batch", cron_job);
        operator.scale(&replicas)?;
        let theirs = theirs?;
        let after = (controllers.resident()?, controllers.peak()?);

        let title =
            format!("from the tick to the created object, {DUE} due in one minute, {QUIET} more in the schedule");
        let memory = |when: &str, (now, peak)| vec![when.into(), Cell::mib(now), Cell::mib(peak)];
        let tables = vec![
            Table {
                title,
                columns: vec!["who", "created", "p50", "p99", "max"],
                rows: vec![row("BackupRuns of BackupJobs", &ours), row("Jobs of CronJobs (suspended)", &theirs)],
            },
            Table {
                title: "resident memory of the operator, of the replica that has most".into(),
                columns: vec!["when", "now", "peak"],
                rows: vec![
                    memory("no BackupJob", idle),
                    memory(&format!("{} BackupJobs, {DUE} BackupRuns", QUIET + DUE), full),
                ],
            },
            Table {
                title: format!(
                    "resident memory of kube-controller-manager, beside {} BackupJobs and {DUE} BackupRuns; peak since the \
                     first row",
                    QUIET + DUE
                ),
                columns: vec!["when", "now", "peak"],
                rows: vec![
                    memory("no CronJob", before),
                    memory(&format!("{DUE} CronJobs, {DUE} Jobs (suspended)"), after),
                ],
            },
        ];
        let latest = ours.last().map_or(f64::INFINITY, |late| late.as_seconds_f64() * 1000.0);
        let goals = vec![
            Goal::new("latest of the BackupRuns that are due together", latest, LATEST, "ms"),
            Goal::new(&format!("resident memory with {} BackupJobs", QUIET + DUE), in_mib(full.0), MEMORY, "MiB"),
            Goal::new("its peak", in_mib(full.1), MEMORY, "MiB"),
        ];
        Ok(Measured { tables, goals })
    }

    /// A BackupJob of a few bytes.
    fn job(&self, name: &str, schedule: &str) -> Value {
        let strategy = json!({"type": "dump", "command": "echo a few bytes"});
        job(&self.kubectl.cluster.s3, NAMESPACE, name, None, &strategy, schedule)
    }

    /// Makes the objects, several kubectls at a time: one alone is held to 50 requests a second by its own client.
    fn create(&self, objects: &[Value]) -> Result<()> {
        let batches: Vec<_> = objects.chunks(BATCH).collect();
        for group in batches.chunks(KUBECTLS) {
            thread::scope(|scope| {
                let made: Vec<_> = group
                    .iter()
                    .map(|batch| {
                        let list = list(batch);
                        scope.spawn(move || self.kubectl.run(&["create", "-f", "-"], &list))
                    })
                    .collect();
                made.into_iter()
                    .try_for_each(|one| one.join().map_err(|_| anyhow!("a kubectl ended in a fault"))?.map(drop))
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
        let mut watch = self.kubectl.watch(what, "{.metadata.name}")?;
        let wait = (tick - now()).to_std().unwrap_or_default();
        report.countdown(&format!("{DUE} {what}"), wait, || {
            let end = now() + TimeDelta::from_std(wait + PATIENCE)?;
            let mut seen = BTreeSet::new();
            let mut late = Vec::with_capacity(DUE);
            while seen.len() < DUE {
                let (name, at) = watch.next(end).with_context(|| format!("{} of {DUE} only", seen.len()))?;
                if seen.insert(name) {
                    late.push(at - tick);
                }
            }
            late.sort_unstable();
            Ok(late)
        })
    }

    /// Waits until so many objects of `what` show `wanted` at `path` (a JSONPath of one of them).
    fn all(&self, what: &str, path: &str, wanted: &str, count: usize) -> Result<()> {
        let end = now() + TimeDelta::from_std(PATIENCE)?;
        let path = format!("jsonpath={{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}");
        loop {
            let seen = self.kubectl.run(&["get", what, "-o", &path], "")?;
            let seen = seen.lines().filter(|line| *line == wanted).count();
            if seen >= count {
                return Ok(());
            }
            ensure!(now() < end, "{seen} of {count} {what} only are {wanted}");
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Resident bytes and their peak so far, of the replica that has most.
fn most(operator: &Operator<'_>) -> Result<(u64, u64)> {
    let mut most = None;
    for process in operator.processes()? {
        most = most.max(Some((process.resident()?, process.peak()?)));
    }
    most.context("no process of the operator")
}
