//! One operator alone behind a proxy: its connections are cut or reset, and it lives on; then it cannot be heard any more.

use crate::installed::{Installed, until, until_for};
use crate::operator::{Operator, lonely, no_longer_lonely};
use crate::scene::{self, Scene, TWO_LEASES};
use crate::{IN_A_DIRECTORY, STAGE, UNTIL_TOLD, begun, executor, gone, manifests, may_go, reasons, runs, tried_twice};
use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use rig::fault_proxy::FaultProxy;
use ubo::api::time::from_time;
use ubo::run::Phase;

/// Of a stream, before it waits: enough for an upload in parts to be open.
const BYTES: usize = 30_000_000;

#[tokio::test]
async fn a_stream_that_is_cut_or_reset_is_no_backup_and_who_is_cut_off_ends_its_run_before_another_one_begins_it()
-> Result<()> {
    let _alone = STAGE.lock().await;
    let (cut, reset, off) = tokio::try_join!(crate::scene(), crate::scene(), crate::scene())?;
    let installed = &off.installed;
    let proxy = FaultProxy::tcp(&installed.cluster.node, &installed.cluster.api)?;
    // It is a pod of its own, so that the Deployment's replicas are not behind the proxy.
    let operator = Operator::now(installed).await?;
    operator.scale(installed, 0).await?;
    let result = async {
        let alone = lonely(installed, proxy.address(), &[]).await?;
        Box::pin(broken(&cut, &proxy, &alone, FaultProxy::cut)).await.context("orderly ends")?;
        Box::pin(broken(&reset, &proxy, &alone, FaultProxy::reset)).await.context("resets")?;
        cut_off(&off, &proxy, &alone).await
    }
    .await;
    let restored = no_longer_lonely(installed).await;
    result?;
    restored?;
    cut.end().await?;
    reset.end().await?;
    off.end().await
}

/// All that it has open ends at once (two streams, watches, calls), in order (FIN) or not (RST), and can be had again: the
/// next attempts are backups, what is made from then on is seen, and the process is the same.
async fn broken(scene: &Scene, proxy: &FaultProxy, alone: &str, end: fn(&FaultProxy)) -> Result<()> {
    let stream = format!("head -c {BYTES} /dev/urandom; {UNTIL_TOLD}");
    scene.apply(&tried_twice(scene, "stream", &stream)).await?;
    begun(scene, 1).await?;
    scene.apply(&tried_twice(scene, "folder", IN_A_DIRECTORY)).await?;
    begun(scene, 2).await?;
    until("an upload to be open", || async { Ok((!scene.open_uploads()?.is_empty()).then_some(())) }).await?;
    let first = executor(scene, "stream-once").await?;
    ensure!(scene::is_of(&first, alone), "executed by {first}");
    let before = proxy.seen();
    ensure!(before.open > 0, "the operator does not go through the proxy");
    end(proxy);
    scene.apply(&scene.job("later", "echo later", |_| {})).await?;
    begun(scene, 4).await?;
    gone(scene, 1).await?;
    gone(scene, 2).await?;
    // Only a watch tells of it, so the watches are back.
    let later = scene.ended("later-once").await?;
    ensure!(later.phase == Phase::Succeeded && reasons(&later) == ["Succeeded"], "{later:?}");
    scene
        .job_until("later", "to be Ready", |job| {
            let mut conditions = job.status.iter().flat_map(|status| &status.conditions);
            conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
        .await?;
    may_go(scene).await?;
    let (stream, folder) = (scene.ended("stream-once").await?, scene.ended("folder-once").await?);
    for status in [&stream, &folder] {
        ensure!(status.phase == Phase::Succeeded && reasons(status) == ["StreamCut", "Succeeded"], "{status:?}");
    }
    // The same process before and after, and it goes through the proxy still.
    let attempts = [&stream, &folder, &later].into_iter().flat_map(|status| &status.attempts);
    for attempt in attempts {
        ensure!(attempt.executor.as_deref() == Some(&first), "the operator did not survive it: {attempt:?}");
    }
    let pods: Api<Pod> = Api::namespaced(scene.installed.admin.clone(), "backup-system");
    let containers = pods.get(alone).await?.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let restarts: Vec<_> = containers.iter().map(|container| container.restart_count).collect();
    ensure!(restarts == [0], "the operator was restarted: {restarts:?}");
    ensure!(proxy.seen().connections > before.connections, "no new connection");
    // Nothing is doubled, and of the first attempts nothing lies at the destination, since the operator lived on.
    ensure!(runs(scene).await?.len() == 3, "a run was doubled");
    let backups = manifests(scene).await?;
    let of = |word: &str| backups.iter().filter(|key| key.contains(word)).count();
    let each = ["/stream-once-", "/folder-once-", "/later-once-"].map(of);
    ensure!(backups.len() == 3 && each == [1; 3], "{backups:?}");
    let objects = scene.objects().await?;
    let rest: Vec<_> = objects.iter().filter(|key| key.contains("-1/") && !key.contains("/later-once-")).collect();
    ensure!(rest.is_empty() && scene.open_uploads()?.is_empty(), "{rest:?} {:?}", scene.open_uploads());
    let bytes = scene.decompressed(&stream).await?;
    ensure!(bytes.len() == BYTES + 12 && bytes.ends_with(b"begun\nwhole\n"), "{} bytes: {stream:?}", bytes.len());
    let tar = scene.decompressed(&folder).await?;
    ensure!(scene::pipe("tar", &["-x", "-O", "./dump"], tar).await? == b"whole\n", "{folder:?}");
    gone(scene, 3).await?;
    gone(scene, 4).await?;
    let left = scene.exec("box", "ls -d /backup /backup.ubo-run* 2> /dev/null || true").await?;
    ensure!(left.trim().is_empty(), "in the pod stays {left}");
    Ok(())
}

/// It lives, and cannot be heard: another one begins its run anew when it has ended it.
async fn cut_off(scene: &Scene, proxy: &FaultProxy, alone: &str) -> Result<()> {
    let installed = &scene.installed;
    scene.apply(&tried_twice(scene, "parted", IN_A_DIRECTORY)).await?;
    begun(scene, 1).await?;
    let first = executor(scene, "parted-once").await?;
    ensure!(scene::is_of(&first, alone), "executed by {first}");
    followers(installed).await?;
    proxy.stall(true);
    // The next attempt begins when the first one is gone from the pod, or ends with 9.
    begun(scene, 2).await?;
    gone(scene, 1).await?;
    may_go(scene).await?;
    let status = scene.ended("parted-once").await?;
    ensure!(status.phase == Phase::Succeeded && reasons(&status) == ["OperatorRestarted", "Succeeded"], "{status:?}");
    // It knew of itself, and had ended its attempt by then.
    let second = status.attempts[1].start_time.clone().context("a start")?;
    let failed = ["attempt failed", "run=parted-once", "attempt=1", "reason=ClusterUnavailable"];
    for words in [&["duty=CutOff", "running=1"][..], &failed] {
        let said = said_at(installed, alone, words).await?;
        ensure!(said < from_time(&second), "{words:?} was said at {said}, and the next attempt begun at {second:?}");
    }
    // Back again, it finds that its record is another's, and says nothing in it.
    proxy.stall(false);
    proxy.cut();
    let pods: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    until_for(TWO_LEASES, "it to find its run taken over", || async {
        let said = pods.logs(alone, &LogParams::default()).await?;
        Ok(said.contains("another process has the run by now").then_some(()))
    })
    .await?;
    let after = scene.ended("parted-once").await?;
    ensure!(after == status, "the record was changed: {after:?}");
    let backups = manifests(scene).await?;
    ensure!(backups.len() == 1 && backups[0].contains("-2/"), "{backups:?}");
    until("the first attempt's folder to be empty", || async {
        Ok((!scene.objects().await?.iter().any(|key| key.contains("-1/"))).then_some(()))
    })
    .await
}

/// When a pod of the operator wrote a line with all these words.
async fn said_at(installed: &Installed, pod: &str, words: &[&str]) -> Result<DateTime<Utc>> {
    let pods: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    let said = pods.logs(pod, &LogParams { timestamps: true, ..LogParams::default() }).await?;
    let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
    let line = line.with_context(|| format!("it never said {words:?}: {said}"))?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

/// Two replicas beside somebody else who leads.
async fn followers(installed: &Installed) -> Result<()> {
    installed.kubectl(&["-n", "backup-system", "scale", "deployment/operator", "--replicas=2"], "").await?;
    let api: Api<Deployment> = Api::namespaced(installed.admin.clone(), "backup-system");
    until_for(TWO_LEASES, "two followers to be ready", || async {
        let status = api.get("operator").await?.status.unwrap_or_default();
        Ok((status.ready_replicas == Some(2)).then_some(()))
    })
    .await
}
