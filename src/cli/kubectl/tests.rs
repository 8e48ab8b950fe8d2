use super::*;
use crate::cli::kubectl::show::*;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

fn now() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn job(name: &str, status: &Value) -> BackupJob {
    serde_json::from_value(json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "target": {"kind": "StatefulSet", "name": "postgres"},
            "strategy": {"type": "dump", "command": "pg_dumpall"},
            "destination": {"type": "s3", "uri": "s3://backups/p"}, "schedule": "@daily",
        },
        "status": status,
    }))
    .unwrap()
}

fn run(name: &str, status: &Value) -> BackupRun {
    serde_json::from_value(json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-11-24T09:00:00Z"},
        "spec": {"backupJobName": "pg"}, "status": status,
    }))
    .unwrap()
}

fn says(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": format!("about {reason}"),
           "lastTransitionTime": "2026-11-24T11:00:00Z"})
}

#[test]
fn ages_as_kubectl_shows_them() {
    for (seconds, text) in [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (192, "3m12s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (86_400 * 8, "8d"),
        (86_400 * 729, "729d"),
        (86_400 * 731, "2y1d"),
        (86_400 * 365 * 9, "9y"),
    ] {
        assert_eq!(age(TimeDelta::seconds(seconds)), text, "{seconds}");
    }
}

#[test]
fn tables_have_kubectls_columns() {
    let mut runs = vec![
        run(
            "pg-maaaaa",
            &json!({"phase": "Succeeded", "startTime": "2026-11-24T11:59:00Z", "duration": "3s", "size": "2.0Ki"}),
        ),
        run(
            "pg-20261124-1130",
            &json!({"phase": "Failed", "reason": "CommandFailed", "startTime": "2026-11-24T11:30:00Z",
                                         "message": "exit code 3:\n no such table"}),
        ),
        run("pg-mbbbbb", &json!(null)),
    ];
    newest_first(&mut runs);
    assert_eq!(
        run_table(&runs, false, false, now()),
        "NAME               JOB   PHASE       REASON          STARTED   DURATION   SIZE\n\
         pg-maaaaa          pg    Succeeded                   60s       3s         2.0Ki\n\
         pg-20261124-1130   pg    Failed      CommandFailed   30m\n\
         pg-mbbbbb          pg    Pending\n"
    );
    let wide = run_table(&runs, true, true, now());
    assert!(wide.starts_with("NAMESPACE   NAME ") && wide.lines().next().unwrap().ends_with("CONSISTENCY   MESSAGE"));
    assert!(wide.contains("exit code 3: no such table") && wide.lines().count() == 4, "{wide}");
}

#[test]
fn status_says_whether_all_is_well() {
    let ready = says("Ready", "True", "Ready");
    for (conditions, phase, code) in [
        (json!([ready, says("Healthy", "True", "BackupSucceeded")]), "Succeeded", Verdict::Good),
        (json!([ready, says("Healthy", "Unknown", "NoBackupYet")]), "Scheduled", Verdict::Good),
        (json!([]), "Pending", Verdict::Good),
        (json!([ready, says("Healthy", "False", "CommandFailed")]), "Failed", Verdict::Failed),
        (json!([ready, says("Healthy", "False", "SourceIncomplete")]), "Incomplete", Verdict::Incomplete),
        (json!([ready, says("Healthy", "False", "BackupShrunk")]), "Succeeded", Verdict::Incomplete),
        (json!([says("Ready", "False", "NotSupported"), says("Healthy", "True", "x")]), "NotReady", Verdict::Failed),
    ] {
        let job = job("pg", &json!({"conditions": conditions, "phase": phase}));
        assert_eq!(verdict(&job), code, "{conditions}");
        assert_eq!(complaint(&job).is_some(), code != Verdict::Good, "{conditions}");
    }
    let job = job(
        "pg",
        &json!({"conditions": [ready, says("Healthy", "False", "CommandFailed")], "phase": "Failed",
                                "lastSuccessTime": "2026-11-24T10:00:00Z", "nextRunTime": "2026-11-25T00:00:00Z"}),
    );
    assert_eq!(
        job_table(std::slice::from_ref(&job), false, false, now()),
        "NAME   READY   HEALTHY   PHASE    LAST SUCCESS   NEXT RUN               SIZE\n\
         pg     True    False     Failed   120m           2026-11-25T00:00:00Z\n"
    );
    let complaint = complaint(&job).unwrap();
    assert!(
        complaint.contains("CommandFailed") && complaint.contains("kubectl backup describe pg -n shop"),
        "{complaint}"
    );
}

#[test]
fn everything_is_described_with_the_next_command() {
    let at_work = run(
        "pg-maaaaa",
        &json!({"phase": "Running", "startTime": "2026-11-24T11:59:00Z", "bytesRead": 2048, "executor": "op-x",
                     "attempts": [{"number": 1, "startTime": "2026-11-24T11:59:00Z"}],
                     "conditions": [says("Complete", "False", "Running")]}),
    );
    let text = describe_run(&at_work, now());
    for word in ["Phase:", "2.0Ki", "at work", "kubectl backup cancel pg-maaaaa", "about Running"] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    let good = run(
        "pg-mbbbbb",
        &json!({"phase": "Succeeded", "size": "1.0Ki", "duration": "2s", "shrunk": "holds 10, 90 % less",
                     "destinations": [{"name": "default", "phase": "Succeeded", "folder": "shop/pg/x-1",
                                       "objects": [{"name": "dump.zst", "size": 7, "digest": "ab"}]}]}),
    );
    let text = describe_run(&good, now());
    assert!(
        text.contains("shop/pg/x-1") && text.contains("dump.zst") && !text.contains("kubectl backup cancel"),
        "{text}"
    );
    assert_eq!(
        result(&good),
        "pg-mbbbbb: Succeeded in 2s, 1.0Ki stored\n\
         BackupShrunk: holds 10, 90 % less. If that is right: kubectl backup accept pg pg-mbbbbb\n"
    );
    let status = json!({"conditions": [says("Ready", "True", "Ready")], "phase": "Scheduled"});
    assert!(describe_job(&job("pg", &status), &[], now()).contains("kubectl backup run pg --wait"));
    let many: Vec<BackupRun> = (0..12).map(|n| run(&format!("pg-m{n}"), &json!({"phase": "Succeeded"}))).collect();
    assert!(describe_job(&job("pg", &status), &many, now()).contains("and 2 older ones: kubectl backup list pg"));
}

#[test]
fn only_what_shrank_is_accepted() {
    let small = run("pg-msmall", &json!({"phase": "Succeeded", "shrunk": "holds 1"}));
    let good = run("pg-mgoods", &json!({"phase": "Succeeded"}));
    let runs = [small, good];
    let complains =
        job("pg", &json!({"conditions": [says("Healthy", "False", "BackupShrunk")], "lastSuccessfulRun": "pg-mgone"}));
    let content = job(
        "pg",
        &json!({"conditions": [says("Healthy", "True", "BackupSucceeded")], "lastSuccessfulRun": "pg-mgoods"}),
    );
    assert_eq!(to_accept(&complains, &runs, None).unwrap(), "pg-mgone", "its run may have been pruned");
    assert_eq!(to_accept(&complains, &[], Some("pg-mgone")).unwrap(), "pg-mgone");
    assert_eq!(to_accept(&content, &runs, Some("pg-msmall")).unwrap(), "pg-msmall");
    for (job, said, word) in [
        (&content, None, "nothing to accept"),
        (&content, Some("pg-mgoods"), "not flagged"),
        (&complains, Some("pg-mother"), "kubectl backup list pg"),
    ] {
        let failure = to_accept(job, &runs, said).unwrap_err();
        assert!(failure.message.contains(word), "{failure}");
    }
}

#[test]
fn a_run_by_hand_is_named_as_the_admission_policy_wants_it() {
    let letters = random_letters();
    assert!(letters.len() == 5 && letters.bytes().all(|b| b.is_ascii_lowercase()));
    let run = manual_run("pg", &letters, "shop");
    assert_eq!(run.name_any(), format!("pg-m{letters}"));
    let text = serde_json::to_value(&run).unwrap();
    assert_eq!(text["spec"], json!({"backupJobName": "pg"}));
    assert_eq!(text["kind"], "BackupRun");
}

#[test]
fn errors_name_the_next_command() {
    let api = |code: u16, reason: &str| {
        kube::Error::Api(Box::new(kube::core::Status {
            code,
            reason: reason.into(),
            message: "the server says so".into(),
            ..kube::core::Status::default()
        }))
    };
    for (error, reason, word) in [
        (api(401, "Unauthorized"), Reason::Forbidden, "kubectl config get-contexts"),
        (api(403, "Forbidden"), Reason::Forbidden, "kubectl auth can-i create backupruns.backup.javy.dev -n shop"),
        (api(404, "NotFound"), Reason::ClusterUnavailable, "ubo install"),
        (api(422, "Invalid"), Reason::InvalidSpec, "the server says so"),
        (api(503, "ServiceUnavailable"), Reason::ClusterUnavailable, "now: the server says so"),
    ] {
        let failure = cluster::failure("create", "backupruns", "shop", &error);
        assert_eq!(failure.reason, reason);
        assert!(failure.message.contains(word), "{failure}");
    }
}
