//! **W** Waiting for a run: a bar on a terminal, a line for each change otherwise.

use super::cluster::Cluster;
use crate::api::backup_run::BackupRun;
use crate::cli::progress::Meter;
use crate::error::{Failure, Reason};
use crate::run::Phase;
use crate::run::ports::phase_of;
use crate::run::report::Progress;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks. The operator writes live counts every ten seconds; the end should be seen at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row that may fail before we stop waiting: about two minutes of an API server that is being replaced.
const FAILED_LOOKS: u32 = 60;

/// The run when it is over. `quiet`: nothing is shown meanwhile.
pub(super) async fn until_over(cluster: &Cluster, name: &str, quiet: bool) -> Result<BackupRun, Failure> {
    let progress = Arc::new(Progress::default());
    let mut meter = None;
    let mut told: Option<String> = None;
    let mut failed = 0;
    loop {
        let run = match cluster.find_run(name).await {
            Ok(Some(run)) => run,
            Ok(None) => {
                let message = format!("{name} was deleted while it was waited for");
                return Err(Failure::new(Reason::Deleted, message));
            }
            Err(failure) if failure.reason == Reason::ClusterUnavailable && failed < FAILED_LOOKS => {
                failed += 1;
                tokio::time::sleep(LOOK_EVERY * 2).await;
                continue;
            }
            Err(failure) => {
                return Err(Failure {
                    message: format!("{}. The run goes on: kubectl backup describe {name}", failure.message),
                    ..failure
                });
            }
        };
        failed = 0;
        let phase = phase_of(&run);
        if phase.is_final() {
            return Ok(run);
        }
        let status = run.status.as_ref();
        let count = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        progress.read.store(count(status.and_then(|status| status.bytes_read)), Ordering::Relaxed);
        progress.stored.store(count(status.and_then(|status| status.bytes_stored)), Ordering::Relaxed);
        let message = status.and_then(|status| status.message.clone()).unwrap_or_else(|| "waits to be taken up".into());
        if !quiet && told.as_ref() != Some(&message) {
            drop(meter.take()); // a line would be written into the bar
            eprintln!("{name}: {}: {message}", phase.as_str());
            told = Some(message);
        }
        if phase == Phase::Running {
            meter.get_or_insert_with(|| Meter::start("backing up", &progress, None, quiet));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
