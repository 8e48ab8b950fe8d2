//! The loop against a scripted far end, on paused time.

use super::*;
use crate::error::Reason;
use futures::future::join;
use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Hands on everything but a last line `end`, which it answers.
#[derive(Default)]
struct Plain {
    seen: Vec<u8>,
    log: Vec<u8>,
    answers: VecDeque<Bytes>,
}

impl Dialogue for Plain {
    fn stdout(&mut self, chunk: Bytes, onward: &mut VecDeque<Bytes>) -> Result<(), Failure> {
        self.seen.extend_from_slice(&chunk);
        if &chunk[..] == b"bad" {
            return Err(Failure::new(Reason::StreamCorrupt, "bad"));
        }
        if &chunk[..] == b"end" {
            self.answers.push_back(Bytes::from_static(b"\n"));
        } else {
            onward.push_back(chunk);
        }
        Ok(())
    }
    fn stderr(&mut self, chunk: Bytes) {
        self.log.extend_from_slice(&chunk);
    }
    fn answer(&mut self) -> Option<Bytes> {
        self.answers.pop_front()
    }
    fn dismissal(&self) -> Bytes {
        Bytes::from_static(b"go")
    }
}

type Server = WebSocketStream<DuplexStream>;

async fn pair() -> (Session<DuplexStream>, Server) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    (Session::new(near), far)
}

async fn say(server: &mut Server, channel: u8, text: &[u8]) {
    let mut frame = vec![channel];
    frame.extend_from_slice(text);
    server.send(Message::binary(frame)).await.unwrap();
}

/// The next binary frame, pings left out; `None` when the client has gone.
async fn hear(server: &mut Server) -> Option<Bytes> {
    loop {
        match server.next().await {
            Some(Ok(Message::Binary(bytes))) => return Some(bytes),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;
const EXIT_3: &[u8] = br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;

struct Run {
    end: End,
    bytes: Vec<u8>,
    dialogue: Plain,
}

/// Runs a session against `script`, with a reader that takes everything.
async fn run<F: Future<Output = Server>>(script: impl FnOnce(Server) -> F) -> Run {
    let (session, server) = pair().await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let mut dialogue = Plain::default();
    let cancel = CancellationToken::new();
    let times = Times::default();
    let reader = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    };
    // The far end stays open for as long as its script has said nothing else.
    let (end, (bytes, _server)) =
        join(session.run(&mut dialogue, sender, &times, &cancel), join(reader, script(server))).await;
    Run { end, bytes, dialogue }
}

#[tokio::test(start_paused = true)]
async fn a_whole_exec_ends_in_its_status() {
    let run = run(async |mut server: Server| {
        say(&mut server, channel::STDOUT, b"").await;
        say(&mut server, channel::STDERR, b"log").await;
        say(&mut server, channel::STDOUT, b"data").await;
        say(&mut server, channel::STDOUT, b"end").await;
        assert_eq!(hear(&mut server).await.unwrap(), [channel::STDIN, b'\n'].as_slice());
        // Of v5: standard output has ended.
        say(&mut server, 255, &[channel::STDOUT]).await;
        say(&mut server, channel::STATUS, SUCCESS).await;
        server.close(None).await.unwrap();
        server
    })
    .await;
    assert_eq!(run.end, End::Status(Exit::Code(0)));
    assert_eq!((run.bytes.as_slice(), run.dialogue.log.as_slice()), (&b"data"[..], &b"log"[..]));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_after_the_status_are_still_seen() {
    let run = run(async |mut server: Server| {
        say(&mut server, channel::STATUS, EXIT_3).await;
        say(&mut server, channel::STDOUT, b"late").await;
        server
    })
    .await;
    assert_eq!((run.end, run.bytes.as_slice()), (End::Status(Exit::Code(3)), &b"late"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_status_is_no_success() {
    let run = run(async |mut server: Server| {
        say(&mut server, channel::STDOUT, b"half").await;
        server.close(None).await.unwrap();
        server
    })
    .await;
    assert_eq!((run.end, run.bytes.as_slice()), (End::Closed, &b"half"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_noticed() {
    let (session, mut server) = pair().await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let mut dialogue = Plain::default();
    let script = async move {
        say(&mut server, channel::STDOUT, b"half").await;
        drop(server.into_inner());
        receiver.recv().await;
        receiver.recv().await
    };
    let (end, last) =
        join(session.run(&mut dialogue, sender, &Times::default(), &CancellationToken::new()), script).await;
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    assert_eq!(last, None);
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_stall_and_a_heartbeat_is_none() {
    let begun = Instant::now();
    let run = run(async |mut server: Server| {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            say(&mut server, channel::STDERR, b".").await;
        }
        // A pong is the API server's, and says nothing of the process.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if server.send(Message::Pong(Bytes::new())).await.is_err() {
                break;
            }
        }
        server
    })
    .await;
    assert_eq!(run.end, End::Stalled);
    assert!(begun.elapsed() >= Duration::from_secs(310));
}

#[tokio::test(start_paused = true)]
async fn after_the_answer_silence_is_soon_the_end() {
    let begun = Instant::now();
    let run = run(async |mut server: Server| {
        say(&mut server, channel::STDOUT, b"end").await;
        while let Some(Ok(_)) = server.next().await {}
        server
    })
    .await;
    assert_eq!(run.end, End::Silent);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_far_end_and_is_no_stall() {
    let (session, mut server) = pair().await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(2);
    let mut dialogue = Plain::default();
    let reader = async move {
        let mut bytes = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(90)).await;
            match receiver.recv().await {
                Some(chunk) => bytes += chunk.len(),
                None => return bytes,
            }
        }
    };
    let script = async move {
        let begun = Instant::now();
        for _ in 0..20 {
            say(&mut server, channel::STDOUT, &vec![7; 32 * 1024]).await;
        }
        let took = begun.elapsed();
        say(&mut server, channel::STATUS, SUCCESS).await;
        server.close(None).await.unwrap();
        while let Some(Ok(_)) = server.next().await {}
        took
    };
    let (times, cancel) = (Times::default(), CancellationToken::new());
    let run = session.run(&mut dialogue, sender, &times, &cancel);
    let (end, (bytes, took)) = join(run, join(reader, script)).await;
    assert_eq!((end, bytes), (End::Status(Exit::Code(0)), 20 * 32 * 1024));
    // 20 frames of 32 KiB, of which the pipe holds two and the channel two: the rest has waited.
    assert!(took > Duration::from_mins(15), "{took:?}");
}

/// The far end is through, and its connection gone, long before a slow reader has taken what it sent.
#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_was_sent_though_the_connection_is_gone() {
    for answered in [true, false] {
        let (session, mut server) = pair().await;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
        let mut dialogue = Plain::default();
        let script = async move {
            for _ in 0..6 {
                say(&mut server, channel::STDOUT, b"piece").await;
            }
            say(&mut server, channel::STDOUT, if answered { b"end" } else { b"END" }).await;
            drop(server.into_inner());
            let mut bytes = Vec::new();
            loop {
                tokio::time::sleep(Duration::from_secs(30)).await;
                match receiver.recv().await {
                    Some(chunk) => bytes.extend_from_slice(&chunk),
                    None => return bytes,
                }
            }
        };
        let (times, cancel) = (Times::default(), CancellationToken::new());
        let run = session.run(&mut dialogue, sender, &times, &cancel);
        let (end, bytes) = join(run, script).await;
        assert!(matches!(end, End::Lost(_) | End::Closed), "{end:?}");
        assert_eq!(bytes, if answered { b"piece".repeat(6) } else { [b"piece".repeat(6), b"END".to_vec()].concat() });
    }
}

const DISMISSED: &[u8] = &[channel::STDIN, b'g', b'o'];

#[tokio::test(start_paused = true)]
async fn cancelling_tells_the_far_end_and_waits_for_it() {
    let (session, mut server) = pair().await;
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let mut dialogue = Plain::default();
    let cancel = CancellationToken::new();
    let script = async {
        say(&mut server, channel::STDOUT, b"some").await;
        assert_eq!(receiver.recv().await.unwrap(), &b"some"[..]);
        cancel.cancel();
        let heard = hear(&mut server).await;
        assert_eq!(receiver.recv().await, None, "closed before the far end has ended");
        say(&mut server, channel::STDOUT, b"is not handed on").await;
        say(&mut server, channel::STDERR, b"cleared").await;
        say(&mut server, channel::STATUS, EXIT_3).await;
        heard
    };
    let (end, heard) = join(session.run(&mut dialogue, sender, &Times::default(), &cancel), script).await;
    assert_eq!(end, End::Cancelled);
    assert_eq!(heard.as_deref(), Some(DISMISSED));
    assert_eq!(dialogue.log, b"cleared");
}

#[test]
fn only_a_request_that_wants_it_asks_for_v4_alone() {
    let request = |wants: bool| {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"));
        if wants {
            request.extensions_mut().insert(V4Alone);
        }
        ask_for_v4_alone(request).headers()[SEC_WEBSOCKET_PROTOCOL].clone()
    };
    assert_eq!(request(true), V4);
    assert_eq!(request(false), "v5.channel.k8s.io, v4.channel.k8s.io");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_and_bytes_that_are_refused_end_it_too() {
    let (session, mut server) = pair().await;
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    drop(receiver);
    let script = async {
        assert_eq!(hear(&mut server).await.as_deref(), Some(DISMISSED));
        say(&mut server, channel::STATUS, EXIT_3).await;
    };
    let mut dialogue = Plain::default();
    let (end, ()) =
        join(session.run(&mut dialogue, sender, &Times::default(), &CancellationToken::new()), script).await;
    assert_eq!(end, End::ReaderGone);

    let run = run(async |mut server: Server| {
        say(&mut server, channel::STDOUT, b"bad").await;
        // Nothing answers: the client does not wait for ever.
        while let Some(Ok(_)) = server.next().await {}
        server
    })
    .await;
    assert!(matches!(run.end, End::Refused(failure) if failure.reason == Reason::StreamCorrupt));
}

#[test]
fn a_status_is_an_exit_code_or_words() {
    assert_eq!(exit_of(SUCCESS), Exit::Code(0));
    assert_eq!(exit_of(EXIT_3), Exit::Code(3));
    let words = br#"{"status":"Failure","message":"no such thing","reason":"InternalError","code":500}"#;
    assert_eq!(exit_of(words), Exit::Unknown("no such thing".to_owned()));
    assert!(matches!(exit_of(b"\xff"), Exit::Unknown(_)));
}
