use super::*;
use crate::api::names::{JobRef, RunName, Uid};
use crate::archive::Tally;
use crate::archive::decode::Reader;
use crate::clock::FixedClock;
use crate::destination::faulty::{Fault, Faulty, Operation};
use crate::destination::object_store::ObjectStore;
use crate::repository::catalog;
use crate::repository::manifest::{FORMAT_VERSION, OwnerDocument};
use crate::run::report::StoredObject;
use crate::run::{AttemptId, Phase};
use crate::source::{CHANNEL_CHUNKS, CHUNK_LIMIT, Capture, CaptureFacts, Consistency, Content, Ending};
use async_trait::async_trait;
use futures::{FutureExt, TryStreamExt};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

mod abandoned;
mod claim;
mod each;
mod lost;
mod shrunk;
mod waiting;

/// A source that says what it was told to say.
#[derive(Clone)]
struct Scripted {
    content: Content,
    bytes: Vec<u8>,
    end: Result<Completion, Failure>,
    /// It never ends, unless it is cancelled.
    endless: bool,
    /// It does not even end then.
    deaf: bool,
    /// Set when it has ended.
    ended: Arc<AtomicBool>,
}

impl Scripted {
    fn new(content: Content, bytes: impl Into<Vec<u8>>) -> Self {
        let ending = Ending { exit_code: Some(0), warnings: vec!["a warning".into()], log: b"said".to_vec() };
        let end = Ok(Completion::Complete(ending));
        Self { content, bytes: bytes.into(), end, endless: false, deaf: false, ended: Arc::default() }
    }

    fn ending(mut self, end: Result<Completion, Failure>) -> Self {
        self.end = end;
        self
    }
}

#[async_trait]
impl Source for Scripted {
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure> {
        let (sender, bytes) = mpsc::channel(CHANNEL_CHUNKS);
        let content = self.bytes.clone();
        let (endless, deaf, end, ended) = (self.endless, self.deaf, self.end.clone(), self.ended.clone());
        let task = tokio::spawn(async move {
            for chunk in content.chunks(CHUNK_LIMIT) {
                if sender.send(Bytes::copy_from_slice(chunk)).await.is_err() {
                    break;
                }
            }
            if endless {
                cancel.cancelled().await;
            }
            if deaf {
                std::future::pending::<()>().await;
            }
            drop(sender);
            ended.store(true, Ordering::SeqCst);
            end
        });
        let facts = CaptureFacts {
            content: self.content,
            consistency: Consistency::Command,
            pod: Some("postgres-0".into()),
            container: None,
        };
        Ok(Capture { facts, bytes, completion: async { task.await.unwrap() }.boxed() })
    }
}

fn plan() -> Plan {
    Plan {
        id: AttemptId {
            job: JobRef::new("default", "pg").unwrap(),
            job_uid: Uid::new("aaaaaaaa-0000").unwrap(),
            cluster_id: Uid::new("cccccccc-0000").unwrap(),
            run: RunName::new("pg-20260102-0304").unwrap(),
            run_uid: Uid::new("01234567-89ab").unwrap(),
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new("default/pg").unwrap(),
        },
        adopt: None,
        target: serde_json::json!({"kind": "Pod", "name": "postgres-0"}),
        strategy: "dump",
        compression_level: 3,
        recipients: Vec::new(),
        allow_empty: false,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size: SEGMENT_SIZE,
    }
}

const FOLDER: &str = "default/pg/pg-20260102-0304-01234567-1";

fn memory() -> Faulty {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    Faulty::new(Arc::new(ObjectStore::without_http(&operator, "memory")))
}

async fn run(plan: &Plan, source: &Scripted, destination: &Faulty, cancel: &Cancel) -> Result<Report, Failure> {
    let clock = FixedClock::at("2026-01-02T03:04:05Z".parse().unwrap());
    back_up(plan, source, destination, &clock, &Progress::default(), cancel).await
}

async fn simple(source: &Scripted, destination: &Faulty) -> Result<Report, Failure> {
    run(&plan(), source, destination, &Cancel::default()).await
}

async fn keys(destination: &dyn Destination) -> Vec<String> {
    let objects: Vec<_> = destination.list("").await.unwrap().try_collect().await.unwrap();
    let mut keys: Vec<String> = objects.into_iter().map(|o| o.key.to_string()).collect();
    keys.sort();
    keys
}

/// Nothing of the attempt is left, and nothing is listed.
async fn assert_nothing_left(destination: &Faulty, case: &str) {
    let left = keys(destination).await;
    assert!(left.iter().all(|key| key == "default/pg/owner.json"), "{case} left {left:?}");
    let archives = catalog::load(destination, "").await.unwrap();
    assert!(archives.iter().all(|a| a.backups.is_empty() && a.damaged.is_empty()), "{case}");
    // Whatever was staged ended in a commit or an abort.
    let done = destination.done();
    let count = |operation| done.iter().filter(|(o, _)| *o == operation).count();
    assert!(count(Operation::Stage) <= count(Operation::Commit) + count(Operation::Abort) + 1, "{case}: {done:?}");
}

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[6]
    })
    .take(size)
    .collect()
}

fn tar_with(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, "dump.sql", content).unwrap();
    tar.into_inner().unwrap()
}

async fn restored(destination: &dyn Destination, objects: &[StoredObject]) -> Vec<u8> {
    let mut stored = Vec::new();
    for object in objects.iter().filter(|o| o.name != layout::log_name(false)) {
        let key = ObjectKey::new(format!("{FOLDER}/{}", object.name)).unwrap();
        let pieces: Vec<Bytes> = destination.read(&key, None).await.unwrap().try_collect().await.unwrap();
        let bytes = pieces.concat();
        assert_eq!(object.digest, blake3::hash(&bytes).to_hex().to_string());
        stored.push(Ok(Bytes::from(bytes)));
    }
    let mut raw = Vec::new();
    let mut reader = Reader::new(stored.into_iter(), u64::MAX).unwrap();
    reader.read_to_end(&mut raw).unwrap();
    reader.finish().unwrap();
    raw
}

#[tokio::test]
async fn a_whole_dump_becomes_a_backup() {
    let destination = memory();
    let dump = noise(5_000_000);
    let report = simple(&Scripted::new(Content::Raw, dump.clone()), &destination).await.unwrap();
    assert_eq!((report.phase, report.reason, report.exit_code), (Phase::Succeeded, None, Some(0)));
    assert_eq!((report.folder.as_str(), report.bytes_read, report.files), (FOLDER, 5_000_000, None));
    assert_eq!(report.warnings, ["a warning"]);
    assert!(restored(&destination, &report.objects).await == dump);
    let of = |name: &str| format!("{FOLDER}/{name}");
    assert_eq!(
        keys(&destination).await,
        ["default/pg/owner.json".into(), of("dump.zst"), of("log.txt"), of("manifest.json"), of("started.json")]
    );
    let archives = catalog::load(&destination, "").await.unwrap();
    let manifest = &archives[0].backups[0].manifest;
    assert_eq!(manifest.outcome, Outcome::Complete);
    assert_eq!((manifest.raw.size, manifest.stored.size), (5_000_000, report.bytes_stored));
    assert_eq!(manifest.raw.digest, blake3::hash(&dump).to_hex().to_string());
    assert_eq!(manifest.stored.digest, manifest.segments[0].digest);
    assert_eq!((manifest.pod.clone(), manifest.exit_code), (Some("postgres-0".into()), Some(0)));
    assert_eq!(manifest.format_version, FORMAT_VERSION);
}

#[tokio::test]
async fn the_manifest_is_written_last() {
    let destination = memory();
    simple(&Scripted::new(Content::Raw, *b"dump"), &destination).await.unwrap();
    let done = destination.done();
    let writes: Vec<&str> = done
        .iter()
        .filter(|(o, _)| matches!(o, Operation::Put | Operation::Commit | Operation::Stage))
        .map(|(_, key)| key.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(writes, ["owner.json", "started.json", "dump.zst", "dump.zst", "log.txt", "manifest.json"]);
}

#[tokio::test]
async fn a_tar_needs_its_end() {
    let tar = tar_with(b"select 1;");
    let destination = memory();
    let report = simple(&Scripted::new(Content::Tar, tar.clone()), &destination).await.unwrap();
    assert_eq!(report.files, Some(1));
    assert!(restored(&destination, &report.objects).await == tar);
    for cut in [tar.len() - 1, tar.len() - 1024, 600, 0] {
        let destination = memory();
        let failure = simple(&Scripted::new(Content::Tar, &tar[..cut]), &destination).await.unwrap_err();
        assert_eq!(failure.reason, Reason::ArchiveTruncated, "cut at {cut}");
        assert_nothing_left(&destination, "a cut tar").await;
    }
    let failure = simple(&Scripted::new(Content::Tar, noise(9000)), &memory()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::StreamCorrupt);
}

#[tokio::test]
async fn a_source_that_fails_wins_over_what_fails_after_it() {
    let end = || Failure::new(Reason::CommandFailed, "pg_dump ended with 3").with_exit_code(3);
    for destination in [
        memory(),
        memory().always(Operation::Abort, "", Fault::Fail(Reason::DestinationUnavailable)),
        memory().always(Operation::Delete, "", Fault::Fail(Reason::DestinationUnavailable)),
    ] {
        let source = Scripted::new(Content::Raw, noise(3_000_000)).ending(Err(end()));
        let failure = simple(&source, &destination).await.unwrap_err();
        assert_eq!((failure.reason, failure.exit_code), (Reason::CommandFailed, Some(3)));
        assert!(failure.message.starts_with("pg_dump ended with 3"), "{failure}");
        assert!(catalog::load(&destination, "").await.unwrap().iter().all(|a| a.backups.is_empty()));
    }
    let destination = memory();
    let source = Scripted::new(Content::Raw, noise(3_000_000)).ending(Err(end()));
    simple(&source, &destination).await.unwrap_err();
    assert_nothing_left(&destination, "a failed command").await;
    // Also where it was the cause of a tar that is cut.
    let source = Scripted::new(Content::Tar, &tar_with(b"x")[..700]).ending(Err(end()));
    assert_eq!(simple(&source, &memory()).await.unwrap_err().reason, Reason::CommandFailed);
}

#[tokio::test]
async fn what_stays_is_named() {
    let destination = memory().always(Operation::Delete, "started.json", Fault::Fail(Reason::DestinationDenied));
    let source = Scripted::new(Content::Raw, *b"x").ending(Err(Failure::new(Reason::CommandFailed, "no")));
    let failure = simple(&source, &destination).await.unwrap_err();
    assert_eq!(failure.message, format!("no. In {FOLDER} stays: started.json"));
}

#[tokio::test]
async fn nothing_is_not_a_backup() {
    let empty_tar = tar::Builder::new(Vec::new()).into_inner().unwrap();
    for source in [
        Scripted::new(Content::Raw, vec![]),
        Scripted::new(Content::Tar, empty_tar),
        Scripted::new(Content::Tar, tar_with(b"")),
    ] {
        let destination = memory();
        let failure = simple(&source, &destination).await.unwrap_err();
        assert_eq!((failure.reason, failure.exit_code), (Reason::EmptyBackup, Some(0)));
        assert_nothing_left(&destination, "an empty backup").await;
        let allowed = Plan { allow_empty: true, ..plan() };
        let report = run(&allowed, &source, &memory(), &Cancel::default()).await.unwrap();
        assert_eq!(report.phase, Phase::Succeeded);
    }
    let small = Plan { minimum_size: Some(5), ..plan() };
    let of = |text: &str| Scripted::new(Content::Raw, text);
    assert!(run(&small, &of("12345"), &memory(), &Cancel::default()).await.is_ok());
    let failure = run(&small, &of("1234"), &memory(), &Cancel::default()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::EmptyBackup);
    assert!(failure.message.contains("4 bytes") && failure.message.contains('5'), "{failure}");
}

#[tokio::test]
async fn incomplete_is_kept_and_marked() {
    let ending = Ending::default();
    let why = "secret.key cannot be read".to_string();
    let end = Completion::Incomplete(ending, Reason::SourceIncomplete, why.clone());
    let destination = memory();
    let report = simple(&Scripted::new(Content::Raw, *b"x").ending(Ok(end)), &destination).await.unwrap();
    assert_eq!((report.phase, report.reason), (Phase::Incomplete, Some(Reason::SourceIncomplete)));
    assert_eq!(report.message, why);
    let archives = catalog::load(&destination, "").await.unwrap();
    let manifest = &archives[0].backups[0].manifest;
    assert_eq!((manifest.outcome, manifest.reason.as_deref()), (Outcome::Incomplete, Some("SourceIncomplete")));
}

/// Every step of the destination, broken in every way: never a success, and nothing left.
#[tokio::test]
async fn every_step_that_fails_is_a_failure() {
    use Operation::{Commit, Put, Read, Stage, Stat, Write};
    let down = Fault::Fail(Reason::DestinationUnavailable);
    let lost = Fault::LoseReply(Reason::DestinationUnavailable);
    for (operation, suffix, nth, fault) in [
        (Read, "owner.json", 1, down),
        (Put, "owner.json", 1, down),
        (Put, "started.json", 1, down),
        (Put, "started.json", 1, lost),
        (Stage, "", 1, down),
        (Write, "", 1, down),
        (Write, "", 2, down),
        (Write, "", 3, lost),
        (Commit, "", 1, down),
        (Commit, "", 1, lost),
        (Commit, "", 1, Fault::Corrupt),
        (Put, "log.txt", 1, down),
        (Put, "manifest.json", 1, down),
        (Put, "manifest.json", 1, lost),
        (Put, "manifest.json", 1, Fault::Corrupt),
        (Read, "manifest.json", 1, down),
        (Read, "manifest.json", 1, Fault::Corrupt),
        (Stat, "dump.zst", 1, down),
        (Stat, "dump.zst", 1, Fault::Corrupt),
        (Stat, "log.txt", 1, Fault::Corrupt),
    ] {
        let case = format!("{operation:?} {suffix} {nth} {fault:?}");
        let destination = memory().once(operation, suffix, nth, fault);
        let source = Scripted::new(Content::Raw, noise(6_000_000));
        let failure = simple(&source, &destination).await.map(|_| ()).expect_err(&case);
        let wanted = if fault == Fault::Corrupt { Reason::DestinationMismatch } else { Reason::DestinationUnavailable };
        assert_eq!(failure.reason, wanted, "{case}");
        assert_nothing_left(&destination, &case).await;
    }
}

#[tokio::test]
async fn data_stays_where_the_manifest_cannot_be_removed() {
    let destination = memory()
        .once(Operation::Read, "manifest.json", 1, Fault::Fail(Reason::DestinationUnavailable))
        .always(Operation::Delete, "manifest.json", Fault::Fail(Reason::DestinationDenied));
    let failure = simple(&Scripted::new(Content::Raw, *b"x"), &destination).await.unwrap_err();
    assert!(failure.message.contains("perhaps the whole backup"), "{failure}");
    // What is listed can be restored.
    let archives = catalog::load(&destination, "").await.unwrap();
    let objects: Vec<_> = archives[0].backups[0].manifest.objects().cloned().collect();
    for object in objects {
        let key = ObjectKey::new(format!("{FOLDER}/{}", object.name)).unwrap();
        assert_eq!(destination.stat(&key).await.unwrap().unwrap().size, object.size);
    }
}

#[tokio::test]
async fn a_cancel_ends_the_source_and_leaves_nothing() {
    let destination = memory();
    let source = Scripted { endless: true, ..Scripted::new(Content::Raw, noise(9_000_000)) };
    let cancel = Cancel::default();
    let (plan, clock, progress) = (plan(), FixedClock::at(DateTime::UNIX_EPOCH), Progress::default());
    let work = back_up(&plan, &source, &destination, &clock, &progress, &cancel);
    let stop = async {
        // Two frames are out, two are in the threads, and the rest waits.
        while progress.stored.load(Ordering::Relaxed) < 4_000_000 {
            tokio::task::yield_now().await;
        }
        cancel.request(Reason::CancelRequested);
    };
    let (result, ()) = tokio::join!(work, stop);
    assert_eq!(result.unwrap_err().reason, Reason::CancelRequested);
    assert!(source.ended.load(Ordering::SeqCst));
    assert!(destination.done().iter().any(|(o, _)| *o == Operation::Abort));
    assert_nothing_left(&destination, "a cancelled run").await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_not_held_up_by_a_destination_that_hangs() {
    for (operation, suffix) in
        [(Operation::Stage, ""), (Operation::Write, ""), (Operation::Commit, ""), (Operation::Put, "log.txt")]
    {
        let destination = memory().once(operation, suffix, 1, Fault::Hang);
        let source = Scripted::new(Content::Raw, noise(3_000_000));
        let cancel = Cancel::default();
        let stop = async {
            while !destination.done().iter().any(|(o, key)| *o == operation && key.ends_with(suffix)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cancel.request(Reason::CancelRequested);
        };
        let plan = plan();
        let work = tokio::time::timeout(COMMIT_GRACE + CLEANUP_LIMIT, run(&plan, &source, &destination, &cancel));
        let (result, ()) = tokio::join!(work, stop);
        assert_eq!(result.unwrap().unwrap_err().reason, Reason::CancelRequested, "{operation:?}");
        assert_nothing_left(&destination, &format!("{operation:?} that hangs")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cleaning_up_is_bounded() {
    let destination = memory().always(Operation::Delete, "", Fault::Hang);
    let source = Scripted::new(Content::Raw, *b"x").ending(Err(Failure::new(Reason::CommandFailed, "no")));
    let failure = tokio::time::timeout(CLEANUP_LIMIT * 2, simple(&source, &destination)).await.unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::CommandFailed);
    assert!(failure.message.contains("stays: started.json"), "{failure}");
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_changes_nothing() {
    let destination = memory();
    let cancel = Cancel::default();
    let report = run(&plan(), &Scripted::new(Content::Raw, *b"x"), &destination, &cancel).await.unwrap();
    cancel.request(Reason::CancelRequested);
    assert_eq!(report.phase, Phase::Succeeded);
    // And one that comes before anything: not even a request is made.
    let untouched = memory();
    let failure = run(&plan(), &Scripted::new(Content::Raw, *b"x"), &untouched, &cancel).await.unwrap_err();
    assert_eq!(failure.reason, Reason::CancelRequested);
    assert_eq!(untouched.done(), []);
}

#[tokio::test]
async fn an_attempts_folder_is_never_used_twice() {
    let destination = memory();
    simple(&Scripted::new(Content::Raw, *b"first"), &destination).await.unwrap();
    let before = keys(&destination).await;
    let clock = FixedClock::at("2030-01-01T00:00:00Z".parse().unwrap());
    let source = Scripted::new(Content::Raw, *b"second");
    let again = back_up(&plan(), &source, &destination, &clock, &Progress::default(), &Cancel::default()).await;
    assert_eq!(again.unwrap_err().reason, Reason::DestinationMismatch);
    assert_eq!(keys(&destination).await, before);
}

#[tokio::test]
async fn an_owner_that_can_be_none_is_nobody() {
    let destination = memory();
    let key = ObjectKey::new("default/pg/owner.json").unwrap();
    let uid = "a".repeat(1000);
    let text = format!(r#"{{"formatVersion":1,"clusterId":"c1c1c1c1","namespace":"n","job":"j","jobUid":"{uid}"}}"#);
    destination.put(&key, text.into(), Put::Always).await.unwrap();
    let report = simple(&Scripted::new(Content::Raw, *b"x"), &destination).await.unwrap();
    assert_eq!((report.phase, report.ownership), (Phase::Succeeded, Ownership::Ours));
    assert!(report.warnings[0].contains("owner.json names no BackupJob") && !report.warnings[0].contains(&uid));
}

#[tokio::test]
async fn owners_are_told_apart() {
    let destination = memory();
    simple(&Scripted::new(Content::Raw, *b"x"), &destination).await.unwrap();
    let with = |job_uid: &str, cluster: &str, attempt| {
        let mut plan = plan();
        plan.id.job_uid = Uid::new(job_uid).unwrap();
        plan.id.cluster_id = Uid::new(cluster).unwrap();
        plan.id.attempt = attempt;
        plan
    };
    let cancel = Cancel::default();
    let source = Scripted::new(Content::Raw, *b"x");
    let same = run(&with("aaaaaaaa-0000", "cccccccc-0000", 2), &source, &destination, &cancel).await.unwrap();
    assert_eq!((same.warnings.as_slice(), same.ownership), (&["a warning".to_owned()][..], Ownership::Ours));
    let made_again = run(&with("bbbbbbbb-0000", "cccccccc-0000", 3), &source, &destination, &cancel).await.unwrap();
    assert!(made_again.warnings[0].contains("taken over"), "{:?}", made_again.warnings);
    assert!(matches!(made_again.ownership, Ownership::TakenOver(_)), "{:?}", made_again.ownership);
    let other = run(&with("aaaaaaaa-0000", "dddddddd-0000", 4), &source, &destination, &cancel).await.unwrap();
    assert!(other.warnings[0].contains("belongs to BackupJob default/pg (bbbbbbbb-0000)"), "{:?}", other.warnings);
    let owner = async || {
        let bytes =
            catalog::read_document(&destination, &ObjectKey::new("default/pg/owner.json").unwrap()).await.unwrap();
        manifest::parse::<OwnerDocument>("owner.json", &bytes).unwrap().owner.id()
    };
    assert_eq!(owner().await, "cccccccc-0000/bbbbbbbb-0000", "a stranger changes nothing");
    let Ownership::Foreign(found) = other.ownership else { panic!("{:?}", other.ownership) };
    assert_eq!(found.id(), owner().await);

    // It becomes the owner when the user says whose archive it continues, and only then.
    let wrong = Plan { adopt: Some("cccccccc-0000/aaaaaaaa-0000".into()), ..with("aaaaaaaa-0000", "dddddddd-0000", 5) };
    let refused = run(&wrong, &source, &destination, &cancel).await.unwrap();
    assert!(matches!(refused.ownership, Ownership::Foreign(_)), "{:?}", refused.ownership);
    let adopts = Plan { adopt: Some(found.id()), ..with("aaaaaaaa-0000", "dddddddd-0000", 6) };
    let adopted = run(&adopts, &source, &destination, &cancel).await.unwrap();
    assert!(matches!(adopted.ownership, Ownership::TakenOver(_)), "{:?}", adopted.ownership);
    assert_eq!(owner().await, "dddddddd-0000/aaaaaaaa-0000");
    let after = run(&with("aaaaaaaa-0000", "dddddddd-0000", 7), &source, &destination, &cancel).await.unwrap();
    assert_eq!(after.ownership, Ownership::Ours);
}

#[tokio::test]
async fn a_large_backup_has_several_objects() {
    let destination = memory();
    let dump = noise(9_000_000);
    let (plan, cancel) = (Plan { segment_size: 4_500_000, ..plan() }, Cancel::default());
    let source = Scripted::new(Content::Raw, dump.clone());
    let report = run(&plan, &source, &destination, &cancel).await.unwrap();
    let names: Vec<&str> = report.objects.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["dump.zst", "dump.zst.0001", "dump.zst.0002", "log.txt"]);
    assert!(restored(&destination, &report.objects).await == dump);
    let archives = catalog::load(&destination, "").await.unwrap();
    let manifest = &archives[0].backups[0].manifest;
    assert_eq!(manifest.stored.size, manifest.segments.iter().map(|s| s.size).sum::<u64>());
    let mut all = Tally::default();
    for segment in &manifest.segments {
        let key = ObjectKey::new(format!("{FOLDER}/{}", segment.name)).unwrap();
        let pieces: Vec<Bytes> = destination.read(&key, None).await.unwrap().try_collect().await.unwrap();
        all.add(&pieces.concat());
    }
    assert!(manifest.stored.is(&all.measure()));
    // What `cat` of them gives is one archive, in the order of their names.
    let mut names: Vec<&String> = manifest.segments.iter().map(|segment| &segment.name).collect();
    names.sort();
    assert!(names.iter().zip(&manifest.segments).all(|(sorted, segment)| **sorted == segment.name));
    // One that fails half-way aborts all of them.
    let destination = memory().once(Operation::Commit, ".0001", 1, Fault::Fail(Reason::DestinationUnavailable));
    let source = Scripted::new(Content::Raw, dump);
    run(&plan, &source, &destination, &cancel).await.unwrap_err();
    assert_nothing_left(&destination, "a segment that failed").await;
}

/// Each object costs memory until the commit, so there should be few; and S3 takes 10,000 parts of one.
#[test]
fn an_object_is_nearly_as_long_as_an_upload_may_be() {
    let parts = SEGMENT_SIZE.div_ceil(PART_SIZE as u64);
    assert!((9_700..=9_900).contains(&parts), "{parts} parts");
    assert_eq!(SEGMENT_SIZE >> 30, 76, "GiB, as the README says");
}

#[tokio::test]
async fn an_encrypted_backup_is_cut_after_it_was_encrypted() {
    use crate::archive::decrypt::{Identities, open};
    use crate::archive::encrypt::Recipient;
    use age::secrecy::ExposeSecret;
    let key = age::x25519::Identity::generate();
    let recipients = vec![Recipient::parse(&key.to_public().to_string()).unwrap()];
    let with = Identities::parse("key", key.to_string().expose_secret()).unwrap();
    let destination = memory();
    let dump = noise(9_000_000);
    let clock = FixedClock::at(DateTime::UNIX_EPOCH);
    let plan = Plan { recipients, segment_size: 4_500_000, ..plan() };
    let (progress, cancel) = (Progress::default(), Cancel::default());
    let source = Scripted::new(Content::Raw, dump.clone());
    let report = back_up(&plan, &source, &destination, &clock, &progress, &cancel).await.unwrap();
    let names: Vec<&str> = report.objects.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["dump.zst.age", "dump.zst.age.0001", "dump.zst.age.0002", "log.txt.age"]);
    assert_eq!(progress.stored.load(Ordering::Relaxed), report.bytes_stored);
    let mut stored = Vec::new();
    for name in &names[..3] {
        let key = ObjectKey::new(format!("{FOLDER}/{name}")).unwrap();
        let pieces: Vec<Bytes> = destination.read(&key, None).await.unwrap().try_collect().await.unwrap();
        stored.extend(pieces.into_iter().map(Ok));
    }
    let mut raw = Vec::new();
    Reader::new(open(stored.into_iter(), &with).unwrap(), u64::MAX).unwrap().read_to_end(&mut raw).unwrap();
    assert!(raw == dump);
    let log = ObjectKey::new(format!("{FOLDER}/log.txt.age")).unwrap();
    let log: Vec<Bytes> = destination.read(&log, None).await.unwrap().try_collect().await.unwrap();
    let said: Vec<Bytes> = open(log.into_iter().map(Ok), &with).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(said.concat(), b"said");
}
