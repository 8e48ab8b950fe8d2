//! The guard: a backup that shrank is kept and flagged until it is accepted; a directory has the limit that was set; and a
//! bandwidth limit slows down, and loses nothing.

mod installed;
mod plugged;
mod scene;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use plugged::Desk;
use scene::{BUSYBOX, Scene, edit};
use serde_json::json;
use ubo::api::backup_job::BackupJob;
use ubo::error::Reason;
use ubo::run::Phase;

fn healthy(job: &BackupJob) -> Option<Condition> {
    job.status.as_ref()?.conditions.iter().find(|found| found.type_ == "Healthy").cloned()
}

#[tokio::test]
async fn one_that_shrank_is_flagged_until_it_is_accepted() -> Result<()> {
    let scene = Scene::new("guarded").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.exec("box", "seq 1 100000 > /tmp/rows").await?;
    let job = scene.job("pg", "cat /tmp/rows", |job| edit(job, "spec.schedule", json!("0 0 29 2 *")));
    scene.apply(&job).await?;
    scene.kubectl(&["wait", "bj/pg", "--for=condition=Ready", "--timeout=120s"]).await?;
    let desk = Desk::of_admin(&scene)?;
    for _ in 0..2 {
        let said = desk.backup(&["run", "pg", "--wait"]).await?;
        ensure!(said.code == Some(0) && !said.out.contains("BackupShrunk"), "{said:?}");
    }

    // Somebody has emptied the table.
    scene.exec("box", "echo 1 > /tmp/rows").await?;
    let said = desk.backup(&["run", "pg", "--wait"]).await?;
    ensure!(said.code == Some(0) && said.out.contains("BackupShrunk: holds 2, 99 % less"), "{said:?}");
    let run = said.out.split(['/', ' ']).nth(1).context("a name")?.to_owned();
    let flagged = |job: &BackupJob| healthy(job).is_some_and(|found| found.reason == "BackupShrunk");
    let found = scene.job_until("pg", "to be flagged", flagged).await?;
    let condition = healthy(&found).context("a condition")?;
    ensure!(
        condition.status == "False" && condition.message.contains(&format!("kubectl backup accept pg {run}")),
        "{condition:?}"
    );
    let status = scene.ended(&run).await?;
    ensure!(
        status.phase == Phase::Succeeded && scene.decompressed(&status).await? == b"1\n",
        "it is not kept: {status:?}"
    );
    let reasons = scene.event_reasons(&run).await?;
    installed::until("the Event", || async {
        Ok(scene.event_reasons("pg").await?.contains(&"BackupShrunk".to_owned()).then_some(()))
    })
    .await
    .with_context(|| format!("{reasons:?}"))?;
    let said = desk.backup(&["status", "pg"]).await?;
    ensure!(said.code == Some(3) && said.err.contains("BackupShrunk"), "{said:?}");

    // The next one is as small, and as wrong.
    let said = desk.backup(&["run", "pg", "--wait"]).await?;
    ensure!(said.out.contains("BackupShrunk"), "{said:?}");
    let said = desk.backup(&["accept", "pg", "--dry-run=server"]).await?;
    ensure!(said.code == Some(0) && said.out.contains("(server dry run)"), "{said:?}");
    ensure!(flagged(&scene.job_now("pg").await?), "a dry run accepted it");
    let last = scene
        .job_until("pg", "to be flagged again", |job| {
            flagged(job) && healthy(job).is_some_and(|h| !h.message.contains(&run))
        })
        .await?;
    let last = last.status.and_then(|status| status.last_successful_run).context("a run")?;
    let said = desk.backup(&["accept", "pg"]).await?;
    ensure!(said.code == Some(0) && said.out == format!("backupjob.backup.javy.dev/pg accepts {last}\n"), "{said:?}");
    scene.job_until("pg", "to be healthy", |job| healthy(job).is_some_and(|found| found.status == "True")).await?;
    // From then on it is the measure.
    let said = desk.backup(&["run", "pg", "--wait"]).await?;
    ensure!(said.code == Some(0) && !said.out.contains("BackupShrunk"), "{said:?}");
    scene.end().await
}

#[tokio::test]
async fn a_directory_has_the_limit_that_was_set() -> Result<()> {
    let scene = Scene::new("guarded-staged").await?;
    scene
        .pod("box", BUSYBOX, |pod| {
            pod["spec"]["volumes"] = json!([{"name": "backup", "emptyDir": {}}]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "backup", "mountPath": "/backup"}]);
        })
        .await?;
    let command = "dd if=/dev/zero of=/backup/big bs=1024 count=20000; sleep 100000";
    let job = scene.job("large", command, |job| edit(job, "spec.guard", json!({"maximumStagedSize": "10Mi"})));
    let status = scene.back_up(&job).await?;
    ensure!(status.reason.as_deref() == Some(Reason::StagingFull.as_str()), "{status:?}");
    let message = status.message.context("a message")?;
    ensure!(message.contains("10240 KiB") && message.contains("guard.maximumStagedSize"), "{message}");
    ensure!(scene.exec("box", "ls -A /backup").await?.trim().is_empty(), "something is left in /backup");
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test]
async fn a_bandwidth_limit_loses_nothing() -> Result<()> {
    let scene = Scene::new("guarded-slow").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = scene.job("slow", "head -c 8000000 /dev/urandom | tee /tmp/sent", |job| {
        edit(job, "spec.destination.bandwidthLimit", json!("1Mi"));
    });
    let status = scene.back_up(&job).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let stored = scene.decompressed(&status).await?;
    ensure!(stored.len() == 8_000_000, "{} bytes", stored.len());
    let sum = scene.exec("box", "sha256sum < /tmp/sent").await?;
    let ours = scene::pipe("sha256sum", &[], stored).await?;
    ensure!(String::from_utf8_lossy(&ours).split_whitespace().next() == sum.split_whitespace().next(), "other bytes");
    // Three whole frames of 2 MiB went through before the last piece: never in less than six seconds.
    let took = status.completion_time.context("an end")?.0.duration_since(status.start_time.context("a start")?.0);
    ensure!(took.as_secs() >= 5, "it took {took:?}");
    scene.end().await
}
