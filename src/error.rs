//! **P** What can go wrong, as a closed set.
//!
//! Everything that fails ends in a [`Failure`]: a [`Reason`] out of a closed set (the same word in status, Event, metric
//! label and log), a message that says what happened *and what to do next*, and the exit code of a command where there
//! was one. A reason has a [`Class`], which alone decides whether an attempt is tried again.

use std::fmt;

/// What a failure means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// May pass by itself: the run is tried again within `retry.limit`.
    Transient,
    /// Will not pass by trying again (an empty dump, a directory that is in use).
    Permanent,
    /// Somebody asked for it to stop.
    Cancelled,
    /// A person has to change something first: a name, a right, a setting.
    Misconfigured,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident: $class:ident,)*) => {
        /// The closed set of reasons. The variant's name is the word in status, Events, metric labels and logs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is; the documentation and the metrics are made from it.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The word itself, as it stands in a status, an Event, a metric label and a log line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// Whether trying again can help.
            pub const fn class(self) -> Class {
                match self { $(Reason::$name => Class::$class,)* }
            }

            /// The reason with this name, if there is one: what was stored is read back.
            pub fn parse(word: &str) -> Option<Reason> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
            }
        }
    };
}

reasons! {
    // --- what a user wrote ---
    /// A field of the BackupJob does not hold; the message names every such field.
    InvalidSpec: Misconfigured,
    /// `schedule` cannot be parsed, or never fires.
    InvalidSchedule: Misconfigured,
    /// `timeZone` is not an IANA name.
    InvalidTimeZone: Misconfigured,
    /// A field or value that this version does not implement.
    NotSupported: Misconfigured,
    /// The BackupRun names a BackupJob that does not exist.
    JobNotFound: Misconfigured,
    // --- rights ---
    /// The namespace has not been opted in (`manifests/namespace.yaml`).
    NamespaceNotOptedIn: Misconfigured,
    /// The ServiceAccount whose rights are used may not do what the backup needs.
    Forbidden: Misconfigured,
    /// An admission policy, or its binding, differs from what `ubo install` prints: nothing runs until it is back.
    AdmissionPolicyMissing: Misconfigured,
    // --- the target ---
    /// The workload or pod does not exist.
    TargetNotFound: Misconfigured,
    /// The pod has no container of that name.
    ContainerNotFound: Misconfigured,
    /// No pod of the target is Ready.
    TargetNotReady: Transient,
    /// The pod went away, or its container ended, while it was read.
    TargetGone: Transient,
    /// The container has no `sh`.
    ShellMissing: Misconfigured,
    /// `tar` is missing in the container, which a copy and the directory form of a dump need.
    TarMissing: Misconfigured,
    /// There is nothing at `target.path`.
    PathNotFound: Misconfigured,
    // --- the command ---
    /// The command ended with another exit code than 0.
    CommandFailed: Transient,
    /// The hook before failed or was not through in time; nothing was read.
    BeforeFailed: Transient,
    /// The hook after failed or was not through in time.
    AfterFailed: Transient,
    /// The command has a pipe and no shell in the container can tell whether its first part failed.
    PipelineNotChecked: Misconfigured,
    /// Nothing was written, or nothing but empty files.
    EmptyBackup: Permanent,
    /// The backup directory holds something that no run of ours left there.
    BackupDirectoryNotEmpty: Misconfigured,
    /// The backup directory cannot be made or written.
    BackupDirectoryUnavailable: Misconfigured,
    /// Another run works in the backup directory. It is waited for, and no attempt is counted ([`Reason::is_waiting`]).
    BackupDirectoryBusy: Transient,
    /// The backup directory outgrew its limit, or the file system under it is nearly full.
    StagingFull: Permanent,
    // --- the stream ---
    /// The stream ended before its end marker.
    StreamCut: Transient,
    /// Neither a byte nor a heartbeat came for 60 s.
    StreamStalled: Transient,
    /// Bytes came after the end marker, or the marker was not one of ours.
    StreamCorrupt: Transient,
    /// A tar without its end-of-archive blocks.
    ArchiveTruncated: Transient,
    /// The source could not be opened or read.
    SourceUnavailable: Transient,
    /// Part of the source could not be read; what could is kept.
    SourceIncomplete: Permanent,
    /// Some pods of the target were not Ready or could not be backed up; the others are kept.
    PodsMissing: Permanent,
    /// Files changed or vanished while they were read, and `onChange` is `Fail`.
    FilesChanged: Permanent,
    /// The files of a database that runs were copied: they belong to no one moment.
    LiveDatabase: Permanent,
    // --- the destination ---
    /// `secretRef` names a Secret that does not exist.
    SecretNotFound: Misconfigured,
    /// The Secret lacks a key that this type of destination needs.
    SecretKeyMissing: Misconfigured,
    /// The destination refused the credentials, or they may not do this.
    DestinationDenied: Misconfigured,
    /// The destination is at an address that the operator never connects to (loopback, metadata, the API server, …).
    DestinationForbidden: Misconfigured,
    /// The bucket, or the folder, does not exist there, or the server leads elsewhere.
    DestinationNotFound: Misconfigured,
    /// The destination did not answer, or answered that it cannot now.
    DestinationUnavailable: Transient,
    /// What the destination holds differs from what was sent.
    DestinationMismatch: Transient,
    /// A backup, or a document of one, is not what its manifest says.
    BackupDamaged: Permanent,
    /// There is no such backup.
    BackupNotFound: Misconfigured,
    /// The backup is encrypted, and no identity (private key) that opens it was given.
    IdentityMissing: Misconfigured,
    // --- a restore ---
    /// The place to restore to is not empty, or cannot be written.
    RestoreTargetUnavailable: Misconfigured,
    // --- the operator ---
    /// The process that executed the attempt has gone.
    OperatorRestarted: Transient,
    /// The operator died so often while it executed the run that it may be the run that kills it.
    CrashLoop: Permanent,
    /// `activeDeadlineSeconds` was over, all attempts and waits between them counted.
    DeadlineExceeded: Permanent,
    /// The operator was told to end before the attempt was through.
    OperatorShutdown: Transient,
    /// The Kubernetes API did not answer, or answered with an error that is nobody's setting.
    ClusterUnavailable: Transient,
    /// An invariant of our own does not hold. Please report it.
    Internal: Permanent,
    // --- somebody's wish ---
    /// `spec.cancel` was set.
    CancelRequested: Cancelled,
    /// The BackupRun or its BackupJob was deleted.
    Deleted: Cancelled,
    /// `concurrencyPolicy: Replace`, and the schedule has started a later run.
    Replaced: Cancelled,
}

impl Reason {
    /// Whether nothing failed: the attempt found that somebody else has what it needs, and waits for its turn. Such an
    /// attempt is not one of those that `retry.limit` allows.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::BackupDirectoryBusy)
    }

    /// What to do, for those reasons whose messages say only what happened; empty for all others. It ends the message of a
    /// run that failed for good.
    pub const fn way_out(self) -> &'static str {
        match self {
            Self::TargetGone => {
                "see why the pod ended (kubectl describe pod: evicted, out of memory, restarted), and run it again when it is Ready"
            }
            Self::StreamCut => {
                "see whether the pod, its node or the API server restarted, or something between them cuts long connections"
            }
            Self::StreamStalled => {
                "see whether the node or the container hangs (disk, memory, a frozen file system), and the network to it"
            }
            Self::StreamCorrupt => {
                "see whether something between the operator and the pod changes what it passes on; if nothing does, report it"
            }
            Self::ArchiveTruncated => {
                "see in log.txt and in the pod why tar ended early (killed, out of memory), or whether the command writes a whole tar"
            }
            Self::DestinationUnavailable => {
                "see whether the destination is up, answers from the operator's node, and has room"
            }
            Self::OperatorRestarted => {
                "see why the operator's pod ended (kubectl describe pod, kubectl logs --previous: out of memory, evicted, killed), and run it again"
            }
            Self::OperatorShutdown => {
                "run it again; where it meets updates often, raise spec.retry.limit, or the operator's --shutdown-grace-seconds and its pods' terminationGracePeriodSeconds"
            }
            Self::ClusterUnavailable => {
                "see whether the API server is up and answers from the operator's node (kubectl get --raw /readyz), and run it again"
            }
            Self::TargetNotReady => {
                "see what the pod waits for (kubectl describe pod), and run it again when it is Ready"
            }
            Self::DestinationMismatch => {
                "look for a fault at the destination or on the way to it (disk, proxy, lifecycle rule, another writer)"
            }
            Self::InvalidSpec
            | Self::InvalidSchedule
            | Self::InvalidTimeZone
            | Self::NotSupported
            | Self::JobNotFound
            | Self::NamespaceNotOptedIn
            | Self::Forbidden
            | Self::AdmissionPolicyMissing
            | Self::TargetNotFound
            | Self::ContainerNotFound
            | Self::ShellMissing
            | Self::TarMissing
            | Self::PathNotFound
            | Self::CommandFailed
            | Self::BeforeFailed
            | Self::AfterFailed
            | Self::PipelineNotChecked
            | Self::EmptyBackup
            | Self::BackupDirectoryNotEmpty
            | Self::BackupDirectoryUnavailable
            | Self::BackupDirectoryBusy
            | Self::StagingFull
            | Self::SourceUnavailable
            | Self::SourceIncomplete
            | Self::FilesChanged
            | Self::LiveDatabase
            | Self::PodsMissing
            | Self::SecretNotFound
            | Self::SecretKeyMissing
            | Self::DestinationDenied
            | Self::DestinationForbidden
            | Self::DestinationNotFound
            | Self::BackupDamaged
            | Self::BackupNotFound
            | Self::IdentityMissing
            | Self::RestoreTargetUnavailable
            | Self::CrashLoop
            | Self::DeadlineExceeded
            | Self::Internal
            | Self::CancelRequested
            | Self::Deleted
            | Self::Replaced => "",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something did not succeed. The message is for a person: what happened, then what to do. Never a secret, never a
/// response body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// Out of the closed set.
    pub reason: Reason,
    /// One or two sentences, at most [`Failure::MESSAGE_LIMIT`] bytes when stored.
    pub message: String,
    /// Exit code of the command, where one ran to its end.
    pub exit_code: Option<i32>,
    /// What had to stay of an attempt, and where; the message ends with it.
    pub left: Option<String>,
}

impl Failure {
    /// Longest message that is stored in a status, in bytes. Conditions allow 32,768; nobody reads more than this.
    pub const MESSAGE_LIMIT: usize = 1024;

    /// A failure with this reason; the message says what happened and what to do next.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), exit_code: None, left: None }
    }

    /// The same failure, with the exit code of the command.
    #[must_use]
    pub fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The same failure, of an attempt of which something had to stay: `what` and where.
    #[must_use]
    pub fn leaving(mut self, what: impl Into<String>) -> Self {
        let what = what.into();
        self.message = format!("{}. {what}", self.message);
        self.left = Some(what);
        self
    }

    /// The same failure, with what was being done put before its message.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whether trying again can help.
    pub const fn class(&self) -> Class {
        self.reason.class()
    }

    /// The message, cut at a character boundary to what is stored.
    pub fn short_message(&self) -> &str {
        cut(&self.message, Self::MESSAGE_LIMIT)
    }
}

/// The longest beginning of `text` that has at most `limit` bytes and ends at a character boundary.
pub fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_back_from_its_word() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("Nonsense"), None);
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
