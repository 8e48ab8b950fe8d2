//! **O** One backup end to end; the only place that states the order.
//!
//! ```text
//! owner.json ► started.json ► open the source ─► bytes ─┬► TarWatch (a tar: is its end there? anything in it?)
//!                                                       └► Encoder ─► frames ─► Seal (encryption) ─► staged object(s)
//!   ... the source has ended ...
//! completion ► tar end ► guards ► commit ► sizes ► compared with those before ► log.txt ► manifest.json ► read back ► sizes again ► Report
//! ```
//! # What may be called a backup
//! The channel of the source closing proves nothing: a cut connection closes it too. Only [`Completion`] counts, then the
//! tar's own end marker, then the guards. Nothing is visible at the destination before that, because a staged object
//! appears with its commit, and a commit takes the completion. The manifest is written last, if nothing is there; it is
//! read back and compared byte for byte; every object that it names is then looked at once more. Only after that is the
//! run `Succeeded`.
//!
//! # Errors
//! The first one counts, with one exception: while the source has failed, whatever fails because of it is not news. The
//! destination is asked first, before the source is opened: a wrong key is told in a second and not after an hour of dump.
//! Nothing is tried again here; what may pass was tried again below (one request) and will be above (a new attempt, in a
//! folder of its own).
//!
//! # Cancellation
//! Until the source's end, a cancel takes effect at once. From then on the rest gets [`COMMIT_GRACE`]: a commit that is
//! dropped half-way may still happen at the server. A cancel that comes too late is told by a report that says `Succeeded`.
//! The future itself may be dropped at any moment; then nothing is removed here (nobody is left to do it), and the folder
//! has no manifest.
//!
//! # What is left
//! After an error or a cancel, in [`CLEANUP_LIMIT`]: the source is told to end and awaited, uploads are aborted, and what
//! was written is removed, the manifest first: where that cannot be removed, everything that it names stays. What stays is
//! named in the message. `owner.json` always stays.
//!
//! # Very large backups
//! An object is closed at [`SEGMENT_SIZE`] and the next one begun (S3 takes 10,000 parts, which are 78 GiB here). All of
//! them are committed at the end, in order.

use super::Phase;
use super::guard::{guard, shrunk, shrunk_message};
use super::report::{Ownership, Plan, Progress, Report, StoredObject};
use crate::api::names::ObjectKey;
use crate::archive::encode::{Encoder, FRAME_SIZE};
use crate::archive::encrypt::{Seal, encrypt};
use crate::archive::{Measure, Tally};
use crate::clock::Clock;
use crate::destination::{Destination, Put, Staged, Stored};
use crate::error::{Failure, Reason};
use crate::repository::catalog::{self, read_document};
use crate::repository::layout;
use crate::repository::manifest::{
    self, Compression, FORMAT_VERSION, Manifest, Object, Outcome, Owner, OwnerDocument, Shrunk, StartedDocument,
};
use crate::source::tar_end::{Counts, TarFault, TarWatch};
use crate::source::{Capture, CaptureFacts, Completion, Content, Source};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest object; then the next one begins. Also bounds what one lost upload costs.
pub const SEGMENT_SIZE: u64 = 32 * 1024 * 1024 * 1024;
/// For committing and writing the manifest once a cancel has come.
pub const COMMIT_GRACE: Duration = Duration::from_secs(30);
/// For ending the source and removing what was written.
pub const CLEANUP_LIMIT: Duration = Duration::from_mins(1);
/// For the source alone to end, out of [`CLEANUP_LIMIT`].
const SOURCE_END_LIMIT: Duration = Duration::from_secs(20);
/// Part of the command's words that is kept, in bytes.
pub const LOG_LIMIT: usize = 1024 * 1024;
/// Warnings that are kept.
pub const WARNING_LIMIT: usize = 100;

/// Makes one backup. On an error nothing is listed as a backup, and nothing of the attempt stays at the destination that
/// could be removed. A cancel gives [`Reason::CancelRequested`]; the caller, who knows why, may put another reason.
pub async fn back_up(
    plan: &Plan,
    source: &dyn Source,
    destination: &dyn Destination,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Report, Failure> {
    back_up_in_segments(plan, source, destination, clock, progress, cancel, SEGMENT_SIZE).await
}

async fn back_up_in_segments(
    plan: &Plan,
    source: &dyn Source,
    destination: &dyn Destination,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &CancellationToken,
    segment_size: u64,
) -> Result<Report, Failure> {
    // Ends the source whenever this future ends, for whatever reason.
    let stop = cancel.child_token();
    let _ends_source = stop.clone().drop_guard();
    let mut attempt = Attempt {
        plan,
        destination,
        progress,
        folder: layout::folder(&plan.id)?,
        segment_size,
        started_at: clock.now(),
        ownership: Ownership::Ours,
        warnings: Vec::new(),
        written: Vec::new(),
        segments: Vec::new(),
        whole: None,
        capture: None,
    };
    let cancelled = || Failure::new(Reason::CancelRequested, "the backup was cancelled before it was complete");
    let captured = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(cancelled()),
        captured = attempt.capture(source, &stop) => captured,
    };
    let result = match captured {
        Err(failure) => Err(failure),
        Ok(captured) => {
            let too_late = async {
                cancel.cancelled().await;
                tokio::time::sleep(COMMIT_GRACE).await;
            };
            tokio::select! {
                biased;
                published = attempt.publish(&captured, clock) => published,
                () = too_late => Err(cancelled()),
            }
        }
    };
    match result {
        Ok(report) => Ok(report),
        Err(failure) => {
            stop.cancel();
            Err(attempt.clean_up(failure).await)
        }
    }
}

/// One data object.
struct Segment {
    name: String,
    key: ObjectKey,
    /// `None` while it is committed, and afterwards.
    staged: Option<Box<dyn Staged>>,
    tally: Tally,
}

/// What the source turned out to be, its end included.
struct Captured {
    facts: CaptureFacts,
    completion: Completion,
    raw: Measure,
    counts: Option<Counts>,
}

/// Everything that has to be undone when it goes wrong.
struct Attempt<'a> {
    plan: &'a Plan,
    destination: &'a dyn Destination,
    progress: &'a Progress,
    folder: ObjectKey,
    segment_size: u64,
    started_at: DateTime<Utc>,
    ownership: Ownership,
    warnings: Vec<String>,
    /// Keys that may be there, in the order of writing.
    written: Vec<ObjectKey>,
    segments: Vec<Segment>,
    /// All segments together; `None` as long as there is but one.
    whole: Option<Tally>,
    /// `None` before it was opened and after its completion.
    capture: Option<Capture>,
}

impl Attempt<'_> {
    /// From `owner.json` to the source's last byte, and the judgement on it.
    async fn capture(&mut self, source: &dyn Source, stop: &CancellationToken) -> Result<Captured, Failure> {
        self.claim_folder().await?;
        let capture = self.capture.insert(source.open(stop.clone()).await?);
        let facts = capture.facts.clone();
        let mut encoder = Encoder::new(self.plan.compression_level);
        let mut seal = Seal::new(&self.plan.recipients)?;
        let mut watch = (facts.content == Content::Tar).then(TarWatch::default);
        while let Some(capture) = self.capture.as_mut()
            && let Some(chunk) = capture.bytes.recv().await
        {
            self.progress.read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if let Some(watch) = &mut watch {
                watch.push(&chunk);
                self.progress.files.store(watch.counts().files, Ordering::Relaxed);
            }
            for frame in encoder.push(&chunk).await? {
                self.store(facts.content, seal.push(frame).await?).await?;
            }
        }
        let completion = match self.capture.as_mut() {
            Some(capture) => capture.completion.as_mut().await,
            None => Err(Failure::new(Reason::Internal, "a source had no end. Please report it")),
        };
        self.capture = None;
        let completion = completion?;
        let raw_size = encoder.raw_size();
        let counts = watch.map(TarWatch::finish).transpose().map_err(|fault| tar_failure(&fault, raw_size))?;
        guard(self.plan.allow_empty, self.plan.minimum_size, &completion, raw_size, counts)?;
        let (last, raw) = encoder.finish().await?;
        for frame in last {
            self.store(facts.content, seal.push(frame).await?).await?;
        }
        self.store(facts.content, seal.finish()?).await?;
        Ok(Captured { facts, completion, raw, counts })
    }

    /// `owner.json` if there is none, then `started.json`.
    async fn claim_folder(&mut self) -> Result<(), Failure> {
        let id = &self.plan.id;
        let owner = Owner {
            cluster_id: id.cluster_id.to_string(),
            namespace: id.job.namespace.to_string(),
            job: id.job.name.to_string(),
            job_uid: id.job_uid.to_string(),
        };
        self.claim_archive(&owner).await?;
        let started = manifest::to_bytes(&StartedDocument {
            format_version: FORMAT_VERSION,
            owner,
            run: id.run.to_string(),
            run_uid: id.run_uid.to_string(),
            attempt: id.attempt,
            started_at: self.started_at,
            operator_version: env!("CARGO_PKG_VERSION").into(),
        })?;
        let key = self.folder.join(layout::STARTED)?;
        self.written.push(key.clone());
        match self.destination.put(&key, started, Put::IfAbsent).await? {
            Stored::Written => Ok(()),
            Stored::AlreadyThere => {
                // Not ours: it is not removed.
                self.written.clear();
                let message =
                    format!("the folder {} is in use by another attempt; the next one takes another", self.folder);
                Err(Failure::new(Reason::DestinationMismatch, message))
            }
        }
    }

    /// Whose archive it is. It is taken over from an earlier BackupJob of the same name in the same cluster, and from whom
    /// the user says. Another owner's is written to all the same: a backup in a strange folder is better than none, but
    /// nothing there may ever be deleted for this job's sake.
    async fn claim_archive(&mut self, owner: &Owner) -> Result<(), Failure> {
        let key = self.plan.id.archive.join(layout::OWNER)?;
        let ours = manifest::to_bytes(&OwnerDocument { format_version: FORMAT_VERSION, owner: owner.clone() })?;
        let there = match read_document(self.destination, &key).await {
            Ok(there) => there,
            Err(e) if e.reason == Reason::BackupNotFound => {
                match self.destination.put(&key, ours.clone(), Put::IfAbsent).await? {
                    Stored::Written => return Ok(()),
                    Stored::AlreadyThere => read_document(self.destination, &key).await?,
                }
            }
            Err(e) => return Err(e),
        };
        match manifest::parse::<OwnerDocument>(key.as_str(), &there) {
            Ok(there) if there.owner == *owner => {}
            Ok(OwnerDocument { owner: old, .. }) => {
                let archive = &self.plan.id.archive;
                let again =
                    (&old.cluster_id, &old.namespace, &old.job) == (&owner.cluster_id, &owner.namespace, &owner.job);
                if again || self.plan.adopt.as_ref() == Some(&old.id()) {
                    self.destination.put(&key, ours, Put::Always).await?;
                    let which = if again { "an earlier BackupJob" } else { "BackupJob" };
                    let note = format!(
                        "{archive} belonged to {which} {}/{} ({}) of cluster {} and was taken over",
                        old.namespace, old.job, old.job_uid, old.cluster_id
                    );
                    self.warn(note.clone());
                    self.ownership = Ownership::TakenOver(note);
                } else {
                    self.warn(format!(
                        "{archive} belongs to BackupJob {}/{} ({}) of cluster {}: nothing there is ever deleted for this one",
                        old.namespace, old.job, old.job_uid, old.cluster_id
                    ));
                    self.ownership = Ownership::Foreign(old);
                }
            }
            Err(failure) => self.warn(failure.message),
        }
        Ok(())
    }

    /// Hands a frame (or what encryption made of it, which may be nothing) to the destination; begins another object where
    /// this one is long enough.
    async fn store(&mut self, content: Content, frame: Bytes) -> Result<(), Failure> {
        if frame.is_empty() {
            return Ok(());
        }
        let size = frame.len() as u64;
        let full = |segment: &Segment| segment.tally.size() > 0 && segment.tally.size() + size > self.segment_size;
        if self.segments.last().is_none_or(full) {
            if let [only] = &self.segments[..] {
                self.whole = Some(only.tally.clone());
            }
            let name = layout::segment_name(content, self.is_encrypted(), self.segments.len());
            let key = self.folder.join(&name)?;
            let staged = Some(self.destination.stage(&key).await?);
            self.segments.push(Segment { name, key, staged, tally: Tally::default() });
        }
        if let Some(whole) = &mut self.whole {
            whole.add(&frame);
        }
        if let Some(Segment { staged: Some(staged), tally, .. }) = self.segments.last_mut() {
            tally.add(&frame);
            staged.write(frame).await?;
        }
        self.progress.stored.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// From the commit to the last look.
    async fn publish(&mut self, captured: &Captured, clock: &dyn Clock) -> Result<Report, Failure> {
        let Captured { facts, completion, raw, counts } = captured;
        for segment in &mut self.segments {
            let Some(staged) = segment.staged.take() else { continue };
            // From here on it may be there, whatever the answer.
            self.written.push(segment.key.clone());
            let size = staged.commit(completion).await?;
            if size != segment.tally.size() {
                return Err(wrong_size(&segment.key, segment.tally.size(), Some(size)));
            }
        }
        let ending = completion.ending();
        for warning in &ending.warnings {
            self.warn(warning.clone());
        }
        let shrunk = self.compare(raw.size, completion).await;
        let shrunk_message = shrunk.as_ref().map(|shrunk| shrunk_message(raw.size, shrunk));
        let log = self.store_log(&ending.log).await?;
        let segments: Vec<Object> = self
            .segments
            .iter()
            .map(|Segment { name, tally, .. }| {
                let Measure { size, digest } = tally.measure();
                Object { name: name.clone(), size, digest }
            })
            .collect();
        let whole = self.whole.as_ref().or(self.segments.first().map(|s| &s.tally));
        let stored = whole.map_or_else(|| Tally::default().measure(), Tally::measure);
        let (outcome, reason, message) = match completion {
            Completion::Complete(_) => (Outcome::Complete, None, None),
            Completion::Incomplete(_, reason, message) => (Outcome::Incomplete, Some(*reason), Some(message.clone())),
        };
        let id = &self.plan.id;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            owner: Owner {
                cluster_id: id.cluster_id.to_string(),
                namespace: id.job.namespace.to_string(),
                job: id.job.name.to_string(),
                job_uid: id.job_uid.to_string(),
            },
            run: id.run.to_string(),
            run_uid: id.run_uid.to_string(),
            attempt: id.attempt,
            outcome,
            reason: reason.map(|reason| reason.as_str().to_string()),
            message: message.clone(),
            scheduled_at: id.scheduled_at,
            started_at: self.started_at,
            completed_at: clock.now(),
            target: self.plan.target.clone(),
            pod: facts.pod.clone(),
            container: facts.container.clone(),
            strategy: self.plan.strategy.into(),
            exit_code: ending.exit_code,
            content: facts.content,
            consistency: facts.consistency,
            compression: Compression {
                format: "zstd-seekable".into(),
                level: self.plan.compression_level,
                frame_size: FRAME_SIZE as u64,
            },
            encryption_recipients: self.plan.recipients.iter().map(|to| to.as_str().to_owned()).collect(),
            raw: raw.clone().into(),
            stored: stored.clone().into(),
            shrunk,
            files: counts.map(|counts| counts.files),
            segments,
            log,
            warnings: self.warnings.clone(),
            operator_version: env!("CARGO_PKG_VERSION").into(),
        };
        self.store_manifest(&manifest).await?;
        // The last look: everything that the manifest names is there, as long as it says.
        for object in manifest.objects() {
            let key = self.folder.join(&object.name)?;
            let there = self.destination.stat(&key).await?.map(|info| info.size);
            if there != Some(object.size) {
                return Err(wrong_size(&key, object.size, there));
            }
        }
        let objects = manifest.objects().map(|Object { name, size, digest }| StoredObject {
            name: name.clone(),
            size: *size,
            digest: digest.clone(),
        });
        Ok(Report {
            phase: if reason.is_none() { Phase::Succeeded } else { Phase::Incomplete },
            reason,
            message: message.unwrap_or_else(|| format!("{} bytes read, {} bytes stored", raw.size, stored.size)),
            folder: self.folder.to_string(),
            ownership: self.ownership.clone(),
            objects: objects.collect(),
            bytes_read: raw.size,
            bytes_stored: stored.size,
            files: counts.map(|counts| counts.files),
            shrunk: shrunk_message,
            warnings: self.warnings.clone(),
            exit_code: ending.exit_code,
            pod: facts.pod.clone(),
            consistency: facts.consistency,
        })
    }

    /// Whether it is much smaller than those before it. Not knowing that spoils no backup, but is said.
    async fn compare(&mut self, raw_size: u64, completion: &Completion) -> Option<Shrunk> {
        let maximum = self.plan.maximum_shrink_percent.filter(|_| matches!(completion, Completion::Complete(_)))?;
        let archive = &self.plan.id.archive;
        let archives = match catalog::load(self.destination, &format!("{archive}/")).await {
            Ok(archives) => archives,
            Err(failure) => {
                let reason = failure.reason;
                self.warn(format!(
                    "whether it has shrunk is not known: the backups before it could not be read ({reason})"
                ));
                return None;
            }
        };
        let ours = archives.iter().find(|found| found.name == archive.as_str())?;
        let before = ours.backups.iter().map(|backup| &backup.manifest);
        shrunk(raw_size, before, maximum, self.plan.accepted.as_deref())
    }

    /// The last of what the command said, if it said anything.
    async fn store_log(&mut self, log: &[u8]) -> Result<Option<Object>, Failure> {
        if log.is_empty() {
            return Ok(None);
        }
        let log = &log[log.len().saturating_sub(LOG_LIMIT)..];
        let encrypted = self.is_encrypted();
        let log = if encrypted { encrypt(&self.plan.recipients, log)? } else { Bytes::copy_from_slice(log) };
        let name = layout::log_name(encrypted);
        let key = self.folder.join(&name)?;
        self.written.push(key.clone());
        self.destination.put(&key, log.clone(), Put::Always).await?;
        let digest = blake3::hash(&log).to_hex().to_string();
        Ok(Some(Object { name, size: log.len() as u64, digest }))
    }

    /// Writes the manifest if none is there, and reads it back.
    async fn store_manifest(&mut self, manifest: &Manifest) -> Result<(), Failure> {
        let key = self.folder.join(layout::MANIFEST)?;
        let bytes = manifest::to_bytes(manifest)?;
        self.written.push(key.clone());
        if self.destination.put(&key, bytes.clone(), Put::IfAbsent).await? == Stored::AlreadyThere {
            // Not ours, and neither is what it names: nothing of it is removed.
            self.written.clear();
            let message = format!("{key} was written by somebody else while this attempt was at work");
            return Err(Failure::new(Reason::DestinationMismatch, message));
        }
        let back =
            read_document(self.destination, &key).await.map_err(|e| e.while_doing("reading the manifest back"))?;
        if back != bytes {
            return Err(Failure::new(
                Reason::DestinationMismatch,
                format!("{key} reads back differently than it was written"),
            ));
        }
        Ok(())
    }

    fn is_encrypted(&self) -> bool {
        !self.plan.recipients.is_empty()
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNING_LIMIT {
            self.warnings.push(warning);
        }
    }

    /// Ends the source, throws away what was staged, removes what was written. Gives the failure, with what had to stay.
    async fn clean_up(mut self, mut failure: Failure) -> Failure {
        let mut stays: Vec<String> = Vec::new();
        let done = timeout(CLEANUP_LIMIT, async {
            if let Some(mut capture) = self.capture.take() {
                capture.bytes.close();
                // It only ends now; what it says about that is not news.
                let _ = timeout(SOURCE_END_LIMIT, capture.completion.as_mut()).await;
            }
            for segment in &mut self.segments {
                if let Some(staged) = segment.staged.take()
                    && let Err(e) = staged.abort().await
                {
                    tracing::warn!(key = %segment.key, reason = %e.reason, "an upload could not be aborted");
                    stays.push(format!("an unfinished upload of {}", segment.name));
                }
            }
            while let Some(key) = self.written.last() {
                if let Err(e) = self.destination.delete(key).await {
                    tracing::warn!(%key, reason = %e.reason, "a failed attempt's object could not be removed");
                    if key.file_name() == layout::MANIFEST {
                        // Whoever lists it must also find what it names.
                        stays.push("perhaps the whole backup (its manifest could not be removed)".into());
                        break;
                    }
                    stays.push(key.file_name().to_string());
                }
                self.written.pop();
            }
        });
        if done.await.is_err() {
            stays.extend(self.written.iter().map(|key| key.file_name().to_string()));
            stays.push("perhaps an unfinished upload".into());
        }
        if !stays.is_empty() {
            failure.message = format!("{}. In {} stays: {}", failure.message, self.folder, stays.join(", "));
        }
        failure
    }
}

fn tar_failure(fault: &TarFault, raw_size: u64) -> Failure {
    let reason = match fault {
        TarFault::Truncated => Reason::ArchiveTruncated,
        TarFault::Damaged(_) => Reason::StreamCorrupt,
    };
    Failure::new(reason, format!("{fault}, after {raw_size} bytes"))
}

fn wrong_size(key: &ObjectKey, wanted: u64, there: Option<u64>) -> Failure {
    let there = there.map_or_else(|| "it is not there".into(), |size| format!("the destination has {size}"));
    Failure::new(Reason::DestinationMismatch, format!("{key} should have {wanted} bytes, and {there}"))
}

#[cfg(test)]
mod tests;
