//! **A** Multipart uploads that a dead process left open at an S3 server: listed below a folder, and aborted.
//!
//! OpenDAL can neither list uploads nor abort one that it did not begin, so these are two requests of our own
//! (ListMultipartUploads, AbortMultipartUpload), signed with the crate that OpenDAL signs with and sent through the same
//! client. Both want rights that writing alone does not need (`s3:ListBucketMultipartUploads`, `s3:AbortMultipartUpload`);
//! a server that refuses, or cannot, is no reason to fail: the caller says so, and names the bucket's lifecycle rule.
//! Answers are never repeated in messages.

use crate::error::{Failure, Reason};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, ProvideCredential, Signer};
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// SHA-256 of an empty body, as the signature wants it.
const EMPTY_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Tries of one request, and the first pause between them; doubled each time.
const TRIES: (u32, Duration) = (4, Duration::from_millis(500));
/// Longest time for one request with its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// How often a list is taken: each holds up to 1,000 uploads, and an attempt leaves a handful.
const LISTS: usize = 10;
/// Longest answer that is read, in bytes: 1,000 uploads with keys of 1 KiB.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// The uploads of one bucket.
#[derive(Clone)]
pub(super) struct Uploads {
    client: reqwest::Client,
    signer: Arc<Signer<Credential>>,
    /// The bucket's address, without a slash at the end.
    bucket: String,
    /// What stands before every key, without slashes around it; may be empty.
    root: String,
    /// For messages: the uri.
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Open>,
    #[serde(default)]
    is_truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Open {
    key: String,
    upload_id: String,
}

impl Uploads {
    /// `bucket` is the bucket's address (`https://s3.example.org/bucket`, or with the bucket in the host's name), `root`
    /// what stands before every key.
    pub(super) fn new(
        client: reqwest::Client,
        keys: impl ProvideCredential<Credential = Credential>,
        region: &str,
        bucket: String,
        root: &str,
        name: String,
    ) -> Self {
        let signer = Signer::new(Context::new(), keys, RequestSigner::new("s3", region));
        Self { client, signer: Arc::new(signer), bucket, root: root.trim_matches('/').to_owned(), name }
    }

    /// Aborts every upload whose key begins with `prefix` (which ends in `/`). Says how many there were.
    pub(super) async fn abort(&self, prefix: &str) -> Result<usize, Failure> {
        let prefix = if self.root.is_empty() { prefix.to_owned() } else { format!("{}/{prefix}", self.root) };
        let mut aborted = 0;
        for _ in 0..LISTS {
            let answer = self.ask(http::Method::GET, "", &format!("prefix={}&uploads=", encoded(&prefix, ""))).await?;
            let listed: Listed = quick_xml::de::from_str(&answer).map_err(|_| {
                self.failure(Reason::DestinationUnavailable, "answered with something else than a list of uploads")
            })?;
            // What a server lists beyond what it was asked for is not ours.
            let ours: Vec<_> = listed.uploads.iter().filter(|upload| upload.key.starts_with(&prefix)).collect();
            for Open { key, upload_id } in &ours {
                let path = format!("/{}", encoded(key, "/"));
                self.ask(http::Method::DELETE, &path, &format!("uploadId={}", encoded(upload_id, ""))).await?;
                aborted += 1;
            }
            if !listed.is_truncated || ours.is_empty() {
                break;
            }
        }
        Ok(aborted)
    }

    /// One request, tried again where that may help. An upload that is not there (any more) is fine.
    async fn ask(&self, method: http::Method, path: &str, query: &str) -> Result<String, Failure> {
        let (tries, mut pause) = TRIES;
        let mut failure = self.failure(Reason::DestinationUnavailable, "did not answer");
        for attempt in 0..tries {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let answer = tokio::time::timeout(REQUEST_LIMIT, self.send(&method, path, query)).await;
            match answer {
                Ok(Ok((status, body))) if status.is_success() => return Ok(body),
                Ok(Ok((status, _))) if status.as_u16() == 404 && method == http::Method::DELETE => {
                    return Ok(String::new());
                }
                Ok(Ok((status, _))) if status.as_u16() == 403 => {
                    return Err(self.failure(
                        Reason::DestinationDenied,
                        "refuses to list or abort uploads (s3:ListBucketMultipartUploads, s3:AbortMultipartUpload)",
                    ));
                }
                Ok(Ok((status, _))) if status.is_server_error() && status.as_u16() != 501 => {}
                Ok(Ok((status, _))) => {
                    let said = format!("cannot list or abort uploads (status {})", status.as_u16());
                    return Err(self.failure(Reason::DestinationUnavailable, &said));
                }
                Ok(Err(error)) => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn send(
        &self,
        method: &http::Method,
        path: &str,
        query: &str,
    ) -> Result<(http::StatusCode, String), Failure> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}?{query}", self.bucket))
            .header("x-amz-content-sha256", EMPTY_BODY)
            .body(())
            .map_err(|_| self.failure(Reason::Internal, "has an address that no request can be made of"))?;
        let (mut parts, ()) = request.into_parts();
        self.signer
            .sign(&mut parts, None)
            .await
            .map_err(|_| self.failure(Reason::DestinationDenied, "cannot be asked: the request was not signed"))?;
        let unreachable = |_| self.failure(Reason::DestinationUnavailable, "cannot be reached");
        let request = self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_LIMIT {
                return Err(self.failure(Reason::DestinationUnavailable, "answered with more than a list of uploads"));
            }
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn failure(&self, reason: Reason, what: &str) -> Failure {
        Failure::new(reason, format!("the server of {} {what}", self.name))
    }
}

/// Everything but the unreserved characters of RFC 3986, and `keep`, as `%XX`.
fn encoded(text: &str, keep: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            all.push(char::from(byte));
        } else {
            let _ = write!(all, "%{byte:02X}"); // a String takes everything
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whatever_the_keys_hold() {
        let answer = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket>
            <KeyMarker></KeyMarker><NextKeyMarker>x</NextKeyMarker><MaxUploads>1000</MaxUploads>
            <IsTruncated>true</IsTruncated>
            <Upload><Key>a/b &amp; c/dump.zst</Key><UploadId>1+/=</UploadId><Initiator><ID>i</ID></Initiator>
            <StorageClass>STANDARD</StorageClass><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>
            <Upload><Key>a/d</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>"#;
        let listed: Listed = quick_xml::de::from_str(answer).expect("a list");
        let found: Vec<_> = listed.uploads.iter().map(|open| (open.key.as_str(), open.upload_id.as_str())).collect();
        assert_eq!(found, [("a/b & c/dump.zst", "1+/="), ("a/d", "2")]);
        assert!(listed.is_truncated);
        let none = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        assert!(quick_xml::de::from_str::<Listed>(none).expect("an empty list").uploads.is_empty());
    }

    #[test]
    fn keys_are_encoded_once() {
        assert_eq!(encoded("a b/ä+%", "/"), "a%20b/%C3%A4%2B%25");
        assert_eq!(encoded("a/b", ""), "a%2Fb");
    }
}
