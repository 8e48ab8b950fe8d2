//! An API server that denies what is written of some runs, as a webhook on one namespace does, or has taken a right away.

use super::*;

/// Denies this, with a reason.
fn deny(play: &Play, denies: impl Fn(Asked) -> Option<Reason> + Send + 'static) {
    *play.stage.denies.lock().expect("sound") = Some(Box::new(denies));
}

fn admit_all(play: &Play) {
    *play.stage.denies.lock().expect("sound") = None;
}

fn is_denied(key: &RunKey) -> Option<Reason> {
    key.name.as_str().starts_with("denied").then_some(Reason::ClusterUnavailable)
}

/// Starts four runs, as many as may work at once: claimed by the schedule, so that nothing is asked before their turn.
fn start_four(play: &mut Play) {
    for letter in ["a", "b", "c", "d"] {
        let (key, mut run) = run(&format!("denied-{letter}"), &BackupRunStatus::default());
        run.spec.scheduled_at = Some(crate::api::time::to_time(play.shared.clock.now()));
        run.metadata.finalizers = Some(vec![crate::api::FINALIZER_RUN.to_owned()]);
        run.metadata.owner_references = Some(
            serde_json::from_value(json!([{"apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "name": "pg",
                "uid": job().metadata.uid}]))
            .expect("an owner"),
        );
        play.supervisor.start(key, run, JobRef::new("default", "pg").expect("good"), None);
    }
}

/// The run of another tenant works and ends within minutes, and the four after what was in their way has gone.
async fn others_work_meanwhile(mut play: Play) -> Vec<BackupRunStatus> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = play.start("pg-m1", &BackupRunStatus::default());
    let ended = tokio::time::timeout(Duration::from_mins(5), play.supervisor.ended());
    assert_eq!(ended.await.expect("others have turns").0, other);
    assert_eq!((play.last().phase, play.supervisor.len()), (Phase::Succeeded, 4));
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((play.supervisor.len(), play.turns.counts().1), (4, 0));
    admit_all(&play);
    let mut lasts = Vec::new();
    for _ in 0..4 {
        assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
        lasts.push(play.last());
    }
    assert_eq!(play.stage.started_unrecorded.load(Atomic::SeqCst), 0, "no work before its attempt is stored");
    lasts
}

#[tokio::test(start_paused = true)]
async fn runs_whose_beginning_cannot_be_stored_keep_nobody_from_work() {
    let mut play = Play::new((0..9).map(|_| Act::Succeed).collect());
    allow(&play);
    deny(&play, |asked| if let Asked::Write(key, _) = asked { is_denied(key) } else { None });
    start_four(&mut play);
    for last in others_work_meanwhile(play).await {
        assert_eq!((last.phase, last.attempts.len()), (Phase::Succeeded, 1), "what was not begun is no attempt");
    }
}

#[tokio::test(start_paused = true)]
async fn runs_that_cannot_be_adopted_keep_nobody_from_work() {
    let mut play = Play::new((0..5).map(|_| Act::Succeed).collect());
    allow(&play);
    deny(&play, |asked| if let Asked::Adopt(key) = asked { is_denied(key) } else { None });
    start_four(&mut play);
    let stage = Arc::clone(&play.stage);
    for last in others_work_meanwhile(play).await {
        assert_eq!((last.phase, last.attempts.len()), (Phase::Succeeded, 1));
    }
    let said = |status: &BackupRunStatus| status.message.as_deref().is_some_and(|said| said.contains("as scripted"));
    assert!(stage.writes.lock().expect("sound").iter().any(said), "what they wait for is said");
}

#[tokio::test(start_paused = true)]
async fn a_turn_comes_also_to_a_run_that_cannot_say_that_it_waits() {
    let go = Arc::new(Notify::new());
    let mut play = Play::with_turns(vec![Act::Until(Arc::clone(&go)), Act::Succeed], 1);
    allow(&play);
    let first = play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    deny(&play, |asked| match asked {
        Asked::Write(_, status) if status.queue_position.is_some() => Some(Reason::ClusterUnavailable),
        _ => None,
    });
    let waits = play.start("pg-m22", &BackupRunStatus::default());
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(play.turns.counts(), (1, 1));
    go.notify_one();
    assert_eq!(play.supervisor.ended().await.0, first);
    let ended = tokio::time::timeout(Duration::from_mins(1), play.supervisor.ended());
    assert_eq!(ended.await.expect("its turn has come").0, waits);
    assert_eq!((play.last().phase, play.turns.counts()), (Phase::Succeeded, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_was_given_up_and_is_stored_after_all_is_still_this_process_own() {
    let mut play = Play::new(vec![Act::Succeed, Act::Succeed]);
    let (key, run) = run("denied-a", &BackupRunStatus::default());
    let stage = Arc::clone(&play.stage);
    deny(&play, move |asked| match asked {
        // It is stored, and the answer never comes.
        Asked::Write(key, status) if status.phase == Phase::Running => {
            let lost = !stage.stored.lock().expect("sound").contains_key(key.uid.as_str());
            if lost {
                stage.store(key, status);
            }
            Some(Reason::ClusterUnavailable)
        }
        _ => None,
    });
    play.supervisor.start(key, run, JobRef::new("default", "pg").expect("good"), None);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Pending, 0), "nothing was begun");
    admit_all(&play);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Succeeded, 1));
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_was_given_up_may_be_open_when_the_lead_is_lost() {
    let mut play = Play::new(vec![Act::Succeed]);
    deny(&play, |asked| matches!(asked, Asked::Write(..)).then_some(Reason::ClusterUnavailable));
    play.start("pg-m1", &BackupRunStatus::default());
    tokio::time::sleep(Duration::from_secs(50)).await;
    play.supervisor.set_leading(false);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Fault, "it may be stored, and nobody works at it");
}

#[tokio::test(start_paused = true)]
async fn a_right_of_the_operators_that_is_missing_for_a_while_fails_no_run() {
    let mut play = Play::new(vec![Act::Succeed]);
    deny(&play, |asked| matches!(asked, Asked::Job).then_some(Reason::Forbidden));
    play.start("pg-m1", &BackupRunStatus::default());
    tokio::time::sleep(Duration::from_hours(1)).await;
    let waits = play.last();
    assert_eq!((waits.phase, waits.reason.as_deref(), waits.attempts.len()), (Phase::Pending, None, 0));
    assert!(waits.message.is_some_and(|said| said.contains("denied as scripted")), "a person is to mend it");
    assert_eq!(play.stage.writes.lock().expect("sound").len(), 1, "it is said once");
    admit_all(&play);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Succeeded, 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_be_begun_is_cancelled_when_somebody_wishes_it() {
    let mut play = Play::new(vec![Act::Succeed]);
    deny(&play, |asked| match asked {
        Asked::Write(_, status) if !status.phase.is_final() => Some(Reason::ClusterUnavailable),
        _ => None,
    });
    let key = play.start("pg-m1", &BackupRunStatus::default());
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((play.supervisor.len(), play.turns.counts()), (1, (0, 0)));
    play.supervisor.cancel(&key, Reason::CancelRequested);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Cancelled, 0));
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_found_whole_and_cannot_be_written_down_keeps_nobody_from_work() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    let mut status = BackupRunStatus::default();
    record::begin_attempt(&mut status, "ubo-old", &job().spec, None, now);
    let cut_off = Err(Failure::new(Reason::ClusterUnavailable, "cut off").leaving("perhaps the whole backup"));
    record::end_attempt(&mut status, &cut_off, Retry { limit: 2, backoff: Duration::ZERO }, None, now);
    let mut play = Play::new(vec![]);
    *play.stage.found.lock().expect("sound") = Some(Ok(Recovered::Whole(Box::new(report()))));
    deny(&play, |asked| match asked {
        Asked::Write(_, status) if status.phase.is_final() => Some(Reason::ClusterUnavailable),
        _ => None,
    });
    play.start("pg-m1", &status);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!((play.supervisor.len(), play.turns.counts()), (1, (0, 0)));
    admit_all(&play);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Succeeded, 1));
}
