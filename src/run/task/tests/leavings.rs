//! What an attempt could not remove: said, tried again before the next attempt, and said at the end if it stays.

use super::*;

/// What is said of an attempt of this number.
pub(super) fn left(attempt: u32) -> String {
    format!("In default/pg/pg-m1-22222222-{attempt} stays: dump.zst")
}

/// The numbers of the attempts that were cleared away.
fn cleared(play: &Play) -> Vec<u32> {
    play.stage.recovered.lock().expect("sound").iter().map(|(attempt, _)| *attempt).collect()
}

fn finds(play: &Play, found: Result<Recovered, Failure>) {
    *play.stage.found.lock().expect("sound") = Some(found);
}

fn lefts(status: &BackupRunStatus) -> Vec<Option<&str>> {
    status.attempts.iter().map(|attempt| attempt.left.as_deref()).collect()
}

async fn played(script: Vec<Act>, found: Option<Result<Recovered, Failure>>) -> (Play, BackupRunStatus) {
    let mut play = Play::new(script);
    if let Some(found) = found {
        finds(&play, found);
    }
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    (play, last)
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_removed_is_removed_before_the_next_attempt() {
    let down = Reason::DestinationUnavailable;
    let (play, last) = played(vec![Act::Leave(down), Act::Fail(down), Act::Succeed], None).await;
    assert_eq!(cleared(&play), [1], "what left nothing is not looked for");
    assert_eq!((last.phase, lefts(&last)), (Phase::Succeeded, vec![None; 3]));
    assert!(last.warnings.is_empty(), "{:?}", last.warnings);
    // Stored as long as it is so, for a process that takes the run up in between.
    let writes = play.stage.writes.lock().expect("sound");
    assert!(writes.iter().any(|status| lefts(status) == [Some(left(1).as_str())]));
}

#[tokio::test(start_paused = true)]
async fn what_stays_all_the_same_is_a_warning_of_the_run() {
    let leave = || vec![Act::Leave(Reason::DestinationUnavailable), Act::Succeed];
    let upload = Recovered::Cleared(Some("perhaps an unfinished upload".into()));
    for (found, said) in [
        (Err(Failure::new(Reason::DestinationUnavailable, "no answer")), "stays: dump.zst"),
        (Ok(upload), "stays: perhaps an unfinished upload"),
        (Ok(Recovered::Whole(Box::new(report()))), "stays: a whole backup"),
    ] {
        let (play, last) = played(leave(), Some(found)).await;
        assert_eq!((last.phase, cleared(&play)), (Phase::Succeeded, vec![1]), "it holds nothing up");
        let [warning] = &last.warnings[..] else { panic!("{said}: {:?}", last.warnings) };
        assert!(
            warning.starts_with("attempt 1: In default/pg/pg-m1-22222222-1 ") && warning.contains(said),
            "{warning}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_or_is_cancelled_says_what_stays_of_every_attempt() {
    let down = Reason::DestinationUnavailable;
    let unreachable = || Some(Err(Failure::new(down, "no answer")));
    let (_, last) = played(vec![Act::Leave(down), Act::Leave(down), Act::Leave(down)], unreachable()).await;
    assert_eq!(last.phase, Phase::Failed);
    assert!(last.message.as_deref().is_some_and(|said| said.contains(&left(3))), "{last:?}");
    assert_eq!(last.warnings, [1, 2].map(|attempt| format!("attempt {attempt}: {}", left(attempt))));

    let mut play = Play::new(vec![Act::Leave(down)]);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    play.until("one failure", |stage| stage.notices.lock().expect("sound").len() >= 2).await;
    play.supervisor.cancel(&key, Reason::CancelRequested);
    play.supervisor.ended().await;
    assert_eq!(play.last().phase, Phase::Cancelled);
    assert_eq!(play.last().warnings, [format!("attempt 1: {}", left(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_took_too_long_says_what_it_left() {
    let mut play = Play::new(vec![Act::LeaveWhenCancelled]);
    play.stage.job.lock().expect("sound").as_mut().expect("a job").spec.active_deadline_seconds = Some(100);
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("DeadlineExceeded")));
    assert!(last.message.as_deref().is_some_and(|said| said.ends_with(&left(1))), "{last:?}");
    assert!(last.warnings.is_empty(), "said once: {:?}", last.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_takes_the_run_up_knows_what_stays() {
    let mut begun = BackupRunStatus::default();
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    record::begin_attempt(&mut begun, "ubo-old", &job().spec, None, now);
    let failed = Err(Failure::new(Reason::OperatorShutdown, "as scripted").leaving(left(1)));
    record::end_attempt(&mut begun, &failed, Retry { limit: 2, backoff: Duration::ZERO }, None, now);
    let mut play = Play::new(vec![Act::Succeed]);
    play.start("pg-m1", &begun);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((cleared(&play), lefts(&play.last())), (vec![1], vec![None; 2]));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_tries_it_too_and_not_at_every_look() {
    let script = || vec![Act::Leave(Reason::BackupDirectoryBusy), Act::Taken(50), Act::Succeed];
    let numbers = |status: &BackupRunStatus| status.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>();
    // The store was down at the first look only.
    let (play, last) = played(script(), None).await;
    assert_eq!((last.phase, cleared(&play), numbers(&last)), (Phase::Succeeded, vec![1], vec![51, 52]));
    assert!(last.warnings.is_empty(), "{:?}", last.warnings);
    // It stays down.
    let down = Err(Failure::new(Reason::DestinationUnavailable, "no answer"));
    let (play, last) = played(script(), Some(down)).await;
    assert_eq!((last.phase, cleared(&play)), (Phase::Succeeded, vec![1; 6]));
    assert_eq!(numbers(&last), [1, 51, 52], "the one that left something is not forgotten");
    assert_eq!(last.warnings, [format!("attempt 1: {}", left(1))]);
}
