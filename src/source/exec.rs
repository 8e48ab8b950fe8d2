//! **A** A dump or copy by exec: a command in the target's container, read through the Kubernetes API.
//!
//! [`super::wrapper`] says what runs there and what proves its end, [`super::exec_loop`] carries the bytes; here the two
//! meet, and what became of them is judged: [`Completion::Complete`] only for a trailer with exit code 0 that was the last
//! thing on the stream. The API server's status is one more check, which can spoil a backup and never make one.

use super::exec_loop::{self, Dialogue, End, Exit, OpenError, Place, Times};
use super::hidden::Hidden;
use super::selection::Selection;
use super::tar_filter::{Noted, TarFilter};
use super::wrapper::{self, Nonce, Plan, STAGED_LIMIT_KIB, Transcript, Verdict};
use super::{CHANNEL_CHUNKS, Capture, CaptureFacts, Completion, Consistency, Content, Ending, Source};
use crate::error::{Failure, Reason, cut};
use crate::run::AttemptId;
use crate::target::{ResolvedPod, find_again, gone};
use crate::tenant::{Account, Tenants, code, unavailable};
use crate::validate::{Copy, Dump, DumpForm, Hooks, Work};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How much of what a failed command printed goes to the operator's log, in bytes: the last part.
const LOGGED: usize = 4096;

/// How often, and how far apart, it is looked whether the pod is gone: the kubelet reports a container's end within a
/// second or two, after the stream has ended.
const GONE_LOOKS: u32 = 8;
const GONE_PAUSE: Duration = Duration::from_millis(500);

/// A dump or copy in one container.
pub struct ExecSource {
    tenants: Tenants,
    account: Account,
    pod: ResolvedPod,
    plan: Plan,
    times: Times,
    hidden: Hidden,
    /// The pod was found a while ago.
    looks_again: bool,
}

impl ExecSource {
    /// A source that reads `pod` with the rights of `account`. `target_path` is what the BackupJob's target names, for the
    /// command's environment. Clients are asked for when they are needed: an attempt may have waited for longer than a
    /// token lives, and a dump may take longer.
    pub fn new(
        tenants: Tenants,
        account: Account,
        pod: ResolvedPod,
        work: Work,
        target_path: Option<String>,
        id: &AttemptId,
    ) -> Self {
        let plan = Plan {
            nonce: Nonce::new(rand::random()),
            work,
            hooks: Hooks::default(),
            run: id.run.clone(),
            run_uid: id.run_uid.clone(),
            target_path,
            attempt: id.attempt,
            staged_limit_kib: STAGED_LIMIT_KIB,
            limits_volumes: false,
        };
        Self { tenants, account, pod, plan, times: Times::default(), hidden: Hidden::default(), looks_again: false }
    }

    /// The same, with commands before and after.
    #[must_use]
    pub fn with_hooks(mut self, hooks: Hooks) -> Self {
        self.plan.hooks = hooks;
        self
    }

    /// The same, with values that must not be written down, whatever the command prints.
    #[must_use]
    pub fn hiding(mut self, hidden: Hidden) -> Self {
        self.hidden = hidden;
        self
    }

    /// The same, with another limit of a dump's directory, in bytes: then it holds where a volume is mounted too.
    #[must_use]
    pub fn with_staged_limit(mut self, bytes: Option<u64>) -> Self {
        if let Some(bytes) = bytes {
            self.plan.staged_limit_kib = bytes.div_ceil(1024);
            self.plan.limits_volumes = true;
        }
        self
    }

    /// The same, for a pod that waits for its turn: whether it is still that pod, and Ready, is looked at when it is opened.
    #[must_use]
    pub const fn at_its_turn(mut self) -> Self {
        self.looks_again = true;
        self
    }

    /// The same, with other times: tests do not wait for a minute.
    #[must_use]
    pub fn with_times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    fn place(&self) -> Place<'_> {
        let ResolvedPod { namespace, pod, container, .. } = &self.pod;
        Place { namespace: namespace.as_str(), pod, container }
    }

    fn open_failure(&self, error: &OpenError) -> Failure {
        let ResolvedPod { namespace, pod, container, .. } = &self.pod;
        let error = match error {
            OpenError::TooLong => {
                return Failure::new(
                    Reason::InvalidSpec,
                    "the commands are too long for a request (about 15,000 characters): put them into a script in the image",
                );
            }
            OpenError::TimedOut(_) => {
                return Failure::new(
                    Reason::SourceUnavailable,
                    format!(
                        "exec into pod {namespace}/{pod} was not answered ({error}): look whether the kubelet of its node answers"
                    ),
                );
            }
            OpenError::Refused(error) => error,
        };
        match code(error) {
            Some(403) => self.account.forbidden("exec into pods", namespace.as_str()),
            Some(404) => {
                Failure::new(Reason::TargetGone, format!("pod {namespace}/{pod} went away before it was read"))
            }
            Some(400) => Failure::new(
                Reason::SourceUnavailable,
                format!(
                    "exec into container {container} of pod {namespace}/{pod} was refused: {}; see whether the container \
                     runs and takes commands (kubectl exec)",
                    short(&error.to_string())
                ),
            ),
            _ => unavailable(&format!("exec into pod {namespace}/{pod}"), error),
        }
    }
}

#[async_trait]
impl Source for ExecSource {
    async fn open(&self, cancel: CancellationToken) -> Result<Capture, Failure> {
        // A nonce is used once: a second opening of the same source is another attempt.
        let plan = Plan { nonce: Nonce::new(rand::random()), ..self.plan.clone() };
        let argv = plan.argv()?;
        let filter = match &plan.work {
            Work::Dump(_) => None,
            Work::Copy(Copy { include, exclude, .. }) => Some(TarFilter::new(
                Selection::new(include, exclude)
                    .map_err(|why| Failure::new(Reason::InvalidSpec, format!("a pattern of spec.target {why}")))?,
            )),
        };
        let opening = async {
            let client = self.tenants.client_of(&self.account).await?;
            let pod =
                if self.looks_again { find_again(&client, &self.account, &self.pod).await? } else { self.pod.clone() };
            let session = exec_loop::open(&client, self.place(), &argv, &self.times).await;
            session.map(|session| (pod, session)).map_err(|error| self.open_failure(&error))
        };
        let (pod, session) = tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            session = opening => session?,
        };

        let facts = CaptureFacts {
            content: match &plan.work {
                Work::Dump(Dump { form: DumpForm::Stdout, .. }) => Content::Raw,
                _ => Content::Tar,
            },
            consistency: match &plan.work {
                Work::Dump(_) => Consistency::Command,
                Work::Copy(_) if plan.hooks.before.is_some() => Consistency::Quiesced,
                Work::Copy(_) => Consistency::Live,
            },
            pod: Some(self.pod.pod.clone()),
            container: Some(self.pod.container.clone()),
        };
        let (sender, bytes) = mpsc::channel(CHANNEL_CHUNKS);
        let (report, verdict) = oneshot::channel();
        let stop = cancel.child_token();
        let guard = stop.clone().drop_guard();
        let (tenants, account) = (self.tenants.clone(), self.account.clone());
        let (times, hidden) = (self.times, self.hidden.clone());
        tokio::spawn(async move {
            let mut conversation = Conversation::new(&plan, filter);
            let end = session.run(&mut conversation, sender, &times, &stop).await;
            let gone = departure(&tenants, &account, &pod);
            let judged = judge(gone, &pod, &plan, conversation, end, &hidden).await;
            // Nobody may be waiting for it any more.
            let _ = report.send(judged);
        });
        let completion = async move {
            let judged = verdict.await;
            drop(guard);
            judged.unwrap_or_else(|_| {
                Err(Failure::new(Reason::Internal, "the task that read the pod ended without a word"))
            })
        };
        Ok(Capture { facts, bytes, completion: Box::pin(completion) })
    }
}

/// The wrapper's side of the exchange: what it says is written down, and it is told to go once its end marker was read.
struct Conversation {
    transcript: Transcript,
    answered: bool,
    /// For a copy.
    filter: Option<TarFilter>,
    /// What has come for the filter; empty but for a moment.
    unfiltered: VecDeque<Bytes>,
}

impl Conversation {
    fn new(plan: &Plan, filter: Option<TarFilter>) -> Self {
        Self { transcript: Transcript::new(&plan.nonce), answered: false, filter, unfiltered: VecDeque::new() }
    }
}

impl Dialogue for Conversation {
    fn stdout(&mut self, chunk: Bytes, onward: &mut VecDeque<Bytes>) -> Result<(), Failure> {
        let Some(filter) = &mut self.filter else {
            return self.transcript.stdout(chunk, onward);
        };
        let taken = self.transcript.stdout(chunk, &mut self.unfiltered);
        for chunk in self.unfiltered.drain(..) {
            filter.push(&chunk, onward);
        }
        if self.transcript.verdict().is_some() {
            filter.finish(onward);
        }
        taken
    }

    fn stderr(&mut self, chunk: Bytes) {
        self.transcript.stderr(chunk);
    }

    fn answer(&mut self) -> Option<Bytes> {
        // What tar said about the files comes on the other stream: while the wrapper waits, it is not lost.
        let heard = match self.transcript.verdict() {
            None => false,
            Some(Verdict::Tar(_)) if self.filter.is_some() => self.transcript.tar().ended(),
            Some(_) => true,
        };
        let now = !self.answered && heard;
        self.answered |= now;
        now.then_some(Bytes::from_static(b"\n"))
    }

    fn dismissal(&self) -> Bytes {
        wrapper::STOP
    }
}

fn cancelled() -> Failure {
    Failure::new(Reason::CancelRequested, "the run was cancelled")
}

fn short(text: &str) -> &str {
    cut(text, 300)
}

/// `gone` is asked only where it matters: why the container cannot be read any more.
async fn judge(
    gone: impl Future<Output = Option<String>>,
    pod: &ResolvedPod,
    plan: &Plan,
    conversation: Conversation,
    end: End,
    hidden: &Hidden,
) -> Result<Completion, Failure> {
    let Conversation { transcript, filter, .. } = conversation;
    let noted = filter.as_ref().map(|filter| filter.noted().clone()).unwrap_or_default();
    let judged = match transcript.verdict() {
        Some(verdict) => with_verdict(plan, &transcript, &noted, verdict, end),
        None => Err(without_verdict(gone, pod, &transcript, end).await),
    };
    let mut ending = Ending { exit_code: None, warnings: transcript.warnings(), log: Vec::new() };
    let received = transcript.received();
    ending.log = hidden.hide(transcript.into_log());
    match judged {
        Ok(Judged { exit_code, warnings, lacks }) => {
            ending.exit_code = exit_code;
            ending.warnings.extend(warnings);
            Ok(match lacks {
                None => Completion::Complete(ending),
                Some((reason, why)) => Completion::Incomplete(ending, reason, why),
            })
        }
        // Nothing was begun, and whoever waits says so.
        Err(failure) if failure.reason.is_waiting() => Err(failure),
        Err(failure) => {
            let tail = &ending.log[ending.log.len().saturating_sub(LOGGED)..];
            tracing::warn!(
                namespace = %pod.namespace, pod = pod.pod, container = pod.container, reason = %failure.reason,
                exit_code = failure.exit_code, received, stderr = %set_in(tail),
                "the command gave no backup"
            );
            Err(failure)
        }
    }
}

/// Text for the log, each line but the first set in: what a tenant's command prints is never taken for a line of ours.
fn set_in(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim_end().replace("\r\n", "\n").replace(['\n', '\r'], "\n    ")
}

/// A backup whose end was seen.
struct Judged {
    /// Of the command, where there is one.
    exit_code: Option<i32>,
    warnings: Vec<String>,
    /// What keeps it from being whole.
    lacks: Option<(Reason, String)>,
}

fn with_verdict(
    plan: &Plan,
    transcript: &Transcript,
    noted: &Noted,
    verdict: Verdict,
    end: End,
) -> Result<Judged, Failure> {
    if let Some(mut failure) = plan.failure(verdict, transcript.lies()) {
        if let (Some(how), false) = (transcript.after(), failure.reason == Reason::AfterFailed) {
            let how =
                if how == "late" { "was not through in time".into() } else { format!("ended with exit code {how}") };
            failure.message = format!("{}. strategy.after {how}, too", failure.message);
        }
        return Err(failure);
    }
    let mut warnings = Vec::new();
    match end {
        End::Refused(failure) => return Err(failure),
        End::Cancelled => return Err(cancelled()),
        End::Status(Exit::Code(code)) if code == verdict.exit_code() => {}
        End::Status(exit) => {
            return Err(Failure::new(
                Reason::StreamCorrupt,
                format!(
                    "the end marker says exit code {} and the API server {}",
                    verdict.exit_code(),
                    match &exit {
                        Exit::Code(code) => format!("says {code}"),
                        Exit::Unknown(words) => format!("says: {}", short(words)),
                    }
                ),
            ));
        }
        // Everything was read: what is missing is only the API server's own word.
        End::Closed | End::Lost(_) | End::Silent | End::Stalled | End::ReaderGone => warnings.push(
            "the API server did not report the end of the exec; the stream's own end marker was whole".to_owned(),
        ),
    }
    let (exit_code, lacks) = match (&plan.work, verdict) {
        (Work::Copy(copy), Verdict::Tar(code)) => {
            (None, copied(copy, plan.hooks.before.is_some(), transcript, noted, code, &mut warnings)?)
        }
        (_, Verdict::Tar(code @ 1..)) => {
            let why = format!(
                "tar could not read everything in the backup directory (exit code {code}); the log of the backup names the \
                 files"
            );
            (Some(0), Some((Reason::SourceIncomplete, why)))
        }
        _ => (Some(0), None),
    };
    Ok(Judged { exit_code, warnings, lacks })
}

/// What a copy lacks, the gravest first.
fn copied(
    copy: &Copy,
    quiesced: bool,
    transcript: &Transcript,
    noted: &Noted,
    code: i32,
    warnings: &mut Vec<String>,
) -> Result<Option<(Reason, String)>, Failure> {
    if noted.unfiltered {
        return Err(Failure::new(Reason::StreamCorrupt, "what came is not a tar that can be read to its end"));
    }
    if noted.bare_folders > 0 {
        warnings.push(format!(
            "of {} folders owner and mode may be missing: this tar lists too many folders before what is wanted of them",
            noted.bare_folders
        ));
    }
    if noted.cut_owners > 0 {
        warnings.push(format!(
            "the owners of {} entries may be cut off: their ids are above 2097151, and this tar (busybox) writes no more than \
             the low digits of one above 16777215. An image with GNU tar has no such limit",
            noted.cut_owners
        ));
    }
    let told = transcript.tar().told(code);
    let mut lacks = Vec::new();
    if let Some(why) = told.unread {
        let why =
            format!("{why}. Let the container run as a user who may read them, or leave them out by target.exclude");
        lacks.push((Reason::SourceIncomplete, why));
    }
    if noted.lost > 0 {
        let names = noted.lost_links.join(", ");
        let why = format!(
            "{} hard links lead to files that the patterns leave out, and have no content of their own ({names}): include \
             both names, or neither",
            noted.lost
        );
        lacks.push((Reason::SourceIncomplete, why));
    }
    if !noted.lock_files.is_empty() && !quiesced {
        let files = noted.lock_files.join(", ");
        if copy.allow_live_database {
            warnings.push(format!("the files of a database that runs were copied as they were ({files})"));
        } else {
            let why = format!(
                "a database is at work on these files ({files}): such a copy restores to a broken database. Use \
                 strategy.type dump, quiet it with strategy.before, or set guard.allowLiveDatabase"
            );
            lacks.push((Reason::LiveDatabase, why));
        }
    }
    match told.changed {
        Some(why) if copy.fail_on_change => lacks.push((Reason::FilesChanged, why)),
        Some(why) => warnings.push(why),
        None if told.blind && copy.fail_on_change => {
            let why = "nothing in the container can tell whether files changed while they were read (GNU tar, or find, stat \
                       and md5sum), and onChange is Fail";
            lacks.push((Reason::FilesChanged, why.to_owned()));
        }
        None => {}
    }
    let mut lacks = lacks.into_iter();
    let gravest = lacks.next();
    warnings.extend(lacks.map(|(_, why)| why));
    Ok(gravest)
}

async fn without_verdict(
    gone: impl Future<Output = Option<String>>,
    pod: &ResolvedPod,
    transcript: &Transcript,
    end: End,
) -> Failure {
    let container = format!("container {} of pod {}/{}", pod.container, pod.namespace, pod.pod);
    let received = transcript.received();
    match &end {
        End::Refused(failure) => return failure.clone(),
        End::Cancelled => return cancelled(),
        End::ReaderGone => {
            return Failure::new(Reason::SourceUnavailable, "reading was given up by whoever stores the bytes");
        }
        End::Status(exit) if !transcript.started() && received == 0 && shell_missing(exit) => {
            return Failure::new(
                Reason::ShellMissing,
                format!(
                    "{container} has no `sh`, which a backup by exec needs: name another container in spec.target.container, or use \
                     an image with a shell"
                ),
            );
        }
        _ => {}
    }
    if let Some(why) = gone.await {
        return Failure::new(Reason::TargetGone, format!("{why} while {container} was read ({received} bytes so far)"));
    }
    let (reason, what) = match end {
        End::Stalled => (
            Reason::StreamStalled,
            format!("neither a byte nor a heartbeat came from {container} for too long ({received} bytes so far)"),
        ),
        End::Status(Exit::Unknown(words)) if !transcript.started() => {
            let message = format!(
                "the command could not be started in {container}: {}; see whether it takes commands (kubectl exec)",
                short(&words)
            );
            (Reason::SourceUnavailable, message)
        }
        End::Status(Exit::Unknown(words)) => (
            Reason::StreamCut,
            format!(
                "the stream from {container} ended before its end marker after {received} bytes: {}",
                short(&words)
            ),
        ),
        End::Status(Exit::Code(code)) => (
            Reason::StreamCut,
            format!(
                "the shell in {container} ended with exit code {code} and no end marker after {received} bytes{}",
                if code == 137 { " (killed: out of memory?)" } else { "" }
            ),
        ),
        End::Lost(why) => {
            (Reason::StreamCut, format!("the connection to {container} broke after {received} bytes ({})", short(&why)))
        }
        _ => (
            Reason::StreamCut,
            format!("the stream from {container} ended before its end marker after {received} bytes"),
        ),
    };
    Failure::new(reason, what)
}

/// How the runtimes say that there is no `sh`: containerd and CRI-O by the words of the OCI runtime in an error of the
/// kubelet's, some by the exit code that a shell would give.
fn shell_missing(exit: &Exit) -> bool {
    match exit {
        Exit::Code(code) => matches!(code, 126..=128),
        Exit::Unknown(words) => {
            words.contains("\"sh\"") && (words.contains("not found") || words.contains("no such file"))
        }
    }
}

async fn departure(tenants: &Tenants, account: &Account, pod: &ResolvedPod) -> Option<String> {
    let client = tenants.client_of(account).await.ok()?;
    for look in 0..GONE_LOOKS {
        if look > 0 {
            tokio::time::sleep(GONE_PAUSE).await;
        }
        match gone(&client, pod).await {
            Ok(Some(why)) => return Some(why),
            Ok(None) => {}
            // Without the right, or without the API server, nothing can be told.
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests;
