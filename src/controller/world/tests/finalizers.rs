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
