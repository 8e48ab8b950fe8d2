//! **A** As much of S3 as it takes to make a bucket: one signed request over plain HTTP.
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
    #[expect(clippy::disallowed_methods, reason = "the server compares the signature's time with its own clock")]
    let now = Utc::now();
    let host = endpoint.strip_prefix("http://").context("the endpoint is not http://HOST:PORT")?;
    let request = signed_put(host, &format!("/{bucket}"), access_key, secret_key, now);
    let mut stream = TcpStream::connect(host).with_context(|| format!("cannot reach {host}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the S3 server did not answer")?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status == "200" || answer.contains("BucketAlreadyOwnedByYou") {
        return Ok(());
    }
    bail!("the S3 server did not make the bucket {bucket}: {}", answer.trim())
}

/// A PUT without a body, signed as Signature Version 4 says (docs.aws.amazon.com, "Create a signed AWS API request").
fn signed_put(host: &str, path: &str, access_key: &str, secret_key: &str, now: DateTime<Utc>) -> String {
    let time = now.format("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let empty = hex(&Sha256::digest(b""));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical =
        format!("PUT\n{path}\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{time}\n\n{names}\n{empty}");
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret_key}").into_bytes(), |key, word| mac(&key, word.as_bytes()));
    let signature = hex(&mac(&key, text.as_bytes()));
    format!(
        "PUT {path} HTTP/1.1\r\nHost: {host}\r\nX-Amz-Content-Sha256: {empty}\r\nX-Amz-Date: {time}\r\nAuthorization: \
         AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, \
         Signature={signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
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
