//! Whose archive it is: a rebuilt cluster on an old bucket, two BackupJobs with one folder, a BackupJob that is made again.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use installed::until;
use kube::api::DeleteParams;
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use ubo::api::backup_job::BackupJob;
use ubo::api::names::ObjectKey;
use ubo::destination::Put;
use ubo::run::Phase;

/// Status, reason and message of the condition `RetentionStopped`.
fn retention_stopped(job: &BackupJob) -> Option<(&str, &str, &str)> {
    let conditions = job.status.as_ref()?.conditions.iter();
    let found = conditions.into_iter().find(|condition| condition.type_ == "RetentionStopped")?;
    Some((&found.status, &found.reason, &found.message))
}

/// `owner.json` of an archive.
async fn owner(scene: &Scene, archive: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&scene.read(&format!("{archive}/owner.json")).await?)?)
}

async fn told(scene: &Scene, name: &str, word: &str) -> Result<()> {
    until(&format!("an Event {word} about {name}"), || async {
        Ok(scene.event_reasons(name).await?.iter().any(|reason| reason == word).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_rebuilt_cluster_backs_up_and_deletes_nothing_until_it_is_told_to_go_on() -> Result<()> {
    let scene = Scene::new("owner").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    // What the cluster before this one left: the same names, another cluster.
    let archive = format!("{}/pg", scene.namespace);
    let old = json!({"formatVersion": 1, "clusterId": "01d00000-1111", "namespace": scene.namespace, "job": "pg", "jobUid": "01d00000-2222"});
    let key = ObjectKey::new(format!("{archive}/owner.json"))?;
    scene.destination()?.put(&key, Bytes::from(old.to_string()), Put::Always).await?;

    let status = scene.back_up(&scene.job("pg", "echo data", |_| {})).await?;
    ensure!(status.phase == Phase::Succeeded, "it backs up all the same: {status:?}");
    ensure!(scene.decompressed(&status).await? == b"data\n");
    ensure!(owner(&scene, &archive).await? == old, "owner.json was changed");
    let job = scene
        .job_until("pg", "to say whose archive it is", |job| {
            retention_stopped(job).is_some_and(|(status, ..)| status == "True")
        })
        .await?;
    let (_, reason, message) = retention_stopped(&job).context("a condition")?;
    ensure!(reason == "ForeignOwner", "{reason}");
    told(&scene, "pg", "ForeignOwner").await?;

    // The message holds the command that mends it: that very one.
    let command = message.split("kubectl ").nth(1).and_then(|rest| rest.split(';').next()).context("a command")?;
    scene.installed.kubectl(&command.split_whitespace().collect::<Vec<_>>(), "").await?;
    let run = scene.start("pg").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene
        .job_until("pg", "to own its archive", |job| {
            retention_stopped(job).is_some_and(|(status, reason, _)| (status, reason) == ("False", "OwnArchive"))
        })
        .await?;
    let uid = job.metadata.uid.context("a UID")?;
    ensure!(owner(&scene, &archive).await?["jobUid"] == uid, "owner.json is not the new owner's");
    told(&scene, "pg", "ArchiveTakenOver").await?;
    scene.end().await
}

#[tokio::test]
async fn two_jobs_in_one_folder_are_told_apart() -> Result<()> {
    let scene = Scene::new("owner").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let shared =
        |name: &str, command: &str| scene.job(name, command, |job| edit(job, "spec.archiveName", json!("shared")));
    let first = scene.back_up(&shared("first", "echo one")).await?;
    let second = scene.back_up(&shared("second", "echo two")).await?;
    ensure!((first.phase, second.phase) == (Phase::Succeeded, Phase::Succeeded), "{first:?} {second:?}");
    ensure!(scene.decompressed(&first).await? == b"one\n" && scene.decompressed(&second).await? == b"two\n");
    scene
        .job_until("second", "to say whose archive it is", |job| {
            retention_stopped(job).is_some_and(|(status, reason, _)| (status, reason) == ("True", "ForeignOwner"))
        })
        .await?;
    told(&scene, "second", "ForeignOwner").await?;
    ensure!(retention_stopped(&scene.job_now("first").await?).is_none(), "the owner has nothing to say");
    let first = scene.job_now("first").await?.metadata.uid.context("a UID")?;
    ensure!(owner(&scene, "shared").await?["jobUid"] == first);
    scene.end().await
}

/// The same at the same moment, and by the same name: two namespaces, one destination.
#[tokio::test]
async fn two_jobs_that_begin_one_archive_at_once_are_told_apart() -> Result<()> {
    let (one, two) = tokio::try_join!(Scene::new("owner"), Scene::new("owner"))?;
    tokio::try_join!(one.pod("box", BUSYBOX, |_| {}), two.pod("box", BUSYBOX, |_| {}))?;
    // Neither ends before both are at work.
    let job = |scene: &Scene, word: &str| {
        let command = format!("touch /begun; until test -e /go; do sleep 0.1; done; echo {word}");
        scene.job("pg", &command, |job| {
            edit(job, "spec.destination.uri", json!(one.uri()));
            edit(job, "spec.archiveName", json!("shared"));
        })
    };
    let (first, second) = (job(&one, "one"), job(&two, "two"));
    tokio::try_join!(one.apply(&first), two.apply(&second))?;
    for scene in [&one, &two] {
        until("the command to be at work", || async {
            Ok(scene.exec("box", "test -e /begun && echo yes || true").await?.contains("yes").then_some(()))
        })
        .await?;
    }
    tokio::try_join!(one.exec("box", "touch /go"), two.exec("box", "touch /go"))?;
    let (first, second) = tokio::try_join!(one.ended("pg-once"), two.ended("pg-once"))?;
    for (status, data) in [(&first, "one\n"), (&second, "two\n")] {
        ensure!(status.phase == Phase::Succeeded, "{status:?}");
        ensure!(one.decompressed(status).await? == data.as_bytes(), "another's bytes: {status:?}");
    }
    let objects = one.objects().await?;
    let manifests: Vec<_> = objects.iter().filter(|key| key.ends_with("/manifest.json")).collect();
    ensure!(manifests.len() == 2, "{objects:?}");
    // Each manifest says whose it is.
    let mut uids = Vec::new();
    for (scene, status) in [(&one, &first), (&two, &second)] {
        let uid = scene.job_now("pg").await?.metadata.uid.context("a UID")?;
        let manifest: Value = serde_json::from_slice(&one.object(status, "manifest.json").await?)?;
        ensure!(manifest["jobUid"] == uid && manifest["namespace"] == scene.namespace, "{manifest}");
        uids.push(uid);
    }
    // One of them has the archive, and the other one is told.
    let owner = owner(&one, "shared").await?;
    let has = uids.iter().position(|uid| owner["jobUid"] == *uid).context("the owner is none of them")?;
    let (owns, other) = if has == 0 { (&one, &two) } else { (&two, &one) };
    other
        .job_until("pg", "to say whose archive it is", |job| {
            retention_stopped(job).is_some_and(|(status, reason, message)| {
                (status, reason) == ("True", "ForeignOwner") && message.contains(&uids[has])
            })
        })
        .await?;
    told(other, "pg", "ForeignOwner").await?;
    ensure!(retention_stopped(&owns.job_now("pg").await?).is_none(), "the owner has nothing to say");
    one.end().await?;
    two.end().await
}

#[tokio::test]
async fn a_job_that_is_made_again_goes_on_by_itself() -> Result<()> {
    let scene = Scene::new("owner").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = scene.job("pg", "echo data", |_| {});
    let first = scene.back_up(&job).await?;
    let archive = format!("{}/pg", scene.namespace);
    let old = owner(&scene, &archive).await?;
    let api = scene.api::<BackupJob>();
    api.delete("pg", &DeleteParams::default()).await?;
    until("the BackupJob and its run to be gone", || async {
        let run = scene.api::<ubo::api::backup_run::BackupRun>().get_opt("pg-once").await?;
        Ok((api.get_opt("pg").await?.is_none() && run.is_none()).then_some(()))
    })
    .await?;

    let second = scene.back_up(&job).await?;
    ensure!((first.phase, second.phase) == (Phase::Succeeded, Phase::Succeeded), "{first:?} {second:?}");
    told(&scene, "pg", "ArchiveTakenOver").await?;
    let now = scene.job_now("pg").await?;
    ensure!(retention_stopped(&now).is_none(), "{:?}", retention_stopped(&now));
    let new = owner(&scene, &archive).await?;
    ensure!(new["jobUid"] == now.metadata.uid.context("a UID")? && new["jobUid"] != old["jobUid"], "{old} {new}");
    ensure!(scene.decompressed(&first).await? == b"data\n", "the old backup is still there");
    scene.end().await
}
