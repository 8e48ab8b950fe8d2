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

/// Both Leases, as what the process may do.
async fn report(
    mut scheduling: watch::Receiver<bool>,
    mut executing: watch::Receiver<bool>,
    signals: mpsc::Sender<Signal>,
    metrics: Arc<Metrics>,
) {
    loop {
        let duty = match (*executing.borrow_and_update(), *scheduling.borrow_and_update()) {
            (false, _) => Duty::CutOff,
            (true, true) => Duty::Leads,
            (true, false) => Duty::Follows,
        };
        metrics.leads(duty == Duty::Leads);
        if signals.send(Signal::Duty(duty)).await.is_err() {
            return;
        }
        // Both senders live as long as their keepers, which `app` watches.
        tokio::select! {
            Ok(()) = scheduling.changed() => {}
            Ok(()) = executing.changed() => {}
            else => return,
        }
    }
}
