//! `kubectl backup` on a real cluster: each command, its exit code, and what somebody without rights is told.

mod installed;
mod plugged;
mod scene;

use anyhow::{Context, Result, ensure};
use plugged::Desk;
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use ubo::run::Phase;

/// A job with a schedule that does not fire while this runs.
fn job(scene: &Scene, name: &str, command: &str) -> Value {
    scene.job(name, command, |job| {
        edit(job, "spec.schedule", json!("0 0 29 2 *"));
        edit(job, "spec.target.name", json!("box"));
    })
}

#[tokio::test]
async fn runs_are_made_watched_described_and_cancelled() -> Result<()> {
    let scene = Scene::new("plugin").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    for (name, command) in
        [("good", "seq 1 1000"), ("bad", "echo no such table >&2; exit 3"), ("slow", "echo x; sleep 100000")]
    {
        scene.apply(&job(&scene, name, command)).await?;
        scene.kubectl(&["wait", &format!("bj/{name}"), "--for=condition=Ready", "--timeout=120s"]).await?;
    }
    let desk = Desk::of_admin(&scene)?;

    let said = desk.backup(&["run", "good", "--dry-run=server"]).await?;
    ensure!(said.code == Some(0) && said.out.ends_with("created (server dry run)\n"), "{said:?}");
    let said = desk.backup(&["run", "good", "--dry-run"]).await?;
    ensure!(said.code == Some(0) && said.out.ends_with("created (dry run)\n"), "{said:?}");
    let said = desk.backup(&["list"]).await?;
    ensure!(said.code == Some(0) && said.out.is_empty() && said.err.contains("No runs found in"), "{said:?}");

    let said = desk.backup(&["run", "good", "--wait"]).await?;
    ensure!(said.code == Some(0) && said.out.contains(": Succeeded in "), "{said:?}");
    let run = said.out.split(['/', ' ']).nth(1).context("a name")?.to_owned();
    ensure!(run.starts_with("good-m") && run.len() == "good-mabcde".len(), "{run}");
    let said = desk.backup(&["run", "bad", "--wait"]).await?;
    ensure!(
        said.code == Some(1) && said.out.contains("exit code 3") && said.out.contains("(CommandFailed)"),
        "{said:?}"
    );
    ensure!(!said.out.contains("no such table"), "what a command prints is for the operator's log: {said:?}");
    let said = desk.backup(&["run", "good", "--wait", "-o", "json"]).await?;
    let document: Value = serde_json::from_str(&said.out)?;
    ensure!(said.code == Some(0) && document["status"]["phase"] == "Succeeded", "{said:?}");

    let said = desk.backup(&["list", "good"]).await?;
    let lines: Vec<&str> = said.out.lines().collect();
    ensure!(lines.len() == 3 && lines[0].starts_with("NAME ") && said.out.contains(&run), "{said:?}");
    ensure!(!said.out.contains("bad-m"), "{said:?}");
    let said = desk.backup(&["list", "-o", "json"]).await?;
    ensure!(
        serde_json::from_str::<Value>(&said.out)?["items"].as_array().is_some_and(|items| items.len() == 3),
        "{said:?}"
    );
    for (name, word) in [(run.as_str(), "dump.zst"), ("good", run.as_str()), ("bad", "CommandFailed")] {
        let said = desk.backup(&["describe", name]).await?;
        ensure!(said.code == Some(0) && said.out.contains(word), "{said:?}");
    }

    // A BackupJob's status is written after its run's.
    for (name, health) in [("good", "True"), ("bad", "False")] {
        scene
            .kubectl(&["wait", &format!("bj/{name}"), &format!("--for=condition=Healthy={health}"), "--timeout=120s"])
            .await?;
    }
    let said = desk.backup(&["status"]).await?;
    ensure!(said.code == Some(1) && said.out.contains("good") && said.err.contains("bad: Healthy=False"), "{said:?}");
    let said = desk.backup(&["status", "good"]).await?;
    ensure!(said.code == Some(0) && said.err.is_empty(), "{said:?}");

    let said = desk.backup(&["run", "slow"]).await?;
    let slow = said.out.split(['/', ' ']).nth(1).context("a name")?.to_owned();
    scene.at_work(&slow).await?;
    let said = desk.backup(&["cancel", &slow, "--dry-run=server"]).await?;
    ensure!(said.code == Some(0) && said.out.contains("(server dry run)"), "{said:?}");
    ensure!(scene.at_work(&slow).await?.phase == Phase::Running, "a dry run cancelled it");
    let said = desk.backup(&["cancel", &slow]).await?;
    ensure!(said.code == Some(0) && said.out == format!("backuprun.backup.javy.dev/{slow} cancelled\n"), "{said:?}");
    ensure!(scene.ended(&slow).await?.phase == Phase::Cancelled, "not cancelled");
    let said = desk.backup(&["cancel", &slow]).await?;
    ensure!(said.code == Some(1) && said.err.contains("nothing to cancel"), "{said:?}");

    for (arguments, word) in [
        (&["run", "other"][..], "kubectl backup status -n"),
        (&["describe", "other"], "kubectl backup list -n"),
        (&["cancel", "other"], "kubectl backup list -n"),
        (&["accept", "good"], "nothing to accept"),
        (&["accept", "good", &run], "not flagged"),
    ] {
        let said = desk.backup(arguments).await?;
        ensure!(said.code == Some(1) && said.err.contains(word), "{arguments:?}: {said:?}");
    }
    scene.end().await
}

#[tokio::test]
async fn nobody_can_do_more_than_he_may() -> Result<()> {
    let scene = Scene::new("plugin-rights").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.apply(&job(&scene, "good", "seq 1 1000")).await?;
    let user = format!("viewer-{}", scene.namespace);
    scene.installed.bind(&scene.namespace, "view", &user).await?;
    scene.installed.user(&user).await?.ready_in(&scene.namespace).await?;
    let desk = Desk::of(&scene, &user)?;
    let said = desk.backup(&["status", "good"]).await?;
    ensure!(said.code == Some(0) && said.out.contains("good"), "{said:?}");
    let said = desk.backup(&["run", "good"]).await?;
    ensure!(said.code == Some(1) && said.err.contains("kubectl auth can-i create backupruns"), "{said:?}");
    ensure!(said.err.contains("(Forbidden)"), "{said:?}");
    let said = desk.backup(&["list"]).await?;
    ensure!(said.err.contains("No runs found"), "he made one all the same: {said:?}");
    scene.end().await
}
