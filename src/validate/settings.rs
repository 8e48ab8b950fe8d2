//! **P** The parts of a BackupJob's spec that are settings alone: guard, encryption, bandwidth.

use super::problems::Problems;
use super::quantity;
use super::read::within;
use crate::api::backup_job::{EncryptionSpec, GuardSpec, Quantity};
use crate::archive::encrypt::Recipient;

/// Least `bandwidthLimit`, in bytes a second: a frame of 2 MiB takes half a minute then.
const LEAST_BANDWIDTH: u64 = 64 * 1024;

/// Default of `guard.maximumShrinkPercent` (`product.md` section 2).
const MAXIMUM_SHRINK_PERCENT: u32 = 50;

/// Bytes per second that are uploaded at most.
pub(super) fn bandwidth(path: &str, limit: Option<&Quantity>, problems: &mut Problems) -> Option<u64> {
    let bytes = quantity::bytes(&limit?.0).map_err(|why| problems.invalid(path, why)).ok()?;
    if bytes < LEAST_BANDWIDTH {
        problems.invalid(path, "less than 64Ki a second, at which a backup would take for ever");
    }
    Some(bytes)
}

/// Who can read the backups.
pub(super) fn recipients(spec: &EncryptionSpec, problems: &mut Problems) -> Vec<Recipient> {
    let EncryptionSpec { recipients, identity_secret_ref } = spec;
    if recipients.is_empty() {
        problems.invalid("spec.encryption.recipients", "is needed; leave encryption out for archives in the clear");
    }
    problems.unsupported_field("spec.encryption.identitySecretRef", identity_secret_ref.is_some());
    let mut read = Vec::new();
    for (index, text) in recipients.iter().enumerate() {
        match Recipient::parse(text) {
            Ok(recipient) => read.push(recipient),
            Err(why) => problems.invalid(format_args!("spec.encryption.recipients[{index}]"), why),
        }
    }
    read
}

/// What a backup must look like.
pub(super) struct Guard {
    pub(super) allow_empty: bool,
    pub(super) allow_live_database: bool,
    pub(super) minimum_size: Option<u64>,
    pub(super) maximum_shrink_percent: u32,
    pub(super) maximum_staged_size: Option<u64>,
}

pub(super) fn guard(spec: GuardSpec, problems: &mut Problems) -> Guard {
    let GuardSpec { minimum_size, maximum_shrink_percent, maximum_staged_size, allow_empty, allow_live_database } =
        spec;
    let mut size = |path: &str, size: Option<Quantity>| {
        size.and_then(|size| quantity::bytes(&size.0).map_err(|why| problems.invalid(path, why)).ok())
    };
    let minimum_size = size("spec.guard.minimumSize", minimum_size);
    let staged = "spec.guard.maximumStagedSize";
    let maximum_staged_size = size(staged, maximum_staged_size);
    if maximum_staged_size.is_some_and(|bytes| bytes < 1024) {
        problems.invalid(staged, "less than 1Ki, so that no dump can be made");
    }
    Guard {
        allow_empty: allow_empty.unwrap_or(false),
        allow_live_database: allow_live_database.unwrap_or(false),
        minimum_size,
        maximum_shrink_percent: within(
            "spec.guard.maximumShrinkPercent",
            maximum_shrink_percent.unwrap_or(MAXIMUM_SHRINK_PERCENT),
            0..=100,
            problems,
        ),
        maximum_staged_size,
    }
}
