//! A dump to a server that takes less than the pod gives. One test, in a binary of its own: no other backup shall count
//! towards the operator's memory.

mod installed;
mod process;
mod scene;
mod through;

use anyhow::{Result, ensure};
use rig::fault_proxy::{FaultProxy, Seen};
use std::sync::Arc;
use std::time::Duration;
use through::{DATA, is_whole, job_through, proxy, with_data};

/// Asks the proxy without holding up the runtime.
async fn wait(
    proxy: &Arc<FaultProxy>,
    patience: Duration,
    holds: impl Fn(&Seen) -> bool + Send + 'static,
) -> Result<()> {
    let proxy = Arc::clone(proxy);
    tokio::task::spawn_blocking(move || proxy.wait(patience, holds).map(drop)).await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a limit in bytes per second is checked by the machine's clock")]
async fn a_server_that_takes_one_megabyte_per_second_costs_patience_and_no_memory() -> Result<()> {
    const SIZE: u64 = 200_000_000;
    const SLOWLY: u64 = 30_000_000;
    let (scene, digest) = with_data(SIZE).await?;
    let operator = process::operator(&scene.installed).await?;
    let idle = operator.begin()?;
    let proxy = Arc::new(proxy(&scene)?);
    proxy.limit(Some(1_000_000));
    let start = std::time::Instant::now();
    scene.apply(&job_through(&scene, "slow", DATA, &proxy.endpoint())).await?;
    // Long enough for everything to be read by now, if anything read ahead of the server.
    wait(&proxy, Duration::from_mins(3), |seen| seen.bytes_up > SLOWLY).await?;
    proxy.limit(None);
    let status = scene.ended("slow-once").await?;
    ensure!(
        start.elapsed() > Duration::from_secs(SLOWLY / 1_000_000 - 2),
        "was not slowed down: {:?}",
        start.elapsed()
    );
    let peak = operator.peak()?;
    ensure!(status.attempts.len() == 1 && status.bytes_read == Some(200_000_000), "{status:?}");
    is_whole(&scene, &status, &digest).await?;
    // The product's own number, for one run.
    ensure!(peak.saturating_sub(idle) < 64 << 20, "memory: {idle} bytes idle, {peak} at most");
    scene.end().await
}
