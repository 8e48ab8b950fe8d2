use super::*;
use crate::controller::world::tests::{at, claims, decide, job, run, world, written};
use crate::error::Reason;
use crate::run::ports::TaskEnd;
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde_json::json;

const NOW: &str = "2026-11-24T10:05:00Z";

/// A run whose first attempt is open under an executor's name.
fn executed_by(name: &str, executor: &str) -> BackupRun {
    run(name, |run| {
        run["status"] = json!({"phase": "Running", "executor": executor, "startTime": "2026-11-24T10:00:00Z",
            "attempts": [{"number": 1, "executor": executor, "startTime": "2026-11-24T10:00:00Z"}]});
    })
}

fn living(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn started(actions: &[Action]) -> Vec<String> {
    let start = |action: &Action| match action {
        Action::Start(key, ..) => Some(key.name.to_string()),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

#[test]
fn a_follower_claims_starts_and_writes_nothing() {
    let mut follower = World::new("ubo-0-abcde", TimeDelta::zero());
    follower.apply_job(job(|_| {}), at(NOW));
    follower.apply_run(run("pg-m1", |_| {}));
    follower.set_policy(None);
    follower.set_synced();
    for now in [NOW, "2026-11-24T10:10:00Z", "2026-11-24T12:00:00Z"] {
        assert!(decide(&mut follower, now).is_empty());
        assert_eq!(follower.next_wakeup(), None, "it waits for nothing");
    }
}

#[test]
fn a_follower_ends_what_it_executes_when_somebody_wishes_it() {
    let mut follower = World::new("ubo-0-abcde", TimeDelta::zero());
    follower.set_synced();
    let mut cancelled = executed_by("pg-m1", "ubo-0-abcde");
    cancelled.spec.cancel = Some(true);
    follower.apply_run(cancelled.clone());
    let actions = follower.decide(at(NOW), &|_| true);
    assert!(matches!(&actions[..], [Action::Cancel(_, Reason::CancelRequested)]), "{actions:?}");
    // It is none of its business where another one executes it.
    follower.apply_run(cancelled);
    assert!(follower.decide(at(NOW), &|_| false).is_empty());
}

#[test]
fn a_follower_closes_what_a_fault_of_its_own_has_left_open() {
    let mut follower = World::new("ubo-0-abcde", TimeDelta::zero());
    follower.set_synced();
    let ours = executed_by("pg-m1", "ubo-0-abcde");
    follower.apply_run(ours.clone());
    let (key, pg) = run_identity(&ours).expect("named");
    // A task that ended in order has closed it; the watch is behind.
    follower.task_ended(&key, &pg, TaskEnd::Left);
    assert!(decide(&mut follower, NOW).is_empty());
    follower.task_ended(&key, &pg, TaskEnd::Fault);
    assert!(follower.decide(at(NOW), &|_| true).is_empty(), "it has a task again");
    follower.apply_run(ours.clone());
    assert_eq!(started(&decide(&mut follower, NOW)), ["pg-m1"]);
    follower.apply_run(ours);
    assert!(decide(&mut follower, NOW).is_empty(), "once for each fault");
    // What another process has is that one's, whatever happened here before.
    let theirs = executed_by("pg-m1", "ubo-1-zzzzz");
    follower.apply_run(theirs);
    follower.task_ended(&key, &pg, TaskEnd::Fault);
    assert!(decide(&mut follower, NOW).is_empty());
}

#[test]
fn a_fault_is_not_forgotten_with_the_lead() {
    let mut world = World::new("ubo-0-abcde", TimeDelta::zero());
    world.set_leading(true);
    let ours = executed_by("pg-m1", "ubo-0-abcde");
    let (key, pg) = run_identity(&ours).expect("named");
    // The watches begin anew, and have not shown it yet.
    world.task_ended(&key, &pg, TaskEnd::Fault);
    world.set_leading(false);
    world.apply_run(ours);
    world.set_synced();
    assert_eq!(started(&decide(&mut world, NOW)), ["pg-m1"]);
}

#[test]
fn who_begins_to_lead_decides_from_what_is_stored_then() {
    let mut next = World::new("ubo-1-abcde", TimeDelta::zero());
    next.apply_job(job(|_| {}), at(NOW));
    next.set_policy(None);
    next.set_synced();
    next.set_leading(true);
    // What it saw as a follower may be older than what the one before it wrote.
    assert!(decide(&mut next, "2026-11-24T10:10:00Z").is_empty());
    next.apply_job(
        job(|job| job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z"})),
        at("2026-11-24T10:10:01Z"),
    );
    next.set_synced();
    let actions = decide(&mut next, "2026-11-24T10:10:02Z");
    assert!(claims(&actions).is_empty(), "a tick that the one before it handled");
    assert!(written(&actions).is_some());
    assert_eq!(claims(&decide(&mut next, "2026-11-24T10:20:00Z")).len(), 1);
    next.set_leading(false);
    assert!(decide(&mut next, "2026-11-24T10:30:00Z").is_empty());
}

#[test]
fn a_run_is_taken_over_from_the_dead_alone() {
    let mut leader = world(vec![job(|_| {})], vec![executed_by("pg-m1", "ubo-1-zzzzz")], NOW);
    assert!(started(&decide(&mut leader, NOW)).is_empty(), "before anybody was asked who lives");
    // This list may have been asked for before that executor began.
    leader.set_living(living(&["ubo-0-abcde"]));
    assert!(started(&decide(&mut leader, NOW)).is_empty());
    for _ in 0..10 {
        leader.set_living(living(&["ubo-0-abcde", "ubo-1-zzzzz"]));
        assert!(started(&decide(&mut leader, NOW)).is_empty(), "it lives");
    }
    leader.set_living(living(&["ubo-0-abcde"]));
    assert!(started(&decide(&mut leader, NOW)).is_empty());
    leader.set_living(living(&["ubo-0-abcde"]));
    assert!(started(&decide(&mut leader, NOW)).is_empty());
    leader.set_living(living(&["ubo-0-abcde"]));
    assert_eq!(started(&decide(&mut leader, NOW)), ["pg-m1"]);
}

#[test]
fn a_run_of_this_process_without_a_task_is_taken_up_again() {
    let mut leader = world(vec![job(|_| {})], vec![executed_by("pg-m1", "ubo-0-abcde")], NOW);
    assert_eq!(started(&decide(&mut leader, NOW)), ["pg-m1"]);
}

#[test]
fn one_run_of_a_job_at_a_time_whoever_executes_it() {
    let theirs = executed_by("pg-m1", "ubo-1-zzzzz");
    let mut leader = world(vec![job(|_| {})], vec![theirs, run("pg-m2", |_| {})], NOW);
    leader.set_living(living(&["ubo-0-abcde", "ubo-1-zzzzz"]));
    assert!(started(&decide(&mut leader, NOW)).is_empty());
    leader.apply_run(run("pg-m1", |run| run["status"] = json!({"phase": "Succeeded"})));
    assert_eq!(started(&decide(&mut leader, NOW)), ["pg-m2"]);
}

#[test]
fn a_wish_about_a_run_that_another_process_executes_is_left_to_it() {
    let mut theirs = executed_by("pg-m1", "ubo-1-zzzzz");
    theirs.spec.cancel = Some(true);
    let mut leader = world(vec![job(|_| {})], vec![theirs], NOW);
    leader.set_living(living(&["ubo-1-zzzzz"]));
    let actions = decide(&mut leader, NOW);
    assert!(started(&actions).is_empty() && !actions.iter().any(|action| matches!(action, Action::Cancel(..))));
    // And closed by the leader when that one is dead.
    for _ in 0..=LISTS {
        leader.set_living(living(&[]));
        let actions = decide(&mut leader, NOW);
        if let Some(Action::Start(_, _, _, cause)) = actions.iter().find(|action| matches!(action, Action::Start(..))) {
            assert_eq!(*cause, Some(Reason::CancelRequested));
            return;
        }
    }
    panic!("nobody closes it");
}

proptest! {
    /// A clock that jumps by up to an hour either way, at any moment, and processes that take turns: no tick is claimed
    /// twice, the memory of ticks never goes back, and when the clock is right again ticks go on.
    #[test]
    fn a_clock_that_jumps_claims_no_tick_twice(
        acts in prop::collection::vec((1i64..400, prop_oneof![8 => Just(0i64), 1 => -3600i64..3600], any::<bool>()), 1..80),
    ) {
        let mut true_time = at("2026-11-24T10:00:05Z");
        let mut offset = TimeDelta::zero();
        let mut stored = job(|_| {});
        let mut leader = world(vec![stored.clone()], vec![], "2026-11-24T10:00:05Z");
        let mut claimed: BTreeSet<String> = BTreeSet::new();
        let mut last: Option<DateTime<Utc>> = None;
        let mut act = |leader: &mut World, stored: &mut crate::api::backup_job::BackupJob, now: DateTime<Utc>| {
            let mut fired = 0;
            loop {
                let actions = leader.decide(now, &|_| false);
                if actions.is_empty() {
                    return Ok(fired);
                }
                for action in actions {
                    match action {
                        Action::Claim(claim, missed) => {
                            fired += 1;
                            let first = claimed.insert(claim.run.to_string());
                            prop_assert!(first, "{} is claimed twice", claim.run);
                            prop_assert!(claim.tick <= now, "a tick of the future");
                            leader.claim_ended(&claim, missed, Ok(crate::run::ports::Claimed::Created), now);
                        }
                        Action::Write(_, write) => {
                            let handled = write.status.last_schedule_time.as_ref().map(crate::api::time::from_time);
                            prop_assert!(handled >= last, "the memory of ticks went back");
                            last = handled;
                            stored.status = Some(*write.status);
                        }
                        _ => {}
                    }
                }
            }
        };
        for (passed, jump, succession) in acts {
            true_time += TimeDelta::seconds(passed);
            if jump != 0 {
                offset = TimeDelta::seconds(jump);
            }
            let now = true_time + offset;
            if succession {
                leader = World::new("ubo-1-abcde", TimeDelta::zero());
                leader.set_leading(true);
                leader.set_policy(None);
                leader.apply_job(stored.clone(), now);
                leader.set_synced();
            }
            let fired = act(&mut leader, &mut stored, now)?;
            prop_assert!(fired <= 1, "a burst of {fired}");
        }
        // Right again, and an hour later at the latest: the next tick fires.
        let settled = true_time + TimeDelta::seconds(3600);
        act(&mut leader, &mut stored, settled)?;
        let fired = act(&mut leader, &mut stored, settled + TimeDelta::minutes(10))?;
        prop_assert_eq!(fired, 1, "it went quiet");
    }
}
