//! **P** As much of HTTP/1.1 as it takes to know where a message ends (RFC 9112, section 6).

/// A request's or response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The three words of the first line.
    pub(super) first: [String; 3],
    /// `Content-Length`
    pub(super) length: Option<u64>,
    /// `Transfer-Encoding: chunked`
    pub(super) chunked: bool,
    /// `Connection: close`
    pub(super) close: bool,
    /// `Expect: 100-continue`
    pub(super) expects: bool,
}

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// Reads a head, blank line included. `None`: it is not one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.splitn(3, ' ').map(ToOwned::to_owned);
        // A response may lack the reason.
        let first = [words.next()?, words.next()?, words.next().unwrap_or_default()];
        let mut head = Head { first, length: None, chunked: false, close: false, expects: false };
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.parse().ok()?),
                "transfer-encoding" => head.chunked = value.to_ascii_lowercase().ends_with("chunked"),
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                "expect" => head.expects = value.eq_ignore_ascii_case("100-continue"),
                _ => {}
            }
        }
        Some(head)
    }

    /// A response's status.
    pub(super) fn status(&self) -> Option<u16> {
        self.first[1].parse().ok()
    }

    /// The body of a request with this head.
    pub(super) fn request_body(&self) -> Body {
        if self.chunked { Body::Chunked } else { Body::Length(self.length.unwrap_or(0)) }
    }

    /// The body of the response with this head to a request of this method.
    pub(super) fn response_body(&self, method: &str) -> Body {
        if method == "HEAD" || matches!(self.status(), Some(100..=199 | 204 | 304)) {
            return Body::Length(0);
        }
        match self.length {
            _ if self.chunked => Body::Chunked,
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        }
    }
}

/// The size in a chunk's first line: hexadecimal, perhaps with extensions behind a semicolon.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.trim();
    u64::from_str_radix(text.split(';').next()?.trim(), 16).ok()
}

/// The answer of a server that cannot, as S3 words it. The client shall use the connection again.
pub(super) fn refusal(status: u16) -> String {
    let code = match status {
        403 => "AccessDenied",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>");
    format!("HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The answer of a server that sends its clients elsewhere.
pub(super) fn redirect(location: &str) -> String {
    format!("HTTP/1.1 307 Fault\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{Body, Head, chunk_size};
    use proptest::prelude::*;

    #[test]
    fn heads_say_where_bodies_end() {
        let parse = |text: &str| Head::parse(text.as_bytes()).expect("a head");
        let put = parse("PUT /b/k?partNumber=1 HTTP/1.1\r\nHost: x\r\ncontent-length: 12\r\n\r\n");
        assert_eq!(put.first[1], "/b/k?partNumber=1");
        assert_eq!(put.request_body(), Body::Length(12));
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n").request_body(), Body::Length(0));
        assert_eq!(parse("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n").request_body(), Body::Chunked);
        let answer = parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n");
        assert_eq!((answer.status(), answer.close), (Some(200), true));
        assert_eq!(answer.response_body("GET"), Body::Length(5));
        assert_eq!(answer.response_body("HEAD"), Body::Length(0));
        assert_eq!(parse("HTTP/1.1 204\r\n\r\n").response_body("PUT"), Body::Length(0));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n").response_body("GET"), Body::UntilClose);
        assert_eq!(Head::parse(b"GET\r\n\r\n"), None);
        assert_eq!(Head::parse(b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n"), None);
    }

    proptest! {
        #[test]
        fn a_chunk_size_is_read_as_written(size in any::<u64>(), upper in any::<bool>(), extended in any::<bool>()) {
            let mut line = if upper { format!("{size:X}") } else { format!("{size:x}") };
            if extended { line.push_str(";name=value"); }
            line.push_str("\r\n");
            prop_assert_eq!(chunk_size(line.as_bytes()), Some(size));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::parse(&bytes);
            let _ = chunk_size(&bytes);
        }
    }
}
