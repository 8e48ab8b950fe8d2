//! BackupJobs that are due every minute, and an operator whose replicas are killed at random moments: no tick is lost or
//! doubled, nothing is listed that is not whole, and nothing is left behind.
//!
//! A few minutes by itself; `cargo rig soak` plays it for as long as it is told to, and prints the result.

mod installed;
mod process;
mod scene;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use installed::until_for;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use process::Process;
use rig::soak::{Measure, Outcome};
use scene::{BUSYBOX, Scene, edit, operator_pods, operator_ready};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::BackupRun;
use ubo::api::time::from_time;
use ubo::clock::{Clock, SystemClock};
use ubo::run::Phase;
use ubo::run::ports::phase_of;

/// Until runs that lost their process are through: two Leases of 60 s each, and a busy machine.
const SETTLED: Duration = Duration::from_mins(8);
/// Kills keep off the last moments, in which the ticks are counted.
const QUIET: TimeDelta = TimeDelta::seconds(10);

/// Numbers that nobody can foresee, and that a seed brings back.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64 (Marsaglia 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

fn names(jobs: usize) -> Vec<String> {
    (1..=jobs).map(|number| format!("soak-{number}")).collect()
}

#[tokio::test]
async fn kills_lose_no_tick_and_double_none() -> Result<()> {
    let measure = Measure::from_env()?;
    let scene = Scene::new("kills").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let jobs: Vec<Value> = names(measure.jobs)
        .iter()
        .enumerate()
        .map(|(number, name)| {
            // Of every fifth one an upload in parts is under way, and left open by whoever dies.
            let bytes = if number % 5 == 0 { 20_000_000 } else { 300_000 };
            scene.job(name, &format!("head -c {bytes} /dev/urandom; sleep 1"), |job| {
                edit(job, "spec.schedule", json!("* * * * *"));
                edit(job, "spec.retry", json!({"limit": 5, "backoffSeconds": 1}));
                edit(job, "spec.successfulRunsHistoryLimit", json!(1000));
                edit(job, "spec.failedRunsHistoryLimit", json!(1000));
            })
        })
        .collect();
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": jobs})).await?;
    let begin = SystemClock.now();
    let end = begin + TimeDelta::seconds(i64::try_from(measure.seconds)?);
    let mut dice = Dice(begin.timestamp_micros().unsigned_abs() | 1);
    println!("{measure:?}, seed {}", dice.0);
    for kill in 0..measure.kills {
        let left = (end - QUIET - SystemClock.now()).to_std().unwrap_or_default();
        let share = u64::try_from(left.as_millis())? / (measure.kills - kill) * 2;
        tokio::time::sleep(Duration::from_millis(dice.below(share)).min(left)).await;
        kill_one(&scene, &mut dice).await?;
    }
    let rest = (end - SystemClock.now()).to_std().unwrap_or_default();
    tokio::time::sleep(rest).await;
    operator_ready(&scene.installed).await?;
    settle(&scene, &measure).await?;
    let outcome = count(&scene, &measure).await?;
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    measure.report(&outcome)?;
    ensure!(outcome.is_good(), "{outcome:?}");
    scene.end().await
}

/// Kills a replica, in one of three ways: its process in the middle of what it does, as lack of memory would, with another
/// one in the same pod a moment later; its pod, with a second to end in; its pod, which the API server forgets at once, while
/// the process still lives for a moment.
async fn kill_one(scene: &Scene, dice: &mut Dice) -> Result<()> {
    let way = dice.below(3);
    let lot = dice.below(u64::MAX);
    until_for(SETTLED, "a replica to kill", || async {
        let alive = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && process::container(pod).is_some();
        let pods: Vec<Pod> = operator_pods(&scene.installed).await?.into_iter().filter(alive).collect();
        let Some(which) = lot.checked_rem(pods.len() as u64) else { return Ok(None) };
        let pod = &pods[usize::try_from(which)?];
        if way == 2 {
            let Some(process) = Process::of(pod)? else { return Ok(None) };
            return process.kill().map(Some);
        }
        let name = pod.metadata.name.as_deref().context("a name")?;
        let api: Api<Pod> = Api::namespaced(scene.installed.admin.clone(), "backup-system");
        let grace = Some(u32::try_from(way)?);
        match api.delete(name, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() }).await {
            Ok(_) => Ok(Some(())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None), // gone by itself meanwhile
            Err(error) => bail!(error),
        }
    })
    .await
}

/// Suspends all jobs between two ticks, when the last one is handled, and waits until every run is over.
async fn settle(scene: &Scene, measure: &Measure) -> Result<()> {
    let jobs: Api<BackupJob> = scene.api();
    until_for(SETTLED, "a moment between two ticks, with all of them handled", || async {
        let now = SystemClock.now();
        let minute = now.with_second(0).and_then(|now| now.with_nanosecond(0)).context("a minute")?;
        if !(15..40).contains(&now.second()) {
            return Ok(None);
        }
        let handled = |job: &BackupJob| {
            let last = job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
            last.map(from_time).is_some_and(|last| last >= minute)
        };
        let all = jobs.list(&ListParams::default()).await?;
        Ok((all.items.len() == measure.jobs && all.items.iter().all(handled)).then_some(()))
    })
    .await?;
    let suspend = r#"{"spec":{"suspend":true}}"#;
    for name in names(measure.jobs) {
        scene.kubectl(&["patch", "bj", &name, "--type=merge", "-p", suspend]).await?;
    }
    let runs: Api<BackupRun> = scene.api();
    until_for(SETTLED, "every run to be over", || async {
        let all = runs.list(&ListParams::default()).await?.items;
        Ok(all.iter().all(|run| phase_of(run).is_final()).then_some(()))
    })
    .await
}

/// What became of the ticks.
async fn count(scene: &Scene, measure: &Measure) -> Result<Outcome> {
    let mut outcome =
        Outcome { jobs: measure.jobs, seconds: measure.seconds, kills: measure.kills, ..Outcome::default() };
    let runs: Api<BackupRun> = scene.api();
    let runs = runs.list(&ListParams::default()).await?.items;
    let objects = scene.objects().await?;
    for name in names(measure.jobs) {
        let job = scene.job_now(&name).await?;
        let status = job.status.unwrap_or_default();
        let last = status.last_schedule_time.as_ref().map(from_time).context("no tick")?;
        let created = job.metadata.creation_timestamp.as_ref().map(from_time).context("a time")?;
        let ticks: BTreeSet<String> =
            minutes(created, last).map(|tick| tick.format("%Y%m%d-%H%M").to_string()).collect();
        let of = runs.iter().filter(|run| run.spec.backup_job_name == name);
        let claimed: BTreeMap<String, &BackupRun> = of
            .filter_map(|run| Some((run.metadata.name.as_deref()?.strip_prefix(&format!("{name}-"))?.to_owned(), run)))
            .collect();
        let skipped = usize::try_from(status.skipped_runs.unwrap_or(0))?;
        outcome.ticks += ticks.len();
        outcome.runs += claimed.len();
        outcome.skipped += skipped;
        outcome.lost += ticks.len().saturating_sub(claimed.len() + skipped);
        outcome.doubled += (claimed.len() + skipped).saturating_sub(ticks.len());
        outcome.doubled += claimed.keys().filter(|tick| !ticks.contains(*tick)).count();
        for run in claimed.values() {
            judge(scene, run, &objects, &mut outcome).await?;
        }
    }
    outcome.left_behind += scene.open_uploads()?.len();
    Ok(outcome)
}

/// One run, and what lies of it at the destination.
async fn judge(scene: &Scene, run: &BackupRun, objects: &[String], outcome: &mut Outcome) -> Result<()> {
    let name = run.metadata.name.as_deref().context("a name")?;
    let status = run.status.clone().unwrap_or_default();
    outcome.attempts_lost +=
        status.attempts.iter().filter(|one| one.reason.as_deref() == Some("OperatorRestarted")).count();
    let of = |key: &&String| key.rsplit('/').nth(1).is_some_and(|folder| folder.starts_with(&format!("{name}-")));
    let keys = objects.iter().filter(of).filter_map(|key| key.rsplit_once('/'));
    let folders: BTreeSet<&str> = keys.clone().map(|(folder, _)| folder).collect();
    let backups = keys.filter(|(_, name)| *name == "manifest.json").count();
    outcome.left_behind += folders.len() - backups;
    outcome.doubled += backups.saturating_sub(1);
    if status.phase == Phase::Succeeded {
        outcome.succeeded += 1;
        // The archive's own folder: nobody needs to read what lies in the others.
        let uri = format!("{}/{}/{}", scene.uri(), scene.namespace, run.spec.backup_job_name);
        let verified = Command::new(&scene.installed.cluster.ubo)
            .args(["verify", &uri, name])
            .envs(scene.keys())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()
            .await?;
        outcome.not_whole += usize::from(backups != 1 || !verified.success());
    } else if status.reason.as_deref() == Some("CrashLoop") {
        outcome.crash_loops += 1;
        outcome.not_whole += backups;
    } else {
        println!("{name}: {:?} {:?} {:?}", status.phase, status.reason, status.message);
        outcome.failed += 1;
    }
    Ok(())
}

/// Every whole minute after `from`, up to `to`.
fn minutes(from: DateTime<Utc>, to: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
    let first = from.timestamp().div_euclid(60) + 1;
    (first..=to.timestamp().div_euclid(60)).filter_map(|minute| DateTime::from_timestamp(minute * 60, 0))
}
