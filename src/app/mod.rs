//! **W** The operator: builds concrete types, starts tasks, waits on every handle, drains on a signal.
//!
//! A part that ends although nobody asked it to ends the process with an error: an operator that half works is worse than
//! one that Kubernetes restarts.
//!
//! # Told to end (SIGTERM, SIGINT)
//! 1. Nothing is claimed or begun any more. Runs that wait are left as they are to the next process.
//! 2. What was decided about BackupJobs is written, for at most [`LAST_WRITES`]; then the scheduling Lease is given up, and
//!    another process leads at once.
//! 3. What is at work may end, for `--shutdown-grace-seconds`. The process' own Lease is renewed meanwhile, so that nobody
//!    takes its runs for orphans; whoever wishes one of them to stop is heard.
//! 4. The rest is cancelled (`OperatorShutdown`) and cleans up; its runs are `Pending`, and the next process takes them up
//!    without a wait.
//! 5. The process' own Lease is removed, and the last status writes, Leases and answers to scrapes have [`LAST_WRITES`] each.

mod attempt;
mod leases;
mod observe;
mod surroundings;
mod watches;

use crate::api::backup_job::BackupJob;
use crate::api::backup_run::BackupRun;
use crate::api::names::Uid;
use crate::args::OperatorArgs;
use crate::clock::{Clock, SystemClock};
use crate::controller::records::ClusterRecords;
use crate::controller::status_writer::StatusQueue;
use crate::controller::{Controller, Ports, Signal, policy};
use crate::error::{Failure, Reason};
use crate::run::exclusive::Exclusive;
use crate::run::pace::Pace;
use crate::run::ports::StatusSink;
use crate::run::supervisor::Supervisor;
use crate::run::task::{PROGRESS_GAP, Shared};
use crate::run::turns::Turns;
use crate::telemetry::admin::Admin;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Gate, Readiness};
use crate::tenant::Tenants;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config};
use rand::RngExt;
use std::sync::Arc;
use surroundings::Surroundings;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Oldest Kubernetes that works: ValidatingAdmissionPolicy is served as v1 from here on (`product.md` section 1).
const OLDEST_KUBERNETES: (u32, u32) = (1, 30);
/// Signals that may wait for the controller.
const SIGNALS: usize = 1024;
/// How long the first look at the policies may take before they count as missing.
const FIRST_LOOK: std::time::Duration = std::time::Duration::from_secs(5);
/// Silence that ends a connection. kube's watches end by themselves after 290 s (`watcher::Config`), so none is cut by it.
const WATCH_SILENCE: std::time::Duration = std::time::Duration::from_mins(6);
/// How long the last status writes may take when the process ends.
const LAST_WRITES: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs the operator until SIGTERM or SIGINT, and then until what was at work has ended.
pub async fn operate(args: &OperatorArgs) -> Result<(), Failure> {
    let mut told = std::pin::pin!(told_to_end());
    let mut config = Config::infer().await.map_err(|error| {
        Failure::new(
            Reason::ClusterUnavailable,
            format!("no cluster is configured: {error}; run in a pod, or set KUBECONFIG"),
        )
    })?;
    // A watch says something at least every minute (bookmarks); one that does not is on a dead connection.
    config.read_timeout = Some(WATCH_SILENCE);
    // kube's own policy tries for up to hours, unseen; whoever asks here tries again himself, at his pace and within limits.
    config.default_retry = false;
    let client = Client::try_from(config.clone()).map_err(|error| unreachable_cluster(&error))?;
    let cluster_id = tokio::select! {
        () = &mut told => return Ok(()), // nothing is at work yet
        found = async {
            check_version(&client).await?;
            cluster_id(&client).await
        } => found?,
    };
    let instance = instance(&args.pod_name);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %instance, cluster = %cluster_id, "the operator starts");

    let metrics = Metrics::new().map_err(|error| Failure::new(Reason::Internal, format!("metrics: {error}")))?;
    let metrics = Arc::new(metrics);
    let (events, event_writer) =
        Events::new(client.clone(), args.pod_name.clone(), Arc::clone(&metrics), Arc::clone(&clock));
    let readiness = Arc::new(Readiness::new());
    let admin = Admin::bind(args.metrics_address).await.map_err(|error| {
        Failure::new(Reason::InvalidSpec, format!("--metrics-address {}: {error}", args.metrics_address))
    })?;
    let surroundings = Surroundings::new(
        client.clone(),
        Arc::clone(&clock),
        &config.cluster_url,
        &args.deny_destination_cidr,
        &args.pod_ips,
    );
    let tenants = Tenants::new(config, Arc::clone(&clock))?;
    let stop = CancellationToken::new();
    let drained = CancellationToken::new();
    let records = ClusterRecords::new(client.clone());
    let statuses = StatusQueue::default();
    let turns = Turns::new(args.max_concurrent_runs);
    let observers = Arc::new(observe::Observers::new(&metrics, events, statuses.clone(), turns.clone()));
    let job_statuses: Arc<dyn StatusSink> = observers.clone();
    let own_name = instance.clone();
    let shared = Arc::new(Shared {
        records: Arc::new(records.clone()),
        executor: Arc::new(attempt::ExecExecutor { tenants, surroundings, clock: Arc::clone(&clock) }),
        observer: observers.clone(),
        clock: Arc::clone(&clock),
        instance,
        cluster_id,
        turns,
        exclusive: Exclusive::default(),
        progress: Pace::new(PROGRESS_GAP),
        draining: CancellationToken::new(),
        leading: watch::Sender::new(false),
    });
    let ports = Ports {
        records: Arc::clone(&shared.records),
        executor: Arc::clone(&shared.executor),
        observer: observers.clone(),
        statuses: Arc::clone(&job_statuses),
        clock: Arc::clone(&clock),
    };

    let (sender, receiver) = mpsc::channel(SIGNALS);
    let seen = Arc::clone(&readiness);
    let (epoch, epochs) = watch::channel(0);
    let controller = Controller::new(
        ports,
        Supervisor::new(shared),
        &own_name,
        args.catch_up_window(),
        (sender.clone(), receiver),
        epoch,
        Box::new(move || seen.open(Gate::Cluster)),
    );
    let mut watches: JoinSet<&'static str> = JoinSet::new();
    let mut keepers: JoinSet<&'static str> = JoinSet::new();
    let both = (&mut watches, &mut keepers);
    let ends = leases::keep(both, client.clone(), &clock, &own_name, sender.clone(), Arc::clone(&metrics));
    spawn(
        &mut watches,
        "watch of BackupJobs",
        watches::watch::<BackupJob>(Api::all(client.clone()), sender.clone(), epochs.clone(), Signal::Job),
    );
    spawn(
        &mut watches,
        "watch of BackupRuns",
        watches::watch::<BackupRun>(Api::all(client.clone()), sender.clone(), epochs, Signal::Run),
    );
    spawn(
        &mut watches,
        "watch of the admission policies",
        watch_policies(client.clone(), sender, Arc::clone(&readiness)),
    );
    spawn(&mut watches, "writer of Events", event_writer);
    let mut server = tokio::spawn(admin.serve(Arc::clone(&metrics), readiness, drained.clone()));
    let mut writer = tokio::spawn(statuses.clone().run(records, metrics, drained.clone()));
    let mut control = tokio::spawn(controller.run(stop.clone(), args.shutdown_grace()));

    let outcome = tokio::select! {
        () = &mut told => {
            tracing::info!("told to end");
            stop.cancel();
            // What this process decided is written before another one decides.
            statuses.idle(LAST_WRITES).await;
            job_statuses.forget();
            ends.scheduling.cancel();
            (&mut control).await.map_err(|fault| ended_early(&format!("controller ({fault})")))
        }
        ended = &mut control => Err(ended_early(&format!("controller ({ended:?})"))),
        what = ended_part(&mut watches, &mut keepers, &mut writer, &mut server) => {
            // What was at work still ends in order, and at once where it was the keeper of the process' own Lease: without that
            // the controller is cut off.
            stop.cancel();
            ends.scheduling.cancel();
            let _ = control.await;
            Err(ended_early(what))
        }
    };
    drained.cancel();
    ends.scheduling.cancel();
    ends.executing.cancel();
    let _ = tokio::time::timeout(LAST_WRITES, async { while keepers.join_next().await.is_some() {} }).await;
    // Both end by themselves now; the watches end with the process.
    let _ = tokio::time::timeout(LAST_WRITES, futures::future::join(writer, server)).await;
    tracing::info!("the operator has ended");
    outcome
}

/// The first part that ends.
async fn ended_part(
    watches: &mut JoinSet<&'static str>,
    keepers: &mut JoinSet<&'static str>,
    writer: &mut JoinHandle<()>,
    server: &mut JoinHandle<std::io::Result<()>>,
) -> &'static str {
    tokio::select! {
        ended = watches.join_next() => ended.and_then(Result::ok).unwrap_or("one of the watches"),
        ended = keepers.join_next() => ended.and_then(Result::ok).unwrap_or("one of the Leases"),
        _ = writer => "status writer",
        _ = server => "metrics server",
    }
}

fn spawn(tasks: &mut JoinSet<&'static str>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        work.await;
        name
    });
}

fn ended_early(what: &str) -> Failure {
    Failure::new(Reason::Internal, format!("the {what} ended although nobody asked it to"))
}

/// Listens from the call on, not from the first poll: a container's first process is not ended by a SIGTERM that it does
/// not listen to, so that one that came too early would be lost, and the pod would stay for its whole grace period.
fn told_to_end() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return; // no signals can be had: better to end than to be unstoppable
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

async fn watch_policies(client: Client, sender: mpsc::Sender<Signal>, readiness: Arc<Readiness>) {
    let mut states = policy::watch(client);
    // Four objects are seen one after the other; what is not seen yet is not missing.
    let in_force = states.wait_for(|state| *state == policy::PolicyState::InForce);
    let _ = tokio::time::timeout(FIRST_LOOK, in_force).await;
    loop {
        let missing = match &*states.borrow_and_update() {
            policy::PolicyState::InForce => None,
            policy::PolicyState::Missing(why) => Some(Failure::new(Reason::AdmissionPolicyMissing, why.clone())),
        };
        match &missing {
            None => readiness.open(Gate::AdmissionPolicies),
            Some(failure) => readiness.close(Gate::AdmissionPolicies, failure.short_message()),
        }
        if sender.send(Signal::Policy(missing)).await.is_err() || states.changed().await.is_err() {
            return;
        }
    }
}

fn unreachable_cluster(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::ClusterUnavailable, format!("the Kubernetes API cannot be reached: {error}"))
}

async fn check_version(client: &Client) -> Result<(), Failure> {
    let version = client.apiserver_version().await.map_err(|error| unreachable_cluster(&error))?;
    // Vendors write `30+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
    if (number(&version.major), number(&version.minor)) < OLDEST_KUBERNETES {
        let (major, minor) = OLDEST_KUBERNETES;
        return Err(Failure::new(
            Reason::NotSupported,
            format!(
                "this is Kubernetes {}, and {major}.{minor} is the oldest that works: admission policies, which guard whose \
                 rights a backup uses, are not served by it. Upgrade the cluster",
                version.git_version
            ),
        ));
    }
    Ok(())
}

/// The cluster's identity: the UID of kube-system, which lives as long as the cluster.
async fn cluster_id(client: &Client) -> Result<Uid, Failure> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = api.get("kube-system").await.map_err(|error| unreachable_cluster(&error))?;
    Uid::new(namespace.metadata.uid.unwrap_or_default())
}

/// This process: made anew at every start, so that a restarted container is another executor.
fn instance(pod_name: &str) -> String {
    let mut random = rand::rng();
    let letters: String = (0..5).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    format!("{pod_name}-{letters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_started_again_is_another_one() {
        let (before, after) = (instance("ubo-0"), instance("ubo-0"));
        assert_ne!(before, after, "the same pod, and 26^5 to choose from");
        let letters = before.strip_prefix("ubo-0-").expect("the pod's name");
        assert!(letters.len() == 5 && letters.bytes().all(|letter| letter.is_ascii_lowercase()), "{before}");
    }
}
