//! **A** The output of a command on this machine.
//!
//! The command runs under a shell in a process group of its own, reads from `/dev/null`, and what it writes on standard
//! output is the backup. The shell has `-e`, so that `pg_dump a; pg_dump b` fails when either does, and `pipefail`, so that
//! `pg_dump | tee x` fails when `pg_dump` does: `sh` where it knows it, else `bash`; where neither does, a command with a
//! pipe is refused, and so is, whatever the shell, a pipe inside text that the command gives to another shell ([`pipes`]),
//! unless both are allowed. The last megabyte of its standard error is kept as the log, and the end of it stands in the
//! message of a failure. When the run ends early, the whole group is ended.
//!
//! What the command leaves in the background may hold its outputs open. As in a pod (`wrapper.sh`) standard output is read
//! to its end: what is written there late belongs to the backup. The log of a process that goes on is not waited for, nor is
//! anything of a command that has failed.

use super::wrapper::nested;
use super::wrapper::pipes::{self, Pipes};
use super::{CHANNEL_CHUNKS, CHUNK_LIMIT, Capture, CaptureFacts, Completion, Consistency, Content, Ending, Source};
use crate::error::{Failure, Reason, cut};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Part of its standard error that is kept, in bytes.
const LOG_LIMIT: usize = 1024 * 1024;
/// Part of that which stands in a message, in bytes.
const WORDS_LIMIT: usize = 300;
/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);
/// For the last words, once the command has ended: what it wrote before is in the pipes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A command to be run.
#[derive(Clone, Debug)]
pub struct ShellCommand {
    text: String,
    run: String,
    unchecked_pipes: bool,
}

impl ShellCommand {
    /// Shell text; `run` is in its environment as `UBO_RUN`.
    pub fn new(text: impl Into<String>, run: impl Into<String>) -> Self {
        Self { text: text.into(), run: run.into(), unchecked_pipes: false }
    }

    /// The same command, which also runs where nobody can tell whether the first part of a pipe failed.
    #[must_use]
    pub const fn allow_unchecked_pipes(mut self, allowed: bool) -> Self {
        self.unchecked_pipes = allowed;
        self
    }
}

#[async_trait]
impl Source for ShellCommand {
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure> {
        let pipes = if self.unchecked_pipes { Pipes::None } else { pipes::pipes(&self.text) };
        if pipes == Pipes::Nested {
            let message = "the command gives another shell (sh -c, su -c, …) a text with a pipe, in which a failing first part \
                           would go unseen: leave out the pipe (a backup is compressed anyway), begin that text with \
                           `set -o pipefail;`, or say --allow-unchecked-pipes";
            return Err(Failure::new(Reason::PipelineNotChecked, message));
        }
        if !self.unchecked_pipes && nested::gives_several(&self.text) {
            let message = "the command gives another shell (sh -c, su -c, …) a text of several commands, of which all but the \
                           last could fail unseen: begin that text with `set -e;`, join them by `&&`, or say \
                           --allow-unchecked-pipes";
            return Err(Failure::new(Reason::PipelineNotChecked, message));
        }
        let shell = shell_for(pipes).await?;
        let strict = if shell.pipefail { "set -e -o pipefail" } else { "set -e" };
        let text = format!("{strict}\n{}", self.text);
        let child = Command::new(shell.program)
            .arg("-c")
            .arg(text)
            .env("UBO_RUN", &self.run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| Failure::new(Reason::ShellMissing, format!("{} cannot be started: {e}", shell.program)))?;
        let (sender, bytes) = mpsc::channel(CHANNEL_CHUNKS);
        let work = tokio::spawn(follow(child, sender, cancel));
        let completion = async {
            work.await.unwrap_or_else(|_| Err(Failure::new(Reason::Internal, "the command was lost. Please report it")))
        };
        let facts =
            CaptureFacts { content: Content::Raw, consistency: Consistency::Command, pod: None, container: None };
        Ok(Capture { facts, bytes, completion: completion.boxed() })
    }
}

/// A shell, and whether it has `pipefail`.
struct Shell {
    program: &'static str,
    pipefail: bool,
}

/// The first shell that tells whether the first part of a pipe failed; any shell for a command without a pipe to check.
async fn shell_for(pipes: Pipes) -> Result<Shell, Failure> {
    for program in ["sh", "bash"] {
        let knows = Command::new(program)
            .args(["-c", "set -o pipefail"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if knows.is_ok_and(|status| status.success()) {
            return Ok(Shell { program, pipefail: true });
        }
    }
    if pipes != Pipes::None {
        let message = "the command has a pipe, and no shell here can tell whether its first part failed. Install bash, do \
                       without the pipe (the output is compressed anyway), or say --allow-unchecked-pipes";
        return Err(Failure::new(Reason::PipelineNotChecked, message));
    }
    Ok(Shell { program: "sh", pipefail: false })
}

/// Kills the group where the future that owned it was dropped.
struct Group {
    id: Option<Pid>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // It may have gone already.
            let _ = kill_process_group(id, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Passes the output on until it ends, then says how the command ended.
async fn follow(
    mut child: Child,
    sender: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
) -> Result<Completion, Failure> {
    let mut group = Group { id: child.id().and_then(|id| Pid::from_raw(id.cast_signed())) };
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::new(Reason::Internal, "the command has no output. Please report it"));
    };
    let ended = || Failure::new(Reason::CancelRequested, "the command was ended before its end");
    let unseen = |e| Failure::new(Reason::SourceUnavailable, format!("the command's end was not seen: {e}"));
    let mut log = Vec::new();
    // Its standard output has ended; it has failed, whatever is written after it; both it and its output are over.
    let (closed, failed, over) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let output = async {
        tokio::select! {
            passed = pass_on(stdout, &sender) => passed?,
            () = failed.cancelled() => {}
        }
        closed.cancel();
        Ok::<_, Failure>(())
    };
    let end = async {
        let status = child.wait().await.map_err(unseen)?;
        while timeout(LAST_WORDS, closed.cancelled()).await.is_err() {
            if !status.success() {
                failed.cancel();
                break;
            }
            // Else whoever stores it has not come so far yet.
            if sender.capacity() == sender.max_capacity() {
                tracing::warn!(
                    "the command has ended, but not what it left in the background, which is waited for: its standard output \
                     is the backup's too. Send that to /dev/null if it is not meant"
                );
                break;
            }
        }
        Ok(status)
    };
    let both = async {
        let (status, ()) = tokio::try_join!(end, output)?;
        over.cancel();
        Ok::<_, Failure>(status)
    };
    let words = async {
        keep_end(stderr, &mut log, &over).await;
        Ok(())
    };
    let ends = async { tokio::try_join!(both, words) };
    let status = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ended()),
        ends = ends => ends.map(|(status, ())| status),
    };
    let result = status.and_then(|status| verdict(status, log));
    if result.is_ok() {
        // What it left running in the background on purpose is its own business.
        group.id = None;
    } else {
        group.signal(Signal::TERM);
        if timeout(GRACE, child.wait()).await.is_err() {
            group.signal(Signal::KILL);
            // It has been killed: this only takes its exit code away.
            let _ = child.wait().await;
        }
        // The shell may be gone while what it started is not.
        group.signal(Signal::KILL);
    }
    // Only now that the verdict is known may the channel close.
    drop(sender);
    result
}

/// Standard output into the channel.
async fn pass_on(mut stdout: impl AsyncRead + Unpin, sender: &mpsc::Sender<Bytes>) -> Result<(), Failure> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_LIMIT);
        // A pipe gives 64 KiB at most; a chunk is filled as long as there is something at once.
        let read = stdout.read_buf(&mut chunk).await;
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(Failure::new(Reason::StreamCut, format!("the command's output broke off: {e}"))),
        }
        if sender.send(chunk.freeze()).await.is_err() {
            return Err(Failure::new(Reason::CancelRequested, "nobody reads the command's output any more"));
        }
    }
}

/// Standard error, of which the end is kept. It is always read, so that the command never waits for us here: to its end, or
/// for [`LAST_WORDS`] once the command is `over`.
async fn keep_end(mut stderr: impl AsyncRead + Unpin, log: &mut Vec<u8>, over: &CancellationToken) {
    let late = async {
        over.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::pin!(late);
    let mut piece = [0; 8192];
    loop {
        let read = tokio::select! {
            read = stderr.read(&mut piece) => read,
            () = &mut late => break,
        };
        let Ok(read @ 1..) = read else { break };
        log.extend_from_slice(&piece[..read]);
        if log.len() > 2 * LOG_LIMIT {
            log.drain(..log.len() - LOG_LIMIT);
        }
    }
    log.drain(..log.len().saturating_sub(LOG_LIMIT));
}

fn verdict(status: ExitStatus, log: Vec<u8>) -> Result<Completion, Failure> {
    if status.success() {
        return Ok(Completion::Complete(Ending { exit_code: Some(0), warnings: Vec::new(), log }));
    }
    let words = String::from_utf8_lossy(&log);
    let last =
        words.trim().lines().next_back().map_or(String::new(), |line| format!(": {}", cut(line.trim(), WORDS_LIMIT)));
    Err(match (status.code(), status.signal()) {
        (Some(code), _) => {
            Failure::new(Reason::CommandFailed, format!("the command ended with exit code {code}{last}"))
                .with_exit_code(code)
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Failure::new(Reason::CommandFailed, format!("the command was ended by signal {signal}{last}"))
                .with_exit_code(128 + signal)
        }
    })
}

#[cfg(test)]
mod tests;
