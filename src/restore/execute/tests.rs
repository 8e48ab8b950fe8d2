use super::{restore as restore_part, *};
use crate::api::names::{JobRef, ObjectKey, RunName, Uid};
use crate::archive::encrypt::Recipient;
use crate::clock::FixedClock;
use crate::destination::faulty::{Fault, Faulty, Operation};
use crate::destination::object_store::ObjectStore;
use crate::destination::{Destination, Put};
use crate::repository::catalog;
use crate::run::AttemptId;
use crate::run::backup::back_up;
use crate::run::cancel::Cancel;
use crate::run::report::Plan;
use crate::source::{Capture, CaptureFacts, Completion, Consistency, Ending, Source};
use age::secrecy::ExposeSecret;
use async_trait::async_trait;
use chrono::DateTime;
use futures::FutureExt;
use std::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// A source with these bytes.
struct Fixed(Content, Vec<u8>);

#[async_trait]
impl Source for Fixed {
    async fn open(&self, _cancel: CancellationToken) -> Result<Capture, Failure> {
        let (sender, bytes) = mpsc::channel(1000);
        for chunk in self.1.chunks(100_000) {
            sender.send(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        let facts = CaptureFacts { content: self.0, consistency: Consistency::Command, pod: None, container: None };
        let ending = Ending { log: b"said".to_vec(), ..Ending::default() };
        Ok(Capture { facts, bytes, completion: async { Ok(Completion::Complete(ending)) }.boxed() })
    }
}

/// Restores a backup that is one archive.
async fn restore(
    destination: &dyn Destination,
    backup: &Backup,
    identities: &Identities,
    target: Box<dyn RestoreTarget>,
    progress: &Arc<Progress>,
) -> Result<Written, Failure> {
    let parts = backup.manifest.parts();
    assert_eq!(parts.len(), 1);
    restore_part(destination, backup, &parts[0], identities, target, progress).await
}

/// What a target was given.
#[derive(Clone, Default)]
struct Seen {
    bytes: Arc<Mutex<Vec<u8>>>,
    confirmed: Arc<Mutex<bool>>,
    fails: Option<Reason>,
}

impl RestoreTarget for Seen {
    fn write(&mut self, _content: Content, raw: &mut dyn Read) -> Result<Written, Failure> {
        if let Some(reason) = self.fails {
            return Err(Failure::new(reason, "the target is full"));
        }
        let mut bytes = self.bytes.lock().unwrap();
        raw.read_to_end(&mut bytes).map_err(|e| failure_of(e, "reading"))?;
        Ok(Written { entries: 1, bytes: bytes.len() as u64, ..Written::default() })
    }

    fn confirm(&mut self) -> Result<(), Failure> {
        *self.confirmed.lock().unwrap() = true;
        Ok(())
    }
}

fn noise(size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[6]).collect()
}

/// Bytes that do not compress, so that there are as many in the archive.
fn incompressible(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

static NONE: std::sync::LazyLock<Identities> = std::sync::LazyLock::new(Identities::default);

/// A destination with one backup of `raw`.
async fn with_backup(content: Content, raw: &[u8]) -> (Arc<dyn Destination>, Backup) {
    with_encrypted_backup(content, raw, Vec::new()).await
}

async fn with_encrypted_backup(
    content: Content,
    raw: &[u8],
    recipients: Vec<Recipient>,
) -> (Arc<dyn Destination>, Backup) {
    in_segments(content, raw, recipients, u64::MAX).await
}

async fn in_segments(
    content: Content,
    raw: &[u8],
    recipients: Vec<Recipient>,
    segment_size: u64,
) -> (Arc<dyn Destination>, Backup) {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    let destination: Arc<dyn Destination> = Arc::new(ObjectStore::without_http(&operator, "memory"));
    let plan = Plan {
        id: AttemptId {
            job: JobRef::new("default", "pg").unwrap(),
            job_uid: Uid::new("aaaaaaaa").unwrap(),
            cluster_id: Uid::new("cccccccc").unwrap(),
            run: RunName::new("pg-1").unwrap(),
            run_uid: Uid::new("01234567").unwrap(),
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new("default/pg").unwrap(),
        },
        adopt: None,
        target: serde_json::json!({}),
        strategy: "dump",
        compression_level: 1,
        recipients,
        allow_empty: false,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size,
    };
    let clock = FixedClock::at(DateTime::UNIX_EPOCH);
    let source = Fixed(content, raw.to_vec());
    let (progress, cancel) = (Progress::default(), Cancel::default());
    back_up(&plan, &source, &*destination, &clock, &progress, &cancel).await.unwrap();
    let archives = catalog::load(&*destination, "").await.unwrap();
    let backup = archives[0].backups[0].clone();
    (destination, backup)
}

async fn stored(destination: &dyn Destination, backup: &Backup, name: &str) -> Vec<u8> {
    let stream = destination.read(&backup.key(name).unwrap(), None).await.unwrap();
    stream.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

#[tokio::test]
async fn what_went_in_comes_out() {
    let raw = noise(5_000_000);
    let (destination, backup) = with_backup(Content::Raw, &raw).await;
    let (seen, progress) = (Seen::default(), Arc::<Progress>::default());
    let written = restore(&*destination, &backup, &NONE, Box::new(seen.clone()), &progress).await.unwrap();
    assert_eq!((written.bytes, *seen.confirmed.lock().unwrap()), (5_000_000, true));
    assert!(*seen.bytes.lock().unwrap() == raw);
    assert_eq!(progress.read.load(Ordering::Relaxed), 5_000_000);
    assert_eq!(verify(&*destination, &backup, &NONE, &progress).await.unwrap(), None);
}

#[tokio::test]
async fn a_tar_is_verified_to_its_end() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    tar.append_data(&mut header, "a", b"abc".as_slice()).unwrap();
    let (destination, mut backup) = with_backup(Content::Tar, &tar.into_inner().unwrap()).await;
    let progress = Arc::default();
    assert_eq!(verify(&*destination, &backup, &NONE, &progress).await.unwrap().unwrap().files, 1);
    backup.manifest.files = Some(2);
    let failure = verify(&*destination, &backup, &NONE, &progress).await.unwrap_err();
    assert!(failure.message.contains("1 files"), "{failure}");
}

/// Whatever is changed at the destination: never confirmed, and found by verify.
#[tokio::test]
async fn every_change_is_found() {
    let (destination, backup) = with_backup(Content::Raw, &noise(5_000_000)).await;
    let data = stored(&*destination, &backup, "dump.zst").await;
    let changed = |at: usize| {
        let mut bytes = data.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut longer = data.clone();
    longer.push(0);
    for (case, bytes) in [
        ("first byte", changed(0)),
        ("in the middle", changed(data.len() / 2)),
        ("last byte", changed(data.len() - 1)),
        ("cut", data[..data.len() - 1].to_vec()),
        ("cut to nothing", Vec::new()),
        ("longer", longer),
    ] {
        destination.put(&backup.key("dump.zst").unwrap(), bytes.into(), Put::Always).await.unwrap();
        let seen = Seen::default();
        let failure =
            restore(&*destination, &backup, &NONE, Box::new(seen.clone()), &Arc::default()).await.expect_err(case);
        assert_eq!(failure.reason, Reason::BackupDamaged, "{case}: {failure}");
        assert!(!*seen.confirmed.lock().unwrap(), "{case}");
        assert_eq!(
            verify(&*destination, &backup, &NONE, &Arc::default()).await.expect_err(case).reason,
            Reason::BackupDamaged
        );
    }
    destination.delete(&backup.key("dump.zst").unwrap()).await.unwrap();
    let failure = verify(&*destination, &backup, &NONE, &Arc::default()).await.unwrap_err();
    assert!(failure.reason == Reason::BackupDamaged && failure.message.contains("is missing"), "{failure}");
}

#[tokio::test]
async fn a_log_that_changed_is_found_too() {
    let (destination, backup) = with_backup(Content::Raw, b"dump").await;
    assert!(verify(&*destination, &backup, &NONE, &Arc::default()).await.is_ok());
    destination.put(&backup.key("log.txt").unwrap(), Bytes::from_static(b"saic"), Put::Always).await.unwrap();
    assert_eq!(verify(&*destination, &backup, &NONE, &Arc::default()).await.unwrap_err().reason, Reason::BackupDamaged);
}

#[tokio::test]
async fn another_backup_under_the_same_name_is_found() {
    // Whole, with a seek table and sound checksums: only the manifest knows that it is another one.
    let (destination, backup) = with_backup(Content::Raw, &noise(100_000)).await;
    let (other, _) = with_backup(Content::Raw, &noise(100_001)[1..]).await;
    let bytes = stored(&*other, &backup, "dump.zst").await;
    destination.put(&backup.key("dump.zst").unwrap(), bytes.into(), Put::Always).await.unwrap();
    assert_eq!(verify(&*destination, &backup, &NONE, &Arc::default()).await.unwrap_err().reason, Reason::BackupDamaged);
}

#[tokio::test]
async fn errors_keep_their_reason() {
    let (destination, backup) = with_backup(Content::Raw, &noise(5_000_000)).await;
    let down =
        Faulty::new(destination.clone()).always(Operation::Read, "dump.zst", Fault::Fail(Reason::DestinationDenied));
    let failure = restore(&down, &backup, &NONE, Box::new(Seen::default()), &Arc::default()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationDenied);
    let full = Seen { fails: Some(Reason::RestoreTargetUnavailable), ..Seen::default() };
    let failure = restore(&*destination, &backup, &NONE, Box::new(full), &Arc::default()).await.unwrap_err();
    assert_eq!(failure.message, "the target is full");
}

#[tokio::test]
async fn what_this_version_cannot_read_is_said() {
    let (destination, mut backup) = with_backup(Content::Raw, b"dump").await;
    backup.manifest.compression.format = "lz5".into();
    let failure = verify(&*destination, &backup, &NONE, &Arc::default()).await.unwrap_err();
    assert!(failure.reason == Reason::NotSupported && failure.message.contains("compressed"), "{failure}");
}

/// A recipient, and the file with its private key.
fn pair() -> (Recipient, Identities) {
    let key = age::x25519::Identity::generate();
    let recipient = Recipient::parse(&key.to_public().to_string()).unwrap();
    (recipient, Identities::parse("key", key.to_string().expose_secret()).unwrap())
}

#[tokio::test]
async fn an_encrypted_backup_needs_the_right_identity() {
    let (to, with) = pair();
    let (_, other) = pair();
    let raw = noise(3_000_000);
    let (destination, backup) = with_encrypted_backup(Content::Raw, &raw, vec![to.clone()]).await;
    let manifest = &backup.manifest;
    assert_eq!(manifest.encryption_recipients, [to.as_str()]);
    let names: Vec<&str> = manifest.objects().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["dump.zst.age", "log.txt.age"]);
    // The digests are of what lies there, not of what is in it.
    let stored: Vec<Bytes> =
        destination.read(&backup.key("dump.zst.age").unwrap(), None).await.unwrap().try_collect().await.unwrap();
    let mut tally = Tally::default();
    tally.add(&stored.concat());
    assert!(manifest.stored.is(&tally.measure()));

    let seen = Seen::default();
    let progress = Arc::new(Progress::default());
    restore(&*destination, &backup, &with, Box::new(seen.clone()), &progress).await.unwrap();
    assert!(*seen.bytes.lock().unwrap() == raw && *seen.confirmed.lock().unwrap());
    verify(&*destination, &backup, &with, &Arc::default()).await.unwrap();

    for (identities, word) in [(&*NONE, "--identity FILE"), (&other, "none of the identities")] {
        let failure = verify(&*destination, &backup, identities, &Arc::default()).await.unwrap_err();
        assert!(failure.reason == Reason::IdentityMissing && failure.message.contains(word), "{failure}");
        let seen = Seen::default();
        let failure =
            restore(&*destination, &backup, identities, Box::new(seen.clone()), &Arc::default()).await.unwrap_err();
        assert_eq!(failure.reason, Reason::IdentityMissing);
        assert!(seen.bytes.lock().unwrap().is_empty() && !*seen.confirmed.lock().unwrap());
    }
}

#[tokio::test]
async fn an_encrypted_backup_that_was_cut_never_passes_even_if_its_manifest_agrees() {
    let (to, with) = pair();
    let raw = noise(3_000_000);
    let (destination, backup) = with_encrypted_backup(Content::Raw, &raw, vec![to]).await;
    let key = backup.key("dump.zst.age").unwrap();
    let stored: Vec<Bytes> = destination.read(&key, None).await.unwrap().try_collect().await.unwrap();
    let whole = stored.concat();
    // To the edges of age's blocks too, which is where a careless reader sees no cut.
    let block = 64 * 1024 + 16;
    let last = (whole.len() - 1) % block;
    for gone in [1, last, last + 1, block, whole.len() / 2, whole.len() - 300, whole.len()] {
        let cut = Bytes::copy_from_slice(&whole[..whole.len() - gone]);
        let mut tally = Tally::default();
        tally.add(&cut);
        let mut backup = backup.clone();
        let measure = tally.measure();
        backup.manifest.segments[0].size = measure.size;
        backup.manifest.segments[0].digest.clone_from(&measure.digest);
        backup.manifest.stored = measure.into();
        destination.put(&key, cut, Put::Always).await.unwrap();
        let failure = verify(&*destination, &backup, &with, &Arc::default()).await.unwrap_err();
        assert_eq!(failure.reason, Reason::BackupDamaged, "{gone} bytes gone: {failure}");
    }
}

#[tokio::test]
async fn a_backup_of_several_objects_comes_back_whole_or_not_at_all() {
    let (to, with) = pair();
    let raw = incompressible(9_000_000);
    for (recipients, identities, first) in [(vec![], &*NONE, "dump.zst"), (vec![to], &with, "dump.zst.age")] {
        let (destination, backup) = in_segments(Content::Raw, &raw, recipients, 4_500_000).await;
        let names: Vec<&str> = backup.manifest.segments.iter().map(|segment| segment.name.as_str()).collect();
        let (second, third) = (format!("{first}.0001"), format!("{first}.0002"));
        assert_eq!(names, [first, &second, &third]);
        let seen = Seen::default();
        restore(&*destination, &backup, identities, Box::new(seen.clone()), &Arc::default()).await.unwrap();
        assert!(*seen.bytes.lock().unwrap() == raw && *seen.confirmed.lock().unwrap(), "{first}");
        verify(&*destination, &backup, identities, &Arc::default()).await.unwrap();

        let (one, two) = (stored(&*destination, &backup, first).await, stored(&*destination, &backup, &second).await);
        let put = async |name: &str, bytes: &[u8]| {
            let key = backup.key(name).unwrap();
            destination.put(&key, Bytes::copy_from_slice(bytes), Put::Always).await.unwrap();
        };
        let damaged = async |backup: &Backup, case: &str| {
            let seen = Seen::default();
            let restored = restore(&*destination, backup, identities, Box::new(seen.clone()), &Arc::default()).await;
            let verified = verify(&*destination, backup, identities, &Arc::default()).await;
            assert_eq!(restored.expect_err(case).reason, Reason::BackupDamaged, "{first}: {case}");
            assert_eq!(verified.expect_err(case).reason, Reason::BackupDamaged, "{first}: {case}");
            assert!(!*seen.confirmed.lock().unwrap(), "{first}: {case}");
        };
        put(first, &two).await;
        put(&second, &one).await;
        damaged(&backup, "two swapped").await;
        // Each object is then what the manifest says of it: only the order is wrong.
        let mut swapped = backup.clone();
        let segments = &mut swapped.manifest.segments;
        let names = (segments[1].name.clone(), segments[0].name.clone());
        segments.swap(0, 1);
        (segments[1].name, segments[0].name) = names;
        damaged(&swapped, "two swapped, in the manifest too").await;
        put(first, &one).await;
        put(&second, &two).await;
        verify(&*destination, &backup, identities, &Arc::default()).await.unwrap();
        destination.delete(&backup.key(&second).unwrap()).await.unwrap();
        damaged(&backup, "the second one missing").await;
        let mut shorter = backup.clone();
        shorter.manifest.segments.remove(1);
        damaged(&shorter, "the second one missing, in the manifest too").await;
    }
}
