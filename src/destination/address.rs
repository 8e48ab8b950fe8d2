//! **P** Uri to address.

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
