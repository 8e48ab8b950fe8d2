//! The loop around the world, on paused time, with a cluster that does as the test wants.

use super::*;
use crate::api::backup_run::BackupRunStatus;
use crate::run::AttemptId;
use crate::run::exclusive::Exclusive;
use crate::run::observer::{Happening, Subject};
use crate::run::pace::Pace;
use crate::run::ports::{Prepared, RunWritten, StatusWrite, Written};
use crate::run::report::Recovered;
use crate::run::task::{PROGRESS_GAP, Shared};
use crate::run::turns::Turns;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;
use std::sync::Mutex;

/// A cluster whose creates hang in the namespace `slow`.
#[derive(Default)]
struct Cluster {
    claimed: Mutex<Vec<JobRef>>,
}

#[async_trait]
impl Records for Cluster {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, Failure> {
        if claim.job.namespace.as_str() == "slow" {
            std::future::pending::<()>().await;
        }
        self.claimed.lock().expect("sound").push(claim.job.clone());
        Ok(Claimed::Created)
    }
    async fn adopt(&self, _: &BackupRun, _: &BackupJob) -> Result<Option<BackupRun>, Failure> {
        unreachable!("no run was shown")
    }
    async fn is_going(&self, _: &Namespace) -> Result<bool, Failure> {
        unreachable!("nothing is deleted")
    }
    async fn release(&self, _: &BackupRun) -> Result<Written, Failure> {
        unreachable!("no run was shown")
    }
    async fn delete(&self, _: &RunKey) -> Result<(), Failure> {
        unreachable!("no run was shown")
    }
    async fn write_run(&self, _: &RunKey, _: &str, _: &BackupRunStatus) -> Result<RunWritten, Failure> {
        unreachable!("no run was shown")
    }
    async fn job(&self, _: &JobRef) -> Result<Option<Arc<BackupJob>>, Failure> {
        unreachable!("no run was shown")
    }
}

#[async_trait]
impl Executor for Cluster {
    async fn check(&self, _: &ValidatedJob) -> Result<(), Failure> {
        Ok(())
    }
    async fn recover(&self, _: &ValidatedJob, _: &AttemptId) -> Result<Recovered, Failure> {
        unreachable!("no run was shown")
    }
    async fn prepare(&self, _: &ValidatedJob) -> Result<Box<dyn Prepared>, Failure> {
        unreachable!("no run was shown")
    }
}

impl Observer for Cluster {
    fn notice(&self, _: &Subject, _: &Happening) {}
}

impl StatusSink for Cluster {
    fn put(&self, _: JobRef, _: StatusWrite) {}
    fn forget(&self) {}
}

/// The wall clock of paused time.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.0.elapsed()).expect("short");
        DateTime::from_timestamp(1_800_000_000, 0).expect("in range") + passed
    }
    fn monotonic(&self) -> std::time::Instant {
        self.0.into_std()
    }
}

/// A controller that leads and has seen these BackupJobs, which are due every minute.
async fn leading(jobs: &[JobRef]) -> (Arc<Cluster>, mpsc::Sender<Signal>) {
    let cluster = Arc::new(Cluster::default());
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(tokio::time::Instant::now()));
    let shared = Shared {
        records: cluster.clone(),
        executor: cluster.clone(),
        observer: cluster.clone(),
        clock: Arc::clone(&clock),
        instance: "ubo-0".into(),
        cluster_id: Uid::new("33333333-3333-3333-3333-333333333333").expect("good"),
        turns: Turns::new(4),
        exclusive: Exclusive::default(),
        progress: Pace::new(PROGRESS_GAP),
        draining: CancellationToken::new(),
        leading: watch::Sender::new(false),
    };
    let created = clock.now().to_rfc3339();
    let ports = Ports {
        records: cluster.clone(),
        executor: cluster.clone(),
        observer: cluster.clone(),
        statuses: cluster.clone(),
        clock,
    };
    let (sender, signals) = mpsc::channel(8);
    let channel = (sender.clone(), signals);
    let supervisor = Supervisor::new(Arc::new(shared));
    let window = Duration::from_mins(10);
    let controller =
        Controller::new(ports, supervisor, "ubo-0", window, channel, watch::Sender::new(0), Box::new(|| {}));
    tokio::spawn(controller.run(CancellationToken::new(), Duration::from_mins(10)));
    let mut seen = vec![Signal::Duty(Duty::Leads), Signal::Policy(None), Signal::Job(Seen::Begin(1))];
    for (number, job) in jobs.iter().enumerate() {
        let job = json!({
            "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob",
            "metadata": {"name": job.name, "namespace": job.namespace, "uid": format!("11111111-{number:04}"),
                         "creationTimestamp": created, "generation": 1},
            "spec": {
                "target": {"kind": "StatefulSet", "name": "postgres"},
                "strategy": {"type": "dump", "command": "pg_dumpall"},
                "destination": {"type": "s3", "uri": "s3://backups/p", "secretRef": "s3"},
                "schedule": "* * * * *",
            },
        });
        seen.push(Signal::Job(Seen::Apply(Box::new(serde_json::from_value(job).expect("a job")))));
    }
    seen.extend([Signal::Job(Seen::Complete), Signal::Run(Seen::Begin(1)), Signal::Run(Seen::Complete)]);
    for signal in seen {
        sender.send(signal).await.expect("it listens");
    }
    (cluster, sender)
}

fn job(namespace: &str, name: &str) -> JobRef {
    JobRef::new(namespace, name).expect("good")
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_claims_hang_makes_nobody_elses_ticks_late() {
    let mut jobs: Vec<_> = (0..100).map(|number| job("slow", &format!("pg-{number:03}"))).collect();
    jobs.push(job("web", "zz"));
    let (cluster, _sender) = leading(&jobs).await;
    // Its tick is due at the same time as theirs, and comes after them.
    tokio::time::sleep(Duration::from_mins(1) + Duration::from_secs(1)).await;
    assert_eq!(*cluster.claimed.lock().expect("sound"), [job("web", "zz")]);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(cluster.claimed.lock().expect("sound").len(), 2, "and so is the next one");
}
