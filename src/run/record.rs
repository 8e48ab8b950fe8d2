//! **P** What is written of a run: how each thing that happens to it changes its status.
//!
//! The status is the run's only memory across a crash. An attempt is therefore opened in it *before* its work starts.
//! One that is open under another executor's name may be at work there: whether that process is dead is decided in
//! `controller/world/duty`.

use super::report::{Ownership, Report};
use super::{Phase, observer::Happening};
use crate::api::backup_job::BackupJobSpec;
use crate::api::backup_run::{AttemptStatus, BackupRunStatus, DestinationStatus, ObjectStatus};
use crate::api::conditions::{self, Word};
use crate::api::time::{from_time, to_time};
use crate::error::{Class, Failure, Reason, cut};
use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Longest wait between two attempts (`product.md` section 2).
pub const BACKOFF_LIMIT: Duration = Duration::from_mins(10);
/// Between two looks whether what a run waits for is free. The other run may be another process' or another cluster's, so
/// nobody can be asked to call.
pub const WAIT_PAUSE: Duration = Duration::from_secs(15);
/// How many crashes of the operator one run may see (`product.md` section 7).
const CRASH_LIMIT: usize = 2;
/// How many warnings a status keeps; the manifest has them all.
const WARNINGS_LIMIT: usize = 20;
/// Objects that a status names, as the schema has it; the manifest names all.
const OBJECTS_LIMIT: usize = 1000;
/// How much is told of what the API server has against a status.
const REFUSAL_LIMIT: usize = 300;

/// What is said of an attempt that did not come to clean up.
pub const NOT_CLEANED_UP: &str = "At its destination may stay its folder and an unfinished upload";

/// How often a run is tried, from its BackupJob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub limit: u32,
    /// Wait before the second attempt; doubled each time.
    pub backoff: Duration,
}

impl Retry {
    /// The wait after attempt `number` (from 1).
    fn wait(self, number: u32) -> Duration {
        let doubled = 2u32.checked_pow(number.saturating_sub(1)).and_then(|factor| self.backoff.checked_mul(factor));
        doubled.unwrap_or(BACKOFF_LIMIT).min(BACKOFF_LIMIT)
    }
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The status is final.
    Over,
    /// Another attempt, not before this time.
    Retry(DateTime<Utc>),
}

/// The attempt that has begun and not ended.
pub fn open_attempt(status: &BackupRunStatus) -> Option<&AttemptStatus> {
    status.attempts.last().filter(|attempt| attempt.completion_time.is_none())
}

/// Whether a stored status is still this process' own, after a write to it was refused: in what decides about a run (its
/// phase, its executor and its attempts) it is what we wrote last, or what we wanted to write and only the answer was
/// lost. Anything else was written by another process, to which the run belongs from then on.
pub fn is_ours(stored: &BackupRunStatus, last: &BackupRunStatus, wanted: &BackupRunStatus) -> bool {
    let core = |status: &BackupRunStatus| (status.phase, status.executor.clone(), status.attempts.clone());
    let stored = core(stored);
    stored == core(last) || stored == core(wanted)
}

/// Whether the attempt that ended last only found that it has to wait.
pub fn is_waiting(status: &BackupRunStatus) -> bool {
    status.attempts.iter().rev().find(|attempt| attempt.completion_time.is_some()).is_some_and(waited)
}

/// Whether this attempt found that it has to wait, and did nothing.
fn waited(attempt: &AttemptStatus) -> bool {
    attempt.reason.as_deref().and_then(Reason::parse).is_some_and(Reason::is_waiting)
}

/// The attempts that `retry.limit` limits.
fn counted(status: &BackupRunStatus) -> u32 {
    let counted = status.attempts.iter().filter(|attempt| !waited(attempt)).count();
    u32::try_from(counted).unwrap_or(u32::MAX)
}

/// Of attempts that waited one after the other only the last one is kept: there may be thousands, and the list is bounded.
/// Numbers go on, since each has a folder of its own. One that left something in it is kept too; that is only ever the first.
fn forget_earlier_waits(status: &mut BackupRunStatus) {
    while let [.., before, last] = &status.attempts[..]
        && waited(before)
        && waited(last)
        && before.left.is_none()
    {
        status.attempts.remove(status.attempts.len() - 2);
    }
}

fn next_number(status: &BackupRunStatus) -> u32 {
    status.attempts.last().map_or(0, |last| last.number).saturating_add(1)
}

/// Opens the next attempt and says its number. `spec` is kept by the first one: later ones run what the first ran.
pub fn begin_attempt(
    status: &mut BackupRunStatus,
    executor: &str,
    spec: &BackupJobSpec,
    generation: Option<i64>,
    now: DateTime<Utc>,
) -> u32 {
    let number = next_number(status);
    status.attempts.push(AttemptStatus {
        number,
        executor: Some(executor.to_owned()),
        start_time: Some(to_time(now)),
        reason: None,
        left: None,
        completion_time: None,
    });
    status.phase = Phase::Running;
    status.reason = None;
    status.message = Some(format!("attempt {number} is at work"));
    status.executor = Some(executor.to_owned());
    status.start_time.get_or_insert_with(|| to_time(now));
    status.spec.get_or_insert_with(|| spec.clone());
    (status.exit_code, status.bytes_read, status.bytes_stored, status.files, status.size) =
        (None, None, None, None, None);
    status.shrunk = None;
    conditions::set(
        &mut status.conditions,
        "Complete",
        Word::False,
        "Running",
        "an attempt is at work",
        generation,
        now,
    );
    conditions::set(&mut status.conditions, "Succeeded", Word::Unknown, "Running", "not known yet", generation, now);
    number
}

/// The failure of an attempt whose process died; `stays` is what could not be cleared away, and why.
pub fn died(executor: &str, stays: Option<&str>) -> Failure {
    let message =
        format!("the operator process {executor} ended in mid-run; nothing of that attempt is listed as a backup");
    let died = Failure::new(Reason::OperatorRestarted, message);
    match stays {
        None => died,
        Some(stays) => died.leaving(format!("At its destination stays: {stays}")),
    }
}

/// The attempts of which something had to stay at the destination, and is to be tried again before the next one. While the
/// run waits that is before the 1st, 2nd, 4th, 8th … look after it: there may be thousands, and a store that is down holds
/// each of them up.
pub fn to_clear(status: &BackupRunStatus) -> Vec<u32> {
    let (next, waiting) = (next_number(status), is_waiting(status));
    let left = status.attempts.iter().filter(|attempt| attempt.left.is_some()).map(|attempt| attempt.number);
    left.filter(|number| !waiting || next.saturating_sub(*number).is_power_of_two()).collect()
}

/// Whether an attempt ended because its process was cut off.
pub fn was_cut_off(status: &BackupRunStatus, number: u32) -> bool {
    let cut_off = Reason::ClusterUnavailable.as_str();
    status.attempts.iter().any(|attempt| attempt.number == number && attempt.reason.as_deref() == Some(cut_off))
}

/// What stays of an attempt, after it was tried to be removed once more.
pub fn note_left(status: &mut BackupRunStatus, number: u32, left: Option<&str>) {
    if let Some(attempt) = status.attempts.iter_mut().find(|attempt| attempt.number == number) {
        attempt.left = left.map(|left| cut(left, Failure::MESSAGE_LIMIT).to_owned());
    }
}

/// Closes the open attempt with what came of it.
pub fn end_attempt(
    status: &mut BackupRunStatus,
    result: &Result<Report, Failure>,
    retry: Retry,
    generation: Option<i64>,
    now: DateTime<Utc>,
) -> Next {
    let word = match result {
        Ok(report) => report.reason.map_or("Succeeded", Reason::as_str),
        Err(failure) => failure.reason.as_str(),
    };
    if let (Some(attempt), Err(failure)) = (status.attempts.last_mut(), &result)
        && attempt.completion_time.is_none()
    {
        attempt.left = failure.left.as_deref().map(|left| cut(left, Failure::MESSAGE_LIMIT).to_owned());
    }
    close_attempt(status, word, now);
    forget_earlier_waits(status);
    match result {
        Ok(report) => {
            note_report(status, report);
            finish(status, report.phase, report.reason, &report.message, generation, now);
            Next::Over
        }
        Err(failure) if failure.reason == Reason::OperatorRestarted && crashes(status) >= CRASH_LIMIT => {
            let message = format!(
                "the operator died {CRASH_LIMIT} times while it executed this run, so it is not tried again: look whether \
                 its pods run out of memory. {}",
                failure.message
            );
            finish(
                status,
                Phase::Failed,
                Some(Reason::CrashLoop),
                cut(&message, Failure::MESSAGE_LIMIT),
                generation,
                now,
            );
            Next::Over
        }
        Err(failure) => after_failure(status, failure, retry, generation, now),
    }
}

fn close_attempt(status: &mut BackupRunStatus, word: &str, now: DateTime<Utc>) {
    if let Some(attempt) = status.attempts.last_mut().filter(|attempt| attempt.completion_time.is_none()) {
        attempt.reason = Some(word.to_owned());
        attempt.completion_time = Some(to_time(now));
    }
}

/// How many attempts ended with the process that executed them.
fn crashes(status: &BackupRunStatus) -> usize {
    let died = Reason::OperatorRestarted.as_str();
    status.attempts.iter().filter(|attempt| attempt.reason.as_deref() == Some(died)).count()
}

/// What follows when an attempt, or its preparation, failed.
fn after_failure(
    status: &mut BackupRunStatus,
    failure: &Failure,
    retry: Retry,
    generation: Option<i64>,
    now: DateTime<Utc>,
) -> Next {
    status.exit_code = failure.exit_code.or(status.exit_code);
    let done = counted(status);
    let allowed = retry.limit.saturating_add(1);
    let message = failure.short_message();
    if failure.reason.is_waiting() {
        status.phase = Phase::Pending;
        status.reason = Some(failure.reason.as_str().to_owned());
        status.message = Some(message.to_owned());
        return Next::Retry(now + WAIT_PAUSE);
    }
    match failure.class() {
        Class::Cancelled => {
            finish(status, Phase::Cancelled, Some(failure.reason), message, generation, now);
            Next::Over
        }
        Class::Transient if done < allowed => {
            let wait = TimeDelta::from_std(retry.wait(done)).unwrap_or(TimeDelta::zero());
            // What an operator that is ending leaves, its successor takes up at once.
            let at = if failure.reason == Reason::OperatorShutdown { now } else { now + wait };
            status.phase = Phase::Pending;
            status.reason = Some(failure.reason.as_str().to_owned());
            status.message = Some(format!(
                "attempt {done} of {allowed} failed, the next one starts at {}: {message}",
                at.format("%Y-%m-%dT%H:%M:%SZ")
            ));
            Next::Retry(at)
        }
        Class::Transient if allowed > 1 => {
            let message = format!("all {allowed} attempts failed, the last one: {message}");
            let message = cut(&message, Failure::MESSAGE_LIMIT);
            finish(status, Phase::Failed, Some(failure.reason), message, generation, now);
            Next::Over
        }
        Class::Transient | Class::Permanent | Class::Misconfigured => {
            finish(status, Phase::Failed, Some(failure.reason), message, generation, now);
            Next::Over
        }
    }
}

/// A target that is not there, judged by whether it ever was: one that this run, or a backup before it, has found is on its
/// way back (a pod is replaced under its name, a workload is deleted and made again), and a run that gave it up at once
/// would fail on every node drain; one that nobody has seen is a name that was mistyped, and waiting would only hide it.
/// Both ways the attempts are limited. A BackupJob that was pointed at another name since its last backup errs towards
/// trying again, which costs no more than `retry` allows.
pub fn judge_missing_target(failure: Failure, seen_by_run: bool, backed_up_before: bool) -> Failure {
    if failure.reason != Reason::TargetNotFound || !(seen_by_run || backed_up_before) {
        return failure;
    }
    let who = if seen_by_run { "an earlier attempt" } else { "an earlier backup" };
    let message = format!("{}; {who} had found its target, so it may be on its way back", failure.message);
    Failure { reason: Reason::TargetNotReady, message, ..failure }
}

/// How long the run may still take, all its attempts together; `None` before the first one. A wall clock that went back
/// gives no more than `limit`.
pub fn time_left(status: &BackupRunStatus, limit: Duration, now: DateTime<Utc>) -> Option<Duration> {
    let started = from_time(status.start_time.as_ref()?);
    Some(limit.saturating_sub((now - started).to_std().unwrap_or_default()))
}

/// The failure of a run that took longer than `limit`; what it waits for, if that is all that it does, is said.
pub fn took_too_long(limit: Duration, status: &BackupRunStatus) -> Failure {
    let seconds = limit.as_secs();
    let waits = status.message.as_deref().filter(|_| status.phase == Phase::Pending && is_waiting(status));
    let waits = waits.map(|what| format!(". It {what}")).unwrap_or_default();
    Failure::new(
        Reason::DeadlineExceeded,
        format!(
            "not through {seconds} s after its first start, all attempts counted: raise activeDeadlineSeconds, or see what \
             made it slow{waits}"
        ),
    )
}

/// The failure of an attempt that was asked to stop: why it was asked, and not what that looked like from inside.
pub fn stopped(cause: Reason, inside: Failure, limit: Duration, status: &BackupRunStatus) -> Failure {
    let why = match cause {
        Reason::DeadlineExceeded => took_too_long(limit, status),
        Reason::OperatorShutdown => Failure::new(
            cause,
            "the operator process was told to end (an update, a drained node), and the run was not through in the time \
             that it lets its runs have then",
        ),
        Reason::ClusterUnavailable => Failure::new(
            cause,
            "the operator process could not renew its Lease at the API server, and ended its runs before another process \
             takes them over",
        ),
        _ => return Failure { reason: cause, ..inside },
    };
    match inside.left {
        Some(left) => why.leaving(left),
        None => why,
    }
}

/// When a run that is taken up again may try next: its last attempt's end and the wait after it.
pub fn resume_at(status: &BackupRunStatus, retry: Retry) -> Option<DateTime<Utc>> {
    let last = status.attempts.last()?;
    let ended = from_time(last.completion_time.as_ref()?);
    if waited(last) {
        return Some(ended + WAIT_PAUSE);
    }
    if last.reason.as_deref() == Some(Reason::OperatorShutdown.as_str()) {
        return Some(ended);
    }
    TimeDelta::from_std(retry.wait(counted(status))).ok().map(|wait| ended + wait)
}

/// Makes the status final. What stays of its attempts becomes a warning, unless the message says it.
pub fn finish(
    status: &mut BackupRunStatus,
    phase: Phase,
    reason: Option<Reason>,
    message: &str,
    generation: Option<i64>,
    now: DateTime<Utc>,
) {
    debug_assert!(phase.is_final());
    let way_out = reason.filter(|_| phase == Phase::Failed).map_or("", Reason::way_out);
    let message = &with_way_out(message, way_out);
    status.phase = phase;
    status.reason = reason.map(|reason| reason.as_str().to_owned());
    status.message = Some(message.clone());
    status.completion_time = Some(to_time(now));
    status.queue_position = None;
    let left = status.attempts.iter().filter_map(|attempt| Some((attempt.number, attempt.left.as_ref()?)));
    let unsaid = left.filter(|(_, left)| !message.contains(left.as_str()));
    let unsaid =
        unsaid.map(|(number, left)| cut(&format!("attempt {number}: {left}"), Failure::MESSAGE_LIMIT).to_owned());
    status.warnings.extend(unsaid);
    status.duration =
        status.start_time.as_ref().and_then(|start| (now - from_time(start)).to_std().ok()).map(human_duration);
    let word = reason.map_or(phase.as_str(), Reason::as_str);
    close_attempt(status, word, now); // one whose beginning could not be stored
    let succeeded = if phase == Phase::Succeeded { Word::True } else { Word::False };
    conditions::set(&mut status.conditions, "Complete", Word::True, word, message, generation, now);
    conditions::set(&mut status.conditions, "Succeeded", succeeded, word, message, generation, now);
}

/// The failure of a run whose status the API server finds invalid.
pub fn refused(why: &str) -> Failure {
    let why = cut(why, REFUSAL_LIMIT);
    Failure::new(
        Reason::Internal,
        format!(
            "the API server found the run's status invalid ({why}), so that no more is said of it here; the operator's log has \
             it. Please report it"
        ),
    )
}

/// What is written instead of a final status that the API server finds invalid: how the run ended, and nothing that came
/// from outside. The run must not stay at work for ever because of what there was to say of it. That something stays of an
/// attempt is still said, as a warning in our own words.
pub fn reduce(status: &mut BackupRunStatus, why: &str, generation: Option<i64>, now: DateTime<Utc>) {
    let BackupRunStatus {
        phase,
        reason,
        message: _,
        conditions: _,
        spec: _,
        queue_position: _,
        executor,
        mut attempts,
        start_time,
        completion_time: _,
        duration: _,
        exit_code,
        pod: _,
        consistency,
        bytes_read,
        bytes_stored,
        size,
        files,
        shrunk, // it guards the backups before this one
        warnings: _,
        destinations: _,
    } = std::mem::take(status);
    let reason = reason.as_deref().and_then(Reason::parse);
    for left in attempts.iter_mut().filter_map(|attempt| attempt.left.as_mut()) {
        NOT_CLEANED_UP.clone_into(left);
    }
    *status = BackupRunStatus {
        executor,
        attempts,
        start_time,
        exit_code,
        consistency,
        bytes_read,
        bytes_stored,
        size,
        files,
        shrunk,
        ..BackupRunStatus::default()
    };
    finish(status, phase, reason, &refused(why).message, generation, now);
    for attempt in &mut status.attempts {
        attempt.left = None;
    }
}

/// A message that ends with what to do, which is the last thing to be cut off it.
fn with_way_out(message: &str, way_out: &str) -> String {
    if way_out.is_empty() {
        return message.to_owned();
    }
    let happened = cut(message, Failure::MESSAGE_LIMIT.saturating_sub(way_out.len() + 2));
    format!("{}; {way_out}", happened.trim_end_matches('.'))
}

fn note_report(status: &mut BackupRunStatus, report: &Report) {
    let Report {
        phase,
        reason,
        message: _, // goes into the run's own message
        folder,
        ownership,
        objects,
        bytes_read,
        bytes_stored,
        files,
        shrunk,
        warnings,
        exit_code,
        pod,
        consistency,
    } = report;
    status.exit_code = *exit_code;
    status.pod.clone_from(pod);
    status.consistency = Some(*consistency);
    status.bytes_read = Some(signed(*bytes_read));
    status.bytes_stored = Some(signed(*bytes_stored));
    status.size = Some(human_size(*bytes_stored));
    status.files = files.map(signed);
    status.shrunk.clone_from(shrunk);
    status.warnings =
        warnings.iter().take(WARNINGS_LIMIT).map(|text| crate::error::cut(text, 512).to_owned()).collect();
    status.destinations = vec![DestinationStatus {
        name: "default".to_owned(),
        phase: *phase,
        reason: reason.map(|reason| reason.as_str().to_owned()),
        folder: Some(folder.clone()),
        foreign_owner: match ownership {
            Ownership::Ours | Ownership::TakenOver(_) => None,
            Ownership::Foreign(owner) => Some(owner.id()),
        },
        objects: objects
            .iter()
            .take(OBJECTS_LIMIT)
            .map(|object| ObjectStatus {
                name: object.name.clone(),
                size: signed(object.size),
                digest: object.digest.clone(),
            })
            .collect(),
    }];
}

/// Kubernetes' integers are signed; no backup comes near the limit.
pub fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A size as kubectl shows quantities: `512`, `3.4Ki`, `1.2Gi`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["Ki", "Mi", "Gi", "Ti", "Pi"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A duration as kubectl shows it: `12s`, `3m12s`, `2h5m`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

/// The end of a run as observers are told it.
pub fn ended(status: &BackupRunStatus, now: DateTime<Utc>) -> Option<Happening> {
    let phase = Some(status.phase).filter(|phase| phase.is_final())?;
    let started = status.start_time.as_ref().map(from_time);
    let unsigned = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
    Some(Happening::Ended {
        phase,
        reason: status.reason.as_deref().and_then(Reason::parse),
        message: status.message.clone().unwrap_or_default(),
        duration: started.and_then(|started| (now - started).to_std().ok()).unwrap_or_default(),
        bytes_stored: unsigned(status.bytes_stored),
        shrunk: status.shrunk.clone(),
        started,
    })
}

#[cfg(test)]
mod tests;
