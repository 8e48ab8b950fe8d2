//! An API server that finds a status invalid, which it will for ever.

use super::*;

/// Finds invalid what this holds of.
fn refuse(play: &Play, refuses: impl Fn(&BackupRunStatus) -> bool + Send + 'static) {
    *play.stage.refuses.lock().expect("sound") = Some(Box::new(refuses));
}

#[tokio::test(start_paused = true)]
async fn of_a_run_that_is_over_less_is_said_until_it_can_be_stored() {
    let mut play = Play::new(vec![Act::Succeed]);
    refuse(&play, |status| !status.destinations.is_empty());
    play.start("pg-m1", &BackupRunStatus::default());
    let ended = tokio::time::timeout(Duration::from_hours(1), play.supervisor.ended());
    assert_eq!(ended.await.expect("it is not tried for ever").2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref(), last.bytes_stored), (Phase::Succeeded, None, Some(10)));
    assert!(last.message.as_deref().is_some_and(|said| said.contains("status.pod: Too long")), "{last:?}");
    assert!(crate::api::conditions::holds(&last.conditions, "Complete") && record::open_attempt(&last).is_none());
    let ended = |happening: &Happening| matches!(happening, Happening::Ended { phase: Phase::Succeeded, .. });
    assert!(play.stage.notices.lock().expect("sound").iter().any(ended));
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_attempt_cannot_be_opened_fails_and_does_no_work() {
    let mut play = Play::new(vec![Act::Succeed]);
    refuse(&play, |status| status.phase == Phase::Running);
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("Internal")));
    assert!(record::open_attempt(&last).is_none(), "{:?}", last.attempts);
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn runs_whose_end_cannot_be_stored_keep_nobody_from_work() {
    let mut play = Play::new((0..5).map(|_| Act::Succeed).collect());
    allow(&play);
    // Whatever is said of their end, and four may work at once.
    refuse(&play, |status| status.phase.is_final());
    for number in 1..=4 {
        play.start(&format!("pg-m{}", "1".repeat(number)), &BackupRunStatus::default());
    }
    play.until("four have worked", |stage| stage.moved.lock().expect("sound").len() == 4).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((play.supervisor.len(), play.turns.counts()), (4, (0, 0)));
    play.start("pg-m55555", &BackupRunStatus::default());
    play.until("the fifth has worked", |stage| stage.moved.lock().expect("sound").len() == 5).await;
    // What was in the way has gone.
    *play.stage.refuses.lock().expect("sound") = None;
    for _ in 0..5 {
        assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
        assert_eq!(play.last().phase, Phase::Succeeded);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_cannot_say_so_fails() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new((0..4).map(|_| Act::Until(Arc::clone(&go))).collect());
    allow(&play);
    for number in 1..=4 {
        play.start(&format!("pg-m{}", "1".repeat(number)), &BackupRunStatus::default());
    }
    play.until("four work", |stage| stage.working.load(Atomic::SeqCst) == 4).await;
    refuse(&play, |status| status.queue_position.is_some());
    let waits = play.start("pg-m55555", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.0, waits);
    assert_eq!((play.last().phase, play.turns.counts()), (Phase::Failed, (4, 0)));
    for _ in 0..4 {
        go.notify_one();
        play.supervisor.ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_attempt_that_nobody_may_clear_away_says_what_may_stay() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    let warnings = [format!("attempt 1: {NOT_CLEANED_UP}")];
    // By a process that is gone, or by a task of this one that ended in a fault; and where not even that can be stored.
    for (executor, unknown_field) in [("ubo-old", false), ("ubo-new", false), ("ubo-old", true)] {
        let mut begun = BackupRunStatus::default();
        record::begin_attempt(&mut begun, executor, &job().spec, None, now);
        let mut play = Play::new(vec![]);
        refuse(&play, move |status| {
            let left = status.attempts.iter().any(|attempt| attempt.left.is_some());
            !status.phase.is_final() || unknown_field && left
        });
        play.start("pg-m1", &begun);
        assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
        let last = play.last();
        assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("Internal")));
        assert_eq!(last.warnings, warnings, "{executor} {unknown_field}");
        let left = last.attempts[0].left.as_deref();
        assert_eq!(left, (!unknown_field).then_some(NOT_CLEANED_UP), "{executor}");
        assert!(record::open_attempt(&last).is_none() && play.stage.recovered.lock().expect("sound").is_empty());
    }
}
