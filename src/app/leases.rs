//! **W** The two Leases of this process and the roll of its peers, told to the controller.

use crate::clock::Clock;
use crate::controller::{Duty, Signal};
use crate::install::SYSTEM_NAMESPACE;
use crate::lease::cluster::ClusterLeases;
use crate::lease::keeper::{Keeper, call_the_roll};
use crate::lease::ports::Leases;
use crate::lease::{EXECUTOR_PREFIX, SCHEDULER, Tenure, Terms};
use crate::telemetry::metrics::Metrics;
use kube::Client;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// When each Lease is given up.
pub(super) struct Ends {
    /// As soon as this process claims nothing any more.
    pub(super) scheduling: CancellationToken,
    /// When nothing is at work here any more.
    pub(super) executing: CancellationToken,
}

/// Starts what keeps the Leases and reports about them. The keepers end, in order, when they are told to (their set is
/// waited for at the end); everything else lives as long as the process.
pub(super) fn keep(
    (tasks, keepers): (&mut JoinSet<&'static str>, &mut JoinSet<&'static str>),
    client: Client,
    clock: &Arc<dyn Clock>,
    instance: &str,
    signals: mpsc::Sender<Signal>,
    metrics: Arc<Metrics>,
) -> Ends {
    let leases: Arc<dyn Leases> = Arc::new(ClusterLeases::new(client, SYSTEM_NAMESPACE, Arc::clone(clock)));
    let ends = Ends { scheduling: CancellationToken::new(), executing: CancellationToken::new() };
    let keeper = |name: String, terms, held| {
        Keeper::new(Arc::clone(&leases), Arc::clone(clock), name, Tenure::new(instance, terms), held)
    };
    let (held, scheduling) = watch::channel(false);
    let keep = keeper(SCHEDULER.to_owned(), Terms::SCHEDULING, held).keep(ends.scheduling.clone(), false);
    super::spawn(keepers, "keeper of the scheduling Lease", keep);
    let (held, executing) = watch::channel(false);
    let keep = keeper(format!("{EXECUTOR_PREFIX}{instance}"), Terms::EXECUTOR, held).keep(ends.executing.clone(), true);
    super::spawn(keepers, "keeper of the executor's Lease", keep);

    let leads = scheduling.clone();
    let told = signals.clone();
    super::spawn(
        tasks,
        "roll of the executors",
        call_the_roll(leases, Arc::clone(clock), leads, move |living| {
            let told = told.clone();
            async move { told.send(Signal::Executors(living)).await.is_ok() }
        }),
    );
    super::spawn(tasks, "report of the Leases", report(scheduling, executing, signals, metrics));
    ends
}

/// Both Leases, as what the process may do. A keeper that ended renews nothing, whatever it said last: where it is the one of
/// the executor's Lease, others will call this process dead.
async fn report(
    mut scheduling: watch::Receiver<bool>,
    mut executing: watch::Receiver<bool>,
    signals: mpsc::Sender<Signal>,
    metrics: Arc<Metrics>,
) {
    loop {
        let duty = match (is_kept(&mut executing), is_kept(&mut scheduling)) {
            (false, _) => Duty::CutOff,
            (true, true) => Duty::Leads,
            (true, false) => Duty::Follows,
        };
        metrics.leads(duty == Duty::Leads);
        if signals.send(Signal::Duty(duty)).await.is_err() {
            return;
        }
        // Without a keeper nothing changes any more.
        let (schedules, executes) = (scheduling.has_changed().is_ok(), executing.has_changed().is_ok());
        tokio::select! {
            _ = scheduling.changed(), if schedules => {}
            _ = executing.changed(), if executes => {}
            else => return,
        }
    }
}

/// Whether a Lease is held, and somebody is there who renews it.
fn is_kept(held: &mut watch::Receiver<bool>) -> bool {
    *held.borrow_and_update() && held.has_changed().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_lost_the_keeper_of_its_own_lease_is_cut_off() {
        let ((keeps_scheduling, scheduling), (keeps_executing, executing)) =
            (watch::channel(true), watch::channel(true));
        let (signals, mut told) = mpsc::channel(8);
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let reported = tokio::spawn(report(scheduling, executing, signals, metrics));
        let mut duty = async || match told.recv().await {
            Some(Signal::Duty(duty)) => Some(duty),
            _ => None,
        };
        assert_eq!(duty().await, Some(Duty::Leads));
        // As a task that panics drops what it has.
        drop(keeps_executing);
        assert_eq!(duty().await, Some(Duty::CutOff));
        keeps_scheduling.send_replace(false);
        assert_eq!(duty().await, Some(Duty::CutOff));
        drop(keeps_scheduling);
        assert!(matches!(duty().await, Some(Duty::CutOff) | None));
        reported.await.expect("it ends with the last keeper");
    }
}
