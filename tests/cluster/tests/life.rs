//! What can happen to a backup while it runs: its pod, its BackupJob, its BackupRun or its namespace goes, it is told to
//! stop, or another one wants the same directory. Whatever it is: it is said, and nothing is left behind.

mod installed;
mod scene;
mod through;

use anyhow::{Context, Result, ensure};
use installed::{until, until_for};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::ListParams;
use rig::fault_proxy::{Fault, Rule, Which};
use scene::{BUSYBOX, HOLD, SLEEP, Scene, edit};
use serde_json::{Value, json};
use std::time::Duration;
use ubo::api::backup_job::{BackupJob, JobPhase};
use ubo::api::backup_run::BackupRun;
use ubo::api::names::{JobRef, Uid};
use ubo::api::time::{from_time, to_time};
use ubo::controller::records::ClusterRecords;
use ubo::run::Phase;
use ubo::run::ports::{StatusWrite, Written};

/// Enough for an upload in parts to be open, then a process that shows where it is and would go on for long.
const STREAM: &str = "head -c 30000000 /dev/urandom; sleep 3601";
/// The same in the directory form.
const DIRECTORY: &str = "echo half > /backup/half; sleep 3602";
/// What a run waits for that a test lets go on.
const UNTIL_TOLD: &str = "until [ -e /go ]; do sleep 0.2; done; echo data";

/// A namespace that is deleted in mid-run is gone by then, since nothing of ours holds it.
const A_MINUTE: Duration = Duration::from_mins(1);

/// Kills a pod as a node that fails does.
async fn kill(scene: &Scene, pod: &str) -> Result<()> {
    scene.kubectl(&["delete", "pod", pod, "--grace-period=0", "--force", "--wait=false"]).await.map(drop)
}

/// Waits until the command of a run is in the middle of its work in pod `box`.
async fn in_the_middle(scene: &Scene, run: &str, process: &str) -> Result<()> {
    scene.at_work(run).await?;
    let (first, rest) = process.split_at(1);
    let look = format!("ps | grep '[{first}]{rest}' || true");
    until(&format!("process {process}"), || async { Ok((!scene.exec("box", &look).await?.is_empty()).then_some(())) })
        .await
}

/// No process, no folder, no object, no upload, and no BackupRun of that name.
async fn all_gone(scene: &Scene, run: &str) -> Result<()> {
    scene.no_process("box", "sleep 360").await?;
    scene.no_process("box", "UBO_").await?;
    ensure!(scene.exec("box", "ls -A / | grep backup || true").await?.is_empty(), "something of /backup is left");
    scene.nothing_left().await?;
    let runs = scene.api::<BackupRun>();
    until(&format!("BackupRun {run} to go"), || async { Ok(runs.get_opt(run).await?.is_none().then_some(())) }).await
}

#[tokio::test]
async fn a_pod_that_is_killed_fails_the_run() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("killed", STREAM, |_| {})).await?;
    in_the_middle(&scene, "killed-once", "sleep 3601").await?;
    kill(&scene, "box").await?;
    let status = scene.ended("killed-once").await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(matches!(status.reason.as_deref(), Some("TargetGone")), "{status:?}");
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test]
async fn a_pod_that_comes_back_is_backed_up_after_all() -> Result<()> {
    let scene = Scene::new("life").await?;
    let set = |mode: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "updateStrategy": {"type": "OnDelete"},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never",
                        "command": ["sh", "-c", SLEEP], "env": [{"name": "MODE", "value": mode}]}],
                }},
            },
        })
    };
    scene.apply(&set("slow")).await?;
    let job = scene.job("again", "echo begin; [ $MODE = quick ] || sleep 3600; echo end", |job| {
        edit(job, "spec.target", json!({"kind": "StatefulSet", "name": "db"}));
        edit(job, "spec.retry", json!({"limit": 10, "backoffSeconds": 1}));
    });
    scene.apply(&job).await?;
    scene.at_work("again-once").await?;
    scene.apply(&set("quick")).await?;
    until("the command to run", || async {
        let seen = scene.exec("db-0", "ps | grep '[s]leep 3600' || true").await.unwrap_or_default();
        Ok((!seen.is_empty()).then_some(()))
    })
    .await?;
    kill(&scene, "db-0").await?;
    let status = scene.ended("again-once").await?;
    ensure!(status.phase == Phase::Succeeded && status.attempts.len() > 1, "{status:?}");
    let reasons: Vec<_> = status.attempts.iter().filter_map(|attempt| attempt.reason.as_deref()).collect();
    ensure!(reasons.contains(&"TargetGone"), "{reasons:?}");
    ensure!(scene.decompressed(&status).await? == b"begin\nend\n", "the bytes of another attempt");
    // One folder is a backup, and nothing of the attempts before it is listed.
    let manifests = scene.objects().await?.iter().filter(|key| key.ends_with("/manifest.json")).count();
    ensure!(manifests == 1, "{:?}", scene.objects().await?);
    scene.end().await
}

#[tokio::test]
async fn two_directories_on_one_pod_take_turns() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    // Each would see what another leaves there meanwhile, and takes its time.
    let jobs = ["first", "second", "third"].map(|name| {
        scene.job(
            name,
            &format!("echo {name} > /backup/{name}; sleep 1; seen=$(ls /backup); echo $seen > /backup/seen"),
            |_| {},
        )
    });
    let statuses = scene.back_up_all(&jobs).await?;
    let mut times = Vec::new();
    for (status, name) in statuses.iter().zip(["first", "second", "third"]) {
        ensure!(status.phase == Phase::Succeeded && status.attempts.len() == 1, "{status:?}");
        let tar = scene.decompressed(status).await?;
        let seen = scene::pipe("tar", &["-x", "-O", "./seen"], tar).await?;
        ensure!(seen == format!("{name}\n").as_bytes(), "{name} saw {:?}", String::from_utf8_lossy(&seen));
        let attempt = &status.attempts[0];
        times.extend(attempt.start_time.as_ref().map(from_time).zip(attempt.completion_time.as_ref().map(from_time)));
    }
    times.sort();
    ensure!(times.len() == 3 && times.windows(2).all(|pair| pair[0].1 <= pair[1].0), "they overlap: {times:?}");
    scene.end().await
}

#[tokio::test]
async fn a_directory_that_somebody_else_has_is_waited_for_and_no_attempt_is_lost() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.exec("box", HOLD).await?;
    // Neither may try again.
    scene.apply(&scene.job("waits", "ls /backup > /tmp/seen; echo ours > /backup/ours", |_| {})).await?;
    scene.apply(&scene.job("stops", "echo never > /backup/never", |_| {})).await?;
    let looked = |times: u32| {
        move |run: &BackupRun| {
            let status = run.status.clone().unwrap_or_default();
            status.phase == Phase::Pending && status.attempts.last().is_some_and(|last| last.number >= times)
        }
    };
    scene.run_until("stops-once", "to wait", looked(1)).await?;
    scene.kubectl(&["patch", "br", "stops-once", "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).await?;
    let status = scene.ended("stops-once").await?;
    ensure!(status.phase == Phase::Cancelled, "{status:?}");
    let status = scene.run_until("waits-once", "to have looked again", looked(2)).await?;
    ensure!(status.attempts.len() == 1 && status.reason.as_deref() == Some("BackupDirectoryBusy"), "{status:?}");
    ensure!(status.message.as_deref().is_some_and(|said| said.contains("elsewhere-20261124-0200")), "{status:?}");
    let theirs = scene.exec("box", "cat /backup/theirs").await?;
    ensure!(theirs == "theirs\n", "{theirs}");
    // Dead, its leavings are cleared away.
    scene.exec("box", "kill $(cat /tmp/holder)").await?;
    let status = scene.ended("waits-once").await?;
    let reasons: Vec<_> = status.attempts.iter().filter_map(|attempt| attempt.reason.as_deref()).collect();
    ensure!(status.phase == Phase::Succeeded && reasons == ["BackupDirectoryBusy", "Succeeded"], "{status:?}");
    let seen = scene.exec("box", "cat /tmp/seen; ls -A / | grep backup || true").await?;
    ensure!(seen.is_empty(), "something was there, or is left: {seen}");
    let tar = scene.decompressed(&status).await?;
    ensure!(scene::pipe("tar", &["-x", "-O", "./ours"], tar).await? == b"ours\n", "{status:?}");
    // Of all the looks nothing lies at the destination.
    let folder = status.destinations.first().and_then(|found| found.folder.clone()).context("a folder")?;
    let rest =
        scene.objects().await?.into_iter().filter(|key| !key.ends_with("/owner.json") && !key.starts_with(&folder));
    let rest: Vec<_> = rest.collect();
    ensure!(rest.is_empty(), "{rest:?}");
    let said = scene.event_reasons("waits-once").await?;
    let waits = said.iter().filter(|reason| *reason == "RunWaits").count();
    ensure!(waits == 1 && !said.iter().any(|reason| reason == "AttemptRetried"), "{said:?}");
    scene.end().await
}

#[tokio::test]
async fn a_backupjob_deleted_in_mid_run_takes_its_run_with_it() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("stream", STREAM, |_| {})).await?;
    scene.apply(&scene.job("folder", DIRECTORY, |_| {})).await?;
    in_the_middle(&scene, "stream-once", "sleep 3601").await?;
    in_the_middle(&scene, "folder-once", "sleep 3602").await?;
    scene.kubectl(&["delete", "bj", "stream", "folder"]).await?;
    all_gone(&scene, "stream-once").await?;
    all_gone(&scene, "folder-once").await?;
    scene.end().await
}

#[tokio::test]
async fn a_backupjob_replaced_in_mid_run_begins_anew() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("same", STREAM, |_| {})).await?;
    in_the_middle(&scene, "same-once", "sleep 3601").await?;
    let old = scene.api::<BackupRun>().get("same-once").await?.metadata.uid;
    let new = scene.job("same", "echo new", |_| {});
    let replace = ["-n", &scene.namespace, "replace", "--force", "-f", "-"];
    scene.installed.kubectl(&replace, &new.to_string()).await?;
    // The name is free as soon as the old run has cleaned up; nobody waits longer than that.
    let status = scene
        .run_until("same-once", "to be the new one's, and over", |run| {
            run.metadata.uid != old && ubo::run::ports::phase_of(run).is_final()
        })
        .await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    ensure!(scene.decompressed(&status).await? == b"new\n", "the old one's bytes");
    scene.no_process("box", "sleep 3601").await?;
    ensure!(scene.open_uploads()?.is_empty(), "{:?}", scene.open_uploads());
    let manifests = scene.objects().await?.iter().filter(|key| key.ends_with("/manifest.json")).count();
    ensure!(manifests == 1, "{:?}", scene.objects().await?);
    scene.end().await
}

#[tokio::test]
async fn a_backupjob_suspended_or_edited_in_mid_run_lets_it_end() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = |change: fn(&mut Value)| {
        scene.job("job", UNTIL_TOLD, |job| {
            edit(job, "spec.schedule", json!("@yearly"));
            change(job);
        })
    };
    scene.apply(&job(|_| {})).await?;
    let run = scene.start("job").await?;
    in_the_middle(&scene, &run, "sleep 0.2").await?;
    let changed = job(|job| {
        edit(job, "spec.suspend", json!(true));
        edit(job, "spec.strategy.command", json!("echo edited"));
    });
    scene.apply(&changed).await?;
    scene
        .job_until("job", "to be seen as suspended", |job| {
            let status = job.status.clone().unwrap_or_default();
            status.observed_generation == job.metadata.generation
                && status.schedule_anchor.is_some_and(|a| a.suspend == Some(true))
        })
        .await?;
    scene.exec("box", "touch /go").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    ensure!(scene.decompressed(&status).await? == b"data\n", "not what it began with");
    let ran = status.spec.and_then(|spec| spec.strategy.command);
    ensure!(ran.as_deref() == Some(UNTIL_TOLD), "status.spec is not what ran: {ran:?}");
    let phase = |job: &BackupJob| job.status.as_ref().and_then(|status| status.phase.clone());
    scene.job_until("job", "to be Suspended", |job| phase(job) == Some(JobPhase::Suspended)).await?;
    scene.end().await
}

#[tokio::test]
async fn a_run_is_told_to_stop() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("cancel", STREAM, |_| {})).await?;
    in_the_middle(&scene, "cancel-once", "sleep 3601").await?;
    // A second one of the same BackupJob waits; it can be told, too.
    let waiting = scene.start("cancel").await?;
    let waits = |run: &BackupRun| {
        run.status.as_ref().is_some_and(|s| s.message.as_deref().is_some_and(|m| m.contains("waits")))
    };
    scene.run_until(&waiting, "to wait", waits).await?;
    for run in [&waiting, "cancel-once"] {
        scene.kubectl(&["patch", "br", run, "--type=merge", "-p", r#"{"spec":{"cancel":true}}"#]).await?;
        let status = scene.ended(run).await?;
        ensure!(status.phase == Phase::Cancelled, "{status:?}");
        ensure!(status.reason.as_deref() == Some("CancelRequested"), "{status:?}");
    }
    scene.no_process("box", "sleep 3601").await?;
    scene.nothing_left().await?;
    let job = scene.job_until("cancel", "to be Cancelled", |job| {
        job.status.as_ref().is_some_and(|status| status.phase == Some(JobPhase::Cancelled))
    });
    // Somebody wanted it: no failure.
    let failures = job.await?.status.and_then(|status| status.consecutive_failures).unwrap_or(0);
    ensure!(failures == 0, "counted as {failures} failures");
    scene.end().await
}

#[tokio::test]
async fn a_deleted_run_stops_and_a_one_off_stays_done() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("once", DIRECTORY, |_| {})).await?;
    in_the_middle(&scene, "once-once", "sleep 3602").await?;
    scene.kubectl(&["delete", "br", "once-once"]).await?;
    all_gone(&scene, "once-once").await?;
    // The operator has looked at the BackupJob again by the time another run of it is over, and starts it no second time.
    scene.apply(&scene.job("once", "echo data", |_| {})).await?;
    let run = scene.start("once").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene
        .job_until("once", "to have seen that", |job| {
            job.status.as_ref().is_some_and(|status| status.phase == Some(JobPhase::Succeeded))
        })
        .await?;
    let runs = scene.api::<BackupRun>().list(&ListParams::default()).await?;
    let names: Vec<_> = runs.items.iter().filter_map(|run| run.metadata.name.clone()).collect();
    ensure!(names == [run], "{names:?}");
    scene.end().await
}

#[tokio::test]
async fn a_namespace_deleted_in_mid_run_goes() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&scene.job("stream", STREAM, |_| {})).await?;
    scene.apply(&scene.job("minutely", "echo data", |job| edit(job, "spec.schedule", json!("* * * * *")))).await?;
    in_the_middle(&scene, "stream-once", "sleep 3601").await?;
    let all: Api<Namespace> = Api::all(scene.installed.admin.clone());
    scene.installed.remove_namespace(&scene.namespace).await?;
    let gone = || async { Ok(all.get_opt(&scene.namespace).await?.is_none().then_some(())) };
    until_for(A_MINUTE, "the namespace to go", gone).await.context("a finalizer of ours holds it")?;
    let pods: Api<Pod> = scene.api();
    ensure!(pods.list(&ListParams::default()).await?.items.is_empty(), "pods are left");
    let rest: Vec<_> = scene.objects().await?.into_iter().filter(|key| key.contains("/stream-once-")).collect();
    ensure!(rest.is_empty() && scene.open_uploads()?.is_empty(), "{rest:?} {:?}", scene.open_uploads());
    Ok(())
}

/// What a run has at its destination cannot be removed: that does not hold its namespace up.
#[tokio::test]
async fn a_namespace_goes_though_the_destination_does_not_answer() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let proxy = through::proxy(&scene)?;
    scene.apply(&through::job_through(&scene, "stream", STREAM, &proxy.endpoint())).await?;
    in_the_middle(&scene, "stream-once", "sleep 3601").await?;
    until("an upload to be open", || async { Ok((!scene.open_uploads()?.is_empty()).then_some(())) }).await?;
    proxy.rule(Rule::new(Which::All, Fault::Stall));
    let all: Api<Namespace> = Api::all(scene.installed.admin.clone());
    scene.installed.remove_namespace(&scene.namespace).await?;
    let gone = || async { Ok(all.get_opt(&scene.namespace).await?.is_none().then_some(())) };
    until_for(A_MINUTE, "the namespace to go", gone).await.context("a finalizer of ours holds it")?;
    // It was told to stop, and tried to.
    let tried = proxy.seen().requests;
    ensure!(tried.iter().any(|request| request.method == "DELETE"), "nobody tried to clear it away: {tried:?}");
    Ok(())
}

/// A leader that was paused, and whose write of a BackupJob's status arrives when another one leads.
#[tokio::test]
async fn a_late_write_takes_back_no_tick() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let asleep = scene.job("asleep", "echo data", |job| {
        edit(job, "spec.schedule", json!("0 2 * * *"));
        edit(job, "spec.suspend", json!(true));
    });
    scene.apply(&asleep).await?;
    let seen = scene
        .job_until("asleep", "to be looked at", |job| {
            job.status.as_ref().is_some_and(|status| status.phase == Some(JobPhase::Suspended))
        })
        .await?;
    let records = ClusterRecords::new(scene.installed.operator().await?.admin);
    let reference = JobRef::new(&scene.namespace, "asleep")?;
    let uid = Uid::new(seen.metadata.uid.clone().context("a UID")?)?;
    let write = |uid: &Uid, tick: &str, message: &str| -> Result<StatusWrite> {
        let mut status = seen.status.clone().context("a status")?;
        status.last_schedule_time = Some(to_time(tick.parse()?));
        status.message = Some(message.to_owned());
        let version = seen.metadata.resource_version.clone().context("a version")?;
        Ok(StatusWrite { uid: uid.clone(), version, status: Box::new(status) })
    };
    let stored = || async {
        let status = scene.job_now("asleep").await?.status.context("a status")?;
        anyhow::Ok(status.last_schedule_time.as_ref().map(from_time))
    };
    let (early, late) = ("2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z");
    ensure!(records.write_job(&reference, &write(&uid, late, "of who leads")?).await? == Written::Yes);
    ensure!(records.write_job(&reference, &write(&uid, early, "of who led")?).await? == Written::Yes);
    ensure!(stored().await? == Some(late.parse()?), "a tick that was handled is not any more: {:?}", stored().await?);
    let another = Uid::new("00000000-0000-0000-0000-000000000001")?;
    let write = write(&another, "2026-11-26T02:00:00Z", "of another object")?;
    ensure!(records.write_job(&reference, &write).await? == Written::Gone);
    ensure!(stored().await? == Some(late.parse()?), "another object was marked");
    scene.end().await
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_ended_whatever_it_was_doing() -> Result<()> {
    let scene = Scene::new("life").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let limited = |name: &str, command: &str, retry: Value| {
        scene.job(name, command, |job| {
            edit(job, "spec.activeDeadlineSeconds", json!(6));
            edit(job, "spec.retry", retry);
        })
    };
    let jobs = [
        limited("works", STREAM, json!({"limit": 0})),
        // Each attempt is short, and there could be many: all of them together count.
        limited("tries", "exit 3", json!({"limit": 20, "backoffSeconds": 1})),
    ];
    let statuses = scene.back_up_all(&jobs).await?;
    for status in &statuses {
        ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("DeadlineExceeded"), "{status:?}");
    }
    ensure!(statuses[0].attempts.len() == 1 && statuses[1].attempts.len() > 1, "{statuses:?}");
    scene.no_process("box", "sleep 3601").await?;
    scene.nothing_left().await?;
    scene.end().await
}
