use super::*;
use crate::api::names::{JobRef, RunName, Uid};
use crate::clock::FixedClock;
use crate::destination::Put;
use crate::destination::faulty::{Fault, Faulty, Operation};
use crate::destination::object_store::ObjectStore;
use crate::error::Reason;
use crate::run::backup::{SEGMENT_SIZE, back_up};
use crate::run::cancel::Cancel;
use crate::run::report::{Plan, Progress};
use crate::source::{CHANNEL_CHUNKS, Capture, CaptureFacts, Completion, Consistency, Content, Ending, Source};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "default/pg/pg-20260102-0304-01234567-1";

fn id() -> AttemptId {
    AttemptId {
        job: JobRef::new("default", "pg").expect("good"),
        job_uid: Uid::new("aaaaaaaa-0000").expect("good"),
        cluster_id: Uid::new("cccccccc-0000").expect("good"),
        run: RunName::new("pg-20260102-0304").expect("good"),
        run_uid: Uid::new("01234567-89ab").expect("good"),
        attempt: 1,
        scheduled_at: None,
        archive: ObjectKey::new("default/pg").expect("good"),
    }
}

fn memory() -> Faulty {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).expect("memory");
    Faulty::new(Arc::new(ObjectStore::without_http(&operator, "memory")))
}

struct Hello;

#[async_trait]
impl Source for Hello {
    async fn open(&self, _: CancellationToken) -> Result<Capture, Failure> {
        let (sender, bytes) = mpsc::channel(CHANNEL_CHUNKS);
        sender.send(Bytes::from_static(b"hello")).await.expect("room");
        let ending = Ending { exit_code: Some(0), warnings: vec!["a warning".into()], log: b"said".to_vec() };
        let facts = CaptureFacts {
            content: Content::Raw,
            consistency: Consistency::Command,
            pod: Some("postgres-0".into()),
            container: None,
        };
        Ok(Capture { facts, bytes, completion: async { Ok(Completion::Complete(ending)) }.boxed() })
    }
}

/// A whole backup, as a process leaves it that dies before it notes it.
async fn backed_up(destination: &Faulty) -> Report {
    let plan = Plan {
        id: id(),
        target: serde_json::json!({"kind": "Pod", "name": "postgres-0"}),
        strategy: "dump",
        compression_level: 3,
        allow_empty: false,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size: SEGMENT_SIZE,
        recipients: Vec::new(),
        adopt: None,
    };
    let clock = FixedClock::at("2026-01-02T03:04:05Z".parse().expect("a time"));
    let progress = Progress::default();
    back_up(&plan, &Hello, destination, &clock, &progress, &Cancel::default()).await.expect("a backup")
}

async fn put(destination: &dyn Destination, name: &str) {
    let key = ObjectKey::new(format!("{FOLDER}/{name}")).expect("good");
    destination.put(&key, Bytes::from_static(b"x"), Put::Always).await.expect("stored");
}

async fn names(destination: &dyn Destination) -> Vec<String> {
    list(destination, &ObjectKey::new("default").expect("good")).await.expect("a list").into_keys().collect()
}

#[tokio::test]
async fn a_whole_backup_is_taken_for_what_it_is() {
    let destination = memory();
    let made = backed_up(&destination).await;
    let before = names(&destination).await;
    let Recovered::Whole(found) = recover(&destination, &id()).await.expect("found") else { panic!("thrown away") };
    assert_eq!(names(&destination).await, before);
    assert_eq!(
        (found.phase, &found.folder, &found.objects, found.bytes_read, found.bytes_stored, found.exit_code, &found.pod),
        (made.phase, &made.folder, &made.objects, made.bytes_read, made.bytes_stored, made.exit_code, &made.pod)
    );
}

#[tokio::test]
async fn one_in_somebody_elses_archive_says_whose_it_is() {
    let destination = memory();
    let made = backed_up(&destination).await;
    assert_eq!(made.ownership, Ownership::Ours);
    let key = ObjectKey::new("default/pg/owner.json").expect("good");
    let store = async |bytes: Bytes| destination.put(&key, bytes, Put::Always).await.expect("stored");
    let found = async || match recover(&destination, &id()).await.expect("found") {
        Recovered::Whole(report) => report.ownership,
        Recovered::Cleared(_) => panic!("thrown away"),
    };
    assert_eq!(found().await, Ownership::Ours);
    let bytes = read_document(&destination, &key).await.expect("there");
    let mut document = manifest::parse::<OwnerDocument>("owner.json", &bytes).expect("read");
    document.owner.cluster_id = "dddddddd-0000".into();
    store(manifest::to_bytes(&document).expect("written")).await;
    assert_eq!(found().await, Ownership::Foreign(document.owner));
    // What cannot be read is nobody's, as where a backup begins; what cannot be reached is a failure.
    store(Bytes::from_static(b"x")).await;
    assert_eq!(found().await, Ownership::Ours);
    let down = destination.once(Operation::Read, "owner.json", 1, Fault::Fail(Reason::DestinationUnavailable));
    assert_eq!(recover(&down, &id()).await.expect_err("said").reason, Reason::DestinationUnavailable);
}

#[tokio::test]
async fn what_is_no_whole_backup_goes_with_its_uploads() {
    for missing in ["manifest.json", "dump.zst", "log.txt"] {
        let destination = memory();
        backed_up(&destination).await;
        let key = ObjectKey::new(format!("{FOLDER}/{missing}")).expect("good");
        destination.delete(&key).await.expect("gone");
        assert!(matches!(recover(&destination, &id()).await, Ok(Recovered::Cleared(None))), "without {missing}");
        assert_eq!(names(&destination).await, ["pg/owner.json"], "without {missing}");
        assert!(destination.done().iter().any(|(operation, _)| *operation == Operation::AbortUploads));
    }
}

#[tokio::test]
async fn a_manifest_of_another_attempt_or_that_nobody_can_read_makes_no_backup() {
    let destination = memory();
    backed_up(&destination).await;
    let other = AttemptId { run_uid: Uid::new("01234567-ffff").expect("good"), ..id() };
    assert!(matches!(recover(&destination, &other).await, Ok(Recovered::Cleared(None))));
    put(&destination, "dump.zst").await;
    put(&destination, "manifest.json").await;
    assert!(matches!(recover(&destination, &id()).await, Ok(Recovered::Cleared(None))));
    assert_eq!(names(&destination).await, ["pg/owner.json"]);
}

#[tokio::test]
async fn other_attempts_of_the_run_are_left_alone() {
    let destination = memory();
    backed_up(&destination).await;
    let second = AttemptId { attempt: 2, ..id() };
    let key = ObjectKey::new("default/pg/pg-20260102-0304-01234567-2/started.json").expect("good");
    destination.put(&key, Bytes::from_static(b"x"), Put::Always).await.expect("stored");
    assert!(matches!(recover(&destination, &second).await, Ok(Recovered::Cleared(None))));
    let left = names(&destination).await;
    assert!(left.iter().any(|name| name.ends_with("-1/manifest.json")), "{left:?}");
    assert!(!left.iter().any(|name| name.contains("-2/")), "{left:?}");
}

#[tokio::test]
async fn uploads_that_cannot_be_aborted_are_said_and_hold_nothing_up() {
    let destination = memory().always(Operation::AbortUploads, "", Fault::Fail(Reason::DestinationDenied));
    put(&destination, "started.json").await;
    let Ok(Recovered::Cleared(Some(stays))) = recover(&destination, &id()).await else { panic!("not said") };
    assert!(stays.contains("AbortIncompleteMultipartUpload"), "{stays}");
    assert!(names(&destination).await.is_empty());
}

#[tokio::test]
async fn a_store_that_fails_is_a_failure() {
    for operation in [Operation::List, Operation::Delete] {
        let destination = memory().always(operation, "", Fault::Fail(Reason::DestinationUnavailable));
        put(&destination, "started.json").await;
        let failure = recover(&destination, &id()).await.expect_err("said");
        assert_eq!(failure.reason, Reason::DestinationUnavailable);
    }
}
