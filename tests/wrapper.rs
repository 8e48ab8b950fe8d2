//! The shell wrapper of a dump, run for real under dash, bash and busybox, as a container's runtime runs it: leader of a
//! session of its own, three pipes, and a reader that answers when it has seen the end marker.
#![cfg(target_os = "linux")]

use bytes::Bytes;
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use ubo::api::names::{RunName, Uid};
use ubo::error::Reason;
use ubo::source::wrapper::{Nonce, Plan, STAGED_LIMIT_KIB, Transcript, Verdict};
use ubo::validate::{Dump, DumpForm};

const UID: &str = "6b1cbb4c-0000-4000-8000-000000000001";
const OTHER_UID: &str = "6b1cbb4c-0000-4000-8000-000000000002";

/// What `sh` is in a container, and whether there is a bash beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    Dash,
    DashBesideBash,
    Bash,
    Busybox,
}

const SHELLS: [Shell; 4] = [Shell::Dash, Shell::DashBesideBash, Shell::Bash, Shell::Busybox];

/// A folder with the programs of one kind of container, and a place to work in.
struct Container {
    shell: Shell,
    root: TempDir,
}

const TOOLS: &[&str] = &[
    "cat", "chmod", "dd", "df", "du", "env", "false", "head", "ls", "mkdir", "mkfifo", "mv", "rm", "rmdir", "seq",
    "sleep", "tar", "touch", "tr", "true", "wc", "yes",
];

fn program(name: &str) -> PathBuf {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed, and this test needs it"))
}

impl Container {
    fn new(shell: Shell) -> Self {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let link = |name: &str, to: &Path| symlink(to, bin.join(name)).unwrap();
        if shell == Shell::Busybox {
            let busybox = program("busybox");
            for name in TOOLS.iter().copied().chain(["sh"]) {
                link(name, &busybox);
            }
        } else {
            for name in TOOLS {
                link(name, &program(name));
            }
            link("sh", &program(if shell == Shell::Bash { "bash" } else { "dash" }));
            if shell != Shell::Dash {
                link("bash", &program("bash"));
            }
        }
        Self { shell, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn backup(&self) -> DumpForm {
        DumpForm::Directory(self.path("backup").to_str().unwrap().to_owned())
    }

    fn remove(&self, tool: &str) {
        fs::remove_file(self.path("bin").join(tool)).unwrap();
    }

    /// From now on `df` says this, in KiB.
    fn disk(&self, size: u64, free: u64, mounted_on: &str) {
        fs::write(self.path("df.txt"), disk(size, free, mounted_on)).unwrap();
        let df = self.path("bin/df");
        let _ = fs::remove_file(&df);
        let script = format!("#!{}\ncat {}\n", program("dash").display(), self.path("df.txt").display());
        fs::write(self.path("df"), script).unwrap();
        Command::new("chmod").arg("755").arg(self.path("df")).status().unwrap();
        fs::rename(self.path("df"), df).unwrap();
    }

    fn plan(form: DumpForm, command: &str) -> Plan {
        Plan {
            nonce: Nonce::new(0x1234_5678_9abc_def0_1234_5678_9abc_def0),
            dump: Dump { command: command.to_owned(), form, allow_unchecked_pipes: false },
            run: RunName::new("pg-20261124-0200").unwrap(),
            run_uid: Uid::new(UID).unwrap(),
            target_path: Some("/var/lib/data".to_owned()),
            staged_limit_kib: STAGED_LIMIT_KIB,
        }
    }

    fn start(&self, plan: &Plan) -> Child {
        let mut command = Command::new(program("setsid"));
        command.args(plan.argv().unwrap());
        self.spawn(&mut command)
    }

    fn spawn(&self, command: &mut Command) -> Child {
        command
            .env_clear()
            .env("PATH", self.path("bin"))
            .current_dir(self.root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn stdout(&self, command: &str) -> Outcome {
        self.run(&Self::plan(DumpForm::Stdout, command))
    }

    fn directory(&self, command: &str) -> Outcome {
        let command = command.replace("/backup", self.path("backup").to_str().unwrap());
        self.run(&Self::plan(self.backup(), &command))
    }

    /// Runs to the end, as the operator does.
    fn run(&self, plan: &Plan) -> Outcome {
        let mut child = self.start(plan);
        let pid = child.id();
        let mut control = child.stdin.take();
        let mut transcript = Transcript::new(&plan.nonce);
        let (events, inbox) = mpsc::channel();
        read_on(child.stdout.take().unwrap(), events.clone(), true);
        read_on(child.stderr.take().unwrap(), events, false);
        let mut onward = VecDeque::new();
        while let Ok((is_stdout, chunk)) = inbox.recv_timeout(Duration::from_mins(1)) {
            if is_stdout {
                transcript.stdout(chunk, &mut onward).unwrap_or_else(|e| panic!("{:?}: {e}", self.shell));
                if transcript.verdict().is_some()
                    && let Some(mut control) = control.take()
                {
                    control.write_all(b"\n").unwrap();
                }
            } else {
                transcript.stderr(chunk);
            }
        }
        let status = child.wait().unwrap();
        // What a shell of the command's own has not waited for is left to the machine's first process.
        eventually("nothing of the session is left", || session(pid).is_empty());
        let verdict = transcript.verdict();
        let lies = transcript.lies().to_vec();
        let warnings = transcript.warnings();
        let reason = verdict.and_then(|verdict| plan.failure(verdict, &lies)).map(|failure| failure.reason);
        let log = String::from_utf8_lossy(&transcript.into_log()).into_owned();
        let data: Vec<u8> = onward.into_iter().flatten().collect();
        if let Some(verdict) = verdict {
            assert_eq!(status.code(), Some(verdict.exit_code()), "{:?}: {log}", self.shell);
        }
        Outcome { data, verdict, reason, lies, warnings, log, status }
    }
}

fn disk(size: u64, free: u64, mounted_on: &str) -> String {
    let used = size - free;
    format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x {size} {used} {free} 50% {mounted_on}\n")
}

struct Outcome {
    data: Vec<u8>,
    verdict: Option<Verdict>,
    reason: Option<Reason>,
    lies: Vec<String>,
    warnings: Vec<String>,
    log: String,
    status: ExitStatus,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { data, verdict, reason, lies, warnings, log, status } = self;
        write!(f, "{} bytes, {verdict:?}, {reason:?}, {lies:?}, {warnings:?}, {log:?}, {status:?}", data.len())
    }
}

impl Outcome {
    fn names(&self) -> Vec<String> {
        let mut archive = tar::Archive::new(self.data.as_slice());
        let name = |entry: tar::Entry<'_, &[u8]>| entry.path_bytes().into_owned();
        let names = archive.entries().unwrap().map(|entry| String::from_utf8(name(entry.unwrap())).unwrap());
        // The folder itself is packed too, where tar can leave out our marker.
        let mut names: Vec<String> = names.filter(|name| name != "./").collect();
        names.sort();
        names
    }
}

fn read_on(mut from: impl Read + Send + 'static, to: mpsc::Sender<(bool, Bytes)>, is_stdout: bool) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(size) = from.read(&mut buffer) {
            if size == 0 || to.send((is_stdout, Bytes::copy_from_slice(&buffer[..size]))).is_err() {
                break;
            }
        }
    });
}

/// Command lines of the processes whose session is `leader`, zombies included.
fn session(leader: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, fields)) = stat.rsplit_once(") ") else { continue };
        if fields.split(' ').nth(3) == Some(&leader.to_string()) {
            found.push(format!("{name}) {}", fields.split(' ').next().unwrap_or_default()));
        }
    }
    found
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("not within 15 s: {what}");
}

fn in_each(test: impl Fn(&Container) + Sync) {
    std::thread::scope(|scope| {
        for shell in SHELLS {
            let test = &test;
            scope.spawn(move || test(&Container::new(shell)));
        }
    });
}

#[test]
fn standard_output_is_the_backup() {
    in_each(|c| {
        let out = c.stdout("printf 'a\\000b\\nno end of line'; echo to the log >&2");
        assert_eq!(out.data, b"a\0b\nno end of line", "{:?}", c.shell);
        assert_eq!(out.verdict, Some(Verdict::Command(0)));
        assert_eq!(out.log, "to the log\n");
        assert!(out.warnings.is_empty());
        assert_eq!(c.stdout("true").data, b"");
    });
}

#[test]
fn megabytes_in_small_pieces_arrive_whole() {
    in_each(|c| {
        let out = c.stdout("seq 1 700000; dd if=/dev/zero bs=4000 count=2000 2>/dev/null");
        let mut expected: Vec<u8> = (1..=700_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        expected.resize(expected.len() + 8_000_000, 0);
        assert!(out.data == expected, "{:?}: {} of {} bytes", c.shell, out.data.len(), expected.len());
        assert_eq!(out.verdict, Some(Verdict::Command(0)));
    });
}

#[test]
fn exit_codes_survive_whatever_the_command_does() {
    in_each(|c| {
        for (command, code) in [
            ("echo half; exit 3", 3),
            ("echo all; exit 0", 0),
            ("exec sh -c 'echo x; exit 5'", 5),
            ("exec cat", 0),
            ("cat; read -r line; echo \"$?\"", 0),
            ("no-such-program", 127),
            ("sh -c 'kill -9 $$'", 137),
            ("if then", 2),
            ("trap 'exit 9' EXIT; echo x", 9),
            ("set -e; false; echo not reached", 1),
            ("echo 'it'\\''s'\necho \"two\tlines\"", 0),
            ("cd /; set -- 1 2; umask 077; true", 0),
            ("echo \u{1}\u{7f}\u{e9}\u{2028} '$(no)' '`no`'", 0),
            ("test $# = 0 && test -z \"$1\"", 0),
        ] {
            let out = c.stdout(command);
            let Some(Verdict::Command(seen)) = out.verdict else { panic!("{:?}: {command}: {out:?}", c.shell) };
            // A syntax error is 1 in some shells and 2 in others.
            let same = seen == code || (command == "if then" && seen != 0);
            assert!(same, "{:?}: {command}: {seen}", c.shell);
            assert_eq!(out.reason, (code != 0).then_some(Reason::CommandFailed));
        }
    });
}

#[test]
fn a_failing_first_part_of_a_pipe_is_never_a_success() {
    in_each(|c| {
        for command in ["false | cat", "sh -c 'exit 4' | cat | cat", "echo x; false |\ncat", "{ false; } | cat"] {
            let out = c.stdout(command);
            let expected = if c.shell == Shell::Dash { Reason::PipelineNotChecked } else { Reason::CommandFailed };
            assert_eq!(out.reason, Some(expected), "{:?}: {command}: {out:?}", c.shell);
        }
        let good = c.stdout("test $# = 0 && echo x | tr x y");
        let expected = if c.shell == Shell::Dash { Some(Reason::PipelineNotChecked) } else { None };
        assert_eq!(good.reason, expected, "{:?}: {good:?}", c.shell);
        // What is beyond our sight is refused before anything runs, in any shell.
        let nested = Container::plan(DumpForm::Stdout, "sh -c 'false | cat'").argv().unwrap_err();
        assert_eq!(nested.reason, Reason::PipelineNotChecked);
        let mut allowed = Container::plan(DumpForm::Stdout, "sh -c 'false | cat'");
        allowed.dump.allow_unchecked_pipes = true;
        assert_eq!(c.run(&allowed).verdict, Some(Verdict::Command(0)));
    });
}

#[test]
fn the_environment_says_what_is_backed_up() {
    in_each(|c| {
        let out = c.stdout("echo \"$UBO_RUN $UBO_TARGET_PATH ${UBO_BACKUP_DIR-none}\"; env >&2");
        assert_eq!(out.data, b"pg-20261124-0200 /var/lib/data none\n");
        assert!(!out.log.contains("ubo_"), "{}", out.log);
        let out = c.directory("echo \"$UBO_BACKUP_DIR\"; echo x > \"$UBO_BACKUP_DIR/x\"");
        assert_eq!(out.log, format!("{}\n", c.path("backup").display()));
    });
}

#[test]
fn a_directory_is_made_packed_and_removed() {
    in_each(|c| {
        let out =
            c.directory("echo said; echo content > /backup/dump.sql; mkdir /backup/sub; touch /backup/sub/.hidden");
        assert_eq!(out.verdict, Some(Verdict::Tar(0)), "{:?}: {out:?}", c.shell);
        assert_eq!(out.log, "said\n");
        assert_eq!(out.names(), ["./dump.sql", "./sub/", "./sub/.hidden"]);
        assert!(out.data.ends_with(&[0; 1024]), "end of archive");
        assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists());
    });
}

#[test]
fn a_directory_that_was_there_is_emptied_and_stays() {
    in_each(|c| {
        fs::create_dir_all(c.path("backup/lost+found")).unwrap();
        let out =
            c.directory("test -f /backup/.ubo-run; echo x > /backup/a; mkdir /backup/..b; echo y > /backup/..b/.c");
        assert_eq!(out.names(), ["./..b/", "./..b/.c", "./a"], "{:?}: {out:?}", c.shell);
        assert_eq!(fs::read_dir(c.path("backup")).unwrap().count(), 1);
        assert!(c.path("backup/lost+found").exists());
    });
}

#[test]
fn a_command_that_fails_leaves_no_archive_and_no_directory() {
    in_each(|c| {
        let out = c.directory("echo half > /backup/dump.sql; exit 3");
        assert_eq!((out.verdict, out.data.len()), (Some(Verdict::Command(3)), 0), "{:?}", c.shell);
        assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists());
        // The redirect fails, the next command does not: an archive with nothing in it, which is judged elsewhere.
        let out = c.directory("echo x > /backup/no/such/folder; echo done");
        assert_eq!(out.names(), [""; 0], "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn what_lies_in_the_directory_is_named_and_not_touched() {
    in_each(|c| {
        fs::create_dir(c.path("backup")).unwrap();
        fs::write(c.path("backup/precious file"), "x").unwrap();
        fs::write(c.path("backup/.hidden"), "x").unwrap();
        let out = c.directory("echo ran > ran; rm -rf /backup/*");
        assert_eq!(out.verdict, Some(Verdict::NotEmpty), "{:?}: {out:?}", c.shell);
        assert_eq!(out.lies, ["precious file", ".hidden"]);
        assert!(!c.path("ran").exists());
        assert_eq!(fs::read_dir(c.path("backup")).unwrap().count(), 2);
        fs::remove_dir_all(c.path("backup")).unwrap();
        fs::write(c.path("backup"), "a file").unwrap();
        assert_eq!(c.directory("true").verdict, Some(Verdict::NotEmpty));
        assert_eq!(fs::read(c.path("backup")).unwrap(), b"a file");
    });
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    in_each(|c| {
        let plan = Container::plan(DumpForm::Directory("/proc/backup".to_owned()), "true");
        let out = c.run(&plan);
        assert_eq!(out.reason, Some(Reason::BackupDirectoryUnavailable), "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn what_a_dead_run_left_is_cleared() {
    in_each(|c| {
        let dead = format!("{OTHER_UID} 4194999 17\n");
        for inside in [true, false] {
            fs::create_dir(c.path("backup")).unwrap();
            fs::write(c.path("backup/half.sql"), "x").unwrap();
            fs::write(c.path(if inside { "backup/.ubo-run" } else { "backup.ubo-run" }), &dead).unwrap();
            let out = c.directory("echo x > /backup/whole.sql");
            assert_eq!(out.names(), ["./whole.sql"], "{:?}: {out:?}", c.shell);
            assert!(out.warnings[0].contains(OTHER_UID), "{:?}", out.warnings);
            assert_eq!(c.path("backup").exists(), inside);
            let _ = fs::remove_dir(c.path("backup"));
        }
        // Killed between the two steps of cleaning up.
        fs::write(c.path("backup.ubo-run"), &dead).unwrap();
        assert_eq!(c.directory("echo x > /backup/x").verdict, Some(Verdict::Tar(0)));
        assert!(!c.path("backup.ubo-run").exists());
    });
}

#[test]
fn a_living_run_keeps_its_directory_unless_it_is_an_attempt_of_the_same() {
    in_each(|c| {
        let fifo = c.path("hold");
        let command = format!("touch {0}/begun; cat < {1}", c.path("backup").display(), fifo.display());
        Command::new("mkfifo").arg(&fifo).status().unwrap();
        let plan = Container::plan(c.backup(), &command);
        let mut first = c.start(&plan);
        eventually("the first run has begun", || c.path("backup/begun").exists());

        let mut other = plan.clone();
        other.run_uid = Uid::new(OTHER_UID).unwrap();
        let out = c.run(&other);
        assert_eq!(out.reason, Some(Reason::SourceUnavailable), "{:?}: {out:?}", c.shell);
        assert!(c.path("backup/begun").exists());

        // The same run, whose first attempt nobody listens to any more: it is ended, and the second one works.
        let mut again = plan.clone();
        again.dump.command = format!("echo x > {}/x", c.path("backup").display());
        let out = c.run(&again);
        assert_eq!(out.names(), ["./x"], "{:?}: {out:?}", c.shell);
        assert_eq!(first.wait().unwrap().code(), Some(143));
        assert_eq!(session(first.id()), [] as [String; 0]);
    });
}

#[test]
fn tar_is_asked_for_before_the_command_runs() {
    in_each(|c| {
        if c.shell == Shell::Busybox {
            return; // has it built in
        }
        c.remove("tar");
        let out = c.directory("echo ran > ran");
        assert_eq!(out.reason, Some(Reason::TarMissing), "{:?}: {out:?}", c.shell);
        assert!(!c.path("ran").exists() && !c.path("backup").exists());
        assert_eq!(c.stdout("echo x").data, b"x\n");
    });
}

#[test]
fn files_that_cannot_be_read_are_told_by_the_exit_code_of_tar() {
    in_each(|c| {
        let name = c.path("bin/tar");
        let real = fs::read_link(&name).unwrap();
        fs::remove_file(&name).unwrap();
        // A real tar, whose exit code is that of one that met an unreadable file (root reads everything).
        let script = format!("#!{}\n{} \"$@\"\nexit 2\n", program("dash").display(), real.display());
        let sham = c.path("bin/real-tar");
        fs::write(&sham, script).unwrap();
        Command::new("chmod").arg("755").arg(&sham).status().unwrap();
        let move_in = format!("mv {} {}; echo x > /backup/x", sham.display(), name.display());
        symlink(&real, &name).unwrap();
        let out = c.directory(&move_in);
        if c.shell != Shell::Busybox {
            assert_eq!((out.verdict, out.reason), (Some(Verdict::Tar(2)), None), "{:?}: {out:?}", c.shell);
        }
    });
}

#[test]
fn a_directory_that_outgrows_its_limit_is_ended() {
    in_each(|c| {
        if c.shell == Shell::Busybox {
            return; // asks its own `df`
        }
        let backup = c.path("backup").display().to_string();
        let command = format!("dd if=/dev/zero of={backup}/big bs=1024 count=3000 2>/dev/null; sleep 1000");
        let mut plan = Container::plan(c.backup(), &command);
        plan.staged_limit_kib = 2000;
        c.disk(1000, 500, "/");
        let out = c.run(&plan);
        assert_eq!(out.verdict, Some(Verdict::Full), "{:?}: {out:?}", c.shell);
        assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists());

        // Where a volume is mounted its own size is the limit.
        plan.dump.command = format!("dd if=/dev/zero of={backup}/big bs=1024 count=3000 2>/dev/null; sleep 5");
        c.disk(1000, 500, "/backup");
        assert_eq!(c.run(&plan).verdict, Some(Verdict::Tar(0)), "{:?}", c.shell);

        // Nearly full: before the command runs, and while it does.
        c.disk(1000, 99, "/backup");
        plan.dump.command = format!("touch {}/ran", c.root.path().display());
        let out = c.run(&plan);
        assert_eq!(out.reason, Some(Reason::StagingFull), "{:?}: {out:?}", c.shell);
        assert!(!c.path("ran").exists());
        c.disk(1000, 500, "/backup");
        fs::write(c.path("next"), disk(1000, 50, "/backup")).unwrap();
        plan.dump.command = format!("mv {} {}; sleep 1000", c.path("next").display(), c.path("df.txt").display());
        let out = c.run(&plan);
        assert_eq!(out.verdict, Some(Verdict::DiskFull), "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn when_the_reader_goes_everything_goes() {
    in_each(|c| {
        let backup = c.path("backup").display().to_string();
        let stubborn = "(trap '' TERM; while :; do sleep 1; done)";
        for (form, command) in [
            (c.backup(), format!("touch {backup}/begun; sleep 1000; touch {0}/not-reached", c.root.path().display())),
            (c.backup(), format!("sleep 1000 & touch {backup}/begun; {stubborn}")),
            (DumpForm::Stdout, format!("touch {}/begun; yes", c.root.path().display())),
        ] {
            let begun = if form == DumpForm::Stdout { c.path("begun") } else { c.path("backup/begun") };
            let mut child = c.start(&Container::plan(form, &command));
            eventually("the command has begun", || begun.exists());
            drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
            let status = child.wait().unwrap();
            assert!(!status.success(), "{:?}: {command}: {status}", c.shell);
            eventually("nothing of the session is left", || session(child.id()).is_empty());
            assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists(), "{:?}: {command}", c.shell);
            assert!(!c.path("not-reached").exists(), "{:?}: {command}", c.shell);
        }
    });
}

#[test]
fn a_process_group_of_its_own_is_enough() {
    in_each(|c| {
        let argv = Container::plan(c.backup(), &format!("touch {}/begun; sleep 1000", c.path("backup").display()))
            .argv()
            .unwrap();
        let mut command = Command::new(c.path("bin").join(&argv[0]));
        let mut child = c.spawn(command.args(&argv[1..]).process_group(0));
        eventually("the command has begun", || c.path("backup/begun").exists());
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        assert!(!child.wait().unwrap().success(), "{:?}", c.shell);
        assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists(), "{:?}", c.shell);
    });
}

#[test]
fn when_the_shell_itself_is_killed_the_watcher_does_its_work() {
    in_each(|c| {
        let command = format!("touch {}/begun; sleep 1000", c.path("backup").display());
        let mut child = c.start(&Container::plan(c.backup(), &command));
        eventually("the command has begun", || c.path("backup/begun").exists());
        child.kill().unwrap();
        child.wait().unwrap();
        // The runtime closes the pipes of a process that has ended.
        drop(child.stdin.take());
        eventually("nothing of the session is left", || session(child.id()).is_empty());
        assert!(!c.path("backup").exists() && !c.path("backup.ubo-run").exists(), "{:?}", c.shell);
    });
}

#[test]
fn a_process_left_in_the_background_is_waited_for_or_spoils_the_stream() {
    in_each(|c| {
        let out = c.stdout("{ sleep 1; echo late; } & echo early");
        assert_eq!(out.data, b"early\nlate\n", "{:?}: {out:?}", c.shell);
        assert_eq!(out.verdict, Some(Verdict::Command(0)));
    });
}

#[test]
fn without_the_tools_for_large_pieces_it_still_works() {
    in_each(|c| {
        c.remove("dd");
        assert_eq!(c.stdout("echo x; exit 3").verdict, Some(Verdict::Command(3)));
        c.remove("cat");
        let out = c.stdout("echo x; exit 3");
        assert_eq!(
            (out.data.as_slice(), out.verdict, out.status.code()),
            (&b"x\n"[..], Some(Verdict::Command(3)), Some(3))
        );
    });
}

#[test]
fn a_trailer_in_the_data_is_data() {
    in_each(|c| {
        // The nonce is in the shell's arguments, but nowhere near the command's.
        let out = c.stdout("printf '\\n%032d command 0\\n' 0; exit 6");
        assert_eq!(out.verdict, Some(Verdict::Command(6)), "{:?}: {out:?}", c.shell);
    });
}
