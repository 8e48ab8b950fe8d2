//! What a container's runtime does for the wrapper, done on this machine.

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use ubo::api::names::{RunName, Uid};
use ubo::error::Reason;
use ubo::source::wrapper::tar_words::Told;
use ubo::source::wrapper::{Nonce, Plan, STAGED_LIMIT_KIB, Transcript, Verdict};
use ubo::validate::{Dump, DumpForm, Hooks, Work};

pub(crate) const OTHER_UID: &str = "6b1cbb4c-0000-4000-8000-000000000002";

/// What `sh` is in a container, and whether there is a bash beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    Dash,
    DashBesideBash,
    Bash,
    Busybox,
}

pub(crate) const SHELLS: [Shell; 4] = [Shell::Dash, Shell::DashBesideBash, Shell::Bash, Shell::Busybox];

/// A folder with the programs of one kind of container, and a place to work in.
pub(crate) struct Container {
    pub(crate) shell: Shell,
    pub(crate) root: TempDir,
    /// Variables of the container, beside PATH.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

pub(crate) const TOOLS: &[&str] = &[
    "cat", "chmod", "dd", "df", "du", "env", "false", "find", "head", "ls", "md5sum", "mkdir", "mkfifo", "mv", "rm",
    "rmdir", "seq", "setsid", "sleep", "stat", "tar", "touch", "tr", "true", "wc", "yes",
];

/// Of a run that nobody else has: all that run here see each other's processes.
pub(crate) fn fresh_uid() -> Uid {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id() & 0xff_ffff, COUNT.fetch_add(1, Ordering::Relaxed) & 0xff_ffff);
    Uid::new(format!("6b1cbb4c-0000-4000-8000-{process:06x}{count:06x}")).unwrap()
}

pub(crate) fn program(name: &str) -> PathBuf {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed, and this test needs it"))
}

impl Container {
    pub(crate) fn new(shell: Shell) -> Self {
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
        Self { shell, root, environment: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn backup(&self) -> DumpForm {
        DumpForm::Directory(self.path("backup").to_str().unwrap().to_owned())
    }

    /// From now on `tool` is the program of this name.
    pub(crate) fn replace(&self, tool: &str, with: &str) {
        self.remove(tool);
        symlink(program(with), self.path("bin").join(tool)).unwrap();
    }

    pub(crate) fn remove(&self, tool: &str) {
        fs::remove_file(self.path("bin").join(tool)).unwrap();
    }

    /// From now on `tool` is this script.
    pub(crate) fn script(&self, tool: &str, text: &str) {
        let (name, fresh) = (self.path("bin").join(tool), self.path("bin/.fresh"));
        fs::write(&fresh, format!("#!{}\n{text}\n", program("dash").display())).unwrap();
        Command::new("chmod").arg("755").arg(&fresh).status().unwrap();
        fs::rename(fresh, name).unwrap();
    }

    /// From now on `df` says this, in KiB.
    pub(crate) fn disk(&self, size: u64, free: u64, mounted_on: &str) {
        fs::write(self.path("df.txt"), disk(size, free, mounted_on)).unwrap();
        let df = self.path("bin/df");
        let _ = fs::remove_file(&df);
        let script = format!("#!{}\ncat {}\n", program("dash").display(), self.path("df.txt").display());
        fs::write(self.path("df"), script).unwrap();
        Command::new("chmod").arg("755").arg(self.path("df")).status().unwrap();
        fs::rename(self.path("df"), df).unwrap();
    }

    pub(crate) fn plan(form: DumpForm, command: &str) -> Plan {
        Plan {
            nonce: Nonce::new(0x1234_5678_9abc_def0_1234_5678_9abc_def0),
            work: Work::Dump(Dump { command: command.to_owned(), form, allow_unchecked_pipes: false }),
            hooks: Hooks::default(),
            run: RunName::new("pg-20261124-0200").unwrap(),
            run_uid: fresh_uid(),
            target_path: Some("/var/lib/data".to_owned()),
            attempt: 1,
            staged_limit_kib: STAGED_LIMIT_KIB,
            limits_volumes: false,
        }
    }

    /// The same plan with another command.
    pub(crate) fn with_command(plan: &Plan, command: &str) -> Plan {
        let mut plan = plan.clone();
        if let Work::Dump(dump) = &mut plan.work {
            command.clone_into(&mut dump.command);
        }
        plan
    }

    pub(crate) fn start(&self, plan: &Plan) -> Child {
        let mut command = Command::new(program("setsid"));
        command.args(plan.argv().unwrap());
        self.spawn(&mut command)
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        command
            .env_clear()
            .env("PATH", self.path("bin"))
            .envs(self.environment.iter().copied())
            .current_dir(self.root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn stdout(&self, command: &str) -> Outcome {
        self.run(&Self::plan(DumpForm::Stdout, command))
    }

    pub(crate) fn directory(&self, command: &str) -> Outcome {
        let command = command.replace("/backup", self.path("backup").to_str().unwrap());
        self.run(&Self::plan(self.backup(), &command))
    }

    /// Runs to the end, as the operator does.
    pub(crate) fn run(&self, plan: &Plan) -> Outcome {
        self.read(self.start(plan), plan)
    }

    /// The same for what was started already.
    pub(crate) fn read(&self, mut child: Child, plan: &Plan) -> Outcome {
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
        let told = transcript.tar().told(match verdict {
            Some(Verdict::Tar(code)) => code,
            _ => 0,
        });
        let lies = transcript.lies().to_vec();
        let warnings = transcript.warnings();
        let reason = verdict.and_then(|verdict| plan.failure(verdict, &lies)).map(|failure| failure.reason);
        let log = String::from_utf8_lossy(&transcript.into_log()).into_owned();
        let data: Vec<u8> = onward.into_iter().flatten().collect();
        if let Some(verdict) = verdict {
            assert_eq!(status.code(), Some(verdict.exit_code()), "{:?}: {log}", self.shell);
        }
        Outcome { data, verdict, reason, lies, warnings, log, status, told }
    }
}

impl Drop for Container {
    /// A test that fails leaves its processes: without the programs of this folder they would run in circles.
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let is_ours = fs::read_link(path.join("cwd")).is_ok_and(|folder| folder.starts_with(self.root.path()));
            if let Some(id) = id.and_then(Pid::from_raw).filter(|_| is_ours) {
                let _ = kill_process(id, Signal::KILL); // it may have gone
            }
        }
    }
}

pub(crate) fn disk(size: u64, free: u64, mounted_on: &str) -> String {
    let used = size - free;
    format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x {size} {used} {free} 50% {mounted_on}\n")
}

pub(crate) struct Outcome {
    pub(crate) data: Vec<u8>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) reason: Option<Reason>,
    pub(crate) lies: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) log: String,
    pub(crate) status: ExitStatus,
    /// What tar said of the files of a copy.
    pub(crate) told: Told,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { data, verdict, reason, lies, warnings, log, status, told } = self;
        let size = data.len();
        write!(f, "{size} bytes, {verdict:?}, {reason:?}, {lies:?}, {warnings:?}, {log:?}, {status:?}, {told:?}")
    }
}

impl Outcome {
    pub(crate) fn names(&self) -> Vec<String> {
        let mut archive = tar::Archive::new(self.data.as_slice());
        let name = |entry: tar::Entry<'_, &[u8]>| entry.path_bytes().into_owned();
        let names = archive.entries().unwrap().map(|entry| String::from_utf8(name(entry.unwrap())).unwrap());
        // The folder itself is packed too, where tar can leave out our marker.
        let mut names: Vec<String> = names.filter(|name| name != "./").collect();
        names.sort();
        names
    }
}

pub(crate) fn read_on(mut from: impl Read + Send + 'static, to: mpsc::Sender<(bool, Bytes)>, is_stdout: bool) {
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
pub(crate) fn session(leader: u32) -> Vec<String> {
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

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    panic!("not within a minute: {what}");
}

pub(crate) fn in_each(test: impl Fn(&Container) + Sync) {
    std::thread::scope(|scope| {
        for shell in SHELLS {
            let test = &test;
            scope.spawn(move || test(&Container::new(shell)));
        }
    });
}
