//! What a BackupJob points at and may use: found, not found, not permitted; and what is refused before anything runs.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use installed::until;
use scene::{BUSYBOX, SLEEP, Scene, edit};
use serde_json::{Value, json};
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::run::Phase;

/// A pod that is never Ready: the node has no such image and may not fetch it.
fn never_ready() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "never"},
        "spec": {"containers": [{"name": "main", "image": "localhost/none:1", "imagePullPolicy": "Never"}]},
    })
}

/// A StatefulSet whose pods are Ready, but for the first.
fn stateful_set(name: &str, replicas: u32) -> Value {
    let probe =
        json!({"exec": {"command": ["sh", "-c", format!("[ \"$(hostname)\" != {name}-0 ]")]}, "periodSeconds": 1});
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "podManagementPolicy": "Parallel", "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {"name": "side", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", SLEEP]},
                        {"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", SLEEP],
                         "readinessProbe": probe},
                    ],
                },
            },
        },
    })
}

/// A job whose target is another.
fn aimed(scene: &Scene, name: &str, target: Value) -> Value {
    scene.job(name, "cat /etc/hostname || hostname", |job| edit(job, "spec.target", target))
}

fn failed(status: &BackupRunStatus, reason: &str, words: &[&str]) -> Result<()> {
    ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some(reason), "not {reason}: {status:?}");
    let message = status.message.as_deref().unwrap_or_default();
    ensure!(words.iter().all(|word| message.contains(word)), "{message:?} lacks one of {words:?}");
    Ok(())
}

/// Whether the condition `Ready` stands as `word` for `reason`; its message.
fn ready<'a>(job: &'a BackupJob, word: &str, reason: &str) -> Option<&'a str> {
    let status = job.status.as_ref().filter(|status| status.observed_generation == job.metadata.generation)?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    (ready.status == word && ready.reason == reason).then_some(&*ready.message)
}

/// Waits until a BackupJob is not Ready for `reason`; the condition's message.
async fn not_ready(scene: &Scene, name: &str, reason: &str) -> Result<String> {
    let what = format!("to be not Ready: {reason}");
    let job = scene.job_until(name, &what, |job| ready(job, "False", reason).is_some()).await?;
    Ok(ready(&job, "False", reason).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn what_is_not_there_is_said() -> Result<()> {
    let scene = Scene::new("target").await?;
    let pause = |pod: &mut Value| pod["spec"]["containers"][0]["command"] = json!(["/pause"]);
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [never_ready(), stateful_set("none", 0), stateful_set("one", 1)]})).await?;
    tokio::try_join!(scene.pod("box", BUSYBOX, |_| {}), scene.pod("pause", "localhost/pause:1", pause))?;
    let cases = [
        ("pod", json!({"kind": "Pod", "name": "nobody"}), "TargetNotFound", ["Pod nobody", "correct spec.target"]),
        (
            "set",
            json!({"kind": "StatefulSet", "name": "nobody"}),
            "TargetNotFound",
            ["StatefulSet nobody", &scene.namespace],
        ),
        (
            "container",
            json!({"kind": "Pod", "name": "box", "container": "other"}),
            "ContainerNotFound",
            ["no container other", "it has main"],
        ),
        ("never", json!({"kind": "Pod", "name": "never"}), "TargetNotReady", ["ErrImageNeverPull", "never"]),
        ("no-pod", json!({"kind": "StatefulSet", "name": "none"}), "TargetNotReady", ["scaled to 0", "none"]),
        ("probe", json!({"kind": "StatefulSet", "name": "one"}), "TargetNotReady", ["one-0", "readiness probe"]),
        ("no-shell", json!({"kind": "Pod", "name": "pause"}), "ShellMissing", ["has no `sh`", "spec.target.container"]),
    ];
    let set = scene.api::<k8s_openapi::api::core::v1::Pod>();
    until("pod one-0 to run without being Ready", || async {
        let statuses =
            set.get_opt("one-0").await?.and_then(|pod| pod.status).and_then(|status| status.container_statuses);
        let up = |statuses: Vec<k8s_openapi::api::core::v1::ContainerStatus>| {
            statuses.len() == 2
                && statuses.iter().all(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
        };
        Ok(statuses.is_some_and(up).then_some(()))
    })
    .await?;
    let jobs: Vec<_> = cases.iter().map(|(name, target, ..)| aimed(&scene, name, target.clone())).collect();
    let statuses = scene.back_up_all(&jobs).await?;
    for ((_, _, reason, words), status) in cases.iter().zip(&statuses) {
        failed(status, reason, words)?;
    }
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test]
async fn of_a_statefulset_the_first_ready_pod_is_taken() -> Result<()> {
    let scene = Scene::new("target").await?;
    scene.apply(&stateful_set("db", 2)).await?;
    let pods = scene.api::<k8s_openapi::api::core::v1::Pod>();
    until("pod db-1 to be Ready", || async {
        let conditions = pods.get_opt("db-1").await?.and_then(|pod| pod.status).and_then(|status| status.conditions);
        Ok(conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True").then_some(()))
    })
    .await?;
    let job = aimed(&scene, "db", json!({"kind": "StatefulSet", "name": "db", "container": "main", "path": "/data"}));
    let status = scene.back_up(&job).await?;
    ensure!(status.phase == Phase::Succeeded && status.pod.as_deref() == Some("db-1"), "{status:?}");
    ensure!(scene.decompressed(&status).await? == b"db-1\n", "another pod answered");
    scene.end().await
}

#[tokio::test]
async fn another_namespace_is_reached_with_its_consent_alone() -> Result<()> {
    let (home, away) = tokio::try_join!(Scene::new("home"), Scene::not_opted_in("away"))?;
    away.pod("box", BUSYBOX, |_| {}).await?;
    let target = json!({"kind": "Pod", "name": "box", "namespace": away.namespace});
    let refused = home.back_up(&aimed(&home, "refused", target.clone())).await?;
    failed(&refused, "Forbidden", &["--clusterrole=backup-target", &away.namespace])?;
    // The message holds the command that mends it: that very one.
    let message = refused.message.unwrap_or_default();
    let command = message.split("kubectl ").nth(1).with_context(|| format!("no command in {message:?}"))?;
    home.installed.kubectl(&command.split_whitespace().collect::<Vec<_>>(), "").await?;
    // Authorization follows a moment later, so a refused run is tried anew.
    let (run, status) = until("a run to be permitted", || async {
        let run = home.start("refused").await?;
        let status = home.ended(&run).await?;
        Ok((status.reason.as_deref() != Some("Forbidden")).then_some((run, status)))
    })
    .await?;
    ensure!(status.phase == Phase::Succeeded, "{run}: {status:?}");
    ensure!(home.decompressed(&status).await? == b"box\n", "another pod answered");
    away.end().await?;
    home.end().await
}

#[tokio::test]
async fn a_namespace_that_is_not_opted_in_says_how() -> Result<()> {
    let scene = Scene::not_opted_in("bare").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let command = format!("kubectl apply -n {} -f manifests/namespace.yaml", scene.namespace);
    let status = scene.back_up(&scene.job("early", "echo data", |_| {})).await?;
    failed(&status, "NamespaceNotOptedIn", &[&command])?;
    let said = not_ready(&scene, "early", "NamespaceNotOptedIn").await?;
    ensure!(said.contains(&command), "{said}");
    until("an Event that says the same", || async {
        let reasons = scene.event_reasons("early").await?;
        Ok(reasons.iter().any(|reason| reason == "NamespaceNotOptedIn").then_some(()))
    })
    .await?;

    scene.opt_in().await?;
    scene.job_until("early", "to be Ready by itself", |job| ready(job, "True", "Ready").is_some()).await?;
    let run = scene.start("early").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene.end().await
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_it_runs() -> Result<()> {
    let scene = Scene::new("refused").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = |name: &str, path: &str, value: Value| scene.job(name, "echo data", |job| edit(job, path, value));

    // By the API server, as it is applied.
    let at_once = [
        (job("scheme", "spec.destination.uri", json!("gs://bucket/x")), "type and uri must agree"),
        (job("type", "spec.destination.type", json!("gcs")), "type and uri must agree"),
        (job("dots", "spec.target.path", json!("/data/../etc")), "must not have a segment .."),
        (job("dots-uri", "spec.destination.uri", json!("s3://bucket/../x")), "must not have a segment .."),
        (job("password", "spec.destination.uri", json!("s3://me:secret@bucket/x")), "must not hold a user or password"),
        (job("root", "spec.strategy.directory", json!("/")), "spec.strategy.directory"),
        (job("nothing", "spec.strategy.command", Value::Null), "command is needed"),
    ];
    for (job, words) in &at_once {
        let said = scene.apply(job).await.err().with_context(|| format!("admitted: {job}"))?.to_string();
        ensure!(said.contains(words), "{said:?} lacks {words:?}");
    }

    // By the operator, which says so in the condition, an Event and the phase.
    let option = "spec.destination.options";
    let later = [
        (job("cron", "spec.schedule", json!("0 25 * * *")), "InvalidSchedule", vec!["spec.schedule"]),
        (job("fields", "spec.schedule", json!("0 2 * *")), "InvalidSchedule", vec!["spec.schedule"]),
        (job("never", "spec.schedule", json!("0 0 31 2 *")), "InvalidSchedule", vec!["spec.schedule"]),
        (job("zone", "spec.timeZone", json!("Europe/Atlantis")), "InvalidTimeZone", vec!["spec.timeZone", "IANA"]),
        (
            job("option", option, json!({"bucketLookup": "dns"})),
            "NotSupported",
            vec!["options.bucketLookup", "endpoint"],
        ),
        (job("endpoint", option, json!({"endpoint": "ftp://x"})), "InvalidSpec", vec!["options.endpoint"]),
        (job("each", "spec.retention", json!({"keepLast": 3})), "NotSupported", vec!["spec.retention"]),
        (
            job("kind", "spec.target.selector", json!({"matchLabels": {"app": "x"}})),
            "NotSupported",
            vec!["spec.target.selector"],
        ),
        (job("blank", "spec.strategy.command", json!("  ")), "InvalidSpec", vec!["spec.strategy.command"]),
    ];
    let items: Vec<_> = later.iter().map(|(job, ..)| job).collect();
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await?;
    for (job, reason, words) in &later {
        let name = job["metadata"]["name"].as_str().unwrap_or_default();
        let said = not_ready(&scene, name, reason).await?;
        ensure!(words.iter().all(|word| said.contains(word)), "{said:?} lacks one of {words:?}");
        until(&format!("an Event about {name}"), || async {
            Ok(scene.event_reasons(name).await?.iter().any(|told| told == reason).then_some(()))
        })
        .await?;
        let phase = scene.kubectl(&["get", "bj", name, "-o", "jsonpath={.status.phase}"]).await?;
        ensure!(phase == "NotReady", "{name} is {phase}");
    }
    let runs = scene.api::<BackupRun>().list(&kube::api::ListParams::default()).await?;
    ensure!(runs.items.is_empty(), "something ran: {:?}", runs.items);

    // One asked for by hand does not run either, and says the same.
    let run = scene.start("option").await?;
    failed(&scene.ended(&run).await?, "NotSupported", &["options.bucketLookup"])?;

    // Mended, it is Ready, and as it has no schedule it runs.
    scene.apply(&job("option", option, json!({"region": "us-east-1"}))).await?;
    let status = scene.ended("option-once").await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene.job_until("option", "to be Ready", |job| ready(job, "True", "Ready").is_some()).await?;
    ensure!(scene.objects().await?.iter().all(|key| key.contains("/option/")), "{:?}", scene.objects().await?);
    scene.end().await
}
