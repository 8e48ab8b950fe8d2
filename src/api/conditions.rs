//! **P** Kubernetes conditions: a list by type, whose transition time moves only when the status does.

use super::time::to_time;
use crate::error::cut;
use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Longest message of a condition that we write, in bytes (the API allows 32,768).
const MESSAGE_LIMIT: usize = 2048;

/// Reason of `Healthy=False` where the last backup is much smaller than those before it.
pub const BACKUP_SHRUNK: &str = "BackupShrunk";

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl Word {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Sets the condition of this type.
pub fn set(
    list: &mut Vec<Condition>,
    kind: &str,
    word: Word,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: DateTime<Utc>,
) {
    let status = word.as_str().to_owned();
    let message = cut(message, MESSAGE_LIMIT).to_owned();
    if let Some(old) = list.iter_mut().find(|condition| condition.type_ == kind) {
        if old.status != status {
            old.last_transition_time = to_time(now);
            old.status = status;
        }
        reason.clone_into(&mut old.reason);
        old.message = message;
        old.observed_generation = generation;
        return;
    }
    list.push(Condition {
        type_: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: to_time(now),
    });
}

/// Whether the condition of this type is `True`.
pub fn holds(list: &[Condition], kind: &str) -> bool {
    list.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let at = |second| DateTime::from_timestamp(second, 0).expect("in range");
        let mut list = Vec::new();
        set(&mut list, "Ready", Word::False, "InvalidSpec", "x", Some(1), at(1));
        set(&mut list, "Ready", Word::False, "NotSupported", "y", Some(2), at(2));
        assert_eq!(list[0].last_transition_time, to_time(at(1)));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("NotSupported", Some(2)));
        set(&mut list, "Ready", Word::True, "Valid", "z", Some(2), at(3));
        assert_eq!(list[0].last_transition_time, to_time(at(3)));
        assert!(holds(&list, "Ready") && !holds(&list, "Healthy") && list.len() == 1);
    }
}
