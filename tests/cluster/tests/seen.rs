//! What a person sees: ticks that come by themselves, the columns of kubectl, and no secret anywhere.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Timelike, Utc};
use installed::until;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, LogParams};
use scene::{BUSYBOX, Scene, edit};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;
use ubo::api::backup_job::{BackupJob, BackupJobStatus};
use ubo::api::backup_run::BackupRun;
use ubo::api::time::from_time;
use ubo::clock::{Clock, SystemClock};
use ubo::run::Phase;

/// A tick comes within a minute, and what follows it soon after.
const A_MINUTE_AND_MORE: Duration = Duration::from_mins(3);

fn status(job: &BackupJob) -> BackupJobStatus {
    job.status.clone().unwrap_or_default()
}

/// The name of a tick's run.
fn at(job: &str, tick: DateTime<Utc>) -> String {
    format!("{job}-{}", tick.format("%Y%m%d-%H%M"))
}

/// Waits for the first tick of a BackupJob to be handled and gives it.
async fn first_tick(scene: &Scene, job: &str) -> Result<DateTime<Utc>> {
    let api: Api<BackupJob> = scene.api();
    let look = || async {
        let job = api.get(job).await?;
        Ok(status(&job).last_schedule_time.as_ref().map(from_time))
    };
    installed::until_for(A_MINUTE_AND_MORE, &format!("the first tick of {job}"), look).await
}

/// One minute in the life of several BackupJobs, all due in it: each does what it says, side by side.
#[tokio::test]
async fn a_minute_of_ticks() -> Result<()> {
    let scene = Scene::new("ticks").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = |name: &str, command: &str, more: &[(&str, serde_json::Value)]| {
        scene.job(name, command, |job| {
            edit(job, "spec.schedule", json!("* * * * *"));
            for (path, value) in more {
                edit(job, path, value.clone());
            }
        })
    };
    let wait = "until [ -e /go ]; do sleep 0.2; done; echo data";
    let jobs = [
        job("plain", "echo data", &[]),
        job("busy", wait, &[]),
        job("asleep", "echo data", &[("spec.suspend", json!(true))]),
        job("unkept", "echo data", &[("spec.successfulRunsHistoryLimit", json!(0))]),
        job("failing", "exit 4", &[("spec.failedRunsHistoryLimit", json!(0))]),
        job("later", "echo data", &[("spec.schedule", json!("0 0 1 1 *")), ("spec.timeZone", json!("Europe/Berlin"))]),
    ];
    // The run by hand shall begin before the first tick does: else it is the one that waits.
    until("a moment that is not just before a tick", || async { Ok((SystemClock.now().second() < 40).then_some(())) })
        .await?;
    let made = SystemClock.now();
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": jobs})).await?;
    let by_hand = scene.start("busy").await?;
    scene.at_work(&by_hand).await?;

    // The tick fires by itself, once, on the minute, and its name says which.
    let tick = first_tick(&scene, "plain").await?;
    ensure!(tick.second() == 0 && tick > made, "{tick} for a job that was made at {made}");
    let run = at("plain", tick);
    let ended = scene.ended(&run).await?;
    ensure!(ended.phase == Phase::Succeeded, "{ended:?}");
    let begun = ended.start_time.as_ref().map(from_time).context("a start")?;
    ensure!(begun >= tick && begun - tick < chrono::TimeDelta::seconds(10), "{tick} began at {begun}");
    let object = scene.api::<BackupRun>().get(&run).await?;
    ensure!(object.spec.scheduled_at.as_ref().map(from_time) == Some(tick), "{:?}", object.spec);
    let seen =
        scene.job_until("plain", "to know its run", |job| status(job).last_successful_run.as_deref() == Some(&run));
    let seen = status(&seen.await?);
    ensure!(seen.last_job_name.as_deref() == Some(&*run) && seen.last_exit_code == Some(0), "{seen:?}");
    ensure!(seen.last_success_time == ended.start_time && seen.last_run_time == ended.start_time, "{seen:?}");
    let next = seen.next_run_time.as_ref().map(from_time).context("a next run")?;
    ensure!(next > tick && next.second() == 0 && next - tick <= chrono::TimeDelta::minutes(2), "{tick}, then {next}");

    // Forbid: the tick was handled, not run, and that is said.
    let skipped = first_tick(&scene, "busy").await?;
    ensure!(scene.api::<BackupRun>().get_opt(&at("busy", skipped)).await?.is_none(), "two at once");
    let busy = status(&scene.job_now("busy").await?);
    ensure!(busy.skipped_runs.is_some_and(|runs| runs > 0), "{busy:?}");
    until("an Event about the skip", || async {
        Ok(scene.event_reasons("busy").await?.iter().any(|reason| reason == "TickSkipped").then_some(()))
    })
    .await?;

    // History limits: what ran is known, and its object is gone.
    let runs: Api<BackupRun> = scene.api();
    for (job, code) in [("unkept", 0), ("failing", 4)] {
        let tick = first_tick(&scene, job).await?;
        scene
            .job_until(job, "to know its run", |now| {
                let status = status(now);
                status.last_exit_code == Some(code) && status.last_job_name.as_deref() >= Some(&*at(job, tick))
            })
            .await?;
        until(&format!("{} to go", at(job, tick)), || async {
            Ok(runs.get_opt(&at(job, tick)).await?.is_none().then_some(()))
        })
        .await?;
    }
    // What was not due did not run.
    for job in ["asleep", "later"] {
        let now = status(&scene.job_now(job).await?);
        ensure!(now.last_schedule_time.is_none() && now.last_job_name.is_none(), "{job}: {now:?}");
    }
    let berlin = status(&scene.job_now("later").await?).next_run_time.context("a next run")?;
    ensure!(from_time(&berlin).hour() == 23, "midnight in Berlin is not {berlin:?}");
    scene.exec("box", "touch /go").await?;
    ensure!(scene.ended(&by_hand).await?.phase == Phase::Succeeded, "the run that it waited for");
    scene.end().await
}

/// The cells of one line of a table, by its headings.
fn cell<'a>(table: &'a str, row: &str, heading: &str) -> Option<&'a str> {
    let mut lines = table.lines();
    let head = lines.next()?;
    let from = head.find(heading)?;
    // Up to the next heading; the last column goes on to the end of the line.
    let gap = head[from..].find("  ").map_or(head.len(), |gap| from + gap);
    let next = gap + head[gap..].bytes().take_while(|b| *b == b' ').count();
    let to = if next < head.len() { next } else { usize::MAX };
    let line = lines.find(|line| line.split_whitespace().next() == Some(row))?;
    Some(line.get(from..to.min(line.len()))?.trim())
}

#[tokio::test]
async fn the_columns_tell_at_a_glance() -> Result<()> {
    let scene = Scene::new("columns").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let good = scene.job("good", "seq 1 20000", |_| {});
    let bad = scene.job("bad", "exit 5", |_| {});
    let yearly = scene.job("yearly", "echo data", |job| edit(job, "spec.schedule", json!("@yearly")));
    let zone = scene.job("zone", "echo data", |job| edit(job, "spec.timeZone", json!("Mars/Olympus")));
    scene.apply(&zone).await?;
    scene.apply(&yearly).await?;
    scene.back_up_all(&[good, bad]).await?;
    for (job, phase) in [("good", "Succeeded"), ("bad", "Failed"), ("yearly", "Scheduled"), ("zone", "NotReady")] {
        scene.job_until(job, phase, |job| status(job).phase.is_some_and(|now| format!("{now:?}") == phase)).await?;
    }
    let jobs = scene.kubectl(&["get", "bj", "-o", "wide"]).await?;
    for (row, heading, expected) in [
        ("good", "TARGET", "Pod/box"),
        ("good", "PHASE", "Succeeded"),
        ("bad", "PHASE", "Failed"),
        ("yearly", "PHASE", "Scheduled"),
        ("yearly", "SCHEDULE", "@yearly"),
        ("zone", "PHASE", "NotReady"),
    ] {
        ensure!(
            cell(&jobs, row, heading) == Some(expected),
            "{row} {heading} {:?} in\n{jobs}",
            cell(&jobs, row, heading)
        );
    }
    let next = cell(&jobs, "yearly", "NEXT RUN").unwrap_or_default();
    ensure!(next.contains("-01-01T00:00"), "{next:?} in\n{jobs}");
    let size = cell(&jobs, "good", "SIZE").unwrap_or_default();
    ensure!(size.ends_with("Ki"), "{size:?} in\n{jobs}");
    ensure!(!jobs.contains("<invalid>"), "{jobs}");
    let runs = scene.kubectl(&["get", "br"]).await?;
    for (row, heading, expected) in [
        ("good-once", "JOB", "good"),
        ("good-once", "PHASE", "Succeeded"),
        ("good-once", "SIZE", size),
        ("bad-once", "PHASE", "Failed"),
        ("bad-once", "REASON", "CommandFailed"),
    ] {
        ensure!(
            cell(&runs, row, heading) == Some(expected),
            "{row} {heading} {:?} in\n{runs}",
            cell(&runs, row, heading)
        );
    }
    let both = scene.kubectl(&["get", "backup", "-o", "name"]).await?;
    ensure!(both.contains("/good-once") && both.contains("/yearly"), "the category backup: {both}");
    scene.end().await
}

/// Everything that the operator has said since it began, everywhere it says something.
async fn said(scene: &Scene) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(scene.installed.admin.clone(), "backup-system");
    let mut all = String::new();
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.metadata.name.unwrap_or_default();
        all += &pods.logs(&name, &LogParams::default()).await?;
        let metrics = format!("/api/v1/namespaces/backup-system/pods/{name}:8080/proxy/metrics");
        all += &scene.kubectl(&["get", "--raw", &metrics]).await?;
        let arguments = pod.spec.map(|spec| serde_json::to_string(&spec)).transpose()?;
        all += &arguments.unwrap_or_default();
    }
    for kind in ["bj,br", "events", "events.events.k8s.io"] {
        all += &scene.kubectl(&["get", kind, "-o", "yaml"]).await?;
    }
    for job in ["good", "loud", "denied"] {
        let _ = write!(all, "{}", scene.kubectl(&["describe", "bj", job]).await?);
    }
    Ok(all)
}

#[tokio::test]
async fn no_secret_is_said_anywhere() -> Result<()> {
    let scene = Scene::new("secrets").await?;
    let mut wrong = scene.keys();
    let planted = ["PLANTEDACCESSKEYID", "planted/secret+access=key", "plantedOtherValue"];
    wrong.insert("AWS_ACCESS_KEY_ID".to_owned(), planted[0].to_owned());
    wrong.insert("AWS_SECRET_ACCESS_KEY".to_owned(), planted[1].to_owned());
    wrong.insert("SOMETHING_ELSE".to_owned(), planted[2].to_owned());
    scene.secret("wrong", &wrong).await?;
    // The target has them too, as a database's pod may, and the command that fails says them aloud.
    let from = json!([{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "wrong"}, "prefix": "WRONG_"}]);
    scene.pod("box", BUSYBOX, |pod| pod["spec"]["containers"][0]["envFrom"] = from).await?;
    let good = scene.job("good", "echo data; env >&2", |_| {});
    let loud =
        scene.job("loud", "echo data; env >&2; exit 3", |job| edit(job, "spec.destination.secretRef", json!("wrong")));
    let denied = scene.job("denied", "echo data", |job| edit(job, "spec.destination.secretRef", json!("wrong")));
    let own = scene.job("own", "echo data; env | grep ^AWS >&2; exit 3", |_| {});
    let statuses = scene.back_up_all(&[good, loud, denied, own]).await?;
    ensure!(statuses[0].phase == Phase::Succeeded, "{:?}", statuses[0]);
    ensure!(statuses[1..].iter().all(|status| status.phase == Phase::Failed), "{statuses:?}");
    let said = said(&scene).await?;
    // It is the right text: all of them are in it.
    for word in ["good-once", "denied-once", "DestinationDenied", "CommandFailed", "ubo_"] {
        ensure!(said.contains(word), "{word} is not in what was said");
    }
    let s3 = &scene.installed.cluster.s3;
    for secret in planted.iter().copied().chain([&*s3.secret_key, &*s3.access_key]) {
        let line = said.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "{secret} was said: {line:?}");
    }
    scene.end().await
}
