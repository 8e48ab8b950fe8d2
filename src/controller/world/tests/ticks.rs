//! What becomes of ticks: overlap, lateness, jitter, and edits in mid-flight.

use super::*;
use crate::run::observer::Skip;
use crate::schedule::cron::{Origin, Schedule};
use crate::validate::Timing;
use chrono::TimeDelta;
use proptest::prelude::*;

fn with(field: &str, value: Value) -> BackupJob {
    job(|job| job["spec"][field] = value)
}

fn skips(actions: &[Action]) -> Vec<Skip> {
    let skip = |action: &Action| match action {
        Action::Notice(_, Happening::Skipped { why, .. }) => Some(*why),
        _ => None,
    };
    actions.iter().filter_map(skip).collect()
}

fn scheduled(name: &str, tick: &str, phase: &str) -> BackupRun {
    run(name, |run| {
        run["metadata"]["creationTimestamp"] = json!(tick);
        run["spec"]["scheduledAt"] = json!(tick);
        run["status"] = json!({"phase": phase});
    })
}

#[test]
fn allow_claims_beside_a_run_at_work() {
    let busy = scheduled("pg-20261124-1000", "2026-11-24T10:00:00Z", "Running");
    let mut world = world(vec![with("concurrencyPolicy", json!("Allow"))], vec![busy], "2026-11-24T10:00:05Z");
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:10:00Z")), [("pg-20261124-1010".to_owned(), 0)]);
    world.apply_run(scheduled("pg-20261124-1010", "2026-11-24T10:10:00Z", "Running"));
    let actions = world.decide(at("2026-11-24T10:10:01Z"), &|_| true);
    assert!(!actions.iter().any(|action| matches!(action, Action::Cancel(..))));
}

#[test]
fn replace_cancels_the_older_scheduled_run_once_the_later_one_exists() {
    let busy = scheduled("pg-20261124-1000", "2026-11-24T10:00:00Z", "Running");
    let by_hand = run("pg-m1", |run| run["status"] = json!({"phase": "Running"}));
    let replace = with("concurrencyPolicy", json!("Replace"));
    let mut world = world(vec![replace], vec![busy, by_hand], "2026-11-24T10:00:05Z");
    let cancelled = |actions: &[Action]| -> Vec<String> {
        let cancel = |action: &Action| match action {
            Action::Cancel(key, Reason::Replaced) => Some(key.name.to_string()),
            _ => None,
        };
        actions.iter().filter_map(cancel).collect()
    };
    let actions = world.decide(at("2026-11-24T10:10:00Z"), &|_| true);
    assert_eq!(claims(&actions).len(), 1);
    assert!(cancelled(&actions).is_empty(), "the later run does not exist yet");
    world.apply_run(scheduled("pg-20261124-1010", "2026-11-24T10:10:00Z", "Pending"));
    let actions = world.decide(at("2026-11-24T10:10:01Z"), &|_| true);
    assert_eq!(cancelled(&actions), ["pg-20261124-1000"], "neither the one by hand nor the latest");
    // After a crash between the two, the next process closes what it finds.
    world.apply_run(scheduled("pg-20261124-1000", "2026-11-24T10:00:00Z", "Running"));
    let actions = decide(&mut world, "2026-11-24T10:10:02Z");
    let closed = |action: &Action| matches!(action, Action::Start(key, _, _, Some(Reason::Replaced)) if key.name.as_str() == "pg-20261124-1000");
    assert!(actions.iter().any(closed));
}

#[test]
fn a_tick_beyond_its_deadline_is_skipped_and_one_within_it_is_not() {
    for (found, skipped) in [("2026-11-24T10:11:30Z", false), ("2026-11-24T10:11:31Z", true)] {
        let mut world = world(vec![with("startingDeadlineSeconds", json!(90))], vec![], found);
        let actions = decide(&mut world, found);
        assert_eq!((claims(&actions).len(), skips(&actions).len()), (usize::from(!skipped), usize::from(skipped)));
        if skipped {
            assert_eq!(skips(&actions), [Skip::DeadlinePassed]);
            let status = written(&actions).expect("a status");
            assert_eq!(status.last_schedule_time, Some(to_time(at("2026-11-24T10:10:00Z"))));
            assert_eq!(status.skipped_runs, Some(1));
        }
    }
}

#[test]
fn a_claim_that_fails_until_the_deadline_is_given_up_then() {
    let mut world = world(vec![with("startingDeadlineSeconds", json!(20))], vec![], "2026-11-24T10:00:05Z");
    let mut now = at("2026-11-24T10:10:00Z");
    let mut tries = 0;
    loop {
        let actions = world.decide(now, &|_| false);
        if skips(&actions) == [Skip::DeadlinePassed] {
            break;
        }
        let claim = first_claim(&actions);
        tries += 1;
        world.claim_ended(&claim, 0, Err(Failure::new(Reason::ClusterUnavailable, "x")), now);
        world.decide(now, &|_| false);
        now = world.next_wakeup().expect("tried again");
    }
    assert_eq!(tries, 5, "at 0, 5, 10, 15 and 20 seconds");
}

#[test]
fn missed_ticks_are_skipped_where_that_is_wished_and_a_change_of_leader_is_not_a_miss() {
    for (found, skipped) in [("2026-11-24T10:31:00Z", false), ("2026-11-24T10:31:01Z", true)] {
        let mut world = world(vec![with("missedRuns", json!("Skip"))], vec![], found);
        let actions = decide(&mut world, found);
        assert_eq!(claims(&actions).len(), usize::from(!skipped), "{found}");
        assert_eq!(skips(&actions), if skipped { vec![Skip::Missed] } else { vec![] });
        assert_eq!(claims(&decide(&mut world, "2026-11-24T10:40:00Z")).len(), usize::from(skipped));
    }
}

#[test]
fn jitter_delays_the_claim_and_the_name_keeps_the_tick() {
    let mut world = world(vec![with("jitterSeconds", json!(300))], vec![], "2026-11-24T10:00:05Z");
    assert!(claims(&decide(&mut world, "2026-11-24T10:10:00Z")).is_empty());
    let start = world.next_wakeup().expect("it waits");
    assert!(start > at("2026-11-24T10:10:00Z") && start <= at("2026-11-24T10:15:00Z"));
    let actions = world.decide(start, &|_| false);
    assert_eq!(claims(&actions), [("pg-20261124-1010".to_owned(), 0)]);
    assert_eq!(first_claim(&actions).start, start);
}

#[test]
fn an_edit_while_a_tick_waits_for_its_jitter_takes_the_tick_away() {
    for edit in [("suspend", json!(true)), ("schedule", json!("5 * * * *")), ("timeZone", json!("Europe/Berlin"))] {
        let jittered = |change: &dyn Fn(&mut Value)| {
            job(|job| {
                job["spec"]["jitterSeconds"] = json!(300);
                change(job);
            })
        };
        let mut world = world(vec![jittered(&|_| ())], vec![], "2026-11-24T10:00:05Z");
        decide(&mut world, "2026-11-24T10:10:00Z");
        world.apply_job(
            jittered(&|job| {
                job["metadata"]["generation"] = json!(2);
                job["spec"][edit.0] = edit.1.clone();
            }),
            at("2026-11-24T10:10:01Z"),
        );
        assert!(claims(&decide(&mut world, "2026-11-24T10:19:00Z")).is_empty(), "{edit:?}");
    }
}

#[test]
fn what_was_missed_is_spread_over_the_window_of_the_process() {
    let mut world = World::new("ubo-0-abcde", TimeDelta::minutes(10));
    world.set_leading(true);
    let now = "2026-11-24T12:04:00Z";
    for number in 0..100 {
        let made = job(|job| {
            job["metadata"]["name"] = json!(format!("job-{number}"));
            job["spec"]["schedule"] = json!("0 * * * *");
        });
        world.apply_job(made, at(now));
    }
    world.set_policy(None);
    world.set_synced();
    let first = claims(&decide(&mut world, now)).len();
    let half = claims(&decide(&mut world, "2026-11-24T12:09:00Z")).len();
    let rest = claims(&decide(&mut world, "2026-11-24T12:14:00Z")).len();
    assert_eq!(first + half + rest, 100);
    assert!(first <= 5 && (25..=75).contains(&half), "{first}, {half}, {rest}");
}

#[test]
fn a_change_of_one_job_looks_at_no_other() {
    let mut world = World::new("ubo-0-abcde", TimeDelta::zero());
    world.set_leading(true);
    let now = "2026-11-24T10:00:05Z";
    for number in 0..50 {
        world.apply_job(job(|job| job["metadata"]["name"] = json!(format!("job-{number}"))), at(now));
    }
    world.set_policy(None);
    world.set_synced();
    decide(&mut world, now);
    let about = |actions: &[Action]| -> BTreeSet<String> {
        let name = |action: &Action| match action {
            Action::Write(job, ..) | Action::CheckAccess(job, ..) => Some(job.name.to_string()),
            Action::Claim(claim, _) => Some(claim.job.name.to_string()),
            _ => None,
        };
        actions.iter().filter_map(name).collect()
    };
    world.access_checked(&JobRef::new("default", "job-7").expect("good"), Ok(()), at(now));
    assert_eq!(world.dirty.len(), 1);
    assert_eq!(about(&decide(&mut world, now)), BTreeSet::from(["job-7".to_owned()]));
}

/// What happens to a BackupJob and to the process.
#[derive(Clone, Debug)]
enum Step {
    Wait(i64),
    Schedule(&'static str),
    Zone(Option<&'static str>),
    Suspend(bool),
    Jitter(u32),
    /// The process ends without having stored anything since the last write, and another begins after so many seconds.
    Restart(i64),
    /// The claims that are under way end: created, or failed.
    Claims(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let schedules = &["*/10 * * * *", "*/7 * * * *", "0 * * * *", "30 10-12 * * *", "@every 11m"];
    let step = prop_oneof![
        6 => (0..1500_i64).prop_map(Step::Wait),
        2 => prop::sample::select(schedules).prop_map(Step::Schedule),
        1 => prop::sample::select(&[None, Some("Asia/Kolkata"), Some("Europe/Berlin")]).prop_map(Step::Zone),
        2 => any::<bool>().prop_map(Step::Suspend),
        1 => (0..2000_u32).prop_map(Step::Jitter),
        1 => (0..5000_i64).prop_map(Step::Restart),
        6 => prop::bool::weighted(0.8).prop_map(Step::Claims),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Nothing fires that lies before the last edit, nothing fires while suspended, no tick fires twice, and every tick
    /// that fires is one of the schedule as it stands.
    #[test]
    fn edits_in_mid_flight_fire_nothing_that_lies_before_them(steps in steps(), window in 0..1200_i64) {
        let mut now = at("2026-11-24T10:00:05Z");
        let (mut edited, mut generation) = (at("2026-11-24T10:00:00Z"), 1);
        let mut spec = (String::from("*/10 * * * *"), None::<&str>, false, 0_u32);
        let mut stored = BackupJobStatus::default();
        let mut created: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
        let mut under_way: Vec<Claim> = Vec::new();
        let object = |spec: &(String, Option<&str>, bool, u32), generation: i64, stored: &BackupJobStatus| {
            job(|job| {
                job["metadata"]["generation"] = json!(generation);
                job["spec"]["schedule"] = json!(spec.0);
                job["spec"]["suspend"] = json!(spec.2);
                job["spec"]["jitterSeconds"] = json!(spec.3);
                job["spec"]["concurrencyPolicy"] = json!("Allow");
                if let Some(zone) = spec.1 {
                    job["spec"]["timeZone"] = json!(zone);
                }
                job["status"] = serde_json::to_value(stored).expect("JSON");
            })
        };
        let begin = |job: BackupJob, now: DateTime<Utc>| {
            let mut world = World::new("ubo-0-abcde", TimeDelta::seconds(window));
            world.set_leading(true);
            world.apply_job(job, now);
            world.set_policy(None);
            world.set_synced();
            world
        };
        let mut world = begin(object(&spec, generation, &stored), now);
        for step in steps {
            let before = spec.clone();
            match step {
                Step::Wait(seconds) => now += TimeDelta::seconds(seconds),
                Step::Schedule(text) => spec.0 = text.to_owned(),
                Step::Zone(zone) => spec.1 = zone,
                Step::Suspend(suspend) => spec.2 = suspend,
                Step::Jitter(seconds) => spec.3 = seconds,
                Step::Restart(seconds) => {
                    now += TimeDelta::seconds(seconds);
                    // What was created exists, whether anybody was told or not.
                    for claim in under_way.drain(..) {
                        created.entry(claim.run.to_string()).or_insert(claim.tick);
                    }
                    world = begin(object(&spec, generation, &stored), now);
                }
                Step::Claims(good) => {
                    for claim in std::mem::take(&mut under_way) {
                        let result = match (good, created.contains_key(claim.run.as_str())) {
                            (false, _) => Err(Failure::new(Reason::ClusterUnavailable, "x")),
                            (true, true) => Ok(Claimed::AlreadyOurs),
                            (true, false) => Ok(Claimed::Created),
                        };
                        if good {
                            created.entry(claim.run.to_string()).or_insert(claim.tick);
                        }
                        world.claim_ended(&claim, 0, result, now);
                    }
                }
            }
            if before != spec {
                generation += 1;
                if (&before.0, before.1, before.2) != (&spec.0, spec.1, spec.2) {
                    edited = now;
                }
                world.apply_job(object(&spec, generation, &stored), now);
            }
            for action in world.decide(now, &|_| false) {
                match action {
                    Action::Write(_, write) => stored = *write.status,
                    Action::Claim(claim, _) => {
                        prop_assert!(!spec.2, "suspended");
                        prop_assert!(claim.tick > edited, "{} lies before the edit at {}", claim.tick, edited);
                        prop_assert!(claim.tick <= claim.start && claim.start <= now);
                        let origin = Origin::of(&claim.job, at("2026-11-24T10:00:00Z"));
                        let schedule = Schedule::parse(&spec.0, spec.1, &origin).expect("holds");
                        let of_it = schedule.next_after(claim.tick - TimeDelta::seconds(1));
                        prop_assert_eq!(of_it, Some(claim.tick), "no tick of the schedule as it stands");
                        under_way.push(claim);
                    }
                    _ => {}
                }
            }
            prop_assert!(under_way.len() <= 1, "one claim at a time");
        }
    }
}

#[test]
fn nothing_said_is_the_default() {
    let valid = validate(&job(|_| {})).expect("holds");
    assert_eq!(valid.timing, Timing::default());
}

/// A name that is taken is one skipped tick, however often it is tried.
#[test]
fn a_tick_whose_name_stays_taken_is_counted_once_when_the_next_one_is_due() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let mut now = at("2026-11-24T10:10:00Z");
    let (mut told, mut skipped, mut missed) = (0, Vec::new(), Vec::new());
    while now < at("2026-11-24T10:40:00Z") {
        let actions = world.decide(now, &|_| false);
        for action in &actions {
            match action {
                Action::Claim(claim, _) => {
                    // Two ticks find their names taken, the third one does not.
                    let free = claim.tick >= at("2026-11-24T10:30:00Z");
                    let result = if free { Claimed::Created } else { Claimed::NameTaken };
                    let Action::Claim(claim, before) = action.clone() else { continue };
                    world.claim_ended(&claim, before, Ok(result), now);
                }
                Action::Notice(_, Happening::NameTaken { .. }) => told += 1,
                Action::Notice(_, Happening::Skipped { tick, why: Skip::NameTaken, missed: 0 }) => skipped.push(*tick),
                Action::Notice(_, Happening::CaughtUp { missed: before, .. }) => missed.push(*before),
                _ => {}
            }
        }
        now += TimeDelta::seconds(5);
    }
    assert!(told > 10, "it is tried again and again: {told}");
    assert_eq!(skipped, [at("2026-11-24T10:10:00Z"), at("2026-11-24T10:20:00Z")]);
    assert!(missed.is_empty(), "they are not counted as superseded too: {missed:?}");
    let held = &world.jobs.values().next().expect("the job").status;
    assert_eq!(held.skipped_runs, Some(2));
    assert_eq!(held.last_schedule_time, Some(to_time(at("2026-11-24T10:30:00Z"))));
}

/// The leader created the BackupRun, and died before it wrote that down.
#[test]
fn a_tick_whose_run_is_there_is_not_skipped_after_a_takeover() {
    let claimed = || scheduled("pg-20261124-1010", "2026-11-24T10:10:00Z", "Running");
    let late = || with("startingDeadlineSeconds", json!(20));
    for at_once in [true, false] {
        // Known from the list, or from the watch a moment later.
        let runs = if at_once { vec![claimed()] } else { vec![] };
        let mut world = world(vec![late()], runs, "2026-11-24T10:10:00Z");
        if !at_once {
            world.apply_run(claimed());
        }
        let actions = decide(&mut world, "2026-11-24T10:11:00Z");
        assert_eq!((skips(&actions).len(), claims(&actions).len()), (0, 0), "{actions:?}");
        let status = written(&actions).expect("a status");
        assert_eq!(status.last_schedule_time, Some(to_time(at("2026-11-24T10:10:00Z"))));
        assert_eq!(status.skipped_runs, None);
    }
    // One that another BackupJob of the same name left is nobody's claim; neither is one whose time has not come.
    let other = run("pg-20261124-1010", |run| {
        run["metadata"]["ownerReferences"][0]["uid"] = json!("33333333-3333-3333-3333-333333333333");
        run["spec"]["scheduledAt"] = json!("2026-11-24T10:10:00Z");
    });
    let soon = scheduled("pg-20261124-1020", "2026-11-24T10:20:00Z", "Succeeded");
    let mut world = world(vec![late()], vec![other, soon], "2026-11-24T10:10:00Z");
    let actions = decide(&mut world, "2026-11-24T10:11:00Z");
    assert_eq!(skips(&actions), [Skip::DeadlinePassed]);
}

/// A run that was kept when its BackupJob was deleted: `kubectl delete --cascade=orphan`.
fn orphan(name: &str, tick: &str) -> BackupRun {
    let mut run = finished(name, tick, "Succeeded");
    run.metadata.owner_references = None;
    run
}

#[test]
fn the_one_run_of_an_earlier_job_of_the_name_is_not_taken_for_this_ones() {
    let once = job(|job| drop(job["spec"].as_object_mut().expect("map").remove("schedule")));
    let kept = orphan("pg-once", "2026-11-23T10:00:00Z");
    let mut world = world(vec![once], vec![kept.clone()], "2026-11-24T10:00:05Z");
    let actions = decide(&mut world, "2026-11-24T10:00:05Z");
    assert_eq!(claims(&actions), [("pg-once".to_owned(), 0)]);
    let claim = first_claim(&actions);
    let found = whose(&kept, &claim);
    assert!(matches!(found, Claimed::NameTaken));
    world.claim_ended(&claim, 0, Ok(found), at("2026-11-24T10:00:06Z"));
    // Somebody deletes it, and nothing holds it.
    let mut going = kept;
    going.metadata.deletion_timestamp = Some(to_time(at("2026-11-24T10:00:10Z")));
    world.apply_run(going.clone());
    let actions = decide(&mut world, "2026-11-24T10:00:10Z");
    assert!(actions.iter().any(|action| matches!(action, Action::Release(_))), "{actions:?}");
    world.delete_run(&going, at("2026-11-24T10:00:11Z"));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:00:11Z")), [("pg-once".to_owned(), 0)]);
}

#[test]
fn runs_that_nobody_owns_claim_no_tick_and_are_not_deleted() {
    let kept = [("pg-20261124-1010", "2026-11-24T10:10:00Z"), ("pg-20261123-1000", "2026-11-23T10:00:00Z")];
    let kept = kept.map(|(name, tick)| orphan(name, tick)).to_vec();
    let keeps_none = job(|job| {
        job["spec"]["successfulRunsHistoryLimit"] = json!(0);
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:00:00Z"});
    });
    let mut world = world(vec![keeps_none], kept, "2026-11-24T10:10:00Z");
    let actions = decide(&mut world, "2026-11-24T10:10:00Z");
    assert!(!actions.iter().any(|action| matches!(action, Action::Delete(_))), "{actions:?}");
    assert_eq!(claims(&actions), [("pg-20261124-1010".to_owned(), 0)]);
}

/// What was said of ticks that nobody claimed.
fn caught_up(actions: &[Action]) -> Vec<u32> {
    let missed = |action: &Action| match action {
        Action::Notice(_, Happening::CaughtUp { missed, .. }) => Some(*missed),
        _ => None,
    };
    actions.iter().filter_map(missed).collect()
}

fn failed_claims(actions: &[Action]) -> Vec<String> {
    let failed = |action: &Action| match action {
        Action::Notice(_, Happening::ClaimFailed { failure }) => Some(failure.message.clone()),
        _ => None,
    };
    actions.iter().filter_map(failed).collect()
}

#[test]
fn a_tick_that_became_a_run_is_not_counted_as_missed_by_the_next_one() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    // Its claim takes so long that the next tick is due before it has ended.
    let claim = first_claim(&decide(&mut world, "2026-11-24T10:10:00Z"));
    assert!(claims(&decide(&mut world, "2026-11-24T10:20:00Z")).is_empty(), "one claim at a time");
    world.claim_ended(&claim, 0, Ok(Claimed::Created), at("2026-11-24T10:20:01Z"));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T10:20:01Z")), [("pg-20261124-1020".to_owned(), 0)]);
}

#[test]
fn what_was_missed_before_a_name_that_is_taken_is_told_with_its_skip() {
    let seen = job(|job| {
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z",
        "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
    });
    let mut world = world(vec![seen.clone()], vec![], "2026-11-24T10:45:00Z");
    let actions = decide(&mut world, "2026-11-24T10:45:00Z");
    assert_eq!(claims(&actions), [("pg-20261124-1040".to_owned(), 2)]);
    world.claim_ended(&first_claim(&actions), 2, Ok(Claimed::NameTaken), at("2026-11-24T10:45:00Z"));
    let actions = decide(&mut world, "2026-11-24T10:50:00Z");
    let skipped = |action: &Action| match action {
        Action::Notice(_, Happening::Skipped { tick, why: Skip::NameTaken, missed }) => Some((*tick, *missed)),
        _ => None,
    };
    assert_eq!(actions.iter().find_map(skipped), Some((at("2026-11-24T10:40:00Z"), 2)));
    assert_eq!(claims(&actions), [("pg-20261124-1050".to_owned(), 0)]);
    // The claim fails, and what was skipped is seen as it was stored: 10:50 is the only one that the next one misses.
    let failure = Failure::new(Reason::ClusterUnavailable, "x");
    world.claim_ended(&first_claim(&actions), 0, Err(failure), at("2026-11-24T10:50:00Z"));
    let mut stored = seen;
    stored.status = written(&actions);
    world.apply_job(stored, at("2026-11-24T10:50:01Z"));
    assert_eq!(claims(&decide(&mut world, "2026-11-24T11:00:00Z")), [("pg-20261124-1100".to_owned(), 1)]);
}

#[test]
fn what_was_missed_is_told_also_when_the_answer_to_the_claim_was_lost() {
    let late = "2026-11-24T10:35:00Z";
    let lost = || Err(Failure::new(Reason::ClusterUnavailable, "no answer"));
    for seen_meanwhile in [false, true] {
        let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
        let actions = decide(&mut world, late);
        assert_eq!(claims(&actions), [("pg-20261124-1030".to_owned(), 2)]);
        let claim = first_claim(&actions);
        if seen_meanwhile {
            world.apply_run(scheduled("pg-20261124-1030", "2026-11-24T10:30:00Z", "Running"));
            decide(&mut world, late);
            world.claim_ended(&claim, 2, lost(), at(late));
        } else {
            world.claim_ended(&claim, 2, lost(), at(late));
            let actions = decide(&mut world, "2026-11-24T10:35:05Z");
            assert_eq!((failed_claims(&actions).len(), caught_up(&actions)), (1, vec![]));
            world.claim_ended(&claim, 2, Ok(Claimed::AlreadyOurs), at("2026-11-24T10:35:06Z"));
        }
        let actions = decide(&mut world, "2026-11-24T10:35:06Z");
        assert_eq!(caught_up(&actions), [2], "{seen_meanwhile}");
        assert!(failed_claims(&actions).is_empty(), "it has its run");
    }
}

#[test]
fn a_tick_that_cannot_be_claimed_is_told_once_and_again_when_the_reason_changes() {
    let mut world = world(vec![job(|_| {})], vec![], "2026-11-24T10:00:05Z");
    let mut now = at("2026-11-24T10:10:00Z");
    let (mut told, mut turn) = (Vec::new(), false);
    while now < at("2026-11-24T10:30:00Z") {
        for action in world.decide(now, &|_| false) {
            if let Action::Claim(claim, missed) = &action {
                let why = match now {
                    now if now >= at("2026-11-24T10:15:00Z") => "a webhook".to_owned(),
                    _ => format!("a quota for {}", claim.run),
                };
                // It says it in turns with something else.
                turn = !turn;
                let why = if turn { why } else { "no answer".to_owned() };
                world.claim_ended(claim, *missed, Err(Failure::new(Reason::ClusterUnavailable, why)), now);
            }
            told.append(&mut failed_claims(&[action]));
        }
        now += TimeDelta::seconds(5);
    }
    let once = ["a quota for …", "no answer", "a webhook"];
    assert_eq!(told[..3], once, "of the first tick");
    assert!(
        told.len() == 5 && told[3..].iter().all(|said| once[1..].contains(&said.as_str())),
        "of the next: {told:?}"
    );
}
