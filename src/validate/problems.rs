//! **P** What does not hold in a BackupJob, collected.

use crate::error::{Failure, Reason};
use std::fmt;

/// A BackupJob that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// `InvalidSpec`, `InvalidSchedule`, `InvalidTimeZone` or `NotSupported`: the first of these that occurs.
    pub reason: Reason,
    /// Every field that is wrong, by its path, with what is wrong about it.
    pub message: String,
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid.reason, invalid.message)
    }
}

/// The gravest first: somebody who is told of one of them has to mend that before the others matter.
const GRAVITY: [Reason; 4] =
    [Reason::InvalidSpec, Reason::InvalidSchedule, Reason::InvalidTimeZone, Reason::NotSupported];

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(Reason, String)>);

impl Problems {
    /// Field `path` does not hold: `what` says why and what would.
    pub(super) fn invalid(&mut self, path: impl fmt::Display, what: impl fmt::Display) {
        self.because(Reason::InvalidSpec, path, what);
    }

    /// The same, with a reason of its own.
    pub(super) fn because(&mut self, reason: Reason, path: impl fmt::Display, what: impl fmt::Display) {
        self.0.push((reason, format!("{path}: {what}")));
    }

    /// This version does not implement `value` of field `path`.
    pub(super) fn unsupported(&mut self, path: impl fmt::Display, value: impl fmt::Display) {
        self.because(Reason::NotSupported, path, format_args!("{value} is not supported by this version"));
    }

    /// This version does not implement field `path`, whose value is not worth repeating.
    pub(super) fn unsupported_field(&mut self, path: impl fmt::Display, present: bool) {
        if present {
            self.because(Reason::NotSupported, path, "this field is not supported by this version; leave it out");
        }
    }

    /// This version implements the default of field `path` only.
    pub(super) fn default_only<T: PartialEq + fmt::Display>(
        &mut self,
        path: impl fmt::Display,
        value: Option<&T>,
        default: &T,
    ) {
        if let Some(value) = value
            && value != default
        {
            self.because(
                Reason::NotSupported,
                path,
                format_args!("{value} is not supported by this version, only {default}"),
            );
        }
    }

    /// What was collected, as one error, if there is anything.
    pub(super) fn into_error(self) -> Option<Invalid> {
        let reason = GRAVITY.into_iter().find(|grave| self.0.iter().any(|(reason, _)| reason == grave))?;
        // The gravest come first in the message too: a status cuts its end off.
        let mut ordered = self.0;
        ordered.sort_by_key(|(reason, _)| GRAVITY.iter().position(|grave| grave == reason));
        let parts: Vec<_> = ordered.into_iter().map(|(_, text)| text).collect();
        Some(Invalid { reason, message: parts.join("; ") })
    }
}
