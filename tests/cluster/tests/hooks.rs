//! Commands before and after, in a real container.

mod installed;
mod scene;

use anyhow::{Result, ensure};
use installed::until;
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use ubo::run::Phase;

fn with_hooks(scene: &Scene, name: &str, command: &str, before: &str, after: &str) -> Value {
    scene.job(name, command, |job| {
        edit(job, "spec.strategy.before", json!({"command": before}));
        edit(job, "spec.strategy.after", json!({"command": after}));
    })
}

#[tokio::test]
async fn before_and_after_run_around_the_work_whatever_fails() -> Result<()> {
    let scene = Scene::new("hooks").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let note = |job: &str, what: &str| format!("echo {what} >> /notes-{job}; echo said {what}");
    for (name, command, before, after, phase, reason, notes) in [
        ("good", "echo w >> /notes-good; echo data", "true", "true", Phase::Succeeded, None, "b w a"),
        ("before", "echo w >> /notes-before; echo data", "exit 4", "true", Phase::Failed, Some("BeforeFailed"), "b a"),
        ("command", "exit 3", "true", "true", Phase::Failed, Some("CommandFailed"), "b a"),
        ("after", "echo w >> /notes-after; echo data", "true", "exit 5", Phase::Failed, Some("AfterFailed"), "b w a"),
    ] {
        let before = format!("{}; {before}", note(name, "b"));
        let after = format!("{}; {after}", note(name, "a"));
        let status = scene.back_up(&with_hooks(&scene, name, command, &before, &after)).await?;
        ensure!(status.phase == phase && status.reason.as_deref() == reason, "{name}: {status:?}");
        let written = scene.exec("box", &format!("cat /notes-{name}")).await?.replace('\n', " ");
        ensure!(written.trim() == notes, "{name}: {written}");
        if phase == Phase::Succeeded {
            let folder = status.destinations[0].folder.clone().unwrap_or_default();
            let log = scene.read(&format!("{folder}/log.txt")).await?;
            ensure!(log == b"said b\nsaid a\n", "{:?}", String::from_utf8_lossy(&log));
        }
    }
    let mut late = with_hooks(&scene, "late", "echo data", "sleep 4321", "echo a > /notes-late");
    edit(&mut late, "spec.strategy.before.timeoutSeconds", json!(2));
    let status = scene.back_up(&late).await?;
    ensure!(status.reason.as_deref() == Some("BeforeFailed"), "{status:?}");
    ensure!(scene.exec("box", "cat /notes-late").await?.trim() == "a");
    scene.no_process("box", "sleep 4321").await?;
    scene.end().await
}

#[tokio::test]
async fn after_runs_when_the_run_is_cancelled_in_its_middle() -> Result<()> {
    let scene = Scene::new("hooks").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&with_hooks(&scene, "cut", "touch /begun; echo data; sleep 4321", "true", "echo a >> /notes")).await?;
    let api: kube::Api<ubo::api::backup_run::BackupRun> = scene.api();
    until("the command to be at work", || async {
        Ok(scene.exec("box", "test -e /begun && echo yes || true").await?.contains("yes").then_some(()))
    })
    .await?;
    let cancel = kube::api::Patch::Merge(json!({"spec": {"cancel": true}}));
    api.patch("cut-once", &kube::api::PatchParams::default(), &cancel).await?;
    let status = scene.ended("cut-once").await?;
    ensure!(status.phase == Phase::Cancelled, "{status:?}");
    until("after to have run", || async {
        Ok((scene.exec("box", "cat /notes || true").await?.trim() == "a").then_some(()))
    })
    .await?;
    scene.no_process("box", "sleep 4321").await?;
    scene.end().await
}
