//! **A** One exec over the Kubernetes API: the web socket, from the upgrade to an explicit [`End`].
//!
//! kube's own `AttachedProcess` is not used: its readers hang for ever when the connection breaks, a silent peer is never
//! noticed, one unread stream blocks the other, and a close without a status looks like success (measured, kube 5.0).
//!
//! One task owns the socket. It reads a frame only when everything of the frame before has been handed on, so that a slow
//! destination slows the pod, through TCP, and memory stays bounded by one frame and the channel. Meanwhile it keeps the
//! connection alive with pings. Two clocks stop it: silence (neither a byte nor a heartbeat) while we are willing to read,
//! and a write that does not get through. Standard error is never a reason to wait. What the bytes mean is somebody
//! else's: see [`Dialogue`].
//!
//! # Which protocol
//! `v4.channel.k8s.io`, and the other one where a server has no v4. An API server that is asked for v5 takes the stream
//! apart and puts it together again as SPDY (since Kubernetes 1.30, `k8s.io/apiserver`'s `streamtranslator`); asked for v4
//! alone it hands the connection through to the node. For 693 MiB that is 1.0 s of its CPU instead of 6.4 s (measured,
//! 1.35). What v5 has more, a standard input that can be closed alone, is not needed: the far end is told to stop in
//! words ([`Dialogue::dismissal`]), which is why it is waited for under v4, too.

use crate::error::Failure;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::AttachParams;
use kube::client::UpgradeConnectionError;
use kube::core::Status;
use kube::core::response::StatusSummary;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_util::sync::CancellationToken;

/// Channels of the `v4.channel.k8s.io` and `v5.channel.k8s.io` protocols: the first byte of each frame
/// (`k8s.io/apimachinery/pkg/util/remotecommand/constants.go`). v5 has one more, 255, on which ended channels are named.
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const STATUS: u8 = 3;
}

/// The older protocol.
const V4: HeaderValue = HeaderValue::from_static("v4.channel.k8s.io");

/// Marks a request that asks for [`V4`] alone.
#[derive(Clone, Copy)]
struct V4Alone;

/// What a client's requests pass for this loop: kube's own list of protocols becomes [`V4`] alone, in the requests for which
/// that was wanted. A client without it speaks v5, which costs the API server more and is no different otherwise.
pub fn ask_for_v4_alone<B>(mut request: Request<B>) -> Request<B> {
    if request.extensions_mut().remove::<V4Alone>().is_some() {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, V4);
    }
    request
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the request to the open socket.
    pub connect: Duration,
    /// Between two pings. Load balancers forget connections that are silent for 60 s.
    pub ping: Duration,
    /// Silence that ends the exec; six heartbeats of the wrapper.
    pub stall: Duration,
    /// A frame of ours that does not get through.
    pub write: Duration,
    /// For the far end to clean up and to report its end, once it was told to.
    pub ending: Duration,
    /// For the rest of the streams after the status.
    pub rest: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            ping: Duration::from_secs(7),
            stall: Duration::from_mins(1),
            write: Duration::from_secs(20),
            ending: Duration::from_secs(15),
            rest: Duration::from_secs(2),
        }
    }
}

/// What the far end's bytes mean.
pub trait Dialogue: Send {
    /// Takes bytes of standard output, and puts what is to be handed on into `onward`. An error ends the exec.
    fn stdout(&mut self, chunk: Bytes, onward: &mut VecDeque<Bytes>) -> Result<(), Failure>;
    /// Takes bytes of standard error.
    fn stderr(&mut self, chunk: Bytes);
    /// What to write to standard input now. Once something was, the end is expected within [`Times::ending`].
    fn answer(&mut self) -> Option<Bytes>;
    /// What to write to standard input so that the far end stops, clears up and ends.
    fn dismissal(&self) -> Bytes;
}

/// What the API server reports of a process that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// It was not started, or nobody knows how it ended; the runtime's words.
    Unknown(String),
}

/// How an exec ended. None of these says that all bytes came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A status came, and after it the end of the connection (or too long nothing).
    Status(Exit),
    /// The API server closed the connection, and said nothing of the process.
    Closed,
    /// The connection broke.
    Lost(String),
    /// Silence for longer than [`Times::stall`].
    Stalled,
    /// The answer was sent, and nothing came after it.
    Silent,
    /// The dialogue refused what it was given.
    Refused(Failure),
    /// Nobody takes the bytes any more.
    ReaderGone,
    /// The token was cancelled.
    Cancelled,
}

/// Which container.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container.
    pub container: &'a str,
}

/// An open exec.
pub struct Session<S> {
    socket: WebSocketStream<S>,
}

/// Why an exec could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The program and its arguments do not fit into a request (64 KiB).
    #[error("the request is too long")]
    TooLong,
    /// No answer within [`Times::connect`].
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The API server refused; the client's error says why.
    #[error(transparent)]
    Refused(#[from] kube::Error),
}

/// Starts `argv` in a container, with standard input, output and error, no terminal. Tried once, but for a server that does
/// not take the first protocol; the client must not repeat by itself (`default_retry = false`).
pub async fn open(
    client: &kube::Client,
    place: Place<'_>,
    argv: &[String],
    times: &Times,
) -> Result<Session<impl AsyncRead + AsyncWrite + Unpin + Send + use<>>, OpenError> {
    // Standard input always: without it some runtimes end the session after the first burst of output.
    let params = AttachParams::default().container(place.container).stdin(true).stdout(true).stderr(true).tty(false);
    let request = || {
        let pods = kube::core::Request::new(Pod::url_path(&(), Some(place.namespace)));
        pods.exec(place.pod, argv, &params).map_err(|_| OpenError::TooLong)
    };
    let mut alone = request()?;
    alone.extensions_mut().insert(V4Alone);
    let any = request()?;
    let connection = timeout(times.connect, async {
        match client.connect(alone).await {
            Err(error) if is_another_protocol(&error) => client.connect(any).await,
            connection => connection,
        }
    });
    let connection = connection.await.map_err(|_| OpenError::TimedOut(times.connect))??;
    Ok(Session { socket: connection.into_stream() })
}

/// Whether it may be the protocol that was refused: by an answer other than 101, which is 403 of Kubernetes' own web socket
/// servers (`golang.org/x/net/websocket`), as of missing rights. Nothing was started then: the process begins after a 101.
fn is_another_protocol(error: &kube::Error) -> bool {
    match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(_)) => true,
        kube::Error::Api(status) => matches!(status.code, 400 | 403),
        _ => false,
    }
}

enum Frame {
    Stdout(Bytes),
    Stderr(Bytes),
    Status(Exit),
    /// Control frames and closed channels: a sign that a server on the way lives, none of the process.
    Other,
    Closed,
    Lost(String),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Session<S> {
    /// An exec on a socket that was upgraded by somebody else.
    pub const fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket }
    }

    /// Carries the exec to its end. Bytes go into `onward` in order; it is closed when this returns. After `cancel`, or
    /// when `onward` is closed, or when the dialogue refuses, the far end is told to stop and waited for, briefly.
    pub async fn run(
        mut self,
        dialogue: &mut impl Dialogue,
        onward: mpsc::Sender<Bytes>,
        times: &Times,
        cancel: &CancellationToken,
    ) -> End {
        let end = self.converse(dialogue, &onward, times, cancel).await;
        drop(onward);
        if matches!(end, End::Cancelled | End::ReaderGone | End::Refused(_)) {
            // The result is known; this only gives the far end the time to clean up.
            let _ = timeout(times.ending, self.dismiss(dialogue, times)).await;
        }
        end
    }

    async fn converse(
        &mut self,
        dialogue: &mut impl Dialogue,
        onward: &mpsc::Sender<Bytes>,
        times: &Times,
        cancel: &CancellationToken,
    ) -> End {
        let mut pending = VecDeque::new();
        let mut pings = pings(times);
        let mut deadline = Instant::now() + times.stall;
        let mut answered = false;
        let mut exit: Option<Exit> = None;
        // A write that fails ends nothing: what the far end had sent before may still wait to be read. Reading tells.
        let mut alive = true;
        loop {
            if !pending.is_empty() {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return End::Cancelled,
                    permit = onward.reserve() => match (permit, pending.pop_front()) {
                        (Ok(permit), Some(bytes)) => permit.send(bytes),
                        _ => return End::ReaderGone,
                    },
                    _ = pings.tick(), if alive => alive = self.send(Message::Ping(Bytes::new()), times).await,
                }
                // Time in which we did not read is nobody's silence.
                if exit.is_none() && !answered {
                    deadline = Instant::now() + times.stall;
                }
                continue;
            }
            let frame = tokio::select! {
                biased;
                () = cancel.cancelled() => return End::Cancelled,
                // After the answer the reader may go: it has everything.
                () = onward.closed(), if !answered => return End::ReaderGone,
                frame = self.frame() => frame,
                _ = pings.tick(), if alive => {
                    alive = self.send(Message::Ping(Bytes::new()), times).await;
                    continue;
                }
                () = sleep_until(deadline) => {
                    return exit.map_or(if answered { End::Silent } else { End::Stalled }, End::Status);
                }
            };
            match frame {
                Frame::Stdout(bytes) => {
                    if let Err(failure) = dialogue.stdout(bytes, &mut pending) {
                        return End::Refused(failure);
                    }
                }
                Frame::Stderr(bytes) => dialogue.stderr(bytes),
                Frame::Status(seen) => {
                    deadline = Instant::now() + times.rest;
                    exit = Some(seen);
                }
                Frame::Other => continue,
                Frame::Closed => return exit.map_or(End::Closed, End::Status),
                Frame::Lost(why) => return exit.map_or(End::Lost(why), End::Status),
            }
            if let Some(answer) = dialogue.answer() {
                alive &= self.write_stdin(&answer, times).await;
                answered = true;
                deadline = Instant::now() + times.ending;
            }
            if exit.is_none() && !answered {
                deadline = Instant::now() + times.stall;
            }
        }
    }

    async fn frame(&mut self) -> Frame {
        let bytes = match self.socket.next().await {
            None | Some(Ok(Message::Close(_)) | Err(SocketError::ConnectionClosed)) => return Frame::Closed,
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(_)) => return Frame::Other,
            Some(Err(error)) => return Frame::Lost(error.to_string()),
        };
        match bytes.first() {
            Some(&channel::STDOUT) if bytes.len() > 1 => Frame::Stdout(bytes.slice(1..)),
            Some(&channel::STDERR) if bytes.len() > 1 => Frame::Stderr(bytes.slice(1..)),
            Some(&channel::STATUS) if bytes.len() > 1 => Frame::Status(exit_of(&bytes[1..])),
            _ => Frame::Other,
        }
    }

    /// Whether the message got out.
    async fn send(&mut self, message: Message, times: &Times) -> bool {
        matches!(timeout(times.write, self.socket.send(message)).await, Ok(Ok(())))
    }

    async fn write_stdin(&mut self, bytes: &[u8], times: &Times) -> bool {
        let mut frame = Vec::with_capacity(bytes.len() + 1);
        frame.push(channel::STDIN);
        frame.extend_from_slice(bytes);
        self.send(Message::binary(frame), times).await
    }

    /// Tells the far end to stop, and reads on until it has ended.
    async fn dismiss(&mut self, dialogue: &mut impl Dialogue, times: &Times) {
        if !self.write_stdin(&dialogue.dismissal(), times).await {
            return;
        }
        loop {
            match self.frame().await {
                Frame::Stderr(bytes) => dialogue.stderr(bytes),
                Frame::Stdout(_) | Frame::Other => {}
                Frame::Status(_) | Frame::Closed | Frame::Lost(_) => return,
            }
        }
    }
}

fn pings(times: &Times) -> Interval {
    let mut pings = interval_at(Instant::now() + times.ping, times.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// The exit code in a `metav1.Status`: a cause with reason `ExitCode` (`remotecommand.NonZeroExitCodeReason`).
fn exit_of(json: &[u8]) -> Exit {
    let Ok(status) = serde_json::from_slice::<Status>(json) else {
        return Exit::Unknown("a status that is none".to_owned());
    };
    if status.status == Some(StatusSummary::Success) {
        return Exit::Code(0);
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let code = causes.filter(|cause| cause.reason == "ExitCode").find_map(|cause| cause.message.parse().ok());
    code.map_or(Exit::Unknown(status.message), Exit::Code)
}

#[cfg(test)]
mod tests;
