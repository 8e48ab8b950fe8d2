//! Backups of known bytes through a proxy in front of the S3 server.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use super::scene::{BUSYBOX, Scene, edit, pipe};
use anyhow::{Context, Result, ensure};
use rig::fault_proxy::FaultProxy;
use serde_json::{Value, json};
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;

/// Prints what [`with_data`] made: not compressible, so that it fills parts of an upload (8 MiB each).
pub const DATA: &str = "cat /tmp/data";

/// A scene with a pod `box` that holds so many random bytes in `/tmp/data`; gives their SHA-256, too.
pub async fn with_data(bytes: u64) -> Result<(Scene, String)> {
    let scene = Scene::new("destination").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let make = format!("head -c {bytes} /dev/urandom > /tmp/data && sha256sum < /tmp/data");
    let digest = scene.exec("box", &make).await?;
    let digest = digest.split_whitespace().next().context("a digest")?.to_owned();
    Ok((scene, digest))
}

/// A proxy in front of the S3 server.
pub fn proxy(scene: &Scene) -> Result<FaultProxy> {
    FaultProxy::http(&scene.installed.cluster.node, &scene.installed.cluster.s3.address())
}

/// A BackupJob whose destination is reached through this endpoint.
pub fn job_through(scene: &Scene, name: &str, command: &str, endpoint: &str) -> Value {
    scene.job(name, command, |job| edit(job, "spec.destination.options", json!({"endpoint": endpoint})))
}

/// A run that succeeded stored what the pod holds.
pub async fn is_whole(scene: &Scene, status: &BackupRunStatus, digest: &str) -> Result<()> {
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let bytes = scene.decompressed(status).await?;
    let found = pipe("sha256sum", &[], bytes).await?;
    ensure!(found.starts_with(digest.as_bytes()), "the bytes differ: {status:?}");
    Ok(())
}
