//! Bad luck around a backup in mid-run: a part of the cluster restarts, the target's container or pod goes, rights and
//! Secrets are taken away, the S3 server's disk is full.
//!
//! Whatever it is: the run ends with what is true, a backup that is listed is whole, and nothing else is left. Restarts
//! are felt by all, so the acts are played one after the other, whatever `--test-threads` says.

mod installed;
mod scene;
mod through;

use anyhow::{Context, Result, ensure};
use installed::until;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use scene::{BUSYBOX, Scene, edit, operator_ready};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use through::{is_whole, with_data};
use tokio::sync::Mutex;
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;
use ubo::run::ports::phase_of;

static STAGE: Mutex<()> = Mutex::const_new(());

/// Gives half of the data, waits until it may go on, and gives the rest.
const IN_HALVES: &str = "echo $$ >> /tmp/tried; head -c 40000000 /tmp/data; until test -e /tmp/go; do sleep 0.2; done; \
                         tail -c +40000001 /tmp/data";
const BYTES: u64 = 60_000_000;

/// A BackupJob of the data in halves that is tried again soon, and often enough for any restart.
fn in_halves(scene: &Scene, name: &str) -> Value {
    scene.job(name, IN_HALVES, |job| edit(job, "spec.retry", json!({"limit": 6, "backoffSeconds": 1})))
}

/// Waits until an attempt is in the middle of its work: half of the data is read, and an upload is open.
async fn in_the_middle(scene: &Scene) -> Result<()> {
    until("an attempt to begin in the pod, and its upload", || async {
        let tried = scene.exec("box", "cat /tmp/tried 2> /dev/null || true").await?;
        Ok((!tried.is_empty() && !scene.open_uploads()?.is_empty()).then_some(()))
    })
    .await
}

async fn may_go(scene: &Scene) -> Result<()> {
    until("the pod to take a command", || async { Ok(scene.exec("box", "touch /tmp/go").await.ok()) }).await.map(drop)
}

fn reasons(status: &BackupRunStatus) -> Vec<&str> {
    status.attempts.iter().map(|attempt| attempt.reason.as_deref().unwrap_or("open")).collect()
}

/// The run was tried until it succeeded; what is listed is whole and alone, and nothing else of it is anywhere.
async fn came_through(scene: &Scene, name: &str, digest: &str) -> Result<BackupRunStatus> {
    let status = scene.ended(&format!("{name}-once")).await?;
    is_whole(scene, &status, digest).await?;
    let folder = status.destinations.first().and_then(|d| d.folder.clone()).context("a folder")?;
    until("nothing but the one backup", || async {
        let objects = scene.objects().await?;
        let others = objects.iter().any(|key| !key.starts_with(&folder) && !key.ends_with("/owner.json"));
        Ok((!others && scene.open_uploads()?.is_empty()).then_some(()))
    })
    .await
    .with_context(|| format!("{status:?}"))?;
    scene.no_process("box", "/tmp/data").await?;
    Ok(status)
}

async fn restart(scene: &Scene, part: &'static str, kill: bool) -> Result<()> {
    let cluster = scene.installed.cluster.clone();
    tokio::task::spawn_blocking(move || cluster.restart(part, kill)).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_that_restarts_costs_an_attempt() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "kubelet")).await?;
    in_the_middle(&scene).await?;
    restart(&scene, "kubelet", true).await?;
    may_go(&scene).await?;
    let status = came_through(&scene, "kubelet", &digest).await?;
    ensure!(reasons(&status).first() == Some(&"StreamCut"), "{status:?}");
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_killed_costs_an_attempt() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "api")).await?;
    in_the_middle(&scene).await?;
    restart(&scene, "apiserver", true).await?;
    may_go(&scene).await?;
    let status = came_through(&scene, "api", &digest).await?;
    ensure!(reasons(&status).first() == Some(&"StreamCut"), "{status:?}");
    operator_ready(&scene.installed).await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_that_is_killed_is_waited_for() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "server")).await?;
    in_the_middle(&scene).await?;
    restart(&scene, "s3", true).await?;
    may_go(&scene).await?;
    came_through(&scene, "server", &digest).await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_restarts_is_read_again_from_the_start() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("luck").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    // What the first container wrote is gone with it: only what the second one says may be in the backup.
    let command =
        "cat /tmp/mark 2> /dev/null || true; echo begun; until test -e /tmp/go; do sleep 0.2; done; echo whole";
    scene.exec("box", "echo first > /tmp/mark").await?;
    let job = scene.job("restarted", command, |job| edit(job, "spec.retry", json!({"limit": 6, "backoffSeconds": 1})));
    scene.apply(&job).await?;
    scene
        .run_until("restarted-once", "to have read something", |run| {
            run.status.as_ref().is_some_and(|status| status.attempts.len() == 1 && phase_of(run) == Phase::Running)
        })
        .await?;
    // The end of the container may be the end of this exec, too; that it was restarted shows by the next attempt.
    let _ = scene.exec("box", "kill 1").await;
    scene
        .run_until("restarted-once", "to be tried again", |run| {
            let attempts = run.status.iter().flat_map(|status| &status.attempts).count();
            attempts > 1 && phase_of(run) == Phase::Running
        })
        .await?;
    may_go(&scene).await?;
    let status = scene.ended("restarted-once").await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    ensure!(scene.decompressed(&status).await? == b"begun\nwhole\n", "{status:?}");
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_the_node_evicts_is_named() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("luck").await?;
    scene
        .pod("box", BUSYBOX, |pod| {
            edit(pod, "spec.volumes", json!([{"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}]));
            // Not one that ends in peace when it is told to: such a pod counts as Succeeded.
            pod["spec"]["containers"][0]["command"] = json!(["sleep", "100000"]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "small", "mountPath": "/backup"}]);
        })
        .await?;
    let job = scene.job("evicted", "head -c 30000000 /dev/urandom > /backup/dump; sleep 3601", |_| {});
    let status = scene.back_up(&job).await?;
    ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("TargetGone"), "{status:?}");
    let pods: Api<Pod> = scene.api();
    until("the pod to be evicted", || async {
        let now = pods.get("box").await?.status.unwrap_or_default();
        Ok((now.reason.as_deref() == Some("Evicted")).then_some(()))
    })
    .await
    .with_context(|| format!("{status:?}"))?;
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("Evicted"), "{message}");
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_goes_in_mid_run_is_missed_by_the_next_run_only() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "secret")).await?;
    in_the_middle(&scene).await?;
    scene.kubectl(&["delete", "secret", "s3"]).await?;
    may_go(&scene).await?;
    came_through(&scene, "secret", &digest).await?;

    let run = scene.start("secret").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.reason.as_deref() == Some("SecretNotFound"), "{status:?}");
    let mut rotated = scene.keys();
    rotated.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "of-yesterday".to_owned());
    scene.secret("s3", &rotated).await?;
    let run = scene.start("secret").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.reason.as_deref() == Some("DestinationDenied"), "{status:?}");
    ensure!(!status.message.unwrap_or_default().contains("of-yesterday"), "the key is told");
    // The right one again: nothing of the wrong one is remembered.
    scene.secret("s3", &scene.keys()).await?;
    let run = scene.start("secret").await?;
    let status = scene.ended(&run).await?;
    is_whole(&scene, &status, &digest).await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_withdrawn_in_mid_run_stop_the_next_run() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "rights")).await?;
    in_the_middle(&scene).await?;
    scene.kubectl(&["delete", "rolebinding", "backup-runner"]).await?;
    may_go(&scene).await?;
    let status = came_through(&scene, "rights", &digest).await?;
    ensure!(status.attempts.len() == 1, "{status:?}");

    let run = scene.start("rights").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("Forbidden"), "{status:?}");
    ensure!(status.message.as_deref().unwrap_or_default().contains("kubectl"), "{status:?}");
    scene.kubectl(&["delete", "serviceaccount", "backup-runner"]).await?;
    let run = scene.start("rights").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(status.reason.as_deref() == Some("NamespaceNotOptedIn"), "{status:?}");
    scene.opt_in().await?;
    let run = scene.start("rights").await?;
    let status = scene.ended(&run).await?;
    is_whole(&scene, &status, &digest).await?;
    scene.end().await
}

/// Not taken away, but changed: other keys in the Secret, and then an account of which no token can be had any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_in_mid_run_counts_from_the_next_run_on() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, digest) = with_data(BYTES).await?;
    scene.apply(&in_halves(&scene, "changed")).await?;
    in_the_middle(&scene).await?;
    let mut other = scene.keys();
    other.insert("AWS_ACCESS_KEY_ID".to_owned(), "of-somebody-else".to_owned());
    other.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "of-no-use-here".to_owned());
    scene.secret("s3", &other).await?;
    may_go(&scene).await?;
    let status = came_through(&scene, "changed", &digest).await?;
    ensure!(status.attempts.len() == 1, "{status:?}");
    let run = scene.start("changed").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.reason.as_deref() == Some("DestinationDenied") && status.attempts.len() == 1, "{status:?}");
    ensure!(!status.message.unwrap_or_default().contains("of-no-use"), "the key is told");

    scene.secret("s3", &scene.keys()).await?;
    scene.exec("box", "rm /tmp/go /tmp/tried").await?;
    let run = scene.start("changed").await?;
    in_the_middle(&scene).await?;
    scene.kubectl(&["delete", "serviceaccount", "backup-runner"]).await?;
    may_go(&scene).await?;
    let status = scene.ended(&run).await?;
    is_whole(&scene, &status, &digest).await?;
    ensure!(status.attempts.len() == 1, "{status:?}");
    let run = scene.start("changed").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(status.reason.as_deref() == Some("NamespaceNotOptedIn"), "{status:?}");
    ensure!(scene.open_uploads()?.is_empty(), "uploads left: {:?}", scene.open_uploads());
    scene.no_process("box", "/tmp/data").await?;
    scene.end().await
}

/// A bucket on a disk of its own; it goes with the value.
struct SmallBucket {
    folder: PathBuf,
}

impl SmallBucket {
    fn new(scene: &Scene, mebibytes: u32) -> Result<Self> {
        let folder = scene.installed.cluster.s3.folder.join(format!("small-{}", scene.namespace));
        std::fs::create_dir(&folder)?;
        let bucket = Self { folder };
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"]).arg(&bucket.folder);
        ensure!(mount.status()?.success(), "a small disk cannot be mounted");
        Ok(bucket)
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Every file on the disk.
    fn files(&self) -> Result<Vec<PathBuf>> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() { walk(&entry.path(), found)? } else { found.push(entry.path()) }
            }
            Ok(())
        }
        let mut found = Vec::new();
        walk(&self.folder, &mut found)?;
        Ok(found)
    }
}

impl Drop for SmallBucket {
    fn drop(&mut self) {
        // The server may have a file of it open still: it is let go of by name at once, and by the kernel when that is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_of_the_server_that_is_full_fails_the_run_and_is_not_left_full() -> Result<()> {
    let _alone = STAGE.lock().await;
    let (scene, _) = with_data(BYTES).await?;
    let bucket = SmallBucket::new(&scene, 24)?;
    let job = scene.job("full", "cat /tmp/data", |job| {
        edit(job, "spec.destination.uri", json!(format!("s3://{}/x", bucket.name())));
        edit(job, "spec.retry", json!({"limit": 1, "backoffSeconds": 1}));
    });
    let status = scene.back_up(&job).await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(reasons(&status) == ["DestinationUnavailable"; 2], "{status:?}");
    until("nothing but owner.json to be on the disk", || async {
        let rest: Vec<_> = bucket.files()?.into_iter().filter(|file| !file.ends_with("owner.json")).collect();
        Ok(rest.is_empty().then_some(()))
    })
    .await
    .with_context(|| format!("left: {:?}", bucket.files()))?;
    // There is room for a small one again.
    let small = scene
        .job("fits", "echo whole", |job| edit(job, "spec.destination.uri", json!(format!("s3://{}/x", bucket.name()))));
    let status = scene.back_up(&small).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    drop(bucket);
    scene.end().await
}
