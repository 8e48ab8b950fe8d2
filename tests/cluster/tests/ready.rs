//! What a BackupJob refers to is looked at before its first run, with the tenant's rights, and nothing is contacted for it.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::BackupRun;

/// Message of the condition `Ready`, if it stands as `word` for `reason` and for the spec as it is.
fn ready<'a>(job: &'a BackupJob, word: &str, reason: &str) -> Option<&'a str> {
    let status = job.status.as_ref().filter(|status| status.observed_generation == job.metadata.generation)?;
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    (ready.status == word && ready.reason == reason).then_some(&*ready.message)
}

/// Waits until the job is not Ready for `reason`, and looks whether the message has these words.
async fn not_ready(scene: &Scene, reason: &str, words: &[&str]) -> Result<String> {
    let what = format!("to be not Ready: {reason}");
    let job = scene.job_until("early", &what, |job| ready(job, "False", reason).is_some()).await?;
    let said = ready(&job, "False", reason).context("a message")?.to_owned();
    ensure!(words.iter().all(|word| said.contains(word)), "{reason}: {said:?} lacks one of {words:?}");
    Ok(said)
}

#[tokio::test]
async fn what_is_missing_is_said_before_the_first_run() -> Result<()> {
    let scene = Scene::new("ready").await?;
    let away = Scene::not_opted_in("away").await?;
    let job = |target: Value, change: &dyn Fn(&mut Value)| {
        scene.job("early", "echo data", |job| {
            edit(job, "spec.schedule", json!("0 0 1 1 *"));
            edit(job, "spec.target", target);
            edit(job, "spec.destination.secretRef", json!("later"));
            change(job);
        })
    };
    let pod = || json!({"kind": "Pod", "name": "box"});
    scene.apply(&job(pod(), &|_| {})).await?;
    not_ready(&scene, "SecretNotFound", &["no Secret later"]).await?;
    let mut keys = scene.keys();
    let secret_key = keys.remove("AWS_SECRET_ACCESS_KEY").context("a key")?;
    scene.secret("later", &keys).await?;
    not_ready(&scene, "SecretKeyMissing", &["AWS_SECRET_ACCESS_KEY is missing"]).await?;
    keys.insert("AWS_SECRET_ACCESS_KEY".to_owned(), secret_key);
    scene.secret("later", &keys).await?;
    not_ready(&scene, "TargetNotFound", &["no Pod box", "correct spec.target"]).await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.job_until("early", "to be Ready by itself", |job| ready(job, "True", "Ready").is_some()).await?;

    scene.apply(&job(json!({"kind": "Pod", "name": "box", "container": "other"}), &|_| {})).await?;
    not_ready(&scene, "ContainerNotFound", &["no container other", "it has main"]).await?;
    let metadata = json!({"endpoint": "http://169.254.169.254"});
    scene.apply(&job(pod(), &|job| edit(job, "spec.destination.options", metadata.clone()))).await?;
    not_ready(&scene, "DestinationForbidden", &["169.254.169.254", "link-local"]).await?;
    // A server that is not there is none of this: it would have to be contacted.
    let nobody = json!({"endpoint": "http://nobody.invalid:9000"});
    scene.apply(&job(pod(), &|job| edit(job, "spec.destination.options", nobody.clone()))).await?;
    scene.job_until("early", "to be Ready again", |job| ready(job, "True", "Ready").is_some()).await?;

    away.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&job(json!({"kind": "Pod", "name": "box", "namespace": away.namespace}), &|_| {})).await?;
    let said = not_ready(&scene, "Forbidden", &["--clusterrole=backup-target", &away.namespace]).await?;
    let command = said.split("kubectl ").nth(1).with_context(|| format!("no command in {said:?}"))?;
    scene.installed.kubectl(&command.split_whitespace().collect::<Vec<_>>(), "").await?;
    scene.job_until("early", "to be Ready with the right", |job| ready(job, "True", "Ready").is_some()).await?;

    // A workload without a Ready pod is one that a run waits for.
    let sleeping = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "idle"}}, "template": {
            "metadata": {"labels": {"app": "idle"}},
            "spec": {"containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never"}]}}}});
    scene.apply(&sleeping).await?;
    scene.apply(&job(json!({"kind": "Deployment", "name": "idle"}), &|_| {})).await?;
    scene.job_until("early", "to be Ready although nothing runs", |job| ready(job, "True", "Ready").is_some()).await?;

    let runs = scene.api::<BackupRun>().list(&ListParams::default()).await?;
    ensure!(runs.items.is_empty() && scene.objects().await?.is_empty(), "something ran: {:?}", runs.items);
    away.end().await?;
    scene.end().await
}
