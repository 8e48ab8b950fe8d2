//! What every destination promises, chosen by what it declares. Used for the S3 server by the cluster tests too.

use bytes::Bytes;
use futures::TryStreamExt;
use std::sync::Arc;
use ubo::api::names::ObjectKey;
use ubo::destination::{Destination, Put, Stored};
use ubo::error::Reason;
use ubo::source::{Completion, Ending};

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn proof() -> Completion {
    Completion::Complete(Ending::default())
}

async fn read(destination: &dyn Destination, name: &str) -> Vec<u8> {
    let stream = destination.read(&key(name), None).await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

async fn names(destination: &dyn Destination, prefix: &str) -> Vec<(String, u64)> {
    let listed: Vec<_> = destination.list(prefix).await.unwrap().try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|o| (o.key.to_string(), o.size)).collect();
    names.sort();
    names
}

/// Everything that a destination promises.
pub(crate) async fn suite(destination: Arc<dyn Destination>) {
    let d = destination.as_ref();
    d.put(&key("a/probe"), Bytes::from_static(b"x"), Put::Always).await.unwrap();
    assert_eq!(names(d, "a/").await, [("a/probe".to_string(), 1)]);

    // A staged object is not there before its commit, and is what was written after it; also in several parts.
    let body: Vec<u8> = (0..20_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for (name, size) in [("a/run/empty", 0), ("a/run/small", 1000), ("a/run/large", body.len())] {
        let mut staged = d.stage(&key(name)).await.unwrap();
        for piece in body[..size].chunks(1_500_000) {
            staged.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(d.stat(&key(name)).await.unwrap(), None, "{name} is visible before its commit");
        assert!(!names(d, "a/").await.iter().any(|(n, _)| n == name));
        assert_eq!(staged.commit(&proof()).await.unwrap(), size as u64);
        assert_eq!(d.stat(&key(name)).await.unwrap().unwrap().size, size as u64);
        assert!(read(d, name).await == body[..size], "{name} reads back differently");
    }

    // Ranges.
    let range: Vec<Bytes> =
        d.read(&key("a/run/large"), Some(9_000_000..9_000_100)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(range.concat(), &body[9_000_000..9_000_100]);

    // An abort leaves nothing, whether much or little was written.
    if d.capability().abort_leaves_nothing {
        for size in [0, 10, body.len()] {
            let mut staged = d.stage(&key("a/aborted/object")).await.unwrap();
            for piece in body[..size].chunks(1_500_000) {
                staged.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            staged.abort().await.unwrap();
            assert_eq!(d.stat(&key("a/aborted/object")).await.unwrap(), None);
            assert_eq!(names(d, "a/aborted/").await, []);
        }
    }

    // Documents.
    if d.capability().put_if_absent {
        let owner = key("a/owner.json");
        let put = |content: &'static str, when| d.put(&owner, Bytes::from(content), when);
        assert_eq!(put("one", Put::IfAbsent).await.unwrap(), Stored::Written);
        assert_eq!(put("two", Put::IfAbsent).await.unwrap(), Stored::AlreadyThere);
        assert_eq!(read(d, "a/owner.json").await, b"one");
        assert_eq!(put("three", Put::Always).await.unwrap(), Stored::Written);
        assert_eq!(read(d, "a/owner.json").await, b"three");
        // Of many writers, one.
        let writers = (0..8).map(|n| {
            let d = destination.clone();
            async move { d.put(&key("a/raced"), Bytes::from(format!("writer {n}")), Put::IfAbsent).await.unwrap() }
        });
        let written = futures::future::join_all(writers).await;
        assert_eq!(written.iter().filter(|s| **s == Stored::Written).count(), 1);
    }

    // What is not there.
    assert_eq!(d.stat(&key("a/nothing")).await.unwrap(), None);
    let missing = d.read(&key("a/nothing"), None).await.err().unwrap();
    assert_eq!(missing.reason, Reason::BackupNotFound);
    d.delete(&key("a/nothing")).await.unwrap();
    assert_eq!(names(d, "never/").await, []);

    // Names like another one's beginning are not below it.
    d.put(&key("ab/other"), Bytes::from_static(b"x"), Put::Always).await.unwrap();
    assert!(names(d, "a/").await.iter().all(|(name, _)| name.starts_with("a/")));
    assert!(names(d, "").await.iter().any(|(name, _)| name == "ab/other"));

    for (name, _) in names(d, "").await {
        d.delete(&key(&name)).await.unwrap();
    }
    assert_eq!(names(d, "").await, []);
}
