//! **P** What the wrapper has said so far, on both of its streams.

use super::marked::{Marked, Piece};
use super::tar_words::TarWords;
use super::{LINE_LIMIT, Nonce, Verdict, split_into};
use crate::error::{Failure, Reason};
use crate::source::CHUNK_LIMIT;
use bytes::Bytes;
use std::collections::VecDeque;

/// How much of standard error is kept, in bytes: the last part.
pub(crate) const LOG_LIMIT: usize = 1024 * 1024;

/// How many names of foreign files are kept for a message.
const LIES_LIMIT: usize = 5;

/// Both streams of one attempt: bytes in, backup, log and verdict out.
pub struct Transcript {
    stdout: Marked,
    stderr: Marked,
    verdict: Option<Verdict>,
    received: u64,
    log: VecDeque<u8>,
    /// What the script told about itself.
    started: bool,
    leavings_of: Option<String>,
    lies: Vec<String>,
    left: bool,
    tar: TarWords,
    after: Option<String>,
}

impl Transcript {
    /// Nothing was said yet.
    pub fn new(nonce: &Nonce) -> Self {
        Self {
            stdout: Marked::new(nonce.as_str(), LINE_LIMIT),
            stderr: Marked::new(nonce.as_str(), LINE_LIMIT),
            verdict: None,
            received: 0,
            log: VecDeque::new(),
            started: false,
            leavings_of: None,
            lies: Vec::new(),
            left: false,
            tar: TarWords::default(),
            after: None,
        }
    }

    /// Takes bytes of standard output; what belongs to the backup is put into `onward`.
    ///
    /// # Errors
    /// [`Reason::StreamCorrupt`]: bytes after the trailer, or a trailer that is not one of ours.
    pub fn stdout(&mut self, chunk: Bytes, onward: &mut VecDeque<Bytes>) -> Result<(), Failure> {
        for piece in self.stdout.push(chunk) {
            if self.verdict.is_some() {
                return Err(Failure::new(
                    Reason::StreamCorrupt,
                    "bytes came after the end marker: a process that the command started was still writing; let the \
                     command wait for all that it starts",
                ));
            }
            match piece {
                Piece::Data(bytes) => {
                    self.received += bytes.len() as u64;
                    split_into(onward, bytes, CHUNK_LIMIT);
                }
                Piece::Line(line) => {
                    let verdict = Verdict::parse(&line);
                    self.verdict = Some(
                        verdict
                            .ok_or_else(|| Failure::new(Reason::StreamCorrupt, "the end marker is not one of ours"))?,
                    );
                }
            }
        }
        Ok(())
    }

    /// Takes bytes of standard error.
    pub fn stderr(&mut self, chunk: Bytes) {
        for piece in self.stderr.push(chunk) {
            match piece {
                Piece::Data(bytes) => {
                    self.tar.take(&bytes);
                    self.keep(&bytes);
                }
                Piece::Line(line) => self.note(&String::from_utf8_lossy(&line)),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(LOG_LIMIT)..];
        let excess = (self.log.len() + bytes.len()).saturating_sub(LOG_LIMIT);
        self.log.drain(..excess);
        self.log.extend(bytes);
    }

    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            None if line == "start" => self.started = true,
            None if line == "left" => self.left = true,
            None if line == "tar-end" => self.tar.end(),
            None if line == "changed" => self.tar.changed(),
            None if line == "blind" => self.tar.blind(),
            Some(("tar-begin", kind)) => self.tar.begin(kind),
            Some(("after", how)) => self.after = Some(how.to_owned()),
            Some(("clearing", uid)) => self.leavings_of = Some(uid.to_owned()),
            Some(("lies", name)) if self.lies.len() < LIES_LIMIT => self.lies.push(name.to_owned()),
            _ => {}
        }
    }

    /// The trailer, once it was seen.
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Whether the script said that it runs.
    pub const fn started(&self) -> bool {
        self.started
    }

    /// Bytes of the backup so far.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// What lies in a directory that is not empty, at most five names.
    pub fn lies(&self) -> &[String] {
        &self.lies
    }

    /// What tar said of the files of a copy.
    pub const fn tar(&self) -> &TarWords {
        &self.tar
    }

    /// How the hook after failed, if it did: its exit code, or `late`.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// What is worth saying of a backup that is whole.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(uid) = &self.leavings_of {
            warnings.push(format!("the backup directory held what run {uid} left when it was cut off; it was cleared"));
        }
        if self.left {
            warnings.push("the backup directory could not be cleared afterwards; the next run tries again".to_owned());
        }
        warnings
    }

    /// The last part of what was printed on standard error, our own lines left out.
    pub fn into_log(mut self) -> Vec<u8> {
        let rest = self.stderr.rest();
        self.keep(&rest);
        self.log.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: &str) -> Bytes {
        format!("\n{:032x} {text}\n", 7).into()
    }

    fn transcript() -> Transcript {
        Transcript::new(&Nonce::new(7))
    }

    proptest! {
        #[test]
        fn a_backup_passes_whole_and_in_bounded_chunks(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
            size in 1_usize..700,
            code in 0_i32..=255,
        ) {
            let mut whole = data.clone();
            whole.extend_from_slice(&line(&format!("command {code}")));
            let mut transcript = transcript();
            let mut onward = VecDeque::new();
            for chunk in whole.chunks(size) {
                transcript.stdout(Bytes::copy_from_slice(chunk), &mut onward).unwrap();
            }
            prop_assert_eq!(onward.into_iter().flatten().collect::<Vec<u8>>(), data);
            prop_assert_eq!(transcript.verdict(), Some(Verdict::Command(code)));
        }

        #[test]
        fn whatever_a_trailer_holds_only_ours_are_taken(text in "[a-z-]{0,12} ?-?[0-9]{0,4}") {
            let mut transcript = transcript();
            let taken = transcript.stdout(line(&text), &mut VecDeque::new());
            let good = ["command", "tar", "tar-missing", "pipeline", "before", "before-late", "after", "after-late", "no-path", "not-empty", "unavailable", "busy", "taken", "shared", "full", "disk"];
            let ours = text.split_once(' ').is_some_and(|(word, code)| {
                good.contains(&word) && code.parse::<u8>().is_ok()
            });
            prop_assert_eq!(taken.is_ok(), ours);
        }
    }

    #[test]
    fn a_byte_after_the_trailer_spoils_it() {
        let mut transcript = transcript();
        transcript.stdout(line("command 0"), &mut VecDeque::new()).unwrap();
        let late = transcript.stdout(Bytes::from_static(b"x"), &mut VecDeque::new()).unwrap_err();
        assert_eq!(late.reason, Reason::StreamCorrupt);
    }

    #[test]
    fn large_frames_are_cut_to_the_limit_of_a_chunk() {
        let mut onward = VecDeque::new();
        transcript().stdout(vec![1; 3 * CHUNK_LIMIT + 1].into(), &mut onward).unwrap();
        assert_eq!(onward.iter().map(Bytes::len).collect::<Vec<_>>(), [CHUNK_LIMIT, CHUNK_LIMIT, CHUNK_LIMIT, 1]);
    }

    #[test]
    fn the_log_keeps_its_last_part_without_our_lines() {
        let mut transcript = transcript();
        transcript.stderr(line("start"));
        transcript.stderr(Bytes::from_static(b"half a li"));
        transcript.stderr(line("."));
        transcript.stderr(vec![b'x'; LOG_LIMIT].into());
        transcript.stderr(line("lies some file"));
        transcript.stderr(Bytes::from_static(b"ne\n"));
        assert!(transcript.started());
        assert_eq!(transcript.lies(), ["some file"]);
        let log = transcript.into_log();
        assert_eq!(log.len(), LOG_LIMIT);
        assert!(log.starts_with(b"xxx") && log.ends_with(b"xne\n"));
    }
}
