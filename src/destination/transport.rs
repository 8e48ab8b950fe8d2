//! **A** How requests to an object store travel: reqwest, watched, and for uploads tried again.
//!
//! # Why the retry of uploads lives here
//! OpenDAL's `RetryLayer` takes the writer out of itself while it works; a future that is dropped then (a run that is
//! cancelled) takes the writer along, and its multipart upload can no longer be aborted. Here a single *request* is tried
//! again, the writer above knows nothing of it, and dropping the future at any moment leaves a writer that `abort` works on.
//! A request is a value: its body is a shared buffer, its signature holds for 15 minutes, and all tries together take less.
//! Reads, lists and deletes keep no state that matters, and use OpenDAL's layers (see [`super::object_store`]).
//!
//! # The echo
//! Every upload carries the CRC32C of its body. A server that checks it answers with the same header; one that does not
//! know it says nothing. One silent answer is enough: [`Watch::unchecked`] is set, and whatever was uploaded is read back
//! before it counts. One answer with another checksum is enough to believe nothing any more ([`Watch::mismatch`]): the
//! request fails, and so does every commit after it.
//!
//! # Answers without end
//! Whoever writes a BackupJob chooses the server, and everything that it answers but an object's bytes is taken into memory,
//! here or in OpenDAL. So no such answer is read beyond [`ANSWER_LIMIT`].

use super::egress::{Egress, Forbidden};
use super::resolver::{check_url, forbidden};
use futures::StreamExt;
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, Result};
use opendal_http_transport_reqwest::ReqwestTransport;
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Checksum of a body, sent with every upload.
const CHECKSUM_HEADER: &str = "x-amz-checksum-crc32c";
/// Tries after the first, once the server has been reached; with the pauses below two minutes.
const PATIENT: u32 = 9;
/// The same before it has ever answered: a name that is mistyped should not take two minutes to be told.
const BRISK: u32 = 3;
/// First pause; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest time for all tries of one request: its signature is refused after 15 minutes.
const SIGNATURE_LIMIT: Duration = Duration::from_mins(14);
/// Longest answer, in bytes, of anything but an object: a list of 1,000 keys of 1 KiB, of which each byte is written as three.
const ANSWER_LIMIT: u64 = 4 * 1024 * 1024;
/// The error about a longer one.
pub(super) const ENDLESS: &str = "an answer longer than any of S3";
/// The words for an answer that leads elsewhere.
pub(super) const REDIRECTED: &str = "a redirect";
/// Longest time for one request with its answer: 8 MiB at 30 KiB/s. S3 may take minutes to complete a large upload.
const REQUEST_LIMIT: Duration = Duration::from_mins(5);

/// What was seen of a server; shared by all that talk to it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    reached: AtomicBool,
    unchecked: AtomicBool,
    mismatch: AtomicBool,
}

impl Watch {
    /// The server has answered.
    pub(super) fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
    /// Some upload's checksum was not confirmed.
    pub(super) fn unchecked(&self) -> bool {
        self.unchecked.load(Ordering::Relaxed)
    }
    /// Some upload's checksum came back as another one.
    pub(super) fn mismatch(&self) -> bool {
        self.mismatch.load(Ordering::Relaxed)
    }
}

/// [`ReqwestTransport`], watched (in tests another one).
pub(super) struct Transport<T = ReqwestTransport> {
    inner: T,
    egress: Arc<Egress>,
    watch: Arc<Watch>,
    retry: bool,
}

impl Transport {
    /// Passes everything on once.
    pub(super) fn once(client: reqwest::Client, egress: &Arc<Egress>, watch: Arc<Watch>) -> Self {
        Self { inner: ReqwestTransport::new(client), egress: Arc::clone(egress), watch, retry: false }
    }

    /// Tries again what failed for a reason that may pass.
    pub(super) fn patient(client: reqwest::Client, egress: &Arc<Egress>, watch: Arc<Watch>) -> Self {
        Self { inner: ReqwestTransport::new(client), egress: Arc::clone(egress), watch, retry: true }
    }
}

impl<T: HttpTransport> Transport<T> {
    /// One try. An answer is kept in memory where it will be judged here: those of uploads have a few hundred bytes.
    async fn attempt(&self, request: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
        let sent = request.headers().get(CHECKSUM_HEADER).cloned();
        // A list is asked for in the query.
        let for_object = request.method() == http::Method::GET && request.uri().query().is_none();
        self.look_at(request.uri())?;
        // A name that turned out to be at a refused address is refused: asking again would only ask for another answer.
        let refused = |error: Error| if forbidden(&error).is_some() { error.set_persistent() } else { error };
        let response = self.inner.fetch(request).await.map_err(refused)?;
        let status = response.status();
        if !status.is_server_error() {
            self.watch.reached.store(true, Ordering::Relaxed);
        }
        // The client does not follow it, since nobody has looked at where it leads; a person has to.
        if status.is_redirection() {
            return Err(Error::new(ErrorKind::ConfigInvalid, REDIRECTED));
        }
        if let (Some(sent), true) = (sent, status.is_success()) {
            match response.headers().get(CHECKSUM_HEADER) {
                Some(echo) if *echo == sent => {}
                Some(_) => {
                    self.watch.mismatch.store(true, Ordering::Relaxed);
                    return Err(Error::new(ErrorKind::Unexpected, "the server computed another checksum"));
                }
                None => self.watch.unchecked.store(true, Ordering::Relaxed),
            }
        }
        Ok(if for_object && status.is_success() { response } else { response.map(limited) })
    }

    /// Refuses an address in the request itself; names are looked at by the client's resolver.
    fn look_at(&self, uri: &http::Uri) -> Result<()> {
        let refused = |source: Forbidden| Error::new(ErrorKind::ConfigInvalid, "a refused address").set_source(source);
        match reqwest::Url::parse(&uri.to_string()) {
            Ok(url) => check_url(&self.egress, &url).map_err(refused),
            Err(_) => Ok(()), // the transport says what is wrong with it, and connects to nothing
        }
    }

    /// One try with its whole answer, in a bounded time.
    async fn whole(&self, request: http::Request<Buffer>) -> Result<http::Response<Buffer>> {
        let answer = async {
            let (parts, mut body) = self.attempt(request).await?.into_parts();
            Ok(http::Response::from_parts(parts, body.to_buffer().await?))
        };
        tokio::time::timeout(REQUEST_LIMIT, answer)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "no answer in time").set_temporary()))
    }
}

impl<T: HttpTransport> HttpTransport for Transport<T> {
    async fn fetch(&self, request: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
        if !self.retry {
            return self.attempt(request).await;
        }
        let all = self.tries(request);
        let late = |_| Err(Error::new(ErrorKind::Unexpected, "no answer in time").set_persistent());
        tokio::time::timeout(SIGNATURE_LIMIT, all).await.unwrap_or_else(late)
    }
}

impl<T: HttpTransport> Transport<T> {
    /// The same request until it succeeds, cannot, or was tried often enough.
    async fn tries(&self, request: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
        let mut tries = 0;
        loop {
            let answer = self.whole(request.clone()).await;
            let again = match &answer {
                Ok(response) => may_pass(response.status()),
                Err(error) => error.is_temporary(),
            };
            if !again || tries >= if self.watch.reached() { PATIENT } else { BRISK } {
                // A layer above must not begin anew what was tried often enough here.
                return answer.map_err(Error::set_persistent).map(|response| {
                    let (parts, body) = response.into_parts();
                    let size = body.len() as u64;
                    http::Response::from_parts(parts, HttpBody::new(futures::stream::iter([Ok(body)]), Some(size)))
                });
            }
            let pause = pause_before(tries);
            tries += 1;
            // The path, not the query: it has the key, and nothing secret.
            tracing::warn!(
                method = %request.method(), path = request.uri().path(), again = tries, pause_ms = pause.as_millis(),
                status = answer.as_ref().ok().map(|r| r.status().as_u16()), "the destination did not take a request"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

/// The same body, which fails where it is longer than [`ANSWER_LIMIT`].
fn limited(body: HttpBody) -> HttpBody {
    let mut left = ANSWER_LIMIT;
    body.map_inner(|pieces| {
        Box::new(pieces.map(move |piece| {
            let piece = piece?;
            let size = piece.len() as u64;
            left = left.checked_sub(size).ok_or_else(|| Error::new(ErrorKind::Unexpected, ENDLESS).set_persistent())?;
            Ok(piece)
        }))
    })
}

/// Doubled each time, and between half and all of that, so that many runs do not come back at the same moment.
fn pause_before(tries: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Answers after which the same request may succeed.
fn may_pass(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opendal::raw::oio::ReadStream as _;
    use std::sync::atomic::{AtomicU32, AtomicU64};

    /// Gives one answer for ever, and counts.
    struct Always(u16, Arc<AtomicU32>);

    impl HttpTransport for Always {
        async fn fetch(&self, _: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let mut response = http::Response::new(HttpBody::new(futures::stream::iter([]), Some(0)));
            *response.status_mut() = http::StatusCode::from_u16(self.0).expect("a status");
            Ok(response)
        }
    }

    /// Answers the first requests never: not at all, or with the beginning of an answer. Those after them succeed.
    struct Hangs {
        first: u32,
        begins: bool,
        asked: Arc<AtomicU32>,
    }

    impl HttpTransport for Hangs {
        async fn fetch(&self, _: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
            if self.asked.fetch_add(1, Ordering::Relaxed) >= self.first {
                return Ok(http::Response::new(HttpBody::new(futures::stream::iter([]), Some(0))));
            }
            if !self.begins {
                return std::future::pending().await;
            }
            Ok(http::Response::new(HttpBody::new(futures::stream::pending(), None)))
        }
    }

    /// What comes of an upload's request at a server whose first answers never come, how often it was tried and how long
    /// that took.
    async fn hung(first: u32, begins: bool) -> (Result<http::Response<HttpBody>>, u32, Duration) {
        let asked = Arc::new(AtomicU32::new(0));
        let inner = Hangs { first, begins, asked: Arc::clone(&asked) };
        let (egress, watch) = (Arc::new(Egress::unrestricted()), Arc::new(Watch::default()));
        watch.reached.store(true, Ordering::Relaxed);
        let transport = Transport { inner, egress, watch, retry: true };
        let start = tokio::time::Instant::now();
        let answer = transport.fetch(http::Request::new(Buffer::new())).await;
        (answer, asked.load(Ordering::Relaxed), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_asked_for_again() {
        for begins in [false, true] {
            let (answer, tries, time) = hung(1, begins).await;
            assert!(answer.is_ok_and(|answer| answer.status() == 200));
            assert_eq!(tries, 2);
            assert!((REQUEST_LIMIT..REQUEST_LIMIT + Duration::from_secs(1)).contains(&time), "{time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_given_up_before_the_signature_ends() {
        for begins in [false, true] {
            let (answer, tries, time) = hung(u32::MAX, begins).await;
            let Err(error) = answer else { panic!("it answered") };
            // Nothing above may begin with it anew.
            assert!(error.message() == "no answer in time" && !error.is_temporary(), "{error:?}");
            // The third try is not given its whole time.
            assert_eq!(tries, 3);
            assert!((SIGNATURE_LIMIT..SIGNATURE_LIMIT + Duration::from_secs(1)).contains(&time), "{time:?}");
        }
    }

    /// How often a request is tried at a server that gives this answer for ever, and how long it takes.
    async fn given_up_after(status: u16, reached: bool) -> (u32, Duration) {
        let (tries, watch) = (Arc::new(AtomicU32::new(0)), Arc::new(Watch::default()));
        watch.reached.store(reached, Ordering::Relaxed);
        let egress = Arc::new(Egress::unrestricted());
        let transport = Transport { inner: Always(status, Arc::clone(&tries)), egress, watch, retry: true };
        let start = tokio::time::Instant::now();
        let answer = transport.fetch(http::Request::new(Buffer::new())).await.expect("the server's last answer");
        assert_eq!(answer.status(), status);
        (tries.load(Ordering::Relaxed), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_can_is_given_up_within_minutes() {
        let (tries, time) = given_up_after(503, true).await;
        assert_eq!(tries, PATIENT + 1);
        assert!((Duration::from_mins(1)..Duration::from_secs(150)).contains(&time), "{time:?}");
        let (tries, time) = given_up_after(503, false).await;
        assert_eq!(tries, BRISK + 1);
        assert!(time < Duration::from_secs(5), "{time:?}");
        assert_eq!(given_up_after(403, true).await, (1, Duration::ZERO));
    }

    #[tokio::test]
    async fn a_refused_address_is_asked_nothing() {
        let tries = Arc::new(AtomicU32::new(0));
        let egress = Arc::new(Egress::of_operator());
        let inner = Always(200, Arc::clone(&tries));
        let transport = Transport { inner, egress, watch: Arc::new(Watch::default()), retry: true };
        let request = http::Request::get("http://169.254.169.254/latest").body(Buffer::new()).expect("a request");
        let Err(error) = transport.fetch(request).await else { panic!("it was asked") };
        assert!(forbidden(&error).is_some() && !error.is_temporary(), "{error:?}");
        assert_eq!(tries.load(Ordering::Relaxed), 0);
    }

    /// Answers everything with this status and, as it were, bytes for ever; counts them.
    struct Endless(u16, Arc<AtomicU64>);

    impl HttpTransport for Endless {
        async fn fetch(&self, _: http::Request<Buffer>) -> Result<http::Response<HttpBody>> {
            let sent = Arc::clone(&self.1);
            let pieces = futures::stream::repeat_with(move || {
                sent.fetch_add(64 * 1024, Ordering::Relaxed);
                Ok(Buffer::from(vec![b'x'; 64 * 1024]))
            });
            let mut response = http::Response::new(HttpBody::new(pieces.take(1024), None));
            *response.status_mut() = http::StatusCode::from_u16(self.0).expect("a status");
            Ok(response)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_end_is_not_taken_into_memory() {
        let limited = async |status, retry, method: http::Method, uri| {
            let sent = Arc::new(AtomicU64::new(0));
            let (egress, watch) = (Arc::new(Egress::unrestricted()), Arc::new(Watch::default()));
            let transport = Transport { inner: Endless(status, Arc::clone(&sent)), egress, watch, retry };
            let request = http::Request::builder().method(&method).uri(uri).body(Buffer::new()).expect("a request");
            let read = async {
                let mut body = transport.fetch(request).await?.into_body();
                // As much as there is, but not for ever.
                while !body.read().await?.is_empty() && sent.load(Ordering::Relaxed) < 4 * ANSWER_LIMIT {}
                Ok::<_, Error>(())
            };
            match read.await {
                Ok(()) => false,
                Err(error) => {
                    assert!(error.message() == ENDLESS && !error.is_temporary(), "{method} {uri}: {error:?}");
                    assert!(sent.load(Ordering::Relaxed) < 2 * ANSWER_LIMIT, "{method} {uri}: asked again");
                    true
                }
            }
        };
        let (object, list) = ("http://s3.example/b/o", "http://s3.example/b?list-type=2&prefix=x");
        for (status, retry, method, uri) in [
            (200, true, http::Method::PUT, "http://s3.example/b/o?partNumber=1&uploadId=x"),
            (200, true, http::Method::PUT, object),
            (200, true, http::Method::POST, "http://s3.example/b/o?uploads"),
            (503, true, http::Method::PUT, object),
            (200, false, http::Method::GET, list),
            (404, false, http::Method::GET, object),
            (204, false, http::Method::DELETE, object),
        ] {
            assert!(limited(status, retry, method.clone(), uri).await, "{status} to {method} {uri}");
        }
        assert!(!limited(200, false, http::Method::GET, object).await, "an object may be as long as it is");
        assert!(!limited(206, false, http::Method::GET, object).await, "and so may a part of one");
    }

    #[test]
    fn all_tries_end_before_the_signature_does() {
        let pauses: Duration = (0..PATIENT).map(|n| FIRST_PAUSE.saturating_mul(1 << n).min(LONGEST_PAUSE)).sum();
        assert!(pauses < Duration::from_secs(150), "{pauses:?}");
        for tries in 0..40 {
            let pause = pause_before(tries);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}
