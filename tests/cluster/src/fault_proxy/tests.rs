//! The proxy in front of a small server of the tests' own, over loopback.

use super::end::{End, Tls};
use super::{Fault, FaultProxy, Protocol, Rule, Which};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Reads requests with a Content-Length, tells each (head and body) to the test, and answers with what it got.
fn server() -> (SocketAddr, Receiver<(String, Vec<u8>)>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.expect("a connection");
            let tell = tell.clone();
            thread::spawn(move || {
                while let Some((head, body)) = message(&mut stream) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = tell.send((head, body.clone()));
                    if stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, told)
}

/// A head and the body that its Content-Length promises; `None` if the stream ends before.
fn message(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn put(stream: &mut TcpStream, target: &str, body: &[u8]) {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: signed.example:1\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
}

fn status(stream: &mut impl Read) -> Option<u16> {
    message(stream)?.0.split(' ').nth(1)?.parse().ok()
}

#[test]
fn bytes_and_the_host_header_pass_unchanged() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    let body: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    for _ in 0..2 {
        put(&mut client, "/b/k?x=1", &body);
        let (_, echoed) = message(&mut client).expect("an answer");
        assert!(echoed == body, "the answer's body differs");
        let (head, received) = told.recv_timeout(PATIENCE).expect("a request");
        assert!(head.contains("Host: signed.example:1\r\n"), "{head}");
        assert!(received == body, "the request's body differs");
    }
    let seen =
        proxy.wait(PATIENCE, |seen| seen.requests.iter().all(|request| request.status == Some(200))).expect("two");
    assert_eq!((seen.connections, seen.requests.len(), seen.faults), (1, 2, 0));
    assert_eq!(seen.requests[0].target, "/b/k?x=1");
    assert!(seen.bytes_up > 400_000 && seen.bytes_down > 400_000);
}

#[test]
fn a_chunked_body_passes_and_the_connection_goes_on() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let proxy = FaultProxy::http("127.0.0.1", &socket.local_addr().expect("an address").to_string()).expect("a proxy");
    let request =
        "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nSum: 1\r\n\r\n";
    let server = thread::spawn(move || {
        let (mut stream, _) = socket.accept().expect("a connection");
        let mut got = vec![0; request.len()];
        stream.read_exact(&mut got).expect("the request");
        stream.write_all(ANSWER.as_bytes()).expect("sent");
        String::from_utf8(got).expect("text")
    });
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    client.write_all(request.as_bytes()).expect("sent");
    assert_eq!(server.join().expect("the server"), request);
    let mut answer = [0; ANSWER.len()];
    client.read_exact(&mut answer).expect("the answer");
    assert_eq!(std::str::from_utf8(&answer), Ok(ANSWER));
}

#[test]
fn every_third_part_is_refused_and_the_connection_stays() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::EveryNth(3), Fault::Status(503)).method("PUT").containing("partNumber="));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    let mut answers = Vec::new();
    for part in 1..=6 {
        put(&mut client, "/b/k", b"not a part");
        assert_eq!(status(&mut client), Some(200));
        put(&mut client, &format!("/b/k?partNumber={part}"), &vec![7; 100_000]);
        answers.push(status(&mut client).expect("an answer"));
    }
    assert_eq!(answers, [200, 200, 503, 200, 200, 503]);
    let seen = proxy.seen();
    assert_eq!((seen.connections, seen.faults), (1, 2));
    assert_eq!(told.try_iter().count(), 10, "the server must not hear of a refused request");
}

#[test]
fn a_redirect_says_where_and_the_connection_stays() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::First(1), Fault::Redirect("http://elsewhere.example/x".to_owned())));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/b/k", &vec![7; 100_000]);
    let (head, _) = message(&mut client).expect("an answer");
    assert!(
        head.starts_with("HTTP/1.1 307 ") && head.contains("\r\nLocation: http://elsewhere.example/x\r\n"),
        "{head}"
    );
    put(&mut client, "/b/k", b"here");
    assert_eq!(status(&mut client), Some(200));
    assert_eq!((proxy.seen().connections, proxy.seen().faults), (1, 1));
    assert_eq!(told.try_iter().count(), 1, "the server must not hear of a redirected request");
}

#[test]
fn a_connection_is_cut_after_so_many_bytes() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::Nth(1), Fault::CutAfter(70_000)));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/b/k", &vec![1; 100_000]);
    assert_eq!(status(&mut client), None);
    assert!(told.try_recv().is_err(), "the server got a whole request");
    let seen = proxy.wait(PATIENCE, |seen| seen.open == 0).expect("closed");
    assert!((70_000..71_000).contains(&seen.bytes_up), "{}", seen.bytes_up);
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/b/k", b"once more");
    assert_eq!(status(&mut client), Some(200));
}

#[test]
fn a_reset_is_no_orderly_end() {
    let (address, told) = server();
    // Everything was read and answered: only a reset makes the next read an error.
    let proxy = FaultProxy::tcp("127.0.0.1", &address.to_string()).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/", b"before");
    assert_eq!(status(&mut client), Some(200));
    proxy.reset();
    assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    proxy.wait(PATIENCE, |seen| seen.open == 0).expect("closed");
    assert_eq!(told.try_iter().count(), 1);

    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::Nth(1), Fault::ResetAfter(20_000)));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    let head = b"PUT / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n";
    client.write_all(head).and_then(|()| client.write_all(&vec![1; 20_000])).expect("sent");
    // Not a byte more was sent than was passed on.
    assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert!(told.try_recv().is_err(), "the server got a whole request");
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/", b"once more");
    assert_eq!(status(&mut client), Some(200));
}

#[test]
fn a_reset_befalls_every_connection_that_is_open_and_none_that_comes_after() {
    let (address, told) = server();
    let proxy = FaultProxy::tcp("127.0.0.1", &address.to_string()).expect("a proxy");
    let connected = || {
        let mut client = TcpStream::connect(proxy.address()).expect("a connection");
        put(&mut client, "/", b"asked");
        assert_eq!(status(&mut client), Some(200));
        client
    };
    let clients = [connected(), connected(), connected()];
    proxy.reset();
    for mut client in clients {
        assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
    let _later = connected();
    let seen = proxy.wait(PATIENCE, |seen| seen.open == 1).expect("the later one alone");
    assert_eq!((seen.connections, told.try_iter().count()), (4, 4));
}

#[test]
fn the_work_is_done_and_nobody_is_told() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::All, Fault::CutAnswerAfter(0)));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/b/k", b"committed");
    assert_eq!(status(&mut client), None);
    assert_eq!(told.recv_timeout(PATIENCE).expect("the request").1, b"committed");
}

#[test]
fn one_bit_is_another_one() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::First(1), Fault::Corrupt));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    for expected in [&b"`bc"[..], b"abc"] {
        put(&mut client, "/b/k", b"abc");
        assert_eq!(status(&mut client), Some(200));
        assert_eq!(told.recv_timeout(PATIENCE).expect("the request").1, expected);
    }
}

#[test]
fn a_stalled_request_waits_for_its_release() {
    let (address, told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.rule(Rule::new(Which::First(1), Fault::Stall));
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/b/k", b"patience");
    proxy.wait(PATIENCE, |seen| seen.faults == 1).expect("the request");
    assert!(told.try_recv().is_err());
    proxy.release();
    assert_eq!(status(&mut client), Some(200));
}

#[test]
fn a_stall_keeps_connections_open_and_a_cut_ends_them() {
    let (address, told) = server();
    let proxy = FaultProxy::tcp("127.0.0.1", &address.to_string()).expect("a proxy");
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    put(&mut client, "/", b"before");
    assert_eq!(status(&mut client), Some(200));
    proxy.stall(true);
    let before = proxy.seen().bytes_up;
    put(&mut client, "/", b"during");
    assert_eq!(proxy.seen().open, 1);
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    assert!(client.read(&mut [0]).is_err(), "something came through a stall");
    assert_eq!(proxy.seen().bytes_up, before);
    client.set_read_timeout(None).expect("set");
    proxy.stall(false);
    assert_eq!(status(&mut client), Some(200));
    assert_eq!(told.try_iter().count(), 2);
    proxy.cut();
    assert_eq!(status(&mut client), None);
    proxy.wait(PATIENCE, |seen| seen.open == 0).expect("closed");
    proxy.refuse(true);
    let mut client = TcpStream::connect(proxy.address()).expect("a connection");
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(proxy.seen().connections, 1);
}

#[test]
fn within_tls_a_request_is_chosen_and_what_comes_after_an_upgrade_passes_both_ways() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = || Tls::new(certificate.as_bytes(), key.as_bytes(), certificate.as_bytes()).expect("PEM");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address").to_string();
    let proxy = FaultProxy::start("127.0.0.1", &address, Protocol::Https(tls())).expect("a proxy");
    proxy.rule(Rule::new(Which::Nth(1), Fault::Status(503)).method("GET"));
    let shown = tls();
    let server = thread::spawn(move || {
        let (stream, _) = socket.accept().expect("a connection");
        let end = End::of_client(stream, &shown).expect("TLS");
        let mut stream = &end;
        let (asked, _) = message(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("sent");
        message(&mut stream).expect("a request");
        // The first bytes come with the head.
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nearly").expect("sent");
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).expect("bytes");
        stream.write_all(b"later").expect("sent");
        end.shutdown(Shutdown::Both);
        (asked, heard)
    });
    let stream = TcpStream::connect(proxy.address()).expect("a connection");
    let end = End::of_server(stream, &tls(), &address).expect("TLS");
    let mut client = &end;
    for (path, answer) in [("/1", 503), ("/2", 200)] {
        client.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).expect("sent");
        assert_eq!(status(&mut client), Some(answer));
    }
    client.write_all(b"GET /3 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").expect("sent");
    assert_eq!(status(&mut client), Some(101));
    client.write_all(b"hello").expect("sent");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(rest, b"earlylater");
    let (asked, heard) = server.join().expect("the server");
    assert!(asked.starts_with("GET /2 "), "{asked}");
    assert_eq!(&heard, b"hello");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a bandwidth is measured by the machine's clock")]
fn a_limit_is_kept_over_all_connections_together() {
    let (address, _told) = server();
    let proxy = FaultProxy::http("127.0.0.1", &address.to_string()).expect("a proxy");
    proxy.limit(Some(1_000_000));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = TcpStream::connect(proxy.address()).expect("a connection");
                put(&mut client, "/", &vec![1; 250_000]);
                assert_eq!(status(&mut client), Some(200));
            });
        }
    });
    // 500,000 bytes up at 1,000,000 per second; the way back overlaps.
    assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
}

#[test]
fn which_counts_from_one() {
    let chosen = |which: Which| (1..=6).filter(|number| which.holds(*number)).collect::<Vec<_>>();
    assert_eq!(chosen(Which::All), [1, 2, 3, 4, 5, 6]);
    assert_eq!(chosen(Which::First(2)), [1, 2]);
    assert_eq!(chosen(Which::Nth(4)), [4]);
    assert_eq!(chosen(Which::EveryNth(2)), [2, 4, 6]);
    assert_eq!(chosen(Which::EveryNth(0)), [0; 0]);
}
