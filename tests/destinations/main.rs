//! One suite for every destination. The S3 server has its turn in the cluster tests.

mod suite;

use bytes::Bytes;
use std::sync::Arc;
use suite::{key, suite};
use ubo::destination::Destination;
use ubo::destination::object_store::ObjectStore;
use ubo::destination::volume::Volume;
use ubo::error::Reason;

#[tokio::test]
async fn memory() {
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    suite(Arc::new(ObjectStore::without_http(&operator, "memory"))).await;
}

#[tokio::test]
async fn folder() {
    let folder = tempfile::tempdir().unwrap();
    suite(Arc::new(Volume::new(folder.path().join("backups")))).await;
    // Not even an unfinished file or an empty folder stays.
    assert_eq!(std::fs::read_dir(folder.path().join("backups")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_that_does_not_exist_cannot_be_listed() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::new(folder.path().join("no/such"));
    assert_eq!(volume.list("").await.err().unwrap().reason, Reason::DestinationNotFound);
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_no_unfinished_file() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::new(folder.path());
    let mut staged = volume.stage(&key("a/object")).await.unwrap();
    staged.write(Bytes::from_static(b"half")).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    drop(staged);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
