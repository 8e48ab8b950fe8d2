//! **O** `cargo rig demo`: the main job on real input, act by act, each with what a person would type and how long it took.

use crate::place::Place;
use crate::report::{Report, Stopwatch};
use crate::{down, netns, status, up};
use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, Utc};
use rig::Cluster;
use rig::example::{COPY, EMPTY, Example, IMAGE, JOB, POSTGRES, Run, URI};
use std::time::Duration;

const HELLO: &str = "\
This brings up a real Kubernetes on this machine, in a network namespace of its own (nothing else on the machine sees it),
installs the operator, and lets it back up a PostgreSQL and bring it back.
The first time this builds Kubernetes and the operator: 10 to 20 minutes. Later it takes about two minutes, of which up to
one is the wait for the clock.
";

/// Shows it all. What was brought up for it is taken down again, unless it shall be kept or something failed.
pub fn demo(place: &Place, report: &Report, keep: bool) -> Result<()> {
    let watch = Stopwatch::start();
    report.line(HELLO);
    act(report, 1, "A Kubernetes on this machine", "cargo rig up");
    let fresh = up::up(place, report, true)?;
    let variables = status::variables(place)?;
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let cluster = Cluster::from_variables(find)?;
    netns::inside(place, || acts(&Example::new(&cluster), report, fresh)).map_err(|error| {
        anyhow!(
            "{error:#}\n\nThe demo stopped here, and all of it is left up to be looked at:\n  \
             cargo rig kubectl get backupjobs,backupruns,pods,events -n default\n  \
             cargo rig kubectl logs -n backup-system deployment/operator --tail 50\n  \
             cargo rig demo    tries again from the start\n  \
             cargo rig down    ends it"
        )
    })?;
    let took = watch.text();
    if keep {
        report.line(&format!(
            "\nDone in {took}. Still up: the cluster, the operator, both databases and the backups. Look around:\n  \
             cargo rig kubectl get bj,br -n default\n  cargo rig kubectl describe bj {JOB} -n default\n  \
             cargo rig down    ends everything"
        ));
    } else if fresh {
        down::down(place, report)?;
        report.line(&format!(
            "\nDone in {took}. Everything that the demo started is down again. With --keep it stays up to be looked at."
        ));
    } else {
        netns::inside(place, || report.step("what the demo made is removed", || Example::new(&cluster).clear()))?;
        report.line(&format!(
            "\nDone in {took}. The cluster was up before and still is, with the operator in it: cargo rig down ends it."
        ));
    }
    Ok(())
}

/// The acts. A person's command stands beside each.
fn acts(example: &Example<'_>, report: &Report, fresh: bool) -> Result<()> {
    act(report, 2, "The operator", &format!("ubo install --image {IMAGE} | kubectl apply --server-side -f -"));
    report.step("installed, and ready", || example.install())?;
    if !fresh {
        report.step("started anew with the image of now", || example.restart_operator())?;
    }
    report.step("nothing is there of an earlier demo", || example.clear())?;

    act(report, 3, "A PostgreSQL with rows in it", "kubectl apply -f manifests/examples/postgres.yaml");
    report.step("StatefulSet postgres is ready", || example.start_postgres(POSTGRES))?;
    let rows = report.step("a role, a database and its table", || example.fill())?;
    show(report, &rows);

    act(
        report,
        4,
        "Keys of the S3 server, and the namespace is opted in",
        "kubectl apply -f s3-credentials.yaml; kubectl apply -n default -f manifests/namespace.yaml",
    );
    report.step("Secret, ServiceAccount and RoleBindings", || example.opt_in())?;

    act(
        report,
        5,
        "The BackupJob of the README, as it stands",
        "kubectl apply -f manifests/examples/postgres-daily-backup.yaml",
    );
    let next = report.step("checked by the operator, and in its schedule", || example.apply_job())?;
    show(report, &format!("next run: {}", next.at));

    act(report, 6, "A copy of it with `schedule: \"* * * * *\"`", &format!("kubectl get br -w    # {COPY}-…"));
    let tick = report.step("in the schedule", || example.apply_copy())?;
    let fired = report
        .countdown(&format!("{} fires by itself", tick.run), until(&tick.at)?, || good(example.ended(&tick.run)?))?;
    show(report, &fired.message);
    report.step("the copy is suspended", || example.suspend_copy())?;

    act(report, 7, "The original, now and by hand", "kubectl create -f manifests/examples/run-now.yaml");
    let by_hand = report.step("a BackupRun, to its end", || good(example.ended(&example.run_by_hand()?)?))?;
    show(report, &by_hand.message);

    act(report, 8, "What there is", &format!("kubectl get bj,br; ubo list {URI}"));
    show(report, &example.status()?);
    show(report, &example.list()?);

    act(report, 9, "Read back with no tool of ours", "zstd -d < archive.tar.zst | tar x");
    let dump = report.step("dump.sql is there", || example.read_back(&by_hand))?;
    show(report, &format!("{}\n{}", example.archive(&by_hand).display(), dump.display()));

    act(report, 10, "Into an empty PostgreSQL", &format!("kubectl exec -i {EMPTY}-0 -- psql < dump.sql"));
    report.step("a second StatefulSet is ready, and empty", || {
        example.start_postgres(EMPTY)?;
        ensure!(example.is_empty(EMPTY)?, "the second database is not empty");
        Ok(())
    })?;
    report.step("restored", || example.restore(&dump, EMPTY))?;
    let back = report.step("the rows of both, compared", || {
        let back = example.digest(EMPTY)?;
        ensure!(back == rows, "they differ: {rows} was backed up, {back} came back");
        Ok(back)
    })?;
    show(report, &format!("backed up: {rows}\nrestored:  {back}"));
    Ok(())
}

/// The run, if it succeeded.
fn good(run: Run) -> Result<Run> {
    ensure!(run.phase == "Succeeded", "{} ended as {}: {}", run.name, run.phase, run.message);
    Ok(run)
}

fn act(report: &Report, number: u32, what: &str, command: &str) {
    report.line(&format!("\n{number}. {what}\n   $ {command}"));
}

fn show(report: &Report, text: &str) {
    for line in text.trim_end().lines() {
        report.line(&format!("    {line}"));
    }
}

/// How long it is until `time`.
fn until(time: &str) -> Result<Duration> {
    let time = DateTime::parse_from_rfc3339(time).with_context(|| format!("{time:?} is not a time"))?;
    #[expect(clippy::disallowed_methods, reason = "a countdown for a person to look at; nothing is decided by it")]
    let now = Utc::now();
    Ok((time.to_utc() - now).to_std().unwrap_or_default())
}
