//! **P** The shell that runs a dump command inside the target's container: its arguments out, the verdict in.
//!
//! # Why there is a wrapper
//! An exec's `Status: Success` proves nothing: the API server loses the tail of what a slow reader has not fetched when
//! the process exits, and still reports success. So the command does not run by itself, but as a child of a small POSIX
//! shell script ([`Plan::argv`]) that outlives the transfer, and the proof stands in the stream.
//!
//! # What goes over which stream
//! * **standard output**: the backup, then as the very last thing a trailer, `\n<nonce> <word> <code>\n` ([`Verdict`]).
//!   The nonce is new for each attempt. No trailer, or a byte after it: no backup.
//! * **standard error**: what the command prints, and lines of ours with the same nonce: `start`, a heartbeat `.`, what
//!   lies in a directory that is not empty, and so on ([`Transcript`]). Never proof of anything.
//! * **standard input**: one line from us once the trailer has been read; only then does the script exit. An end of file
//!   instead means that nobody reads any more: a watcher ends every process of the session (TERM, five seconds, KILL), the
//!   script empties what it made, waits for its children and exits. The command itself reads from `/dev/null`.
//!
//! # Two forms, never both
//! * [`DumpForm::Stdout`]: the command's standard output is the backup; nothing is written to disk.
//! * [`DumpForm::Directory`]: the command fills a directory, its standard output goes to the log, and afterwards a `tar` of
//!   the directory is the backup. The directory is made, or found empty (`lost+found` apart), or holds what a dead run left:
//!   a marker (`<directory>.ubo-run` beside one that we made, `.ubo-run` inside one that we found) says whose. The marker is
//!   written first and removed last, holds UID, pid and start time of its run, and is not part of the backup. All is gone
//!   before the trailer is written.
//!
//! # Crash
//! Connection cut, operator killed: the watcher. Shell killed (memory): the watcher too, once the runtime has closed its
//! standard input. Container or node gone: in a container's own file system nothing is left, in a volume the marker is, and
//! the next run clears up. What a command detaches from its session (`setsid`, a daemon) is not ended by us.

use crate::api::names::{RunName, Uid};
use crate::error::{Failure, Reason};
use crate::validate::{Dump, DumpForm};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;

mod marked;
pub mod pipes;
mod transcript;

pub use transcript::Transcript;

/// The script, comments included.
const SCRIPT: &str = include_str!("wrapper/wrapper.sh");

/// Limit of a backup directory that lies on the container's own disk (`product.md` section 3: 4 GiB).
pub const STAGED_LIMIT_KIB: u64 = 4 * 1024 * 1024;

/// Seconds between two heartbeats while a command writes to standard output.
const HEARTBEAT_SECONDS: u32 = 10;

/// Seconds between two looks at the size of a backup directory, which are heartbeats too. A disk that takes 500 MB/s is
/// 1 GB fuller then: well inside the 10 % that must stay free on any disk of a node.
const STAGED_SECONDS: u32 = 2;

/// Longest line of ours, in bytes; names of files that are longer are cut.
const LINE_LIMIT: usize = 512;

/// 128 random bits, by which our lines are known.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// From random bits, which the caller draws.
    pub fn new(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// What one attempt needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Marks our lines.
    pub nonce: Nonce,
    /// Command and form.
    pub dump: Dump,
    /// Name of the run, `UBO_RUN` for the command.
    pub run: RunName,
    /// Its UID, for the marker.
    pub run_uid: Uid,
    /// `UBO_TARGET_PATH` for the command.
    pub target_path: Option<String>,
    /// Limit of the backup directory in KiB.
    pub staged_limit_kib: u64,
    /// Whether it holds where a volume is mounted there too.
    pub limits_volumes: bool,
}

impl Plan {
    /// Program and arguments of the exec. The command is an argument of its own, never part of the script's text.
    ///
    /// # Errors
    /// [`Reason::PipelineNotChecked`] for a pipe inside text that is given to another shell, which nobody can check from
    /// outside; [`Reason::InvalidSpec`] for a byte 0, which no argument can hold.
    pub fn argv(&self) -> Result<Vec<String>, Failure> {
        let piped = match pipes::pipes(&self.dump.command) {
            _ if self.dump.allow_unchecked_pipes => "allowed",
            pipes::Pipes::None => "plain",
            pipes::Pipes::Direct => "piped",
            pipes::Pipes::Nested => {
                return Err(Failure::new(
                    Reason::PipelineNotChecked,
                    "the command gives another shell (sh -c, su -c, …) a text with a pipe, in which a failing first part \
                     would go unseen: leave out the pipe (the backup is compressed anyway), begin that text with \
                     `set -o pipefail;`, or set strategy.allowUncheckedPipes",
                ));
            }
        };
        let (form, directory, seconds) = match &self.dump.form {
            DumpForm::Stdout => ("stdout", "", HEARTBEAT_SECONDS),
            DumpForm::Directory(directory) => ("directory", directory.trim_end_matches('/'), STAGED_SECONDS),
        };
        let arguments = [
            "ubo",
            self.nonce.as_str(),
            &self.dump.command,
            form,
            directory,
            self.run_uid.as_str(),
            piped,
            &format!("{}{}", self.staged_limit_kib, if self.limits_volumes { "v" } else { "" }),
            &seconds.to_string(),
            self.run.as_str(),
            self.target_path.as_deref().unwrap_or_default(),
        ];
        if arguments.iter().any(|text| text.contains('\0')) {
            return Err(Failure::new(Reason::InvalidSpec, "strategy.command and paths must not hold a byte 0"));
        }
        let script = ["sh".to_owned(), "-c".to_owned(), script()];
        Ok(script.into_iter().chain(arguments.map(str::to_owned)).collect())
    }

    /// What to tell the user about a verdict that is not a whole backup; `None` if it is one.
    pub fn failure(&self, verdict: Verdict, lies: &[String]) -> Option<Failure> {
        let directory = match &self.dump.form {
            DumpForm::Stdout => "",
            DumpForm::Directory(directory) => directory,
        };
        let (reason, message) = match verdict {
            Verdict::Command(0) | Verdict::Tar(0..=2) => return None,
            Verdict::Command(code) => {
                let hint = match code {
                    126 => ", which a shell says of a program that cannot be executed",
                    127 => ", which a shell says of a program that is not there",
                    137 => ", which means that it was killed (out of memory?)",
                    141 => ", which with pipefail means that a later part of a pipe stopped reading (`| head`)",
                    _ => "",
                };
                (
                    Reason::CommandFailed,
                    format!("the command ended with exit code {code}{hint}; what it printed is in the operator's log"),
                )
            }
            Verdict::Tar(code) => (
                Reason::ArchiveTruncated,
                format!("tar of {directory} ended with exit code {code}; what it printed is in the operator's log"),
            ),
            Verdict::TarMissing => (
                Reason::TarMissing,
                format!(
                    "the container has no `tar` that can pack {directory}: let the command write to standard output, or use \
                     an image with tar"
                ),
            ),
            Verdict::Pipeline => (
                Reason::PipelineNotChecked,
                "the command has a pipe, and no shell in the container can tell whether its first part failed: leave out \
                 the pipe (the backup is compressed anyway), use an image with bash, or set strategy.allowUncheckedPipes"
                    .to_owned(),
            ),
            Verdict::NotEmpty => (
                Reason::BackupDirectoryNotEmpty,
                format!(
                    "{directory} holds something that no backup left there ({}): it is not touched; empty it, or set \
                     strategy.directory to another place",
                    if lies.is_empty() { "unknown".to_owned() } else { lies.join(", ") }
                ),
            ),
            Verdict::Unavailable => (
                Reason::BackupDirectoryUnavailable,
                format!(
                    "{directory} cannot be made or written in the container: let the command write to standard output, or \
                     mount an emptyDir at {directory}"
                ),
            ),
            Verdict::Busy => (
                Reason::SourceUnavailable,
                format!("another run is at work in {directory} of this container; this one is tried again later"),
            ),
            Verdict::Full => (
                Reason::StagingFull,
                format!(
                    "{directory} grew beyond {} KiB, and the command was ended before the disk fills up: let it write to \
                     standard output, mount a volume at {directory}, or raise guard.maximumStagedSize",
                    self.staged_limit_kib
                ),
            ),
            Verdict::DiskFull => (
                Reason::StagingFull,
                format!(
                    "the file system under {directory} has hardly more than 10 % free, below which the node would evict the \
                     pod: make room there, let the command write to standard output, or mount a volume at {directory}"
                ),
            ),
        };
        let failure = Failure::new(reason, message);
        Some(match verdict {
            Verdict::Command(code) => failure.with_exit_code(code),
            _ => failure,
        })
    }
}

/// The script as it is sent: comments and indentation cost room in a URL.
fn script() -> String {
    let kept = SCRIPT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    kept.collect::<Vec<_>>().join("\n")
}

/// What the trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command ended with this code. For a directory only codes other than 0 come this way.
    Command(i32),
    /// The command ended with 0, and then the tar of its directory with this code.
    Tar(i32),
    /// There is no `tar`, or one that cannot exclude a file.
    TarMissing,
    /// A pipe, and no shell with pipefail.
    Pipeline,
    /// The directory holds what is not ours.
    NotEmpty,
    /// The directory cannot be made.
    Unavailable,
    /// Another run that lives has the directory.
    Busy,
    /// The directory grew beyond its limit.
    Full,
    /// Its file system is nearly full.
    DiskFull,
}

impl Verdict {
    /// From a trailer's text, `<word> <code>`.
    fn parse(line: &[u8]) -> Option<Self> {
        let (word, code) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let code = code.parse().ok().filter(|code| (0..=255).contains(code))?;
        Some(match word {
            "command" => Self::Command(code),
            "tar" => Self::Tar(code),
            "tar-missing" => Self::TarMissing,
            "pipeline" => Self::Pipeline,
            "not-empty" => Self::NotEmpty,
            "unavailable" => Self::Unavailable,
            "busy" => Self::Busy,
            "full" => Self::Full,
            "disk" => Self::DiskFull,
            _ => return None,
        })
    }

    /// The code that the script exits with, which the API server's status must agree with.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Command(code) | Self::Tar(code) => code,
            _ => 1,
        }
    }
}

/// Hands bytes on in chunks of at most `limit` bytes.
fn split_into(onward: &mut VecDeque<Bytes>, mut bytes: Bytes, limit: usize) {
    while bytes.len() > limit {
        onward.push_back(bytes.split_to(limit));
    }
    if !bytes.is_empty() {
        onward.push_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(form: DumpForm, command: &str) -> Plan {
        Plan {
            nonce: Nonce::new(5),
            dump: Dump { command: command.to_owned(), form, allow_unchecked_pipes: false },
            run: RunName::new("pg-once").unwrap(),
            run_uid: Uid::new("6b1cbb4c-0000-4000-8000-000000000001").unwrap(),
            target_path: None,
            staged_limit_kib: STAGED_LIMIT_KIB,
            limits_volumes: false,
        }
    }

    #[test]
    fn the_command_is_an_argument_and_never_part_of_the_script() {
        let command = "echo '$(x)' \"; rm -rf / #\nnext";
        let argv = plan(DumpForm::Directory("/backup/".to_owned()), command).argv().unwrap();
        assert_eq!((argv[0].as_str(), argv[1].as_str()), ("sh", "-c"));
        assert_eq!(argv[5], command);
        assert!(!argv[2].contains("rm -rf / #") && !argv[2].contains("\n#"));
        assert_eq!(argv[7], "/backup");
        // Room for the command in a request line of 64 KiB, each byte of it escaped.
        assert!(argv[2].len() < 8 * 1024, "{}", argv[2].len());
        assert_eq!(plan(DumpForm::Stdout, "a\0b").argv().unwrap_err().reason, Reason::InvalidSpec);
    }

    #[test]
    fn each_verdict_but_two_has_its_reason_and_says_what_to_do() {
        let plan = plan(DumpForm::Directory("/backup".to_owned()), "x");
        for (line, reason) in [
            ("command 0", None),
            ("tar 0", None),
            ("tar 2", None),
            ("command 3", Some(Reason::CommandFailed)),
            ("command 141", Some(Reason::CommandFailed)),
            ("tar 137", Some(Reason::ArchiveTruncated)),
            ("tar-missing 1", Some(Reason::TarMissing)),
            ("pipeline 1", Some(Reason::PipelineNotChecked)),
            ("not-empty 1", Some(Reason::BackupDirectoryNotEmpty)),
            ("unavailable 1", Some(Reason::BackupDirectoryUnavailable)),
            ("busy 1", Some(Reason::SourceUnavailable)),
            ("full 1", Some(Reason::StagingFull)),
            ("disk 1", Some(Reason::StagingFull)),
        ] {
            let verdict = Verdict::parse(line.as_bytes()).unwrap();
            let failure = plan.failure(verdict, &["old.sql".to_owned()]);
            assert_eq!(failure.as_ref().map(|failure| failure.reason), reason, "{line}");
            let Some(failure) = failure else { continue };
            assert!(failure.message.len() < Failure::MESSAGE_LIMIT);
            assert_eq!(failure.exit_code.is_some(), line.starts_with("command"), "{line}");
            assert_eq!(failure.message.contains("old.sql"), line == "not-empty 1", "{line}");
        }
    }
}
