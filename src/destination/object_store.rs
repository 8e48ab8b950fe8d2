//! **A** Object stores (S3 in this version) through OpenDAL.
//!
//! # Two operators on one client
//! * *uploads* (staged objects; documents once the server has answered): the transport tries each request again by itself,
//!   for the reason given in [`super::transport`]. 8 MiB parts, two at a time: with what waits in front of them 32 MiB at
//!   most. Part sizes are equal, because R2 wants that; 10,000 of them are 78 GiB, so the pipeline rolls to another object
//!   before. An upload that nobody writes to any more, and that waits for its commit, still holds its last part and what
//!   is behind that: 8 to 16 MiB.
//! * *documents* (stat, read, list, delete): OpenDAL's `TimeoutLayer` **inside** `RetryLayer`, so that each try has its own
//!   time and a hung one is tried again. A read that breaks off goes on where it stopped.
//!
//! # What commit means
//! The last parts are sent and the upload is completed. An error there may be a lost answer: then an object of the right
//! size is read back and its BLAKE3 compared, since nobody else writes under an attempt's folder. The same is done where the
//! server did not confirm the CRC32C of what it got. Where it computed another one, that decides, whatever else it says: it
//! may have stored other bytes of the same length. A commit that fails has aborted the upload, or removed the object.
//!
//! # What leaks
//! A process that is killed leaves its multipart upload, and so does a CreateMultipartUpload whose answer was lost before
//! it was tried again. They are invisible and cost storage. Those of a dead attempt are listed and aborted by whoever takes
//! its run over ([`super::uploads`]); the rest go by the bucket's lifecycle rule (`AbortIncompleteMultipartUpload`), which
//! the documentation asks for.
//!
//! # Messages
//! A server's answer is never repeated (it may be anything that the network offers), apart from the codes in
//! [`KNOWN_CODES`].

use super::egress::Egress;
use super::resolver::forbidden;
use super::transport::{ENDLESS, REDIRECTED, Transport, Watch};
use super::uploads::Uploads;
use super::{Capability, Destination, ObjectInfo, PART_SIZE, Put, Staged, Stored, UNFINISHED};
use crate::api::names::ObjectKey;
use crate::archive::Tally;
use crate::error::{Failure, Reason};
use crate::source::Completion;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::{ListOptions, WriteOptions};
use opendal::{ErrorKind, HttpTransporter, Metadata, OperationContext, Operator, Writer};
use std::error::Error as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Parts on the way at the same time.
const PARTS_AT_ONCE: usize = 2;
/// For stat, list and delete.
const DOCUMENT_LIMIT: Duration = Duration::from_mins(1);
/// Between two pieces of a body.
const BODY_LIMIT: Duration = Duration::from_mins(2);

/// A signature has a time in it, which the server compares with its own.
const SKEWED: &str = "RequestTimeTooSkewed";

/// Error codes of S3 that are worth naming to a user, and what each means.
const KNOWN_CODES: &[(&str, Reason)] = &[
    ("AccessDenied", Reason::DestinationDenied),
    ("AccountProblem", Reason::DestinationDenied),
    ("AllAccessDisabled", Reason::DestinationDenied),
    ("AuthorizationHeaderMalformed", Reason::DestinationDenied),
    ("ExpiredToken", Reason::DestinationDenied),
    ("InvalidAccessKeyId", Reason::DestinationDenied),
    ("InvalidToken", Reason::DestinationDenied),
    ("SignatureDoesNotMatch", Reason::DestinationDenied),
    // versitygw's word for InvalidAccessKeyId, with status 404.
    ("XAdminUserNotFound", Reason::DestinationDenied),
    ("InvalidBucketName", Reason::DestinationNotFound),
    ("NoSuchBucket", Reason::DestinationNotFound),
    ("InvalidStorageClass", Reason::DestinationDenied),
    ("MethodNotAllowed", Reason::DestinationDenied),
    ("QuotaExceeded", Reason::DestinationDenied),
    ("BadDigest", Reason::DestinationMismatch),
    ("XAmzContentChecksumMismatch", Reason::DestinationMismatch),
    (SKEWED, Reason::DestinationUnavailable),
    ("InternalError", Reason::DestinationUnavailable),
    ("ServiceUnavailable", Reason::DestinationUnavailable),
    ("SlowDown", Reason::DestinationUnavailable),
    ("NoSuchUpload", Reason::DestinationUnavailable),
];

/// An object store.
#[derive(Clone)]
pub struct ObjectStore {
    documents: Operator,
    uploads: Operator,
    /// `None`: a store without HTTP; its uploads are always read back.
    watch: Option<Arc<Watch>>,
    /// Uploads that others left; `None`: the store has none.
    open: Option<Uploads>,
    /// For messages: the uri.
    name: String,
}

impl ObjectStore {
    /// An HTTP store behind `operator`, reached with `client`. `name` is its uri, for messages.
    /// An address in a request that `egress` refuses is not connected to.
    pub fn over_http(
        operator: &Operator,
        client: &reqwest::Client,
        egress: &Arc<Egress>,
        name: impl Into<String>,
    ) -> Self {
        let watch = Arc::new(Watch::default());
        let over = |transport| {
            let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport));
            operator.clone().with_context(context)
        };
        let documents = over(Transport::once(client.clone(), egress, watch.clone()));
        let uploads = over(Transport::patient(client.clone(), egress, watch.clone()));
        Self { documents: layered(documents), uploads, watch: Some(watch), open: None, name: name.into() }
    }

    /// The same store, whose forgotten uploads can be aborted.
    #[must_use]
    pub(super) fn with_uploads(mut self, open: Uploads) -> Self {
        self.open = Some(open);
        self
    }

    /// A store that is no server (OpenDAL's memory service, in tests).
    pub fn without_http(operator: &Operator, name: impl Into<String>) -> Self {
        Self {
            documents: layered(operator.clone()),
            uploads: operator.clone(),
            watch: None,
            open: None,
            name: name.into(),
        }
    }

    /// The operator for small requests: brisk until the server has answered, patient afterwards.
    fn small(&self) -> &Operator {
        if self.watch.as_ref().is_none_or(|watch| watch.reached()) { &self.uploads } else { &self.documents }
    }

    /// An error of OpenDAL, as one of ours.
    fn failure(&self, error: &opendal::Error, doing: &str, key: &str) -> Failure {
        let mismatch = self.watch.as_ref().is_some_and(|watch| watch.mismatch());
        let (reason, why) = explain(error, mismatch);
        let what = if key.is_empty() { String::new() } else { format!("{key} at ") };
        Failure::new(reason, format!("{doing} {what}{}: {why}", self.name))
    }

    /// Reads an object again, but no more than `size` bytes and a piece, and says what it is.
    async fn read_back(&self, key: &ObjectKey, size: u64) -> Result<Tally, Failure> {
        let mut stream = self.read(key, None).await?;
        let mut tally = Tally::default();
        while tally.size() <= size
            && let Some(bytes) = stream.try_next().await?
        {
            tally.add(&bytes);
        }
        Ok(tally)
    }

    /// Whether an object is this; it is read only as far as that is so.
    async fn holds(&self, key: &ObjectKey, content: &[u8]) -> Result<bool, Failure> {
        let mut stream = self.read(key, None).await?;
        let mut left = content;
        while let Some(piece) = stream.try_next().await? {
            match left.strip_prefix(&piece[..]) {
                Some(rest) => left = rest,
                None => return Ok(false),
            }
        }
        Ok(left.is_empty())
    }
}

/// Each try has its own time (`TimeoutLayer` inside), and is tried again (`RetryLayer` outside).
fn layered(operator: Operator) -> Operator {
    operator.layer(TimeoutLayer::new().with_timeout(DOCUMENT_LIMIT).with_io_timeout(BODY_LIMIT)).layer(
        RetryLayer::new()
            .with_max_times(4)
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(8))
            .with_jitter()
            // The layer's own log line repeats the server's answer.
            .with_notify(|event: opendal::layers::RetryEvent<'_>| {
                tracing::warn!(
                    operation = %event.op, again = event.attempt, pause_ms = event.retry_after.as_millis(),
                    "the destination did not answer a request"
                );
            }),
    )
}

fn info(key: ObjectKey, meta: &Metadata) -> ObjectInfo {
    let modified = meta.last_modified().map(|time| SystemTime::from(time).into());
    ObjectInfo { key, size: meta.content_length(), modified }
}

#[async_trait]
impl Destination for ObjectStore {
    fn capability(&self) -> Capability {
        Capability { put_if_absent: true, checks_integrity: true, abort_leaves_nothing: true }
    }

    async fn stage(&self, key: &ObjectKey) -> Result<Box<dyn Staged>, Failure> {
        let options = WriteOptions { chunk: Some(PART_SIZE), concurrent: PARTS_AT_ONCE, ..WriteOptions::default() };
        let writer = self.uploads.writer_options(key.as_str(), options).await;
        let writer = writer.map_err(|e| self.failure(&e, "writing", key.as_str()))?;
        let upload = Upload { writer: Some(writer), store: self.clone(), key: key.clone(), tally: Tally::default() };
        Ok(Box::new(upload))
    }

    async fn put(&self, key: &ObjectKey, content: Bytes, when: Put) -> Result<Stored, Failure> {
        let options = WriteOptions { if_not_exists: when == Put::IfAbsent, ..WriteOptions::default() };
        match self.small().write_options(key.as_str(), content.clone(), options).await {
            Ok(_) => Ok(Stored::Written),
            Err(e) if when == Put::IfAbsent && e.kind() == ErrorKind::ConditionNotMatch => {
                // What is there may be our own: the answer to the first try was lost, and the second one came too late.
                Ok(if self.holds(key, &content).await? { Stored::Written } else { Stored::AlreadyThere })
            }
            // A server without conditional writes. The folder is one attempt's own, so that looking first is as good there.
            Err(e) if when == Put::IfAbsent && named(&e, "NotImplemented") => match self.stat(key).await? {
                Some(_) => Ok(Stored::AlreadyThere),
                None => self.put(key, content, Put::Always).await,
            },
            Err(e) => Err(self.failure(&e, "writing", key.as_str())),
        }
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Failure> {
        match self.small().stat(key.as_str()).await {
            Ok(meta) => Ok(Some(info(key.clone(), &meta))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failure(&e, "looking at", key.as_str())),
        }
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let failure = |store: &Self, e: &opendal::Error, key: &ObjectKey| match e.kind() {
            ErrorKind::NotFound => Failure::new(Reason::BackupNotFound, format!("{key} is not at {}", store.name)),
            _ => store.failure(e, "reading", key.as_str()),
        };
        let reader = self.documents.reader(key.as_str()).await.map_err(|e| failure(self, &e, key))?;
        let stream = match range {
            Some(range) => reader.into_bytes_stream(range).await,
            None => reader.into_bytes_stream(..).await,
        };
        let (store, name) = (self.clone(), key.clone());
        let stream = stream.map_err(|e| failure(self, &e, key))?;
        // OpenDAL asks the server when the first piece is polled. Here the answer "there is no such object" belongs to
        // `read` itself, so the first piece is fetched at once.
        let mut stream = stream.map_err(move |e| match e.get_ref().and_then(|e| e.downcast_ref::<opendal::Error>()) {
            Some(e) => failure(&store, e, &name),
            None => {
                Failure::new(Reason::DestinationUnavailable, format!("reading {name} at {}: {}", store.name, e.kind()))
            }
        });
        match stream.next().await {
            None => Ok(futures::stream::empty().boxed()),
            Some(first) => Ok(futures::stream::iter([Ok(first?)]).chain(stream).boxed()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo, Failure>>, Failure> {
        // As S3 itself gives them: some servers give 10,000 at once where nothing is said, which is more than is read.
        let options = ListOptions { recursive: true, limit: Some(1000), ..ListOptions::default() };
        let lister = self.documents.lister_options(prefix, options).await;
        let lister = lister.map_err(|e| self.failure(&e, "listing", prefix))?;
        let (store, prefix) = (self.clone(), prefix.to_string());
        let objects = lister.filter_map(move |entry| {
            let found = match entry {
                Err(e) => Some(Err(store.failure(&e, "listing", &prefix))),
                Ok(entry) if entry.metadata().is_dir() => None,
                // A key that is not one of ours (`a//b`) was written by somebody else, and is none of our business.
                Ok(entry) => ObjectKey::new(entry.path()).ok().map(|key| Ok(info(key, entry.metadata()))),
            };
            futures::future::ready(found)
        });
        Ok(objects.boxed())
    }

    async fn abort_uploads(&self, prefix: &str) -> Result<usize, Failure> {
        match &self.open {
            Some(open) => open.abort(prefix).await,
            None => Ok(0),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Failure> {
        self.documents.delete(key.as_str()).await.map_err(|e| self.failure(&e, "removing", key.as_str()))
    }
}

/// An object that is being written.
struct Upload {
    /// `None` once it has been committed or aborted.
    writer: Option<Writer>,
    store: ObjectStore,
    key: ObjectKey,
    tally: Tally,
}

impl Upload {
    /// Throws the upload away.
    async fn throw_away(&mut self) -> Result<(), Failure> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        match writer.abort().await {
            Ok(()) => Ok(()),
            // It had been completed, or thrown away before.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            // A store without uploads has nothing to throw away.
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            Err(e) => Err(self.store.failure(&e, "throwing away the upload of", self.key.as_str())),
        }
    }

    /// Completes the upload; afterwards the object is there, and is what was written.
    async fn complete(&mut self) -> Result<u64, Failure> {
        let Some(writer) = self.writer.as_mut() else {
            return Err(Failure::new(Reason::Internal, "an upload was completed twice. Please report it"));
        };
        let closed = writer.close().await;
        let watch = self.store.watch.as_deref();
        if watch.is_some_and(Watch::mismatch) {
            return Err(mismatch(&self.key, &self.store.name, "the server computed another checksum"));
        }
        let answered = closed.is_ok();
        let size = self.store.stat(&self.key).await;
        let size = match (closed, size) {
            (Ok(_), size) => size?.map(|info| info.size),
            (Err(e), Ok(Some(info))) if info.size == self.tally.size() => {
                tracing::warn!(key = %self.key, kind = %e.kind(), "the answer to an upload was lost; what is there is read back");
                Some(info.size)
            }
            (Err(e), _) => return Err(self.store.failure(&e, "completing", self.key.as_str())),
        };
        if size != Some(self.tally.size()) {
            let there = size.map_or("nothing".into(), |size| format!("{size} bytes"));
            return Err(mismatch(
                &self.key,
                &self.store.name,
                &format!("{} bytes were sent, {there} are there", self.tally.size()),
            ));
        }
        if !answered || watch.is_none_or(Watch::unchecked) {
            let back = self.store.read_back(&self.key, self.tally.size()).await?.measure();
            if back != self.tally.measure() {
                return Err(mismatch(&self.key, &self.store.name, "it reads back differently"));
            }
        }
        Ok(self.tally.size())
    }
}

fn mismatch(key: &ObjectKey, store: &str, what: &str) -> Failure {
    Failure::new(Reason::DestinationMismatch, format!("{key} at {store} is not what was sent: {what}"))
}

#[async_trait]
impl Staged for Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let Some(writer) = self.writer.as_mut() else {
            return Err(Failure::new(Reason::Internal, "an upload was written to after its end. Please report it"));
        };
        self.tally.add(&bytes);
        writer.write(bytes).await.map_err(|e| self.store.failure(&e, "writing", self.key.as_str()))
    }

    async fn commit(mut self: Box<Self>, _proof: &Completion) -> Result<u64, Failure> {
        match self.complete().await {
            Ok(size) => {
                self.writer = None;
                Ok(size)
            }
            Err(failure) => {
                let thrown = self.throw_away().await;
                let removed = self.store.delete(&self.key).await;
                if let Err(stays) = &removed {
                    tracing::warn!(key = %self.key, reason = %stays.reason, "what could not be committed could not be removed");
                }
                Err(if thrown.is_err() { failure.leaving(UNFINISHED) } else { failure })
            }
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<(), Failure> {
        self.throw_away().await
    }
}

impl Drop for Upload {
    /// Whoever drops an upload without a word has been dropped himself (the process ends): the best that can be done.
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        tracing::warn!(key = %self.key, "an upload was dropped without commit or abort");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { writer.abort().await });
        }
    }
}

/// Whether the server's answer has this error code.
fn named(error: &opendal::Error, code: &str) -> bool {
    error.message().contains(&format!("\"{code}\""))
}

/// Reason and words for an error of OpenDAL, without anything that the server said.
fn explain(error: &opendal::Error, mismatch: bool) -> (Reason, String) {
    if mismatch {
        return (Reason::DestinationMismatch, "the server received other bytes than were sent".into());
    }
    if let Some(forbidden) = forbidden(error) {
        return (Reason::DestinationForbidden, forbidden.to_string());
    }
    if error.message() == REDIRECTED {
        let why = "the server answers with a redirect, which is not followed. Give the destination the endpoint and the region \
                   where the bucket itself is";
        return (Reason::DestinationNotFound, why.into());
    }
    let code = KNOWN_CODES.iter().find(|(code, _)| named(error, code));
    let shown = code.map_or(String::new(), |(code, _)| format!(" ({code})"));
    let reason = match (code, error.kind()) {
        (Some((_, reason)), _) => *reason,
        (None, ErrorKind::PermissionDenied) => Reason::DestinationDenied,
        (None, ErrorKind::NotFound | ErrorKind::ConfigInvalid) => Reason::DestinationNotFound,
        (None, _) => Reason::DestinationUnavailable,
    };
    let why = match reason {
        Reason::DestinationDenied => format!(
            "the server refused{shown}. Check that the access key, the secret key and the region are right and that they may \
             read, write, list and delete there"
        ),
        Reason::DestinationNotFound => {
            format!("there is no such bucket{shown}. Check its name, the region and the endpoint, or create it")
        }
        Reason::DestinationMismatch => format!("the server received other bytes than were sent{shown}"),
        Reason::DestinationUnavailable if code.is_some_and(|(code, _)| *code == SKEWED) => {
            format!(
                "the clock here and the server's differ too much{shown}. Set the clock of this node, or of the server"
            )
        }
        _ if error.message() == ENDLESS => {
            "the server's answer is longer than any of S3, and was not read to its end. Check that the endpoint is an S3 server".into()
        }
        _ => match cause(error) {
            Some(cause) => format!("the server cannot be reached: {cause}. Check the endpoint and the network"),
            None => format!("the server did not do it{shown}; it was tried several times"),
        },
    };
    (reason, why)
}

/// The innermost cause of a request that never got an answer: an address that does not resolve, a refused connection, a
/// certificate that nobody signed. Only for those, since a cause of anything else may quote the answer.
fn cause(error: &opendal::Error) -> Option<String> {
    if error.message() != "send http request" {
        return (error.message() == "no answer in time").then(|| "no answer in time".into());
    }
    let mut innermost: &dyn std::error::Error = error.source()?;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    Some(innermost.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_not_repeated() {
        let body = "S3Error { code: \"NoSuchBucket\", message: \"hunter2\", resource: \"x\" }";
        let (reason, why) = explain(&opendal::Error::new(ErrorKind::ConfigInvalid, body), false);
        assert_eq!(reason, Reason::DestinationNotFound);
        assert!(why.contains("NoSuchBucket") && !why.contains("hunter2"), "{why}");
        let (reason, why) = explain(&opendal::Error::new(ErrorKind::Unexpected, "<html>hunter2</html>"), false);
        assert_eq!(reason, Reason::DestinationUnavailable);
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn what_refuses_is_told_apart() {
        let of = |kind, text: &str| explain(&opendal::Error::new(kind, text), false).0;
        assert_eq!(of(ErrorKind::PermissionDenied, ""), Reason::DestinationDenied);
        assert_eq!(of(ErrorKind::Unexpected, "code: \"ExpiredToken\""), Reason::DestinationDenied);
        assert_eq!(of(ErrorKind::Unexpected, "code: \"BadDigest\""), Reason::DestinationMismatch);
        assert_eq!(of(ErrorKind::Unexpected, "code: \"SlowDown\""), Reason::DestinationUnavailable);
        assert_eq!(of(ErrorKind::RateLimited, ""), Reason::DestinationUnavailable);
        let (reason, why) = explain(&opendal::Error::new(ErrorKind::Unexpected, ENDLESS), false);
        assert!(reason == Reason::DestinationUnavailable && why.contains("Check that the endpoint is an S3"), "{why}");
        // Some servers send it with status 403.
        let skewed = opendal::Error::new(ErrorKind::PermissionDenied, "code: \"RequestTimeTooSkewed\"");
        let (reason, why) = explain(&skewed, false);
        assert_eq!(reason, Reason::DestinationUnavailable);
        assert!(why.contains("clock of this node, or of the server") && !why.contains("key"), "{why}");
        assert_eq!(explain(&opendal::Error::new(ErrorKind::Unexpected, "x"), true).0, Reason::DestinationMismatch);
    }
}
