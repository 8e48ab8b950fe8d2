//! The commands before and after.

use crate::container::{Container, Outcome, Shell, eventually, fresh_uid, in_each, session};
use std::fs;
use std::time::Duration;
use ubo::error::Reason;
use ubo::source::wrapper::{Plan, Verdict};
use ubo::validate::{DumpForm, Hook, Hooks};

fn plan(command: &str, before: &str, after: &str) -> Plan {
    let hook = |command: &str| {
        (!command.is_empty()).then(|| Hook { command: command.to_owned(), limit: Duration::from_mins(5) })
    };
    let mut plan = Container::plan(DumpForm::Stdout, command);
    plan.hooks = Hooks { before: hook(before), after: hook(after) };
    plan
}

fn run(c: &Container, command: &str, before: &str, after: &str) -> Outcome {
    c.run(&plan(command, before, after))
}

/// What the hooks have noted, in order.
fn notes(c: &Container) -> String {
    fs::read_to_string(c.path("notes")).unwrap_or_default().replace('\n', " ")
}

#[test]
fn they_run_around_the_command_and_print_to_the_log() {
    in_each(|c| {
        let out = run(
            c,
            "echo data; echo work >> notes",
            "echo before; echo \"before $UBO_RUN\" >> notes",
            "echo after >&2; echo after >> notes",
        );
        assert_eq!((out.verdict, out.data.as_slice()), (Some(Verdict::Command(0)), &b"data\n"[..]), "{:?}", c.shell);
        assert_eq!(out.log, "before\nafter\n", "{:?}", c.shell);
        assert_eq!(notes(c), "before pg-20261124-0200 work after ");
        let mut directory =
            plan(&format!("echo x > {}/x", c.path("backup").display()), "echo b > notes", "echo a >> notes");
        directory.work = Container::plan(c.backup(), &format!("echo x > {}/x", c.path("backup").display())).work;
        let out = c.run(&directory);
        assert_eq!((out.verdict, out.names()), (Some(Verdict::Tar(0)), vec!["./x".to_owned()]), "{:?}", c.shell);
        assert_eq!(notes(c), "b a ");
    });
}

#[test]
fn whatever_fails_after_runs() {
    in_each(|c| {
        for (command, before, after, verdict, reason, left) in [
            ("echo w >> notes", "exit 4", "echo a >> notes", Verdict::Before(4), Reason::BeforeFailed, "a "),
            ("exit 3", "true", "echo a >> notes", Verdict::Command(3), Reason::CommandFailed, "a "),
            ("exit 3", "", "echo a >> notes; exit 5", Verdict::Command(3), Reason::CommandFailed, "a "),
            ("echo w >> notes", "true", "exit 6", Verdict::After(6), Reason::AfterFailed, "w "),
            ("true", "false; echo b >> notes", "", Verdict::Before(1), Reason::BeforeFailed, ""),
            ("exit 3", "", "false; echo a >> notes", Verdict::Command(3), Reason::CommandFailed, "a "),
            ("true", "exit 4", "exit 6", Verdict::Before(4), Reason::BeforeFailed, ""),
            ("true", "no-such-program", "echo a >> notes", Verdict::Before(127), Reason::BeforeFailed, "a "),
        ] {
            let _ = fs::remove_file(c.path("notes"));
            let out = run(c, command, before, after);
            assert_eq!((out.verdict, out.reason), (Some(verdict), Some(reason)), "{:?}: {command}: {out:?}", c.shell);
            assert_eq!(notes(c), left, "{:?}: {command}", c.shell);
        }
    });
}

#[test]
fn a_pipe_in_a_hook_is_checked_like_one_in_a_command() {
    in_each(|c| {
        let out = run(c, "echo data", "false | cat", "echo a >> notes");
        let expected = if c.shell == Shell::Dash { Reason::PipelineNotChecked } else { Reason::BeforeFailed };
        assert_eq!(out.reason, Some(expected), "{:?}: {out:?}", c.shell);
        // Where nothing was begun, there is nothing to undo.
        assert_eq!(notes(c), if c.shell == Shell::Dash { "" } else { "a " });
        let out = run(c, "echo data", "", "true | cat");
        assert_eq!(out.reason.is_none(), c.shell != Shell::Dash, "{:?}: {out:?}", c.shell);
    });
}

#[test]
fn a_hook_that_is_not_through_in_time_is_ended() {
    in_each(|c| {
        let limited = |before: u64, after: u64, command: [&str; 2]| {
            let mut plan = plan("echo w >> notes; echo data", command[0], command[1]);
            for (hook, limit) in [(&mut plan.hooks.before, before), (&mut plan.hooks.after, after)] {
                if let Some(hook) = hook {
                    hook.limit = Duration::from_secs(limit);
                }
            }
            plan
        };
        let out = c.run(&limited(1, 60, ["sleep 1000; echo never >> notes", "echo a >> notes"]));
        assert_eq!((out.verdict, out.reason), (Some(Verdict::BeforeLate), Some(Reason::BeforeFailed)), "{out:?}");
        assert_eq!(notes(c), "a ", "{:?}", c.shell);
        fs::remove_file(c.path("notes")).unwrap();
        let out = c.run(&limited(60, 1, ["true", "sleep 1000 & sleep 1000"]));
        assert_eq!((out.verdict, out.reason), (Some(Verdict::AfterLate), Some(Reason::AfterFailed)), "{out:?}");
        assert_eq!(notes(c), "w ", "{:?}", c.shell);
    });
}

#[test]
fn what_before_leaves_running_lives_until_after_is_through() {
    in_each(|c| {
        let before = "{ trap 'echo lock gone >> notes; exit' TERM; touch held; while :; do sleep 0.1; done; } & \
                      while ! test -e held; do sleep 0.1; done";
        let command = "echo work >> notes; echo data";
        let out = run(c, command, before, "echo after >> notes");
        assert_eq!(out.verdict, Some(Verdict::Command(0)), "{:?}: {out:?}", c.shell);
        assert_eq!(notes(c), "work after lock gone ", "{:?}", c.shell);
        fs::remove_file(c.path("held")).unwrap();
        fs::remove_file(c.path("notes")).unwrap();
        let mut directory = plan("", before, "echo after >> notes");
        directory.work = Container::plan(c.backup(), &format!("echo x > {}/x", c.path("backup").display())).work;
        let out = c.run(&directory);
        assert_eq!(out.names(), ["./x"], "{:?}: {out:?}", c.shell);
        assert_eq!(notes(c), "after lock gone ", "{:?}", c.shell);
    });
}

#[test]
fn when_the_reader_goes_after_runs_all_the_same() {
    in_each(|c| {
        // In the middle of each of the three; what after prints goes nowhere, and does not end it.
        let after = "echo said; echo said >&2; sleep 0.3; echo after >> notes";
        for (command, before) in
            [("touch begun; sleep 1000", "true"), ("echo never >> notes", "touch begun; sleep 1000")]
        {
            let mut child = c.start(&plan(command, before, after));
            eventually("it has begun", || c.path("begun").exists());
            drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
            assert!(!child.wait().unwrap().success());
            eventually("nothing of the session is left", || session(child.id()).is_empty());
            assert_eq!(notes(c), "after ", "{:?}: {command}", c.shell);
            fs::remove_file(c.path("notes")).unwrap();
            fs::remove_file(c.path("begun")).unwrap();
        }
        let after = "touch begun; echo said; until test -e go; do sleep 0.1; done; echo after >> notes";
        let mut child = c.start(&plan("echo data", "", after));
        eventually("it has begun", || c.path("begun").exists());
        fs::remove_file(c.path("begun")).unwrap();
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        eventually("it was ended and begins again", || c.path("begun").exists());
        fs::write(c.path("go"), "").unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(notes(c), "after ", "{:?}", c.shell);
    });
}

#[test]
fn when_the_shell_itself_is_killed_the_watcher_runs_after() {
    in_each(|c| {
        let mut child = c.start(&plan("touch begun; sleep 1000", "true", "echo said; echo after >> notes"));
        eventually("the command has begun", || c.path("begun").exists());
        child.kill().unwrap();
        child.wait().unwrap();
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        eventually("nothing of the session is left", || session(child.id()).is_empty());
        assert_eq!(notes(c), "after ", "{:?}", c.shell);
    });
}

#[test]
fn an_earlier_attempt_that_lives_is_ended_with_its_after_first() {
    in_each(|c| {
        let plan = plan("touch begun; sleep 1000", "", "sleep 0.5; echo after >> notes");
        let mut first = c.start(&plan);
        eventually("the first has begun", || c.path("begun").exists());
        let mut other = Container::with_command(&plan, "echo other >> notes; echo data");
        other.run_uid = fresh_uid();
        other.hooks = Hooks::default();
        // A run of another name is nobody's earlier attempt.
        assert_eq!(c.run(&other).verdict, Some(Verdict::Command(0)), "{:?}", c.shell);
        let mut again = Container::with_command(&plan, "echo second >> notes; echo data");
        again.attempt = 2;
        again.hooks = Hooks::default();
        assert_eq!(c.run(&again).verdict, Some(Verdict::Command(0)), "{:?}", c.shell);
        assert_eq!(notes(c), "other after second ", "{:?}", c.shell);
        assert_eq!(first.wait().unwrap().code(), Some(143));
    });
}

#[test]
fn what_leaves_the_session_is_ended_too() {
    in_each(|c| {
        let escape = "setsid sh -ec 'echo $$ > escaped; exec sleep 1000' </dev/null >/dev/null 2>&1 &";
        let wait = "while ! test -s escaped; do sleep 0.1; done";
        let mut child = c.start(&plan(&format!("{escape} {wait}; touch begun; sleep 1000"), "", ""));
        eventually("the command has begun", || c.path("begun").exists());
        let escaped: u32 = fs::read_to_string(c.path("escaped")).unwrap().trim().parse().unwrap();
        assert_eq!(session(escaped).len(), 1, "it has a session of its own");
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        child.wait().unwrap();
        eventually("what has left the session is gone", || session(escaped).iter().all(|line| line.ends_with('Z')));
    });
}
