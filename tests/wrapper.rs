//! The shell wrapper of a dump, run for real under dash, bash and busybox, as a container's runtime runs it: leader of a
//! session of its own, three pipes, and a reader that answers when it has seen the end marker.
#![cfg(target_os = "linux")]

#[path = "wrapper/container.rs"]
mod container;
#[path = "wrapper/copy.rs"]
mod copy;
#[path = "wrapper/hooks.rs"]
mod hooks;
#[path = "wrapper/shared.rs"]
mod shared;

use container::{Container, OTHER_UID, Shell, disk, eventually, fresh_uid, in_each, program, session};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;
use ubo::error::Reason;
use ubo::source::wrapper::{STOP, Verdict};
use ubo::validate::{DumpForm, Work};

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
            ("exec sh -c 'set -e; echo x; exit 5'", 5),
            ("exec cat", 0),
            ("cat; read -r line || echo \"$?\"", 0),
            ("no-such-program", 127),
            ("sh -c 'kill -9 $$'", 137),
            ("if then", 2),
            ("trap 'exit 9' EXIT; echo x", 9),
            ("false; echo not reached", 1),
            ("echo half\n(exit 7)\necho not reached", 7),
            ("sh -c 'exit 4'; echo not reached", 4),
            ("x=$(exit 6); echo not reached", 6),
            ("false || echo whole; if false; then echo; fi; ! true; echo whole", 0),
            ("set +e; false; echo whole", 0),
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
        let several = Container::plan(DumpForm::Stdout, "su postgres -c 'pg_dump a; pg_dump b'").argv().unwrap_err();
        assert_eq!(several.reason, Reason::PipelineNotChecked);
        assert!(several.message.contains("`set -e;`"), "{several}");
        let mut allowed = Container::plan(DumpForm::Stdout, "sh -c 'false | cat'");
        if let Work::Dump(dump) = &mut allowed.work {
            dump.allow_unchecked_pipes = true;
        }
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
        let dead = format!("{OTHER_UID} 4194999 17 {}\n", shared::here());
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
        // Killed while it was taken over.
        for marker in ["backup/.ubo-run.old", "backup.ubo-run.old"] {
            fs::create_dir_all(c.path("backup")).unwrap();
            fs::write(c.path("backup/half.sql"), "x").unwrap();
            fs::write(c.path(marker), &dead).unwrap();
            assert_eq!(c.directory("echo x > /backup/whole.sql").names(), ["./whole.sql"], "{:?}: {marker}", c.shell);
            assert!(!c.path(marker).exists());
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
        other.run_uid = fresh_uid();
        let out = c.run(&other);
        let seen = (out.verdict, out.reason);
        assert_eq!(seen, (Some(Verdict::Taken), Some(Reason::BackupDirectoryBusy)), "{:?}: {out:?}", c.shell);
        assert_eq!(out.lies, [plan.run.as_str()], "{:?}: whom it waits for", c.shell);
        assert!(c.path("backup/begun").exists());

        // The same run, whose first attempt nobody listens to any more: it is ended, and the second one works.
        let again = Container::with_command(&plan, &format!("echo x > {}/x", c.path("backup").display()));
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
        plan = Container::with_command(
            &plan,
            &format!("dd if=/dev/zero of={backup}/big bs=1024 count=3000 2>/dev/null; sleep 5"),
        );
        c.disk(1000, 500, "/backup");
        assert_eq!(c.run(&plan).verdict, Some(Verdict::Tar(0)), "{:?}", c.shell);

        // Unless somebody has said how large it may become.
        plan.limits_volumes = true;
        plan = Container::with_command(
            &plan,
            &format!("dd if=/dev/zero of={backup}/big bs=1024 count=3000 2>/dev/null; sleep 1000"),
        );
        assert_eq!(c.run(&plan).verdict, Some(Verdict::Full), "{:?}", c.shell);
        plan.staged_limit_kib = 4000;
        plan = Container::with_command(
            &plan,
            &format!("dd if=/dev/zero of={backup}/big bs=1024 count=3000 2>/dev/null; sleep 5"),
        );
        assert_eq!(c.run(&plan).verdict, Some(Verdict::Tar(0)), "{:?}", c.shell);

        // Nearly full: before the command runs, and while it does.
        c.disk(1000, 99, "/backup");
        plan = Container::with_command(&plan, &format!("touch {}/ran", c.root.path().display()));
        let out = c.run(&plan);
        assert_eq!(out.reason, Some(Reason::StagingFull), "{:?}: {out:?}", c.shell);
        assert!(!c.path("ran").exists());
        c.disk(1000, 500, "/backup");
        fs::write(c.path("next"), disk(1000, 50, "/backup")).unwrap();
        plan = Container::with_command(
            &plan,
            &format!("mv {} {}; sleep 1000", c.path("next").display(), c.path("df.txt").display()),
        );
        let out = c.run(&plan);
        assert_eq!(out.verdict, Some(Verdict::DiskFull), "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn where_no_marker_can_be_written_the_disk_is_full_and_nobody_is_waited_for() {
    in_each(|c| {
        let plan = Container::plan(c.backup(), "touch not-reached");
        for there in [false, true] {
            if there {
                fs::create_dir(c.path("backup")).unwrap();
            }
            let mut command = Command::new(program("setsid"));
            // Files can be made, as on a full disk, and hold nothing.
            let full = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
            command.args([program("bash").to_str().unwrap(), "-c", full, "bash"]).args(plan.argv().unwrap());
            let out = c.read(c.spawn(&mut command), &plan);
            assert_eq!(out.verdict, Some(Verdict::DiskFull), "{:?} {there}: {out:?}", c.shell);
            assert!(!c.path("backup.ubo-run").exists() && !c.path("backup/.ubo-run").exists(), "{:?}", c.shell);
            assert_eq!(c.path("backup").exists(), there, "{:?}", c.shell);
            assert!(!c.path("not-reached").exists(), "{:?}", c.shell);
        }
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
fn what_starts_while_all_is_ended_is_told_to_end_too() {
    in_each(|c| {
        let [begun, told] = ["begun", "told"].map(|name| c.path(name));
        let late = format!("sleep 1000 || echo $? > {}", told.display());
        let command = format!("trap '{late}; exit' TERM; touch {}; sleep 1000", begun.display());
        for stopped in [true, false] {
            let mut child = c.start(&Container::plan(DumpForm::Stdout, &command));
            eventually("the command has begun", || begun.exists());
            // Told in words, standard input stays open; cut off, it has ended.
            let mut control = child.stdin.take().filter(|_| stopped);
            if let Some(control) = &mut control {
                control.write_all(&STOP).unwrap();
            }
            assert_eq!(child.wait().unwrap().code(), Some(143), "{:?} {stopped}", c.shell);
            // 143 is TERM; a KILL would have been 137.
            assert_eq!(fs::read_to_string(&told).unwrap().trim(), "143", "{:?} {stopped}", c.shell);
            fs::remove_file(&begun).unwrap();
            fs::remove_file(&told).unwrap();
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

/// As the one of uutils 0.8 does, which loses bytes after every short read without a word.
#[test]
fn a_dd_that_cannot_read_less_than_a_block_is_given_whole_blocks() {
    const SHAM: &str = "case \" $* \" in *' iflag=fullblock '*) exec /bin/dd \"$@\" ;; esac\nexec tr x y\n";
    in_each(|c| {
        c.script("dd", SHAM);
        let out = c.stdout("for n in 1 2 3; do printf x; sleep 0.05; done");
        assert_eq!((out.data.as_slice(), out.verdict), (&b"xxx"[..], Some(Verdict::Command(0))), "{:?}", c.shell);
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
