//! **P** What the trailer says, and what it means for the user.

use super::Plan;
use crate::api::names::RunName;
use crate::error::{Failure, Reason};
use crate::validate::{Hook, Work};
use std::time::Duration;

/// What the trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The command ended with this code. For a directory only codes other than 0 come this way.
    Command(i32),
    /// The tar of a copy ended with this code; or a command with 0, and then the tar of its directory.
    Tar(i32),
    /// The hook before ended with this code.
    Before(i32),
    /// The hook before was ended by its limit.
    BeforeLate,
    /// The hook after ended with this code, after work that was good.
    After(i32),
    /// The hook after was ended by its limit, after work that was good.
    AfterLate,
    /// There is no `tar`, or one that cannot exclude a file.
    TarMissing,
    /// There is nothing at the path that is to be copied.
    NoPath,
    /// A pipe, and no shell with pipefail.
    Pipeline,
    /// The directory holds what is not ours.
    NotEmpty,
    /// The directory cannot be made.
    Unavailable,
    /// An earlier attempt of this run lives, and could not be ended.
    Busy,
    /// Another run that lives has the directory, in this container or in one that mounts the same volume. Nothing was begun.
    Taken,
    /// Our marker in the directory is not ours any more: somebody else works there, too.
    Shared,
    /// The directory grew beyond its limit.
    Full,
    /// Its file system is nearly full.
    DiskFull,
}

impl Verdict {
    /// From a trailer's text, `<word> <code>`.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let (word, code) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let code = code.parse().ok().filter(|code| (0..=255).contains(code))?;
        Some(match word {
            "command" => Self::Command(code),
            "tar" => Self::Tar(code),
            "before" => Self::Before(code),
            "before-late" => Self::BeforeLate,
            "after" => Self::After(code),
            "after-late" => Self::AfterLate,
            "no-path" => Self::NoPath,
            "tar-missing" => Self::TarMissing,
            "pipeline" => Self::Pipeline,
            "not-empty" => Self::NotEmpty,
            "unavailable" => Self::Unavailable,
            "busy" => Self::Busy,
            "taken" => Self::Taken,
            "shared" => Self::Shared,
            "full" => Self::Full,
            "disk" => Self::DiskFull,
            _ => return None,
        })
    }

    /// The code that the script exits with, which the API server's status must agree with.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Command(code) | Self::Tar(code) | Self::Before(code) | Self::After(code) => code,
            _ => 1,
        }
    }
}

impl Plan {
    /// What to tell the user about a verdict that is not a whole backup; `None` if it is one. `lies` is what was found in a
    /// directory that should be empty, or who has it.
    pub fn failure(&self, verdict: Verdict, lies: &[String]) -> Option<Failure> {
        let directory = self.work.directory().unwrap_or_default();
        let path = if let Work::Copy(copy) = &self.work { &copy.path } else { directory };
        let seconds = |hook: &Option<Hook>| hook.as_ref().map_or(Duration::ZERO, |hook| hook.limit).as_secs();
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
                format!("tar of {path} ended with exit code {code}; what it printed is in the operator's log"),
            ),
            Verdict::Before(code) => (
                Reason::BeforeFailed,
                format!(
                    "strategy.before ended with exit code {code}, and nothing was read; what it printed is in the operator's \
                     log"
                ),
            ),
            Verdict::BeforeLate => (
                Reason::BeforeFailed,
                format!(
                    "strategy.before was not through after {} s and was ended, and nothing was read: give it more with \
                     strategy.before.timeoutSeconds, or see what it waits for",
                    seconds(&self.hooks.before)
                ),
            ),
            Verdict::After(code) => (
                Reason::AfterFailed,
                format!(
                    "strategy.after ended with exit code {code}: look whether the application is as it should be. The \
                     backup is not counted as good (a command whose failure does not matter ends in `|| true`)"
                ),
            ),
            Verdict::AfterLate => (
                Reason::AfterFailed,
                format!(
                    "strategy.after was not through after {} s and was ended: look whether the application is as it should \
                     be. The backup is not counted as good; strategy.after.timeoutSeconds gives it more",
                    seconds(&self.hooks.after)
                ),
            ),
            Verdict::NoPath => (
                Reason::PathNotFound,
                format!("there is no {path} in the container, or its user may not go there: correct spec.target.path"),
            ),
            Verdict::TarMissing if matches!(self.work, Work::Copy(_)) => (
                Reason::TarMissing,
                "the container has no `tar`, which a copy needs: name another container of the pod in \
                 spec.target.container, use an image with tar, or let a dump's command write the files to standard output"
                    .to_owned(),
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
                "a command has a pipe, and no shell in the container can tell whether its first part failed: leave out \
                 the pipe (a backup is compressed anyway), use an image with bash, or set strategy.allowUncheckedPipes"
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
                "an earlier attempt of this run is still at work in the container, and did not end when it was told to: see \
                 what its processes wait for"
                    .to_owned(),
            ),
            Verdict::Taken => (Reason::BackupDirectoryBusy, self.taken(directory, lies)),
            Verdict::Shared => (
                Reason::SourceUnavailable,
                format!(
                    "the backup directory is not this run's alone: two pods share the volume at {directory}, or the command \
                     removed the marker (.ubo-run) that says whose it is. Nothing was stored: give each BackupJob another \
                     spec.strategy.directory, or let the command write to standard output"
                ),
            ),
            Verdict::Full => (
                Reason::StagingFull,
                format!(
                    "{directory} grew beyond {} KiB, and the command was ended before the node's disk fills up: let it write \
                     to standard output, mount a volume at {directory}, or raise guard.maximumStagedSize",
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
            Verdict::Command(code) | Verdict::Before(code) | Verdict::After(code) => failure.with_exit_code(code),
            _ => failure,
        })
    }

    /// For whom this run waits. What a marker says comes out of a container: only what can be a name is repeated.
    fn taken(&self, directory: &str, lies: &[String]) -> String {
        let who = match lies.first().and_then(|name| RunName::new(name.as_str()).ok()) {
            Some(name) if name == self.run => {
                "an earlier attempt of this run, or another run of its name, in another container".to_owned()
            }
            Some(name) => format!("another run, {name}"),
            None => "another run".to_owned(),
        };
        format!(
            "waits for {who}, which is at work in {directory}: what needs the same directory takes turns. To keep them \
             apart, give one of the two another spec.strategy.directory, or another time"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::Uid;
    use crate::source::wrapper::{Nonce, STAGED_LIMIT_KIB};
    use crate::validate::{Copy, Dump, DumpForm, Hooks};

    fn plan(work: Work) -> Plan {
        let hook = |seconds| Some(Hook { command: "x".to_owned(), limit: Duration::from_secs(seconds) });
        Plan {
            nonce: Nonce::new(5),
            work,
            hooks: Hooks { before: hook(11), after: hook(22) },
            run: RunName::new("pg-once").unwrap(),
            run_uid: Uid::new("6b1cbb4c-0000-4000-8000-000000000001").unwrap(),
            target_path: None,
            attempt: 1,
            staged_limit_kib: STAGED_LIMIT_KIB,
            limits_volumes: false,
        }
    }

    #[test]
    fn each_verdict_but_two_has_its_reason_and_says_what_to_do() {
        let form = DumpForm::Directory("/backup".to_owned());
        let dump = plan(Work::Dump(Dump { command: "x".to_owned(), form, allow_unchecked_pipes: false }));
        let copy = plan(Work::Copy(Copy {
            path: "/data".to_owned(),
            include: Vec::new(),
            exclude: Vec::new(),
            fail_on_change: false,
            allow_live_database: false,
        }));
        for (line, reason, said) in [
            ("command 0", None, ""),
            ("tar 0", None, ""),
            ("tar 2", None, ""),
            ("command 3", Some(Reason::CommandFailed), "3"),
            ("command 141", Some(Reason::CommandFailed), "head"),
            ("tar 137", Some(Reason::ArchiveTruncated), "137"),
            ("before 4", Some(Reason::BeforeFailed), "4"),
            ("before-late 1", Some(Reason::BeforeFailed), "11 s"),
            ("after 5", Some(Reason::AfterFailed), "5"),
            ("after-late 1", Some(Reason::AfterFailed), "22 s"),
            ("no-path 1", Some(Reason::PathNotFound), "spec.target.path"),
            ("tar-missing 1", Some(Reason::TarMissing), "tar"),
            ("pipeline 1", Some(Reason::PipelineNotChecked), "bash"),
            ("not-empty 1", Some(Reason::BackupDirectoryNotEmpty), "old.sql"),
            ("unavailable 1", Some(Reason::BackupDirectoryUnavailable), "emptyDir"),
            ("busy 1", Some(Reason::SourceUnavailable), "an earlier attempt of this run"),
            ("taken 1", Some(Reason::BackupDirectoryBusy), "waits for another run"),
            ("shared 1", Some(Reason::SourceUnavailable), "spec.strategy.directory"),
            ("full 1", Some(Reason::StagingFull), "KiB"),
            ("disk 1", Some(Reason::StagingFull), "10 %"),
        ] {
            let verdict = Verdict::parse(line.as_bytes()).unwrap();
            for plan in [&dump, &copy] {
                let failure = plan.failure(verdict, &["old.sql".to_owned()]);
                assert_eq!(failure.as_ref().map(|failure| failure.reason), reason, "{line}");
                let Some(failure) = failure else { continue };
                assert!(failure.message.contains(said) && failure.message.len() < Failure::MESSAGE_LIMIT, "{failure}");
                let coded = ["command ", "before ", "after "].iter().any(|word| line.starts_with(word));
                assert_eq!(failure.exit_code.is_some(), coded, "{line}");
            }
        }
        assert!(copy.failure(Verdict::NoPath, &[]).unwrap().message.contains("/data"));
    }

    #[test]
    fn who_waits_says_for_whom() {
        let form = DumpForm::Directory("/backup".to_owned());
        let dump = plan(Work::Dump(Dump { command: "x".to_owned(), form, allow_unchecked_pipes: false }));
        for (lies, said) in [
            ("web-20261124-0200", "waits for another run, web-20261124-0200, which is at work in /backup:"),
            (
                "pg-once",
                "waits for an earlier attempt of this run, or another run of its name, in another container, which is at work in",
            ),
            ("unknown name; rm -rf", "waits for another run, which is at work in /backup:"),
        ] {
            let failure = dump.failure(Verdict::Taken, &[lies.to_owned()]).unwrap();
            assert!(failure.reason.is_waiting() && failure.message.starts_with(said), "{failure}");
        }
        assert!(dump.failure(Verdict::Taken, &[]).unwrap().message.starts_with("waits for another run, which"));
    }
}
