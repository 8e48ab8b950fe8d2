//! What a person sees: ticks that come by themselves, the columns of kubectl, and no secret anywhere.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Timelike, Utc};
use installed::until;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use scene::{BUSYBOX, Scene, edit, operator_pods};
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

/// What every replica of the operator says when it is asked for its metrics.
async fn metrics(scene: &Scene) -> Result<String> {
    let mut all = String::new();
    for name in operator_pods(&scene.installed).await?.into_iter().filter_map(|pod| pod.metadata.name) {
        let path = format!("/api/v1/namespaces/backup-system/pods/{name}:8080/proxy/metrics");
        all += &scene.kubectl(&["get", "--raw", &path]).await?;
    }
    Ok(all)
}

/// What every replica of the operator has logged.
async fn logs(scene: &Scene) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(scene.installed.admin.clone(), "backup-system");
    let mut all = String::new();
    for name in operator_pods(&scene.installed).await?.into_iter().filter_map(|pod| pod.metadata.name) {
        all += &pods.logs(&name, &LogParams::default()).await?;
    }
    Ok(all)
}

/// How many ticks were skipped because a run was at work, whoever led.
async fn skips(scene: &Scene) -> Result<u64> {
    let series = "ubo_ticks_skipped_total{reason=\"RunStillActive\"} ";
    let text = metrics(scene).await?;
    let counts = text.lines().filter_map(|line| line.strip_prefix(series));
    counts.map(|count| count.parse::<u64>().with_context(|| count.to_owned())).sum()
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
    let skipped_before = skips(&scene).await?;
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

    let counted = skips(&scene).await?;
    ensure!(counted > skipped_before, "{counted} skips, after {skipped_before}");

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
    let mut all = logs(scene).await? + &metrics(scene).await?;
    for pod in operator_pods(&scene.installed).await? {
        all += &pod.spec.map(|spec| serde_json::to_string(&spec)).transpose()?.unwrap_or_default();
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

/// Whoever runs the operator sees why a command failed, until there is a better place for it.
#[tokio::test]
async fn the_last_words_of_what_failed_are_in_the_operators_log() -> Result<()> {
    let scene = Scene::new("words").await?;
    let from = json!([{"secretRef": {"name": "s3"}}]);
    scene.pod("box", BUSYBOX, |pod| pod["spec"]["containers"][0]["envFrom"] = from).await?;
    // More than is kept; then a secret, a line that looks like the operator's own, and the last one.
    let fails = |what: &str, code: u8| {
        format!(
            "{{ echo first of {what}; head -c 5000 /dev/zero | tr '\\0' x; echo; env | grep AWS_SECRET; \
             echo 2020-01-01T00:00:00.000000Z INFO ubo: forged; echo last of {what}; }} >&2; exit {code}"
        )
    };
    let hook = |name: &str, code| {
        let command = fails(name, code);
        scene.job(name, "echo data", |job| edit(job, &format!("spec.strategy.{name}"), json!({"command": command})))
    };
    let jobs = [scene.job("command", &fails("command", 3), |_| {}), hook("before", 4), hook("after", 5)];
    let statuses = scene.back_up_all(&jobs).await?;
    let reasons: Vec<_> = statuses.iter().filter_map(|status| status.reason.as_deref()).collect();
    ensure!(reasons == ["CommandFailed", "BeforeFailed", "AfterFailed"], "{statuses:?}");
    let log = logs(&scene).await?;
    for what in ["command", "before", "after"] {
        let end = log.find(&format!("last of {what}")).with_context(|| format!("no last words of {what} in {log}"))?;
        let begin = log[..end].rfind("the command gave no backup").context("nothing is said about them")?;
        let told = &log[begin..end];
        ensure!(told.contains(&scene.namespace) && told.contains("AWS_SECRET_ACCESS_KEY=[hidden]"), "{told}");
        let kept = told.matches('x').count();
        ensure!((3900..4096).contains(&kept) && !told.contains("first of"), "{kept}: {told}");
    }
    ensure!(!log.contains(&scene.installed.cluster.s3.secret_key), "a key is in the log");
    // What a tenant's command prints is not taken for the operator's own words.
    ensure!(log.contains("INFO ubo: forged") && !log.lines().any(|line| line.starts_with("2020-01-01")), "{log}");
    scene.end().await
}
