//! **P** Uri to address.

use crate::error::{Failure, Reason};
use std::fmt;

/// Longest prefix, in bytes: S3 allows keys of 1,024, and ours take at most 500 of them.
const PREFIX_LIMIT: usize = 500;

/// Where a destination is, from its uri.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `s3://bucket/prefix`
    S3 {
        /// Bucket.
        bucket: String,
        /// Prefix without slashes at its ends; empty for the bucket's root.
        prefix: String,
    },
    /// `file:///absolute/path`, on the command line only.
    File {
        /// Absolute path.
        path: String,
    },
}

impl Address {
    /// Reads a uri. The message of an error says what is wrong and never repeats the uri: somebody may have put a password
    /// into it.
    pub fn parse(uri: &str) -> Result<Self, Failure> {
        Self::read(uri).map_err(|why| Failure::new(Reason::InvalidSpec, why))
    }

    /// `s3` or `file`: what `destination.type` has to agree with.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::S3 { .. } => "s3",
            Self::File { .. } => "file",
        }
    }

    fn read(uri: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err("a uri begins with its scheme: s3://bucket/prefix".into());
        };
        if rest.bytes().any(|b| b.is_ascii_control() || b == b'\\') {
            return Err("the uri holds a control character or a backslash".into());
        }
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            return Err("credentials do not belong in a uri: put them into the Secret (or the environment)".into());
        }
        if rest.contains(['?', '#']) {
            return Err("a uri has no query and no fragment here: settings are `options`".into());
        }
        match scheme {
            "s3" => Self::s3(rest),
            "file" => Self::file(rest),
            "gs" | "az" | "nfs" | "pvc" | "git" | "ssh" | "https" => {
                Err(format!("this version does not write to {scheme}://; it writes to s3://"))
            }
            _ => {
                Err("the scheme is not known; it is s3://bucket/prefix (on the command line also file:///folder)"
                    .into())
            }
        }
    }

    fn s3(rest: &str) -> Result<Self, String> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("the bucket is missing: s3://bucket/prefix".into());
        }
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let ends = |b: &u8| b.is_ascii_alphanumeric();
        let bytes = bucket.as_bytes();
        let good = (3..=63).contains(&bytes.len())
            && bytes.iter().copied().all(letters)
            && bytes.first().is_some_and(ends)
            && bytes.last().is_some_and(ends);
        if !good {
            return Err(
                "a bucket's name has 3 to 63 letters, digits, `.` and `-`, and begins and ends with one of the \
                        first two; a server's address is the option `endpoint`"
                    .into(),
            );
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.len() > PREFIX_LIMIT {
            return Err(format!("the prefix is longer than {PREFIX_LIMIT} bytes"));
        }
        if !prefix.is_empty() {
            plain_segments(prefix)?;
        }
        Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() })
    }

    fn file(rest: &str) -> Result<Self, String> {
        let Some(path) = rest.strip_prefix('/') else {
            return Err("a folder is written with three slashes and from the root: file:///backups".into());
        };
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Err("the folder is missing: file:///backups".into());
        }
        plain_segments(path)?;
        Ok(Self::File { path: format!("/{path}") })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::File { path } => write!(f, "file://{path}"),
        }
    }
}

fn plain_segments(path: &str) -> Result<(), String> {
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("no part of the path may be empty, `.` or `..`".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documented_forms() {
        let s3 = |bucket: &str, prefix: &str| Address::S3 { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!(Address::parse("s3://my-bucket/backups/postgres"), Ok(s3("my-bucket", "backups/postgres")));
        assert_eq!(Address::parse("s3://my-bucket/"), Ok(s3("my-bucket", "")));
        assert_eq!(Address::parse("s3://my-bucket"), Ok(s3("my-bucket", "")));
        assert_eq!(Address::parse("file:///var/backups/"), Ok(Address::File { path: "/var/backups".into() }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (uri, word) in [
            ("my-bucket/x", "scheme"),
            ("S3://my-bucket", "scheme"),
            ("gs://bucket/x", "does not write to gs"),
            ("s3:///prefix", "bucket is missing"),
            ("s3://b", "3 to 63"),
            ("s3://localhost:9000/bucket", "endpoint"),
            ("s3://key:secret@bucket/x", "Secret"),
            ("s3://bucket/x?region=eu", "query"),
            ("s3://bucket/a/../b", "`..`"),
            ("s3://bucket/a//b", "empty"),
            ("s3://bucket/\n", "control"),
            ("file://host/x", "three slashes"),
            ("file:///", "folder is missing"),
            ("file:///a/../b", "`..`"),
        ] {
            let failure = Address::parse(uri).unwrap_err();
            assert!(failure.message.contains(word), "{uri}: {failure}");
            assert_eq!(failure.reason, Reason::InvalidSpec);
        }
        assert!(!Address::parse("s3://key:hunter2@bucket").unwrap_err().message.contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(uri in "(s3|file)://[a-z0-9./@-]{0,40}") {
            if let Ok(address) = Address::parse(&uri) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }

        #[test]
        fn anything_may_be_parsed(uri in any::<String>()) {
            let _ = Address::parse(&uri);
        }
    }
}
