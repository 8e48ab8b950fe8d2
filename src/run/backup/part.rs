//! **O** One source into its objects: the data of a backup, or of one pod of it.
//!
//! Nothing of it is visible before [`Part::commit`], which takes the proof that the source's end was seen. Whoever gives it
//! up calls [`Part::give_up`]; one that is dropped leaves what was committed and uploads that nobody completes.

use super::super::guard::guard;
use super::super::report::{Plan, Progress};
use super::verdict::Kept;
use super::{WARNING_LIMIT, wrong_size};
use crate::api::names::ObjectKey;
use crate::archive::encode::Encoder;
use crate::archive::encrypt::Seal;
use crate::archive::{Measure, Tally};
use crate::destination::{Destination, Staged};
use crate::error::{Failure, Reason};
use crate::repository::layout;
use crate::repository::manifest::{Object, Outcome};
use crate::source::tar_end::{Counts, TarFault, TarWatch};
use crate::source::{Capture, CaptureFacts, Completion, Content, Source};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For the source alone to end, out of the time that cleaning up has.
const SOURCE_END_LIMIT: Duration = Duration::from_secs(20);
/// The same for uploads that are looked for at the destination.
const UPLOADS_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no archive of a source.
#[derive(Debug)]
pub(super) enum Broken {
    /// It was not whole: that is about this source, and no other.
    Source(Failure),
    /// What would have gone wrong with every source: the destination, or ourselves.
    Attempt(Failure),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source(failure) | Broken::Attempt(failure) => failure,
        }
    }
}

/// A source that has begun.
pub(super) struct Opened {
    facts: CaptureFacts,
    first: Option<Bytes>,
    /// It has ended without a byte.
    end: Option<Completion>,
}

/// What the source turned out to be, its end included.
pub(super) struct Captured {
    facts: CaptureFacts,
    pub(super) completion: Completion,
    raw: Measure,
    counts: Option<Counts>,
}

/// One data object.
struct Segment {
    name: String,
    key: ObjectKey,
    /// `None` while it is committed, and afterwards.
    staged: Option<Box<dyn Staged>>,
    /// Its commit has begun and has not come back: when it is dropped, nobody holds its upload any more.
    in_commit: bool,
    /// Its commit could neither be completed nor thrown away.
    is_stuck: bool,
    tally: Tally,
}

/// A source on its way into its objects.
pub(super) struct Part<'a> {
    plan: &'a Plan,
    destination: &'a dyn Destination,
    progress: &'a Progress,
    /// The attempt's folder.
    folder: ObjectKey,
    /// The pod whose folder in there it is, where each has one.
    pod: Option<String>,
    /// Ends the source.
    stop: CancellationToken,
    segments: Vec<Segment>,
    /// All segments together; `None` as long as there is but one.
    whole: Option<Tally>,
    /// `None` before it was opened and after its completion.
    capture: Option<Capture>,
}

impl<'a> Part<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        destination: &'a dyn Destination,
        progress: &'a Progress,
        folder: ObjectKey,
        pod: Option<String>,
        stop: CancellationToken,
    ) -> Self {
        let (segments, whole, capture) = (Vec::new(), None, None);
        Self { plan, destination, progress, folder, pod, stop, segments, whole, capture }
    }

    /// Opens the source, and waits for its first bytes or its end: one in whose place another run is at work ends without
    /// any.
    pub(super) async fn open(&mut self, source: &dyn Source) -> Result<Opened, Broken> {
        let capture = self.capture.insert(source.open(self.stop.clone()).await.map_err(Broken::Source)?);
        let facts = capture.facts.clone();
        let first = capture.bytes.recv().await;
        let end = if first.is_none() { Some(self.completion().await?) } else { None };
        Ok(Opened { facts, first, end })
    }

    /// What the source says when it has ended.
    async fn completion(&mut self) -> Result<Completion, Broken> {
        let completion = match self.capture.as_mut() {
            Some(capture) => capture.completion.as_mut().await,
            None => Err(Failure::new(Reason::Internal, "a source had no end. Please report it")),
        };
        self.capture = None;
        completion.map_err(Broken::Source)
    }

    /// From the source's first byte to its last, and the judgement on it.
    pub(super) async fn capture(&mut self, opened: Opened) -> Result<Captured, Broken> {
        let Opened { facts, first: mut next, end } = opened;
        // Files of the pods before it.
        let before = self.progress.files.load(Ordering::Relaxed);
        let mut encoder = Encoder::new(self.plan.compression_level);
        let mut seal = Seal::new(&self.plan.recipients).map_err(Broken::Attempt)?;
        let mut watch = (facts.content == Content::Tar).then(TarWatch::default);
        while let Some(chunk) = next {
            self.progress.read.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if let Some(watch) = &mut watch {
                watch.push(&chunk);
                self.progress.files.store(before + watch.counts().files, Ordering::Relaxed);
            }
            for frame in encoder.push(&chunk).await.map_err(Broken::Attempt)? {
                let sealed = seal.push(frame).await.map_err(Broken::Attempt)?;
                self.store(facts.content, sealed).await.map_err(Broken::Attempt)?;
            }
            next = match &mut self.capture {
                Some(capture) => capture.bytes.recv().await,
                None => None,
            };
        }
        let completion = match end {
            Some(end) => end,
            None => self.completion().await?,
        };
        let raw_size = encoder.raw_size();
        let counts = watch.map(TarWatch::finish).transpose();
        let counts = counts.map_err(|fault| Broken::Source(tar_failure(&fault, raw_size)))?;
        guard(self.plan.allow_empty, self.plan.minimum_size, &completion, raw_size, counts).map_err(Broken::Source)?;
        let raw = self.finish(facts.content, encoder, seal).await.map_err(Broken::Attempt)?;
        Ok(Captured { facts, completion, raw, counts })
    }

    /// What encoder and encryption still hold.
    async fn finish(&mut self, content: Content, encoder: Encoder, mut seal: Seal) -> Result<Measure, Failure> {
        let (last, raw) = encoder.finish().await?;
        for frame in last {
            self.store(content, seal.push(frame).await?).await?;
        }
        self.store(content, seal.finish()?).await?;
        Ok(raw)
    }

    /// Hands a frame (or what encryption made of it, which may be nothing) to the destination; begins another object where
    /// this one is long enough.
    async fn store(&mut self, content: Content, frame: Bytes) -> Result<(), Failure> {
        if frame.is_empty() {
            return Ok(());
        }
        let size = frame.len() as u64;
        let full = |segment: &Segment| segment.tally.size() > 0 && segment.tally.size() + size > self.plan.segment_size;
        if self.segments.last().is_none_or(full) {
            if let [only] = &self.segments[..] {
                self.whole = Some(only.tally.clone());
            }
            let encrypted = !self.plan.recipients.is_empty();
            let name = layout::segment_name(content, encrypted, self.segments.len());
            let name = layout::object_name(self.pod.as_deref(), &name);
            let key = self.folder.join(&name)?;
            let staged = Some(self.destination.stage(&key).await?);
            self.segments.push(Segment {
                name,
                key,
                staged,
                in_commit: false,
                is_stuck: false,
                tally: Tally::default(),
            });
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

    /// Makes all segments visible, in order. `written` takes in their keys: from its commit on an object may be there,
    /// whatever the answer.
    pub(super) async fn commit(
        &mut self,
        completion: &Completion,
        written: &mut Vec<ObjectKey>,
    ) -> Result<(), Failure> {
        for segment in &mut self.segments {
            let Some(staged) = segment.staged.take() else { continue };
            written.push(segment.key.clone());
            segment.in_commit = true;
            let mut committed = staged.commit(completion).await;
            // What it could not throw away itself is looked for once more at the end.
            segment.in_commit = committed.as_mut().is_err_and(|failure| failure.left.take().is_some());
            segment.is_stuck = segment.in_commit;
            let size = committed?;
            if size != segment.tally.size() {
                return Err(wrong_size(&segment.key, segment.tally.size(), Some(size)));
            }
        }
        Ok(())
    }

    /// What was committed.
    pub(super) fn kept(&self, captured: Captured, log: Option<Object>) -> Kept {
        let Captured { facts, completion, raw, counts } = captured;
        let object = |Segment { name, tally, .. }: &Segment| {
            let Measure { size, digest } = tally.measure();
            Object { name: name.clone(), size, digest }
        };
        let whole = self.whole.as_ref().or(self.segments.first().map(|segment| &segment.tally));
        let (outcome, reason, message, ending) = match completion {
            Completion::Complete(ending) => (Outcome::Complete, None, None, ending),
            Completion::Incomplete(ending, reason, message) => {
                (Outcome::Incomplete, Some(reason), Some(message), ending)
            }
        };
        let mut warnings = ending.warnings;
        warnings.truncate(WARNING_LIMIT);
        Kept {
            facts,
            outcome,
            reason,
            message,
            exit_code: ending.exit_code,
            warnings,
            raw,
            stored: whole.map_or_else(|| Tally::default().measure(), Tally::measure),
            files: counts.map(|counts| counts.files),
            segments: self.segments.iter().map(object).collect(),
            log,
        }
    }

    /// Ends the source and throws away what was staged; adds to `stays` what could not be. What was committed is not its
    /// business. It may be dropped at any moment and called again.
    pub(super) async fn give_up(&mut self, stays: &mut Vec<String>) {
        self.stop.cancel();
        let (capture, segments) = (self.capture.take(), &mut self.segments);
        let ends = async {
            if let Some(mut capture) = capture {
                capture.bytes.close();
                // It only ends now; what it says about that is not news.
                let _ = timeout(SOURCE_END_LIMIT, capture.completion.as_mut()).await;
            }
        };
        let thrown = async {
            for segment in segments {
                if let Some(staged) = segment.staged.take()
                    && let Err(e) = staged.abort().await
                {
                    tracing::warn!(key = %segment.key, reason = %e.reason, "an upload could not be aborted");
                    stays.push(format!("an unfinished upload of {}", segment.name));
                }
            }
        };
        // Side by side: a source that does not answer must not take the time that the uploads have.
        tokio::join!(ends, thrown);
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.in_commit) {
            segment.in_commit = false;
            // By its whole key: MinIO lists uploads by that alone (minio/minio#20989).
            let aborted = timeout(UPLOADS_LIMIT, self.destination.abort_uploads(segment.key.as_str())).await;
            let found = matches!(aborted, Ok(Ok(1..)));
            if !found && (segment.is_stuck || !matches!(aborted, Ok(Ok(_)))) {
                stays.push(format!("perhaps an unfinished upload of {}", segment.name));
            }
        }
    }
}

fn tar_failure(fault: &TarFault, raw_size: u64) -> Failure {
    let reason = match fault {
        TarFault::Truncated => Reason::ArchiveTruncated,
        TarFault::Damaged(_) => Reason::StreamCorrupt,
    };
    Failure::new(reason, format!("{fault}, after {raw_size} bytes"))
}
