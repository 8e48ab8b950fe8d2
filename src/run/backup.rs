//! **O** One backup end to end; the only place that states the order.
//!
//! ```text
//! owner.json ► started.json ► open the source ─► bytes ─┬► TarWatch (a tar: is its end there? anything in it?)
//!                                                       └► Encoder ─► frames ─► Seal (encryption) ─► staged object(s)
//!   ... the source has ended ...
//! completion ► tar end ► guards ► commit ► sizes ► log.txt ► compared with those before ► manifest.json ► read back ► sizes again ► Report
//! ```
//! With an archive of each pod (`spec.target.pods: Each`) what lies between `started.json` and the comparison is done for one
//! pod after the other, in a folder of its own; then comes one manifest over all.
//!
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
//! Only where the attempt before this one had to wait ([`Plan::waited`]) it is the other way round: the destination was asked
//! then, and what a run looks at every few seconds, maybe for hours, must not become a folder each time.
//! Nothing is tried again here; what may pass was tried again below (one request) and will be above (a new attempt, in a
//! folder of its own).
//!
//! Of several pods, one that was not whole leaves nothing behind and is called missing; the others go on. What the
//! destination does is not one pod's failure: it ends the attempt, which may be tried again and then have them all. One in
//! which another run is at work comes after the others, and is missing only if that one does not end for a while.
//!
//! # Cancellation
//! Until the (last) source's end, a cancel takes effect at once. From then on the rest gets [`COMMIT_GRACE`]: a commit that
//! is dropped half-way may still happen at the server. A cancel that comes too late is told by a report that says
//! `Succeeded`. The future itself may be dropped at any moment; then nothing is removed here (nobody is left to do it), and
//! the folder has no manifest.
//!
//! # When the run may be another's
//! A process that was cut off ([`Cancel::lost`]) is called dead by others, who look at the folder
//! ([`super::recover`]): what they find whole is a backup, and the run has `Succeeded`; what they do not is cleared away.
//! So from the put of the manifest on nothing is removed any more by the one that was cut off: the folder is left to them.
//! And whatever it still does ends before they look, see [`LOST_GRACE`].
//!
//! # What is left
//! After an error or a cancel, in [`CLEANUP_LIMIT`]: the source is told to end and awaited, uploads are aborted, and what
//! was written is removed, the manifest first: where that cannot be removed, everything that it names stays
//! ([`super::removal`]). What stays is in the message; of pods that are missing while others are kept, in a warning.
//! `owner.json` always stays.
//!
//! # Very large backups
//! An object is closed at [`Plan::segment_size`] and the next one begun. All of one source are committed at its end, in
//! order. Until then each upload keeps its last part in memory, so there should be few of them.

use super::cancel::Cancel;
use super::record::WAIT_PAUSE;
use super::removal::{AT_ONCE, remove, shown};
use super::report::{Ownership, Plan, Progress, Report};
use crate::api::names::ObjectKey;
use crate::archive::encrypt::encrypt;
use crate::clock::Clock;
use crate::destination::{Destination, PART_SIZE, Put, Stored};
use crate::error::{Failure, Reason};
use crate::repository::catalog::read_document;
use crate::repository::layout;
use crate::repository::manifest::{self, Manifest, Object, Outcome, Shrunk};
use crate::source::{Completion, Source};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use part::{Broken, Captured, Part};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use verdict::{Fate, Frame, Kept, of_each, of_one};

mod claim;
mod compare;
mod part;
mod verdict;

/// How often those pods of several that others are at work in are looked at again, after [`WAIT_PAUSE`] each: ten minutes.
const WAIT_ROUNDS: u32 = 40;

/// Parts that an upload has at most. S3 takes 10,000; the rest is left free, so that nobody who counts a little differently
/// refuses the last part of 76 GiB.
const SEGMENT_PARTS: u64 = 9_728;
/// Longest object, wherever there is no reason for shorter ones. As long as an upload may be: each costs memory until the
/// commit.
pub const SEGMENT_SIZE: u64 = SEGMENT_PARTS * PART_SIZE as u64;
/// For committing and writing the manifest once a cancel has come.
pub const COMMIT_GRACE: Duration = Duration::from_secs(30);
/// For ending the source and removing what was written.
pub const CLEANUP_LIMIT: Duration = Duration::from_mins(1);
/// The same two, each, where the run may be another's: together the 20 s that others still wait then
/// (`lease::Terms::EXECUTOR`). A manifest that were written when they have looked would name what they have removed. Its
/// put is dropped after the first half at the latest, so that one on its way has the second half to arrive. One that was
/// not begun has the second half for cleaning up; what stays, they clear away.
pub const LOST_GRACE: Duration = Duration::from_secs(10);
/// For ending one pod's source and aborting its uploads before the next pod's turn.
const POD_CLEANUP_LIMIT: Duration = Duration::from_secs(30);
/// Part of the command's words that is kept, in bytes.
pub const LOG_LIMIT: usize = 1024 * 1024;
/// Warnings that are kept, of all pods together.
pub const WARNING_LIMIT: usize = 100;

/// One pod of several.
pub struct Member {
    /// Its name, which becomes the name of its folder.
    pub pod: String,
    /// How it is read; or why it cannot be, known before anything begins.
    pub source: Result<Box<dyn Source>, Failure>,
}

/// What is backed up.
#[derive(Clone, Copy)]
enum Sources<'a> {
    One(&'a dyn Source),
    Each(&'a [Member]),
}

/// Makes one backup. On an error nothing is listed as a backup, and nothing of the attempt stays at the destination that
/// could be removed. A cancel gives [`Reason::CancelRequested`]; the caller, who knows why, may put another reason.
pub async fn back_up(
    plan: &Plan,
    source: &dyn Source,
    destination: &dyn Destination,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report, Failure> {
    carry_out(plan, Sources::One(source), destination, clock, progress, cancel).await
}

/// Makes one backup of several pods, one after the other, so that it takes no more memory than one. The report is
/// `Incomplete` ([`Reason::PodsMissing`]) where a pod is missing, and a failure where nothing of any is kept. In all else it
/// is as [`back_up`].
pub async fn back_up_each(
    plan: &Plan,
    pods: &[Member],
    destination: &dyn Destination,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report, Failure> {
    carry_out(plan, Sources::Each(pods), destination, clock, progress, cancel).await
}

async fn carry_out(
    plan: &Plan,
    sources: Sources<'_>,
    destination: &dyn Destination,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report, Failure> {
    // Ends the source whenever this future ends, for whatever reason.
    let stop = cancel.token().child_token();
    let _ends_source = stop.clone().drop_guard();
    let mut attempt = Attempt {
        plan,
        destination,
        progress,
        clock,
        cancel,
        stop,
        folder: layout::folder(&plan.id)?,
        started_at: clock.now(),
        claimed: false,
        ownership: Ownership::Ours,
        warnings: Vec::new(),
        written: Vec::new(),
        whole: false,
        stays: Vec::new(),
        part: None,
    };
    let result = match sources {
        Sources::One(source) => attempt.one(source).await,
        Sources::Each(pods) => attempt.each(pods).await,
    };
    match result {
        Ok(report) => Ok(report),
        Err(failure) => Err(attempt.clean_up(failure).await),
    }
}

fn cancelled() -> Failure {
    Failure::new(Reason::CancelRequested, "the backup was cancelled before it was complete")
}

/// Work that a cancel ends at once.
async fn unless_cancelled<T>(cancel: &Cancel, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        _ = cancel.requested() => Err(cancelled()),
        done = work => Ok(done),
    }
}

/// Work that goes on for a while after a cancel.
async fn within_grace<T>(cancel: &Cancel, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let too_late = async {
        cancel.requested().await;
        over(cancel, COMMIT_GRACE).await;
    };
    tokio::select! {
        biased;
        done = work => done,
        () = too_late => Err(cancelled()),
    }
}

/// Waits until `limit` is over, or [`LOST_GRACE`] where the run may be another's.
async fn over(cancel: &Cancel, limit: Duration) {
    let lost = async {
        cancel.lost().await;
        tokio::time::sleep(LOST_GRACE).await;
    };
    tokio::select! {
        () = tokio::time::sleep(limit) => {}
        () = lost => {}
    }
}

/// Everything that has to be undone when it goes wrong.
struct Attempt<'a> {
    plan: &'a Plan,
    destination: &'a dyn Destination,
    progress: &'a Progress,
    clock: &'a dyn Clock,
    cancel: &'a Cancel,
    /// Ends whatever source is open.
    stop: CancellationToken,
    folder: ObjectKey,
    started_at: DateTime<Utc>,
    /// `started.json` is ours.
    claimed: bool,
    ownership: Ownership,
    warnings: Vec<String>,
    /// Keys that may be there, in the order of writing.
    written: Vec<ObjectKey>,
    /// The put of the manifest has begun, and nothing that it names was seen to be missing: who looks may find it whole.
    whole: bool,
    /// What could not be thrown away of pods that are missing.
    stays: Vec<String>,
    /// What is at work.
    part: Option<Part<'a>>,
}

impl<'a> Attempt<'a> {
    /// A backup of one source.
    async fn one(&mut self, source: &dyn Source) -> Result<Report, Failure> {
        let cancel = self.cancel;
        let captured = unless_cancelled(cancel, async {
            if !self.plan.waited {
                self.claim_folder().await?;
            }
            Ok::<Captured, Failure>(Box::pin(self.read(source, None)).await?)
        });
        let captured = captured.await??;
        let published = async {
            let mut kept = self.keep(captured, None).await?;
            for warning in std::mem::take(&mut kept.warnings) {
                self.warn(warning);
            }
            let shrunk = self.compare(kept.raw.size, kept.outcome).await;
            let manifest = of_one(self.frame(shrunk), kept);
            self.publish(&manifest).await
        };
        within_grace(cancel, published).await
    }

    /// A backup of each of these pods.
    async fn each(&mut self, pods: &[Member]) -> Result<Report, Failure> {
        let cancel = self.cancel;
        if !self.plan.waited {
            unless_cancelled(cancel, self.claim_folder()).await??;
        }
        let mut fates: Vec<(String, Fate)> = Vec::with_capacity(pods.len());
        for member in pods {
            fates.push((member.pod.clone(), self.pod(member).await?));
        }
        // Those that others are at work in come again, for a while: what is kept of the rest is not thrown away for them, and
        // a place is not kept from others for ever. Where nothing is kept yet the run waits as a whole, and keeps no place.
        for _ in 0..WAIT_ROUNDS {
            if !fates.iter().any(|(_, fate)| fate.waits()) || fates.iter().all(|(_, fate)| fate.kept().is_none()) {
                break;
            }
            unless_cancelled(cancel, tokio::time::sleep(WAIT_PAUSE)).await?;
            for (member, (_, fate)) in pods.iter().zip(&mut fates).filter(|(_, (_, fate))| fate.waits()) {
                *fate = self.pod(member).await?;
            }
        }
        let mut warnings = WARNING_LIMIT;
        for (_, fate) in &mut fates {
            if let Fate::Kept(kept) = fate {
                kept.warnings.truncate(warnings);
                warnings -= kept.warnings.len();
            }
        }
        if cancel.cause().is_some() {
            return Err(cancelled());
        }
        let published = async {
            // What is not whole is compared with nothing; this is only the sum.
            let whole = fates.iter().all(|(_, fate)| fate.kept().is_some_and(|kept| kept.outcome == Outcome::Complete));
            let outcome = if whole { Outcome::Complete } else { Outcome::Incomplete };
            let raw = fates.iter().filter_map(|(_, fate)| fate.kept()).map(|kept| kept.raw.size).sum();
            let shrunk = self.compare(raw, outcome).await;
            if !self.stays.is_empty() {
                // What else would know of it? A run that ended so is not tried again, and the pods' messages are cut.
                self.warn(staying(&self.folder, &self.stays));
            }
            let manifest = of_each(self.frame(shrunk), fates)?;
            self.publish(&manifest).await
        };
        within_grace(cancel, published).await
    }

    /// One pod of several, into its folder. An error is one of the whole attempt.
    async fn pod(&mut self, member: &Member) -> Result<Fate, Failure> {
        let cancel = self.cancel;
        let source = match &member.source {
            Ok(source) => source,
            Err(failure) => return Ok(Fate::Missing(failure.clone())),
        };
        let files = self.progress.files.load(Ordering::Relaxed);
        let captured = Box::pin(self.read(source.as_ref(), Some(member.pod.clone())));
        let captured = unless_cancelled(cancel, captured).await?;
        match captured {
            Ok(captured) => {
                let kept = within_grace(cancel, self.keep(captured, Some(&member.pod))).await;
                Ok(Fate::Kept(Box::new(kept.map_err(|e| e.while_doing(format_args!("pod {}", member.pod)))?)))
            }
            Err(Broken::Attempt(failure)) => Err(failure.while_doing(format_args!("pod {}", member.pod))),
            Err(Broken::Source(failure)) => {
                if let Some(part) = &mut self.part
                    && timeout(POD_CLEANUP_LIMIT, part.give_up(&mut self.stays)).await.is_err()
                {
                    self.stays.push(format!("perhaps an unfinished upload of {}", member.pod));
                }
                self.part = None;
                self.progress.files.store(files, Ordering::Relaxed);
                Ok(Fate::Missing(failure))
            }
        }
    }

    /// Opens a source and reads it to its end. The folder is claimed by the time that there is something to write.
    async fn read(&mut self, source: &dyn Source, pod: Option<String>) -> Result<Captured, Broken> {
        let opened = self.begin(pod).open(source).await?;
        self.claim_folder().await.map_err(Broken::Attempt)?;
        let Some(part) = &mut self.part else {
            let message = "what was opened is gone. Please report it";
            return Err(Broken::Attempt(Failure::new(Reason::Internal, message)));
        };
        part.capture(opened).await
    }

    /// A source's way into its objects: below the attempt's folder, or in the pod's folder there.
    fn begin(&mut self, pod: Option<String>) -> &mut Part<'a> {
        self.part.insert(Part::new(
            self.plan,
            self.destination,
            self.progress,
            self.folder.clone(),
            pod,
            self.stop.child_token(),
        ))
    }

    /// Commits what was captured, and stores what the command said.
    async fn keep(&mut self, captured: Captured, pod: Option<&str>) -> Result<Kept, Failure> {
        let Some(part) = &mut self.part else {
            return Err(Failure::new(Reason::Internal, "what was captured is gone. Please report it"));
        };
        part.commit(&captured.completion, &mut self.written).await?;
        let log = self.store_log(&captured.completion, pod).await?;
        let Some(part) = self.part.take() else {
            return Err(Failure::new(Reason::Internal, "what was committed is gone. Please report it"));
        };
        Ok(part.kept(captured, log))
    }

    fn frame(&mut self, shrunk: Option<Shrunk>) -> Frame<'a> {
        Frame {
            plan: self.plan,
            started_at: self.started_at,
            completed_at: self.clock.now(),
            warnings: std::mem::take(&mut self.warnings),
            shrunk,
        }
    }

    /// Writes the manifest, and takes the last look: everything that it names is there, as long as it says.
    async fn publish(&mut self, manifest: &Manifest) -> Result<Report, Failure> {
        self.store_manifest(manifest).await?;
        let (destination, folder) = (self.destination, &self.folder);
        let look = |object: &Object| {
            let (name, size) = (object.name.clone(), object.size);
            async move {
                let key = folder.join(&name)?;
                let there = destination.stat(&key).await?.map(|info| info.size);
                Ok::<_, Failure>((there != Some(size)).then(|| wrong_size(&key, size, there)))
            }
        };
        let mut looks = futures::stream::iter(manifest.objects().map(look)).buffer_unordered(AT_ONCE);
        while let Some(wrong) = looks.try_next().await? {
            if let Some(wrong) = wrong {
                self.whole = false;
                return Err(wrong);
            }
        }
        drop(looks);
        Ok(Report::of(&self.folder, manifest, self.ownership.clone()))
    }

    /// The last of what the command said, if it said anything.
    async fn store_log(&mut self, completion: &Completion, pod: Option<&str>) -> Result<Option<Object>, Failure> {
        let log = &completion.ending().log;
        if log.is_empty() {
            return Ok(None);
        }
        let log = &log[log.len().saturating_sub(LOG_LIMIT)..];
        let encrypted = !self.plan.recipients.is_empty();
        let log = if encrypted { encrypt(&self.plan.recipients, log)? } else { Bytes::copy_from_slice(log) };
        let name = layout::object_name(pod, &layout::log_name(encrypted));
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
        self.whole = true;
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

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNING_LIMIT {
            self.warnings.push(warning);
        }
    }

    /// Ends the source, throws away what was staged, removes what was written, unless others may have found it whole. Gives
    /// the failure, with what had to stay.
    async fn clean_up(mut self, failure: Failure) -> Failure {
        self.stop.cancel();
        let mut stays = std::mem::take(&mut self.stays);
        let mut left: BTreeSet<ObjectKey> = std::mem::take(&mut self.written).into_iter().collect();
        let mut unfinished = true;
        let (cancel, whole) = (self.cancel, self.whole);
        let done = async {
            if let Some(part) = &mut self.part {
                part.give_up(&mut stays).await;
            }
            unfinished = false;
            tokio::select! {
                biased;
                () = cancel.lost(), if whole => {}
                // What could not be removed is in `left`.
                _ = remove(self.destination, &mut left) => {}
            }
        };
        let in_time = tokio::select! {
            biased;
            () = done => true,
            () = over(cancel, CLEANUP_LIMIT) => false,
        };
        if !in_time {
            tracing::warn!(folder = %self.folder, objects = left.len(), "a failed attempt was not cleaned up in time");
        }
        stays.extend(shown(&self.folder, &left));
        if unfinished {
            stays.push("perhaps an unfinished upload".into());
        }
        if stays.is_empty() { failure } else { failure.leaving(staying(&self.folder, &stays)) }
    }
}

fn staying(folder: &ObjectKey, stays: &[String]) -> String {
    format!("In {folder} stays: {}", stays.join(", "))
}

fn wrong_size(key: &ObjectKey, wanted: u64, there: Option<u64>) -> Failure {
    let there = there.map_or_else(|| "it is not there".into(), |size| format!("the destination has {size}"));
    Failure::new(Reason::DestinationMismatch, format!("{key} should have {wanted} bytes, and {there}"))
}

#[cfg(test)]
mod tests;
