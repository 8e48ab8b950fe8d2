//! **P** Newtypes for every name, path and id that crosses a seam. Each is checked when it is made and never again.

use crate::error::{Failure, Reason};
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps.
            pub fn new(text: impl Into<String>) -> Result<Self, Failure> {
                let text = text.into();
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text).map_err(|why| {
                    Failure::new(Reason::InvalidSpec, format!("{} {text:?}: {why}", stringify!($name)))
                })?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Failure;
            fn try_from(text: String) -> Result<Self, Failure> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A Kubernetes namespace, or `local` on the command line: a DNS label of at most 63 characters.
    Namespace, |text| dns_name(text, 63, false));
name_type!(
    /// Name of a BackupJob: a DNS subdomain of at most 49 characters, so that a run's name is still a label value.
    JobName, |text| dns_name(text, 49, true));
name_type!(
    /// Name of a BackupRun: a DNS subdomain of at most 63 characters.
    RunName, |text| dns_name(text, 63, true));
name_type!(
    /// Key of an object, relative to the destination's uri: segments parted by `/`, none of them empty, `.` or `..`;
    /// at most 900 bytes (S3 allows 1,024, the uri's own prefix included).
    ObjectKey, |text| relative_path(text, 900));
name_type!(
/// A Kubernetes UID, or another id of the same letters (`[0-9a-f-]`, 8 to 64 of them).
Uid, |text| {
    let good = (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if good { Ok(()) } else { Err("not a UID".into()) }
});

impl ObjectKey {
    /// This key, continued below by `name`.
    pub fn join(&self, name: &str) -> Result<Self, Failure> {
        Self::new(format!("{}/{name}", self.0))
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// A BackupJob, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: JobName,
}

impl JobRef {
    /// Checks and joins the two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, Failure> {
        Ok(Self { namespace: Namespace::new(namespace)?, name: JobName::new(name)? })
    }
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// RFC 1123 label, or subdomain where `dots`, of at most `limit` characters.
fn dns_name(text: &str, limit: usize, dots: bool) -> Result<(), String> {
    if text.is_empty() || text.len() > limit {
        return Err(format!("must have 1 to {limit} characters, it has {}", text.len()));
    }
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let good = if dots { text.split('.').all(label) } else { label(text) };
    if good { Ok(()) } else { Err("must be lower-case letters, digits and `-`, as a DNS name".into()) }
}

/// A relative path of clean segments.
fn relative_path(text: &str, limit: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > limit {
        return Err(format!("must have 1 to {limit} bytes, it has {}", text.len()));
    }
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err("must not hold control characters".into());
    }
    if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("no segment may be empty, `.` or `..`".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(JobName::new("postgres-daily-backup").is_ok());
        assert!(JobName::new("a".repeat(49)).is_ok());
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", &"a".repeat(50)] {
            assert!(JobName::new(bad).is_err(), "{bad}");
        }
        assert!(Namespace::new("a.b").is_err());
    }

    #[test]
    fn keys_cannot_climb() {
        assert!(ObjectKey::new("default/pg/run-1/manifest.json").is_ok());
        for bad in ["", "/a", "a/", "a//b", "a/../b", "./a", "a/\n"] {
            assert!(ObjectKey::new(bad).is_err(), "{bad}");
        }
    }
}
