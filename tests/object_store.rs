//! What the S3 destination does when a server misbehaves, request by request. Real servers have their turn in the cluster
//! tests; none of them can be told to lose one answer, to keep a wrong byte, or to know nothing of checksums.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use ubo::api::names::ObjectKey;
use ubo::destination::address::Address;
use ubo::destination::build::build;
use ubo::destination::{Destination, Put, Staged, Stored};
use ubo::error::Reason;
use ubo::repository::catalog::newest;
use ubo::source::{Completion, Ending};

/// How the server misbehaves.
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that goes wrong, and they may go wrong together")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Misbehaviour {
    /// It does not confirm checksums.
    silent: bool,
    /// It confirms another checksum than was sent.
    confused: bool,
    /// It keeps another byte than was sent.
    corrupt: bool,
    /// So many requests that upload a part get 503 first.
    busy: u32,
    /// It does what is asked, but its first answer to a completion, or to a put, is 500.
    forgetful: bool,
    /// Parts are never answered.
    hangs: bool,
    /// Every upload is refused.
    denies: bool,
    /// It knows no conditional writes.
    unconditional: bool,
    /// Whatever is no error, and not asked for its size alone, is answered with bytes that never end.
    endless: bool,
}

#[derive(Default)]
struct Server {
    how: Misbehaviour,
    objects: HashMap<String, Vec<u8>>,
    uploads: HashMap<String, BTreeMap<u32, Vec<u8>>>,
    seen: Vec<String>,
    /// Bytes of answers without end.
    poured: Arc<AtomicU64>,
}

type Shared = Arc<Mutex<Server>>;

fn error(status: u16, code: &str) -> Response {
    let body = format!("<Error><Code>{code}</Code><Message>hunter2</Message></Error>");
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

async fn answer(State(server): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let query: HashMap<String, String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())))
        .collect();
    let hangs = {
        let server = server.lock().unwrap();
        server.how.hangs && query.contains_key("partNumber")
    };
    if hangs {
        server.lock().unwrap().seen.push("hanging part".into());
        std::future::pending::<()>().await;
    }
    let mut server = server.lock().unwrap();
    let server = &mut *server;
    let key = uri.path().trim_start_matches("/bucket/").to_string();
    let upload = query.get("uploadId").cloned();
    let what = match (&method, &upload) {
        (&Method::POST, None) => "begin",
        (&Method::PUT, Some(_)) => "part",
        (&Method::POST, Some(_)) => "complete",
        (&Method::DELETE, Some(_)) => "abort",
        (&Method::PUT, None) => "put",
        (&Method::DELETE, None) => "delete",
        (&Method::HEAD, _) => "stat",
        (&Method::GET, _) if query.contains_key("list-type") => "list",
        _ => "get",
    };
    server.seen.push(what.into());
    if server.how.denies && matches!(what, "begin" | "put") {
        return error(403, "SignatureDoesNotMatch");
    }
    let conflict = headers.contains_key("if-none-match") && server.objects.contains_key(&key);
    if server.how.endless && !conflict && what != "stat" {
        let poured = Arc::clone(&server.poured);
        let body = futures::stream::repeat_with(move || {
            poured.fetch_add(64 * 1024, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024]))
        });
        let body = Body::from_stream(body.take(10_000)); // whoever reads on finds it out before this machine is full
        // An object has a size, however long it is.
        let size = [("content-length", (1_u64 << 40).to_string())];
        return if what == "get" { (size, body).into_response() } else { body.into_response() };
    }
    let mut kept = body.to_vec();
    if server.how.corrupt && !kept.is_empty() {
        kept[0] ^= 1;
    }
    let mut echo = HeaderMap::new();
    echo.insert("etag", "\"tag\"".parse().unwrap());
    if let Some(sum) = headers.get("x-amz-checksum-crc32c").filter(|_| !server.how.silent) {
        let sum = if server.how.confused { "AAAAAA==".parse().unwrap() } else { sum.clone() };
        echo.insert("x-amz-checksum-crc32c", sum);
    }
    match (what, upload) {
        ("begin", _) => {
            let id = format!("upload-{}", server.uploads.len());
            server.uploads.insert(id.clone(), BTreeMap::new());
            format!(
                "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            )
            .into_response()
        }
        ("part", Some(id)) => {
            if server.how.busy > 0 {
                server.how.busy -= 1;
                return error(503, "SlowDown");
            }
            let number = query["partNumber"].parse().unwrap();
            server.uploads.get_mut(&id).unwrap().insert(number, kept);
            (echo, "").into_response()
        }
        ("complete", Some(id)) => {
            let Some(parts) = server.uploads.remove(&id) else { return error(404, "NoSuchUpload") };
            server.objects.insert(key.clone(), parts.into_values().flatten().collect());
            if std::mem::take(&mut server.how.forgetful) {
                return error(500, "InternalError");
            }
            format!(
                "<CompleteMultipartUploadResult><Key>{key}</Key><ETag>\"tag\"</ETag></CompleteMultipartUploadResult>"
            )
            .into_response()
        }
        ("abort", Some(id)) => {
            server.uploads.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        ("put", _) => {
            if headers.contains_key("if-none-match") && server.how.unconditional {
                return error(501, "NotImplemented");
            }
            if conflict {
                return error(412, "PreconditionFailed");
            }
            server.objects.insert(key, kept);
            if std::mem::take(&mut server.how.forgetful) {
                return error(500, "InternalError");
            }
            (echo, "").into_response()
        }
        ("delete", _) => {
            server.objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        // As old as their content says, in seconds.
        ("list", _) => {
            // Some servers give ten times as many where nothing is said: a longer answer than is read.
            if query.get("max-keys").map(String::as_str) != Some("1000") {
                return error(400, "InvalidArgument");
            }
            let objects = server.objects.iter().map(|(key, content)| {
                let (seconds, size) = (String::from_utf8_lossy(content), content.len());
                let time = format!("<LastModified>2026-01-02T03:04:{seconds}.000Z</LastModified>");
                format!("<Contents><Key>{key}</Key><Size>{size}</Size>{time}</Contents>")
            });
            let all: String = objects.collect();
            format!("<ListBucketResult><IsTruncated>false</IsTruncated>{all}</ListBucketResult>").into_response()
        }
        _ => server.objects.get(&key).map_or_else(|| error(404, "NoSuchKey"), |object| object.clone().into_response()),
    }
}

/// A server, and the destination in front of it.
async fn start(how: Misbehaviour) -> (Shared, Arc<dyn Destination>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server: Shared = Arc::new(Mutex::new(Server { how, ..Server::default() }));
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
    let address = Address::parse("s3://bucket").unwrap();
    let keys = map(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b\n")]);
    (server, build(&address, &map(&[("endpoint", &endpoint)]), &keys).unwrap())
}

fn key() -> ObjectKey {
    ObjectKey::new("run/dump.zst").unwrap()
}

/// Three parts.
static BODY: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..20_000_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect());

async fn write(staged: &mut Box<dyn Staged>, body: &[u8]) -> Result<(), ubo::error::Failure> {
    for piece in body.chunks(2_000_000) {
        staged.write(Bytes::copy_from_slice(piece)).await?;
    }
    Ok(())
}

/// Uploads `body`.
async fn upload(destination: &dyn Destination, body: &[u8]) -> Result<u64, ubo::error::Failure> {
    let mut staged = destination.stage(&key()).await?;
    match write(&mut staged, body).await {
        Ok(()) => staged.commit(&Completion::Complete(Ending::default())).await,
        Err(failure) => {
            staged.abort().await?;
            Err(failure)
        }
    }
}

fn count(server: &Shared, what: &str) -> usize {
    server.lock().unwrap().seen.iter().filter(|seen| *seen == what).count()
}

fn nothing_left(server: &Shared) {
    let server = server.lock().unwrap();
    assert!(server.uploads.is_empty(), "{:?}", server.seen);
    assert!(server.objects.is_empty(), "{:?}", server.seen);
}

#[tokio::test]
async fn a_server_that_confirms_checksums_is_believed() {
    let (server, destination) = start(Misbehaviour::default()).await;
    assert_eq!(upload(&*destination, &BODY).await.unwrap(), 20_000_000);
    assert_eq!((count(&server, "part"), count(&server, "get")), (3, 0));
    assert!(server.lock().unwrap().objects["run/dump.zst"] == *BODY);
    // A small object goes in one request.
    let (server, destination) = start(Misbehaviour::default()).await;
    upload(&*destination, b"small").await.unwrap();
    assert_eq!((count(&server, "put"), count(&server, "begin")), (1, 0));
}

#[tokio::test]
async fn a_server_that_does_not_is_read_back() {
    for size in [20_000_000, 5] {
        let (server, destination) = start(Misbehaviour { silent: true, ..Misbehaviour::default() }).await;
        upload(&*destination, &BODY[..size]).await.unwrap();
        assert_eq!(count(&server, "get"), 1);
        let (server, destination) =
            start(Misbehaviour { silent: true, corrupt: true, ..Misbehaviour::default() }).await;
        let failure = upload(&*destination, &BODY[..size]).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DestinationMismatch, "{failure}");
        nothing_left(&server);
    }
}

#[tokio::test]
async fn a_checksum_that_differs_is_a_mismatch() {
    // In several parts, and in one request that has stored the object by the time its answer is judged; whether what is
    // stored differs or not.
    for (size, corrupt) in [(20_000_000, false), (20_000_000, true), (5, false), (5, true)] {
        let (server, destination) = start(Misbehaviour { confused: true, corrupt, ..Misbehaviour::default() }).await;
        let failure = upload(&*destination, &BODY[..size]).await.unwrap_err();
        assert_eq!(failure.reason, Reason::DestinationMismatch, "{size}, {corrupt}: {failure}");
        nothing_left(&server);
    }
}

#[tokio::test]
async fn a_part_is_tried_again_and_nothing_is_doubled() {
    let (server, destination) = start(Misbehaviour { busy: 2, ..Misbehaviour::default() }).await;
    upload(&*destination, &BODY).await.unwrap();
    assert_eq!((count(&server, "begin"), count(&server, "part")), (1, 5));
    assert!(server.lock().unwrap().objects["run/dump.zst"] == *BODY);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_out() {
    let (server, destination) = start(Misbehaviour { forgetful: true, ..Misbehaviour::default() }).await;
    assert_eq!(upload(&*destination, &BODY).await.unwrap(), 20_000_000);
    // Of what is there nobody has said anything, so it is read.
    assert_eq!((count(&server, "complete"), count(&server, "get")), (2, 1));
    let (server, destination) = start(Misbehaviour { forgetful: true, corrupt: true, ..Misbehaviour::default() }).await;
    let failure = upload(&*destination, &BODY).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationMismatch, "{failure}");
    nothing_left(&server);
    // A document that is written if absent: the second try finds the first one's.
    let (_server, destination) = start(Misbehaviour { forgetful: true, ..Misbehaviour::default() }).await;
    let put = |text: &'static str| {
        let destination = destination.clone();
        async move { destination.put(&key(), Bytes::from_static(text.as_bytes()), Put::IfAbsent).await.unwrap() }
    };
    assert_eq!(put("mine").await, Stored::Written);
    assert_eq!(put("another's").await, Stored::AlreadyThere);
}

#[tokio::test]
async fn a_server_without_conditional_writes_is_asked_first() {
    let (_server, destination) = start(Misbehaviour { unconditional: true, ..Misbehaviour::default() }).await;
    let put = |text: &'static str| {
        let destination = destination.clone();
        async move { destination.put(&key(), Bytes::from_static(text.as_bytes()), Put::IfAbsent).await.unwrap() }
    };
    assert_eq!(put("first").await, Stored::Written);
    assert_eq!(put("second").await, Stored::AlreadyThere);
}

#[tokio::test]
async fn the_server_says_which_backup_is_newest_where_the_name_does_not() {
    let (_server, destination) = start(Misbehaviour::default()).await;
    let manifest = |run: &str| ObjectKey::new(format!("default/pg/{run}-abcdef01-1/manifest.json")).unwrap();
    for (run, seconds) in [("pg-m1", "20"), ("pg-m2", "40"), ("pg-m3", "30"), ("pg-20260102-0305", "10")] {
        destination.put(&manifest(run), Bytes::from_static(seconds.as_bytes()), Put::Always).await.unwrap();
    }
    let found = newest(&*destination, &ObjectKey::new("default/pg").unwrap(), 3, |_| true).await.unwrap();
    assert_eq!(found, ["pg-20260102-0305", "pg-m2", "pg-m3"].map(manifest));
}

#[tokio::test]
async fn an_upload_whose_write_was_dropped_is_still_aborted() {
    let (server, destination) = start(Misbehaviour { hangs: true, ..Misbehaviour::default() }).await;
    let mut staged = destination.stage(&key()).await.unwrap();
    // More parts than can be on their way and wait: a write has to.
    let body = BODY.repeat(3);
    let hung = async {
        while count(&server, "hanging part") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        result = write(&mut staged, &body) => panic!("a part was answered: {result:?}"),
        () = hung => {}
    }
    // What was being written has been dropped in the middle.
    staged.abort().await.unwrap();
    assert_eq!(count(&server, "abort"), 1);
    nothing_left(&server);
}

#[tokio::test]
async fn an_upload_that_is_dropped_is_aborted_as_well() {
    let (server, destination) = start(Misbehaviour::default()).await;
    let mut staged = destination.stage(&key()).await.unwrap();
    write(&mut staged, &BODY).await.unwrap();
    drop(staged);
    let aborted = async {
        while count(&server, "abort") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), aborted).await.unwrap();
    nothing_left(&server);
}

#[tokio::test]
async fn a_refusal_is_told_without_the_servers_words() {
    let (server, destination) = start(Misbehaviour { denies: true, ..Misbehaviour::default() }).await;
    let failure = upload(&*destination, &BODY).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationDenied);
    assert!(failure.message.contains("SignatureDoesNotMatch") && !failure.message.contains("hunter2"), "{failure}");
    assert_eq!(count(&server, "begin"), 1, "what is refused is not tried again");
}

#[tokio::test]
async fn what_a_server_answers_without_end_is_not_taken_into_memory() {
    for what in ["put", "upload", "list", "abort uploads", "put if absent"] {
        let (server, destination) = start(Misbehaviour { endless: true, ..Misbehaviour::default() }).await;
        server.lock().unwrap().objects.insert("run/dump.zst".into(), b"mine".to_vec());
        let done = async {
            match what {
                "put" => {
                    destination.stat(&key()).await?; // the answer to a put is judged once the server was reached
                    destination.put(&key(), Bytes::from_static(b"mine"), Put::Always).await.map(drop)
                }
                "upload" => upload(&*destination, &BODY).await.map(drop),
                "list" => destination.list("run/").await?.try_collect::<Vec<_>>().await.map(drop),
                "abort uploads" => destination.abort_uploads("run/").await.map(drop),
                _ => {
                    let stored = destination.put(&key(), Bytes::from_static(b"xxxx"), Put::IfAbsent).await?;
                    assert_eq!(stored, Stored::AlreadyThere);
                    Ok(())
                }
            }
        };
        let done = tokio::time::timeout(Duration::from_mins(1), done).await.expect("it was read on and on");
        if what == "put if absent" {
            done.unwrap();
        } else {
            let failure = done.unwrap_err();
            assert_eq!(failure.reason, Reason::DestinationUnavailable, "{what}: {failure}");
            assert!(failure.message.contains("longer than") || failure.message.contains("more than"), "{failure}");
        }
        // What was read, and what lay in the buffers on the way, of a few requests.
        let poured = server.lock().unwrap().poured.load(Ordering::Relaxed);
        assert!(poured < 200 << 20, "{what}: {poured} bytes");
    }
}
