//! **A** The bytes on their way: one thread for each connection, by HTTP request after request, by TCP (and after an upgrade)
//! both ways at once.

use super::end::End;
use super::http::{self, Body, Head};
use super::{Direction, Fault, Protocol, Request, Shared};
use std::cell::OnceCell;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// So much is passed on at once: little, so that a limit, a stall or a cut comes at the byte where it should.
const PIECE: usize = 16 << 10;
/// A head longer than this is not one.
const LONGEST_HEAD: u64 = 64 << 10;

/// Accepts connections until the proxy ends.
pub(super) fn accept(socket: &TcpListener, shared: &Arc<Shared>) {
    let mut number = 0;
    while let Ok((client, _)) = socket.accept() {
        let mut state = shared.lock();
        if state.ended {
            return;
        }
        if state.refusing {
            continue;
        }
        number += 1;
        state.seen.connections += 1;
        state.seen.open += 1;
        drop(state);
        shared.changed.notify_all();
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let connection = Connection { shared: &shared, number };
            // Whichever side ended it: the other one is told by the streams' end.
            let _ = connection.serve(client);
            let mut state = shared.lock();
            state.streams.remove(&number);
            state.seen.open -= 1;
            drop(state);
            shared.changed.notify_all();
        });
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Connection<'_> {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        self.note_stream(&client)?;
        let client = match &self.shared.protocol {
            Protocol::Tcp => {
                let (client, server) = (End::plain(client), self.server()?);
                return self.pass_both_ways((&client, &client), (&server, &server));
            }
            Protocol::Http => End::plain(client),
            Protocol::Https(tls) => End::of_client(client, tls)?,
        };
        self.pass_requests(&client)?;
        client.shutdown(Shutdown::Both);
        Ok(())
    }

    /// A connection to the server.
    fn server(&self) -> io::Result<End> {
        let upstream = &self.shared.upstream;
        let server = TcpStream::connect(upstream)?;
        self.note_stream(&server)?;
        match &self.shared.protocol {
            Protocol::Https(tls) => End::of_server(server, tls, upstream),
            Protocol::Http | Protocol::Tcp => Ok(End::plain(server)),
        }
    }

    /// From now on it can be cut.
    fn note_stream(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let clone = stream.try_clone()?;
        self.shared.lock().streams.entry(self.number).or_default().push(clone);
        Ok(())
    }

    /// Each with what is read of it: the end itself, or what has been read ahead of it before that.
    fn pass_both_ways(
        &self,
        (mut from_client, client): (impl Read + Send, &End),
        (mut from_server, server): (impl Read, &End),
    ) -> io::Result<()> {
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = self.carry(&mut from_client, &mut &*server, Direction::Up, None);
                server.shutdown(Shutdown::Write);
            });
            let result = self.carry(&mut from_server, &mut &*client, Direction::Down, None);
            // A server that has said all closes; half-open connections are not what is tested here.
            client.shutdown(Shutdown::Both);
            server.shutdown(Shutdown::Both);
            result.map(drop)
        })
    }

    fn pass_requests(&self, client: &End) -> io::Result<()> {
        let mut from_client = BufReader::new(client);
        // Not before there is something to pass on: a server ends a connection on which nothing is asked for a while.
        let (connected, mut reading) = (OnceCell::new(), None);
        while let Some((head, text)) = read_head(&mut from_client)? {
            let [method, target, _] = &head.first;
            let (index, fault, releases) = self.note(method, target);
            if head.expects {
                (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let own_answer = match &fault {
                Some(Fault::Status(status)) => Some((*status, http::refusal(*status))),
                Some(Fault::Redirect(location)) => Some((307, http::redirect(location))),
                _ => None,
            };
            if let Some((status, answer)) = own_answer {
                self.body(&mut from_client, &mut io::sink(), Direction::Up, head.request_body(), None)?;
                self.note_status(index, status);
                // The answer to a HEAD has no body.
                let end = answer.find("\r\n\r\n").map_or(answer.len(), |end| end + 4);
                let answer = if method == "HEAD" { &answer[..end] } else { &answer };
                self.carry(&mut answer.as_bytes(), &mut &*client, Direction::Down, None)?;
                continue;
            }
            let mut held = Vec::new();
            if fault == Some(Fault::Stall) {
                // All of it: the client may have gone when it goes on.
                self.body(&mut from_client, &mut held, Direction::Up, head.request_body(), None)?;
                self.hold(releases)?;
            }
            let cut = match fault {
                Some(Fault::CutAfter(bytes) | Fault::ResetAfter(bytes)) => Some(bytes),
                _ => None,
            };
            let server = if let Some(server) = connected.get() {
                server
            } else {
                let server = self.server()?;
                connected.get_or_init(|| server)
            };
            let from_server = reading.get_or_insert_with(|| BufReader::new(server));
            self.carry(&mut text.as_slice(), &mut &*server, Direction::Up, None)?;
            let mut to_server = Spoiling { to: server, spoil: fault == Some(Fault::Corrupt) };
            let body = head.request_body();
            let sent = if let Some(Fault::Stall) = fault {
                self.body(&mut held.as_slice(), &mut to_server, Direction::Up, body, None)
            } else {
                self.body(&mut from_client, &mut to_server, Direction::Up, body, cut)
            };
            if let Some(Fault::ResetAfter(_)) = fault {
                client.reset();
                server.reset();
            }
            match sent {
                // The server may have answered and closed before it heard all: its answer is passed back.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                other => other?,
            }
            if cut.is_some() {
                // The body was shorter than the cut: it comes now.
                return Err(cut_off());
            }
            let cut = if let Some(Fault::CutAnswerAfter(bytes)) = fault { Some(bytes) } else { None };
            loop {
                let Some((answer, text)) = read_head(from_server)? else { return Ok(()) };
                let status = answer.status().ok_or_else(|| invalid("a status"))?;
                // We said 100 ourselves.
                if status == 100 {
                    continue;
                }
                let body = answer.response_body(method);
                let passed = if cut == Some(0) {
                    Ok(0)
                } else {
                    self.carry(&mut text.as_slice(), &mut &*client, Direction::Down, None)
                };
                let passed = passed.and_then(|_| self.body(from_server, &mut &*client, Direction::Down, body, cut));
                // Also where the client has gone: the server did answer.
                self.note_status(index, status);
                passed?;
                if cut.is_some() {
                    return Err(cut_off());
                }
                // From here on they speak something else.
                if status == 101 {
                    return self.pass_both_ways((from_client, client), (from_server, server));
                }
                if answer.close || head.close || body == Body::UntilClose {
                    return Ok(());
                }
                break;
            }
        }
        Ok(())
    }

    /// Passes a body on, and ends with an error after `cut` of its bytes.
    fn body(
        &self,
        from: &mut impl BufRead,
        to: &mut impl Write,
        direction: Direction,
        body: Body,
        cut: Option<u64>,
    ) -> io::Result<()> {
        let limited = |size: u64, left: Option<u64>| left.map_or(size, |left| left.min(size));
        match body {
            Body::UntilClose => {
                self.carry(from, to, direction, cut)?;
            }
            Body::Length(length) => {
                let wanted = limited(length, cut);
                let passed = self.carry(from, to, direction, Some(wanted))?;
                if passed < wanted {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if wanted < length {
                    return Err(cut_off());
                }
            }
            Body::Chunked => {
                let mut left = cut;
                loop {
                    let line = read_line(from)?;
                    let size = http::chunk_size(&line).ok_or_else(|| invalid("a chunk's size"))?;
                    self.carry(&mut line.as_slice(), to, direction, None)?;
                    let wanted = limited(size, left);
                    self.carry(from, to, direction, Some(wanted))?;
                    if wanted < size {
                        return Err(cut_off());
                    }
                    left = left.map(|left| left - wanted);
                    // What ends a chunk; after the last one, trailers up to a blank line.
                    loop {
                        let line = read_line(from)?;
                        self.carry(&mut line.as_slice(), to, direction, None)?;
                        if size > 0 || line == b"\r\n" {
                            break;
                        }
                    }
                    if size == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Passes bytes on, `length` of them or all that there are, piece by piece as limit and stall allow.
    fn carry(
        &self,
        from: &mut impl Read,
        to: &mut impl Write,
        direction: Direction,
        length: Option<u64>,
    ) -> io::Result<u64> {
        let mut piece = [0; PIECE];
        let mut passed = 0;
        loop {
            let room = length.map_or(PIECE as u64, |length| (length - passed).min(PIECE as u64));
            if room == 0 {
                // Not even asked: a buffered reader would wait for what comes after.
                return Ok(passed);
            }
            let read = from.read(&mut piece[..usize::try_from(room).unwrap_or(PIECE)])?;
            if read == 0 {
                return Ok(passed);
            }
            self.wait_for_turn(direction, read as u64)?;
            to.write_all(&piece[..read])?;
            passed += read as u64;
            let mut state = self.shared.lock();
            match direction {
                Direction::Up => state.seen.bytes_up += read as u64,
                Direction::Down => state.seen.bytes_down += read as u64,
            }
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Blocks while the proxy stalls, and for as long as the limit wants for this many bytes.
    #[expect(clippy::disallowed_methods, reason = "a bandwidth is bytes by the machine's clock; no test's verdict is")]
    fn wait_for_turn(&self, direction: Direction, bytes: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        while state.stalled && state.streams.contains_key(&self.number) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(limit) = state.limit.filter(|limit| *limit > 0) {
            let now = Instant::now();
            let slot = &mut state.free[direction as usize];
            let micros = bytes.saturating_mul(1_000_000) / limit;
            let turn = slot.map_or(now, |free| free.max(now)) + Duration::from_micros(micros);
            *slot = Some(turn);
            while state.limit.is_some() && state.streams.contains_key(&self.number) {
                let left = turn.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self
                    .shared
                    .changed
                    .wait_timeout(state, left)
                    .map_or_else(|poison| poison.into_inner().0, |pair| pair.0);
            }
        }
        if state.streams.contains_key(&self.number) { Ok(()) } else { Err(cut_off()) }
    }

    /// Blocks until somebody releases what is held, or cuts the connection. `before` is how often that was done when the
    /// request was noted: who saw it there may release it before this is reached.
    fn hold(&self, before: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        while state.releases == before {
            if !state.streams.contains_key(&self.number) {
                return Err(cut_off());
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Notes a request, and says what shall befall it, and how often what is held was released until now.
    fn note(&self, method: &str, target: &str) -> (usize, Option<Fault>, u64) {
        let mut state = self.shared.lock();
        let mut fault = None;
        for rule in state.rules.iter_mut().filter(|rule| rule.matches(method, target)) {
            rule.matched += 1;
            if fault.is_none() && rule.which.holds(rule.matched) {
                fault = Some(rule.fault.clone());
            }
        }
        state.seen.faults += u64::from(fault.is_some());
        let index = state.seen.requests.len();
        let (method, target) = (method.to_owned(), target.to_owned());
        state.seen.requests.push(Request { method, target, fault: fault.clone(), status: None });
        let releases = state.releases;
        drop(state);
        self.shared.changed.notify_all();
        (index, fault, releases)
    }

    fn note_status(&self, index: usize, status: u16) {
        if let Some(request) = self.shared.lock().seen.requests.get_mut(index) {
            request.status = Some(status);
        }
        self.shared.changed.notify_all();
    }
}

/// Turns one bit of the first byte around, where it is told to.
struct Spoiling<'a> {
    to: &'a End,
    spoil: bool,
}

impl Write for Spoiling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let (true, Some(first)) = (self.spoil, bytes.first()) {
            (&mut &*self.to).write_all(&[first ^ 1])?;
            self.spoil = false;
            return Ok(1);
        }
        (&mut &*self.to).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&mut &*self.to).flush()
    }
}

/// A head with its text; `None` at the orderly end of the stream.
fn read_head(from: &mut impl BufRead) -> io::Result<Option<(Head, Vec<u8>)>> {
    let mut text = Vec::new();
    let mut from = from.take(LONGEST_HEAD);
    while !text.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut text)? == 0 {
            return if text.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
    }
    let head = Head::parse(&text).ok_or_else(|| invalid("a head"))?;
    Ok(Some((head, text)))
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not {what} of HTTP/1.1"))
}

/// By a rule, or by `FaultProxy::cut`.
fn cut_off() -> io::Error {
    ErrorKind::ConnectionAborted.into()
}
