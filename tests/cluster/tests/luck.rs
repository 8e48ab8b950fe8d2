//! Bad luck around a backup in mid-run: a part of the cluster restarts, the target's container or pod goes, rights and
//! Secrets are taken away, the S3 server's disk is full.
//!
//! Whatever it is: the run ends with what is true, a backup that is listed is whole, and nothing else is left. Restarts
//! are felt by all, so the acts are played one after the other, whatever `--test-threads` says.

mod installed;
mod scene;
mod through;

use anyhow::{Context, Result, bail, ensure};
use installed::until;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use rig::Cluster;
use scene::{BUSYBOX, Scene, edit, operator_pods, operator_ready};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use through::{is_whole, with_data};
use tokio::sync::Mutex;
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::run::Phase;
use ubo::run::ports::phase_of;

static STAGE: Mutex<()> = Mutex::const_new(());

/// Gives half of the data, waits until it may go on, and gives the rest.
const IN_HALVES: &str = "echo $$ >> /tmp/tried; head -c 40000000 /tmp/data; until test -e /tmp/go; do sleep 0.2; done; \
                         tail -c +40000001 /tmp/data";
const BYTES: u64 = 60_000_000;

/// So often for any restart, and so late that what is said in between can be read when the API server has come back.
fn again(job: &mut Value) {
    edit(job, "spec.retry", json!({"limit": 6, "backoffSeconds": 10}));
}

/// A BackupJob of the data in halves that is tried again.
fn in_halves(scene: &Scene, name: &str) -> Value {
    scene.job(name, IN_HALVES, again)
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

/// A run that is over says all of this: what happened, and what to do.
fn says(status: &BackupRunStatus, words: &[&str]) -> Result<()> {
    let message = status.message.as_deref().unwrap_or_default();
    ensure!(words.iter().all(|word| message.contains(word)), "not all of {words:?} are in {message:?}");
    Ok(())
}

/// What is said of a run between an attempt that failed and the next one. Meanwhile nobody may be there to be asked.
async fn between_attempts(scene: &Scene, run: &str) -> Result<BackupRunStatus> {
    let runs: Api<BackupRun> = scene.api();
    until("an attempt to have failed, and the next one to be waited for", || async {
        let status = runs.get(run).await.ok().and_then(|run| run.status);
        Ok(status.filter(|status| status.phase == Phase::Pending && !status.attempts.is_empty()))
    })
    .await
}

/// What is listed of the run is alone, and nothing else of it is anywhere: no object, upload or process (with `word` in it).
async fn alone(scene: &Scene, status: &BackupRunStatus, word: &str) -> Result<()> {
    let folder = status.destinations.first().and_then(|d| d.folder.clone()).context("a folder")?;
    let manifest = format!("{folder}/manifest.json");
    until("nothing but the one backup", || async {
        let objects = scene.objects().await?;
        let others = objects.iter().any(|key| !key.starts_with(&folder) && !key.ends_with("/owner.json"));
        Ok((!others && objects.contains(&manifest) && scene.open_uploads()?.is_empty()).then_some(()))
    })
    .await
    .with_context(|| format!("{status:?}"))?;
    scene.no_process("box", word).await
}

/// The run was tried until it succeeded; what is listed is whole and alone.
async fn came_through(scene: &Scene, name: &str, digest: &str) -> Result<BackupRunStatus> {
    let status = scene.ended(&format!("{name}-once")).await?;
    is_whole(scene, &status, digest).await?;
    alone(scene, &status, "/tmp/data").await?;
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
    let ((), told) = tokio::try_join!(restart(&scene, "kubelet", true), between_attempts(&scene, "kubelet-once"))?;
    says(&told, &["attempt 1 of 7 failed", "container main of pod", "bytes"])?;
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
    let ((), told) = tokio::try_join!(restart(&scene, "apiserver", true), between_attempts(&scene, "api-once"))?;
    says(&told, &["attempt 1 of 7 failed", "connection to container main of pod", "broke after"])?;
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
    // The rest of the data comes while it is down: its requests are tried again, and nobody notices.
    tokio::try_join!(restart(&scene, "s3", true), may_go(&scene))?;
    let status = came_through(&scene, "server", &digest).await?;
    ensure!(reasons(&status) == ["Succeeded"], "{status:?}");
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_restarts_is_read_again_from_the_start() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("luck").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    // What the first container wrote is gone with it: only what the second one says may be in the backup. So much of it that
    // an upload is open.
    let command = "cat /tmp/mark 2> /dev/null || true; echo begun; head -c 30000000 /dev/urandom; until test -e /tmp/go; do \
                   sleep 0.2; done; echo whole";
    scene.exec("box", "echo first > /tmp/mark").await?;
    scene.apply(&scene.job("restarted", command, again)).await?;
    let uploads = || async { Ok((!scene.open_uploads()?.is_empty()).then_some(())) };
    until("an upload to be open", uploads).await?;
    // The end of the container may be the end of this exec, too; that it was restarted shows by the next attempt.
    let _ = scene.exec("box", "kill 1").await;
    let told = between_attempts(&scene, "restarted-once").await?;
    says(&told, &["attempt 1 of 7 failed", "container main has ended with exit code 0"])?;
    scene
        .run_until("restarted-once", "to be tried again", |run| {
            let attempts = run.status.iter().flat_map(|status| &status.attempts).count();
            attempts > 1 && phase_of(run) == Phase::Running
        })
        .await?;
    may_go(&scene).await?;
    let status = scene.ended("restarted-once").await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    // Those between the first and the last may have found a pod that is not Ready yet.
    let tried = reasons(&status);
    let ["TargetGone", between @ .., "Succeeded"] = &tried[..] else { bail!("{status:?}") };
    ensure!(between.iter().all(|reason| *reason == "TargetNotReady"), "{status:?}");
    let bytes = scene.decompressed(&status).await?;
    let framed = bytes.starts_with(b"begun\n") && bytes.ends_with(b"whole\n") && bytes.len() == 30_000_012;
    ensure!(framed, "{} bytes: {status:?}", bytes.len());
    alone(&scene, &status, "/dev/urandom").await?;
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
    says(&status, &["Evicted: ", "\"small\" exceeds the limit \"1Mi\"", "kubectl describe pod"])?;
    scene.nothing_left().await?;
    scene.end().await
}

/// A node whose kubelet finds it short of memory, as long as the value lives. What runs when that begins has half a minute.
struct ShortOfMemory {
    cluster: Cluster,
    settings: PathBuf,
    before: Vec<u8>,
}

impl ShortOfMemory {
    fn new(cluster: &Cluster) -> Result<Self> {
        let settings = cluster.state.join("conf/kubelet.json");
        let before = std::fs::read(&settings)?;
        let mut short: Value = serde_json::from_slice(&before)?;
        // More than any node has free.
        edit(&mut short, "evictionSoft", json!({"memory.available": "99%"}));
        edit(&mut short, "evictionSoftGracePeriod", json!({"memory.available": "30s"}));
        let node = Self { cluster: cluster.clone(), settings, before };
        std::fs::write(&node.settings, short.to_string())?;
        node.cluster.restart("kubelet", false)?;
        Ok(node)
    }
}

impl Drop for ShortOfMemory {
    /// At once: a kubelet that is stopped evicts nobody else. What came of it shows by the node.
    fn drop(&mut self) {
        let _ = std::fs::write(&self.settings, &self.before);
        let _ = self.cluster.restart("kubelet", true);
    }
}

/// Waits until the node is short of memory, or is not and takes pods again.
async fn node_short(scene: &Scene, short: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(scene.installed.admin.clone());
    let what = if short { "the node to be under pressure" } else { "the node to be without pressure" };
    until(what, || async {
        let node = nodes.get("node").await?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let word = if short { "True" } else { "False" };
        let said = conditions.iter().any(|found| found.type_ == "MemoryPressure" && found.status == word);
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Ok((said && taints.is_empty() != short).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_pressure_takes_the_pod_and_nothing_else_of_the_run_stays() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = Scene::new("luck").await?;
    let pods: Api<Pod> = scene.api();
    let greedy = |pod: &mut Value| {
        edit(pod, "spec.volumes", json!([{"name": "tmp", "emptyDir": {"medium": "Memory"}}]));
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
        // Who uses more than he asked for goes first, and of those who uses most. Who asks for nothing goes at once when the
        // kubelet comes back.
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
        pod["spec"]["containers"][0]["command"] = json!(["sleep", "100000"]);
    };
    scene.pod("box", BUSYBOX, greedy).await?;
    scene.exec("box", &format!("head -c {BYTES} /dev/urandom > /tmp/data")).await?;
    // The next one, should a second be evicted before the kubelet is stopped: not the operator, which uses less than it
    // asks for.
    scene.pod("next", BUSYBOX, greedy).await?;
    let operator = operator_names(&scene).await?;

    let cluster = scene.installed.cluster.clone();
    let node = tokio::task::spawn_blocking(move || ShortOfMemory::new(&cluster)).await??;
    until("the node to run commands again", || async { Ok(scene.exec("box", "true").await.ok()) }).await?;
    scene.apply(&scene.job("pressed", IN_HALVES, |_| {})).await?;
    in_the_middle(&scene).await?;
    node_short(&scene, true).await?;
    until("the pod to be evicted", || async {
        let now = pods.get("box").await?.status.unwrap_or_default();
        Ok((now.reason.as_deref() == Some("Evicted")).then_some(()))
    })
    .await?;
    tokio::task::spawn_blocking(move || drop(node)).await?;
    let status = scene.ended("pressed-once").await?;
    ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("TargetGone"), "{status:?}");
    says(&status, &["Evicted: The node was low on resource: memory", "kubectl describe pod"])?;
    scene.nothing_left().await?;

    node_short(&scene, false).await?;
    operator_ready(&scene.installed).await?;
    ensure!(operator_names(&scene).await? == operator, "the operator was evicted, too");
    scene.kubectl(&["delete", "pod", "box"]).await?;
    scene.pod("box", BUSYBOX, greedy).await?;
    let status = scene.back_up(&scene.job("after", "echo whole", |_| {})).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene.end().await
}

/// The operator's pods, those that are over included.
async fn operator_names(scene: &Scene) -> Result<Vec<Option<String>>> {
    let mut names: Vec<_> = operator_pods(&scene.installed).await?.into_iter().map(|pod| pod.metadata.name).collect();
    names.sort();
    Ok(names)
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
    says(&status, &["Secret s3", &scene.namespace, "create it"])?;
    let mut rotated = scene.keys();
    rotated.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "of-yesterday".to_owned());
    scene.secret("s3", &rotated).await?;
    let run = scene.start("secret").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.reason.as_deref() == Some("DestinationDenied"), "{status:?}");
    says(&status, &["Check that the access key, the secret key", "Secret s3", &scene.namespace])?;
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
    says(&status, &["kubectl"])?;
    scene.kubectl(&["delete", "serviceaccount", "backup-runner"]).await?;
    let run = scene.start("rights").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(status.reason.as_deref() == Some("NamespaceNotOptedIn"), "{status:?}");
    says(&status, &[&scene.namespace, "manifests/namespace.yaml"])?;
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
    says(&status, &["Check that the access key", "Secret s3"])?;
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
    says(&status, &[&bucket.name(), "has room"])?;
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
