use super::*;
use crate::api::FINALIZER_RUN;
use crate::api::time::to_time;
use crate::run::ports::{Claimed, TaskEnd};
use chrono::TimeDelta;
use serde_json::{Value, json};

const JOB_UID: &str = "11111111-1111-1111-1111-111111111111";

pub(super) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("RFC 3339").with_timezone(&Utc)
}

/// A BackupJob as the API server would show it; `change` edits its JSON.
pub(super) fn job(change: impl FnOnce(&mut Value)) -> BackupJob {
    let mut value = json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob",
        "metadata": {"name": "pg", "namespace": "default", "uid": JOB_UID,
                     "creationTimestamp": "2026-11-24T10:00:00Z", "generation": 1},
        "spec": {
            "target": {"kind": "StatefulSet", "name": "postgres"},
            "strategy": {"type": "dump", "command": "pg_dumpall"},
            "destination": {"type": "s3", "uri": "s3://backups/p", "secretRef": "s3"},
            "schedule": "*/10 * * * *",
        },
    });
    change(&mut value);
    serde_json::from_value(value).expect("a job")
}

pub(super) fn run(name: &str, change: impl FnOnce(&mut Value)) -> BackupRun {
    let mut value = json!({
        "apiVersion": "backup.javy.dev/v1", "kind": "BackupRun",
        "metadata": {"name": name, "namespace": "default", "uid": format!("22222222-2222-2222-2222-{:0>12}", hex(name)),
                     "finalizers": [FINALIZER_RUN], "creationTimestamp": "2026-11-24T10:00:00Z",
                     "ownerReferences": [{"apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "name": "pg", "uid": JOB_UID}]},
        "spec": {"backupJobName": "pg"},
    });
    change(&mut value);
    serde_json::from_value(value).expect("a run")
}

fn hex(name: &str) -> String {
    let sum = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    format!("{:012x}", sum & 0xffff_ffff_ffff)
}

pub(super) fn finished(name: &str, tick: &str, phase: &str) -> BackupRun {
    run(name, |run| {
        run["metadata"]["creationTimestamp"] = json!(tick);
        run["spec"]["scheduledAt"] = json!(tick);
        run["status"] = json!({"phase": phase, "startTime": tick, "reason": if phase == "Succeeded" { Value::Null } else { json!("CommandFailed") }});
    })
}

/// A world that has seen everything and whose policies are in force.
pub(super) fn world(jobs: Vec<BackupJob>, runs: Vec<BackupRun>, now: &str) -> World {
    let mut world = World::new("ubo-0-abcde", TimeDelta::zero());
    world.set_leading(true);
    for job in jobs {
        world.apply_job(job, at(now));
    }
    for run in runs {
        world.apply_run(run);
    }
    world.set_policy(None);
    world.set_synced();
    world
}

pub(super) fn decide(world: &mut World, now: &str) -> Vec<Action> {
    world.decide(at(now), &|_| false)
}

pub(super) fn claims(actions: &[Action]) -> Vec<(String, u32)> {
    let claim = |action: &Action| match action {
        Action::Claim(claim, missed) => Some((claim.run.to_string(), *missed)),
        _ => None,
    };
    actions.iter().filter_map(claim).collect()
}

pub(super) fn written(actions: &[Action]) -> Option<BackupJobStatus> {
    actions.iter().rev().find_map(|action| match action {
        Action::Write(_, write) => Some(write.status.as_ref().clone()),
        _ => None,
    })
}

pub(super) fn first_claim(actions: &[Action]) -> Claim {
    actions
        .iter()
        .find_map(|action| if let Action::Claim(claim, _) = action { Some(claim.clone()) } else { None })
        .expect("a claim")
}

#[test]
fn a_due_tick_is_claimed_once_under_its_own_name() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    assert!(claims(&decide(&mut world, "2026-11-24T10:09:59Z")).is_empty());
    let actions = decide(&mut world, "2026-11-24T10:10:00Z");
    assert_eq!(claims(&actions), [("pg-20261124-1010".to_owned(), 0)]);
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:01Z")).is_empty(), "its claim is under way");
    let claim = first_claim(&actions);
    world.claim_ended(&claim, 0, Ok(Claimed::Created), at("2026-11-24T10:10:01Z"));
    let actions = decide(&mut world, "2026-11-24T10:10:01Z");
    assert!(claims(&actions).is_empty());
    assert_eq!(
        written(&actions).and_then(|status| status.last_schedule_time),
        Some(to_time(at("2026-11-24T10:10:00Z")))
    );
}

#[test]
fn a_claim_that_failed_is_tried_again_and_nobody_spins() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let claim = first_claim(&decide(&mut world, "2026-11-24T10:10:00Z"));
    world.claim_ended(&claim, 0, Err(Failure::new(Reason::ClusterUnavailable, "x")), at("2026-11-24T10:10:00Z"));
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:01Z")).is_empty());
    assert!(world.next_wakeup().is_some_and(|at_| at_ > at("2026-11-24T10:10:01Z")));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:10:06Z")).len(), 1);
}

#[test]
fn a_name_that_becomes_free_is_claimed_at_once() {
    let now = "2026-11-24T10:10:00Z";
    let old = run("pg-20261124-1010", |run| {
        run["metadata"]["ownerReferences"][0]["uid"] = json!("33333333-3333-3333-3333-333333333333");
    });
    let mut world = world(vec![job(|_| {})], vec![old.clone()], "2026-11-24T10:00:05Z");
    let claim = first_claim(&decide(&mut world, now));
    world.claim_ended(&claim, 0, Ok(Claimed::NameTaken), at(now));
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:01Z")).is_empty(), "not asked for again and again");
    world.delete_run(&old, at(now));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:10:02Z")).len(), 1);
}

#[test]
fn after_downtime_the_latest_missed_tick_alone_is_claimed() {
    let seen = job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z",
        "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    });
    let mut world = world(vec![seen], vec![], "2026-11-24T12:05:00Z");
    assert_eq!(claims(&decide(&mut world, "2026-11-24T12:05:00Z")), [("pg-20261124-1200".to_owned(), 10)]);
}

#[test]
fn a_tick_claimed_before_a_crash_is_not_claimed_twice() {
    // The run was created; the process died before lastScheduleTime was written.
    let mut world = world(
        vec![job(|_| {})],
        vec![finished("pg-20261124-1010", "2026-11-24T10:10:00Z", "Succeeded")],
        "2026-11-24T10:11:00Z",
    );
    let actions = decide(&mut world, "2026-11-24T10:11:00Z");
    assert!(claims(&actions).is_empty());
    assert!(!actions.iter().any(|action| matches!(action, Action::Notice(_, Happening::Claimed { .. }))));
    let status = written(&actions).expect("a status");
    assert_eq!(status.last_schedule_time, Some(to_time(at("2026-11-24T10:10:00Z"))));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:20:00Z")), [("pg-20261124-1020".to_owned(), 0)]);
    // One that its watch did not show yet is found when its name is.
    let mut world = super::tests::world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let claim = first_claim(&decide(&mut world, "2026-11-24T10:11:00Z"));
    world.claim_ended(&claim, 0, Ok(Claimed::AlreadyOurs), at("2026-11-24T10:11:00Z"));
    let actions = decide(&mut world, "2026-11-24T10:11:01Z");
    assert!(claims(&actions).is_empty());
    assert!(!actions.iter().any(|action| matches!(action, Action::Notice(_, Happening::Claimed { .. }))));
}

#[test]
fn an_edit_while_the_operator_was_down_moves_the_anchor() {
    let edited = job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z",
            "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "0 * * * *", "suspend": false}});
    });
    let mut world = world(vec![edited], vec![], "2026-11-24T12:05:00Z");
    let actions = decide(&mut world, "2026-11-24T12:05:00Z");
    assert!(claims(&actions).is_empty(), "what lies before the edit was not missed");
    let anchor = written(&actions).and_then(|status| status.schedule_anchor).expect("an anchor");
    assert_eq!((anchor.time, anchor.schedule.as_deref()), (to_time(at("2026-11-24T12:05:00Z")), Some("*/10 * * * *")));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T12:10:00Z")).len(), 1);
}

#[test]
fn a_suspended_job_misses_nothing_and_starts_from_now_when_it_wakes() {
    let mut world = world(vec![job(|job| job["spec"]["suspend"] = json!(true))], vec![], "2026-11-24T10:00:05Z");
    assert!(claims(&decide(&mut world, "2026-11-24T11:00:00Z")).is_empty());
    world.apply_job(job(|job| job["metadata"]["generation"] = json!(2)), at("2026-11-24T11:05:00Z"));
    assert!(claims(&decide(&mut world, "2026-11-24T11:05:00Z")).is_empty());
    assert_eq!(claims(&decide(&mut world, "2026-11-24T11:10:00Z")), [("pg-20261124-1110".to_owned(), 0)]);
}

#[test]
fn a_job_without_a_schedule_runs_once_per_object() {
    let once = || job(|job| drop(job["spec"].as_object_mut().expect("map").remove("schedule")));
    let mut first = world(vec![once()], vec![], "2026-11-24T10:00:05Z");
    let actions = decide(&mut first, "2026-11-24T10:00:05Z");
    assert_eq!(claims(&actions), [("pg-once".to_owned(), 0)]);
    let claim = first_claim(&actions);
    first.claim_ended(&claim, 0, Ok(Claimed::Created), at("2026-11-24T10:00:06Z"));
    let status = written(&decide(&mut first, "2026-11-24T10:00:06Z")).expect("a status");
    // After a restart, its BackupRun deleted meanwhile.
    let again = job(|job| {
        job["spec"].as_object_mut().expect("map").remove("schedule");
        job["status"] = serde_json::to_value(&status).expect("JSON");
    });
    let mut second = world(vec![again], vec![], "2026-11-25T10:00:00Z");
    assert!(claims(&decide(&mut second, "2026-11-25T10:00:00Z")).is_empty());
}

#[test]
fn a_job_whose_schedule_was_taken_away_does_not_become_a_one_off() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    decide(&mut world, "2026-11-24T10:00:05Z");
    world.apply_job(
        job(|job| {
            job["metadata"]["generation"] = json!(2);
            job["spec"].as_object_mut().expect("map").remove("schedule");
        }),
        at("2026-11-24T10:01:00Z"),
    );
    let actions = decide(&mut world, "2026-11-24T12:00:00Z");
    assert!(claims(&actions).is_empty());
    // And when the same schedule comes back, it counts from then.
    world.apply_job(job(|job| job["metadata"]["generation"] = json!(3)), at("2026-11-24T12:05:00Z"));
    assert!(claims(&decide(&mut world, "2026-11-24T12:05:00Z")).is_empty());
    assert_eq!(claims(&decide(&mut world, "2026-11-24T12:10:00Z")), [("pg-20261124-1210".to_owned(), 0)]);
}

#[test]
fn forbid_skips_the_tick_says_so_and_counts_it() {
    let busy = run("pg-m1", |run| run["status"] = json!({"phase": "Running"}));
    let mut world = world(vec![job(|_| {})], vec![busy], "2026-11-24T10:00:05Z");
    let actions = decide(&mut world, "2026-11-24T10:10:00Z");
    assert!(claims(&actions).is_empty());
    assert!(actions.iter().any(|action| matches!(action, Action::Notice(_, Happening::Skipped { .. }))));
    let status = written(&actions).expect("a status");
    assert_eq!((status.skipped_runs, status.last_schedule_time), (Some(1), Some(to_time(at("2026-11-24T10:10:00Z")))));
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:30Z")).is_empty(), "a skipped tick is handled");
}

#[test]
fn the_one_run_of_a_job_without_a_schedule_is_not_skipped() {
    let once = job(|job| drop(job["spec"].as_object_mut().expect("map").remove("schedule")));
    let busy = run("pg-m1", |run| run["status"] = json!({"phase": "Running"}));
    let mut world = world(vec![once], vec![busy], "2026-11-24T10:00:05Z");
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:00:05Z")), [("pg-once".to_owned(), 0)]);
}

#[test]
fn nothing_starts_while_the_policies_are_not_in_force() {
    let mut world = world(vec![job(|_| {})], vec![run("pg-m1", |_| {})], "2026-11-24T10:00:05Z");
    world.set_policy(Some(Failure::new(Reason::AdmissionPolicyMissing, "apply install.yaml again")));
    let actions = decide(&mut world, "2026-11-24T10:10:00Z");
    assert!(claims(&actions).is_empty());
    assert!(!actions.iter().any(|action| matches!(action, Action::Start(..))));
    let status = written(&actions).expect("a status");
    assert_eq!(status.phase, Some(crate::api::backup_job::JobPhase::NotReady));
    assert!(world.next_wakeup().is_none_or(|next| next > at("2026-11-24T10:10:00Z")), "nobody spins");
    world.set_policy(None);
    let actions = decide(&mut world, "2026-11-24T10:10:05Z");
    assert!(actions.iter().any(|action| matches!(action, Action::Start(..))), "the run by hand");
}

#[test]
fn an_invalid_job_says_why_and_claims_nothing() {
    let mut world =
        world(vec![job(|job| job["spec"]["schedule"] = json!("61 * * * *"))], vec![], "2026-11-24T10:00:05Z");
    let actions = decide(&mut world, "2026-11-24T12:00:00Z");
    assert!(claims(&actions).is_empty());
    let ready =
        written(&actions).expect("a status").conditions.into_iter().find(|c| c.type_ == "Ready").expect("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "InvalidSchedule"));
    assert!(actions.iter().any(|action| matches!(action, Action::Notice(_, Happening::NotReady { .. }))));
}

#[test]
fn a_replaced_job_cancels_what_the_old_one_started_and_is_a_new_one() {
    let mut world = world(vec![job(|_| {})], vec![run("pg-m1", |_| {})], "2026-11-24T10:00:05Z");
    decide(&mut world, "2026-11-24T10:00:05Z");
    world.apply_job(
        job(|job| job["metadata"]["uid"] = json!("99999999-1111-1111-1111-111111111111")),
        at("2026-11-24T10:01:00Z"),
    );
    let actions = decide(&mut world, "2026-11-24T10:01:00Z");
    assert!(actions.iter().any(|action| matches!(action, Action::CancelAll(uid) if uid.as_str() == JOB_UID)));
}

#[test]
fn wishes_reach_runs_at_work_and_close_those_that_are_not() {
    let wished = run("pg-m1", |run| run["spec"]["cancel"] = json!(true));
    let mut first = world(vec![job(|_| {})], vec![wished], "2026-11-24T10:00:05Z");
    let actions = first.decide(at("2026-11-24T10:00:05Z"), &|_| true);
    assert!(actions.iter().any(|action| matches!(action, Action::Cancel(_, Reason::CancelRequested))));
    let deleted = run("pg-m1", |run| run["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z"));
    let mut second = world(vec![job(|_| {})], vec![deleted], "2026-11-24T10:00:05Z");
    let actions = decide(&mut second, "2026-11-24T10:00:05Z");
    assert!(actions.iter().any(|action| matches!(action, Action::Start(_, _, _, Some(Reason::Deleted)))));
}

#[test]
fn the_finalizer_holds_until_the_tick_is_stored_in_the_job() {
    let tick = "2026-11-24T10:10:00Z";
    let gone = |phase: &str| {
        let mut run = finished("pg-20261124-1010", tick, phase);
        run.metadata.deletion_timestamp = Some(to_time(at("2026-11-24T10:11:00Z")));
        run
    };
    let released = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Release(_)));
    let mut world = world(vec![job(|_| {})], vec![gone("Failed")], "2026-11-24T10:11:05Z");
    assert!(!released(&decide(&mut world, "2026-11-24T10:11:05Z")), "its loss would fire the tick again");
    world.apply_job(job(|job| job["status"] = json!({"lastScheduleTime": tick})), at("2026-11-24T10:11:06Z"));
    assert!(released(&decide(&mut world, "2026-11-24T10:11:06Z")));
    // A run at work keeps it, but not for ever.
    world.apply_run(gone("Running"));
    let actions = world.decide(at("2026-11-24T10:12:00Z"), &|_| true);
    assert!(!released(&actions) && actions.iter().any(|action| matches!(action, Action::Cancel(_, Reason::Deleted))));
    world.apply_run(gone("Running"));
    assert!(released(&world.decide(at("2026-11-24T10:16:06Z"), &|_| true)), "it gives up after five minutes");
}

#[test]
fn history_keeps_the_newest_of_each_kind_and_nothing_made_by_hand() {
    let ticks = ["10:10", "10:20", "10:30", "10:40", "10:50"];
    let mut runs: Vec<_> = ticks
        .iter()
        .map(|tick| {
            finished(&format!("pg-20261124-{}", tick.replace(':', "")), &format!("2026-11-24T{tick}:00Z"), "Succeeded")
        })
        .collect();
    runs.push(run("pg-m1", |run| run["status"] = json!({"phase": "Succeeded"})));
    let seen = job(|job| {
        job["spec"]["successfulRunsHistoryLimit"] = json!(2);
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:50:00Z",
            "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    });
    let mut world = world(vec![seen], runs, "2026-11-24T10:51:00Z");
    let deleted = |action: &Action| if let Action::Delete(key) = action { Some(key.name.to_string()) } else { None };
    let mut gone: Vec<_> = decide(&mut world, "2026-11-24T10:51:00Z").iter().filter_map(deleted).collect();
    gone.sort();
    assert_eq!(gone, ["pg-20261124-1010", "pg-20261124-1020", "pg-20261124-1030"]);
}

#[test]
fn consecutive_failures_count_each_end_once_and_a_success_ends_the_row() {
    let mut world = world(
        vec![job(|_| {})],
        vec![finished("pg-20261124-1010", "2026-11-24T10:10:00Z", "Failed")],
        "2026-11-24T10:11:00Z",
    );
    let count = |actions: Vec<Action>| written(&actions).and_then(|status| status.consecutive_failures);
    assert_eq!(count(decide(&mut world, "2026-11-24T10:11:00Z")), Some(1), "what was there counts");
    let second = finished("pg-20261124-1020", "2026-11-24T10:20:00Z", "Failed");
    world.apply_run(second.clone());
    world.apply_run(second);
    assert_eq!(count(decide(&mut world, "2026-11-24T10:21:00Z")), Some(2));
    world.apply_run(finished("pg-20261124-1030", "2026-11-24T10:30:00Z", "Succeeded"));
    assert_eq!(count(decide(&mut world, "2026-11-24T10:31:00Z")), Some(0));
}

#[test]
fn rights_are_looked_for_again_until_they_are_there() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let checks = |actions: &[Action]| actions.iter().filter(|action| matches!(action, Action::CheckAccess(..))).count();
    assert_eq!(checks(&decide(&mut world, "2026-11-24T10:00:05Z")), 1);
    let reference = JobRef::new("default", "pg").expect("good");
    let refused = Failure::new(Reason::NamespaceNotOptedIn, "kubectl apply …");
    world.access_checked(&reference, Err(refused), at("2026-11-24T10:00:06Z"));
    let actions = decide(&mut world, "2026-11-24T10:00:06Z");
    assert_eq!(written(&actions).and_then(|status| status.message).as_deref(), Some("kubectl apply …"));
    assert_eq!(checks(&decide(&mut world, "2026-11-24T10:00:30Z")), 1);
    world.access_checked(&reference, Ok(()), at("2026-11-24T10:00:31Z"));
    let status = written(&decide(&mut world, "2026-11-24T10:00:31Z")).expect("a status");
    assert!(crate::api::conditions::holds(&status.conditions, "Ready"));
    // An API server that does not answer says nothing about rights.
    world.access_checked(&reference, Err(Failure::new(Reason::ClusterUnavailable, "x")), at("2026-11-24T10:11:00Z"));
    assert!(
        written(&decide(&mut world, "2026-11-24T10:11:00Z"))
            .is_none_or(|status| crate::api::conditions::holds(&status.conditions, "Ready"))
    );
}

#[test]
fn many_that_lack_something_are_looked_at_more_rarely() {
    let named = |number: usize| {
        job(|job| {
            job["metadata"]["name"] = json!(format!("job-{number}"));
            job["metadata"]["uid"] = json!(format!("11111111-1111-1111-1111-{number:012}"));
        })
    };
    let mut world = world((0..1000).map(named).collect(), vec![], "2026-11-24T10:00:05Z");
    let looks = |world: &mut World, now: &str| {
        let actions = decide(world, now);
        let looked: Vec<JobRef> = actions
            .into_iter()
            .filter_map(|action| match action {
                Action::CheckAccess(job, _) => Some(job),
                _ => None,
            })
            .collect();
        for job in &looked {
            world.access_checked(job, Err(Failure::new(Reason::SecretNotFound, "create it")), at(now));
        }
        looked.len()
    };
    assert_eq!(looks(&mut world, "2026-11-24T10:00:05Z"), 1000);
    // The first of them were few then; from here on there are a thousand, twenty a second.
    assert_eq!(looks(&mut world, "2026-11-24T10:01:05Z"), 1000);
    assert_eq!(looks(&mut world, "2026-11-24T10:01:54Z"), 0);
    assert_eq!(looks(&mut world, "2026-11-24T10:01:55Z"), 1000);
}

#[test]
fn what_was_found_for_another_spec_says_nothing_about_this_one() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let looks = |actions: &[Action]| {
        let mut looks = actions.iter().filter_map(|action| match action {
            Action::CheckAccess(_, valid) => Some(Arc::clone(valid)),
            _ => None,
        });
        looks.next()
    };
    let reference = JobRef::new("default", "pg").expect("good");
    let old = looks(&decide(&mut world, "2026-11-24T10:00:05Z")).expect("a look");
    assert!(world.is_current(&reference, &old));
    world.access_checked(&reference, Ok(()), at("2026-11-24T10:00:06Z"));
    let edited = job(|job| {
        job["metadata"]["generation"] = json!(2);
        job["spec"]["target"]["name"] = json!("other");
    });
    world.apply_job(edited, at("2026-11-24T10:00:07Z"));
    let actions = decide(&mut world, "2026-11-24T10:00:07Z");
    let new = looks(&actions).expect("another look, at once");
    assert!(world.is_current(&reference, &new) && !world.is_current(&reference, &old));
    let status = written(&actions).expect("a status");
    assert!(!crate::api::conditions::holds(&status.conditions, "Ready"), "not looked at yet");
}

#[test]
fn a_job_that_cannot_be_read_rests_until_it_can() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let reference = JobRef::new("default", "pg").expect("good");
    let uid = world.jobs[&reference].uid.clone();
    world.unreadable_job(&reference, uid, "invalid type");
    let actions = decide(&mut world, "2026-11-24T10:10:00Z");
    assert!(claims(&actions).is_empty(), "nothing is known of what it says now");
    let status = written(&actions).expect("a status");
    assert!(status.message.is_some_and(|message| message.contains("cannot be read: invalid type")));
    let told = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Notice(_, Happening::NotReady { .. })));
    assert!(told(&actions));
    world.apply_job(job(|job| job["metadata"]["generation"] = json!(3)), at("2026-11-24T10:10:01Z"));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:20:00Z")).len(), 1, "it can be read again");
    // One that was never read is told of, and no more.
    world.unreadable_job(&JobRef::new("default", "other").expect("good"), Uid::new("33333333-9").expect("good"), "x");
    assert!(told(&decide(&mut world, "2026-11-24T10:20:01Z")) && world.jobs.len() == 1);
    // A run that cannot be read any more stays known until it is gone.
    world.apply_run(run("pg-m1", |_| {}));
    let uid = run("pg-m1", |_| {}).metadata.uid.expect("a UID");
    world.forget_run(&uid, at("2026-11-24T10:05:00Z"));
    assert!(world.runs.is_empty());
}

#[test]
fn what_a_new_watch_does_not_show_is_gone() {
    let mut world = world(vec![job(|_| {})], vec![run("pg-m1", |_| {})], "2026-11-24T10:00:05Z");
    world.retain_runs(&HashSet::new(), at("2026-11-24T10:00:06Z"));
    world.retain_jobs(&HashSet::new());
    assert!(world.jobs.is_empty() && world.runs.is_empty());
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:00Z")).is_empty());
}

#[test]
fn a_run_that_ended_here_is_not_taken_up_again_while_the_watch_lags() {
    let working = || run("pg-m1", |run| run["status"] = json!({"phase": "Running", "attempts": [{"number": 1}]}));
    let started = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Start(..)));
    let mut world = world(vec![job(|_| {})], vec![working()], "2026-11-24T10:00:05Z");
    assert!(started(&decide(&mut world, "2026-11-24T10:00:05Z")));
    let (key, job_) = run_identity(&working()).expect("named");
    world.task_ended(&key, &job_, TaskEnd::Over);
    assert!(!started(&decide(&mut world, "2026-11-24T10:00:06Z")), "its end is stored, only not seen yet");
    world.apply_run(working());
    assert!(!started(&decide(&mut world, "2026-11-24T10:00:07Z")), "an older event is no news");
    world.task_ended(&key, &job_, TaskEnd::Left);
    world.delete_run(&working(), at("2026-11-24T10:00:08Z"));
    world.apply_run(working());
    assert!(started(&decide(&mut world, "2026-11-24T10:00:08Z")), "another object is another run");
}

/// A process that led before wakes up, and what it had decided then arrives after what its successor has stored.
#[test]
fn a_status_that_another_process_wrote_late_is_written_over() {
    let now = "2026-11-24T10:00:05Z";
    let seen = |status: &BackupJobStatus| job(|job| job["status"] = serde_json::to_value(status).expect("JSON"));
    let mut world = world(vec![job(|_| {})], vec![], now);
    let ours = written(&decide(&mut world, now)).expect("a status");
    let old = BackupJobStatus { message: Some("old".into()), ..ours.clone() };
    world.apply_job(seen(&old), at(now));
    assert!(written(&decide(&mut world, now)).is_none(), "ours is on its way");
    world.apply_job(seen(&ours), at(now));
    assert!(written(&decide(&mut world, now)).is_none());
    world.apply_job(seen(&old), at(now));
    assert_eq!(written(&decide(&mut world, now)), Some(ours.clone()));
    world.apply_job(seen(&ours), at(now));
    world.apply_job(seen(&ours), at(now));
    assert!(written(&decide(&mut world, now)).is_none(), "stored, and that is that");
    // Also where nothing had to be written by this process yet.
    let mut next = super::tests::world(vec![seen(&ours)], vec![], now);
    assert!(written(&decide(&mut next, now)).is_none());
    next.apply_job(seen(&old), at(now));
    assert_eq!(written(&decide(&mut next, now)), Some(ours));
}

mod clock;
mod finalizers;
mod stale;
mod ticks;
