//! A process that was cut off: what others may have found whole it does not touch, and it ends before they look.

use super::*;
use crate::lease::Terms;
use crate::run::recover::recover;
use crate::run::report::Recovered;
use std::time::Instant;

/// A backup during which the run is lost as soon as this operation was asked for, which hangs; how long it took to end then.
async fn lost_at(destination: &Faulty, operation: Operation, suffix: &str, asked_before: bool) -> (Failure, Duration) {
    let cancel = Cancel::default();
    let stop = async {
        while !destination.done().iter().any(|(o, key)| *o == operation && key.ends_with(suffix)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if asked_before {
            cancel.request(Reason::OperatorShutdown);
        }
        cancel.request(Reason::ClusterUnavailable);
        tokio::time::Instant::now()
    };
    let (plan, source) = (plan(), Scripted::new(Content::Raw, noise(3_000_000)));
    let both = async { tokio::join!(run(&plan, &source, destination, &cancel), stop) };
    let (result, since) = tokio::time::timeout(Duration::from_mins(5), both).await.expect("it was not asked for");
    (result.unwrap_err(), since.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_others_may_have_found_whole_is_left_to_them() {
    for (asked_before, operation, suffix) in [
        (false, Operation::Stat, "dump.zst"),
        (true, Operation::Stat, "dump.zst"),
        (false, Operation::Read, "manifest.json"),
    ] {
        let destination = memory().once(operation, suffix, 1, Fault::Hang);
        let (failure, took) = lost_at(&destination, operation, suffix, asked_before).await;
        assert!(took <= 2 * LOST_GRACE, "{took:?}");
        assert!(failure.left.is_some_and(|left| left.contains("perhaps the whole backup")), "{}", failure.message);
        // They find it whole; and had they looked before, it would still be there.
        assert!(!destination.done().iter().any(|(o, _)| *o == Operation::Delete), "{operation:?}");
        let found = recover(&destination, &plan().id).await.unwrap();
        assert!(matches!(&found, Recovered::Whole(report) if report.phase == Phase::Succeeded), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_whole_is_left_to_them_too_once_its_manifest_may_be_there() {
    let destination = memory().once(Operation::Put, "manifest.json", 1, Fault::Hang);
    let (failure, took) = lost_at(&destination, Operation::Put, "manifest.json", false).await;
    assert!(
        took <= LOST_GRACE + Duration::from_secs(1),
        "a put that is sent late comes after they have looked: {took:?}"
    );
    assert!(failure.left.is_some() && !destination.done().iter().any(|(o, _)| *o == Operation::Delete));
    assert!(matches!(recover(&destination, &plan().id).await, Ok(Recovered::Cleared(None))));
    assert_nothing_left(&destination, "a manifest that never came").await;
}

#[tokio::test(start_paused = true)]
async fn removing_a_backup_that_failed_stops_when_the_run_is_lost() {
    let destination = memory().once(Operation::Stat, "dump.zst", 1, Fault::Fail(Reason::DestinationUnavailable)).once(
        Operation::Delete,
        "manifest.json",
        1,
        Fault::Hang,
    );
    let (failure, took) = lost_at(&destination, Operation::Delete, "manifest.json", false).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(failure.reason, Reason::DestinationUnavailable);
    assert!(matches!(recover(&destination, &plan().id).await, Ok(Recovered::Whole(_))));
}

#[tokio::test(start_paused = true)]
async fn without_a_manifest_it_is_cleaned_up_before_others_look() {
    for (operation, suffix) in
        [(Operation::Write, ""), (Operation::Commit, ""), (Operation::Put, "log.txt"), (Operation::Put, "started.json")]
    {
        let destination = memory().once(operation, suffix, 1, Fault::Hang);
        let (_, took) = lost_at(&destination, operation, suffix, false).await;
        assert!(took <= 2 * LOST_GRACE, "{operation:?} {took:?}");
        assert_nothing_left(&destination, &format!("{operation:?} {suffix}")).await;
    }
    // Also where the destination does not answer any more.
    let destination = memory().always(Operation::Delete, "", Fault::Hang).once(Operation::Commit, "", 1, Fault::Hang);
    let (failure, took) = lost_at(&destination, Operation::Commit, "", false).await;
    assert!(took <= 2 * LOST_GRACE && failure.left.is_some(), "{took:?} {failure}");
    let others_wait = Terms::EXECUTOR.lasts.saturating_sub(Terms::EXECUTOR.renew_within);
    assert!(2 * LOST_GRACE <= others_wait, "they look after {others_wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_does_not_take_the_time_that_its_upload_has() {
    let destination = memory();
    let source = Scripted { deaf: true, ..Scripted::new(Content::Raw, noise(9_000_000)) };
    let (plan, cancel) = (plan(), Cancel::default());
    let stop = async {
        while !destination.done().iter().any(|(o, _)| *o == Operation::Write) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cancel.request(Reason::ClusterUnavailable);
        tokio::time::Instant::now()
    };
    let (result, since) = tokio::join!(run(&plan, &source, &destination, &cancel), stop);
    assert!(result.is_err() && since.elapsed() <= 2 * LOST_GRACE);
    assert!(destination.done().iter().any(|(o, _)| *o == Operation::Abort), "{:?}", destination.done());
}

/// Cuts its process off when it is asked for the time that the manifest says.
struct CutsOff(Cancel, std::sync::atomic::AtomicU32);

impl Clock for CutsOff {
    fn now(&self) -> DateTime<Utc> {
        if self.1.fetch_add(1, Ordering::SeqCst) == 1 {
            self.0.request(Reason::ClusterUnavailable);
        }
        DateTime::UNIX_EPOCH
    }
    fn monotonic(&self) -> Instant {
        unreachable!("a backup asks for the time of day")
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_seen_not_to_be_whole_is_removed_also_then() {
    let of = async |destination: &Faulty| {
        let clock = CutsOff(Cancel::default(), 0.into());
        let (plan, source) = (plan(), Scripted::new(Content::Raw, *b"x"));
        back_up(&plan, &source, destination, &clock, &Progress::default(), &clock.0).await
    };
    // Nobody has called it a backup, and nobody may come after who clears it away.
    let destination = memory().once(Operation::Stat, "dump.zst", 1, Fault::Corrupt);
    assert_eq!(of(&destination).await.unwrap_err().reason, Reason::DestinationMismatch);
    assert_nothing_left(&destination, "one that is not whole").await;
    // And one that only needs a moment more has it.
    assert_eq!(of(&memory()).await.unwrap().phase, Phase::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn objects_are_looked_at_side_by_side() {
    let destination = memory().once(Operation::Stat, "dump.zst", 1, Fault::Hang);
    lost_at(&destination, Operation::Stat, "log.txt", false).await;
}
