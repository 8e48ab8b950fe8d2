//! The API server as the operator meets it in bad times: it cannot, it does what it is asked and nobody hears of it, it does
//! not answer, it is slow. Whatever fails, each tick has one run, which works once, and what is stored of it is right.
//!
//! One operator alone goes through a proxy that ends its TLS, so that single requests can be chosen.

mod installed;
mod operator;
mod scene;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use installed::until;
use kube::Api;
use kube::api::ListParams;
use operator::{Operator, lonely, no_longer_lonely};
use rig::fault_proxy::{Fault, FaultProxy, Rule, Which};
use scene::{BUSYBOX, Scene, edit, is_of, pipe};
use serde_json::json;
use std::collections::BTreeSet;
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::api::time::from_time;
use ubo::clock::{Clock, SystemClock};
use ubo::run::Phase;

/// The first three requests to create a BackupRun of one of these fail, each in another way.
const CLAIMED: [&str; 4] = ["one", "two", "three", "four"];
/// Of these the writes of status fail, each job's in one way.
const WRITTEN: [&str; 3] = [REFUSED, UNHEARD, STALLED];
const REFUSED: &str = "refused";
const UNHEARD: &str = "unheard";
const STALLED: &str = "stalled";
/// So many bytes pass in a second, and so many are backed up meanwhile.
const SLOW: u64 = 1_000_000;
const BYTES: u64 = 12_000_000;

#[tokio::test]
async fn whatever_the_api_server_fails_at_each_tick_has_one_run_that_works_once() -> Result<()> {
    let (claims, writes) = tokio::try_join!(Bad::scene(&CLAIMED), Bad::scene(&WRITTEN))?;
    let installed = &claims.scene.installed;
    let proxy = FaultProxy::api(&installed.cluster)?;
    rules(&proxy, &claims.scene, &writes.scene);
    Operator::now(installed).await?.scale(installed, 0).await?;
    let played = async {
        tokio::try_join!(claims.is_due(), writes.is_due())?;
        // What was missed is made up for at once, and not within ten minutes.
        let alone = lonely(installed, proxy.address(), &[("UBO_CATCH_UP_WINDOW", "0")]).await?;
        slowly(&writes.scene, &proxy).await.context("at one megabyte per second")?;
        let done = (claims.is_done(&alone).await?, writes.is_done(&alone).await?);
        befell(&proxy).await?;
        // Given up long ago, they reach the API server now.
        proxy.release();
        let held = || proxy.seen().requests.into_iter().filter(|request| request.fault == Some(Fault::Stall));
        until("what was held to be answered", || async {
            Ok(held().all(|request| request.status.is_some()).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}", held().collect::<Vec<_>>()))?;
        let done_late: Vec<_> = held().filter(|request| request.status != Some(409)).collect();
        ensure!(done_late.is_empty(), "what came too late was done: {done_late:?}");
        let after = (claims.is_done(&alone).await?, writes.is_done(&alone).await?);
        ensure!(after == done, "{done:?} became {after:?}");
        let said = installed.kubectl(&["-n", "backup-system", "logs", &alone], "").await?;
        // Once, before it had its own Lease for the first time.
        ensure!(said.matches("duty=CutOff").count() == 1, "it believed itself cut off: {said}");
        Ok(())
    };
    let played = Box::pin(played).await;
    let restored = no_longer_lonely(installed).await;
    played?;
    restored?;
    claims.scene.end().await?;
    writes.scene.end().await
}

/// What befalls the requests, most of them among the first of their kind.
fn rules(proxy: &FaultProxy, claims: &Scene, writes: &Scene) {
    let claim = |which, fault| {
        let path = format!("/namespaces/{}/backupruns?", claims.namespace);
        Rule::new(which, fault).method("POST").containing(&path)
    };
    let status = |plural: &str, job: &str, which, fault| {
        let path = format!("/namespaces/{}/{plural}/{job}", writes.namespace);
        Rule::new(which, fault).method("PATCH").containing(&path).containing("/status?")
    };
    let lease = |name: &str, which, fault| {
        Rule::new(which, fault).method("PUT").containing(&format!("/namespaces/backup-system/leases/{name}"))
    };
    let unheard = || Fault::CutAnswerAfter(0);
    let refused = || Fault::Status(503);
    for rule in [
        claim(Which::Nth(1), refused()),
        claim(Which::Nth(2), unheard()),
        claim(Which::Nth(3), Fault::Stall),
        status("backupruns", REFUSED, Which::First(3), refused()),
        status("backupjobs", REFUSED, Which::First(3), refused()),
        // Also the answers that say that the version is an old one, which it is because of the first.
        status("backupruns", UNHEARD, Which::First(3), unheard()),
        status("backupjobs", UNHEARD, Which::First(3), unheard()),
        // Then the opening of the attempt is stored, and this is its end.
        status("backupruns", UNHEARD, Which::Nth(6), unheard()),
        status("backupruns", STALLED, Which::Nth(2), Fault::Stall),
        status("backupjobs", STALLED, Which::Nth(1), Fault::Stall),
        lease("ubo-scheduler", Which::Nth(2), refused()),
        lease("ubo-scheduler", Which::Nth(4), unheard()),
        lease("ubo-scheduler", Which::Nth(7), Fault::Stall),
        lease("ubo-executor-", Which::Nth(1), refused()),
        lease("ubo-executor-", Which::Nth(2), unheard()),
    ] {
        proxy.rule(rule);
    }
}

/// Waits until every rule has had its time.
async fn befell(proxy: &FaultProxy) -> Result<()> {
    let kinds =
        [("/backupruns?", 3), ("/backupruns/", 3), ("/backupjobs/", 3), ("/ubo-scheduler", 3), ("/ubo-executor-", 2)];
    for (path, faults) in kinds {
        let befallen = || {
            let requests = proxy.seen().requests.into_iter().filter(|request| request.target.contains(path));
            requests.filter_map(|request| request.fault).fold(Vec::new(), |mut kinds, fault| {
                if !kinds.contains(&fault) {
                    kinds.push(fault);
                }
                kinds
            })
        };
        until(&format!("{faults} faults of {path}"), || async { Ok((befallen().len() == faults).then_some(())) })
            .await?;
    }
    Ok(())
}

/// From its first byte to its last at so many bytes per second, and whole.
async fn slowly(scene: &Scene, proxy: &FaultProxy) -> Result<()> {
    let digest = scene.exec("box", &format!("head -c {BYTES} /dev/urandom > /tmp/data; sha256sum < /tmp/data")).await?;
    let before = proxy.seen().bytes_down;
    proxy.limit(Some(SLOW));
    let status = scene.back_up(&scene.job("slow", "cat /tmp/data", |_| {})).await?;
    proxy.limit(None);
    ensure!(status.phase == Phase::Succeeded && status.attempts.len() == 1, "{status:?}");
    ensure!(proxy.seen().bytes_down - before > BYTES, "it did not go through the proxy");
    let (start, end) =
        (status.start_time.as_ref().context("a start")?, status.completion_time.as_ref().context("an end")?);
    let took = (from_time(end) - from_time(start)).num_seconds();
    ensure!(took + 2 >= i64::try_from(BYTES / SLOW)?, "it was not slowed down: {took} s");
    let stored = pipe("sha256sum", &[], scene.decompressed(&status).await?).await?;
    ensure!(stored == digest.as_bytes(), "the bytes differ");
    Ok(())
}

/// BackupJobs with one tick each, in a namespace of their own.
struct Bad {
    scene: Scene,
    jobs: &'static [&'static str],
    tick: DateTime<Utc>,
}

impl Bad {
    async fn scene(jobs: &'static [&'static str]) -> Result<Self> {
        let scene = Scene::new("failing-api").await?;
        scene.pod("box", BUSYBOX, |_| {}).await?;
        let tick = SystemClock.now() - TimeDelta::minutes(5);
        let tick = tick.with_second(0).and_then(|tick| tick.with_nanosecond(0)).context("a minute")?;
        Ok(Self { scene, jobs, tick })
    }

    /// Each was due once, while no operator was there: no other tick falls into the test.
    async fn is_due(&self) -> Result<()> {
        let scene = &self.scene;
        let schedule = format!("{} * * * *", self.tick.minute());
        let jobs = self.jobs.iter().map(|name| {
            let command = format!("echo {name} >> /tmp/worked; echo backup of {name}");
            scene.job(name, &command, |job| edit(job, "spec.schedule", json!(schedule)))
        });
        scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": jobs.collect::<Vec<_>>()})).await?;
        let as_operator = scene.installed.operator().await?;
        let since = (self.tick - TimeDelta::minutes(5)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = json!({"status": {"scheduleAnchor": {"time": since, "schedule": schedule, "suspend": false}}});
        for job in self.jobs {
            let path = format!("/apis/backup.javy.dev/v1/namespaces/{}/backupjobs/{job}/status", scene.namespace);
            ensure!(as_operator.merge(&path, &since).await?.is_ok(), "the operator may not write its own status");
        }
        Ok(())
    }

    /// Each tick has its run and no other one, which has worked once; both statuses say so; nothing else is left of it. Gives
    /// what is stored.
    async fn is_done(&self, alone: &str) -> Result<Vec<BackupRunStatus>> {
        let scene = &self.scene;
        let mut statuses = Vec::new();
        for job in self.jobs {
            let run = self.run_of(job);
            let status = scene.ended(&run).await?;
            let attempts: Vec<_> = status.attempts.iter().map(|attempt| attempt.reason.as_deref()).collect();
            ensure!(status.phase == Phase::Succeeded && attempts == [Some("Succeeded")], "{run}: {status:?}");
            ensure!(status.executor.as_deref().is_some_and(|executor| is_of(executor, alone)), "{run}: {status:?}");
            ensure!(scene.decompressed(&status).await? == format!("backup of {job}\n").as_bytes(), "{run}: {status:?}");
            scene
                .job_until(job, "to know of its backup", |job| {
                    job.status.as_ref().is_some_and(|status| {
                        status.last_schedule_time.as_ref().map(from_time) == Some(self.tick)
                            && status.last_success_time.is_some()
                            && status.consecutive_failures.unwrap_or(0) == 0
                    })
                })
                .await?;
            statuses.push(status);
        }
        let api: Api<BackupRun> = scene.api();
        let runs = api.list(&ListParams::default()).await?.items.into_iter().filter_map(|run| run.metadata.name);
        let mut runs: Vec<_> = runs.filter(|run| run != "slow-once").collect();
        runs.sort_unstable();
        let mut expected: Vec<_> = self.jobs.iter().map(|job| self.run_of(job)).collect();
        expected.sort_unstable();
        ensure!(runs == expected, "{runs:?} instead of {expected:?}");
        let worked = scene.exec("box", "sort /tmp/worked").await?;
        let mut jobs = self.jobs.to_vec();
        jobs.sort_unstable();
        ensure!(worked.lines().eq(jobs), "these commands were run: {worked:?}");
        let objects = scene.objects().await?;
        for run in &runs {
            let folder = format!("/{run}-");
            let of_it: Vec<_> = objects.iter().filter(|key| key.contains(&folder)).collect();
            let folders = of_it.iter().filter_map(|key| key.rsplit_once('/').map(|(folder, _)| folder));
            let whole = of_it.iter().filter(|key| key.ends_with("/manifest.json")).count();
            ensure!(whole == 1 && folders.collect::<BTreeSet<_>>().len() == 1, "{of_it:?}");
        }
        ensure!(scene.open_uploads()?.is_empty(), "uploads left: {:?}", scene.open_uploads());
        Ok(statuses)
    }

    fn run_of(&self, job: &str) -> String {
        self.tick.format(&format!("{job}-%Y%m%d-%H%M")).to_string()
    }
}
