//! What holds, what does not, and that nothing of the schema is passed over in silence.

use super::*;
use crate::api;
use crate::error::Reason;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The document of `product.md` section 2, as an API server gives it back.
pub(super) fn example() -> Value {
    json!({
        "apiVersion": "backup.javy.dev/v1",
        "kind": "BackupJob",
        "metadata": {
            "name": "postgres-daily-backup",
            "namespace": "default",
            "uid": "7c0e4f0e-6a9c-4b8f-9a55-0d5f3c1b2a01",
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": {
            "target": { "kind": "StatefulSet", "name": "postgres", "namespace": "default", "path": "/var/lib/postgresql/data" },
            "destination": { "type": "s3", "uri": "s3://my-bucket/backups/postgres", "secretRef": "s3-credentials" },
            "strategy": { "type": "dump", "command": "pg_dumpall > /backup/dump.sql" },
            "schedule": "0 2 * * *",
        },
    })
}

/// The example with `value` at `path`, whose parts are parted by dots. `null` removes.
pub(super) fn with(path: &str, value: Value) -> BackupJob {
    let mut document = example();
    set(&mut document, path, value);
    serde_json::from_value(document).expect("a BackupJob")
}

pub(super) fn set(document: &mut Value, path: &str, value: Value) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = document;
    for part in parents.split('.') {
        at = &mut at[part];
    }
    if value.is_null() {
        at.as_object_mut().expect("an object").remove(last);
    } else {
        at[last] = value;
    }
}

fn refused(path: &str, value: &Value) -> Invalid {
    validate(&with(path, value.clone())).expect_err(&format!("{path} = {value}"))
}

/// A public key as age-keygen prints it; the example of the schema.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn guard_and_bandwidth_are_read() {
    let plain = validate(&serde_json::from_value(example()).unwrap()).unwrap();
    assert_eq!((plain.maximum_shrink_percent, plain.accepted, plain.maximum_staged_size), (50, None, None));
    assert_eq!(plain.destination.bandwidth_limit, None);
    let mut document = example();
    set(&mut document, "spec.guard", json!({ "maximumShrinkPercent": 20, "maximumStagedSize": "8Gi" }));
    set(&mut document, "spec.destination.bandwidthLimit", json!("10Mi"));
    document["metadata"]["annotations"] = json!({ crate::api::ANNOTATION_ACCEPTED: "pg-m1" });
    let valid = validate(&serde_json::from_value(document).unwrap()).unwrap();
    assert_eq!((valid.maximum_shrink_percent, valid.accepted.as_deref()), (20, Some("pg-m1")));
    assert_eq!((valid.maximum_staged_size, valid.destination.bandwidth_limit), (Some(8 << 30), Some(10 << 20)));
}

#[test]
fn who_can_read_it_is_read() {
    let mut document = example();
    set(&mut document, "spec.encryption.recipients", json!([RECIPIENT]));
    let valid = validate(&serde_json::from_value(document).unwrap()).unwrap();
    assert!(matches!(&valid.recipients[..], [one] if one.as_str() == RECIPIENT));
}

fn dump(job: &ValidatedJob) -> &Dump {
    match &job.work {
        Work::Dump(dump) => dump,
        Work::Copy(copy) => panic!("{copy:?}"),
    }
}

fn form(job: &ValidatedJob) -> &DumpForm {
    &dump(job).form
}

#[test]
fn the_example_holds() {
    let job = validate(&with("spec.suspend", Value::Null)).expect("holds");
    assert_eq!(job.job.to_string(), "default/postgres-daily-backup");
    assert_eq!(job.archive.as_str(), "default/postgres-daily-backup");
    assert_eq!(form(&job), &DumpForm::Directory("/backup".into()));
    assert_eq!(job.target.kind, WorkloadKind::StatefulSet);
    assert_eq!(job.target.path.as_deref(), Some("/var/lib/postgresql/data"));
    assert_eq!(job.destination.address, Address::S3 { bucket: "my-bucket".into(), prefix: "backups/postgres".into() });
    assert_eq!(job.destination.secret.as_deref(), Some("s3-credentials"));
    assert_eq!((job.retry_limit, job.retry_backoff), (2, Duration::from_secs(30)));
    assert_eq!((job.keep_successful, job.keep_failed), (3, 3));
    assert_eq!((job.service_account.as_str(), job.compression_level), ("backup-runner", 3));
    assert!(job.schedule.is_some() && !job.suspend && !job.allow_empty);
}

#[test]
fn what_is_implemented_is_read() {
    let job = |path, value| validate(&with(path, value)).expect("holds");
    assert_eq!(job("spec.target.kind", json!("Pod")).target.kind, WorkloadKind::Pod);
    for (word, kind) in [
        ("Deployment", WorkloadKind::Deployment),
        ("DaemonSet", WorkloadKind::DaemonSet),
        ("ReplicaSet", WorkloadKind::ReplicaSet),
    ] {
        assert_eq!(job("spec.target.kind", json!(word)).target.kind, kind);
        assert_eq!(kind.as_str(), word);
    }
    assert_eq!(job("spec.target.pods", Value::Null).target.pods, Pods::First);
    assert_eq!(job("spec.target.pods", json!("First")).target.pods, Pods::First);
    assert_eq!(job("spec.target.pods", json!("Each")).target.pods, Pods::Each);
    let rules = json!([
        { "key": "role", "operator": "In", "values": ["replica", "spare"] },
        { "key": "example.com/old", "operator": "DoesNotExist" },
    ]);
    let chosen = json!({ "matchLabels": { "app": "db" }, "matchExpressions": rules });
    let selector = job("spec.target.podSelector", chosen).target.pod_selector;
    assert_eq!(selector.to_string(), "app=db,role in (replica,spare),!example.com/old");
    assert_eq!(job("spec.target.namespace", json!("other")).target.namespace.as_str(), "other");
    assert_eq!(job("spec.target.namespace", Value::Null).target.namespace.as_str(), "default");
    assert_eq!(job("spec.target.container", json!("db")).target.container.as_deref(), Some("db"));
    assert_eq!(job("spec.target.path", json!("/data/")).target.path.as_deref(), Some("/data"));
    assert_eq!(job("spec.target.path", Value::Null).target.path, None);
    assert_eq!(job("spec.archiveName", json!("a/b")).archive.as_str(), "a/b");
    assert_eq!(form(&job("spec.strategy.output", json!("Stdout"))), &DumpForm::Stdout);
    assert_eq!(form(&job("spec.strategy.command", json!("pg_dumpall"))), &DumpForm::Stdout);
    assert!(dump(&job("spec.strategy.allowUncheckedPipes", json!(true))).allow_unchecked_pipes);
    assert_eq!(job("spec.retry", json!({ "limit": 0, "backoffSeconds": 7 })).retry_limit, 0);
    assert_eq!(job("spec.guard", json!({ "minimumSize": "10Mi" })).minimum_size, Some(10 << 20));
    assert_eq!(job("spec.guard", json!({ "minimumSize": 5 })).minimum_size, Some(5));
    assert!(job("spec.guard", json!({ "allowEmpty": true })).allow_empty);
    assert_eq!(job("spec.compression", json!({ "level": 9 })).compression_level, 9);
    assert_eq!(job("spec.serviceAccountName", json!("dba")).service_account, "dba");
    assert_eq!(job("spec.successfulRunsHistoryLimit", json!(0)).keep_successful, 0);
    assert_eq!(job("spec.failedRunsHistoryLimit", json!(9)).keep_failed, 9);
    assert!(job("spec.suspend", json!(true)).suspend);
    assert_eq!(job("spec.suspend", Value::Null).timing, Timing::default());
    assert_eq!(job("spec.concurrencyPolicy", json!("Allow")).timing.concurrency, Concurrency::Allow);
    assert_eq!(job("spec.concurrencyPolicy", json!("Replace")).timing.concurrency, Concurrency::Replace);
    assert!(!job("spec.missedRuns", json!("Skip")).timing.make_up);
    assert_eq!(job("spec.jitterSeconds", json!(300)).timing.jitter, chrono::TimeDelta::minutes(5));
    let deadline = job("spec.startingDeadlineSeconds", json!(0)).timing.starting_deadline;
    assert_eq!(deadline, Some(chrono::TimeDelta::zero()));
    assert!(job("spec.schedule", Value::Null).schedule.is_none());
    let schedule = job("spec.timeZone", json!("Europe/Berlin")).schedule.expect("a schedule");
    assert_eq!(schedule.zone_name(), "Europe/Berlin");
    let mut document = example();
    set(&mut document, "spec.strategy.command", json!("dump > /var/dumps/x"));
    set(&mut document, "spec.strategy.directory", json!("/var/dumps/"));
    let job = validate(&serde_json::from_value(document).expect("a BackupJob")).expect("holds");
    assert_eq!(form(&job), &DumpForm::Directory("/var/dumps".into()));
}

#[test]
fn what_does_not_hold_is_refused_with_its_path_and_reason() {
    let pem_key = "-----BEGIN PRIVATE KEY-----";
    for (path, value, named, reason) in [
        ("metadata.name", json!("a".repeat(50)), "metadata.name", Reason::InvalidSpec),
        ("metadata.uid", Value::Null, "metadata.uid", Reason::InvalidSpec),
        ("metadata.namespace", Value::Null, "metadata.namespace", Reason::InvalidSpec),
        ("metadata.creationTimestamp", Value::Null, "metadata.creationTimestamp", Reason::InvalidSpec),
        ("spec.schedule", json!("0 2 * *"), "spec.schedule", Reason::InvalidSchedule),
        ("spec.schedule", json!(""), "spec.schedule", Reason::InvalidSchedule),
        ("spec.schedule", json!("TZ=UTC 0 2 * * *"), "spec.schedule", Reason::InvalidSchedule),
        ("spec.timeZone", json!("Mars/Olympus"), "spec.timeZone", Reason::InvalidTimeZone),
        ("spec.timeZone", json!(""), "spec.timeZone", Reason::InvalidTimeZone),
        ("spec.jitterSeconds", json!(86_401), "spec.jitterSeconds", Reason::InvalidSpec),
        ("spec.startingDeadlineSeconds", json!(-1), "spec.startingDeadlineSeconds", Reason::InvalidSpec),
        ("spec.startingDeadlineSeconds", json!(i64::MAX), "spec.startingDeadlineSeconds", Reason::InvalidSpec),
        ("spec.target.name", json!("Not A Name"), "spec.target.name", Reason::InvalidSpec),
        ("spec.target.namespace", json!("a.b"), "spec.target.namespace", Reason::InvalidSpec),
        ("spec.target.container", json!("-x"), "spec.target.container", Reason::InvalidSpec),
        ("spec.target.path", json!("data"), "spec.target.path", Reason::InvalidSpec),
        ("spec.target.path", json!("/a/../b"), "spec.target.path", Reason::InvalidSpec),
        ("spec.target.path", json!("/a\nb"), "spec.target.path", Reason::InvalidSpec),
        ("spec.target.include", json!(["x"]), "spec.target.include", Reason::InvalidSpec),
        ("spec.target.exclude", json!(["x"]), "spec.target.exclude", Reason::InvalidSpec),
        ("spec.target.kind", json!("PVC"), "spec.target.kind", Reason::InvalidSpec),
        (
            "spec.target",
            json!({ "kind": "Pod", "name": "x", "podSelector": { "matchLabels": { "a": "b" } } }),
            "spec.target.podSelector",
            Reason::InvalidSpec,
        ),
        ("spec.target", json!({ "kind": "Pod", "name": "x", "pods": "Each" }), "spec.target.pods", Reason::InvalidSpec),
        ("spec.target.podSelector", json!({ "matchLabels": { "a b": "c" } }), "matchLabels.a b", Reason::InvalidSpec),
        ("spec.target.podSelector", json!({ "matchLabels": { "a": "-" } }), "matchLabels.a", Reason::InvalidSpec),
        (
            "spec.target.podSelector.matchExpressions",
            json!([{ "key": "a", "operator": "In" }]),
            "matchExpressions[0].values",
            Reason::InvalidSpec,
        ),
        (
            "spec.target.podSelector.matchExpressions",
            json!([{ "key": "a", "operator": "Exists", "values": ["b"] }]),
            "matchExpressions[0].values",
            Reason::InvalidSpec,
        ),
        (
            "spec.target.podSelector.matchExpressions",
            json!([{ "key": "", "operator": "Exists" }]),
            "matchExpressions[0].key",
            Reason::InvalidSpec,
        ),
        ("spec.archiveName", json!("../x"), "spec.archiveName", Reason::InvalidSpec),
        ("spec.archiveName", json!("/x"), "spec.archiveName", Reason::InvalidSpec),
        ("spec.destination", Value::Null, "spec.destination", Reason::InvalidSpec),
        ("spec.destination.uri", Value::Null, "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.uri", json!("gs://bucket/x"), "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.uri", json!("s3://user:pw@bucket/x"), "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.uri", json!("s3://bucket/x?y"), "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.uri", json!("s3://bucket/../x"), "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.uri", json!("s3:///x"), "spec.destination.uri", Reason::InvalidSpec),
        ("spec.destination.secretRef", json!("No Name"), "spec.destination.secretRef", Reason::InvalidSpec),
        ("spec.destination.command", json!("cat"), "spec.destination.command", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "endpoint": "host" }), "options.endpoint", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "endpoint": "http://u:pw@h" }), "options.endpoint", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "region": "" }), "options.region", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "storageClass": "a b" }), "options.storageClass", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "caBundle": "x" }), "options.caBundle", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "caBundle": pem_key }), "options.caBundle", Reason::InvalidSpec),
        ("spec.destination.options", json!({ "regoin": "x" }), "options.regoin", Reason::NotSupported),
        ("spec.strategy.command", Value::Null, "spec.strategy.command", Reason::InvalidSpec),
        ("spec.strategy.command", json!(" \n"), "spec.strategy.command", Reason::InvalidSpec),
        ("spec.strategy.command", json!("a\0b"), "spec.strategy.command", Reason::InvalidSpec),
        ("spec.strategy.directory", json!("backup"), "spec.strategy.directory", Reason::InvalidSpec),
        ("spec.strategy.directory", json!("//"), "spec.strategy.directory", Reason::InvalidSpec),
        ("spec.strategy.image", json!("x"), "spec.strategy.image", Reason::InvalidSpec),
        ("spec.strategy.via", json!("Exec"), "spec.strategy.via", Reason::InvalidSpec),
        ("spec.strategy.onChange", json!("Fail"), "spec.strategy.onChange", Reason::InvalidSpec),
        ("spec.retention", json!({ "keepLast": 0 }), "spec.retention", Reason::InvalidSpec),
        ("spec.retention", json!({}), "spec.retention", Reason::InvalidSpec),
        ("spec.retry", json!({ "limit": 21 }), "spec.retry.limit", Reason::InvalidSpec),
        ("spec.retry", json!({ "backoffSeconds": 0 }), "spec.retry.backoffSeconds", Reason::InvalidSpec),
        ("spec.compression", json!({ "level": 20 }), "spec.compression.level", Reason::InvalidSpec),
        ("spec.guard", json!({ "minimumSize": "much" }), "spec.guard.minimumSize", Reason::InvalidSpec),
        ("spec.serviceAccountName", json!("X"), "spec.serviceAccountName", Reason::InvalidSpec),
        ("spec.encryption", json!({}), "spec.encryption.recipients", Reason::InvalidSpec),
        ("spec.destination.bandwidthLimit", json!("fast"), "spec.destination.bandwidthLimit", Reason::InvalidSpec),
        ("spec.destination.bandwidthLimit", json!("0"), "spec.destination.bandwidthLimit", Reason::InvalidSpec),
        ("spec.guard.maximumShrinkPercent", json!(101), "spec.guard.maximumShrinkPercent", Reason::InvalidSpec),
        ("spec.guard.maximumStagedSize", json!("0"), "spec.guard.maximumStagedSize", Reason::InvalidSpec),
        (
            "spec.encryption.recipients",
            json!([RECIPIENT, "age1x"]),
            "spec.encryption.recipients[1]",
            Reason::InvalidSpec,
        ),
        (
            "spec.encryption.recipients",
            json!(["AGE-SECRET-KEY-1pw"]),
            "spec.encryption.recipients[0]",
            Reason::InvalidSpec,
        ),
    ] {
        let error = refused(path, &value);
        assert_eq!(error.reason, reason, "{path} = {value}: {error}");
        assert!(error.message.contains(&format!("{named}: ")), "{path} = {value}: {error}");
        assert!(!error.message.contains("pw"), "a password in: {error}");
    }
}

#[test]
fn all_errors_at_once_and_the_gravest_is_the_reason() {
    let mut document = example();
    for (path, value) in [
        ("spec.deletionPolicy", json!("Delete")),
        ("spec.timeZone", json!("Nowhere")),
        ("spec.schedule", json!("nonsense")),
        ("spec.target.path", json!("x")),
    ] {
        set(&mut document, path, value);
    }
    let check = |document: &Value, reason| {
        let job = serde_json::from_value(document.clone()).expect("a BackupJob");
        let error = validate(&job).expect_err("does not hold");
        assert_eq!(error.reason, reason, "{error}");
        error.message
    };
    let message = check(&document, Reason::InvalidSpec);
    let at = |field: &str| message.find(field).unwrap_or_else(|| panic!("{field} in {message}"));
    assert!(at("spec.target.path") < at("spec.schedule"), "{message}");
    assert!(at("spec.schedule") < at("spec.timeZone") && at("spec.timeZone") < at("spec.deletionPolicy"), "{message}");
    set(&mut document, "spec.target.path", json!("/x"));
    check(&document, Reason::InvalidSchedule);
    set(&mut document, "spec.schedule", json!("@daily"));
    check(&document, Reason::InvalidTimeZone);
    set(&mut document, "spec.timeZone", json!("UTC"));
    check(&document, Reason::NotSupported);
}

/// Every field that this version does not implement, with a value that is not its default, and what the error names.
fn not_implemented() -> Vec<(&'static str, Value, &'static str)> {
    let field = |path, value| (path, value, path);
    vec![
        field("spec.target.kind", json!("CronTab")),
        field("spec.target.pods", json!("Some")),
        (
            "spec.target.podSelector.matchExpressions",
            json!([{ "key": "a", "operator": "Near" }]),
            "spec.target.podSelector.matchExpressions[0].operator",
        ),
        ("spec.target.selector.matchLabels", json!({ "a": "b" }), "spec.target.selector"),
        (
            "spec.target.selector.matchExpressions",
            json!([{ "key": "a", "operator": "In", "values": ["b"] }]),
            "spec.target.selector",
        ),
        ("spec.destination", json!({ "type": "gcs", "uri": "gs://b/x" }), "spec.destination.type"),
        ("spec.destination", json!({ "type": "azure", "uri": "az://b/x" }), "spec.destination.type"),
        ("spec.destination", json!({ "type": "git", "uri": "git@host:a/b.git" }), "spec.destination.type"),
        ("spec.destination", json!({ "type": "nfs", "uri": "nfs://host/x" }), "spec.destination.type"),
        ("spec.destination", json!({ "type": "local", "uri": "pvc://claim" }), "spec.destination.type"),
        (
            "spec.destination",
            json!({ "type": "custom", "command": "cat", "image": "x", "listCommand": "ls", "readCommand": "cat", "deleteCommand": "rm" }),
            "spec.destination.type",
        ),
        field("spec.strategy.type", json!("snapshot")),
        field("spec.strategy.type", json!("custom")),
        field("spec.strategy.output", json!("Socket")),
        field("spec.concurrencyPolicy", json!("Queue")),
        field("spec.missedRuns", json!("RunAll")),
        ("spec.retention.keepLast", json!(1), "spec.retention"),
        ("spec.retention.keepHourly", json!(1), "spec.retention"),
        ("spec.retention.keepDaily", json!(1), "spec.retention"),
        ("spec.retention.keepWeekly", json!(1), "spec.retention"),
        ("spec.retention.keepMonthly", json!(1), "spec.retention"),
        ("spec.retention.keepYearly", json!(1), "spec.retention"),
        ("spec.retention", json!({ "keepWithin": "30d", "secretRef": "x" }), "spec.retention"),
        (
            "spec.encryption",
            json!({ "recipients": [RECIPIENT], "identitySecretRef": "x" }),
            "spec.encryption.identitySecretRef",
        ),
        field("spec.verify.schedule", json!("@daily")),
        field("spec.verify.depth", json!("Data")),
        field("spec.verify.restore", json!({})),
        ("spec.notify", json!([{ "name": "x", "type": "Slack", "on": ["Always"], "secretRef": "x" }]), "spec.notify"),
        field("spec.runner.place", json!("Pod")),
        ("spec.runner.resources.requests", json!({ "cpu": "1" }), "spec.runner.resources"),
        ("spec.runner.resources.limits", json!({ "cpu": "1" }), "spec.runner.resources"),
        field("spec.runner.nodeSelector", json!({ "a": "b" })),
        field("spec.runner.affinity", json!({})),
        (
            "spec.runner.tolerations",
            json!([{ "key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 1 }]),
            "spec.runner.tolerations",
        ),
        field("spec.runner.securityContext", json!({})),
        field("spec.runner.labels", json!({ "a": "b" })),
        field("spec.runner.annotations", json!({ "a": "b" })),
        field("spec.runner.imagePullSecrets", json!(["x"])),
        field("spec.runner.priorityClassName", json!("x")),
        field("spec.runner.runtimeClassName", json!("x")),
        field("spec.runner.image", json!("x")),
        field("spec.deletionPolicy", json!("Delete")),
    ]
}

#[test]
fn what_is_not_implemented_is_named() {
    for (path, value, named) in not_implemented() {
        let error = refused(path, &value);
        assert_eq!(error.reason, Reason::NotSupported, "{path} = {value}: {error}");
        assert!(error.message.contains(&format!("{named}: ")), "{path} = {value}: {error}");
    }
    let mut document = example();
    let place = json!({ "name": "here", "type": "s3", "uri": "s3://bucket/x", "retention": { "keepLast": 1 } });
    set(&mut document, "spec.destinations", json!([place]));
    let job = |document: &Value| serde_json::from_value(document.clone()).expect("a BackupJob");
    assert_eq!(validate(&job(&document)).expect_err("two forms").reason, Reason::InvalidSpec);
    set(&mut document, "spec.destination", Value::Null);
    let error = validate(&job(&document)).expect_err("several destinations");
    assert!(error.reason == Reason::NotSupported && error.message.contains("spec.destinations: "), "{error}");
}

#[test]
fn a_default_is_never_refused() {
    for (path, value) in [
        ("spec.target.pods", json!("First")),
        ("spec.target.podSelector", json!({})),
        ("spec.target.selector", json!({})),
        ("spec.target.include", json!([])),
        ("spec.target.exclude", json!([])),
        ("spec.destinations", json!([])),
        ("spec.destination.options", json!({})),
        ("spec.strategy.output", json!("Auto")),
        ("spec.strategy.directory", json!("/backup")),
        ("spec.strategy.via", json!("Auto")),
        ("spec.strategy.onChange", json!("Warn")),
        ("spec.strategy.allowUncheckedPipes", json!(false)),
        ("spec.timeZone", json!("UTC")),
        ("spec.concurrencyPolicy", json!("Forbid")),
        ("spec.missedRuns", json!("RunLatest")),
        ("spec.jitterSeconds", json!(0)),
        ("spec.activeDeadlineSeconds", json!(60)),
        (
            "spec.guard",
            json!({ "maximumShrinkPercent": 50, "maximumStagedSize": "4Gi", "allowEmpty": false, "allowLiveDatabase": false }),
        ),
        ("spec.guard", json!({ "maximumStagedSize": "4096Mi" })),
        ("spec.verify", json!({ "depth": "Manifest" })),
        ("spec.notify", json!([])),
        ("spec.runner", json!({})),
        (
            "spec.runner",
            json!({ "place": "Auto", "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } } }),
        ),
        ("spec.serviceAccountName", json!("backup-runner")),
        ("spec.deletionPolicy", json!("Retain")),
        ("spec.retry", json!({})),
        ("spec.compression", json!({})),
    ] {
        let job = with(path, value.clone());
        assert!(validate(&job).is_ok(), "{path} = {value}: {:?}", validate(&job).err());
    }
}

/// The fields that this version implements; every other one of the schema must stand in [`not_implemented`].
const IMPLEMENTED: &[&str] = &[
    "spec.activeDeadlineSeconds",
    "spec.archiveName",
    "spec.compression.level",
    "spec.destination.options",
    "spec.destination.secretRef",
    "spec.destination.uri",
    "spec.failedRunsHistoryLimit",
    "spec.guard.allowEmpty",
    "spec.guard.allowLiveDatabase",
    "spec.guard.minimumSize",
    "spec.jitterSeconds",
    "spec.retry.backoffSeconds",
    "spec.retry.limit",
    "spec.schedule",
    "spec.destination.bandwidthLimit",
    "spec.encryption.recipients",
    "spec.guard.maximumShrinkPercent",
    "spec.guard.maximumStagedSize",
    "spec.serviceAccountName",
    "spec.startingDeadlineSeconds",
    "spec.strategy.after.command",
    "spec.strategy.after.timeoutSeconds",
    "spec.strategy.allowUncheckedPipes",
    "spec.strategy.before.command",
    "spec.strategy.before.timeoutSeconds",
    "spec.strategy.command",
    "spec.strategy.directory",
    "spec.strategy.onChange",
    "spec.successfulRunsHistoryLimit",
    "spec.suspend",
    "spec.target.container",
    "spec.target.exclude",
    "spec.target.include",
    "spec.target.name",
    "spec.target.namespace",
    "spec.target.path",
    "spec.target.podSelector.matchExpressions.key",
    "spec.target.podSelector.matchExpressions.operator",
    "spec.target.podSelector.matchExpressions.values",
    "spec.target.podSelector.matchLabels",
    "spec.timeZone",
    // Belong to another strategy or destination type, and are refused as such: see the table of what does not hold.
    "spec.strategy.image",
    "spec.strategy.via",
];

#[test]
fn no_field_of_the_schema_is_passed_over_in_silence() {
    let [definition, _] = api::definitions().expect("our own schema");
    let schema = serde_json::to_value(&definition.spec.versions[0].schema).expect("JSON");
    let mut leaves = BTreeSet::new();
    collect("spec", &schema["openAPIV3Schema"]["properties"]["spec"], &mut leaves);
    let mut known: BTreeSet<String> = IMPLEMENTED.iter().map(ToString::to_string).collect();
    for (path, value, _) in not_implemented() {
        keys(path, &value, &mut known);
    }
    let forgotten: Vec<_> =
        leaves.iter().filter(|leaf| !known.contains(*leaf) && !leaf.starts_with("spec.destinations.")).collect();
    assert!(leaves.len() > 80, "{} leaves only", leaves.len());
    assert!(forgotten.is_empty(), "neither implemented nor refused: {forgotten:#?}");
    let gone: Vec<_> = IMPLEMENTED.iter().filter(|path| !leaves.contains(**path)).collect();
    assert!(gone.is_empty(), "no longer in the schema: {gone:#?}");
}

fn collect(path: &str, schema: &Value, leaves: &mut BTreeSet<String>) {
    let inner = if schema["items"]["properties"].is_object() { &schema["items"] } else { schema };
    match inner["properties"].as_object() {
        Some(properties) => {
            for (name, inner) in properties {
                collect(&format!("{path}.{name}"), inner, leaves);
            }
        }
        None => {
            leaves.insert(path.to_owned());
        }
    }
}

/// `path` and every path below it that `value` has.
fn keys(path: &str, value: &Value, known: &mut BTreeSet<String>) {
    known.insert(path.to_owned());
    for element in value.as_array().into_iter().flatten() {
        keys(path, element, known);
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        keys(&format!("{path}.{name}"), inner, known);
    }
}

proptest::proptest! {
    // Whatever the API server may hold, an answer comes back.
    #[test]
    fn nothing_panics(
        name in ".{0,60}", path in ".{0,30}", uri in ".{0,40}", command in ".{0,40}", schedule in ".{0,20}",
        zone in ".{0,20}", key in ".{0,80}", value in ".{0,40}",
    ) {
        let mut document = example();
        set(&mut document, "metadata.name", json!(name));
        set(&mut document, "spec.target.path", json!(path));
        set(&mut document, "spec.destination.uri", json!(uri));
        set(&mut document, "spec.destination.options", json!({ key: value }));
        set(&mut document, "spec.strategy.command", json!(command));
        set(&mut document, "spec.schedule", json!(schedule));
        set(&mut document, "spec.timeZone", json!(zone));
        let _ = validate(&serde_json::from_value(document).expect("a BackupJob"));
    }
}
