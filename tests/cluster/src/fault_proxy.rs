//! **A** A proxy that breaks things on purpose, in the test's own process.
//!
//! It stands in front of a real server (S3 by HTTP, the API server by HTTPS, or by plain TCP) and passes every byte on
//! unchanged, the `Host` header included, which S3 signatures cover. A test tells it what shall go wrong, and asks it what it saw:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use rig::fault_proxy::{Fault, FaultProxy, Rule, Which};
//! let cluster = rig::Cluster::from_env()?;
//! let proxy = FaultProxy::http(&cluster.node, &cluster.s3.address())?;
//! proxy.limit(Some(5_000_000));
//! proxy.rule(Rule::new(Which::EveryNth(3), Fault::Status(503)).method("PUT").containing("partNumber="));
//! // … a backup to proxy.endpoint() …
//! assert!(proxy.seen().faults > 0);
//! # Ok(()) }
//! ```
//!
//! It works with threads, two at most for each connection, and no runtime: what a test's own runtime does or does not do
//! cannot hold it up. Dropping it cuts every connection.

mod end;
mod http;
mod relay;

use crate::Cluster;
use anyhow::{Context, Result, bail};
use end::Tls;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What shall happen to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body is read and thrown away, and this status is the answer; the server never hears of it. The connection
    /// stays usable.
    Status(u16),
    /// The same, and the answer (307) leads to this address.
    Redirect(String),
    /// Client and server are both cut off when so many bytes of the request's body were passed on.
    CutAfter(u64),
    /// The same, and both are sent a reset (RST) instead of an orderly end (FIN): what is on its way is thrown away.
    ResetAfter(u64),
    /// The request reaches the server whole; client and server are cut off when so many bytes of the answer's body were
    /// passed back. 0: the server did the work, and nobody is told.
    CutAnswerAfter(u64),
    /// One bit of the request's body is another one when it reaches the server (of a body with a length, not chunked).
    Corrupt,
    /// Nothing is passed on and nothing answered until [`FaultProxy::release`], [`FaultProxy::cut`] or the end. What is released
    /// reaches the server whole, also if the client has given it up meanwhile.
    Stall,
}

/// Which of the requests that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// The first so many.
    First(u64),
    /// Only this one, counted from 1.
    Nth(u64),
    /// The n-th, the 2n-th, …
    EveryNth(u64),
}

impl Which {
    /// Whether the request with this number (from 1) is one of them.
    fn holds(self, number: u64) -> bool {
        match self {
            Which::All => true,
            Which::First(count) => number <= count,
            Which::Nth(nth) => number == nth,
            Which::EveryNth(nth) => nth > 0 && number.is_multiple_of(nth),
        }
    }
}

/// A fault, and the requests that it befalls. The first rule that matches decides.
#[derive(Clone, Debug)]
pub struct Rule {
    method: Option<String>,
    containing: Vec<String>,
    which: Which,
    fault: Fault,
    matched: u64,
}

impl Rule {
    /// For requests of any kind.
    pub fn new(which: Which, fault: Fault) -> Rule {
        Rule { method: None, containing: Vec::new(), which, fault, matched: 0 }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Rule {
        self.method = Some(method.to_owned());
        self
    }

    /// Only where path and query, as they stand in the request, contain this; more than one: all of them.
    #[must_use]
    pub fn containing(mut self, text: &str) -> Rule {
        self.containing.push(text.to_owned());
        self
    }

    fn matches(&self, method: &str, target: &str) -> bool {
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self.containing.iter().all(|text| target.contains(text.as_str()))
    }
}

/// One request that passed, or was kept from passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `PUT`
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// What befell it.
    pub fault: Option<Fault>,
    /// The answer's status, once there was one.
    pub status: Option<u16>,
}

/// What the proxy saw until now.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, still open.
    pub open: u64,
    /// Bytes passed on to the server, heads included.
    pub bytes_up: u64,
    /// Bytes passed back to clients.
    pub bytes_down: u64,
    /// Faults that befell a request. Connections cut by [`FaultProxy::cut`] or reset by [`FaultProxy::reset`] do not count.
    pub faults: u64,
    /// Every request, in the order of arrival (by HTTP only).
    pub requests: Vec<Request>,
}

/// The proxy. It listens until it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

enum Protocol {
    Http,
    Https(Tls),
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

#[derive(Default)]
struct State {
    seen: Seen,
    rules: Vec<Rule>,
    /// Bytes per second, in each direction.
    limit: Option<u64>,
    /// When the next byte may pass, up and down.
    free: [Option<Instant>; 2],
    stalled: bool,
    refusing: bool,
    ended: bool,
    /// How often `release` was called.
    releases: u64,
    /// The ends of each open connection, to be cut.
    streams: BTreeMap<u64, Vec<TcpStream>>,
}

struct Shared {
    upstream: String,
    protocol: Protocol,
    state: Mutex<State>,
    changed: Condvar,
}

impl FaultProxy {
    /// In front of an HTTP/1.1 server at `upstream` (`HOST:PORT`), on a free port of the address `on`. Rules apply.
    pub fn http(on: &str, upstream: &str) -> Result<FaultProxy> {
        FaultProxy::start(on, upstream, Protocol::Http)
    }

    /// In front of the cluster's API server, with whose own certificate it shows itself. Clients are known by their tokens,
    /// which pass; one that has a certificate is nobody behind it. Rules apply, to the beginning of an exec as well, whose
    /// bytes then pass both ways.
    pub fn api(cluster: &Cluster) -> Result<FaultProxy> {
        let read = |name: &str| {
            let path = cluster.state.join("pki").join(name);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let tls = Tls::new(&read("apiserver.crt")?, &read("apiserver.key")?, &read("ca.crt")?)?;
        FaultProxy::start(&cluster.node, &cluster.api, Protocol::Https(tls))
    }

    /// In front of any server: bytes pass both ways. Limit, stall, cut and reset apply, rules do not.
    pub fn tcp(on: &str, upstream: &str) -> Result<FaultProxy> {
        FaultProxy::start(on, upstream, Protocol::Tcp)
    }

    fn start(on: &str, upstream: &str, protocol: Protocol) -> Result<FaultProxy> {
        let socket = TcpListener::bind((on, 0)).with_context(|| format!("cannot listen on {on}"))?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            protocol,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let listener = thread::spawn(move || relay::accept(&socket, &accepting));
        Ok(FaultProxy { address, shared, listener: Some(listener) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as the endpoint of an S3 server.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// At most so many bytes per second, in each direction, over all connections together; `None`: no limit.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        self.change(|state| {
            state.limit = bytes_per_second;
            state.free = [None, None];
        });
    }

    /// Adds a rule behind those that there are.
    pub fn rule(&self, rule: Rule) {
        self.change(|state| state.rules.push(rule));
    }

    /// Takes all rules away. What stalls by one goes on stalling until [`FaultProxy::release`].
    pub fn forget_rules(&self) {
        self.change(|state| state.rules.clear());
    }

    /// From now on no byte passes, on connections old and new, while all of them stay open; `false` ends it.
    pub fn stall(&self, stalled: bool) {
        self.change(|state| state.stalled = stalled);
    }

    /// Lets go on what a rule with [`Fault::Stall`] holds at this moment.
    pub fn release(&self) {
        self.change(|state| state.releases += 1);
    }

    /// Cuts every connection that is open now. New ones are accepted.
    pub fn cut(&self) {
        self.change(State::cut);
    }

    /// The same by a reset (RST) of both ends, as [`Fault::ResetAfter`] has it.
    pub fn reset(&self) {
        self.change(State::reset);
    }

    /// From now on every new connection is closed as soon as it is accepted; `false` ends it.
    pub fn refuse(&self, refusing: bool) {
        self.change(|state| state.refusing = refusing);
    }

    /// What was seen until now.
    pub fn seen(&self) -> Seen {
        self.shared.lock().seen.clone()
    }

    /// Blocks until what was seen satisfies `holds`, and returns it; an error after `patience`. In an asynchronous test,
    /// call it on a blocking thread: it would hold up the runtime.
    pub fn wait(&self, patience: Duration, holds: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let state = self.shared.lock();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, patience, |state| !holds(&state.seen))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("the proxy did not see what was waited for within {patience:?}: {:?}", state.seen);
        }
        Ok(state.seen.clone())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.change(|state| {
            state.ended = true;
            state.cut();
        });
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl State {
    fn cut(&mut self) {
        for stream in std::mem::take(&mut self.streams).into_values().flatten() {
            // It may have ended by itself meanwhile.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn reset(&mut self) {
        for stream in std::mem::take(&mut self.streams).into_values().flatten() {
            reset(&stream);
        }
    }
}

/// Resets a connection at once: closing it, with `SO_LINGER` of 0 or not, would wait for its last descriptor, and threads
/// hold some.
fn reset(stream: &TcpStream) {
    // It may have ended by itself meanwhile.
    let _ = rustix::net::connect_unspec(stream);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere still gets its proxy ended.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
