//! Dumps by exec, as users write them: what succeeds, what fails, what each leaves behind.

mod installed;
mod scene;

use anyhow::{Result, ensure};
use scene::{BUSYBOX, Scene};
use ubo::run::Phase;

#[tokio::test]
async fn a_dump_arrives_byte_for_byte() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.back_up(&scene.job("whole", "seq 1 100000", |_| {})).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    ensure!(scene.decompressed(&status).await? == expected.as_bytes(), "the bytes differ");
    scene.end().await
}

#[tokio::test]
async fn an_exit_code_after_half_of_the_output_fails_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.back_up(&scene.job("half", "seq 1 5000000; exit 3", |_| {})).await?;
    ensure!(status.phase == Phase::Failed && status.exit_code == Some(3), "{status:?}");
    ensure!(status.reason.as_deref() == Some("CommandFailed"), "{status:?}");
    scene.nothing_left().await?;
    let job = scene.job_until("half", "to say how it ended", |job| {
        job.status.as_ref().is_some_and(|status| status.last_exit_code == Some(3))
    });
    job.await?;
    scene.end().await
}
