//! What the duty of a process means for the runs that it has, by way of the controller that learns of it.

use super::*;
use crate::controller::{Controller, Duty, Ports, Signal};
use crate::run::ports::{StatusSink, StatusWrite};
use tokio::sync::mpsc;

impl StatusSink for Handle {
    fn put(&self, _: JobRef, _: StatusWrite) {
        unreachable!("no BackupJob was shown")
    }
    fn forget(&self) {
        self.0.forgotten.fetch_add(1, Atomic::SeqCst);
    }
}

/// Gives the runs of the play to a controller that leads.
async fn controlled(play: &mut Play, stop: &CancellationToken) -> mpsc::Sender<Signal> {
    let handle = || Arc::new(Handle(Arc::clone(&play.stage)));
    let ports = Ports {
        records: handle(),
        executor: handle(),
        observer: handle(),
        statuses: handle(),
        clock: Arc::clone(&play.shared.clock),
    };
    let supervisor = std::mem::replace(&mut play.supervisor, Supervisor::new(Arc::clone(&play.shared)));
    let (sender, signals) = mpsc::channel(8);
    let channel = (sender.clone(), signals);
    let (window, ready) = (Duration::from_mins(10), Box::new(|| {}));
    let controller = Controller::new(ports, supervisor, "ubo-new", window, channel, watch::Sender::new(0), ready);
    tokio::spawn(controller.run(stop.clone(), Duration::from_mins(10)));
    sender.send(Signal::Duty(Duty::Leads)).await.expect("it listens");
    sender
}

/// Every signal so far was taken: the controller asks for the next one.
async fn heard(sender: &mpsc::Sender<Signal>, play: &Play) {
    play.until("heard", |_| sender.capacity() == sender.max_capacity()).await;
    // What follows from it, too.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_ends_its_runs_and_who_only_follows_does_not() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    let sender = controlled(&mut play, &CancellationToken::new()).await;
    for duty in [Duty::Follows, Duty::Leads, Duty::Follows] {
        sender.send(Signal::Duty(duty)).await.expect("it listens");
        heard(&sender, &play).await;
        assert_eq!(play.stage.working.load(Atomic::SeqCst), 1, "{duty:?} ended what was at work");
    }
    sender.send(Signal::Duty(Duty::CutOff)).await.expect("it listens");
    ended_by_the_cut(&play).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_told_to_end_and_is_cut_off_then_waits_no_longer() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    let stop = CancellationToken::new();
    let sender = controlled(&mut play, &stop).await;
    stop.cancel();
    heard(&sender, &play).await;
    for duty in [Duty::Follows, Duty::Leads] {
        sender.send(Signal::Duty(duty)).await.expect("it listens");
    }
    heard(&sender, &play).await;
    assert_eq!(play.stage.working.load(Atomic::SeqCst), 1, "its time was not over");
    assert_eq!(play.stage.forgotten.load(Atomic::SeqCst), 1, "another process writes from now on");
    sender.send(Signal::Duty(Duty::CutOff)).await.expect("it listens");
    ended_by_the_cut(&play).await;
}

/// Before the ten minutes that a process which is told to end lets its runs have.
async fn ended_by_the_cut(play: &Play) {
    let begun = tokio::time::Instant::now();
    while play.stage.cleaned_up.load(Atomic::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_mins(1), "it works on");
    }
    let closed = |stage: &Stage| {
        let writes = stage.writes.lock().expect("sound");
        let attempt = writes.last().and_then(|last| last.attempts.first());
        attempt.is_some_and(|attempt| attempt.reason.as_deref() == Some("ClusterUnavailable"))
    };
    play.until("the attempt closed", closed).await;
    let last = play.last();
    assert_eq!(last.phase, Phase::Pending);
    assert!(last.message.as_deref().is_some_and(|said| said.contains("API server")), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn who_only_follows_closes_an_attempt_of_its_own_and_leaves_the_run_to_the_leader() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    let mut begun = BackupRunStatus::default();
    record::begin_attempt(&mut begun, "ubo-new", &job().spec, None, now);
    let mut play = Play::new(vec![]);
    play.supervisor.set_leading(false);
    play.start("pg-m1", &begun);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left);
    let last = play.last();
    assert_eq!((last.phase, last.attempts.len()), (Phase::Pending, 1));
    assert_eq!(last.attempts[0].reason.as_deref(), Some("OperatorRestarted"));
}
