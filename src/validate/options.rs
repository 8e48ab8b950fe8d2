//! **P** `destination.options`: settings that are no secret, checked as far as their text goes.

use super::S3_OPTIONS;
use super::problems::Problems;
use std::collections::BTreeMap;

/// Checks the options of an s3 destination.
pub(super) fn s3(options: &BTreeMap<String, String>, problems: &mut Problems) {
    for (key, value) in options {
        let path = format!("spec.destination.options.{}", crate::error::cut(key, 64));
        let wrong = match key.as_str() {
            "endpoint" => endpoint(value),
            "region" | "storageClass" => word(value),
            "caBundle" => pem(value),
            _ => {
                problems.because(
                    crate::error::Reason::NotSupported,
                    path,
                    format_args!("not an option of s3; these are: {}", S3_OPTIONS.join(", ")),
                );
                continue;
            }
        };
        if let Some(wrong) = wrong {
            problems.invalid(path, wrong);
        }
    }
}

/// What is wrong with an endpoint. The value is never repeated: somebody may have put a password into it.
fn endpoint(value: &str) -> Option<&'static str> {
    let Some(rest) = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://")) else {
        return Some("must begin with https:// or http://");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || value.bytes().any(|b| b.is_ascii_control() || b == b' ' || b == b'\\') {
        return Some("not an address; write https://host or https://host:port");
    }
    if host.contains('@') {
        return Some("must not hold a user or password: they belong into the Secret");
    }
    if rest.contains(['?', '#']) {
        return Some("must not hold a query or a fragment");
    }
    None
}

/// What is wrong with a value that is to be one word, if anything.
pub fn word(value: &str) -> Option<&'static str> {
    let good =
        (1..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    (!good).then_some("must be one word of letters, digits, `-` and `_`, at most 64 of them")
}

/// What is wrong with PEM text, as far as can be seen without reading the certificates.
fn pem(value: &str) -> Option<&'static str> {
    if value.contains("PRIVATE KEY") {
        return Some(
            "holds a private key; only certificates belong here, and everybody who can see this object has seen it",
        );
    }
    (!value.contains("-----BEGIN CERTIFICATE-----")).then_some("must be PEM text: -----BEGIN CERTIFICATE----- …")
}
