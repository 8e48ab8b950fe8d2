//! The schedule on a real cluster: many jobs due at once with the operator killed in the middle, overlap, and the queue.

mod installed;
mod process;
mod scene;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use installed::{until, until_for};
use kube::api::ListParams;
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Mutex;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::BackupRun;
use ubo::api::time::from_time;
use ubo::run::Phase;
use ubo::run::ports::phase_of;

/// The operator is one: whoever kills it or fills its queue has it for himself.
static STAGE: Mutex<()> = Mutex::const_new(());
/// So many jobs are due in one minute.
const MANY: usize = 200;
/// A run works until the test says otherwise.
const UNTIL_TOLD: &str = "until [ -e /go ]; do sleep 0.2; done; echo data";
/// Ticks come once a minute, and the machine may be slow.
const MINUTES: Duration = Duration::from_mins(6);

#[expect(clippy::disallowed_methods, reason = "ticks are relative to the operator's clock: one machine")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Applies documents in one go.
async fn apply_all(scene: &Scene, items: &[Value]) -> Result<()> {
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await
}

async fn runs_of(scene: &Scene, job: &str) -> Result<Vec<BackupRun>> {
    let mine = ListParams::default().labels(&format!("backup.javy.dev/job={job}"));
    let mut runs = scene.api::<BackupRun>().list(&mine).await?.items;
    runs.sort_by_key(|run| run.spec.scheduled_at.as_ref().map(from_time));
    Ok(runs)
}

/// Jobs that are all due at one minute, which is far enough away for all of them to be there and seen before it comes.
async fn due_at_once(scene: &Scene, count: usize) -> Result<DateTime<Utc>> {
    let mut lead = TimeDelta::seconds(20);
    loop {
        let tick = now() + lead + TimeDelta::minutes(1);
        let tick = tick.with_second(0).and_then(|tick| tick.with_nanosecond(0)).context("a whole minute")?;
        let jobs: Vec<_> = (0..count)
            .map(|number| {
                scene.job(&format!("many-{number}"), "echo data", |job| {
                    // Nothing of it is there, so that each run is over at once.
                    edit(job, "spec.target.name", json!("no-such-pod"));
                    edit(job, "spec.retry", json!({"limit": 2, "backoffSeconds": 1}));
                    edit(job, "spec.schedule", json!(format!("{} {} * * *", tick.minute(), tick.hour())));
                })
            })
            .collect();
        apply_all(scene, &jobs).await?;
        let api = scene.api::<BackupJob>();
        until_for(MINUTES, "all jobs to be in the schedule", || async {
            let seen = |job: &BackupJob| {
                job.status.as_ref().and_then(|status| status.next_run_time.as_ref()).map(from_time) == Some(tick)
            };
            let jobs = api.list(&ListParams::default()).await?.items;
            let ready = jobs.iter().filter(|job| seen(job)).count() == count;
            Ok((ready || now() > tick).then_some(()))
        })
        .await?;
        // The operator is rolled over meanwhile, which must not happen to the tick.
        scene::operator_ready(&scene.installed).await?;
        if now() + TimeDelta::seconds(2) < tick {
            return Ok(tick);
        }
        lead = lead * 2; // the machine is slow: the same jobs, for a later minute
    }
}

#[tokio::test]
async fn many_jobs_due_at_once_and_an_operator_killed_in_the_middle_lose_and_double_nothing() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("many").await?;
    let window = |word: &'static str| ["-n", "backup-system", "set", "env", "deployment/operator", word];
    // A successor that comes late makes up at once, and not within ten minutes.
    scene.installed.kubectl(&window("UBO_CATCH_UP_WINDOW=0"), "").await?;
    let tick = due_at_once(&scene, MANY).await?;
    let api = scene.api::<BackupRun>();
    until_for(MINUTES, "the first runs", || async {
        Ok((!api.list(&ListParams::default()).await?.items.is_empty()).then_some(()))
    })
    .await?;
    process::crash(&scene.installed).await?;

    let expected: BTreeSet<String> =
        (0..MANY).map(|number| format!("many-{number}-{}", tick.format("%Y%m%d-%H%M"))).collect();
    let names = |runs: &[BackupRun]| -> BTreeSet<String> {
        runs.iter()
            .filter(|run| run.spec.scheduled_at.as_ref().map(from_time) == Some(tick))
            .filter_map(|run| run.metadata.name.clone())
            .collect()
    };
    let runs = until_for(MINUTES, "every run to be there and over", || async {
        let runs = api.list(&ListParams::default()).await?.items;
        let over = runs.iter().filter(|run| phase_of(run).is_final()).count();
        Ok((names(&runs).len() >= MANY && over == runs.len()).then_some(runs))
    })
    .await?;
    ensure!(names(&runs) == expected, "{:?}", names(&runs).symmetric_difference(&expected).collect::<Vec<_>>());
    let wrong: Vec<_> = runs
        .iter()
        .filter(|run| run.status.as_ref().and_then(|status| status.reason.as_deref()) != Some("TargetNotFound"))
        .map(|run| (&run.metadata.name, run.status.as_ref().map(|status| &status.reason)))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    // Every job knows that its tick is handled, so that losing the run would not fire it again.
    let jobs = scene.api::<BackupJob>();
    until_for(MINUTES, "every job to know of its tick", || async {
        let handled = |job: &BackupJob| {
            job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(from_time) >= Some(tick)
        };
        Ok(jobs.list(&ListParams::default()).await?.items.iter().all(handled).then_some(()))
    })
    .await?;
    // Whoever comes next waits until it is so.
    scene.installed.kubectl(&window("UBO_CATCH_UP_WINDOW-"), "").await?;
    scene.end().await
}

#[tokio::test]
async fn overlap_is_skipped_allowed_or_replaced_as_it_is_said() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("overlap").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = |name: &str, policy: &str, suspend: bool| {
        scene.job(name, UNTIL_TOLD, |job| {
            edit(job, "spec.schedule", json!("* * * * *"));
            edit(job, "spec.concurrencyPolicy", json!(policy));
            edit(job, "spec.suspend", json!(suspend));
        })
    };
    let all = |suspend| {
        [job("forbid", "Forbid", suspend), job("replace", "Replace", suspend), job("allow", "Allow", suspend)]
    };
    apply_all(&scene, &all(false)).await?;

    let working = |runs: &[BackupRun]| runs.iter().filter(|run| phase_of(run) == Phase::Running).count();
    until_for(MINUTES, "two runs at work at once where they may", || async {
        Ok((working(&runs_of(&scene, "allow").await?) == 2).then_some(()))
    })
    .await?;
    let replaced = until_for(MINUTES, "a run that was replaced, and its successor at work", || async {
        let runs = runs_of(&scene, "replace").await?;
        Ok((runs.len() >= 2 && working(&runs) == 1 && phase_of(&runs[0]).is_final()).then_some(runs))
    })
    .await?;
    let first = replaced[0].status.clone().unwrap_or_default();
    ensure!((first.phase, first.reason.as_deref()) == (Phase::Cancelled, Some("Replaced")), "{first:?}");
    let skipped = scene
        .job_until("forbid", "to have skipped a tick", |job| {
            job.status.as_ref().is_some_and(|status| status.skipped_runs >= Some(1))
        })
        .await?;
    ensure!(runs_of(&scene, "forbid").await?.len() == 1, "a run beside the one at work: {:?}", skipped.status);
    until("the Event that says so", || async {
        Ok(scene.event_reasons("forbid").await?.iter().any(|reason| reason == "TickSkipped").then_some(()))
    })
    .await?;

    apply_all(&scene, &all(true)).await?;
    scene.exec("box", "touch /go").await?;
    until_for(MINUTES, "every run to be over", || async {
        let runs = scene.api::<BackupRun>().list(&ListParams::default()).await?.items;
        Ok(runs.iter().all(|run| phase_of(run).is_final()).then_some(()))
    })
    .await?;
    let runs = scene.api::<BackupRun>().list(&ListParams::default()).await?.items;
    for run in runs {
        let status = run.status.unwrap_or_default();
        let good = status.phase == Phase::Succeeded || status.reason.as_deref() == Some("Replaced");
        ensure!(good, "{:?}: {status:?}", run.metadata.name);
    }
    scene.end().await
}

#[tokio::test]
async fn who_waits_has_a_place_in_the_queue_and_a_cancelled_one_leaves_it() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("queue").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = scene.job("busy", UNTIL_TOLD, |job| {
        edit(job, "spec.schedule", json!("0 0 1 1 *"));
        edit(job, "spec.concurrencyPolicy", json!("Allow"));
    });
    scene.apply(&job).await?;
    for _ in 0..4 {
        let run = scene.start("busy").await?;
        scene.at_work(&run).await?;
    }
    let fifth = scene.start("busy").await?;
    let place =
        |status: Option<&ubo::api::backup_run::BackupRunStatus>| status.and_then(|status| status.queue_position);
    scene.run_until(&fifth, "to wait at place 1", |run| place(run.status.as_ref()) == Some(1)).await?;
    let sixth = scene.start("busy").await?;
    let waiting = scene.run_until(&sixth, "to wait at place 2", |run| place(run.status.as_ref()) == Some(2)).await?;
    ensure!(waiting.phase == Phase::Pending, "{waiting:?}");
    scene.kubectl(&["patch", "backuprun", &fifth, "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).await?;
    let cancelled = scene.ended(&fifth).await?;
    ensure!((cancelled.phase, cancelled.queue_position) == (Phase::Cancelled, None), "{cancelled:?}");
    scene.run_until(&sixth, "to move up", |run| place(run.status.as_ref()) == Some(1)).await?;
    scene.exec("box", "touch /go").await?;
    let last = scene.ended(&sixth).await?;
    ensure!((last.phase, last.queue_position) == (Phase::Succeeded, None), "{last:?}");
    scene.end().await
}
