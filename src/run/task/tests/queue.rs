//! Runs that wait for their turn, and those that need not.

use super::*;

/// Makes runs of the job overlap.
fn allow(play: &Play) {
    let mut job = job();
    job.spec.concurrency_policy = Some(crate::api::backup_job::ConcurrencyPolicy::Allow);
    *play.stage.job.lock().expect("sound") = Some(job);
}

#[tokio::test(start_paused = true)]
async fn runs_of_one_job_overlap_where_it_says_so() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new(vec![Act::Until(Arc::clone(&go)), Act::Until(Arc::clone(&go))]);
    allow(&play);
    play.start("pg-m1", &BackupRunStatus::default());
    play.start("pg-m22", &BackupRunStatus::default());
    play.until("both work", |stage| stage.working.load(Atomic::SeqCst) == 2).await;
    go.notify_waiters();
    play.supervisor.ended().await;
    play.supervisor.ended().await;
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_says_at_which_place_and_not_more_often_than_every_half_minute() {
    let go = Arc::new(Notify::new());
    let mut script: Vec<_> = (0..5).map(|_| Act::Until(Arc::clone(&go))).collect();
    script.push(Act::Succeed);
    let mut play = Play::new(script);
    allow(&play);
    for number in 1..=4 {
        play.start(&format!("pg-m{}", "1".repeat(number)), &BackupRunStatus::default());
    }
    play.until("four work", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
    let places = |stage: &Stage| -> Vec<i64> {
        stage.writes.lock().expect("sound").iter().filter_map(|status| status.queue_position).collect()
    };
    play.start("pg-m55555", &BackupRunStatus::default());
    play.until("one waits", |stage| places(stage) == [1]).await;
    play.start("pg-m666666", &BackupRunStatus::default());
    play.until("two wait", |stage| places(stage) == [1, 2]).await;
    let last = play.last();
    assert_eq!(last.phase, Phase::Pending);
    assert!(last.message.is_some_and(|message| message.contains("place 2")));
    go.notify_one();
    play.supervisor.ended().await;
    play.until("one was called", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(places(&play.stage), [1, 2], "no half minute has passed");
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(places(&play.stage), [1, 2, 1]);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(places(&play.stage), [1, 2, 1], "the same place is not written again");
    for _ in 0..5 {
        go.notify_one();
        play.supervisor.ended().await;
    }
    assert!(play.last().queue_position.is_none());
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_its_turn_is_cancelled_and_its_place_goes_to_the_next() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new((0..5).map(|_| Act::Until(Arc::clone(&go))).collect());
    allow(&play);
    for number in 1..=4 {
        play.start(&format!("pg-m{}", "1".repeat(number)), &BackupRunStatus::default());
    }
    play.until("four work", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
    let waiting = play.start("pg-m55555", &BackupRunStatus::default());
    play.start("pg-m666666", &BackupRunStatus::default());
    let two_wait = |stage: &Stage| stage.writes.lock().expect("sound").iter().any(|s| s.queue_position == Some(2));
    play.until("two wait", two_wait).await;
    play.supervisor.cancel(&waiting, Reason::CancelRequested);
    let (ended, _, over) = play.supervisor.ended().await;
    assert_eq!((ended, over), (waiting, true));
    assert_eq!((play.last().phase, play.last().queue_position), (Phase::Cancelled, None));
    go.notify_one();
    play.supervisor.ended().await;
    play.until("the next one works", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_directory_keeps_nobody_else_from_work() {
    let go = Arc::new(Notify::new());
    let mut script: Vec<_> = (0..4).map(|_| Act::In("/backup", Arc::clone(&go))).collect();
    script.push(Act::Succeed);
    script.extend((0..3).map(|_| Act::In("/backup", Arc::clone(&go))));
    let mut play = Play::new(script);
    allow(&play);
    for number in 1..=4 {
        play.start(&format!("pg-m{}", "1".repeat(number)), &BackupRunStatus::default());
    }
    let waiting = |stage: &Stage| {
        let writes = stage.writes.lock().expect("sound");
        writes.iter().filter(|status| status.message.as_deref().is_some_and(|text| text.contains("directory"))).count()
    };
    play.until("three wait for the directory", |stage| waiting(stage) == 3).await;
    // As many as may work at once have come; only one of them does.
    let other = play.start("pg-m55555", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.0, other);
    assert_eq!(play.last().phase, Phase::Succeeded);
    for _ in 0..4 {
        go.notify_one();
        play.supervisor.ended().await;
    }
    let writes = play.stage.writes.lock().expect("sound");
    assert_eq!(writes.iter().filter(|status| status.phase == Phase::Succeeded).count(), 5);
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 2, "two at once in one directory");
}
