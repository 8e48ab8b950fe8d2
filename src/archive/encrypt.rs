//! **P** Encrypt for age recipients.
//!
//! What is encrypted is the whole compressed archive, as one age file (`age-encryption.org/v1`, binary): only its stored
//! bytes are cut into segments. So `cat archive.tar.zst.age* | age -d -i KEY | zstd -d` needs nothing of ours, and neither
//! size nor number of the frames inside can be seen. The format is the public one and its key is made anew for every file;
//! the keys here are public ones, nothing secret is ever held.

use crate::error::{Failure, Reason};
use age::stream::StreamWriter;
use bytes::Bytes;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How an X25519 recipient begins.
const PREFIX: &str = "age1";
/// How a private key begins, in any case of letters.
const PRIVATE_PREFIX: &str = "AGE-SECRET-KEY-";

/// A public key that archives are encrypted for.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    key: age::x25519::Recipient,
}

impl Recipient {
    /// Reads `age1…`. The error says what is wrong and never repeats the text, which might be somebody's private key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.to_ascii_uppercase().starts_with(PRIVATE_PREFIX) {
            return Err(
                "this is a private key, which must never stand here: whoever may read this object can now read \
                        what is encrypted with it. Make a new pair (age-keygen) and write its public key, age1…"
                    .into(),
            );
        }
        if !text.starts_with(PREFIX) {
            return Err(
                "not an age public key: it begins with age1 (age-keygen prints it; ssh keys and plugins are not \
                        supported)"
                    .into(),
            );
        }
        match text.parse() {
            Ok(key) => Ok(Self { text: text.to_owned(), key }),
            Err(_) => Err("not an age public key: its checksum does not agree. Copy it again, whole".into()),
        }
    }

    /// As it was written: `age1…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Recipient {}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the writer has written and nobody has taken yet.
#[derive(Clone, Default)]
struct Outlet(Arc<Mutex<Vec<u8>>>);

impl Outlet {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes in, one age file out, in pieces. It holds at most 64 KiB between two calls.
pub struct Encryptor {
    writer: StreamWriter<Outlet>,
    outlet: Outlet,
}

impl Encryptor {
    /// Begins a file that each of `recipients` alone can read.
    pub fn new(recipients: &[Recipient]) -> Result<Self, Failure> {
        let keys = recipients.iter().map(|recipient| &recipient.key as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(keys).map_err(|e| internal(&e))?;
        let outlet = Outlet::default();
        let writer = encryptor.wrap_output(outlet.clone()).map_err(|e| internal(&e))?;
        Ok(Self { writer, outlet })
    }

    /// Takes bytes in; gives what is ready, which may be nothing.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, Failure> {
        self.writer.write_all(bytes).map_err(|e| internal(&e))?;
        Ok(self.outlet.take())
    }

    /// The rest, with the mark that says that nothing follows.
    pub fn finish(self) -> Result<Bytes, Failure> {
        self.writer.finish().map_err(|e| internal(&e))?;
        Ok(self.outlet.take())
    }
}

/// A small document as one age file.
pub fn encrypt(recipients: &[Recipient], bytes: &[u8]) -> Result<Bytes, Failure> {
    let mut encryptor = Encryptor::new(recipients)?;
    let (first, last) = (encryptor.push(bytes)?, encryptor.finish()?);
    Ok([first, last].concat().into())
}

/// The last step of an archive's bytes: encryption where there are recipients, nothing otherwise.
pub enum Seal {
    /// The frames go out as they are.
    Open,
    /// `None` while a thread has it, and after one failed.
    Encrypted(Option<Box<Encryptor>>),
}

impl Seal {
    /// For these recipients, if there are any.
    pub fn new(recipients: &[Recipient]) -> Result<Self, Failure> {
        if recipients.is_empty() {
            return Ok(Self::Open);
        }
        Ok(Self::Encrypted(Some(Box::new(Encryptor::new(recipients)?))))
    }

    /// Takes a frame; gives what is to be stored, which may be nothing yet. A seal whose future was dropped must not be
    /// used again.
    pub async fn push(&mut self, frame: Bytes) -> Result<Bytes, Failure> {
        let Self::Encrypted(encryptor) = self else { return Ok(frame) };
        let taken = encryptor.take().ok_or_else(lost)?;
        // 0.8 ms per MiB: too long for a thread that others wait on.
        let done = tokio::task::spawn_blocking(move || {
            let mut encryptor = taken;
            let piece = encryptor.push(&frame)?;
            Ok::<_, Failure>((encryptor, piece))
        });
        let (back, piece) = done.await.map_err(|_| lost())??;
        *encryptor = Some(back);
        Ok(piece)
    }

    /// The rest.
    pub fn finish(self) -> Result<Bytes, Failure> {
        match self {
            Self::Open => Ok(Bytes::new()),
            Self::Encrypted(encryptor) => encryptor.ok_or_else(lost)?.finish(),
        }
    }
}

fn lost() -> Failure {
    Failure::new(Reason::Internal, "a thread that encrypts ended early. Please report it")
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::new(Reason::Internal, format!("encryption failed: {error}. Please report it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_public_key_is_told_apart_and_never_repeated() {
        let pair = age::x25519::Identity::generate();
        let good = pair.to_public().to_string();
        let secret = age::secrecy::ExposeSecret::expose_secret(&pair.to_string()).to_owned();
        assert_eq!(Recipient::parse(&format!(" {good}\n")).unwrap().as_str(), good);
        let mut wrong = good.clone();
        let last = if wrong.pop() == Some('q') { 'p' } else { 'q' };
        wrong.push(last);
        for (text, word) in [
            (secret.as_str(), "private key"),
            (&secret.to_lowercase(), "private key"),
            (&wrong, "checksum"),
            (&good[..30], "checksum"),
            ("ssh-ed25519 AAAA", "begins with age1"),
            ("", "begins with age1"),
        ] {
            let message = Recipient::parse(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
            assert!(text.is_empty() || !message.contains(text), "{message}");
        }
    }
}
