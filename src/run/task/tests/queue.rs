//! Runs that wait for their turn, and those that need not.

use super::*;

#[test]
fn a_thousand_runs_that_wait_take_ten_megabytes() {
    let (key, run) = run("pg-m1", &BackupRunStatus::default());
    let job = JobRef::new("default", "pg").expect("good");
    let life = Box::new(RunTask::new(Play::new(Vec::new()).shared, key, run, job, Cancel::default())).live();
    let each = size_of_val(&life) + size_of::<RunTask>();
    assert!(each <= 10_000, "{each} bytes each");
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
    assert_eq!((ended, over), (waiting, TaskEnd::Over));
    assert_eq!((play.last().phase, play.last().queue_position), (Phase::Cancelled, None));
    go.notify_one();
    play.supervisor.ended().await;
    play.until("the next one works", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
}

/// Words for what was noticed: of attempts that began their numbers.
fn noticed(play: &Play) -> Vec<String> {
    let notices = play.stage.notices.lock().expect("sound");
    let words = notices.iter().map(|happening| match happening {
        Happening::AttemptStarted { attempt } => attempt.to_string(),
        Happening::AttemptFailed { failure, .. } => format!("failed {}", failure.reason),
        Happening::Waits { failure } => format!("waits {}", failure.message),
        Happening::Ended { phase, .. } => phase.as_str().to_owned(),
        other => format!("{other:?}"),
    });
    words.collect()
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_another_process_has_is_waited_for_without_an_attempt_less() {
    let mut play = Play::new(vec![Act::Taken(100), Act::Succeed]);
    play.stage.job.lock().expect("sound").as_mut().expect("a job").spec.retry =
        Some(serde_json::from_value(json!({"limit": 0})).expect("a retry"));
    let start = tokio::time::Instant::now();
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!(last.phase, Phase::Succeeded);
    let attempts: Vec<_> = last.attempts.iter().map(|a| (a.number, a.reason.as_deref().unwrap_or("open"))).collect();
    assert_eq!(attempts, [(100, "BackupDirectoryBusy"), (101, "Succeeded")]);
    assert_eq!(start.elapsed(), record::WAIT_PAUSE * 100);
    assert_eq!(play.stage.started_unrecorded.load(Atomic::SeqCst), 0);
    // All but the first look are told that they may find it in use, and then write nothing.
    let waited = play.stage.waited.lock().expect("sound").clone();
    assert!(waited.len() == 101 && !waited[0] && waited[1..].iter().all(|waited| *waited), "{waited:?}");
    // Said once, however long it takes.
    let told = noticed(&play).into_iter().filter(|word| word.parse::<u32>().is_err()).collect::<Vec<_>>();
    assert_eq!(told, ["waits waits for another run, web-once", "Succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn while_it_waits_others_work_and_it_can_be_cancelled_or_run_out_of_time() {
    let mut play = Play::new(vec![Act::Taken(usize::MAX)]);
    allow(&play);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    let waits = |stage: &Stage| stage.writes.lock().expect("sound").iter().any(record::is_waiting);
    play.until("it waits", waits).await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Pending, 1));
    // Its place is free: four more work.
    let go = Arc::new(Notify::new());
    for _ in 0..4 {
        play.stage.script.lock().expect("sound").push_front(Act::Until(Arc::clone(&go)));
    }
    for number in 2..=5 {
        play.start(&format!("pg-m{}", "2".repeat(number)), &BackupRunStatus::default());
    }
    play.until("four work", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
    play.supervisor.cancel(&key, Reason::CancelRequested);
    assert_eq!(play.supervisor.ended().await.0, key);
    assert_eq!((play.last().phase, play.last().reason.as_deref()), (Phase::Cancelled, Some("CancelRequested")));

    let mut play = Play::new(vec![Act::Taken(usize::MAX)]);
    play.stage.job.lock().expect("sound").as_mut().expect("a job").spec.active_deadline_seconds = Some(100);
    let start = tokio::time::Instant::now();
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!(start.elapsed().as_secs(), 100);
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("DeadlineExceeded")));
    assert!(
        last.message.as_deref().is_some_and(|said| said.ends_with("It waits for another run, web-once")),
        "{last:?}"
    );
    assert_eq!(last.attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_is_left_to_the_next_process_which_waits_on_and_says_nothing_new() {
    let mut play = Play::new(vec![Act::Taken(usize::MAX)]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until("it waits", |stage| stage.writes.lock().expect("sound").iter().any(record::is_waiting)).await;
    play.supervisor.drain();
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left);
    let left = play.last();
    assert_eq!((left.phase, left.attempts.len()), (Phase::Pending, 1));

    let mut next = Play::new(vec![Act::Taken(3), Act::Succeed]);
    next.start("pg-m1", &left);
    assert_eq!(next.supervisor.ended().await.2, TaskEnd::Over);
    let numbers: Vec<_> = next.last().attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [4, 5]);
    assert_eq!(noticed(&next), ["2", "3", "4", "5", "Succeeded"]);
    // One that dies while it looks is a crash like any other.
    let mut dead = left;
    record::begin_attempt(
        &mut dead,
        "ubo-old",
        &job().spec,
        None,
        DateTime::from_timestamp(1_800_000_000, 0).expect("good"),
    );
    let mut next = Play::new(vec![Act::Succeed]);
    next.start("pg-m1", &dead);
    assert_eq!(next.supervisor.ended().await.2, TaskEnd::Over);
    let attempts = next.last().attempts;
    let attempts: Vec<_> = attempts.iter().map(|a| (a.number, a.reason.as_deref().unwrap_or("open"))).collect();
    assert_eq!(attempts, [(1, "BackupDirectoryBusy"), (2, "OperatorRestarted"), (3, "Succeeded")]);
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
