//! Other processes: who has a run, what a dead one left, and how long a run may take over all of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_run_that_another_process_began_is_left_alone() {
    let mut play = Play::new(vec![Act::Succeed]);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    // What this process saw is older than what another one wrote.
    let mut theirs = BackupRunStatus::default();
    record::begin_attempt(&mut theirs, "ubo-other", &job().spec, None, DateTime::UNIX_EPOCH);
    play.stage.store(&key, &theirs);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left);
    assert!(play.stage.writes.lock().expect("sound").is_empty(), "it wrote over the other one's record");
    assert_eq!(play.stage.most_at_once.load(Atomic::SeqCst), 0, "it worked");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_taken_away_in_the_middle_stops_and_cleans_up_without_a_word_in_the_record() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    let mut theirs = play.last();
    record::end_attempt(
        &mut theirs,
        &Err(Failure::new(Reason::OperatorRestarted, "dead, they say")),
        Retry { limit: 2, backoff: Duration::ZERO },
        None,
        DateTime::UNIX_EPOCH,
    );
    record::begin_attempt(&mut theirs, "ubo-other", &job().spec, None, DateTime::UNIX_EPOCH);
    play.stage.store(&key, &theirs);
    let writes = play.stage.writes.lock().expect("sound").len();
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left);
    assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
    assert_eq!(play.stage.writes.lock().expect("sound").len(), writes, "it wrote over the other one's record");
    assert_eq!(*play.stage.causes.lock().expect("sound"), [Reason::OperatorRestarted], "the other one may have looked");
    assert!(
        !play.stage.notices.lock().expect("sound").iter().any(|happened| matches!(happened, Happening::Ended { .. }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_gone_in_the_middle_is_nobody_elses() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    play.stage.gone.store(true, Atomic::SeqCst);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
    assert_eq!(*play.stage.causes.lock().expect("sound"), [Reason::Deleted], "nobody comes after who clears it away");
}

#[tokio::test(start_paused = true)]
async fn what_others_change_of_the_object_apart_from_its_record_does_not_matter() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new(vec![Act::Until(Arc::clone(&go))]);
    let key = play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    let same = play.last();
    play.stage.store(&key, &same); // a label, a finalizer: another version
    go.notify_one();
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!(play.last().phase, Phase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_no_longer_leads_ends_what_it_began_and_leaves_what_waits() {
    let go = Arc::new(Notify::new());
    let mut play = Play::new(vec![Act::Until(Arc::clone(&go))]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    // Of the same BackupJob, so it waits.
    let waits = play.start("pg-m10", &BackupRunStatus::default());
    play.until("waiting", |stage| stage.writes.lock().expect("sound").len() > 1).await;
    play.supervisor.set_leading(false);
    let (ended, _, over) = play.supervisor.ended().await;
    assert_eq!((ended, over), (waits, TaskEnd::Left));
    assert_eq!(play.stage.working.load(Atomic::SeqCst), 1, "what was at work ended");
    go.notify_one();
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!(play.last().phase, Phase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_cut_off_ends_its_runs_for_the_next_one_to_take_up() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.start("pg-m1", &BackupRunStatus::default());
    play.until_working().await;
    play.supervisor.cancel_all(Reason::ClusterUnavailable);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Left);
    assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
    let last = play.last();
    assert_eq!((last.phase, last.attempts[0].reason.as_deref()), (Phase::Pending, Some("ClusterUnavailable")));
}

/// A run whose attempts so far ended with the process that executed them, the last one being open.
fn crashed(times: u32) -> BackupRunStatus {
    let mut status = BackupRunStatus::default();
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
    for attempt in 1..=times {
        record::begin_attempt(&mut status, "ubo-old", &job().spec, None, now);
        if attempt < times {
            let died = Err(record::died("ubo-old", None));
            record::end_attempt(&mut status, &died, Retry { limit: 2, backoff: Duration::ZERO }, None, now);
        }
    }
    status
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_attempt_left_is_cleared_away_before_it_is_closed() {
    let mut play = Play::new(vec![Act::Succeed]);
    *play.stage.found.lock().expect("sound") = Some(Ok(Recovered::Cleared(Some("perhaps an upload".into()))));
    play.start("pg-m1", &crashed(1));
    play.supervisor.ended().await;
    // Taken from the dead one in the stored status before anything is touched: should it live, its word no longer counts.
    // And once more before the next attempt, since something had to stay.
    assert_eq!(*play.stage.recovered.lock().expect("sound"), vec![(1, Some("ubo-new".to_owned())); 2]);
    let dead = crashed(1);
    let taken = play.stage.writes.lock().expect("sound")[0].clone();
    assert!(record::open_attempt(&taken).is_some() && !record::is_ours(&taken, &dead, &dead));
    let first = play.stage.writes.lock().expect("sound")[1].clone();
    assert!(first.message.as_deref().is_some_and(|said| said.contains("perhaps an upload")), "{first:?}");
    let last = play.last();
    assert_eq!(last.phase, Phase::Succeeded);
    assert_eq!(last.attempts[0].reason.as_deref(), Some("OperatorRestarted"));
    assert!(last.warnings.iter().any(|said| said.contains("perhaps an upload")), "{:?}", last.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_whole_when_its_process_died_counts_and_is_not_made_again() {
    let mut play = Play::new(vec![]);
    *play.stage.found.lock().expect("sound") = Some(Ok(Recovered::Whole(Box::new(report()))));
    play.start("pg-m1", &crashed(1));
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.attempts.len()), (Phase::Succeeded, 1));
    assert_eq!(last.destinations[0].folder.as_deref(), Some("default/pg/pg-m1-00000000-1"));
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_was_whole_when_its_process_was_cut_off_counts_and_is_not_made_again() {
    // The process was cut off in its last look, and reached the API server again before anybody called it dead.
    let cut_off = |reason| {
        let mut status = crashed(1);
        let failed = Err(Failure::new(reason, "cut off").leaving("perhaps the whole backup"));
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        record::end_attempt(&mut status, &failed, Retry { limit: 2, backoff: Duration::ZERO }, None, now);
        status
    };
    let foreign = crate::repository::manifest::tests::sample().owner;
    let found = Report { ownership: Ownership::Foreign(foreign.clone()), ..report() };
    let mut play = Play::new(vec![]);
    *play.stage.found.lock().expect("sound") = Some(Ok(Recovered::Whole(Box::new(found))));
    play.start("pg-m1", &cut_off(Reason::ClusterUnavailable));
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.attempts.len(), &last.attempts[0].left), (Phase::Succeeded, 1, &None));
    assert!(!last.warnings.iter().any(|said| said.contains("whole backup")), "{:?}", last.warnings);
    assert_eq!(last.destinations[0].foreign_owner, Some(foreign.id()));
    // One that failed for a reason of its own has failed, whatever could not be removed of it.
    let mut play = Play::new(vec![Act::Succeed]);
    *play.stage.found.lock().expect("sound") = Some(Ok(Recovered::Whole(Box::new(report()))));
    play.start("pg-m1", &cut_off(Reason::DestinationUnavailable));
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!((play.last().phase, play.last().attempts.len()), (Phase::Succeeded, 2));
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_cannot_be_cleared_holds_nothing_up() {
    let mut play = Play::new(vec![Act::Succeed]);
    *play.stage.found.lock().expect("sound") = Some(Err(Failure::new(Reason::DestinationUnavailable, "no answer")));
    play.start("pg-m1", &crashed(1));
    play.supervisor.ended().await;
    assert_eq!(play.last().phase, Phase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn the_second_crash_during_one_run_ends_it() {
    let mut play = Play::new(vec![]);
    play.start("pg-m1", &crashed(2));
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("CrashLoop")));
    let reasons: Vec<_> = last.attempts.iter().filter_map(|attempt| attempt.reason.as_deref()).collect();
    assert_eq!(reasons, ["OperatorRestarted"; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_too_long_is_ended_in_the_middle_and_cleans_up() {
    let mut play = Play::new(vec![Act::UntilCancelled]);
    play.stage.job.lock().expect("sound").as_mut().expect("a job").spec.active_deadline_seconds = Some(100);
    let start = tokio::time::Instant::now();
    play.start("pg-m1", &BackupRunStatus::default());
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert_eq!(start.elapsed().as_secs(), 101, "the deadline and a second of clean-up");
    let last = play.last();
    assert_eq!((last.phase, last.reason.as_deref()), (Phase::Failed, Some("DeadlineExceeded")));
    assert!(last.message.as_deref().is_some_and(|said| said.contains("100 s")), "{last:?}");
    assert_eq!(play.stage.cleaned_up.load(Atomic::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_all_attempts_and_survives_a_restart() {
    let mut play = Play::new(vec![Act::Fail(Reason::TargetGone)]);
    let mut begun = crashed(1);
    begun.spec.as_mut().expect("kept").active_deadline_seconds = Some(90);
    // It began 40 s ago in another process. After a wait of 30 s the second attempt fails, and 60 s more are not left.
    begun.start_time =
        Some(crate::api::time::to_time(DateTime::from_timestamp(1_800_000_000 - 40, 0).expect("in range")));
    let start = tokio::time::Instant::now();
    play.start("pg-m1", &begun);
    assert_eq!(play.supervisor.ended().await.2, TaskEnd::Over);
    assert!((49..=51).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(play.last().reason.as_deref(), Some("DeadlineExceeded"));
}
