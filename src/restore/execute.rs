//! **O** Fetch, decode, compare, write.
//!
//! Two tasks and a bounded channel: one fetches the objects in order and compares each with the manifest when it has
//! passed; the other, on a blocking thread, decodes and hands on. Whichever fails ends both, and the fetching task's error
//! goes first, because a decoder that starves only says that the archive ends early.

use super::{RestoreTarget, Written, failure_of};
use crate::archive::Tally;
use crate::archive::decode::{Decoded, Reader};
use crate::archive::decrypt::{self, Identities, Opened};
use crate::destination::Destination;
use crate::error::{Failure, Reason};
use crate::repository::catalog::Backup;
use crate::repository::manifest::pods::Part;
use crate::repository::manifest::{Manifest, Object};
use crate::run::report::Progress;
use crate::source::Content;
use crate::source::tar_end::{Counts, TarWatch};
use bytes::Bytes;
use futures::TryStreamExt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Pieces between the two tasks, at most 256 KiB each from a folder; from S3 as the network gives them.
const PIECES: usize = 16;

/// Restores one archive of a backup into `target`. `identities` are needed where it is encrypted. `progress.stored` counts fetched bytes,
/// `progress.read` raw ones.
pub async fn restore(
    destination: &dyn Destination,
    backup: &Backup,
    part: &Part<'_>,
    identities: &Identities,
    mut target: Box<dyn RestoreTarget>,
    progress: &Arc<Progress>,
) -> Result<Written, Failure> {
    let content = part.content;
    let (written, mut target) = pass(destination, backup, part, identities, progress, move |raw| {
        let written = target.write(content, raw)?;
        Ok((written, target))
    })
    .await?;
    tokio::task::spawn_blocking(move || target.confirm()).await.map_err(lost)??;
    Ok(written)
}

/// Reads everything that a backup's manifest names and compares it; gives the counts of a tar, or of all its tars.
/// `identities` are needed where it is encrypted: what nobody can open is not proven to be a backup.
pub async fn verify(
    destination: &dyn Destination,
    backup: &Backup,
    identities: &Identities,
    progress: &Arc<Progress>,
) -> Result<Option<Counts>, Failure> {
    let mut all: Option<Counts> = None;
    for part in backup.manifest.parts() {
        let counts = verify_part(destination, backup, &part, identities, progress).await;
        let counts = counts.map_err(|failure| match part.pod {
            Some(pod) => failure.while_doing(format_args!("pod {pod}")),
            None => failure,
        })?;
        if let Some(counts) = counts {
            let all = all.get_or_insert_default();
            all.files += counts.files;
            all.with_content += counts.with_content;
        }
    }
    Ok(all)
}

async fn verify_part(
    destination: &dyn Destination,
    backup: &Backup,
    part: &Part<'_>,
    identities: &Identities,
    progress: &Arc<Progress>,
) -> Result<Option<Counts>, Failure> {
    check_support(&backup.manifest, identities)?;
    if let Some(log) = part.log {
        let (pieces, mut passed) = mpsc::channel(PIECES);
        let fetched = async move {
            // Owned here, so that the channel closes when it is done.
            let pieces = pieces;
            fetch(destination, backup, std::slice::from_ref(log), None, &pieces, progress).await
        };
        let drained = async { while passed.recv().await.is_some() {} };
        let (fetched, ()) = tokio::join!(fetched, drained);
        fetched?;
    }
    let content = part.content;
    let counts = pass(destination, backup, part, identities, progress, move |raw| {
        let mut watch = (content == Content::Tar).then(TarWatch::default);
        let mut piece = vec![0; 128 * 1024];
        loop {
            match raw.read(&mut piece).map_err(|e| failure_of(e, "reading"))? {
                0 => break,
                read => {
                    if let Some(watch) = &mut watch {
                        watch.push(&piece[..read]);
                    }
                }
            }
        }
        watch.map(TarWatch::finish).transpose().map_err(|fault| Failure::new(Reason::BackupDamaged, fault.to_string()))
    })
    .await?;
    match (counts, part.files) {
        (Some(counts), Some(files)) if counts.files != files => {
            let message = format!("it holds {} files, and its manifest says {files}", counts.files);
            Err(Failure::new(Reason::BackupDamaged, message))
        }
        _ => Ok(counts),
    }
}

/// Runs `consume` over the raw bytes of an archive, and succeeds only if all of them agree with the manifest.
async fn pass<T: Send + 'static>(
    destination: &dyn Destination,
    backup: &Backup,
    part: &Part<'_>,
    identities: &Identities,
    progress: &Arc<Progress>,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let manifest = &backup.manifest;
    check_support(manifest, identities)?;
    let encrypted = !manifest.encryption_recipients.is_empty();
    let identities = encrypted.then(|| identities.clone());
    let (pieces, passed) = mpsc::channel(PIECES);
    let raw_limit = part.raw.size;
    let counted = progress.clone();
    let work = tokio::task::spawn_blocking(move || -> Result<(T, Decoded), Failure> {
        let stored = match identities {
            None => Stored::Plain(Pieces { passed }),
            Some(identities) => Stored::Encrypted(Box::new(decrypt::open(Pieces { passed }, &identities)?)),
        };
        let mut reader = Reader::new(stored, raw_limit)?;
        let consumed = consume(&mut Counted { reader: &mut reader, progress: &counted })?;
        Ok((consumed, reader.finish()?))
    });
    // What is decoded is what is stored, unless it was decrypted before.
    let mut whole = encrypted.then(Tally::default);
    let fetched = fetch(destination, backup, part.segments, whole.as_mut(), &pieces, progress).await;
    drop(pieces);
    let consumed = work.await.map_err(lost)?;
    // A consumer that stopped listening has an error of its own.
    let fetched = match fetched {
        Err(Stopped::Failed(failure)) => return Err(failure),
        Err(Stopped::NobodyListens) => false,
        Ok(()) => true,
    };
    let (consumed, decoded) = consumed?;
    let stored = whole.map_or(decoded.stored, |whole| whole.measure());
    if !fetched || !part.raw.is(&decoded.raw) || !part.stored.is(&stored) {
        return Err(Failure::new(
            Reason::BackupDamaged,
            format!("{} does not hold the bytes that its manifest names", backup.folder),
        ));
    }
    Ok(consumed)
}

/// Why fetching ended early.
#[derive(Debug)]
enum Stopped {
    /// It went wrong.
    Failed(Failure),
    /// The other side has ended.
    NobodyListens,
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(failure) => failure,
            Stopped::NobodyListens => Failure::new(Reason::Internal, "reading was ended early. Please report it"),
        }
    }
}

/// Sends the objects' bytes in order, and compares each with what the manifest says when its last byte has passed. `whole`
/// takes in all of them together.
async fn fetch(
    destination: &dyn Destination,
    backup: &Backup,
    objects: &[Object],
    mut whole: Option<&mut Tally>,
    pieces: &mpsc::Sender<Result<Bytes, Failure>>,
    progress: &Progress,
) -> Result<(), Stopped> {
    for object in objects {
        let one = fetch_one(destination, backup, object, whole.as_deref_mut(), pieces, progress).await;
        if let Err(Stopped::Failed(failure)) = &one {
            // The decoder should not take it for the end.
            let _ = pieces.send(Err(failure.clone())).await;
        }
        one?;
    }
    Ok(())
}

async fn fetch_one(
    destination: &dyn Destination,
    backup: &Backup,
    object: &Object,
    mut whole: Option<&mut Tally>,
    pieces: &mpsc::Sender<Result<Bytes, Failure>>,
    progress: &Progress,
) -> Result<(), Stopped> {
    let key = backup.key(&object.name).map_err(Stopped::Failed)?;
    let damaged = |what: String| Stopped::Failed(Failure::new(Reason::BackupDamaged, format!("{key} {what}")));
    let mut stream = match destination.read(&key, None).await {
        Ok(stream) => stream,
        Err(e) if e.reason == Reason::BackupNotFound => {
            return Err(damaged("is missing, and the manifest names it".into()));
        }
        Err(e) => return Err(Stopped::Failed(e)),
    };
    let mut tally = Tally::default();
    while let Some(piece) = stream.try_next().await.map_err(Stopped::Failed)? {
        tally.add(&piece);
        if let Some(whole) = &mut whole {
            whole.add(&piece);
        }
        progress.stored.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if tally.size() > object.size {
            return Err(damaged(format!("is longer than the {} bytes that the manifest names", object.size)));
        }
        pieces.send(Ok(piece)).await.map_err(|_| Stopped::NobodyListens)?;
    }
    let measure = tally.measure();
    if measure.size != object.size {
        return Err(damaged(format!("has {} bytes, and the manifest names {}", measure.size, object.size)));
    }
    if measure.digest != object.digest {
        return Err(damaged("has another digest than the manifest names: its bytes have changed".into()));
    }
    Ok(())
}

/// What this version can read, and whether there is a key to it.
fn check_support(manifest: &Manifest, identities: &Identities) -> Result<(), Failure> {
    if manifest.compression.format != "zstd-seekable" {
        let message = "this version of ubo cannot read the backup: it is compressed in another way. Use a newer ubo";
        return Err(Failure::new(Reason::NotSupported, message));
    }
    if !manifest.encryption_recipients.is_empty() && identities.is_empty() {
        let message = format!(
            "the backup is encrypted. Give the private key of one of its recipients with --identity FILE; they are: {}",
            manifest.encryption_recipients.join(", ")
        );
        return Err(Failure::new(Reason::IdentityMissing, message));
    }
    Ok(())
}

fn lost(_: tokio::task::JoinError) -> Failure {
    Failure::new(Reason::Internal, "a thread that reads a backup ended early. Please report it")
}

/// The channel, as the decoder wants it.
struct Pieces {
    passed: mpsc::Receiver<Result<Bytes, Failure>>,
}

impl Iterator for Pieces {
    type Item = Result<Bytes, Failure>;
    fn next(&mut self) -> Option<Self::Item> {
        self.passed.blocking_recv()
    }
}

/// What the decoder reads: the pieces themselves, or what is in them.
enum Stored {
    Plain(Pieces),
    Encrypted(Box<Opened<Pieces>>),
}

impl Iterator for Stored {
    type Item = Result<Bytes, Failure>;
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Plain(pieces) => pieces.next(),
            Self::Encrypted(opened) => opened.next(),
        }
    }
}

/// Counts raw bytes as they are read.
struct Counted<'a> {
    reader: &'a mut Reader<Stored>,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
