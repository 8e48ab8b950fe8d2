use super::super::tests::{example, set};
use super::super::{Invalid, ValidatedJob, validate};
use super::*;
use crate::error::Reason;
use serde_json::{Value, json};

/// A copy of `/data`, changed.
fn copy_with(changes: &[(&str, Value)]) -> Result<ValidatedJob, Invalid> {
    let mut document = example();
    set(&mut document, "spec.strategy", json!({ "type": "copy" }));
    set(&mut document, "spec.target.path", json!("/data/"));
    for (path, value) in changes {
        set(&mut document, path, value.clone());
    }
    validate(&serde_json::from_value(document).expect("a BackupJob"))
}

fn with_hooks(before: Value, after: Value) -> Result<ValidatedJob, Invalid> {
    let mut document = example();
    set(&mut document, "spec.strategy.before", before);
    set(&mut document, "spec.strategy.after", after);
    validate(&serde_json::from_value(document).expect("a BackupJob"))
}

#[test]
fn a_copy_is_read() {
    let plain = copy_with(&[]).expect("holds");
    let expected = Copy {
        path: "/data".into(),
        include: vec![],
        exclude: vec![],
        fail_on_change: false,
        allow_live_database: false,
    };
    assert_eq!((plain.work, plain.hooks), (Work::Copy(expected), Hooks::default()));
    let full = copy_with(&[
        ("spec.target.include", json!(["*.sql", "/etc/"])),
        ("spec.target.exclude", json!(["*.tmp"])),
        ("spec.strategy.via", json!("Exec")),
        ("spec.strategy.onChange", json!("Fail")),
        ("spec.guard", json!({ "allowLiveDatabase": true })),
    ]);
    let expected = Copy {
        path: "/data".into(),
        include: vec!["*.sql".into(), "/etc/".into()],
        exclude: vec!["*.tmp".into()],
        fail_on_change: true,
        allow_live_database: true,
    };
    assert_eq!(full.expect("holds").work, Work::Copy(expected));
}

#[test]
fn a_copy_that_does_not_hold_is_refused_by_its_field() {
    for (path, value, reason) in [
        ("spec.target.path", Value::Null, Reason::InvalidSpec),
        ("spec.target.path", json!("/"), Reason::InvalidSpec),
        ("spec.target.path", json!("/proc/1"), Reason::InvalidSpec),
        ("spec.target.path", json!("/sys"), Reason::InvalidSpec),
        ("spec.target.include", json!(["[z-a]"]), Reason::InvalidSpec),
        ("spec.target.exclude", json!(["# all"]), Reason::InvalidSpec),
        ("spec.target.exclude", json!(["ok", " "]), Reason::InvalidSpec),
        ("spec.strategy.command", json!("tar c"), Reason::InvalidSpec),
        ("spec.strategy.output", json!("Stdout"), Reason::InvalidSpec),
        ("spec.strategy.directory", json!("/x"), Reason::InvalidSpec),
        ("spec.strategy.allowUncheckedPipes", json!(true), Reason::InvalidSpec),
        ("spec.strategy.image", json!("x"), Reason::InvalidSpec),
        ("spec.strategy.via", json!("Volume"), Reason::NotSupported),
        ("spec.strategy.onChange", json!("Shrug"), Reason::NotSupported),
    ] {
        let error = copy_with(&[(path, value.clone())]).expect_err(path);
        assert_eq!(error.reason, reason, "{path} {value}: {error}");
        assert!(error.message.starts_with(&format!("{path}: ")), "{path} {value}: {error}");
    }
    for good in ["/processes", "/device", "/data/proc"] {
        assert!(copy_with(&[("spec.target.path", json!(good))]).is_ok(), "{good}");
    }
}

#[test]
fn hooks_are_read() {
    let job = with_hooks(json!({ "command": "sync" }), json!({ "command": "echo x | cat", "timeoutSeconds": 7 }));
    let hook = |command: &str, seconds| Some(Hook { command: command.into(), limit: Duration::from_secs(seconds) });
    let expected = Hooks { before: hook("sync", 300), after: hook("echo x | cat", 7) };
    assert_eq!(job.expect("holds").hooks, expected);
}

#[test]
fn hooks_that_do_not_hold_are_refused_by_their_field() {
    let good = || json!({ "command": "true" });
    for (before, after, named) in [
        (json!({ "command": " \n" }), good(), "spec.strategy.before.command: "),
        (good(), json!({ "command": "a\0b" }), "spec.strategy.after.command: "),
        (json!({ "command": "x", "timeoutSeconds": 0 }), good(), "spec.strategy.before.timeoutSeconds: "),
        (good(), json!({ "command": "x", "timeoutSeconds": 86_401 }), "spec.strategy.after.timeoutSeconds: "),
        (json!({ "command": "ü".repeat(3000) }), json!({ "command": "ü".repeat(3000) }), "spec.strategy: "),
    ] {
        let error = with_hooks(before, after).expect_err(named);
        assert!(error.reason == Reason::InvalidSpec && error.message.contains(named), "{named}: {error}");
    }
    assert!(with_hooks(json!({ "command": "x".repeat(17_000) }), json!({ "command": "x".repeat(17_000) })).is_ok());
}

#[test]
fn lengths_are_those_of_a_url() {
    assert_eq!(in_url("a b-_.*Z9"), 9);
    assert_eq!(in_url("'\n\u{e9}"), 12);
}
