//! **P** Decrypt with age identities: what was cut short, or changed, is refused.
//!
//! age authenticates in blocks of 64 KiB and marks the last one, so that a file which ends at a block's edge is told from a
//! whole one. [`Opened`] gives decrypted blocks as they come; that they are followed by the mark is known when it has ended
//! without an error. The digests in the manifest are of the *stored* bytes and are compared beside it.

use super::damaged;
use crate::error::{Failure, Reason};
use age::stream::StreamReader;
use age::{DecryptError, Decryptor};
use bytes::Bytes;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Decrypted bytes in one piece: age's own block.
const PIECE: usize = 64 * 1024;
/// Longest header that is read, in bytes; 16 recipients (as many as the schema takes) need 1.7 KB. Without it stored bytes could claim any memory, and
/// time: the crate looks at a header anew after each byte.
const HEADER_LIMIT: usize = 4 * 1024;

/// Private keys. They are never shown.
#[derive(Clone, Default)]
pub struct Identities(Vec<age::x25519::Identity>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

impl Identities {
    /// Reads the text of an identity file, as `age-keygen` writes it: one `AGE-SECRET-KEY-1…` per line, comments with `#`.
    /// `name` is for the message, which names a line and never what stands in it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let invalid = |what: String| Failure::new(Reason::InvalidSpec, format!("{name}: {what}"));
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----") {
            return Err(invalid(
                "the identity file is itself encrypted: decrypt it first (age -d) and give what comes out".into(),
            ));
        }
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
            line.parse().map_err(|_| {
                invalid(format!("line {number} is not an age private key (AGE-SECRET-KEY-1…, as age-keygen writes it)"))
            })
        });
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(invalid("there is no age private key in it (AGE-SECRET-KEY-1…)".into()));
        }
        Ok(Self(keys))
    }

    /// Takes those of another file in too.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Stored chunks as something to read from.
struct Chunks<I> {
    rest: I,
    chunk: Bytes,
    /// Bytes that may still be read.
    left: Arc<AtomicUsize>,
}

impl<I: Iterator<Item = Result<Bytes, Failure>>> Read for Chunks<I> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.rest.next() {
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(damaged("its age header is longer than any that ubo or age writes")));
        }
        let taken = output.len().min(self.chunk.len()).min(left);
        output[..taken].copy_from_slice(&self.chunk.split_to(taken));
        self.left.store(left - taken, Ordering::Relaxed);
        Ok(taken)
    }
}

/// The decrypted bytes of one age file, piece by piece. After an error it is over.
pub struct Opened<I> {
    reader: StreamReader<Chunks<I>>,
    over: bool,
}

/// Reads the header of the age file in `chunks` and finds the identity that opens it.
pub fn open<I: Iterator<Item = Result<Bytes, Failure>>>(chunks: I, with: &Identities) -> Result<Opened<I>, Failure> {
    let left = Arc::new(AtomicUsize::new(HEADER_LIMIT));
    let chunks = Chunks { rest: chunks, chunk: Bytes::new(), left: left.clone() };
    let opened = Decryptor::new(chunks)
        .and_then(|decryptor| decryptor.decrypt(with.0.iter().map(|key| key as &dyn age::Identity)));
    // The rest is read in blocks of 64 KiB, whatever it says.
    left.store(usize::MAX, Ordering::Relaxed);
    match opened {
        Ok(reader) => Ok(Opened { reader, over: false }),
        Err(DecryptError::NoMatchingKeys) => Err(Failure::new(
            Reason::IdentityMissing,
            "none of the identities that were given opens it: it is encrypted for other recipients",
        )),
        Err(DecryptError::Io(error)) => Err(failure_of(error)),
        Err(error) => Err(damaged(format!("its age header does not hold: {error}"))),
    }
}

impl<I: Iterator<Item = Result<Bytes, Failure>>> Opened<I> {
    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < piece.len() {
            match self.reader.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        piece.truncate(filled);
        Ok((filled > 0).then(|| piece.into()))
    }
}

impl<I: Iterator<Item = Result<Bytes, Failure>>> Iterator for Opened<I> {
    type Item = Result<Bytes, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.piece() {
            Ok(Some(piece)) => Some(Ok(piece)),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = true;
                Some(Err(failure_of(error)))
            }
        }
    }
}

/// The failure inside, or what is wrong with the encrypted bytes.
fn failure_of(error: io::Error) -> Failure {
    error
        .downcast::<Failure>()
        .unwrap_or_else(|error| damaged(format!("it cannot be decrypted ({error}): it was cut short or changed")))
}

#[cfg(test)]
mod tests;
