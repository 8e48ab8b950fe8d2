//! A backup that is encrypted: read by age's own tool and by `ubo restore`, by nobody else; a key that is none is refused.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use scene::{BUSYBOX, Scene, edit};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use ubo::api::backup_job::BackupJob;
use ubo::run::Phase;

fn output(command: &mut Command) -> Result<String> {
    let out = command.output()?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

fn ready(job: &BackupJob) -> Option<Condition> {
    job.status.as_ref()?.conditions.iter().find(|found| found.type_ == "Ready").cloned()
}

/// A new pair: its public key.
fn pair(file: &Path) -> Result<String> {
    output(Command::new("age-keygen").arg("-o").arg(file))?;
    Ok(output(Command::new("age-keygen").arg("-y").arg(file))?.trim().to_owned())
}

#[tokio::test]
async fn only_the_holder_of_the_key_reads_it() -> Result<()> {
    let scene = Scene::new("encrypted").await?;
    scene.pod("db", BUSYBOX, |_| {}).await?;
    let folder = tempfile::tempdir()?;
    let (key, other) = (folder.path().join("key"), folder.path().join("other"));
    let recipient = pair(&key)?;
    pair(&other)?;
    let command = "echo a word on standard error >&2; seq 1 100000";
    let job = scene.job("secret", command, |job| {
        edit(job, "spec.target.name", json!("db"));
        edit(job, "spec.encryption", json!({"recipients": [recipient]}));
        edit(job, "spec.compression", json!({"level": 9}));
    });
    let [status] = &scene.back_up_all(std::slice::from_ref(&job)).await?[..] else { anyhow::bail!("one run") };
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let destination = status.destinations.first().context("a destination")?;
    let names: Vec<&str> = destination.objects.iter().map(|object| object.name.as_str()).collect();
    ensure!(names == ["dump.zst.age", "log.txt.age"], "{names:?}");

    let stored = scene.object(status, "dump.zst.age").await?;
    let numbers: Vec<String> = (1..=100_000).map(|number: u32| number.to_string()).collect();
    let expected = numbers.join("\n") + "\n";
    let key_name = key.to_str().context("a path")?;
    let opened = scene::pipe("age", &["-d", "-i", key_name], stored.clone()).await?;
    let raw = scene::pipe("zstd", &["-d", "-c"], opened).await?;
    ensure!(raw == expected.as_bytes(), "{} bytes came back", raw.len());
    let refused = scene::pipe("age", &["-d", "-i", other.to_str().context("a path")?], stored).await;
    ensure!(refused.is_err(), "somebody else's key opens it");
    let log = scene.object(status, "log.txt.age").await?;
    let log = scene::pipe("age", &["-d", "-i", key_name], log).await?;
    ensure!(String::from_utf8_lossy(&log).contains("a word on standard error"), "the log");
    let manifest = String::from_utf8(scene.object(status, "manifest.json").await?)?;
    ensure!(
        manifest.contains(&recipient) && manifest.contains("\"level\": 9") && !manifest.contains("SECRET-KEY"),
        "{manifest}"
    );
    scene.end().await
}

#[tokio::test]
async fn what_is_no_public_key_is_refused_when_it_is_applied() -> Result<()> {
    let scene = Scene::new("encrypted-wrong").await?;
    let with = |recipient: &str| {
        scene.job("wrong", "echo x", |job| edit(job, "spec.encryption", json!({"recipients": [recipient]})))
    };
    let secret = format!("AGE-SECRET-KEY-1{}", "Q".repeat(58));
    let refused = scene.apply(&with(&secret)).await.err().context("a private key was stored")?.to_string();
    ensure!(refused.contains("never stand here"), "{refused}");
    // It looks like one, and its checksum does not hold: only the operator sees that.
    scene.apply(&with(&format!("age1{}", "q".repeat(58)))).await?;
    let refused = |job: &BackupJob| ready(job).is_some_and(|ready| ready.status == "False");
    let job = scene.job_until("wrong", "to be refused", refused).await?;
    let message = ready(&job).context("a condition")?.message;
    ensure!(message.contains("spec.encryption.recipients[0]") && message.contains("checksum"), "{message}");
    scene.end().await
}
