//! Directories that two runs have, in two containers that mount the same volume.

use crate::container::{Container, OTHER_UID, Shell, eventually, in_each, session};
use crate::copy::{sham_tar, with_each_tar};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use ubo::error::Reason;
use ubo::source::wrapper::Verdict;

/// The container that this process is in, as markers name it.
pub(crate) fn here() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let first = fs::read_to_string("/proc/1/stat").unwrap();
    let since = first.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    format!("{}:{since}", host.trim())
}

/// Of a run in another container. Its process id is one that lives here.
fn elsewhere() -> String {
    format!("{OTHER_UID} {} 17 pg-1:5 web-once\n", std::process::id())
}

#[test]
fn a_marker_says_which_container_it_is_from() {
    in_each(|c| {
        let out = c.directory("cat /backup.ubo-run; echo x > /backup/x");
        let end = format!(" {} {}", here(), Container::plan(c.backup(), "").run);
        assert!(out.log.trim().ends_with(&end), "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn who_lives_in_another_container_keeps_its_directory() {
    in_each(|c| {
        for inside in [true, false] {
            let marker = c.path(if inside { "backup/.ubo-run" } else { "backup.ubo-run" });
            fs::create_dir(c.path("backup")).unwrap();
            fs::write(c.path("backup/half.sql"), "x").unwrap();
            fs::write(&marker, elsewhere()).unwrap();
            let done = AtomicBool::new(false);
            let out = std::thread::scope(|scope| {
                scope.spawn(|| {
                    // By a clock that has nothing to do with this machine's.
                    let mut clock = SystemTime::UNIX_EPOCH;
                    while !done.load(Ordering::Relaxed) {
                        clock += Duration::from_secs(1);
                        if let Ok(file) = fs::File::options().write(true).open(&marker) {
                            file.set_modified(clock).unwrap();
                        }
                        std::thread::park_timeout(Duration::from_millis(50));
                    }
                });
                let out = c.directory("rm -rf /backup/*; echo x > /backup/x");
                done.store(true, Ordering::Relaxed);
                out
            });
            let seen = (out.verdict, out.reason);
            assert_eq!(seen, (Some(Verdict::Taken), Some(Reason::BackupDirectoryBusy)), "{:?}: {out:?}", c.shell);
            assert_eq!(out.lies, ["web-once"], "{:?}: whom it waits for", c.shell);
            assert_eq!(fs::read_to_string(marker).unwrap(), elsewhere(), "{:?}", c.shell);
            assert!(c.path("backup/half.sql").exists() && !c.path("backup/x").exists(), "{:?}", c.shell);
            fs::remove_dir_all(c.path("backup")).unwrap();
            let _ = fs::remove_file(c.path("backup.ubo-run"));
        }
    });
}

#[test]
fn of_runs_that_come_at_once_each_has_the_directory_alone_or_is_told() {
    in_each(|c| {
        for there in [false, true] {
            if there {
                fs::create_dir(c.path("backup")).unwrap();
            }
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let runs = (0..6).map(|n| scope.spawn(move || c.directory(&format!("echo x > /backup/of-{n}"))));
                runs.collect::<Vec<_>>().into_iter().map(|run| run.join().unwrap()).collect()
            });
            let mut good = 0;
            for (n, out) in outcomes.iter().enumerate() {
                match out.verdict {
                    Some(Verdict::Tar(0)) => {
                        assert_eq!(out.names(), [format!("./of-{n}")], "{:?}: another's files: {out:?}", c.shell);
                        good += 1;
                    }
                    verdict => assert_eq!(verdict, Some(Verdict::Taken), "{:?}: {out:?}", c.shell),
                }
            }
            assert!(good > 0, "{:?}: all of them gave way: {outcomes:?}", c.shell);
            assert_eq!((c.path("backup").exists(), c.path("backup.ubo-run").exists()), (there, false), "{:?}", c.shell);
            assert!(!c.path("backup/.ubo-run").exists(), "{:?}", c.shell);
        }
        fs::remove_dir(c.path("backup")).unwrap();
    });
}

#[test]
fn who_died_in_another_container_is_cleared_away() {
    in_each(|c| {
        // Half a minute of naps; busybox has its own.
        let real = fs::read_link(c.path("bin/sleep")).unwrap();
        if c.shell != Shell::Busybox {
            c.script("sleep", &format!("case $1 in 0.2) exit 0 ;; esac; exec {} \"$@\"", real.display()));
        }
        for (marker, with_stat) in [("backup/.ubo-run", true), ("backup.ubo-run", true), ("backup.ubo-run", false)] {
            if c.shell == Shell::Busybox && marker == "backup.ubo-run" {
                return; // the real half minute once is enough
            }
            if !with_stat {
                c.remove("stat");
            }
            fs::create_dir_all(c.path("backup")).unwrap();
            fs::write(c.path("backup/half.sql"), "x").unwrap();
            fs::write(c.path(marker), elsewhere()).unwrap();
            let out = c.directory("echo x > /backup/whole.sql");
            assert_eq!(out.names(), ["./whole.sql"], "{:?}: {marker}: {out:?}", c.shell);
            assert!(out.warnings[0].contains(OTHER_UID), "{:?}", out.warnings);
            assert!(!c.path(marker).exists());
        }
    });
}

#[test]
fn while_a_run_lives_its_marker_is_touched() {
    in_each(|c| {
        let marker = c.path("backup.ubo-run");
        let command = format!("touch {}/begun; sleep 1000", c.path("backup").display());
        let mut child = c.start(&Container::plan(c.backup(), &command));
        eventually("the command has begun", || c.path("backup/begun").exists());
        let old = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        fs::File::options().write(true).open(&marker).unwrap().set_modified(old).unwrap();
        eventually("it is touched", || fs::metadata(&marker).unwrap().modified().unwrap() != old);
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        assert!(!child.wait().unwrap().success());
        eventually("nothing of the session is left", || session(child.id()).is_empty());
        assert!(!marker.exists() && !c.path("backup").exists(), "{:?}", c.shell);
    });
}

#[test]
fn a_directory_that_was_taken_over_is_no_backup_and_is_not_touched() {
    in_each(|c| {
        for inside in [true, false] {
            let name = if inside { "/backup/.ubo-run" } else { "/backup.ubo-run" };
            let marker = c.path(name.trim_start_matches('/'));
            if inside {
                fs::create_dir(c.path("backup")).unwrap();
            }
            let taken = format!("echo x > /backup/x; echo '{}' > {name}", elsewhere().trim());
            for (command, code) in [(taken.clone(), None), (format!("{taken}; exit 3"), Some(3))] {
                let out = c.directory(&command);
                let verdict = code.map_or(Verdict::Shared, Verdict::Command);
                assert_eq!((out.verdict, out.data.len()), (Some(verdict), 0), "{:?}: {out:?}", c.shell);
                assert_eq!(fs::read_to_string(&marker).unwrap(), elsewhere(), "{:?}", c.shell);
                assert!(c.path("backup/x").exists(), "{:?}", c.shell);
                fs::remove_file(&marker).unwrap();
                fs::remove_file(c.path("backup/x")).unwrap();
                if !inside {
                    fs::remove_dir(c.path("backup")).unwrap();
                }
            }
            // Whoever took it over is through already: nothing is known of what lies there, and nobody else clears it away.
            let out = c.directory(&format!("echo x > /backup/x; rm {name}"));
            assert_eq!((out.verdict, out.data.len()), (Some(Verdict::Shared), 0), "{:?}: {out:?}", c.shell);
            assert_eq!(c.path("backup").exists(), inside);
            assert!(!marker.exists() && !c.path("backup/x").exists(), "{:?}", c.shell);
            let _ = fs::remove_dir(c.path("backup"));
        }
    });
}

#[test]
fn a_directory_that_is_taken_over_while_it_is_packed_is_no_backup() {
    in_each(|c| {
        if c.shell == Shell::Busybox {
            return; // has its tar built in
        }
        let marker = c.path("backup.ubo-run");
        let script = fs::read_link(c.path("bin/tar")).unwrap();
        for done in [format!("rm {}", marker.display()), format!("echo {} > {}", elsewhere().trim(), marker.display())]
        {
            c.replace("tar", script.file_name().unwrap().to_str().unwrap());
            sham_tar(c, "", &done);
            let out = c.directory("echo x > /backup/x");
            assert_eq!(out.verdict, Some(Verdict::Shared), "{:?}: {done}: {out:?}", c.shell);
            assert_eq!(c.path("backup/x").exists(), done.starts_with("echo"), "{:?}: {done}", c.shell);
        }
    });
}

#[test]
fn only_the_marker_and_lost_found_at_the_top_are_left_out() {
    with_each_tar(|c| {
        fs::create_dir_all(c.path("backup/lost+found/x")).unwrap();
        let out = c.directory(
            "mkdir -p /backup/sub/lost+found; echo x > /backup/sub/lost+found/x; echo x > /backup/sub/.ubo-run",
        );
        let names = ["./sub/", "./sub/.ubo-run", "./sub/lost+found/", "./sub/lost+found/x"];
        assert_eq!(out.names(), names, "{:?}: {out:?}", c.shell);
    });
}
