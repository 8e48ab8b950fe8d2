//! **P** What the parts of a backup make together: its manifest, or the failure of all.
//!
//! # Several pods
//! With an archive of every pod, each whole, the backup is complete. With some, it is `Incomplete`: what is there is kept, and
//! the manifest says which pods are missing, and why. With none there is no backup, and the failure is that of a pod: one
//! that may pass by itself before one that will not (another attempt may be of use), and one of a pod that was read before
//! one of a pod that another run has, and that before one of a pod that was not Ready (it tells more).

use super::super::report::Plan;
use crate::archive::Measure;
use crate::archive::encode::FRAME_SIZE;
use crate::error::{Class, Failure, Reason, cut};
use crate::repository::manifest::pods::{PodData, PodEntry, PodOutcome, shown_names, together};
use crate::repository::manifest::{
    Compression, EACH_FORMAT_VERSION, FORMAT_VERSION, Manifest, Object, Outcome, Owner, Pods, Shrunk, Sum,
};
use crate::run::AttemptId;
use crate::source::CaptureFacts;
use chrono::{DateTime, Utc};

/// Longest text about one pod, in bytes, where there are several.
const POD_MESSAGE_LIMIT: usize = 512;
/// Pods that a message tells about; the manifest tells about all.
const TOLD: usize = 3;

/// The owner that an attempt writes for.
pub(super) fn owner(id: &AttemptId) -> Owner {
    Owner {
        cluster_id: id.cluster_id.to_string(),
        namespace: id.job.namespace.to_string(),
        job: id.job.name.to_string(),
        job_uid: id.job_uid.to_string(),
    }
}

/// The committed archive of one source, without its log's text: there may be hundreds.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) facts: CaptureFacts,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<Reason>,
    pub(super) message: Option<String>,
    pub(super) exit_code: Option<i32>,
    pub(super) warnings: Vec<String>,
    pub(super) raw: Measure,
    pub(super) stored: Measure,
    pub(super) files: Option<u64>,
    pub(super) segments: Vec<Object>,
    pub(super) log: Option<Object>,
}

/// What became of one pod.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// Its archive is committed.
    Kept(Box<Kept>),
    /// Nothing of it is there.
    Missing(Failure),
}

impl Fate {
    pub(super) fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Kept(kept) => Some(kept),
            Self::Missing(_) => None,
        }
    }

    /// Whether nothing of it is there because another run is at work in it.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Missing(failure) if failure.reason.is_waiting())
    }
}

/// What a manifest says besides its data.
pub(super) struct Frame<'a> {
    pub(super) plan: &'a Plan,
    pub(super) started_at: DateTime<Utc>,
    pub(super) completed_at: DateTime<Utc>,
    pub(super) warnings: Vec<String>,
    pub(super) shrunk: Option<Shrunk>,
}

/// The manifest of a backup of one source.
pub(super) fn of_one(frame: Frame<'_>, kept: Kept) -> Manifest {
    let plain = frame.around(FORMAT_VERSION, &kept);
    Manifest {
        outcome: kept.outcome,
        reason: kept.reason.map(|reason| reason.as_str().to_string()),
        message: kept.message,
        pod: kept.facts.pod.map(Pods::One),
        container: kept.facts.container,
        exit_code: kept.exit_code,
        raw: kept.raw.into(),
        stored: kept.stored.into(),
        files: kept.files,
        segments: kept.segments,
        log: kept.log,
        ..plain
    }
}

/// The manifest of a backup of each of these pods, if anything is in it.
pub(super) fn of_each(frame: Frame<'_>, pods: Vec<(String, Fate)>) -> Result<Manifest, Failure> {
    let Some(first) = pods.iter().find_map(|(_, fate)| fate.kept()) else { return Err(none_kept(&pods)) };
    let plain = frame.around(EACH_FORMAT_VERSION, first);
    let verdict = incomplete(&pods);
    let entries: Vec<PodEntry> = pods.into_iter().map(|(name, fate)| entry(name, fate)).collect();
    let data = || entries.iter().filter_map(|entry| entry.data.as_ref());
    let files = data().filter_map(|data| data.files).reduce(u64::saturating_add);
    let (raw, stored) = (together(data().map(|data| &data.raw)), together(data().map(|data| &data.stored)));
    let (reason, message) = verdict.unzip();
    Ok(Manifest {
        outcome: if reason.is_none() { Outcome::Complete } else { Outcome::Incomplete },
        reason: reason.map(|reason| reason.as_str().to_string()),
        message,
        raw,
        stored,
        files,
        pod: Some(Pods::Each(entries)),
        ..plain
    })
}

impl Frame<'_> {
    /// A manifest without data of its own; `kept` is (one of) what is in it.
    fn around(self, format_version: u32, kept: &Kept) -> Manifest {
        let Self { plan, started_at, completed_at, warnings, shrunk } = self;
        let id = &plan.id;
        let nothing = || Sum { size: 0, digest: String::new() };
        Manifest {
            format_version,
            owner: owner(id),
            run: id.run.to_string(),
            run_uid: id.run_uid.to_string(),
            attempt: id.attempt,
            outcome: Outcome::Incomplete,
            reason: None,
            message: None,
            scheduled_at: id.scheduled_at,
            started_at,
            completed_at,
            target: plan.target.clone(),
            pod: None,
            container: None,
            strategy: plan.strategy.into(),
            exit_code: None,
            content: kept.facts.content,
            consistency: kept.facts.consistency,
            compression: Compression {
                format: "zstd-seekable".into(),
                level: plan.compression_level,
                frame_size: FRAME_SIZE as u64,
            },
            encryption_recipients: plan.recipients.iter().map(|to| to.as_str().to_owned()).collect(),
            raw: nothing(),
            stored: nothing(),
            shrunk,
            files: None,
            segments: Vec::new(),
            log: None,
            warnings,
            operator_version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

fn entry(name: String, fate: Fate) -> PodEntry {
    match fate {
        Fate::Missing(failure) => PodEntry {
            name,
            outcome: PodOutcome::Missing,
            reason: Some(failure.reason.as_str().to_owned()),
            message: Some(cut(&failure.message, POD_MESSAGE_LIMIT).to_owned()),
            exit_code: failure.exit_code,
            data: None,
        },
        Fate::Kept(kept) => PodEntry {
            name,
            outcome: match kept.outcome {
                Outcome::Complete => PodOutcome::Complete,
                Outcome::Incomplete => PodOutcome::Incomplete,
            },
            reason: kept.reason.map(|reason| reason.as_str().to_owned()),
            message: kept.message.as_deref().map(|message| cut(message, POD_MESSAGE_LIMIT).to_owned()),
            exit_code: kept.exit_code,
            data: Some(PodData {
                container: kept.facts.container,
                raw: kept.raw.into(),
                stored: kept.stored.into(),
                files: kept.files,
                segments: kept.segments,
                log: kept.log,
                warnings: kept.warnings,
            }),
        },
    }
}

/// Reason and message of pods that are not all whole: those that are missing go before those that are kept in part.
fn incomplete(pods: &[(String, Fate)]) -> Option<(Reason, String)> {
    let missing = failures(pods);
    if !missing.is_empty() {
        let kept = pods.len() - missing.len();
        let (is, are) = (if missing.len() == 1 { "is" } else { "are" }, if kept == 1 { "is" } else { "are" });
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "{} {is} missing, {kept} of {} pods {are} in the backup. {}",
            shown_names(&names),
            pods.len(),
            told(missing.iter().map(|(name, failure)| (*name, failure.reason, failure.message.as_str())))
        );
        return Some((Reason::PodsMissing, cut(&message, Failure::MESSAGE_LIMIT).to_owned()));
    }
    let parts = pods.iter().filter_map(|(name, fate)| {
        let kept = fate.kept().filter(|kept| kept.outcome == Outcome::Incomplete)?;
        let reason = kept.reason.unwrap_or(Reason::SourceIncomplete);
        Some((name.as_str(), reason, kept.message.as_deref().unwrap_or_default()))
    });
    let (_, reason, _) = parts.clone().next()?;
    Some((reason, cut(&told(parts), Failure::MESSAGE_LIMIT).to_owned()))
}

/// Pods with what is the matter with them; the first few.
fn told<'a>(pods: impl Iterator<Item = (&'a str, Reason, &'a str)>) -> String {
    let all: Vec<_> = pods.collect();
    let shown = all.iter().take(TOLD);
    let mut texts: Vec<String> =
        shown.map(|(name, reason, why)| format!("{name}: {reason}, {}", cut(why, POD_MESSAGE_LIMIT / 2))).collect();
    if all.len() > TOLD {
        texts.push(format!("and {} more", all.len() - TOLD));
    }
    texts.join("; ")
}

fn failures(pods: &[(String, Fate)]) -> Vec<(&str, &Failure)> {
    let missing = pods.iter().filter_map(|(name, fate)| match fate {
        Fate::Missing(failure) => Some((name.as_str(), failure)),
        Fate::Kept(_) => None,
    });
    missing.collect()
}

/// The failure of a run of which nothing is kept.
fn none_kept(pods: &[(String, Fate)]) -> Failure {
    let missing = failures(pods);
    let rank = |failure: &Failure| {
        let reason = failure.reason;
        (failure.class() != Class::Transient, reason == Reason::TargetNotReady, reason.is_waiting())
    };
    let Some((_, grave)) = missing.iter().min_by_key(|(_, failure)| rank(failure)) else {
        return Failure::new(Reason::TargetNotReady, "the target has no pod");
    };
    let mut failure = Failure::clone(grave);
    let all = if pods.len() == 1 {
        "its only pod could not".to_owned()
    } else {
        format!("none of its {} pods could", pods.len())
    };
    let ordered = missing.iter().filter(|(_, other)| std::ptr::eq(*other, *grave));
    let ordered = ordered.chain(missing.iter().filter(|(_, other)| !std::ptr::eq(*other, *grave)));
    failure.message = format!(
        "{all} be backed up. {}",
        told(ordered.map(|(name, failure)| (*name, failure.reason, failure.message.as_str())))
    );
    failure
}

#[cfg(test)]
mod tests;
