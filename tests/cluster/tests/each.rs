//! Every pod of a workload in one run: all of them, one that is missing, none, pods that go while it is at work, and one
//! that another run has.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use installed::until;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use scene::{BUSYBOX, HOLD, SLEEP, Scene, edit, pipe};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;
use ubo::run::record::WAIT_PAUSE;

/// A StatefulSet of pods that each have other data, and are Ready as long as `/tmp/unready` is not there.
fn stateful_set(name: &str, replicas: u32) -> Value {
    let command = format!("mkdir /data; hostname > /data/name; seq 1 40000 > /data/numbers; {SLEEP}");
    let probe = json!({"exec": {"command": ["sh", "-c", "[ -e /data/numbers ] && [ ! -e /tmp/unready ]"]},
        "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10});
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "podManagementPolicy": "Parallel", "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": false,
                    "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never",
                        "command": ["sh", "-c", command], "readinessProbe": probe}],
                },
            },
        },
    })
}

/// A job over each pod of StatefulSet `set`.
fn over_each(scene: &Scene, name: &str, set: &str, strategy: Value) -> Value {
    scene.job(name, "", |job| {
        edit(job, "spec.target", json!({"kind": "StatefulSet", "name": set, "pods": "Each", "path": "/data"}));
        job["spec"]["strategy"] = strategy;
    })
}

/// Waits until a pod is Ready, or is not; gives its UID. `not` is the UID of another one of that name.
async fn pod_is(scene: &Scene, name: &str, ready: bool, not: Option<&str>) -> Result<String> {
    let pods = scene.api::<Pod>();
    let word = if ready { "True" } else { "False" };
    until(&format!("pod {name}: Ready={word}"), || async {
        let Some(pod) = pods.get_opt(name).await? else { return Ok(None) };
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        let holds = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == word);
        Ok(pod.metadata.uid.filter(|uid| holds && not != Some(uid.as_str())))
    })
    .await
}

async fn all_ready(scene: &Scene, set: &str, replicas: u32) -> Result<()> {
    for ordinal in 0..replicas {
        pod_is(scene, &format!("{set}-{ordinal}"), true, None).await?;
    }
    Ok(())
}

/// Waits until `file` is there in a pod: a command got so far.
async fn got_to(scene: &Scene, pod: &str, file: &str) -> Result<()> {
    let look = format!("[ -e {file} ] && echo yes || true");
    until(&format!("{file} in pod {pod}"), || async {
        Ok((scene.exec(pod, &look).await?.trim() == "yes").then_some(()))
    })
    .await
}

/// `ubo` as a person runs it, who has the keys and no cluster.
fn ubo(scene: &Scene, args: &[&str]) -> Result<Output> {
    Command::new(&scene.installed.cluster.ubo).args(args).envs(scene.keys()).output().context("ubo cannot be run")
}

fn is_of(folder: &Path, pod: &str) -> Result<()> {
    let name = std::fs::read_to_string(folder.join("name")).with_context(|| folder.display().to_string())?;
    ensure!(name.trim() == pod, "{} holds what is of {name}", folder.display());
    let numbers = std::fs::read_to_string(folder.join("numbers"))?;
    ensure!(numbers.lines().count() == 40_000, "{} is not whole", folder.display());
    Ok(())
}

/// Names of a run's objects.
fn names(status: &BackupRunStatus) -> Vec<&str> {
    let objects = status.destinations.iter().flat_map(|destination| &destination.objects);
    objects.map(|object| object.name.as_str()).collect()
}

fn incomplete(status: &BackupRunStatus, words: &[&str]) -> Result<()> {
    ensure!(status.phase == Phase::Incomplete && status.reason.as_deref() == Some("PodsMissing"), "{status:?}");
    let message = status.message.as_deref().unwrap_or_default();
    ensure!(words.iter().all(|word| message.contains(word)), "{message:?} lacks one of {words:?}");
    Ok(())
}

#[tokio::test]
async fn all_pods_are_backed_up_and_one_that_is_not_ready_is_named() -> Result<()> {
    let scene = Scene::new("each").await?;
    scene.apply(&stateful_set("web", 3)).await?;
    all_ready(&scene, "web", 3).await?;
    let status = scene.back_up(&over_each(&scene, "web", "web", json!({"type": "copy"}))).await?;
    ensure!(status.phase == Phase::Succeeded && status.pod.as_deref() == Some("web-0, web-1, web-2"), "{status:?}");
    ensure!(status.files == Some(6) && status.bytes_read.is_some_and(|bytes| bytes > 3 * 200_000), "{status:?}");
    let archives = ["web-0/archive.tar.zst", "web-1/archive.tar.zst", "web-2/archive.tar.zst"];
    ensure!(archives.iter().all(|name| names(&status).contains(name)), "{status:?}");
    // By hand, with no tool of ours.
    for (n, archive) in archives.iter().enumerate() {
        let tar = pipe("zstd", &["-d", "-c"], scene.object(&status, archive).await?).await?;
        let name = pipe("tar", &["-x", "-O", "./name"], tar).await?;
        ensure!(name == format!("web-{n}\n").as_bytes(), "{archive} is of {name:?}");
    }

    // By `ubo`.
    let uri = scene.uri();
    let folder = tempfile::tempdir()?;
    let to = |name: &str| folder.path().join(name).display().to_string();
    let listed = ubo(&scene, &["list", &uri])?;
    let text = String::from_utf8_lossy(&listed.stdout);
    ensure!(text.contains("web-once") && text.contains("web-2") && !text.contains("unfinished"), "{text}");
    let verified = ubo(&scene, &["verify", &uri])?;
    ensure!(verified.status.success() && String::from_utf8_lossy(&verified.stdout).contains("3 pods"), "{verified:?}");
    let restored = ubo(&scene, &["restore", &uri, "--to", &to("all")])?;
    ensure!(restored.status.success(), "{restored:?}");
    for pod in ["web-0", "web-1", "web-2"] {
        is_of(&folder.path().join("all").join(pod), pod)?;
    }
    let restored = ubo(&scene, &["restore", &uri, "--pod", "web-1", "--to", &to("one")])?;
    ensure!(restored.status.success(), "{restored:?}");
    is_of(&folder.path().join("one"), "web-1")?;
    let refused = ubo(&scene, &["restore", &uri, "--to", "-"])?;
    ensure!(refused.status.code() == Some(2), "half of it would be nothing: {refused:?}");

    // One is not Ready: the others are kept, it is named, and the job is not well.
    scene.exec("web-1", "touch /tmp/unready").await?;
    pod_is(&scene, "web-1", false, None).await?;
    let run = scene.start("web").await?;
    let status = scene.ended(&run).await?;
    incomplete(&status, &["web-1 is missing, 2 of 3 pods", "web-1: TargetNotReady"])?;
    ensure!(status.pod.as_deref() == Some("web-0, web-2"), "{status:?}");
    let place = status.destinations.first().and_then(|found| found.folder.clone()).context("a folder")?;
    let stray: Vec<_> =
        scene.objects().await?.into_iter().filter(|key| key.contains(&format!("{place}/web-1"))).collect();
    ensure!(stray.is_empty() && scene.open_uploads()?.is_empty(), "of web-1 lies there {stray:?}");
    scene
        .job_until("web", "to be unhealthy", |job| {
            let conditions = job.status.iter().flat_map(|status| &status.conditions);
            conditions.into_iter().any(|c| c.type_ == "Healthy" && c.status == "False" && c.message.contains("web-1"))
        })
        .await?;
    let latest = ubo(&scene, &["restore", &uri, "--to", &to("latest"), "--output", "json"])?;
    let told: Value = serde_json::from_slice(&latest.stdout)?;
    ensure!(latest.status.success() && told["run"] == "web-once", "not the complete one: {told}");
    let verified = ubo(&scene, &["verify", &uri, &run])?;
    ensure!(verified.status.code() == Some(3), "{verified:?}");
    let part = ubo(&scene, &["restore", &uri, &run, "--to", &to("part")])?;
    let said = String::from_utf8_lossy(&part.stderr);
    ensure!(part.status.code() == Some(3) && said.contains("pod web-1 is not in the backup"), "{part:?}");
    is_of(&folder.path().join("part/web-2"), "web-2")?;
    scene.end().await
}

#[tokio::test]
async fn without_one_good_pod_it_fails_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new("each-none").await?;
    scene
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [stateful_set("bad", 2), stateful_set("none", 0)]}))
        .await?;
    all_ready(&scene, "bad", 2).await?;
    let command = "mkdir -p $UBO_BACKUP_DIR; seq 1 200000 > $UBO_BACKUP_DIR/half; exit 3";
    let jobs = [
        over_each(&scene, "stream", "bad", json!({"type": "dump", "command": "seq 1 200000; exit 3"})),
        over_each(&scene, "directory", "bad", json!({"type": "dump", "command": command})),
        over_each(&scene, "none", "none", json!({"type": "copy"})),
    ];
    let statuses = scene.back_up_all(&jobs).await?;
    for status in &statuses[..2] {
        ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("CommandFailed"), "{status:?}");
        let message = status.message.as_deref().unwrap_or_default();
        ensure!(status.exit_code == Some(3) && message.contains("bad-0") && message.contains("bad-1"), "{status:?}");
    }
    let none = &statuses[2];
    ensure!(none.phase == Phase::Failed && none.reason.as_deref() == Some("TargetNotReady"), "{none:?}");
    ensure!(none.message.as_deref().is_some_and(|message| message.contains("scaled to 0")), "{none:?}");
    scene.nothing_left().await?;
    for pod in ["bad-0", "bad-1"] {
        let left = scene.exec(pod, "ls -d /backup 2>/dev/null || true").await?;
        ensure!(left.trim().is_empty(), "in {pod} stays {left}");
    }
    scene.end().await
}

#[tokio::test]
async fn pods_that_go_while_it_is_at_work_are_missing() -> Result<()> {
    let scene = Scene::new("each-gone").await?;
    scene.apply(&stateful_set("gone", 3)).await?;
    all_ready(&scene, "gone", 3).await?;
    let pods = scene.api::<Pod>();
    let waiting = pod_is(&scene, "gone-2", true, None).await?;
    let command = "touch /tmp/at-work; hostname; while [ ! -e /tmp/go ]; do sleep 1; done";
    scene.apply(&over_each(&scene, "gone", "gone", json!({"type": "dump", "command": command}))).await?;
    got_to(&scene, "gone-0", "/tmp/at-work").await?;
    // One that waits for its turn is replaced by another of its name, which is not the one that was found.
    pods.delete("gone-2", &DeleteParams::default()).await?;
    pod_is(&scene, "gone-2", true, Some(&waiting)).await?;
    scene.exec("gone-0", "touch /tmp/go").await?;
    // One goes while it is read.
    got_to(&scene, "gone-1", "/tmp/at-work").await?;
    pods.delete("gone-1", &DeleteParams::default()).await?;
    let status = scene.ended("gone-once").await?;
    incomplete(&status, &["gone-1, gone-2 are missing, 1 of 3 pods", "gone-1: TargetGone", "gone-2: TargetGone"])?;
    ensure!(names(&status) == ["gone-0/dump.zst"], "{status:?}");
    ensure!(scene.decompressed(&status).await? == b"gone-0\n", "{status:?}");
    ensure!(scene.open_uploads()?.is_empty(), "an upload is open");
    let stray: Vec<_> =
        scene.objects().await?.into_iter().filter(|key| key.contains("gone-1/") || key.contains("gone-2/")).collect();
    ensure!(stray.is_empty(), "{stray:?}");
    scene.end().await
}

/// The other run is one that the operator knows nothing of: the attempt finds it in the pod, and is not lost by it.
#[tokio::test]
async fn a_pod_in_which_another_run_has_the_directory_is_looked_at_again_after_the_others() -> Result<()> {
    let scene = Scene::new("each-taken").await?;
    scene.apply(&stateful_set("taken", 2)).await?;
    all_ready(&scene, "taken", 2).await?;
    scene.exec("taken-0", HOLD).await?;
    let strategy = json!({"type": "dump", "command": "hostname > /backup/name"});
    scene.apply(&over_each(&scene, "taken", "taken", strategy)).await?;
    until("the archive of taken-1", || async {
        Ok(scene.objects().await?.iter().any(|key| key.ends_with("/taken-1/archive.tar.zst")).then_some(()))
    })
    .await?;
    let status = scene.at_work("taken-once").await?;
    ensure!(status.attempts.len() == 1 && status.attempts[0].completion_time.is_none(), "{status:?}");
    let objects = scene.objects().await?;
    let early: Vec<_> =
        objects.iter().filter(|key| key.contains("/taken-0/") || key.ends_with("/manifest.json")).collect();
    ensure!(early.is_empty(), "while another run has taken-0 there lies {early:?}");
    ensure!(scene.exec("taken-0", "cat /backup/theirs").await? == "theirs\n", "the other run's directory was touched");

    // Through, that one goes as every run does: its directory, its marker, its process.
    scene.exec("taken-0", "rm -rf /backup && rm /backup.ubo-run && kill $(cat /tmp/holder)").await?;
    let status = scene.ended("taken-once").await?;
    let attempts: Vec<_> = status.attempts.iter().map(|attempt| (attempt.number, attempt.reason.as_deref())).collect();
    ensure!(status.phase == Phase::Succeeded && attempts == [(1, Some("Succeeded"))], "{status:?}");
    ensure!(status.pod.as_deref() == Some("taken-0, taken-1"), "{status:?}");
    // It was waited for within the attempt. Times in a status are whole seconds.
    let took = status.completion_time.as_ref().context("an end")?.0;
    let took = took.duration_since(status.start_time.as_ref().context("a start")?.0).as_secs();
    ensure!(took + 1 >= i64::try_from(WAIT_PAUSE.as_secs())?, "nobody waited for taken-0: {took} s");
    for pod in ["taken-0", "taken-1"] {
        let tar = pipe("zstd", &["-d", "-c"], scene.object(&status, &format!("{pod}/archive.tar.zst")).await?).await?;
        let listed = pipe("tar", &["-t"], tar.clone()).await?;
        ensure!(!String::from_utf8_lossy(&listed).contains("theirs"), "the other run's file is in that of {pod}");
        let name = pipe("tar", &["-x", "-O", "./name"], tar).await?;
        ensure!(name == format!("{pod}\n").as_bytes(), "the archive of {pod} is of {name:?}");
        let left = scene.exec(pod, "ls -d /backup /backup.ubo-run* 2> /dev/null || true").await?;
        ensure!(left.trim().is_empty(), "in {pod} stays {left}");
    }
    let verified = ubo(&scene, &["verify", &scene.uri()])?;
    ensure!(verified.status.success() && String::from_utf8_lossy(&verified.stdout).contains("2 pods"), "{verified:?}");
    ensure!(scene.open_uploads()?.is_empty(), "an upload is open");
    let said = scene.event_reasons("taken-once").await?;
    let lost = said.iter().any(|reason| reason == "RunWaits" || reason == "AttemptRetried");
    ensure!(!lost, "{said:?}");
    scene.end().await
}
