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
async fn not_ready(scene: &Scene, name: &str, reason: &str, words: &[&str]) -> Result<String> {
    let what = format!("to be not Ready: {reason}");
    let job = scene.job_until(name, &what, |job| ready(job, "False", reason).is_some()).await?;
    let said = ready(&job, "False", reason).context("a message")?.to_owned();
    ensure!(words.iter().all(|word| said.contains(word)), "{reason}: {said:?} lacks one of {words:?}");
    Ok(said)
}

/// Waits until the job is Ready, without being touched.
async fn is_ready(scene: &Scene, name: &str) -> Result<()> {
    scene.job_until(name, "to be Ready by itself", |job| ready(job, "True", "Ready").is_some()).await.map(drop)
}

/// A job that does not run by itself while the test does.
fn job(scene: &Scene, name: &str, target: Value, secret: &str) -> Value {
    scene.job(name, "echo data", |job| {
        edit(job, "spec.schedule", json!("0 0 1 1 *"));
        edit(job, "spec.target", target);
        edit(job, "spec.destination.secretRef", json!(secret));
    })
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "name": name})
}

/// Nothing of all this may have run.
async fn nothing_ran(scene: &Scene) -> Result<()> {
    let runs = scene.api::<BackupRun>().list(&ListParams::default()).await?;
    ensure!(runs.items.is_empty() && scene.objects().await?.is_empty(), "something ran: {:?}", runs.items);
    Ok(())
}

/// Each of these waits until the operator looks again by itself, so they wait side by side.
#[tokio::test]
async fn what_is_missing_is_said_and_seen_when_it_comes() -> Result<()> {
    let scene = Scene::new("ready").await?;
    let mut incomplete = scene.keys();
    incomplete.remove("AWS_SECRET_ACCESS_KEY").context("a key")?;
    scene.secret("half", &incomplete).await?;
    scene.pod("there", BUSYBOX, |_| {}).await?;
    scene.apply(&job(&scene, "no-secret", pod("there"), "later")).await?;
    scene.apply(&job(&scene, "half-secret", pod("nobody"), "half")).await?;
    scene.apply(&job(&scene, "no-pod", pod("box"), "s3")).await?;
    let secret = async {
        not_ready(&scene, "no-secret", "SecretNotFound", &["no Secret later"]).await?;
        scene.secret("later", &incomplete).await?;
        not_ready(&scene, "no-secret", "SecretKeyMissing", &["AWS_SECRET_ACCESS_KEY is missing"]).await?;
        scene.secret("later", &scene.keys()).await?;
        is_ready(&scene, "no-secret").await
    };
    let key = async {
        not_ready(&scene, "half-secret", "SecretKeyMissing", &["AWS_SECRET_ACCESS_KEY is missing"]).await?;
        scene.secret("half", &scene.keys()).await?;
        not_ready(&scene, "half-secret", "TargetNotFound", &["no Pod nobody", "correct spec.target"]).await
    };
    let target = async {
        not_ready(&scene, "no-pod", "TargetNotFound", &["no Pod box", "correct spec.target"]).await?;
        scene.pod("box", BUSYBOX, |_| {}).await?;
        is_ready(&scene, "no-pod").await
    };
    tokio::try_join!(secret, key, target)?;
    nothing_ran(&scene).await?;
    scene.end().await
}

#[tokio::test]
async fn what_is_changed_is_looked_at_at_once() -> Result<()> {
    let scene = Scene::new("ready").await?;
    let away = Scene::not_opted_in("away").await?;
    tokio::try_join!(scene.pod("box", BUSYBOX, |_| {}), away.pod("box", BUSYBOX, |_| {}))?;
    let early = |target: Value| job(&scene, "early", target, "s3");
    let through = |endpoint: &str| {
        let mut job = early(pod("box"));
        edit(&mut job, "spec.destination.options", json!({"endpoint": endpoint}));
        job
    };
    scene.apply(&early(json!({"kind": "Pod", "name": "box", "container": "other"}))).await?;
    not_ready(&scene, "early", "ContainerNotFound", &["no container other", "it has main"]).await?;
    scene.apply(&through("http://169.254.169.254")).await?;
    not_ready(&scene, "early", "DestinationForbidden", &["169.254.169.254", "link-local"]).await?;
    // A server that is not there is none of this: it would have to be contacted.
    scene.apply(&through("http://nobody.invalid:9000")).await?;
    is_ready(&scene, "early").await?;

    scene.apply(&early(json!({"kind": "Pod", "name": "box", "namespace": away.namespace}))).await?;
    let said = not_ready(&scene, "early", "Forbidden", &["--clusterrole=backup-target", &away.namespace]).await?;
    let command = said.split("kubectl ").nth(1).with_context(|| format!("no command in {said:?}"))?;
    scene.installed.kubectl(&command.split_whitespace().collect::<Vec<_>>(), "").await?;
    is_ready(&scene, "early").await?;

    // A workload without a Ready pod is one that a run waits for.
    let sleeping = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "idle"}}, "template": {
            "metadata": {"labels": {"app": "idle"}},
            "spec": {"containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never"}]}}}});
    scene.apply(&sleeping).await?;
    scene.apply(&early(json!({"kind": "Deployment", "name": "idle"}))).await?;
    is_ready(&scene, "early").await?;

    nothing_ran(&scene).await?;
    away.end().await?;
    scene.end().await
}
