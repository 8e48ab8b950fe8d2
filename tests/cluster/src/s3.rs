//! **A** As much of S3 as it takes to make a bucket and to see which uploads are open: signed requests over plain HTTP.
//!
//! Buckets are made through the API: a folder made by hand below versitygw's root lacks the bucket's attributes, and is
//! answered with 500 to clients that send an ACL header.

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const REGION: &str = "us-east-1";
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a bucket at `endpoint` (`http://HOST:PORT`); one that is there already, and is ours, is good.
pub fn make_bucket(endpoint: &str, access_key: &str, secret_key: &str, bucket: &str) -> Result<()> {
    let answer =
        ask(endpoint, &Request { method: "PUT", path: &format!("/{bucket}"), query: "" }, access_key, secret_key)?;
    if status(&answer) == "200" || answer.contains("BucketAlreadyOwnedByYou") {
        return Ok(());
    }
    bail!("the S3 server did not make the bucket {bucket}: {}", answer.trim())
}

/// Keys of the multipart uploads that are open below `prefix`. Fewer than a thousand, or it is an error.
pub fn open_uploads(
    endpoint: &str,
    access_key: &str,
    secret_key: &str,
    bucket: &str,
    prefix: &str,
) -> Result<Vec<String>> {
    // In the order that the signature wants.
    let query = format!("prefix={}&uploads=", percent(prefix));
    let answer =
        ask(endpoint, &Request { method: "GET", path: &format!("/{bucket}"), query: &query }, access_key, secret_key)?;
    if status(&answer) != "200" || answer.contains("<IsTruncated>true</IsTruncated>") {
        bail!("the S3 server did not list the uploads of {bucket}/{prefix}: {}", answer.trim());
    }
    let uploads = answer.split("<Upload>").skip(1);
    uploads
        .map(|upload| {
            let key = upload.split_once("<Key>").and_then(|(_, rest)| rest.split_once("</Key>"));
            key.map(|(key, _)| key.to_owned()).context("an upload without a key")
        })
        .collect()
}

/// A request without a body.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// Encoded, sorted, without the question mark.
    query: &'a str,
}

/// Sends it and gives the whole answer, head included.
fn ask(endpoint: &str, request: &Request<'_>, access_key: &str, secret_key: &str) -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the server compares the signature's time with its own clock")]
    let now = Utc::now();
    let host = endpoint.strip_prefix("http://").context("the endpoint is not http://HOST:PORT")?;
    let request = signed(request, host, access_key, secret_key, now);
    let mut stream = TcpStream::connect(host).with_context(|| format!("cannot reach {host}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the S3 server did not answer")?;
    Ok(answer)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A request as Signature Version 4 signs it (docs.aws.amazon.com, "Create a signed AWS API request").
fn signed(
    Request { method, path, query }: &Request<'_>,
    host: &str,
    access_key: &str,
    secret_key: &str,
    now: DateTime<Utc>,
) -> String {
    let time = now.format("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let empty = hex(&Sha256::digest(b""));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{time}\n\n{names}\n{empty}"
    );
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret_key}").into_bytes(), |key, word| mac(&key, word.as_bytes()));
    let signature = hex(&mac(&key, text.as_bytes()));
    let question = if query.is_empty() { "" } else { "?" };
    format!(
        "{method} {path}{question}{query} HTTP/1.1\r\nHost: {host}\r\nX-Amz-Content-Sha256: {empty}\r\nX-Amz-Date: \
         {time}\r\nAuthorization: AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, \
         Signature={signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// As a query holds it: everything but the unreserved characters of RFC 3986 is encoded.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // An HMAC takes a key of any length; the error is for other kinds of codes.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
