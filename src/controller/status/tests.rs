use super::*;
use serde_json::{Value, json};

fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("RFC 3339").with_timezone(&Utc)
}

fn job(suspend: bool) -> BackupJob {
    serde_json::from_value(json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob",
        "metadata": {"name": "pg", "namespace": "default", "generation": 3},
        "spec": {
            "target": {"kind": "StatefulSet", "name": "postgres"},
            "strategy": {"type": "dump", "command": "pg_dumpall"},
            "destination": {"type": "s3", "uri": "s3://backups/p"},
            "schedule": "@daily", "suspend": suspend,
        },
    }))
    .expect("a job")
}

fn run(name: &str, status: &Value) -> Arc<BackupRun> {
    let run = json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-11-24T09:00:00Z"},
        "spec": {"backupJobName": "pg"}, "status": status,
    });
    Arc::new(serde_json::from_value(run).expect("a run"))
}

fn ended(name: &str, start: &str, phase: &str) -> Arc<BackupRun> {
    run(
        name,
        &json!({"phase": phase, "startTime": start, "message": format!("{name} is {phase}"), "reason": "CommandFailed",
                     "exitCode": i32::from(phase != "Succeeded"), "bytesStored": 2048}),
    )
}

fn of(job: &BackupJob, readiness: &Readiness, runs: &[Arc<BackupRun>], old: &BackupJobStatus) -> BackupJobStatus {
    let next_run = Some(at("2026-11-25T00:00:00Z"));
    derive(Facts { job, readiness, runs, next_run, now: at("2026-11-24T12:00:00Z") }, old)
}

fn phase(readiness: &Readiness, runs: &[Arc<BackupRun>], suspend: bool) -> Option<JobPhase> {
    of(&job(suspend), readiness, runs, &BackupJobStatus::default()).phase
}

#[test]
fn the_phase_is_the_first_that_holds() {
    let refused = Readiness::NotReady(Failure::new(Reason::InvalidSchedule, "x"));
    let working = || run("pg-m2", &json!({"phase": "Running", "startTime": "2026-11-24T11:00:00Z"}));
    let waiting = || run("pg-m3", &json!({"phase": "Pending"}));
    let failed = || ended("pg-m1", "2026-11-24T10:00:00Z", "Failed");
    let ready = Readiness::Ready;
    assert_eq!(phase(&refused, &[working()], true), Some(JobPhase::NotReady));
    assert_eq!(phase(&ready, &[failed(), working(), waiting()], true), Some(JobPhase::Running));
    assert_eq!(phase(&Readiness::Unknown, &[failed()], true), Some(JobPhase::Pending));
    assert_eq!(phase(&ready, &[failed(), waiting()], true), Some(JobPhase::Pending));
    assert_eq!(phase(&ready, &[failed()], true), Some(JobPhase::Suspended));
    assert_eq!(phase(&ready, &[failed()], false), Some(JobPhase::Failed));
    assert_eq!(phase(&ready, &[], false), Some(JobPhase::Scheduled));
}

#[test]
fn the_last_run_is_told_and_an_older_success_stays() {
    let good = ended("pg-m1", "2026-11-24T10:00:00Z", "Succeeded");
    let first = of(&job(false), &Readiness::Ready, std::slice::from_ref(&good), &BackupJobStatus::default());
    assert_eq!((first.last_exit_code, first.last_size.as_deref()), (Some(0), Some("2.0Ki")));
    assert!(conditions::holds(&first.conditions, "Healthy") && conditions::holds(&first.conditions, "Ready"));
    // The success was pruned meanwhile; a failure came.
    let bad = ended("pg-m2", "2026-11-24T11:00:00Z", "Failed");
    let second = of(&job(false), &Readiness::Ready, &[bad], &first);
    assert_eq!((second.last_job_name.as_deref(), second.last_exit_code), (Some("pg-m2"), Some(1)));
    assert_eq!(second.last_successful_run.as_deref(), Some("pg-m1"));
    assert_eq!(second.last_success_time, first.last_success_time);
    assert_eq!(second.message.as_deref(), Some("pg-m2 is Failed"));
    assert!(!conditions::holds(&second.conditions, "Healthy"));
    // And when all runs are gone, what was known stays.
    let third = of(&job(false), &Readiness::Ready, &[], &second);
    assert!(!conditions::holds(&third.conditions, "Healthy"));
    assert_eq!(third.last_job_name.as_deref(), Some("pg-m2"));
}

#[test]
fn of_two_runs_in_one_second_the_later_one_is_told() {
    let written = |name: &str, version: &str, phase: &str| {
        let mut run = BackupRun::clone(&ended(name, "2026-11-24T10:00:00Z", phase));
        run.metadata.resource_version = Some(version.to_owned());
        Arc::new(run)
    };
    let (first, second) = (written("pg-once", "998", "Failed"), written("pg-m1", "1003", "Succeeded"));
    for runs in [[first.clone(), second.clone()], [second, first]] {
        let status = of(&job(false), &Readiness::Ready, &runs, &BackupJobStatus::default());
        assert_eq!(status.last_job_name.as_deref(), Some("pg-m1"));
        assert!(conditions::holds(&status.conditions, "Healthy"));
        assert_eq!(recount(&runs, &stored(0, None)), 0);
    }
}

#[test]
fn an_incomplete_backup_is_no_success_and_a_cancelled_run_no_failure() {
    let good = ended("pg-m1", "2026-11-24T10:00:00Z", "Succeeded");
    let cancelled = ended("pg-m2", "2026-11-24T11:00:00Z", "Cancelled");
    let status = of(&job(false), &Readiness::Ready, &[good.clone(), cancelled.clone()], &BackupJobStatus::default());
    assert!(conditions::holds(&status.conditions, "Healthy"));
    assert_eq!(recount(&[good.clone(), cancelled.clone()], &stored(9, None)), 0);
    let part = ended("pg-m3", "2026-11-24T11:30:00Z", "Incomplete");
    let status = of(&job(false), &Readiness::Ready, &[good.clone(), part.clone()], &BackupJobStatus::default());
    assert!(!conditions::holds(&status.conditions, "Healthy"));
    assert_eq!(status.last_successful_run.as_deref(), Some("pg-m1"));
    assert_eq!(recount(&[good, cancelled, part], &stored(9, None)), 1);
}

#[test]
fn failures_that_were_pruned_are_not_forgotten() {
    let failed = |minute: u32| ended(&format!("pg-m{minute}"), &format!("2026-11-24T10:{minute:02}:00Z"), "Failed");
    assert_eq!(recount(&[failed(1), failed(2)], &stored(7, None)), 7);
    assert_eq!(recount(&[failed(1), failed(2)], &stored(1, None)), 2, "one ended while nobody looked");
    assert_eq!(recount(&[], &stored(4, None)), 4);
    // The success that they are counted from is there; of the failures since, some are not, or none.
    let good = ended("pg-m0", "2026-11-24T10:00:00Z", "Succeeded");
    let since = Some("2026-11-24T10:00:00Z");
    assert_eq!(recount(&[good.clone(), failed(7), failed(8)], &stored(7, since)), 7);
    assert_eq!(recount(&[good], &stored(5, since)), 5);
    // The success is not there, and failures from before it are.
    let since = Some("2026-11-24T10:30:00Z");
    assert_eq!(recount(&[failed(1), failed(2)], &stored(0, since)), 0);
    assert_eq!(recount(&[failed(1), failed(31)], &stored(0, since)), 1);
    // One that was not noted any more.
    let good = ended("pg-m40", "2026-11-24T10:40:00Z", "Succeeded");
    assert_eq!(recount(&[failed(39), good, failed(41)], &stored(9, since)), 1);
}

fn stored(failures: i64, last_success: Option<&str>) -> BackupJobStatus {
    BackupJobStatus {
        consecutive_failures: Some(failures),
        last_success_time: last_success.map(|time| to_time(at(time))),
        ..BackupJobStatus::default()
    }
}

#[test]
fn what_history_has_left_is_no_news() {
    let good = ended("pg-m1", "2026-11-24T10:00:00Z", "Succeeded");
    let bad = ended("pg-m2", "2026-11-24T11:00:00Z", "Failed");
    let job = job(false);
    // `failedRunsHistoryLimit: 0`: the failure is there for a moment, and then an older success alone.
    let failed = of(&job, &Readiness::Ready, &[good.clone(), bad.clone()], &BackupJobStatus::default());
    let after = of(&job, &Readiness::Ready, std::slice::from_ref(&good), &failed);
    assert!(!conditions::holds(&after.conditions, "Healthy"), "{after:?}");
    assert_eq!((after.phase.as_ref(), after.last_job_name.as_deref()), (Some(&JobPhase::Failed), Some("pg-m2")));
    assert_eq!((after.last_exit_code, after.message.as_deref()), (Some(1), Some("pg-m2 is Failed")));
    assert_eq!(after.last_run_time, failed.last_run_time);
    assert_eq!(after.last_successful_run.as_deref(), Some("pg-m1"));
    // `successfulRunsHistoryLimit: 0`: the other way round.
    let late = ended("pg-m3", "2026-11-24T11:30:00Z", "Succeeded");
    let succeeded = of(&job, &Readiness::Ready, &[bad.clone(), late], &after);
    let after = of(&job, &Readiness::Ready, std::slice::from_ref(&bad), &succeeded);
    assert!(conditions::holds(&after.conditions, "Healthy"), "{after:?}");
    assert_eq!((after.phase.as_ref(), after.message.as_deref()), (Some(&JobPhase::Succeeded), None));
    // A run that was overtaken by another one, which is still at work, is told when it ends.
    let slow = |phase: &str| {
        let end = "2026-11-24T11:40:00Z";
        run(
            "pg-m1",
            &json!({"phase": phase, "startTime": "2026-11-24T10:00:00Z", "completionTime": end, "message": "slow"}),
        )
    };
    let working = || run("pg-m3", &json!({"phase": "Running", "startTime": "2026-11-24T11:00:00Z"}));
    let before = of(&job, &Readiness::Ready, &[good.clone(), working()], &BackupJobStatus::default());
    assert!(conditions::holds(&before.conditions, "Healthy"));
    let after = of(&job, &Readiness::Ready, &[slow("Failed"), working()], &before);
    assert!(!conditions::holds(&after.conditions, "Healthy"), "{after:?}");
    assert_eq!(after.last_job_name.as_deref(), Some("pg-m3"));
    let alone = of(&job, &Readiness::Ready, &[slow("Succeeded")], &after);
    assert!(conditions::holds(&alone.conditions, "Healthy"), "{alone:?}");
    assert_eq!((alone.last_job_name.as_deref(), &alone.last_run_time), (Some("pg-m3"), &before.last_run_time));
    // A run that was begun by a clock that was ahead does not silence those that come after it.
    let ahead = ended("pg-m9", "2026-11-25T11:00:00Z", "Succeeded");
    let fooled = of(&job, &Readiness::Ready, &[ahead], &BackupJobStatus::default());
    let seen = of(&job, &Readiness::Ready, &[bad], &fooled);
    assert_eq!((seen.phase, seen.last_job_name.as_deref()), (Some(JobPhase::Failed), Some("pg-m2")));
}

#[test]
fn the_same_facts_give_the_same_status() {
    let runs = [ended("pg-m1", "2026-11-24T10:00:00Z", "Succeeded")];
    let once = of(&job(false), &Readiness::Ready, &runs, &BackupJobStatus::default());
    assert_eq!(of(&job(false), &Readiness::Ready, &runs, &once), once, "or it would be written for ever");
}

#[test]
fn retention_stops_in_a_foreign_archive_until_it_is_the_own() {
    let stored = |name: &str, start: &str, owner: Option<&str>| {
        let mut at = json!({"name": "default", "phase": "Succeeded"});
        if let Some(owner) = owner {
            at["foreignOwner"] = owner.into();
        }
        run(name, &json!({"phase": "Succeeded", "startTime": start, "destinations": [at]}))
    };
    let condition = |status: &BackupJobStatus| {
        let found = status.conditions.iter().find(|condition| condition.type_ == "RetentionStopped");
        found.map(|found| (found.status.clone(), found.reason.clone(), found.message.clone()))
    };
    let none = BackupJobStatus::default();
    let own = stored("pg-m1", "2026-11-24T09:00:00Z", None);
    assert_eq!(
        condition(&of(&job(false), &Readiness::Ready, std::slice::from_ref(&own), &none)),
        None,
        "nothing to say"
    );
    let foreign = stored("pg-m2", "2026-11-24T10:00:00Z", Some("c/j"));
    let failed = ended("pg-m3", "2026-11-24T11:00:00Z", "Failed");
    let status = of(&job(false), &Readiness::Ready, &[failed.clone(), own, foreign], &none);
    let (word, reason, message) = condition(&status).expect("a condition");
    assert_eq!((word.as_str(), reason.as_str()), ("True", "ForeignOwner"));
    assert!(
        message.contains("kubectl annotate backupjob pg -n default --overwrite backup.javy.dev/adopt=c/j"),
        "{message}"
    );
    // It stays when the run that said so was pruned, and ends with a backup that says otherwise.
    let status = of(&job(false), &Readiness::Ready, std::slice::from_ref(&failed), &status);
    assert!(conditions::holds(&status.conditions, "RetentionStopped"));
    let again = stored("pg-m4", "2026-11-24T11:30:00Z", None);
    let status = of(&job(false), &Readiness::Ready, &[failed, again], &status);
    assert_eq!(condition(&status).map(|found| found.0).as_deref(), Some("False"));
}

fn healthy(status: &BackupJobStatus) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == "Healthy").expect("a verdict").clone();
    (found.status, found.reason, found.message)
}

#[test]
fn a_backup_that_shrank_is_unhealthy_until_it_is_accepted() {
    let small = || {
        run(
            "pg-m1",
            &json!({"phase": "Succeeded", "startTime": "2026-11-24T10:00:00Z", "bytesStored": 10,
                         "shrunk": "holds 10, 90 % less than the backup before it (100)"}),
        )
    };
    let none = BackupJobStatus::default();
    let flagged = of(&job(false), &Readiness::Ready, &[small()], &none);
    let (word, reason, message) = healthy(&flagged);
    assert_eq!((word.as_str(), reason.as_str()), ("False", BACKUP_SHRUNK));
    assert!(message.contains("90 % less") && message.contains("kubectl backup accept pg pg-m1"), "{message}");
    assert_eq!(flagged.last_successful_run.as_deref(), Some("pg-m1"), "it is kept, and is a success");

    let mut accepted = job(false);
    accepted.metadata.annotations = Some([(ANNOTATION_ACCEPTED.to_owned(), "pg-m1".to_owned())].into());
    assert_eq!(healthy(&of(&accepted, &Readiness::Ready, &[small()], &flagged)).0, "True");
    // The run was pruned before somebody looked.
    assert_eq!(healthy(&of(&job(false), &Readiness::Ready, &[], &flagged)).0, "False");
    assert_eq!(healthy(&of(&accepted, &Readiness::Ready, &[], &flagged)).0, "True");
    // Another run is not the one that was accepted.
    let other = run(
        "pg-m2",
        &json!({"phase": "Succeeded", "startTime": "2026-11-24T11:00:00Z", "bytesStored": 1, "shrunk": "holds 1"}),
    );
    assert_eq!(healthy(&of(&accepted, &Readiness::Ready, &[small(), other], &flagged)).0, "False");
    // The next one is as large as before; and a failure has a verdict of its own.
    let good = ended("pg-m3", "2026-11-24T12:00:00Z", "Succeeded");
    assert_eq!(healthy(&of(&job(false), &Readiness::Ready, &[small(), good], &flagged)).0, "True");
    let failed = ended("pg-m4", "2026-11-24T12:00:00Z", "Failed");
    assert_eq!(healthy(&of(&job(false), &Readiness::Ready, &[small(), failed], &flagged)).1, "CommandFailed");
}
