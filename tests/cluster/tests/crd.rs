//! The schemas of the custom resources, on a real API server: every rule refuses what it says, nothing good is refused or
//! changed, and what people type works.

mod installed;

use anyhow::{Result, bail, ensure};
use installed::{Installed, Refusal, set, until, with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use ubo::api::backup_job::BackupJob;
use ubo::validate::validate;

const JOBS: &str = "backupjobs";

/// What is refused, and what the answer must say.
fn refused() -> Vec<(Value, &'static str)> {
    let named = |destination: Value| {
        let mut job = with("spec.destination", Value::Null);
        set(&mut job, "spec.destinations", json!([destination]));
        job
    };
    let both = |path: &str, value: Value, path2: &str, value2: Value| {
        let mut job = with(path, value);
        set(&mut job, path2, value2);
        job
    };
    let destination = |value: Value| with("spec.destination", value);
    let copy = |value: Value| with("spec.strategy", value);
    vec![
        (with("metadata.name", json!("a".repeat(50))), "metadata.name must have at most 49 characters"),
        (with("spec.destination", Value::Null), "exactly one of destination and destinations"),
        (
            with("spec.destinations", json!([{ "name": "a", "type": "s3", "uri": "s3://bucket" }])),
            "exactly one of destination and destinations",
        ),
        (with("spec.strategy", Value::Null), "spec.strategy: Required value"),
        (with("spec.target", Value::Null), "spec.target: Required value"),
        (with("spec.target.kind", json!("Job")), "Unsupported value: \"Job\""),
        (with("spec.target.path", json!("data")), "must be an absolute path"),
        (with("spec.target.path", json!("/a/../b")), "must not have a segment .."),
        (with("spec.target.path", json!("/..")), "must not have a segment .."),
        (with("spec.strategy.directory", json!("backup")), "must be an absolute path"),
        (with("spec.strategy.directory", json!("/a/..")), "must not have a segment .."),
        (
            both(
                "spec.target",
                json!({ "kind": "PVC", "name": "data", "container": "x" }),
                "spec.strategy",
                json!({ "type": "copy" }),
            ),
            "a claim has no container",
        ),
        (
            both(
                "spec.target",
                json!({ "kind": "Pod", "name": "data", "pods": "Each" }),
                "spec.strategy.output",
                Value::Null,
            ),
            "has none to choose from",
        ),
        (
            with(
                "spec.target",
                json!({ "kind": "Pod", "name": "data", "podSelector": { "matchLabels": { "a": "b" } } }),
            ),
            "has none to choose from",
        ),
        (with("spec.target", json!({ "kind": "PVC", "name": "data" })), "a dump runs in a container"),
        (with("spec.target.include", json!(["*.sql"])), "belong to strategy copy"),
        (with("spec.target.exclude", json!(["*.sql"])), "belong to strategy copy"),
        (
            both("spec.target.path", Value::Null, "spec.strategy", json!({ "type": "copy" })),
            "target.path is needed for copy and snapshot",
        ),
        (destination(json!({ "type": "s3" })), "uri is needed"),
        (destination(json!({ "type": "custom" })), "command is needed with type custom"),
        (destination(json!({ "type": "s3", "uri": "s3://b/x", "command": "cat" })), "belong to type custom"),
        (destination(json!({ "type": "s3", "uri": "gs://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "gcs", "uri": "s3://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "azure", "uri": "s3://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "nfs", "uri": "s3://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "local", "uri": "s3://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "git", "uri": "s3://b/x" })), "type and uri must agree"),
        (destination(json!({ "type": "s3", "uri": "s3://user:pw@b/x" })), "uri must not hold a user or password"),
        (
            destination(json!({ "type": "git", "uri": "https://user:pw@host/a.git" })),
            "uri must not hold a user or password",
        ),
        (
            destination(json!({ "type": "git", "uri": "ssh://git:pw@host/a.git" })),
            "uri must not hold a user or password",
        ),
        (destination(json!({ "type": "s3", "uri": "s3://b/x?region=y" })), "uri must not hold a query"),
        (destination(json!({ "type": "s3", "uri": "s3://b/../x" })), "uri must not have a segment .."),
        (named(json!({ "name": "a", "type": "s3", "uri": "gs://b/x" })), "type and uri must agree"),
        (
            named(json!({ "name": "a", "type": "s3", "uri": "s3://b", "retention": {} })),
            "keeps nothing would delete every backup",
        ),
        (named(json!({ "name": "a".repeat(21), "type": "s3", "uri": "s3://b" })), "may not be more than 20"),
        (
            with(
                "spec.destination.options",
                (0..33).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into(),
            ),
            "must have at most 32 items",
        ),
        (with("spec.archiveName", json!("/x")), "must be a relative path"),
        (with("spec.archiveName", json!("a/../x")), "must be a relative path"),
        (with("spec.strategy", json!({ "type": "dump" })), "command is needed with type dump and custom"),
        (copy(json!({ "type": "copy", "command": "x" })), "command belongs to type dump and custom"),
        (
            copy(json!({ "type": "copy", "output": "Stdout" })),
            "output, directory and allowUncheckedPipes belong to type dump",
        ),
        (
            copy(json!({ "type": "copy", "directory": "/backup" })),
            "output, directory and allowUncheckedPipes belong to type dump",
        ),
        (
            copy(json!({ "type": "copy", "allowUncheckedPipes": true })),
            "output, directory and allowUncheckedPipes belong to type dump",
        ),
        (with("spec.strategy.image", json!("x")), "image belongs to type custom"),
        (with("spec.strategy.via", json!("Exec")), "via and onChange belong to type copy"),
        (with("spec.strategy.onChange", json!("Fail")), "via and onChange belong to type copy"),
        (with("spec.schedule", json!("TZ=UTC 0 2 * * *")), "the time zone is set in timeZone"),
        (with("spec.schedule", json!("CRON_TZ=UTC 0 2 * * *")), "the time zone is set in timeZone"),
        (with("spec.verify", json!({ "schedule": "TZ=UTC @daily" })), "the time zone is set in timeZone"),
        (with("spec.timeZone", json!("")), "must be an IANA name"),
        (with("spec.retention", json!({ "keepLast": 0, "secretRef": "x" })), "keeps nothing would delete every backup"),
        (with("spec.retention", json!({ "keepWithin": "0d" })), "should match"),
        (with("spec.encryption", json!({ "identitySecretRef": "x" })), "recipients is needed"),
        (with("spec.encryption", json!({ "recipients": ["age1x"] })), "spec.encryption"),
        (with("spec.encryption", json!({ "recipients": ["AGE-SECRET-KEY-1X"] })), "never stand here"),
        (with("spec.guard", json!({ "minimumSize": "-1" })), "should match"),
        (with("spec.retry", json!({ "limit": 21 })), "should be less than or equal to 20"),
        (
            with(
                "spec.notify",
                json!([{ "name": "a", "type": "Slack", "secretRef": "x" }, { "name": "a", "type": "Slack", "secretRef": "x" }]),
            ),
            "Duplicate value",
        ),
        (with("spec.surprise", json!(1)), "unknown field \"spec.surprise\""),
    ]
}

/// Every message of every rule in the definition of BackupJob that can refuse a creation.
fn messages() -> BTreeSet<String> {
    fn gather(value: &Value, all: &mut BTreeSet<String>) {
        for rule in value["x-kubernetes-validations"].as_array().into_iter().flatten() {
            if !rule["rule"].as_str().unwrap_or_default().contains("oldSelf") {
                all.insert(rule["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|value| gather(value, all)),
            Value::Array(elements) => elements.iter().for_each(|value| gather(value, all)),
            _ => {}
        }
    }
    let [job, _] = ubo::api::definitions().expect("our own schema");
    let mut all = BTreeSet::new();
    gather(&serde_json::to_value(job).expect("JSON"), &mut all);
    all
}

/// Whether the operator's own validation would let the job run, had an older schema let it in. (What the schema does not
/// know is pruned before the operator sees it.)
fn validator_admits(job: &Value) -> bool {
    let mut job = job.clone();
    let known = job["spec"]["surprise"].is_null();
    for (field, value) in [
        ("metadata.namespace", "default"),
        ("metadata.uid", "7c0e4f0e-6a9c-4b8f-9a55-0d5f3c1b2a01"),
        ("metadata.creationTimestamp", "2026-11-20T10:00:00Z"),
    ] {
        set(&mut job, field, value.into());
    }
    known && serde_json::from_value::<BackupJob>(job).is_ok_and(|job| validate(&job).is_ok())
}

#[tokio::test]
async fn every_rule_refuses_what_it_says() -> Result<()> {
    let installed = Installed::get().await?;
    let mut unused = messages();
    ensure!(unused.len() > 20, "{} messages only", unused.len());
    for (job, expected) in refused() {
        let Err(Refusal { code, message }) = installed.create(JOBS, "default", &job).await? else {
            bail!("admitted: {job}");
        };
        ensure!(code == 422 || code == 400, "{code} {message}: {job}");
        ensure!(message.contains(expected), "{expected:?} is not said of {job}: {message}");
        unused.retain(|text| !message.contains(text.as_str()));
        ensure!(!validator_admits(&job), "the operator would run what the API server refuses: {job}");
    }
    ensure!(unused.is_empty(), "rules that no case here breaks: {unused:#?}");
    Ok(())
}

/// A BackupJob in which every field of the schema that can stand beside the others is set.
fn everything() -> Value {
    json!({
        "apiVersion": "backup.javy.dev/v1",
        "kind": "BackupJob",
        "metadata": { "name": "a".repeat(49) },
        "spec": {
            "target": {
                "kind": "Deployment", "name": "web", "namespace": "default", "path": "/srv", "container": "app", "pods": "Each",
                "podSelector": { "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "x", "operator": "In", "values": ["y"] }] },
                "include": ["*.txt"], "exclude": ["/tmp/"], "selector": { "matchLabels": { "a": "b" } },
            },
            "destinations": [
                { "name": "one", "type": "s3", "uri": "s3://bucket/x", "secretRef": "x", "options": { "region": "y" }, "bandwidthLimit": "10Mi", "retention": { "keepLast": 3 } },
                { "name": "two", "type": "gcs", "uri": "gs://bucket/x" },
                { "name": "three", "type": "azure", "uri": "az://bucket/x" },
                { "name": "four", "type": "git", "uri": "git@host:team/repo.git" },
                { "name": "five", "type": "git", "uri": "ssh://git@host/team/repo.git" },
                { "name": "six", "type": "nfs", "uri": "nfs://host/export" },
                { "name": "seven", "type": "local", "uri": "pvc://claim/path" },
                { "name": "eight", "type": "custom", "image": "x", "command": "x", "listCommand": "x", "readCommand": "x", "deleteCommand": "x" },
            ],
            "archiveName": "some/where",
            "strategy": {
                "type": "copy", "before": { "command": "x", "timeoutSeconds": 5 }, "after": { "command": "x" }, "via": "Exec", "onChange": "Fail",
            },
            "schedule": "H 2 * * 1-5", "timeZone": "Europe/Berlin", "startingDeadlineSeconds": 60, "concurrencyPolicy": "Replace",
            "suspend": true, "missedRuns": "Skip", "jitterSeconds": 60, "activeDeadlineSeconds": 60,
            "retry": { "limit": 0, "backoffSeconds": 600 },
            "retention": { "keepLast": 1, "keepHourly": 1, "keepDaily": 1, "keepWeekly": 1, "keepMonthly": 1, "keepYearly": 1, "keepWithin": "30d", "secretRef": "x" },
            "guard": { "minimumSize": 1024, "maximumShrinkPercent": 10, "maximumStagedSize": "1.5Gi", "allowEmpty": true, "allowLiveDatabase": true },
            "compression": { "level": 19 },
            "encryption": { "recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"], "identitySecretRef": "x" },
            "verify": { "schedule": "@weekly", "depth": "Data", "restore": { "any": { "thing": 1 } } },
            "notify": [{ "name": "x", "type": "Webhook", "on": ["Failure", "Recovery"], "secretRef": "x" }],
            "runner": {
                "place": "Pod", "resources": { "requests": { "cpu": "50m", "memory": 1_000_000 }, "limits": { "memory": "1Gi" } },
                "nodeSelector": { "a": "b" }, "affinity": { "nodeAffinity": { "any": ["thing"] } },
                "tolerations": [{ "key": "x", "operator": "Equal", "value": "y", "effect": "NoExecute", "tolerationSeconds": 5 }],
                "securityContext": { "runAsUser": 5 }, "labels": { "a": "b" }, "annotations": { "a": "b" },
                "imagePullSecrets": ["x"], "priorityClassName": "x", "runtimeClassName": "x", "image": "x",
            },
            "serviceAccountName": "x", "successfulRunsHistoryLimit": 0, "failedRunsHistoryLimit": 0, "deletionPolicy": "Delete",
        },
    })
}

#[tokio::test]
async fn what_is_good_is_stored_as_it_was_written() -> Result<()> {
    let installed = Installed::get().await?;
    let mut cases = vec![everything(), with("spec.schedule", Value::Null), with("spec.target.kind", json!("PVC"))];
    set(&mut cases[2], "spec.strategy", json!({ "type": "copy" }));
    // Written defaults stay, and fields that were not written stay away.
    let mut defaults = with("spec.strategy.output", json!("Auto"));
    for (path, value) in [
        ("spec.strategy.via", json!("Auto")),
        ("spec.strategy.onChange", json!("Warn")),
        ("spec.strategy.allowUncheckedPipes", json!(false)),
        ("spec.target.pods", json!("First")),
        ("spec.target.include", json!([])),
        ("spec.destinations", json!([])),
        ("spec.concurrencyPolicy", json!("Forbid")),
    ] {
        set(&mut defaults, path, value);
    }
    cases.push(defaults);
    for strategy in [json!({ "type": "snapshot" }), json!({ "type": "custom", "image": "x", "command": "y" })] {
        cases.push(with("spec.strategy", strategy));
    }
    for job in cases {
        match installed.create(JOBS, "default", &job).await? {
            Ok(stored) => ensure!(stored["spec"] == job["spec"], "stored as {stored}, written as {job}"),
            Err(refusal) => bail!("{}: {job}", refusal.message),
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_changed() -> Result<()> {
    let installed = Installed::get().await?;
    let namespace = installed.namespace("crd").await?;
    let at = |plural: &str| format!("/apis/backup.javy.dev/v1/namespaces/{namespace}/{plural}");

    let named = with("spec.archiveName", json!("here"));
    let mut unnamed = with("metadata.name", json!("unnamed"));
    set(&mut unnamed, "spec.suspend", json!(true));
    for job in [&named, &unnamed] {
        ensure!(installed.post(&at(JOBS), job).await?.is_ok(), "{job}");
    }
    for (name, change) in
        [("postgres-daily-backup", json!("there")), ("postgres-daily-backup", Value::Null), ("unnamed", json!("there"))]
    {
        let patch = json!({ "spec": { "archiveName": change } });
        match installed.merge(&format!("{}/{name}", at(JOBS)), &patch).await? {
            Err(refusal) => ensure!(refusal.message.contains("archiveName cannot be changed"), "{}", refusal.message),
            Ok(_) => bail!("{name}: archiveName was changed to {change}"),
        }
    }
    let patch = json!({ "spec": { "schedule": "@weekly" } });
    ensure!(installed.merge(&format!("{}/unnamed", at(JOBS)), &patch).await?.is_ok(), "the rest can be changed");

    let run = json!({ "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": { "name": "by-hand" }, "spec": { "backupJobName": "unnamed" } });
    // What can be no BackupJob's name would never be answered.
    let mistyped = json!({ "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun", "metadata": { "name": "mistyped" }, "spec": { "backupJobName": "Unnamed" } });
    match installed.post(&at("backupruns"), &mistyped).await? {
        Err(refusal) => ensure!(refusal.message.contains("spec.backupJobName"), "{}", refusal.message),
        Ok(_) => bail!("a run of a BackupJob that no cluster can have"),
    }
    ensure!(installed.post(&at("backupruns"), &run).await?.is_ok(), "a run");
    for patch in [
        json!({ "spec": { "backupJobName": "another" } }),
        json!({ "spec": { "backupJobName": null } }),
        json!({ "spec": { "scheduledAt": "2026-11-24T02:00:00Z" } }),
    ] {
        ensure!(installed.merge(&format!("{}/by-hand", at("backupruns")), &patch).await?.is_err(), "changed: {patch}");
    }
    let cancel = json!({ "spec": { "cancel": true } });
    ensure!(
        installed.merge(&format!("{}/by-hand", at("backupruns")), &cancel).await?.is_ok(),
        "a run can be cancelled"
    );

    // A run is found by its job, and both kinds by the words that people type.
    let found = installed
        .kubectl(&["get", "br", "-n", &namespace, "--field-selector", "spec.backupJobName=unnamed"], "")
        .await?;
    ensure!(found.contains("by-hand") && found.contains("DURATION"), "{found}");
    let none =
        installed.kubectl(&["get", "br", "-n", &namespace, "--field-selector", "spec.backupJobName=other"], "").await?;
    ensure!(!none.contains("by-hand"), "{none}");
    // The operator lives: it refuses the run (its namespace has not opted in), or has seen the wish to cancel before that.
    let by_phase = |kind: &'static str, phase: &'static str| {
        let (installed, namespace) = (&installed, &namespace);
        async move {
            let selector = format!("status.phase={phase}");
            installed.kubectl(&["get", kind, "-n", namespace, "--field-selector", &selector], "").await
        }
    };
    until("the run to be found by its phase", || async {
        let found = by_phase("br", "Failed").await? + &by_phase("br", "Cancelled").await?;
        Ok(found.contains("by-hand").then_some(()))
    })
    .await?;
    for (kind, phase) in [("br", "Succeeded"), ("bj", "Succeeded")] {
        let none = by_phase(kind, phase).await?;
        ensure!(none.is_empty(), "{kind} {phase}: {none}");
    }
    let jobs = installed.kubectl(&["get", "bj", "-n", &namespace, "-o", "wide"], "").await?;
    for column in [
        "TARGET",
        "SCHEDULE",
        "PHASE",
        "LAST SUCCESS",
        "NEXT RUN",
        "SIZE",
        "AGE",
        "CONSISTENCY",
        "DESTINATION",
        "MESSAGE",
    ] {
        ensure!(jobs.contains(column), "no column {column}: {jobs}");
    }
    let both = installed.kubectl(&["get", "backup", "-n", &namespace], "").await?;
    ensure!(
        both.contains("backupjob.backup.javy.dev/unnamed") && both.contains("backuprun.backup.javy.dev/by-hand"),
        "{both}"
    );
    let all = installed.kubectl(&["get", "all", "-n", &namespace], "").await?;
    ensure!(!all.contains("backup.javy.dev"), "not part of `all`: {all}");
    installed.remove_namespace(&namespace).await
}

#[tokio::test]
async fn applying_twice_changes_nothing() -> Result<()> {
    let installed = Installed::get().await?;
    let namespace = installed.namespace("crd").await?;
    let path = |manager: &str| {
        format!(
            "/apis/backup.javy.dev/v1/namespaces/{namespace}/backupjobs/postgres-daily-backup?fieldManager={manager}"
        )
    };
    let applied = async |manager: &str, job: &Value| match installed.server_side_apply(&path(manager), job).await? {
        Ok(stored) => Ok(stored),
        Err(refusal) => bail!("{}", refusal.message),
    };
    let mut job = with("spec.destinations", Value::Null);
    set(&mut job, "metadata.namespace", json!(namespace));
    set(&mut job, "spec.notify", json!([{ "name": "one", "type": "Slack", "secretRef": "x" }]));
    let first = applied("git", &job).await?;
    ensure!(first["spec"] == job["spec"], "nothing is added: {}", first["spec"]);
    let second = applied("git", &job).await?;
    // Not the resourceVersion: an operator that is alive writes the status meanwhile. What an apply writes has a new time
    // in the list of who manages what.
    let written = |object: &Value, manager: &str| {
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries.into_iter().find(|entry| entry["manager"] == manager && entry["subresource"].is_null())
    };
    ensure!(
        first["metadata"]["generation"] == second["metadata"]["generation"]
            && written(&first, "git").is_some()
            && written(&first, "git") == written(&second, "git"),
        "applied twice, written twice"
    );
    // Somebody else adds an element to a list that is a map, and both stay.
    let other = json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "metadata": { "name": "postgres-daily-backup" },
        "spec": { "notify": [{ "name": "two", "type": "Webhook", "secretRef": "y" }] },
    });
    let both = applied("person", &other).await?;
    ensure!(both["spec"]["notify"].as_array().map(Vec::len) == Some(2), "{}", both["spec"]["notify"]);
    let again = applied("git", &job).await?;
    ensure!(again["spec"]["notify"].as_array().map(Vec::len) == Some(2), "{}", again["spec"]["notify"]);
    installed.remove_namespace(&namespace).await
}

#[tokio::test]
async fn explain_reads_well() -> Result<()> {
    let installed = Installed::get().await?;
    for (path, words) in [
        ("bj.spec.target.path", "Absolute path of a directory or file"),
        ("bj.spec.destination.secretRef", "AWS_ACCESS_KEY_ID"),
        ("bj.spec.notify", "Who is told about runs"),
        ("bj.status.conditions.reason", "One word out of a closed set"),
        ("br.spec.cancel", "The one field that can be changed"),
        ("br.status.attempts.number", "Counted from 1"),
    ] {
        let said = installed::until("the schema to be published", || async {
            Ok(installed.kubectl(&["explain", path], "").await.ok().filter(|said| !said.is_empty()))
        })
        .await?;
        // kubectl breaks the lines.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(said.contains(words), "{path}: {said}");
    }
    Ok(())
}
