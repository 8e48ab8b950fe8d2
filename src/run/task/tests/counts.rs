//! What is counted of runs: who works and who waits, what was moved, who has left.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_waits_for_his_next_attempt_does_not_work_and_whoever_leaves_is_told_of() {
    type End = fn(&mut Play, &RunKey);
    let ends: [(End, TaskEnd); 5] = [
        (|play, _| play.supervisor.set_leading(false), TaskEnd::Left),
        (|play, _| play.supervisor.drain(), TaskEnd::Left),
        (|play, _| play.supervisor.cancel_all(Reason::ClusterUnavailable), TaskEnd::Left),
        (|play, key| play.supervisor.cancel(key, Reason::CancelRequested), TaskEnd::Over),
        (|play, _| play.stage.gone.store(true, Atomic::SeqCst), TaskEnd::Over),
    ];
    for (end, how) in ends {
        let go = Arc::new(Notify::new());
        let mut play = Play::new(vec![Act::Until(Arc::clone(&go)), Act::Fail(Reason::StreamCut), Act::Succeed]);
        allow(&play);
        play.start("pg-m1", &BackupRunStatus::default());
        play.until_working().await;
        assert_eq!(play.turns.counts(), (1, 0));
        let fails = play.start("pg-m22", &BackupRunStatus::default());
        let retries = |happening: &Happening| matches!(happening, Happening::AttemptFailed { .. });
        play.until("one failed", |stage| stage.notices.lock().expect("sound").iter().any(retries)).await;
        play.until("it waits", |stage| {
            stage.writes.lock().expect("sound").last().is_some_and(|last| last.phase == Phase::Pending)
        })
        .await;
        assert_eq!(play.turns.counts(), (1, 0), "in its back-off it neither works nor waits for a turn");
        end(&mut play, &fails);
        let (ended, _, found) = play.supervisor.ended().await;
        if ended == fails {
            assert_eq!(found, how);
            go.notify_one();
            play.supervisor.ended().await;
        } else {
            play.supervisor.ended().await;
        }
        assert_eq!(play.turns.counts(), (0, 0));
        let left = play.stage.left.lock().expect("sound");
        assert_eq!(left.len(), 2);
        assert!(left.iter().any(|subject| subject.run == Some((fails.name.clone(), fails.uid.clone()))));
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_attempt_moved_is_told_when_it_ends_however_it_ends() {
    let script = vec![Act::Fail(Reason::StreamCut), Act::Unprepared(Reason::TargetNotReady), Act::UntilCancelled];
    let mut play = Play::new(script);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    play.until("one failed", |stage| !stage.moved.lock().expect("sound").is_empty()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    play.until_working().await;
    play.supervisor.cancel(&key, Reason::CancelRequested);
    play.supervisor.ended().await;
    assert_eq!(
        *play.stage.moved.lock().expect("sound"),
        [(7, 3), (7, 3)],
        "the one that was not prepared moved nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn live_counts_are_written_fifty_times_a_second_and_ends_at_once() {
    let go = Arc::new(Notify::new());
    let mut play = Play::with_turns((0..200).map(|_| Act::Until(Arc::clone(&go))).collect(), 200);
    allow(&play);
    for number in 1..=200 {
        play.start(&format!("pg-m{number}"), &BackupRunStatus::default());
    }
    play.until("all work", |stage| stage.working.load(Atomic::SeqCst) == 200).await;
    let live = |play: &Play| {
        let writes = play.stage.writes.lock().expect("sound");
        writes.iter().filter(|status| status.phase == Phase::Running && status.bytes_read.is_some()).count()
    };
    tokio::time::sleep(Duration::from_millis(9_990)).await;
    assert_eq!(live(&play), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after_a_second = live(&play);
    assert!((49..=51).contains(&after_a_second), "{after_a_second}");
    // An end waits for nobody's turn.
    let before = tokio::time::Instant::now();
    go.notify_one();
    play.supervisor.ended().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    go.notify_waiters();
    for _ in 1..200 {
        play.supervisor.ended().await;
    }
}
