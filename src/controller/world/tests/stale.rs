//! A process that begins to lead: what its old watch still brings is older than the list that it decides from.

use super::*;
use proptest::prelude::*;

/// The BackupJob as it was stored when this tick was its last; its text never changes.
fn at_tick(minute: u32) -> BackupJob {
    job(|job| {
        job["metadata"]["resourceVersion"] = json!(minute.to_string());
        job["status"] = json!({
            "lastScheduleTime": format!("2026-11-24T10:{minute:02}:00Z"),
            "scheduleAnchor": {"time": "2026-11-24T10:00:00Z", "schedule": "*/10 * * * *", "suspend": false},
            "skippedRuns": minute,
        });
    })
}

fn minute(status: &BackupJobStatus) -> Option<DateTime<Utc>> {
    status.last_schedule_time.as_ref().map(crate::api::time::from_time)
}

#[test]
fn a_fresh_list_beats_what_the_old_watch_still_brings() {
    let now = at("2026-11-24T10:35:00Z");
    let mut world = World::new("ubo-0-abcde", TimeDelta::zero());
    world.apply_job(at_tick(10), now);
    world.set_policy(None);
    world.set_synced();
    world.set_leading(true);
    world.apply_job(at_tick(10), now); // stood in the channel
    world.apply_job(at_tick(30), now); // the list
    world.set_synced();
    let actions = world.decide(now, &|_| false);
    assert!(claims(&actions).is_empty(), "10:20 and 10:30 are handled");
    let status = written(&actions).expect("conditions are written");
    assert_eq!((minute(&status), status.skipped_runs), (Some(at("2026-11-24T10:30:00Z")), Some(30)));
}

proptest! {
    /// Whatever comes in whatever order, before and after everything was listed: no handled tick is forgotten.
    #[test]
    fn the_memory_of_ticks_never_goes_back(
        seen in proptest::collection::vec(0_u32..4, 1..8),
        synced_after in 0_usize..8,
        edited in any::<bool>(),
    ) {
        let now = at("2026-11-24T10:35:00Z");
        let mut world = world(vec![], vec![], "2026-11-24T10:00:00Z");
        world.set_leading(false);
        world.set_leading(true);
        for (i, tick) in seen.iter().enumerate() {
            if i == synced_after {
                world.set_synced();
            }
            let mut object = at_tick(tick * 10);
            if edited {
                object.metadata.generation = Some(i64::try_from(i).unwrap_or(0));
            }
            world.apply_job(object, now);
        }
        world.set_synced();
        let actions = world.decide(now, &|_| false);
        let newest = seen.iter().max().copied().unwrap_or(0);
        let newest = at(&format!("2026-11-24T10:{:02}:00Z", newest * 10));
        if let Some(status) = written(&actions) {
            prop_assert_eq!(minute(&status), Some(newest));
        }
        let held = &world.jobs.values().next().expect("the job").status;
        prop_assert_eq!(minute(held), Some(newest));
        let latest = at("2026-11-24T10:30:00Z");
        prop_assert_eq!(claims(&actions).len(), usize::from(newest < latest), "only what is not handled is claimed");
    }
}
