//! **P** What is shown of BackupJobs and runs: tables as kubectl prints them, and texts for a person.

use crate::api::backup_job::{BackupJob, JobPhase};
use crate::api::backup_run::{BackupRun, BackupRunStatus};
use crate::api::conditions::BACKUP_SHRUNK;
use crate::api::time::from_time;
use crate::run::Phase;
use crate::run::ports::phase_of;
use crate::run::record::human_size;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use std::fmt::Write;

/// What stands where there is nothing.
const NONE: &str = "<none>";
/// Runs that `describe` shows of a BackupJob.
const SHOWN_RUNS: usize = 10;

/// The condition of this type.
pub(super) fn condition<'a>(job: &'a BackupJob, kind: &str) -> Option<&'a Condition> {
    job.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// How long something lasts, as kubectl shows ages (`duration.HumanDuration` of apimachinery): two units at most, the
/// second one only where it matters.
pub(super) fn age(of: TimeDelta) -> String {
    let seconds = of.num_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |first: i64, unit: &str, second: i64, small: &str| {
        if second == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{second}{small}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

fn ago(time: Option<&Time>, now: DateTime<Utc>) -> String {
    time.map_or_else(String::new, |time| age(now - from_time(time)))
}

fn stamp(time: Option<&Time>) -> String {
    time.map_or_else(|| NONE.to_owned(), |time| from_time(time).to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Columns three spaces apart, as kubectl prints them; nothing behind the last one.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// One line, whatever was written.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// When a run began, or was made.
fn begun(run: &BackupRun) -> Option<DateTime<Utc>> {
    let started = run.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.or(run.metadata.creation_timestamp.as_ref()).map(from_time)
}

/// Sorts runs: the newest first, as they were begun.
pub(super) fn newest_first(runs: &mut [BackupRun]) {
    runs.sort_by_key(|run| std::cmp::Reverse((begun(run), run.name_any())));
}

/// How a run is doing, in one word.
fn reason(run: &BackupRun) -> String {
    let status = run.status.as_ref();
    let shrunk = status.is_some_and(|status| status.shrunk.is_some()).then(|| BACKUP_SHRUNK.to_owned());
    status.and_then(|status| status.reason.clone()).or(shrunk).unwrap_or_default()
}

/// Runs.
pub(super) fn run_table(runs: &[BackupRun], everywhere: bool, wide: bool, now: DateTime<Utc>) -> String {
    let mut header = vec!["NAME", "JOB", "PHASE", "REASON", "STARTED", "DURATION", "SIZE"];
    if everywhere {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["POD", "CONSISTENCY", "MESSAGE"]);
    }
    let row = |run: &BackupRun| {
        let none = BackupRunStatus::default();
        let status = run.status.as_ref().unwrap_or(&none);
        let mut cells = vec![
            run.name_any(),
            run.spec.backup_job_name.clone(),
            status.phase.as_str().to_owned(),
            reason(run),
            ago(status.start_time.as_ref(), now),
            status.duration.clone().unwrap_or_default(),
            status.size.clone().unwrap_or_default(),
        ];
        if everywhere {
            cells.insert(0, run.namespace().unwrap_or_default());
        }
        if wide {
            cells.push(status.pod.clone().unwrap_or_else(|| NONE.into()));
            cells.push(status.consistency.map_or_else(|| NONE.into(), |how| format!("{how:?}")));
            cells.push(line(status.message.as_deref().unwrap_or_default()));
        }
        cells
    };
    table(&header, &runs.iter().map(row).collect::<Vec<_>>())
}

/// BackupJobs.
pub(super) fn job_table(jobs: &[BackupJob], everywhere: bool, wide: bool, now: DateTime<Utc>) -> String {
    let mut header = vec!["NAME", "READY", "HEALTHY", "PHASE", "LAST SUCCESS", "NEXT RUN", "SIZE"];
    if everywhere {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["TARGET", "SCHEDULE", "FAILURES", "MESSAGE"]);
    }
    let row = |job: &BackupJob| {
        let status = job.status.clone().unwrap_or_default();
        let word = |kind| condition(job, kind).map_or_else(|| "Unknown".to_owned(), |found| found.status.clone());
        let mut cells = vec![
            job.name_any(),
            word("Ready"),
            word("Healthy"),
            phase_word(status.phase.as_ref()).to_owned(),
            ago(status.last_success_time.as_ref(), now),
            status.next_run_time.as_ref().map_or_else(String::new, |time| stamp(Some(time))),
            status.last_size.clone().unwrap_or_default(),
        ];
        if everywhere {
            cells.insert(0, job.namespace().unwrap_or_default());
        }
        if wide {
            cells.push(status.target.clone().unwrap_or_else(|| NONE.into()));
            cells.push(job.spec.schedule.clone().unwrap_or_else(|| NONE.into()));
            cells.push(status.consecutive_failures.unwrap_or(0).to_string());
            cells.push(line(status.message.as_deref().unwrap_or_default()));
        }
        cells
    };
    table(&header, &jobs.iter().map(row).collect::<Vec<_>>())
}

fn phase_word(phase: Option<&JobPhase>) -> &str {
    phase.map_or("", JobPhase::as_str)
}

/// Whether all is well with a BackupJob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is, as far as anything is known.
    Good,
    /// Its last backup is there, but not whole, or much smaller than those before it.
    Incomplete,
    /// It cannot run, or its last run failed.
    Failed,
}

/// The verdict on a BackupJob.
pub(super) fn verdict(job: &BackupJob) -> Verdict {
    let is_false = |kind| condition(job, kind).filter(|found| found.status == "False");
    if is_false("Ready").is_some() {
        return Verdict::Failed;
    }
    let Some(healthy) = is_false("Healthy") else { return Verdict::Good };
    let phase = job.status.as_ref().and_then(|status| status.phase.clone());
    let partly = matches!(phase, Some(JobPhase::Incomplete | JobPhase::PartiallyStored));
    if partly || healthy.reason == BACKUP_SHRUNK { Verdict::Incomplete } else { Verdict::Failed }
}

/// What is wrong with a BackupJob, and what to do.
pub(super) fn complaint(job: &BackupJob) -> Option<String> {
    let wrong = ["Ready", "Healthy"].into_iter().find_map(|kind| {
        let found = condition(job, kind).filter(|found| found.status == "False")?;
        Some(format!("{kind}=False, {}: {}", found.reason, line(&found.message)))
    });
    wrong.map(|what| {
        format!("{what} (kubectl backup describe {} -n {})", job.name_any(), job.namespace().unwrap_or_default())
    })
}

/// What came of a run, in two lines at most.
pub(super) fn result(run: &BackupRun) -> String {
    let none = BackupRunStatus::default();
    let status = run.status.as_ref().unwrap_or(&none);
    let name = run.name_any();
    let took = status.duration.as_ref().map_or_else(String::new, |took| format!(" in {took}"));
    if status.phase != Phase::Succeeded {
        let reason = status.reason.as_deref().unwrap_or_default();
        let message = line(status.message.as_deref().unwrap_or_default());
        return format!("{name}: {}{took}: {message} ({reason})\n", status.phase.as_str());
    }
    let size = status.size.as_deref().unwrap_or("0");
    let mut text = format!("{name}: Succeeded{took}, {size} stored\n");
    if let Some(shrunk) = &status.shrunk {
        let job = &run.spec.backup_job_name;
        let _ = writeln!(text, "{BACKUP_SHRUNK}: {shrunk}. If that is right: kubectl backup accept {job} {name}");
    }
    text
}

/// Lines of `Name:  value`, the values in one column.
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    fn add_some(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(name, value.to_string());
        }
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:width$}  {value}", format!("{name}:"));
        }
        text
    }
}

fn indented(text: &str) -> String {
    let mut indented = String::new();
    for line in text.lines() {
        // Writing to a string cannot fail.
        let _ = writeln!(indented, "  {line}");
    }
    indented
}

fn conditions(list: &[Condition], now: DateTime<Utc>) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|found| {
            let since = age(now - from_time(&found.last_transition_time));
            vec![found.type_.clone(), found.status.clone(), since, found.reason.clone(), line(&found.message)]
        })
        .collect();
    format!("Conditions:\n{}", indented(&table(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"], &rows)))
}

/// Everything about a BackupJob. `runs`: its runs, the newest first.
pub(super) fn describe_job(job: &BackupJob, runs: &[BackupRun], now: DateTime<Utc>) -> String {
    let status = job.status.clone().unwrap_or_default();
    let name = job.name_any();
    let mut fields = Fields(Vec::new());
    fields.add("Name", &name);
    fields.add("Namespace", job.namespace().unwrap_or_default());
    fields.add("Target", status.target.clone().unwrap_or_else(|| NONE.into()));
    fields.add("Strategy", job.spec.strategy.kind.as_str());
    let destination = job.spec.destination.as_ref().and_then(|destination| destination.uri.clone());
    fields.add_some("Destination", destination);
    fields.add("Schedule", job.spec.schedule.clone().unwrap_or_else(|| NONE.into()));
    fields.add_some("Time zone", job.spec.time_zone.clone());
    let recipients = job.spec.encryption.as_ref().map(|encryption| encryption.recipients.join(", "));
    fields.add_some("Encrypted for", recipients);
    fields.add("Phase", phase_word(status.phase.as_ref()));
    fields.add("Last success", stamp(status.last_success_time.as_ref()));
    fields.add_some("Last backup", status.last_successful_run.clone());
    fields.add_some("Last size", status.last_size.clone());
    fields.add("Next run", stamp(status.next_run_time.as_ref()));
    fields.add("Failures", status.consecutive_failures.unwrap_or(0).to_string());
    fields.add_some("Message", status.message.as_deref().map(line));
    let mut text = format!("{}{}", fields.text(), conditions(&status.conditions, now));
    let shown = &runs[..runs.len().min(SHOWN_RUNS)];
    if shown.is_empty() {
        let _ = writeln!(text, "Runs: {NONE}; make one: kubectl backup run {name} --wait");
    } else {
        let _ = write!(text, "Runs:\n{}", indented(&run_table(shown, false, false, now)));
    }
    if runs.len() > shown.len() {
        let _ = writeln!(text, "  and {} older ones: kubectl backup list {name}", runs.len() - shown.len());
    }
    text
}

/// Everything about a run.
pub(super) fn describe_run(run: &BackupRun, now: DateTime<Utc>) -> String {
    let none = BackupRunStatus::default();
    let status = run.status.as_ref().unwrap_or(&none);
    let bytes = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(human_size);
    let mut fields = Fields(Vec::new());
    fields.add("Name", run.name_any());
    fields.add("Namespace", run.namespace().unwrap_or_default());
    fields.add("Job", &run.spec.backup_job_name);
    fields.add_some("Scheduled at", run.spec.scheduled_at.as_ref().map(|time| stamp(Some(time))));
    fields.add("Phase", status.phase.as_str());
    fields.add_some("Reason", status.reason.clone());
    fields.add_some("Message", status.message.as_deref().map(line));
    fields.add_some("Queue position", status.queue_position);
    fields.add("Started", stamp(status.start_time.as_ref()));
    fields.add_some("Completed", status.completion_time.as_ref().map(|time| stamp(Some(time))));
    fields.add_some("Duration", status.duration.clone());
    fields.add_some("Exit code", status.exit_code);
    fields.add_some("Pod", status.pod.clone());
    fields.add_some("Consistency", status.consistency.map(|how| format!("{how:?}")));
    fields.add_some("Read", bytes(status.bytes_read));
    fields.add_some("Stored", bytes(status.bytes_stored));
    fields.add_some("Files", status.files);
    fields.add_some("Shrunk", status.shrunk.clone());
    fields.add_some("Executor", status.executor.clone());
    let mut text = format!("{}{}", fields.text(), conditions(&status.conditions, now));
    let attempts: Vec<Vec<String>> = status
        .attempts
        .iter()
        .map(|attempt| {
            let reason = attempt.reason.clone().unwrap_or_else(|| "at work".into());
            vec![
                attempt.number.to_string(),
                stamp(attempt.start_time.as_ref()),
                stamp(attempt.completion_time.as_ref()),
                reason,
            ]
        })
        .collect();
    if !attempts.is_empty() {
        let _ = write!(text, "Attempts:\n{}", indented(&table(&["NUMBER", "STARTED", "ENDED", "REASON"], &attempts)));
    }
    for destination in &status.destinations {
        let folder = destination.folder.as_deref().unwrap_or(NONE);
        let _ = writeln!(text, "Destination {}: {}, {folder}", destination.name, destination.phase.as_str());
        let objects: Vec<Vec<String>> = destination
            .objects
            .iter()
            .map(|object| vec![object.name.clone(), object.size.to_string(), object.digest.clone()])
            .collect();
        text.push_str(&indented(&table(&["OBJECT", "BYTES", "BLAKE3"], &objects)));
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "Warning: {}", line(warning));
    }
    if !phase_of(run).is_final() {
        let _ = writeln!(text, "To stop it: kubectl backup cancel {}", run.name_any());
    }
    text
}
