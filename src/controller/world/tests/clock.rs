//! A clock that was a year ahead, and is back.

use super::*;
use crate::api::ANNOTATION_SINCE;

const AHEAD: &str = "2027-11-24T10:00:00Z";
const NOW: &str = "2026-11-24T10:03:00Z";

/// Its last tick was handled a year from now.
fn of_the_future(change: impl FnOnce(&mut Value)) -> BackupJob {
    job(|job| {
        job["status"] = json!({
            "lastScheduleTime": AHEAD,
            "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false},
        });
        change(job);
    })
}

fn suspended(generation: i64, suspend: bool) -> BackupJob {
    of_the_future(|job| {
        job["metadata"]["generation"] = json!(generation);
        job["spec"]["suspend"] = json!(suspend);
    })
}

fn warnings(actions: &[Action]) -> usize {
    let warns = |action: &&Action| matches!(action, Action::Notice(_, Happening::ClockWentBack { .. }));
    actions.iter().filter(warns).count()
}

fn tick(status: &BackupJobStatus) -> Option<DateTime<Utc>> {
    status.last_schedule_time.as_ref().map(crate::api::time::from_time)
}

#[test]
fn a_job_that_a_clock_has_stopped_says_until_when_and_what_to_do() {
    let mut world = world(vec![of_the_future(|_| {})], vec![], NOW);
    let actions = decide(&mut world, NOW);
    assert_eq!(warnings(&actions), 1);
    let status = written(&actions).expect("said");
    let said = status.message.as_deref().unwrap_or_default();
    assert!(said.starts_with("nothing is due before 2027-11-24T10:00:00Z") && said.contains("spec.suspend"), "{said}");
    // Once, whatever happens meanwhile.
    world.apply_job(of_the_future(|job| job["metadata"]["resourceVersion"] = json!("7")), at(NOW));
    world.access_checked(&JobRef::new("default", "pg").expect("good"), Ok(()), at(NOW));
    let actions = decide(&mut world, "2026-11-24T10:30:00Z");
    assert_eq!((warnings(&actions), claims(&actions).len()), (0, 0), "{actions:?}");
    // What was handled an hour ahead passes by itself.
    let near = of_the_future(|job| job["status"]["lastScheduleTime"] = json!("2026-11-24T11:00:00Z"));
    let mut world = super::world(vec![near], vec![], NOW);
    assert_eq!(warnings(&decide(&mut world, NOW)), 0);
    // A job that would not run anyway has nothing to say about it.
    let mut world = super::world(vec![suspended(1, true)], vec![], NOW);
    assert_eq!(warnings(&decide(&mut world, NOW)), 0);
}

#[test]
fn an_edit_makes_ticks_count_from_then_on_whatever_comes_late() {
    let mut world = world(vec![of_the_future(|_| {})], vec![], NOW);
    decide(&mut world, NOW);
    world.apply_job(suspended(2, true), at("2026-11-24T10:04:00Z"));
    let status = written(&decide(&mut world, "2026-11-24T10:04:00Z")).expect("an anchor");
    assert_eq!(tick(&status), Some(at("2026-11-24T10:04:00Z")), "ticks before the edit stay handled");
    // The watch still brings what was stored before.
    world.apply_job(suspended(3, false), at("2026-11-24T10:05:00Z"));
    world.apply_job(suspended(3, false), at("2026-11-24T10:05:01Z"));
    let actions = decide(&mut world, "2026-11-24T10:05:02Z");
    let status = written(&actions).expect("an anchor");
    assert_eq!(tick(&status), Some(at("2026-11-24T10:04:00Z")));
    assert!(status.message.as_ref().is_none_or(|said| !said.contains("nothing is due")));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:10:00Z")), [("pg-20261124-1010".to_owned(), 0)]);

    // A process that begins with what is stored goes on from there; one that finds an edit nobody has seen, too.
    let stored = of_the_future(|job| {
        job["status"] = serde_json::to_value(&status).expect("JSON");
    });
    let mut next = super::world(vec![stored], vec![], "2026-11-24T10:09:00Z");
    assert_eq!(claims(&decide(&mut next, "2026-11-24T10:10:00Z")).len(), 1);
    let unseen = of_the_future(|job| job["spec"]["schedule"] = json!("*/5 * * * *"));
    let mut next = super::world(vec![unseen], vec![], "2026-11-24T10:04:00Z");
    assert!(claims(&decide(&mut next, "2026-11-24T10:04:00Z")).is_empty());
    assert_eq!(claims(&decide(&mut next, "2026-11-24T10:05:00Z")), [("pg-20261124-1005".to_owned(), 0)]);
}

#[test]
fn a_one_off_that_was_done_by_a_clock_ahead_is_not_done_again() {
    let once = |generation: i64, suspend: bool| {
        of_the_future(|job| {
            job["metadata"]["generation"] = json!(generation);
            job["spec"]["suspend"] = json!(suspend);
            job["spec"].as_object_mut().expect("a spec").remove("schedule");
            job["status"]["scheduleAnchor"] = json!({"time": AHEAD, "suspend": false});
        })
    };
    let mut world = world(vec![once(1, false)], vec![], NOW);
    let mut actions = decide(&mut world, NOW);
    for (generation, suspend) in [(2, true), (3, false)] {
        world.apply_job(once(generation, suspend), at("2026-11-24T10:05:00Z"));
        actions.extend(decide(&mut world, "2026-11-24T10:05:00Z"));
    }
    actions.extend(decide(&mut world, "2026-11-24T11:00:00Z"));
    assert_eq!((claims(&actions).len(), warnings(&actions)), (0, 0), "{actions:?}");
}

#[test]
fn what_waits_for_a_time_that_the_clock_has_shown_does_not_wait_for_it_again() {
    let deleted = run("pg-m1", |run| {
        run["metadata"]["deletionTimestamp"] = json!(NOW);
        run["status"] = json!({"phase": "Running"});
    });
    // Of the time when the clock was ahead.
    let mut world = world(vec![job(|_| {})], vec![deleted], "2027-11-24T09:59:00Z");
    world.decide(at("2027-11-24T09:59:00Z"), &|_| true);
    world.access_checked(&JobRef::new("default", "pg").expect("good"), Ok(()), at("2027-11-24T09:59:00Z"));
    world.decide(at("2027-11-24T09:59:00Z"), &|_| true);
    let actions = world.decide(at(NOW), &|_| true);
    assert!(actions.iter().any(|action| matches!(action, Action::CheckAccess(..))), "{actions:?}");
    // A second is nothing.
    assert!(world.decide(at("2026-11-24T10:02:59Z"), &|_| true).is_empty());
    // And the finalizer gives up five minutes from now.
    let mut released = None;
    for _ in 0..100 {
        let Some(due) = world.next_wakeup().filter(|_| released.is_none()) else { break };
        let actions = world.decide(due, &|_| true);
        released = actions.iter().any(|action| matches!(action, Action::Release(_))).then_some(due);
    }
    assert!(released.is_some_and(|due| due <= at("2026-11-24T10:08:01Z")), "{released:?}");
}

#[test]
fn a_run_of_the_future_can_be_deleted_though_its_tick_was_taken_back() {
    let of_then = |deleted: bool| {
        run("pg-20271124-1000", |run| {
            run["spec"]["scheduledAt"] = json!(AHEAD);
            run["status"] = json!({"phase": "Succeeded"});
            if deleted {
                run["metadata"]["deletionTimestamp"] = json!(NOW);
            }
        })
    };
    let edited = job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:00:00Z", "scheduleAnchor":
            {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    });
    let mut world = world(vec![edited], vec![of_then(true)], NOW);
    assert!(decide(&mut world, NOW).iter().any(|action| matches!(action, Action::Release(_))));
}

#[test]
fn a_late_write_brings_no_tick_of_the_future_back() {
    let status = |last: &str, since: &str| -> BackupJobStatus {
        serde_json::from_value(json!({"lastScheduleTime": last, "scheduleAnchor": {"time": since}})).expect("a status")
    };
    let kept = |mut ours: BackupJobStatus, stored: &BackupJobStatus| {
        keep_newer(&mut ours, stored);
        tick(&ours)
    };
    let (old, new) = ("2026-11-20T10:00:00Z", "2026-11-24T10:00:00Z");
    let tick_of = |text: &str| Some(at(text));
    // The edit's write meets what was stored before it, and the other way round.
    assert_eq!(kept(status(new, new), &status(AHEAD, old)), tick_of(new));
    assert_eq!(kept(status(AHEAD, old), &status(new, new)), tick_of(new));
    // Otherwise the newest tick stays.
    for (ours, since, stored, theirs) in [
        ("2026-11-24T10:10:00Z", new, "2026-11-24T10:20:00Z", new),
        ("2026-11-24T10:20:00Z", new, "2026-11-24T10:10:00Z", new),
        ("2026-11-23T10:00:00Z", old, "2026-11-24T10:20:00Z", new),
        ("2026-11-24T10:20:00Z", new, "2026-11-23T10:00:00Z", old),
    ] {
        let found = kept(status(ours, since), &status(stored, theirs));
        assert_eq!(found, tick_of("2026-11-24T10:20:00Z"), "{ours} {since} {stored} {theirs}");
    }
}

#[test]
fn runs_of_the_future_replace_nothing_and_are_pruned_first() {
    let of = |name: &str, tick: &str, phase: &str| finished(name, tick, phase);
    let edited = job(|job| {
        job["spec"]["concurrencyPolicy"] = json!("Replace");
        job["spec"]["failedRunsHistoryLimit"] = json!(1);
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:20:00Z"});
    });
    let future = of("pg-20271124-1000", AHEAD, "Failed");
    let running = of("pg-20261124-1020", "2026-11-24T10:20:00Z", "Running");
    let failed = of("pg-20261124-1010", "2026-11-24T10:10:00Z", "Failed");
    for leads in [true, false] {
        let mut world =
            world(vec![edited.clone()], vec![future.clone(), running.clone(), failed.clone()], "2026-11-24T10:20:05Z");
        world.set_leading(leads);
        let actions = world.decide(at("2026-11-24T10:20:05Z"), &|key: &RunKey| key.name.as_str() == "pg-20261124-1020");
        assert!(!actions.iter().any(|action| matches!(action, Action::Cancel(..))), "{leads} {actions:?}");
        let deleted: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Delete(key) => Some(key.name.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(deleted, if leads { vec!["pg-20271124-1000"] } else { vec![] });
    }
}

/// The run that a clock five hours ahead made for the tick of 15:00, at ten.
fn early(change: impl FnOnce(&mut Value)) -> BackupRun {
    run("pg-20261124-1500", |run| {
        run["metadata"]["creationTimestamp"] = json!("2026-11-24T10:00:01Z");
        run["metadata"]["annotations"] = json!({ANNOTATION_SINCE: "2026-11-20T10:00:00Z"});
        run["spec"]["scheduledAt"] = json!("2026-11-24T15:00:00Z");
        run["status"] = json!({"phase": "Succeeded"});
        change(run);
    })
}

/// The clock was set right, and a person has edited the job, as the warning says.
fn edited() -> BackupJob {
    job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T14:50:00Z", "scheduleAnchor":
            {"time": "2026-11-24T10:05:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    })
}

fn deletes(actions: &[Action]) -> Vec<String> {
    let deleted = |action: &Action| if let Action::Delete(key) = action { Some(key.name.to_string()) } else { None };
    actions.iter().filter_map(deleted).collect()
}

#[test]
fn a_run_that_was_made_long_before_its_tick_gives_its_name_to_the_run_of_the_tick() {
    let mut world = world(vec![edited()], vec![early(|_| {})], "2026-11-24T14:55:00Z");
    assert!(claims(&decide(&mut world, "2026-11-24T14:55:00Z")).is_empty());
    let actions = decide(&mut world, "2026-11-24T15:00:00Z");
    assert_eq!((deletes(&actions), claims(&actions).len()), (vec!["pg-20261124-1500".to_owned()], 0));
    // Its finalizer does not hold it, though nothing tells of that tick.
    let going = early(|run| run["metadata"]["deletionTimestamp"] = json!("2026-11-24T15:00:00Z"));
    world.apply_run(going.clone());
    let actions = decide(&mut world, "2026-11-24T15:00:01Z");
    assert!(actions.iter().any(|action| matches!(action, Action::Release(_))), "{actions:?}");
    world.delete_run(&going, at("2026-11-24T15:00:02Z"));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T15:00:02Z")), [("pg-20261124-1500".to_owned(), 0)]);
}

#[test]
fn a_run_that_was_made_long_before_its_tick_and_works_is_in_the_way_until_it_ends() {
    let works = early(|run| run["status"]["phase"] = json!("Running"));
    let mut world = world(vec![edited()], vec![works], "2026-11-24T14:55:00Z");
    let claim = first_claim(&world.decide(at("2026-11-24T15:00:00Z"), &|_| true));
    let taken =
        |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Notice(_, Happening::NameTaken { .. })));
    world.claim_ended(&claim, 0, Ok(whose(&early(|_| {}), &claim)), at("2026-11-24T15:00:00Z"));
    let actions = decide(&mut world, "2026-11-24T15:00:01Z");
    assert!(taken(&actions) && claims(&actions).is_empty(), "{actions:?}");
    world.apply_run(early(|_| {}));
    assert_eq!(deletes(&decide(&mut world, "2026-11-24T15:00:30Z")).len(), 1);
}

#[test]
fn whose_a_run_is() {
    let mut world = world(vec![edited()], vec![], "2026-11-24T14:55:00Z");
    let claim = first_claim(&decide(&mut world, "2026-11-24T15:00:00Z"));
    let made = |at: &str| early(|run| run["metadata"]["creationTimestamp"] = json!(at));
    for at in ["2026-11-24T14:00:00Z", "2026-11-24T15:00:00Z", "2026-11-25T15:00:00Z"] {
        assert!(matches!(whose(&made(at), &claim), Claimed::AlreadyOurs), "two clocks are never the same: {at}");
    }
    assert!(matches!(whose(&made("2026-11-24T13:59:59Z"), &claim), Claimed::NameTaken));
    let other = early(|run| {
        run["metadata"]["creationTimestamp"] = json!("2026-11-24T15:00:00Z");
        run["metadata"]["ownerReferences"][0]["uid"] = json!("33333333-3333-3333-3333-333333333333");
    });
    assert!(matches!(whose(&other, &claim), Claimed::NameTaken));
    // A job without a schedule runs once, whenever that was.
    let once = early(|run| run["metadata"]["name"] = json!("pg-once"));
    assert!(matches!(whose(&once, &claim), Claimed::AlreadyOurs));
}

#[test]
fn a_claim_that_is_tried_again_is_ours_however_far_apart_two_clocks_are() {
    // The operator's is five hours ahead of the API server's and stays so, and the job was edited an hour ago.
    let edited = job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T14:50:00Z", "scheduleAnchor":
            {"time": "2026-11-24T14:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    });
    // As noted by whoever made it: the same process, or one that led before and saw the edit a little earlier; or nothing.
    for noted in [
        json!({ANNOTATION_SINCE: "2026-11-24T14:00:00Z"}),
        json!({ANNOTATION_SINCE: "2026-11-24T13:59:50Z"}),
        json!({}),
    ] {
        let mut world = world(vec![edited.clone()], vec![], "2026-11-24T14:55:00Z");
        let claim = first_claim(&decide(&mut world, "2026-11-24T15:00:00Z"));
        assert_eq!(claim.since, Some(at("2026-11-24T14:00:00Z")));
        // The answer is lost, and the run is seen, through, before it is asked for again.
        let lost = Err(Failure::new(Reason::ClusterUnavailable, "no answer"));
        world.claim_ended(&claim, 0, lost, at("2026-11-24T15:00:30Z"));
        let made = early(|run| run["metadata"]["annotations"] = noted.clone());
        assert!(matches!(whose(&made, &claim), Claimed::AlreadyOurs), "{noted}");
        world.apply_run(made);
        let actions = decide(&mut world, "2026-11-24T15:00:35Z");
        assert_eq!((deletes(&actions), claims(&actions)), (vec![], vec![]), "{noted}");
        assert_eq!(written(&actions).as_ref().and_then(tick), Some(at("2026-11-24T15:00:00Z")), "{noted}");
    }
}

#[test]
fn a_run_that_was_made_long_before_its_tick_and_that_nobody_owns_is_not_deleted() {
    let kept = early(|run| drop(run["metadata"].as_object_mut().expect("map").remove("ownerReferences")));
    let mut world = world(vec![edited()], vec![kept], "2026-11-24T14:55:00Z");
    let actions = decide(&mut world, "2026-11-24T15:00:00Z");
    assert_eq!((deletes(&actions), claims(&actions).len()), (vec![], 1));
}

#[test]
fn a_run_that_was_made_long_before_its_tick_replaces_nothing_and_is_no_claim() {
    let since = |since: &str| {
        job(|job| {
            job["spec"]["concurrencyPolicy"] = json!("Replace");
            job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z", "scheduleAnchor":
                {"time": since, "schedule": "*/10 * * * *", "suspend": false}});
        })
    };
    let works = run("pg-20261124-1010", |run| {
        run["metadata"]["creationTimestamp"] = json!("2026-11-24T10:10:00Z");
        run["spec"]["scheduledAt"] = json!("2026-11-24T10:10:00Z");
        run["status"] = json!({"phase": "Running"});
    });
    // Whether nobody knows of it, since its process died at once, or an edit took its tick back.
    for since in [since("2026-11-20T10:00:00Z"), since("2026-11-24T10:05:00Z")] {
        let mut world = world(vec![since], vec![works.clone(), early(|_| {})], "2026-11-24T10:10:05Z");
        let actions = world.decide(at("2026-11-24T10:10:05Z"), &|_| true);
        assert!(!actions.iter().any(|action| matches!(action, Action::Cancel(..))), "{actions:?}");
    }
    let edited = since("2026-11-24T10:05:00Z");
    let mut world = world(vec![edited], vec![works, early(|_| {})], "2026-11-24T10:10:05Z");
    world.decide(at("2026-11-24T10:10:05Z"), &|_| true);
    let actions = world.decide(at("2026-11-24T15:00:00Z"), &|_| true);
    assert!(written(&actions).is_none_or(|status| tick(&status) < Some(at("2026-11-24T15:00:00Z"))), "{actions:?}");
}
