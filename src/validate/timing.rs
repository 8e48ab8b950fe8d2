//! **P** How a schedule's ticks are taken: overlap, jitter, lateness.

use super::problems::Problems;
use crate::api::backup_job::{ConcurrencyPolicy, MissedRuns};
use chrono::TimeDelta;

/// Longest `startingDeadlineSeconds`: a year, as the schema has it.
const DEADLINE_LIMIT: i64 = 31_536_000;
/// Longest `jitterSeconds`: a day, as the schema has it.
const JITTER_LIMIT: u32 = 86_400;

/// What to do with a tick while a run of the same job is still at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// The tick is skipped.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The older run is cancelled, if the schedule started it.
    Replace,
}

/// How ticks are taken. The default is what a BackupJob that says nothing gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// While a run is still at work.
    pub concurrency: Concurrency,
    /// Longest time between a tick and its start.
    pub jitter: TimeDelta,
    /// How long after its start a tick may still be claimed; `None`: until the next one.
    pub starting_deadline: Option<TimeDelta>,
    /// Whether the latest missed tick is made up for.
    pub make_up: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self { concurrency: Concurrency::Forbid, jitter: TimeDelta::zero(), starting_deadline: None, make_up: true }
    }
}

pub(super) fn timing(
    policy: Option<&ConcurrencyPolicy>,
    jitter_seconds: Option<u32>,
    starting_deadline_seconds: Option<i64>,
    missed_runs: Option<&MissedRuns>,
    problems: &mut Problems,
) -> Timing {
    let mut timing = Timing::default();
    match policy {
        None | Some(ConcurrencyPolicy::Forbid) => {}
        Some(ConcurrencyPolicy::Allow) => timing.concurrency = Concurrency::Allow,
        Some(ConcurrencyPolicy::Replace) => timing.concurrency = Concurrency::Replace,
        Some(ConcurrencyPolicy::Unknown(word)) => problems.unsupported("spec.concurrencyPolicy", word),
    }
    match missed_runs {
        None | Some(MissedRuns::RunLatest) => {}
        Some(MissedRuns::Skip) => timing.make_up = false,
        Some(MissedRuns::Unknown(word)) => problems.unsupported("spec.missedRuns", word),
    }
    let jitter = jitter_seconds.unwrap_or(0);
    if jitter > JITTER_LIMIT {
        problems.invalid("spec.jitterSeconds", format_args!("{jitter} is more than {JITTER_LIMIT}, a day"));
    } else {
        timing.jitter = TimeDelta::seconds(i64::from(jitter));
    }
    match starting_deadline_seconds {
        None => {}
        Some(seconds @ 0..=DEADLINE_LIMIT) => timing.starting_deadline = Some(TimeDelta::seconds(seconds)),
        Some(other) => problems.invalid(
            "spec.startingDeadlineSeconds",
            format_args!("{other} is not between 0 and {DEADLINE_LIMIT}, a year"),
        ),
    }
    timing
}
