//! Finalizers, and runs that history no longer keeps: tried again until they are off.

use super::*;

const DELETED: &str = "2026-11-24T10:11:00Z";

fn deleted(phase: &str) -> BackupRun {
    run("pg-m1", |run| {
        run["metadata"]["deletionTimestamp"] = json!(DELETED);
        run["status"] = json!({"phase": phase});
    })
}

fn releases(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Release(_))).count()
}

fn deletes(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Delete(_))).count()
}

/// What is decided at each time that something is due until `end`, and when, with nothing seen between.
fn by_itself(world: &mut World, end: &str, at_work: bool) -> Vec<(DateTime<Utc>, Vec<Action>)> {
    let mut all = Vec::new();
    while let Some(due) = world.next_wakeup().filter(|due| *due <= at(end)) {
        all.push((due, world.decide(due, &|_| at_work)));
        assert!(all.len() < 1000, "it spins: {all:?}");
    }
    all
}

#[test]
fn a_finalizer_that_was_not_taken_off_is_tried_again_with_and_without_its_job() {
    for jobs in [vec![], vec![job(|job| job["spec"]["suspend"] = json!(true))]] {
        let with_job = !jobs.is_empty();
        let mut world = world(jobs, vec![deleted("Failed")], "2026-11-24T10:11:05Z");
        assert_eq!(releases(&decide(&mut world, "2026-11-24T10:11:05Z")), 1, "{with_job}");
        // Whatever happens to the job meanwhile, one more try follows a minute later, not one for each event.
        for second in 6..30 {
            world.apply_run(deleted("Failed"));
            decide(&mut world, &format!("2026-11-24T10:11:{second:02}Z"));
        }
        let tries: usize =
            by_itself(&mut world, "2026-11-24T10:21:05Z", false).iter().map(|(_, actions)| releases(actions)).sum();
        assert!((9..=12).contains(&tries), "{with_job}: {tries}");
        world.delete_run(&deleted("Failed"), at("2026-11-24T10:21:10Z"));
        let rest = by_itself(&mut world, "2026-11-24T10:25:00Z", false);
        assert!(rest.iter().all(|(_, actions)| releases(actions) == 0), "{with_job}");
    }
}

#[test]
fn a_run_whose_job_is_gone_is_given_up_after_five_minutes_too() {
    // Deleted long ago by the API server's clock: what counts is how long this process has known it.
    let mut world = world(vec![], vec![deleted("Running")], "2026-11-24T11:00:00Z");
    assert_eq!(releases(&world.decide(at("2026-11-24T11:00:00Z"), &|_| true)), 0);
    let all = by_itself(&mut world, "2026-11-24T11:07:00Z", true);
    let first = all.iter().find(|(_, actions)| releases(actions) > 0).map(|(due, _)| *due);
    assert_eq!(first, Some(at("2026-11-24T11:05:01Z")));
}

#[test]
fn a_run_beyond_the_limit_that_was_not_deleted_is_tried_again() {
    let ended = finished("pg-20261124-1010", "2026-11-24T10:10:00Z", "Succeeded");
    let keeps_none = job(|job| {
        job["spec"]["successfulRunsHistoryLimit"] = json!(0);
        job["spec"]["suspend"] = json!(true);
        job["status"] = json!({"lastScheduleTime": "2026-11-24T10:10:00Z"});
    });
    let mut world = world(vec![keeps_none], vec![ended], "2026-11-24T10:11:05Z");
    assert_eq!(deletes(&decide(&mut world, "2026-11-24T10:11:05Z")), 1);
    let again = by_itself(&mut world, "2026-11-24T10:12:05Z", false);
    assert!(again.iter().any(|(_, actions)| deletes(actions) == 1), "{again:?}");
}

fn looks(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::LookAtNamespace(_))).count()
}

fn cancels(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Cancel(_, Reason::Deleted))).count()
}

fn default() -> Namespace {
    Namespace::new("default").expect("good")
}

/// Two runs at work, of BackupJobs that are gone, seen to be deleted at 11:00.
fn two() -> World {
    let other = run("web-m1", |run| {
        run["metadata"]["deletionTimestamp"] = json!(DELETED);
        run["metadata"]["uid"] = json!("22222222-2222-2222-2222-000000000077");
        run["spec"]["backupJobName"] = json!("web");
        run["status"] = json!({"phase": "Running"});
    });
    let mut world = world(vec![], vec![deleted("Running"), other], "2026-11-24T11:00:00Z");
    let actions = world.decide(at("2026-11-24T11:00:00Z"), &|_| true);
    assert_eq!((cancels(&actions), releases(&actions), looks(&actions)), (2, 0, 0), "they are told to stop");
    world
}

/// A look was answered; what follows at once.
fn seen(world: &mut World, going: Result<bool, Failure>, now: &str) -> Vec<Action> {
    world.namespace_seen(&default(), going, at(now));
    world.decide(at(now), &|_| true)
}

/// The first time until `end` at which something is due and holds.
fn when(world: &mut World, end: &str, holds: impl Fn(&[Action]) -> bool) -> Option<DateTime<Utc>> {
    let all = by_itself(world, end, true);
    all.iter().find(|(_, actions)| holds(actions)).map(|(due, _)| *due)
}

#[test]
fn in_a_namespace_that_is_going_a_finalizer_gives_up_as_soon_as_that_is_known() {
    let mut world = two();
    let looked = by_itself(&mut world, "2026-11-24T11:01:00Z", true);
    let all: Vec<_> = looked.iter().filter(|(_, actions)| looks(actions) > 0).map(|(due, _)| *due).collect();
    assert_eq!(all, [at("2026-11-24T11:00:20Z")], "one look for both, after they had time to clean up");
    assert_eq!(looked.iter().map(|(_, actions)| releases(actions)).sum::<usize>(), 0, "nothing is known yet");
    let actions = seen(&mut world, Ok(true), "2026-11-24T11:00:21Z");
    assert_eq!((releases(&actions), looks(&actions)), (2, 0), "{actions:?}");
}

#[test]
fn one_that_stays_is_looked_at_again_and_holds_its_runs() {
    let mut world = two();
    let look = |actions: &[Action]| looks(actions) > 0;
    assert_eq!(when(&mut world, "2026-11-24T11:00:20Z", look), Some(at("2026-11-24T11:00:20Z")));
    assert_eq!(releases(&seen(&mut world, Ok(false), "2026-11-24T11:00:21Z")), 0);
    assert_eq!(when(&mut world, "2026-11-24T11:00:55Z", look), Some(at("2026-11-24T11:00:51Z")));
    // No answer says nothing.
    let failure = Failure::new(Reason::ClusterUnavailable, "no answer");
    assert_eq!(releases(&seen(&mut world, Err(failure), "2026-11-24T11:01:00Z")), 0);
    assert_eq!(when(&mut world, "2026-11-24T11:01:30Z", look), Some(at("2026-11-24T11:01:30Z")));
    assert_eq!(releases(&seen(&mut world, Ok(false), "2026-11-24T11:01:31Z")), 0);
    // Whatever it says, five minutes are the end; also where a look is not answered.
    let released = |actions: &[Action]| releases(actions) > 0;
    assert_eq!(when(&mut world, "2026-11-24T11:06:00Z", released), Some(at("2026-11-24T11:05:01Z")));
}

#[test]
fn a_namespace_that_was_made_anew_is_another_one() {
    let mut world = two();
    by_itself(&mut world, "2026-11-24T11:00:30Z", true);
    assert_eq!(releases(&seen(&mut world, Ok(true), "2026-11-24T11:00:30Z")), 2);
    let later = run("pg-m2", |run| {
        run["metadata"]["deletionTimestamp"] = json!(DELETED);
        run["metadata"]["uid"] = json!("22222222-2222-2222-2222-000000000078");
        run["status"] = json!({"phase": "Running"});
    });
    world.apply_run(later);
    let actions = world.decide(at("2026-11-24T11:00:40Z"), &|_| true);
    assert_eq!((releases(&actions), looks(&actions)), (1, 0), "the one of before, and not this one: {actions:?}");
    let look = when(&mut world, "2026-11-24T11:01:10Z", |actions| looks(actions) > 0);
    assert_eq!(look, Some(at("2026-11-24T11:01:00Z")), "looked at again");
}

#[test]
fn where_all_is_through_no_namespace_is_looked_at() {
    let mut world = world(vec![], vec![deleted("Cancelled")], "2026-11-24T11:00:00Z");
    let first = decide(&mut world, "2026-11-24T11:00:00Z");
    assert_eq!((releases(&first), looks(&first)), (1, 0));
    let rest = by_itself(&mut world, "2026-11-24T11:10:00Z", false);
    assert!(rest.iter().all(|(_, actions)| looks(actions) == 0), "{rest:?}");
}

/// The run of a tick that no `lastScheduleTime` tells of: its leader died in between.
fn unrecorded(deleted: bool) -> BackupRun {
    let mut run = finished("pg-20261124-1010", "2026-11-24T10:10:00Z", "Succeeded");
    run.metadata.deletion_timestamp = deleted.then(|| to_time(at(DELETED)));
    run
}

#[test]
fn a_run_that_is_over_does_not_hold_up_a_job_that_is_going() {
    let going = job(|job| {
        job["metadata"]["deletionTimestamp"] = json!(DELETED);
        job["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    });
    let mut world = world(vec![going], vec![unrecorded(true)], "2026-11-24T10:11:05Z");
    assert_eq!(releases(&decide(&mut world, "2026-11-24T10:11:05Z")), 1);
}

#[test]
fn a_run_that_is_over_is_recorded_whatever_has_become_of_its_job() {
    let changes: [fn(&mut Value); 3] = [
        |job| job["spec"]["suspend"] = json!(true),
        // Edited since: its tick lies before the anchor.
        |job| {
            job["spec"]["schedule"] = json!("5 * * * *");
            job["status"] = json!({"scheduleAnchor":
                {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false}});
        },
        |job| job["spec"]["schedule"] = json!("61 * * * *"),
    ];
    for change in changes {
        let mut world = world(vec![job(change)], vec![unrecorded(true)], "2026-11-24T10:11:05Z");
        let actions = decide(&mut world, "2026-11-24T10:11:05Z");
        assert_eq!(releases(&actions), 0, "not before it is stored");
        let status = written(&actions).expect("a status");
        assert_eq!(status.last_schedule_time, Some(to_time(at("2026-11-24T10:10:00Z"))));
        let stored = job(|job| {
            change(job);
            job["status"] = serde_json::to_value(&status).expect("JSON");
        });
        world.apply_job(stored, at("2026-11-24T10:11:06Z"));
        assert_eq!(releases(&decide(&mut world, "2026-11-24T10:11:06Z")), 1);
    }
}
