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
//! * **standard input**: one line from us once the trailer has been read; only then does the script exit. [`STOP`] or an
//!   end of file instead means that nobody reads any more: a watcher ends every process of the session (TERM, five seconds,
//!   KILL), the script empties what it made, waits for its children and exits. The command itself reads from `/dev/null`.
//!
//! # Three forms, one for each run
//! * [`DumpForm::Stdout`]: the command's standard output is the backup; nothing is written to disk.
//! * [`DumpForm::Directory`]: the command fills a directory, its standard output goes to the log, and afterwards a `tar` of
//!   the directory is the backup. The directory is made, or found empty (`lost+found` apart), or holds what a dead run left:
//!   a marker (`<directory>.ubo-run` beside one that we made, `.ubo-run` inside one that we found) says whose. The marker is
//!   written first and removed last, holds UID, pid, start time, container and name of its run, and is not part of the backup.
//!   All is gone before the trailer is written. Of a run in another container, on a volume that both mount, only the marker
//!   can be seen: its owner touches it with each heartbeat, and one that does not change for half a minute is a dead run's.
//!   That is a guess, so it is not relied on: who takes a directory over puts its own marker there before it removes
//!   anything, and who packs one looks before and after whether the marker is still its own.
//!
//! * [`Work::Copy`]: a `tar` of a directory or file that is there. Three kinds of tar are told apart, since they mean
//!   different things by the same exit code; what they print is read between two marks ([`tar_words`]).
//!
//! # Hooks
//! `before` runs when everything that can be known beforehand has been looked at (is there a tar? is the directory free?),
//! `after` when the work has ended, however it did: the script itself runs it, also when nobody reads any more, and when
//! the script is killed its watcher does. It is cut off by nothing but its own limit: where the connection breaks while it
//! runs, it is ended and run again from its beginning, without an output that could break it. What `before` leaves running
//! lives until `after` is through. An attempt of the same run that still lives (its connection half open) is ended, with
//! its `after`, before the next one begins.
//!
//! # Crash
//! Connection cut, operator killed: the watcher. Shell killed (memory): the watcher too, once the runtime has closed its
//! standard input. Container or node gone: in a container's own file system nothing is left, in a volume the marker is, and
//! the next run clears up. What a command detaches from its session (`setsid`, a daemon) is known by its environment, and
//! ended too; only what has also left that behind (`env -i`, `su -`) is not.

use crate::api::names::{RunName, Uid};
use crate::error::{Failure, Reason};
use crate::source::selection::whole_folders;
use crate::validate::{Copy, Dump, DumpForm, Hook, Hooks, Work};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;

/// The line on standard input that ends everything.
pub const STOP: Bytes = Bytes::from_static(b"stop\n");

mod marked;
pub mod nested;
pub mod pipes;
pub mod tar_words;
mod transcript;
mod verdict;

pub use transcript::Transcript;
pub use verdict::Verdict;

/// The script, comments included: what all need, and what some do.
const SCRIPT: &str = include_str!("wrapper/wrapper.sh");
const HOOKS: &str = include_str!("wrapper/hooks.sh");
const STDOUT: &str = include_str!("wrapper/stdout.sh");
const DIRECTORY: &str = include_str!("wrapper/directory.sh");
const COPY: &str = include_str!("wrapper/copy.sh");

/// Names of folders that tar need not enter are told as far as they fit, in bytes: leaving them out is decided elsewhere.
const SKIPPED_LIMIT: usize = 600;

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
    /// What makes the backup.
    pub work: Work,
    /// What runs before and after it.
    pub hooks: Hooks,
    /// Name of the run, `UBO_RUN` for the command.
    pub run: RunName,
    /// Its UID, for the marker.
    pub run_uid: Uid,
    /// `UBO_TARGET_PATH` for the command.
    pub target_path: Option<String>,
    /// Which attempt of the run this is, from 1: only after the first there can be an earlier one.
    pub attempt: u32,
    /// Limit of the backup directory in KiB.
    pub staged_limit_kib: u64,
    /// Whether it holds where a volume is mounted there too.
    pub limits_volumes: bool,
}

impl Plan {
    /// Program and arguments of the exec. Commands are arguments of their own, never part of the script's text.
    ///
    /// # Errors
    /// [`Reason::PipelineNotChecked`] for a pipe or several commands inside text that is given to another shell, which nobody
    /// can check from outside; [`Reason::InvalidSpec`] for a byte 0, which no argument can hold.
    pub fn argv(&self) -> Result<Vec<String>, Failure> {
        let (command, allowed, or_allow) = match &self.work {
            Work::Dump(dump) => {
                (dump.command.as_str(), dump.allow_unchecked_pipes, ". Or set strategy.allowUncheckedPipes")
            }
            Work::Copy(_) => ("", false, ""),
        };
        let commands = [command].into_iter().chain(self.hooks.iter().map(|hook| hook.command.as_str()));
        let mut piped = if allowed { "allowed" } else { "plain" };
        for command in commands.filter(|_| !allowed) {
            match pipes::pipes(command) {
                pipes::Pipes::None => {}
                pipes::Pipes::Direct => piped = "piped",
                pipes::Pipes::Nested => {
                    return Err(Failure::new(
                        Reason::PipelineNotChecked,
                        format!(
                            "a command gives another shell (sh -c, su -c, …) a text with a pipe, in which a failing first part \
                             would go unseen: leave out the pipe (a backup is compressed anyway), or begin that text with \
                             `set -o pipefail;`{or_allow}"
                        ),
                    ));
                }
            }
        }
        // Not those after the backup: they go on whatever fails.
        let strict = [command].into_iter().chain(self.hooks.before.iter().map(|hook| hook.command.as_str()));
        if !allowed && strict.into_iter().any(nested::gives_several) {
            return Err(Failure::new(
                Reason::PipelineNotChecked,
                format!(
                    "a command gives another shell (sh -c, su -c, …) a text of several commands, of which all but the last \
                     could fail unseen: begin that text with `set -e;`, or join them by `&&`{or_allow}"
                ),
            ));
        }
        let (part, place, seconds) = match &self.work {
            Work::Dump(Dump { form: DumpForm::Stdout, .. }) => (STDOUT, "", HEARTBEAT_SECONDS),
            Work::Dump(Dump { form: DumpForm::Directory(directory), .. }) => {
                (DIRECTORY, directory.trim_end_matches('/'), STAGED_SECONDS)
            }
            Work::Copy(copy) => (COPY, copy.path.as_str(), HEARTBEAT_SECONDS),
        };
        let hook = |hook: Option<&Hook>| {
            hook.map_or_else(Default::default, |hook| (hook.command.clone(), hook.limit.as_secs().to_string()))
        };
        let (before, before_limit) = hook(self.hooks.before.as_ref());
        let (after, after_limit) = hook(self.hooks.after.as_ref());
        let script = script(&self.run_uid, self.hooks != Hooks::default(), part);
        let arguments = [
            "sh",
            "-c",
            &script,
            "ubo",
            self.nonce.as_str(),
            command,
            place,
            self.run_uid.as_str(),
            piped,
            &format!("{}{}", self.staged_limit_kib, if self.limits_volumes { "v" } else { "" }),
            &seconds.to_string(),
            self.run.as_str(),
            self.target_path.as_deref().unwrap_or_default(),
            &before,
            &before_limit,
            &after,
            &after_limit,
            &self.skipped(),
            if self.attempt > 1 { "again" } else { "" },
        ];
        if arguments.iter().any(|text| text.contains('\0')) {
            return Err(Failure::new(Reason::InvalidSpec, "commands and paths must not hold a byte 0"));
        }
        Ok(arguments.map(str::to_owned).into())
    }

    /// Folders that the tar of a copy need not enter, one a line.
    fn skipped(&self) -> String {
        let Work::Copy(Copy { exclude, .. }) = &self.work else { return String::new() };
        let mut room = SKIPPED_LIMIT;
        let fits = |name: &&str| {
            room = room.saturating_sub(name.len() + 1);
            room > 0
        };
        whole_folders(exclude).into_iter().take_while(fits).collect::<Vec<_>>().join("\n")
    }
}

/// The script as it is sent: comments and indentation cost room in a URL. Its first line says which run it is of, in every
/// process that is forked from the shell: so the next attempt finds one that was left.
fn script(run: &Uid, hooks: bool, part: &str) -> String {
    let parts = [SCRIPT, if hooks { HOOKS } else { "" }, part];
    let lines = parts.into_iter().flat_map(str::lines).map(str::trim);
    let kept: Vec<_> = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    format!("# {}\n{}", run.as_str(), kept.join("\n"))
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
    use crate::validate::COMMANDS_LIMIT;

    fn plan(form: DumpForm, command: &str) -> Plan {
        Plan {
            nonce: Nonce::new(5),
            work: Work::Dump(Dump { command: command.to_owned(), form, allow_unchecked_pipes: false }),
            hooks: Hooks::default(),
            run: RunName::new("pg-once").unwrap(),
            run_uid: Uid::new("6b1cbb4c-0000-4000-8000-000000000001").unwrap(),
            target_path: None,
            attempt: 1,
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
        assert_eq!(argv[6], "/backup");
        assert_eq!(plan(DumpForm::Stdout, "a\0b").argv().unwrap_err().reason, Reason::InvalidSpec);
    }

    #[test]
    fn the_longest_commands_fit_into_a_request() {
        let hook = |length| Some(Hook { command: "x".repeat(length), limit: std::time::Duration::from_hours(24) });
        let path = format!("/{}", "/é".repeat(341));
        let copy = Copy {
            path: path.clone(),
            include: Vec::new(),
            exclude: vec![format!("/{}", "é/".repeat(99)); 9],
            fail_on_change: true,
            allow_live_database: true,
        };
        let mut plan = plan(DumpForm::Directory(path.clone()), &"x".repeat(COMMANDS_LIMIT - 2000));
        plan.target_path = Some(path);
        plan.run = RunName::new("r".repeat(63)).unwrap();
        plan.hooks = Hooks { before: hook(1000), after: hook(1000) };
        let dump = plan.argv().unwrap();
        plan.work = Work::Copy(copy);
        plan.hooks = Hooks { before: hook(COMMANDS_LIMIT / 2), after: hook(COMMANDS_LIMIT / 2) };
        for argv in [dump, plan.argv().unwrap()] {
            // As `application/x-www-form-urlencoded` has it, with `&command=` before each.
            let in_url = |b: u8| if b.is_ascii_alphanumeric() || b" *-._".contains(&b) { 1 } else { 3 };
            let length: usize = argv.iter().map(|text| 9 + text.bytes().map(in_url).sum::<usize>()).sum();
            // 65,534 bytes are the limit; names of namespace, pod and container need up to 600 of them.
            assert!(length < 64_000, "{length}");
        }
    }
}
