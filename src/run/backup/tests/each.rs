use super::*;
use crate::archive::decrypt::Identities;
use crate::repository::catalog::Backup;
use crate::repository::manifest::pods::PodOutcome;
use crate::restore::execute::verify;
use crate::run::recover::recover;
use crate::run::report::Recovered;
use std::sync::atomic::AtomicUsize;

const PODS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// A pod whose folder has one file, of so many bytes.
fn whole(size: usize) -> Scripted {
    Scripted::new(Content::Tar, tar_with(&noise(size)))
}

fn members(sources: Vec<Result<Scripted, Failure>>) -> Vec<Member> {
    let member = |(n, source): (usize, Result<Scripted, Failure>)| Member {
        pod: format!("web-{n}"),
        source: source.map(|source| Box::new(source) as Box<dyn Source>),
    };
    sources.into_iter().enumerate().map(member).collect()
}

fn three() -> Vec<Member> {
    members(vec![Ok(whole(3_000_000)), Ok(whole(70_000)), Ok(whole(5))])
}

/// Three, of which the one in the middle is this.
fn with(middle: Result<Scripted, Failure>) -> Vec<Member> {
    members(vec![Ok(whole(3_000_000)), middle, Ok(whole(5))])
}

async fn run_each(plan: &Plan, pods: &[Member], destination: &Faulty, cancel: &Cancel) -> Result<Report, Failure> {
    let clock = FixedClock::at("2026-01-02T03:04:05Z".parse().unwrap());
    back_up_each(plan, pods, destination, &clock, &Progress::default(), cancel).await
}

async fn each(pods: &[Member], destination: &Faulty) -> Result<Report, Failure> {
    run_each(&plan(), pods, destination, &Cancel::default()).await
}

/// The one backup that is listed, after everything that its manifest names was read back.
async fn the_backup(destination: &Faulty) -> Backup {
    let archives = catalog::load(destination, "").await.unwrap();
    assert_eq!(archives.len(), 1, "a pod's folder is no archive");
    assert!(archives[0].damaged.is_empty() && archives[0].unfinished.is_empty(), "{archives:?}");
    assert_eq!((archives[0].name.as_str(), archives[0].backups.len()), ("default/pg", 1));
    let backup = archives[0].backups[0].clone();
    let counts = verify(destination, &backup, &Identities::default(), &Arc::default()).await.unwrap();
    assert_eq!(counts.map(|counts| counts.files), backup.manifest.files);
    backup
}

fn of(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

#[tokio::test]
async fn every_pod_has_its_archive_and_one_manifest_is_over_all() {
    let destination = memory();
    let progress = Progress::default();
    let clock = FixedClock::at(DateTime::UNIX_EPOCH);
    let (plan, pods, cancel) = (plan(), three(), Cancel::default());
    let report = back_up_each(&plan, &pods, &destination, &clock, &progress, &cancel).await.unwrap();
    assert_eq!((report.phase, report.reason, report.exit_code), (Phase::Succeeded, None, Some(0)));
    assert_eq!((report.pod.as_deref(), report.files), (Some("web-0, web-1, web-2"), Some(3)));
    let mut wanted = vec!["default/pg/owner.json".to_owned(), of("manifest.json"), of("started.json")];
    for pod in PODS {
        wanted.extend([of(&format!("{pod}/archive.tar.zst")), of(&format!("{pod}/log.txt"))]);
    }
    wanted.sort();
    assert_eq!(keys(&destination).await, wanted);
    let names: Vec<&str> = report.objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names[..2], ["web-0/archive.tar.zst", "web-0/log.txt"]);
    assert_eq!(names.len(), 6);
    let sizes = [3_000_000, 70_000, 5].map(|size| tar_with(&noise(size)).len() as u64);
    assert_eq!(report.bytes_read, sizes.iter().sum::<u64>());
    assert_eq!(progress.read.load(Ordering::Relaxed), report.bytes_read);
    assert_eq!(progress.stored.load(Ordering::Relaxed), report.bytes_stored);
    assert_eq!(progress.files.load(Ordering::Relaxed), 3);
    assert_eq!(report.warnings, ["web-0: a warning", "web-1: a warning", "web-2: a warning"]);
    let manifest = the_backup(&destination).await.manifest;
    assert_eq!((manifest.outcome, manifest.raw.size), (Outcome::Complete, report.bytes_read));
    for (n, pod) in manifest.each().unwrap().iter().enumerate() {
        assert_eq!((pod.name.as_str(), pod.outcome), (PODS[n], PodOutcome::Complete));
        let data = pod.data.as_ref().unwrap();
        let objects = data.segments.iter().map(|object| StoredObject {
            name: object.name.clone(),
            size: object.size,
            digest: object.digest.clone(),
        });
        let raw = restored(&destination, &objects.collect::<Vec<_>>()).await;
        assert_eq!((data.raw.size, data.files), (sizes[n], Some(1)));
        assert_eq!(data.raw.digest, blake3::hash(&raw).to_hex().to_string());
    }
    // Everything is there before the manifest says so.
    let done = destination.done();
    let last = done.iter().rfind(|(operation, _)| matches!(operation, Operation::Put | Operation::Commit)).unwrap();
    assert_eq!(*last, (Operation::Put, of("manifest.json")));
}

/// One pod, broken in every way that is its own: named, nothing of it there, and the others as good as ever.
#[tokio::test]
async fn a_pod_that_is_not_whole_is_missing_and_the_run_incomplete() {
    let failed = Failure::new(Reason::CommandFailed, "tar ended with 2").with_exit_code(2);
    let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let cases = [
        (Err(Failure::new(Reason::TargetNotReady, "is Pending")), Reason::TargetNotReady),
        (Ok(whole(12_000_000).ending(Err(failed))), Reason::CommandFailed),
        (Ok(whole(9).ending(Err(Failure::new(Reason::TargetGone, "deleted")))), Reason::TargetGone),
        (Ok(Scripted::new(Content::Tar, &tar_with(&noise(2_500_000))[..2_400_000])), Reason::ArchiveTruncated),
        (Ok(Scripted::new(Content::Tar, noise(9000))), Reason::StreamCorrupt),
        (Ok(Scripted::new(Content::Tar, empty)), Reason::EmptyBackup),
    ];
    for (middle, reason) in cases {
        let destination = memory();
        let report = each(&with(middle), &destination).await.unwrap();
        assert_eq!((report.phase, report.reason), (Phase::Incomplete, Some(Reason::PodsMissing)), "{reason}");
        let said = format!("web-1 is missing, 2 of 3 pods are in the backup. web-1: {reason}, ");
        assert!(report.message.starts_with(&said), "{}", report.message);
        assert_eq!((report.pod.as_deref(), report.files), (Some("web-0, web-2"), Some(2)), "{reason}");
        let left = keys(&destination).await;
        assert!(!left.iter().any(|key| key.contains("web-1")), "{reason} left {left:?}");
        assert!(!report.objects.iter().any(|object| object.name.contains("web-1")));
        let manifest = the_backup(&destination).await.manifest;
        let entry = &manifest.each().unwrap()[1];
        assert_eq!((entry.outcome, entry.reason.as_deref()), (PodOutcome::Missing, Some(reason.as_str())));
        // Whatever was staged for it was aborted.
        let done = destination.done();
        let of_it = |operation| done.iter().filter(|(o, key)| *o == operation && key.contains("web-1")).count();
        assert_eq!(of_it(Operation::Stage), of_it(Operation::Abort), "{reason}");
        // That one was long enough to have begun an upload.
        assert!(reason != Reason::CommandFailed || of_it(Operation::Stage) == 1);
        let archives = catalog::load(&destination, "").await.unwrap();
        assert_eq!(catalog::choose(&archives, None, "latest").unwrap_err().reason, Reason::BackupNotFound);
    }
    let small = Plan { minimum_size: Some(50_000), ..plan() };
    let destination = memory();
    let report = run_each(&small, &three(), &destination, &Cancel::default()).await.unwrap();
    assert_eq!(report.reason, Some(Reason::PodsMissing), "the guard judges each pod, not the sum");
    assert!(report.message.contains("web-2: EmptyBackup"), "{}", report.message);
}

#[tokio::test]
async fn one_that_cannot_be_opened_is_missing_too() {
    struct Shut;
    #[async_trait]
    impl Source for Shut {
        async fn open(&self, _cancel: CancellationToken) -> Result<Capture, Failure> {
            Err(Failure::new(Reason::TargetGone, "went away before its turn came"))
        }
    }
    let destination = memory();
    let mut pods = three();
    pods[0].source = Ok(Box::new(Shut));
    let report = each(&pods, &destination).await.unwrap();
    assert!(report.message.contains("web-0: TargetGone, went away"), "{}", report.message);
    assert_eq!(the_backup(&destination).await.manifest.parts().len(), 2);
}

/// A pod in which another run is at work for so many looks.
struct Held(AtomicUsize, Scripted);

#[async_trait]
impl Source for Held {
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure> {
        if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return self.1.open(cancel).await;
        }
        let taken = Failure::new(Reason::BackupDirectoryBusy, "waits for another run");
        Scripted::new(Content::Tar, []).ending(Err(taken)).open(cancel).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_in_which_another_run_is_at_work_is_read_after_the_others() {
    let destination = memory();
    let mut pods = three();
    pods[0].source = Ok(Box::new(Held(3.into(), whole(3_000_000))));
    pods[1].source = Ok(Box::new(Held(1.into(), whole(70_000))));
    let start = tokio::time::Instant::now();
    let report = each(&pods, &destination).await.unwrap();
    assert_eq!(
        (report.phase, report.pod.as_deref()),
        (Phase::Succeeded, Some("web-0, web-1, web-2")),
        "in their order"
    );
    assert_eq!(start.elapsed().as_secs(), 3 * WAIT_PAUSE.as_secs());
    let manifest = the_backup(&destination).await.manifest;
    assert_eq!((manifest.outcome, manifest.parts().len()), (Outcome::Complete, 3));
    // Each is read once.
    let done = destination.done();
    assert_eq!(done.iter().filter(|(operation, _)| *operation == Operation::Commit).count(), 3);
    // It is not waited for longer than for a while: what is kept of the others is published.
    let destination = memory();
    let mut pods = three();
    pods[1].source = Ok(Box::new(Held(usize::MAX.into(), whole(5))));
    let start = tokio::time::Instant::now();
    let report = each(&pods, &destination).await.unwrap();
    assert_eq!((report.phase, report.reason), (Phase::Incomplete, Some(Reason::PodsMissing)));
    assert_eq!(start.elapsed().as_secs(), 600);
    assert_eq!(the_backup(&destination).await.manifest.parts().len(), 2);
    // With nothing kept the attempt ends: it would only keep a place from others.
    let destination = memory();
    let held = || Ok(Box::new(Held(9.into(), whole(5))) as Box<dyn Source>);
    let gone = || Err(Failure::new(Reason::TargetNotReady, "is Pending"));
    let pods = [held(), held(), gone()].into_iter().enumerate();
    let pods: Vec<_> = pods.map(|(n, source)| Member { pod: format!("web-{n}"), source }).collect();
    assert_eq!(each(&pods, &destination).await.unwrap_err().reason, Reason::BackupDirectoryBusy);
    assert_nothing_left(&destination, "others have all of them").await;
    // While it waits it can be cancelled.
    let destination = memory();
    let mut pods = three();
    pods[1].source = held();
    let cancel = Cancel::default();
    let (plan, later) = (plan(), cancel.clone());
    let (ended, ()) = tokio::join!(run_each(&plan, &pods, &destination, &cancel), async {
        tokio::time::sleep(WAIT_PAUSE * 3 / 2).await;
        later.request(Reason::CancelRequested);
    });
    assert_eq!(ended.unwrap_err().reason, Reason::CancelRequested);
    assert_nothing_left(&destination, "cancelled while it waits").await;
}

#[tokio::test]
async fn none_whole_is_a_failure_and_leaves_nothing() {
    let failed = || Failure::new(Reason::CommandFailed, "ended with 1").with_exit_code(1);
    let sources = vec![
        Err(Failure::new(Reason::TargetNotReady, "is Pending")),
        Ok(whole(3_000_000).ending(Err(failed()))),
        Ok(whole(5).ending(Err(failed()))),
    ];
    let destination = memory();
    let failure = each(&members(sources), &destination).await.unwrap_err();
    assert_eq!((failure.reason, failure.exit_code), (Reason::CommandFailed, Some(1)));
    assert!(PODS.iter().all(|pod| failure.message.contains(pod)), "{failure}");
    assert_nothing_left(&destination, "no pod was whole").await;
    let destination = memory();
    assert!(each(&[], &destination).await.is_err(), "no pod is no empty success");
    assert_nothing_left(&destination, "no pod").await;
}

#[tokio::test]
async fn what_is_kept_in_part_is_kept_and_named() {
    let why = "secret.key cannot be read".to_owned();
    let end = Completion::Incomplete(Ending::default(), Reason::SourceIncomplete, why);
    let destination = memory();
    let report = each(&with(Ok(whole(9).ending(Ok(end)))), &destination).await.unwrap();
    assert_eq!((report.phase, report.reason), (Phase::Incomplete, Some(Reason::SourceIncomplete)));
    assert!(report.message.contains("web-1: SourceIncomplete, secret.key"), "{}", report.message);
    let manifest = the_backup(&destination).await.manifest;
    assert_eq!((manifest.each().unwrap()[1].outcome, manifest.parts().len()), (PodOutcome::Incomplete, 3));
}

/// Every step of the destination, broken while the second pod is at work or later: the attempt fails as a whole, so that it
/// is tried again, and nothing of any pod is left.
#[tokio::test]
async fn a_destination_that_fails_is_not_one_pods_failure() {
    use Operation::{Commit, Put, Read, Stage, Stat, Write};
    let down = Fault::Fail(Reason::DestinationUnavailable);
    let lost = Fault::LoseReply(Reason::DestinationUnavailable);
    for (operation, suffix, fault) in [
        (Put, "started.json", down),
        (Stage, "web-1/archive.tar.zst", down),
        (Write, "web-1/archive.tar.zst", down),
        (Commit, "web-1/archive.tar.zst", down),
        (Commit, "web-1/archive.tar.zst", lost),
        (Commit, "web-2/archive.tar.zst", Fault::Corrupt),
        (Put, "web-1/log.txt", down),
        (Put, "web-2/log.txt", lost),
        (Put, "manifest.json", down),
        (Put, "manifest.json", lost),
        (Put, "manifest.json", Fault::Corrupt),
        (Read, "manifest.json", down),
        (Stat, "web-0/archive.tar.zst", Fault::Corrupt),
        (Stat, "web-2/log.txt", down),
    ] {
        let case = format!("{operation:?} {suffix} {fault:?}");
        let destination = memory().once(operation, suffix, 1, fault);
        let failure = each(&three(), &destination).await.map(|_| ()).expect_err(&case);
        let wanted = if fault == Fault::Corrupt { Reason::DestinationMismatch } else { Reason::DestinationUnavailable };
        assert_eq!(failure.reason, wanted, "{case}");
        let left = keys(&destination).await;
        assert_eq!(left, ["default/pg/owner.json"], "{case}");
    }
}

#[tokio::test]
async fn what_had_to_stay_of_a_pod_is_said_whatever_becomes_of_the_others() {
    // However much there is to say of the pod.
    let failed = || Ok(whole(12_000_000).ending(Err(Failure::new(Reason::CommandFailed, "long ".repeat(300)))));
    let stuck = || memory().always(Operation::Abort, "", Fault::Fail(Reason::DestinationDenied));
    let left = |pods: &[&str]| {
        let uploads: Vec<String> =
            pods.iter().map(|pod| format!("an unfinished upload of {pod}/archive.tar.zst")).collect();
        format!("In {FOLDER} stays: {}", uploads.join(", "))
    };
    let destination = stuck();
    let report = each(&with(failed()), &destination).await.unwrap();
    assert_eq!(report.reason, Some(Reason::PodsMissing));
    assert!(report.warnings.contains(&left(&["web-1"])), "{:?}", report.warnings);
    assert_eq!(the_backup(&destination).await.manifest.warnings, [left(&["web-1"])]);
    // Where no pod is kept, or the attempt fails later, it is the attempt's.
    let failure = each(&members(vec![failed(), failed()]), &stuck()).await.unwrap_err();
    assert_eq!((failure.reason, failure.left), (Reason::CommandFailed, Some(left(&["web-0", "web-1"]))));
    let unwritten = stuck().once(Operation::Put, "manifest.json", 1, Fault::Fail(Reason::DestinationUnavailable));
    let failure = each(&with(failed()), &unwritten).await.unwrap_err();
    assert_eq!((failure.reason, failure.left), (Reason::DestinationUnavailable, Some(left(&["web-1"]))));
    // What a failed attempt leaves is named with its pod.
    let destination = memory().always(Operation::Delete, "web-0/log.txt", Fault::Fail(Reason::DestinationDenied)).once(
        Operation::Put,
        "manifest.json",
        1,
        Fault::Fail(Reason::DestinationUnavailable),
    );
    let failure = each(&three(), &destination).await.unwrap_err();
    assert!(failure.message.ends_with("stays: web-0/log.txt"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn what_many_pods_wrote_is_removed_eight_at_a_time() {
    let pods = || members((0..100).map(|_| Ok(whole(5))).collect());
    let down = Fault::Fail(Reason::DestinationUnavailable);
    let deleted = |destination: &Faulty| {
        let deletes = destination.done().into_iter().filter(|(operation, _)| *operation == Operation::Delete);
        deletes.map(|(_, key)| key).collect::<Vec<_>>()
    };
    let destination = memory().once(Operation::Put, "manifest.json", 1, down);
    let failure = each(&pods(), &destination).await.unwrap_err();
    assert!(failure.left.is_none(), "{failure}");
    assert_eq!(keys(&destination).await, ["default/pg/owner.json"]);
    let order = deleted(&destination);
    assert_eq!((order.len(), &order[0], &order[201]), (202, &of("manifest.json"), &of("started.json")));

    let without_manifest = |deletes| {
        let destination = memory().once(Operation::Put, "web-99/log.txt", 1, down);
        destination.always(Operation::Delete, "", deletes)
    };
    let destination = without_manifest(Fault::Hang);
    each(&pods(), &destination).await.unwrap_err();
    assert_eq!(deleted(&destination).len(), 8);
    // What stays of that many is a number, not a list that is cut.
    let failure = each(&pods(), &without_manifest(Fault::Fail(Reason::DestinationDenied))).await.unwrap_err();
    assert!(failure.message.ends_with(&format!("In {FOLDER} stays: 201 objects")), "{failure}");
}

#[tokio::test]
async fn a_cancel_within_a_pod_leaves_nothing_of_any() {
    let destination = memory();
    let source = Scripted { endless: true, ..Scripted::new(Content::Tar, tar_with(&noise(9_000_000))) };
    let pods = with(Ok(source.clone()));
    let cancel = Cancel::default();
    let stop = async {
        while !destination.done().iter().any(|(o, key)| *o == Operation::Write && key.contains("web-1")) {
            tokio::task::yield_now().await;
        }
        cancel.request(Reason::CancelRequested);
    };
    let plan = plan();
    let (result, ()) = tokio::join!(run_each(&plan, &pods, &destination, &cancel), stop);
    assert_eq!(result.unwrap_err().reason, Reason::CancelRequested);
    assert!(source.ended.load(Ordering::SeqCst));
    assert_nothing_left(&destination, "a cancelled run").await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_between_pods_leaves_nothing_of_any() {
    // It comes while the first pod is committed, which hangs a while; and while the last one is.
    for hangs in ["web-0/log.txt", "web-2/log.txt"] {
        let destination = memory().once(Operation::Put, hangs, 1, Fault::Hang);
        let cancel = Cancel::default();
        let stop = async {
            while !destination.done().iter().any(|(o, key)| *o == Operation::Put && key.ends_with(hangs)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cancel.request(Reason::CancelRequested);
        };
        let (plan, pods) = (plan(), three());
        let work = tokio::time::timeout(COMMIT_GRACE + CLEANUP_LIMIT, run_each(&plan, &pods, &destination, &cancel));
        let (result, ()) = tokio::join!(work, stop);
        assert_eq!(result.unwrap().unwrap_err().reason, Reason::CancelRequested, "{hangs}");
        assert_nothing_left(&destination, hangs).await;
    }
    let untouched = memory();
    let cancel = Cancel::default();
    cancel.request(Reason::CancelRequested);
    assert_eq!(run_each(&plan(), &three(), &untouched, &cancel).await.unwrap_err().reason, Reason::CancelRequested);
    assert_eq!(untouched.done(), []);
}

#[tokio::test]
async fn the_sum_is_compared_with_those_before_and_what_is_incomplete_with_nothing() {
    let destination = memory();
    let cancel = Cancel::default();
    let attempt = |attempt| {
        let mut plan = Plan { maximum_shrink_percent: Some(50), ..plan() };
        plan.id.attempt = attempt;
        plan
    };
    // Large, but not whole: no measure for others.
    let failed = Failure::new(Reason::CommandFailed, "no");
    let huge = members(vec![Ok(whole(30_000_000)), Ok(whole(9).ending(Err(failed.clone())))]);
    let report = run_each(&attempt(1), &huge, &destination, &cancel).await.unwrap();
    assert_eq!((report.phase, report.shrunk), (Phase::Incomplete, None));
    let report = run_each(&attempt(2), &three(), &destination, &cancel).await.unwrap();
    assert_eq!((report.phase, report.shrunk), (Phase::Succeeded, None));
    // One pod has shrunk to nothing nearly, and the sum to a half.
    let shrunken = members(vec![Ok(whole(1_000_000)), Ok(whole(70_000)), Ok(whole(5))]);
    let report = run_each(&attempt(3), &shrunken, &destination, &cancel).await.unwrap();
    assert_eq!(report.phase, Phase::Succeeded);
    assert!(report.shrunk.as_deref().is_some_and(|said| said.contains("% less")), "{:?}", report.shrunk);
    // And one that lacks a pod is not compared: it says that it is Incomplete.
    let report = run_each(&attempt(4), &with(Err(failed)), &destination, &cancel).await.unwrap();
    assert_eq!((report.phase, report.shrunk), (Phase::Incomplete, None));
}

#[tokio::test]
async fn what_a_dead_process_left_of_several_pods_is_found() {
    let destination = memory();
    let made = each(&three(), &destination).await.unwrap();
    let id = plan().id;
    let Recovered::Whole(found) = recover(&destination, &id).await.unwrap() else { panic!("thrown away") };
    assert_eq!((&found.objects, found.bytes_read, &found.pod), (&made.objects, made.bytes_read, &made.pod));
    assert_eq!((found.phase, &found.warnings), (made.phase, &made.warnings));
    // It died before the manifest; or something that the manifest names is gone.
    for missing in ["manifest.json", "web-1/archive.tar.zst"] {
        let destination = memory();
        each(&three(), &destination).await.unwrap();
        destination.delete(&ObjectKey::new(of(missing)).unwrap()).await.unwrap();
        if missing == "manifest.json" {
            let archives = catalog::load(&destination, "").await.unwrap();
            assert_eq!(archives.len(), 1, "a pod's folder is no archive");
            assert_eq!(archives[0].unfinished, ["pg-20260102-0304-01234567-1"]);
        }
        assert!(matches!(recover(&destination, &id).await, Ok(Recovered::Cleared(None))), "without {missing}");
        assert_nothing_left(&destination, missing).await;
    }
}

#[tokio::test]
async fn each_archive_is_cut_and_encrypted_on_its_own() {
    use crate::archive::encrypt::Recipient;
    use age::secrecy::ExposeSecret;
    let key = age::x25519::Identity::generate();
    let recipients = vec![Recipient::parse(&key.to_public().to_string()).unwrap()];
    let with = Identities::parse("key", key.to_string().expose_secret()).unwrap();
    let destination = memory();
    let clock = FixedClock::at(DateTime::UNIX_EPOCH);
    let plan = Plan { recipients, segment_size: 4_500_000, ..plan() };
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let pods = members(vec![Ok(whole(9_000_000)), Ok(whole(5))]);
    let report = back_up_each(&plan, &pods, &destination, &clock, &progress, &cancel).await.unwrap();
    let names: Vec<&str> = report.objects.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "web-0/archive.tar.zst.age",
            "web-0/archive.tar.zst.age.0001",
            "web-0/archive.tar.zst.age.0002",
            "web-0/log.txt.age",
            "web-1/archive.tar.zst.age",
            "web-1/log.txt.age",
        ]
    );
    let archives = catalog::load(&destination, "").await.unwrap();
    let counts = verify(&destination, &archives[0].backups[0], &with, &Arc::default()).await.unwrap();
    assert_eq!(counts.map(|counts| counts.files), Some(2));
    let none = verify(&destination, &archives[0].backups[0], &Identities::default(), &Arc::default()).await;
    assert_eq!(none.unwrap_err().reason, Reason::IdentityMissing);
}

#[tokio::test]
async fn warnings_of_many_pods_stay_few() {
    let many = Ending { warnings: vec!["a file changed".into(); WARNING_LIMIT], ..Ending::default() };
    let source = || whole(5).ending(Ok(Completion::Complete(many.clone())));
    let destination = memory();
    let report = each(&members((0..5).map(|_| Ok(source())).collect()), &destination).await.unwrap();
    assert_eq!(report.phase, Phase::Succeeded);
    assert!(report.warnings.len() <= WARNING_LIMIT, "{}", report.warnings.len());
}
