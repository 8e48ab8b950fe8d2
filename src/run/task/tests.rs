//! The life of runs, on paused time, with an executor that does what the script says.

mod counts;
mod denied;
mod duty;
mod leavings;
mod peers;
mod queue;
mod refused;

use super::*;
use crate::run::ports::{Claim, Claimed, RunWritten, TaskEnd, Written};
use crate::run::report::{Recovered, StoredObject};
use crate::run::supervisor::Supervisor;
use crate::source::Consistency;
use async_trait::async_trait;
use serde_json::json;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering as Atomic};
use tokio::sync::Notify;

/// The wall clock of paused time, and by how many seconds somebody has set it forward or back.
struct PausedClock(tokio::time::Instant, Arc<AtomicI64>);

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        let passed = chrono::TimeDelta::from_std(self.0.elapsed()).expect("short");
        DateTime::from_timestamp(1_800_000_000, 0).expect("in range")
            + passed
            + chrono::TimeDelta::seconds(self.1.load(Atomic::SeqCst))
    }
    fn monotonic(&self) -> std::time::Instant {
        self.0.into_std()
    }
}

/// What the next attempt does.
enum Act {
    Succeed,
    Fail(Reason),
    /// Fails, and cannot remove what it wrote.
    Leave(Reason),
    /// Cannot even be prepared.
    Unprepared(Reason),
    /// Works until cancelled; then cleans up for a second.
    UntilCancelled,
    /// The same, but what it wrote cannot be removed.
    LeaveWhenCancelled,
    /// Works until this is notified.
    Until(Arc<Notify>),
    /// The same, in a directory of this name, which it must have for itself.
    In(&'static str, Arc<Notify>),
    /// Finds that somebody else has what it needs, so many times.
    Taken(usize),
}

/// A call to the API server.
enum Asked<'a> {
    Job,
    Adopt(&'a RunKey),
    Write(&'a RunKey, &'a BackupRunStatus),
}

/// What it has against a call.
type Denies = Box<dyn Fn(Asked) -> Option<Reason> + Send>;

/// What an API server has against a status.
type Refuses = Box<dyn Fn(&BackupRunStatus) -> bool + Send>;

#[derive(Default)]
struct Stage {
    script: Mutex<VecDeque<Act>>,
    writes: Mutex<Vec<BackupRunStatus>>,
    failing_writes: AtomicUsize,
    refuses: Mutex<Option<Refuses>>,
    denies: Mutex<Option<Denies>>,
    gone: std::sync::atomic::AtomicBool,
    /// How often statuses of BackupJobs that were not sent yet were dropped.
    forgotten: AtomicUsize,
    /// Why those were asked to stop that were asked.
    causes: Mutex<Vec<Reason>>,
    working: AtomicUsize,
    most_at_once: AtomicUsize,
    started_unrecorded: AtomicUsize,
    cleaned_up: AtomicUsize,
    /// All but the next two.
    notices: Mutex<Vec<Happening>>,
    /// Of each attempt that worked, whether it was told that the one before it had to wait.
    waited: Mutex<Vec<bool>>,
    /// What attempts moved.
    moved: Mutex<Vec<(u64, u64)>>,
    /// Runs that this process has nothing more to do with.
    left: Mutex<Vec<Subject>>,
    job: Mutex<Option<BackupJob>>,
    /// Dead attempts whose leavings were looked for, who had the run in the stored status then, and what was found.
    recovered: Mutex<Vec<(u32, Option<String>)>>,
    found: Mutex<Option<Result<Recovered, Failure>>>,
    /// What is stored of each run that was written, by UID, and how many writes that took.
    stored: Mutex<HashMap<String, (BackupRunStatus, usize)>>,
}

impl Stage {
    /// An API server that lets this call through, or not now.
    fn admit(&self, asked: Asked) -> Result<(), Failure> {
        let denied = self.denies.lock().expect("sound").as_ref().and_then(|denies| denies(asked));
        denied.map_or(Ok(()), |reason| Err(Failure::new(reason, "denied as scripted")))
    }

    /// Stores a status, whoever writes it; gives the object's version then.
    fn store(&self, key: &RunKey, status: &BackupRunStatus) -> String {
        let mut stored = self.stored.lock().expect("sound");
        let entry = stored.entry(key.uid.to_string()).or_insert_with(|| (BackupRunStatus::default(), 0));
        *entry = (status.clone(), entry.1 + 1);
        entry.1.to_string()
    }

    /// A run as the API server has it now.
    fn as_stored(&self, run: &BackupRun) -> BackupRun {
        let mut now = run.clone();
        let stored = self.stored.lock().expect("sound");
        if let Some((status, version)) = stored.get(run.metadata.uid.as_deref().expect("a UID")) {
            now.status = Some(status.clone());
            now.metadata.resource_version = Some(version.to_string());
        }
        now
    }
}

struct Handle(Arc<Stage>);

struct Work(Arc<Stage>, Act);

#[async_trait]
impl Prepared for Work {
    fn exclusive(&self) -> BTreeSet<String> {
        match &self.1 {
            Act::In(directory, _) => BTreeSet::from([(*directory).to_owned()]),
            _ => BTreeSet::new(),
        }
    }
    fn pod(&self) -> Option<String> {
        Some("postgres-0".into())
    }
    async fn run(
        self: Box<Self>,
        id: AttemptId,
        waited: bool,
        progress: Arc<Progress>,
        cancel: Cancel,
    ) -> Result<Report, Failure> {
        let Self(stage, act) = *self;
        stage.waited.lock().expect("sound").push(waited);
        let stored = stage.writes.lock().expect("sound").last().cloned().unwrap_or_default();
        if record::open_attempt(&stored).is_none_or(|open| open.number != id.attempt) {
            stage.started_unrecorded.fetch_add(1, Atomic::SeqCst);
        }
        let now = stage.working.fetch_add(1, Atomic::SeqCst) + 1;
        stage.most_at_once.fetch_max(now, Atomic::SeqCst);
        progress.read.store(7, Ordering::Relaxed);
        progress.stored.store(3, Ordering::Relaxed);
        let result = match act {
            Act::Succeed => Ok(report()),
            Act::Fail(reason) => Err(Failure::new(reason, "as scripted")),
            Act::Leave(reason) => Err(Failure::new(reason, "as scripted").leaving(leavings::left(id.attempt))),
            Act::Taken(more) => {
                if more > 1 {
                    stage.script.lock().expect("sound").push_front(Act::Taken(more - 1));
                }
                Err(Failure::new(Reason::BackupDirectoryBusy, "waits for another run, web-once"))
            }
            Act::Unprepared(_) => unreachable!("not prepared"),
            Act::UntilCancelled => {
                let cause = cancel.requested().await;
                stage.causes.lock().expect("sound").push(cause);
                tokio::time::sleep(Duration::from_secs(1)).await;
                stage.cleaned_up.fetch_add(1, Atomic::SeqCst);
                Err(Failure::new(Reason::StreamCut, "cancelled"))
            }
            Act::LeaveWhenCancelled => {
                cancel.requested().await;
                Err(Failure::new(Reason::CancelRequested, "cancelled").leaving(leavings::left(id.attempt)))
            }
            Act::Until(notify) | Act::In(_, notify) => {
                notify.notified().await;
                Ok(report())
            }
        };
        stage.working.fetch_sub(1, Atomic::SeqCst);
        result
    }
}

#[async_trait]
impl Executor for Handle {
    async fn check(&self, _: &ValidatedJob) -> Result<(), Failure> {
        Ok(())
    }
    async fn recover(&self, _: &ValidatedJob, id: &AttemptId) -> Result<Recovered, Failure> {
        let stored = self.0.stored.lock().expect("sound").get(id.run_uid.as_str()).cloned();
        let executor = stored.and_then(|(status, _)| status.executor);
        self.0.recovered.lock().expect("sound").push((id.attempt, executor));
        match self.0.found.lock().expect("sound").clone() {
            Some(found) => found,
            None => Ok(Recovered::Cleared(None)),
        }
    }
    async fn prepare(&self, _: &ValidatedJob) -> Result<Box<dyn Prepared>, Failure> {
        match self.0.script.lock().expect("sound").pop_front().expect("scripted") {
            Act::Unprepared(reason) => Err(Failure::new(reason, "as scripted")),
            act => Ok(Box::new(Work(Arc::clone(&self.0), act))),
        }
    }
}

#[async_trait]
impl Records for Handle {
    async fn claim(&self, _: &Claim) -> Result<Claimed, Failure> {
        unreachable!("tasks claim nothing")
    }
    async fn adopt(&self, run: &BackupRun, _: &BackupJob) -> Result<Option<BackupRun>, Failure> {
        let (key, _) = crate::controller::world::run_identity(run).expect("named");
        self.0.admit(Asked::Adopt(&key))?;
        Ok(Some(self.0.as_stored(run)))
    }
    async fn is_going(&self, _: &crate::api::names::Namespace) -> Result<bool, Failure> {
        unreachable!("tasks ask for no namespace")
    }
    async fn release(&self, _: &BackupRun) -> Result<Written, Failure> {
        unreachable!("tasks release nothing")
    }
    async fn delete(&self, _: &RunKey) -> Result<(), Failure> {
        unreachable!("tasks delete nothing")
    }
    async fn write_run(&self, key: &RunKey, version: &str, status: &BackupRunStatus) -> Result<RunWritten, Failure> {
        if self.0.gone.load(Atomic::SeqCst) {
            return Ok(RunWritten::Gone);
        }
        if self.0.failing_writes.fetch_update(Atomic::SeqCst, Atomic::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Failure::new(Reason::ClusterUnavailable, "as scripted"));
        }
        self.0.admit(Asked::Write(key, status))?;
        let (_, seen) = run(key.name.as_str(), &BackupRunStatus::default());
        let now = self.0.as_stored(&seen);
        if now.metadata.resource_version.as_deref() != Some(version) {
            return Ok(RunWritten::Conflict(Box::new(now)));
        }
        if self.0.refuses.lock().expect("sound").as_ref().is_some_and(|refuses| refuses(status)) {
            return Ok(RunWritten::Refused("status.pod: Too long".to_owned()));
        }
        self.0.writes.lock().expect("sound").push(status.clone());
        Ok(RunWritten::Yes(self.0.store(key, status)))
    }
    async fn job(&self, _: &JobRef) -> Result<Option<Arc<BackupJob>>, Failure> {
        self.0.admit(Asked::Job)?;
        Ok(self.0.job.lock().expect("sound").clone().map(Arc::new))
    }
}

impl Observer for Handle {
    fn notice(&self, subject: &Subject, happening: &Happening) {
        match happening {
            Happening::Moved { read, stored } => self.0.moved.lock().expect("sound").push((*read, *stored)),
            Happening::Left => self.0.left.lock().expect("sound").push(subject.clone()),
            other => self.0.notices.lock().expect("sound").push(other.clone()),
        }
    }
}

fn report() -> Report {
    Report {
        phase: Phase::Succeeded,
        reason: None,
        message: "whole".into(),
        folder: "default/pg/pg-m1-00000000-1".into(),
        ownership: Ownership::Ours,
        objects: vec![StoredObject { name: "dump.zst".into(), size: 10, digest: "ab".into() }],
        bytes_read: 100,
        bytes_stored: 10,
        files: None,
        shrunk: None,
        warnings: Vec::new(),
        exit_code: Some(0),
        pod: Some("postgres-0".into()),
        consistency: Consistency::Command,
    }
}

fn job() -> BackupJob {
    serde_json::from_value(json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob",
        "metadata": {"name": "pg", "namespace": "default", "uid": "11111111-1111-1111-1111-111111111111",
                     "creationTimestamp": "2026-11-24T10:00:00Z", "generation": 1},
        "spec": {
            "target": {"kind": "StatefulSet", "name": "postgres"},
            "strategy": {"type": "dump", "command": "pg_dumpall"},
            "destination": {"type": "s3", "uri": "s3://backups/p", "secretRef": "s3"},
            "schedule": "0 2 * * *",
        },
    }))
    .expect("a job")
}

fn run(name: &str, status: &BackupRunStatus) -> (RunKey, BackupRun) {
    let sum = name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let uid = format!("22222222-2222-2222-2222-{:012x}", sum & 0xffff_ffff_ffff);
    let run: BackupRun = serde_json::from_value(json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1, "resourceVersion": "0"},
        "spec": {"backupJobName": "pg"},
        "status": status,
    }))
    .expect("a run");
    let (key, _) = crate::controller::world::run_identity(&run).expect("named");
    (key, run)
}

struct Play {
    stage: Arc<Stage>,
    jump: Arc<AtomicI64>,
    turns: Turns,
    shared: Arc<Shared>,
    supervisor: Supervisor,
}

impl Play {
    fn new(script: Vec<Act>) -> Self {
        Self::with_turns(script, 4)
    }

    fn with_turns(script: Vec<Act>, at_once: usize) -> Self {
        let stage =
            Arc::new(Stage { script: Mutex::new(script.into()), job: Mutex::new(Some(job())), ..Stage::default() });
        let (jump, turns) = (Arc::new(AtomicI64::new(0)), Turns::new(at_once));
        let shared = Shared {
            records: Arc::new(Handle(Arc::clone(&stage))),
            executor: Arc::new(Handle(Arc::clone(&stage))),
            observer: Arc::new(Handle(Arc::clone(&stage))),
            clock: Arc::new(PausedClock(tokio::time::Instant::now(), Arc::clone(&jump))),
            instance: "ubo-new".into(),
            cluster_id: Uid::new("33333333-3333-3333-3333-333333333333").expect("good"),
            turns: turns.clone(),
            exclusive: Exclusive::default(),
            progress: Pace::new(PROGRESS_GAP),
            draining: CancellationToken::new(),
            leading: watch::Sender::new(true),
        };
        let shared = Arc::new(shared);
        Self { stage, jump, turns, supervisor: Supervisor::new(Arc::clone(&shared)), shared }
    }

    fn start(&mut self, name: &str, status: &BackupRunStatus) -> RunKey {
        let (key, run) = run(name, status);
        self.supervisor.start(key.clone(), run, JobRef::new("default", "pg").expect("good"), None);
        key
    }

    fn last(&self) -> BackupRunStatus {
        self.stage.writes.lock().expect("sound").last().cloned().expect("written")
    }

    async fn until(&self, what: &str, holds: impl Fn(&Stage) -> bool) {
        for _ in 0..10_000 {
            if holds(&self.stage) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("never: {what}");
    }

    async fn until_working(&self) {
        self.until("working", |stage| stage.working.load(Atomic::SeqCst) > 0).await;
    }
}

/// Makes runs of the job overlap.
fn allow(play: &Play) {
    let mut job = job();
    job.spec.concurrency_policy = Some(crate::api::backup_job::ConcurrencyPolicy::Allow);
    *play.stage.job.lock().expect("sound") = Some(job);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_works_succeeds_and_its_attempt_was_stored_before_it_began() {
    let mut play = Play::new(vec![Act::Succeed]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.supervisor.ended().await;
    assert_eq!(play.last().phase, Phase::Succeeded);
    assert_eq!(play.stage.started_unrecorded.load(Atomic::SeqCst), 0);
    assert!(matches!(
        play.stage.notices.lock().expect("sound").last(),
        Some(Happening::Ended { phase: Phase::Succeeded, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_tried_three_times_also_when_the_preparation_fails() {
    let script =
        vec![Act::Fail(Reason::StreamCut), Act::Unprepared(Reason::TargetNotReady), Act::Fail(Reason::CommandFailed)];
    let mut play = Play::new(script);
    play.start("pg-m1", &BackupRunStatus::default());
    play.supervisor.ended().await;
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("CommandFailed")));
    let reasons: Vec<_> = last.attempts.iter().filter_map(|attempt| attempt.reason.clone()).collect();
    assert_eq!(reasons, ["StreamCut", "TargetNotReady", "CommandFailed"]);
    assert_eq!(last.duration.as_deref(), Some("1m30s"), "30 s and 60 s of waiting");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_makes_no_attempt_late_or_early() {
    for jump in [3600, -3600] {
        let mut play = Play::new(vec![Act::Fail(Reason::StreamCut), Act::Succeed]);
        play.start("pg-m1", &BackupRunStatus::default());
        let failed = |happening: &Happening| matches!(happening, Happening::AttemptFailed { .. });
        play.until("failed", |stage| stage.notices.lock().expect("sound").iter().any(failed)).await;
        let before = tokio::time::Instant::now();
        play.jump.store(jump, Atomic::SeqCst);
        play.supervisor.ended().await;
        assert_eq!(play.last().phase, Phase::Succeeded);
        assert_eq!(before.elapsed().as_secs(), 30, "set by {jump} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_misconfiguration_is_final_at_once() {
    let mut play = Play::new(vec![Act::Unprepared(Reason::SecretNotFound)]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.supervisor.ended().await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Failed, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_process_left_open_is_closed_and_tried_again_within_the_limit() {
    let mut dead = BackupRunStatus::default();
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    record::begin_attempt(&mut dead, "ubo-old", &job().spec, None, now);
    let mut play = Play::new(vec![Act::Succeed]);
    play.start("pg-m1", &dead);
    play.supervisor.ended().await;
    let last = play.last();
    assert_eq!((last.phase, last.attempts.len()), (Phase::Succeeded, 2));
    assert_eq!(last.attempts[0].reason.as_deref(), Some("OperatorRestarted"));

    for _ in 0..2 {
        record::end_attempt(
            &mut dead,
            &Err(Failure::new(Reason::OperatorRestarted, "x")),
            Retry { limit: 2, backoff: Duration::ZERO },
            None,
            now,
        );
        record::begin_attempt(&mut dead, "ubo-old", &job().spec, None, now);
    }
    let mut play = Play::new(vec![]);
    play.start("pg-m1", &dead);
    play.supervisor.ended().await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Failed, 3), "the crashes count");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_cleans_up_and_says_who_wished_it() {
    for (cause, word) in [(Reason::CancelRequested, "CancelRequested"), (Reason::Deleted, "Deleted")] {
        let mut play = Play::new(vec![Act::UntilCancelled]);
        let key = play.start("pg-m1", &BackupRunStatus::default());
        play.until_working().await;
        play.supervisor.cancel(&key, cause);
        play.supervisor.ended().await;
        assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
        assert_eq!((play.last().phase, play.last().reason.as_deref()), (Phase::Cancelled, Some(word)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_next_attempt_is_cancelled_too() {
    let mut play = Play::new(vec![Act::Fail(Reason::StreamCut)]);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    play.until("one failure", |stage| stage.notices.lock().expect("sound").len() >= 2).await;
    play.supervisor.cancel(&key, Reason::CancelRequested);
    play.supervisor.ended().await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Cancelled, 1));
}

#[tokio::test(start_paused = true)]
async fn a_result_is_written_until_it_is_stored() {
    // The second time it is prepared, its beginning can be stored; its end is as hard to store.
    let go = Arc::new(Notify::new());
    let mut play = Play::new(vec![Act::Succeed, Act::Until(Arc::clone(&go))]);
    play.stage.failing_writes.store(25, Atomic::SeqCst);
    play.start("pg-m1", &BackupRunStatus::default());
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(play.stage.working.load(Atomic::SeqCst), 1);
    play.stage.failing_writes.store(25, Atomic::SeqCst);
    go.notify_one();
    play.supervisor.ended().await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Succeeded, 1));
    assert_eq!(play.stage.started_unrecorded.load(Atomic::SeqCst), 0, "no work before its attempt is stored");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_gone_does_no_work() {
    let mut play = Play::new(vec![Act::Succeed]);
    play.stage.gone.store(true, Atomic::SeqCst);
    play.start("pg-m1", &BackupRunStatus::default());
    play.supervisor.ended().await;
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_without_its_backup_job_fails_and_names_it() {
    let mut play = Play::new(vec![]);
    *play.stage.job.lock().expect("sound") = None;
    play.start("pg-m1", &BackupRunStatus::default());
    play.supervisor.ended().await;
    assert_eq!(play.last().reason.as_deref(), Some("JobNotFound"));
    assert!(play.last().message.is_some_and(|message| message.contains("default/pg")));
}

#[tokio::test(start_paused = true)]
async fn two_runs_of_one_job_never_work_at_once() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new(vec![Act::Until(Arc::clone(&go)), Act::Succeed]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.start("pg-m22", &BackupRunStatus::default());
    play.until_working().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    play.supervisor.ended().await;
    play.supervisor.ended().await;
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ending_process_lets_work_end_and_leaves_the_rest_to_its_successor() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    play.supervisor.drain();
    tokio::time::sleep(Duration::from_mins(1)).await;
    play.supervisor.cancel_all(Reason::OperatorShutdown);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left, "it is not over: the next process takes it up");
    let last = play.last();
    assert_eq!((last.phase, last.attempts[0].reason.as_deref()), (Phase::Pending, Some("OperatorShutdown")));
    assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
}
