//! **P** The index against its promises: latest only, once, never before the anchor, whatever the clock does.

use super::*;
use crate::schedule::cron::Origin;
use proptest::prelude::*;

fn job(name: &str) -> JobRef {
    JobRef::new("default", name).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn uid(number: u32) -> Uid {
    Uid::new(format!("{number:08x}")).unwrap()
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text, None, &Origin::of(&job("a"), at("2026-01-01T00:00:00Z"))).unwrap()
}

fn entry(text: &str, anchor: &str) -> Entry {
    Entry { schedule: Some(schedule(text)), ..once(anchor) }
}

fn once(anchor: &str) -> Entry {
    Entry {
        uid: uid(1),
        schedule: None,
        suspend: false,
        jitter: TimeDelta::zero(),
        deadline: None,
        spread: true,
        anchor: at(anchor),
        once_done: false,
    }
}

/// What `due` hands out, given back to be asked for again.
fn look(index: &mut Index, now: DateTime<Utc>) -> Vec<Due> {
    let found = index.due(now);
    for due in &found {
        index.offer(&due.job, now);
    }
    found
}

/// Ticks that are due, with what was let go before each.
fn due(index: &mut Index, now: &str) -> Vec<(DateTime<Utc>, u32)> {
    look(index, at(now)).into_iter().map(|due| (due.tick, due.missed)).collect()
}

#[test]
fn a_tick_is_due_at_its_time_until_it_is_handled() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(index.next_wakeup(), Some(at("2026-01-01T02:00:00Z")));
    assert_eq!(due(&mut index, "2026-01-01T01:59:59Z"), []);
    assert_eq!(index.due(at("2026-01-01T02:00:00Z")).len(), 1);
    // It is handed out once; until it is given back, the next one is the news.
    assert_eq!(index.due(at("2026-01-01T02:00:01Z")), []);
    assert_eq!(index.next_wakeup(), Some(at("2026-01-02T02:00:00Z")));
    assert_eq!(index.next_run(&job("a")), Some(at("2026-01-01T02:00:00Z")));
    index.offer(&job("a"), at("2026-01-01T02:00:30Z"));
    assert_eq!(index.next_wakeup(), Some(at("2026-01-01T02:00:30Z")));
    assert_eq!(index.due(at("2026-01-01T02:00:29Z")), []);
    assert_eq!(due(&mut index, "2026-01-01T02:00:30Z"), [(at("2026-01-01T02:00:00Z"), 0)]);
    index.handled(&job("a"), at("2026-01-01T02:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T02:00:31Z"), []);
    assert_eq!(index.next_run(&job("a")), Some(at("2026-01-02T02:00:00Z")));
}

#[test]
fn after_downtime_the_latest_is_due_once_and_the_others_are_counted() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T02:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-05T12:00:00Z"), [(at("2026-01-05T02:00:00Z"), 3)]);
    index.handled(&job("a"), at("2026-01-05T02:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-05T12:00:01Z"), []);
    assert_eq!(index.next_wakeup(), Some(at("2026-01-06T02:00:00Z")));
}

#[test]
fn a_tick_that_could_not_be_claimed_makes_room_for_the_next() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("* * * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:01:00Z"), [(at("2026-01-01T00:01:00Z"), 0)]);
    assert_eq!(due(&mut index, "2026-01-01T00:02:10Z"), [(at("2026-01-01T00:02:00Z"), 1)]);
    assert_eq!(due(&mut index, "2026-01-01T00:05:10Z"), [(at("2026-01-01T00:05:00Z"), 4)]);
    // Late news about a tick that is no longer the one that waits.
    index.handled(&job("a"), at("2026-01-01T00:02:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:05:20Z"), [(at("2026-01-01T00:05:00Z"), 2)]);
    // Told once more, they change nothing.
    for minute in ["00:02", "00:01"] {
        index.handled(&job("a"), at(&format!("2026-01-01T{minute}:00Z")));
        assert_eq!(due(&mut index, "2026-01-01T00:05:30Z"), [(at("2026-01-01T00:05:00Z"), 2)]);
    }
}

#[test]
fn late_news_of_an_older_tick_makes_no_newer_one_due_again() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("* * * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:05:00Z").len(), 1);
    index.handled(&job("a"), at("2026-01-01T00:05:00Z"));
    index.handled(&job("a"), at("2026-01-01T00:02:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:05:30Z"), []);
    assert_eq!(index.next_wakeup(), Some(at("2026-01-01T00:06:00Z")));
}

#[test]
fn what_lies_before_the_anchor_was_not_missed() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-03T12:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-03T23:00:00Z"), []);
    // The anchor moves on (an edit, or the end of a suspension) while a tick waits.
    assert_eq!(due(&mut index, "2026-01-04T02:00:00Z").len(), 1);
    index.apply(job("a"), entry("0 2 * * *", "2026-01-04T12:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-04T12:00:00Z"), []);
    assert_eq!(index.next_wakeup(), Some(at("2026-01-05T02:00:00Z")));
}

#[test]
fn a_status_that_is_read_late_brings_nothing_back() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T02:00:00Z").len(), 1);
    index.handled(&job("a"), at("2026-01-01T02:00:00Z"));
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T02:00:01Z"), []);
    index.reset([(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"))]);
    assert_eq!(due(&mut index, "2026-01-01T02:00:01Z"), []);
}

#[test]
fn another_uid_is_another_job() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    index.handled(&job("a"), at("2026-01-09T02:00:00Z"));
    let anew = Entry { uid: uid(2), ..entry("0 2 * * *", "2026-01-05T00:00:00Z") };
    index.apply(job("a"), anew);
    let found = index.due(at("2026-01-05T02:00:00Z"));
    assert_eq!((found.len(), &found[0].uid), (1, &uid(2)));
}

#[test]
fn a_suspended_job_is_never_due() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("* * * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:01:00Z").len(), 1);
    index.apply(job("a"), Entry { suspend: true, ..entry("* * * * *", "2026-01-01T00:00:00Z") });
    assert_eq!(due(&mut index, "2026-01-01T01:00:00Z"), []);
    assert_eq!((index.next_wakeup(), index.next_run(&job("a"))), (None, None));
    // Resumed: the caller moves the anchor, and nothing of the pause is made up for.
    index.apply(job("a"), entry("* * * * *", "2026-01-01T02:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T02:00:59Z"), []);
    assert_eq!(index.next_wakeup(), Some(at("2026-01-01T02:01:00Z")));
}

#[test]
fn an_edited_schedule_counts_from_its_anchor() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 * * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T01:00:00Z").len(), 1);
    index.apply(job("a"), entry("30 * * * *", "2026-01-01T01:10:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T01:29:00Z"), []);
    assert_eq!(due(&mut index, "2026-01-01T01:30:00Z"), [(at("2026-01-01T01:30:00Z"), 0)]);
}

#[test]
fn a_job_without_schedule_is_due_exactly_once() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), once("2026-01-01T00:00:30Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:00:31Z"), [(at("2026-01-01T00:00:30Z"), 0)]);
    assert_eq!(due(&mut index, "2026-01-01T00:00:32Z").len(), 1);
    index.handled(&job("a"), at("2026-01-01T00:00:30Z"));
    assert_eq!(due(&mut index, "2026-01-01T00:00:33Z"), []);
    // Neither a late status nor a moved anchor makes it due again.
    index.apply(job("a"), once("2026-01-01T00:00:30Z"));
    index.apply(job("a"), once("2026-01-02T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-03T00:00:00Z"), []);
}

#[test]
fn a_job_without_schedule_waits_for_the_end_of_its_suspension() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), Entry { suspend: true, ..once("2026-01-01T00:00:00Z") });
    assert_eq!(due(&mut index, "2026-01-01T01:00:00Z"), []);
    index.apply(job("a"), once("2026-01-01T02:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T02:00:00Z"), [(at("2026-01-01T02:00:00Z"), 0)]);
}

#[test]
fn a_job_that_had_a_schedule_does_not_become_a_one_off() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    index.apply(job("a"), once("2026-01-01T01:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-02T00:00:00Z"), []);
    index.apply(job("b"), Entry { once_done: true, ..once("2026-01-01T01:00:00Z") });
    assert_eq!(due(&mut index, "2026-01-02T00:00:00Z"), []);
}

#[test]
fn a_clock_that_jumps_back_fires_nothing_twice() {
    let mut index = Index::new(TimeDelta::zero());
    index.apply(job("a"), entry("0 * * * *", "2026-01-01T00:00:00Z"));
    index.apply(job("b"), entry("0 * * * *", "2026-01-01T00:00:00Z"));
    assert_eq!(due(&mut index, "2026-01-01T05:00:10Z").len(), 2);
    index.handled(&job("a"), at("2026-01-01T05:00:00Z"));
    // Back to 02:30: `b` has 02:00 waiting now, not a tick in the future; `a` waits for 06:00.
    let found = look(&mut index, at("2026-01-01T02:30:00Z"));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].job.clone(), found[0].tick), (job("b"), at("2026-01-01T02:00:00Z")));
    assert_eq!(index.next_run(&job("a")), Some(at("2026-01-01T06:00:00Z")));
}

#[test]
fn a_reset_drops_what_is_gone() {
    let mut index = Index::new(TimeDelta::zero());
    for name in ["a", "b", "c"] {
        index.apply(job(name), entry("* * * * *", "2026-01-01T00:00:00Z"));
    }
    assert_eq!(look(&mut index, at("2026-01-01T00:01:00Z")).len(), 3);
    let gone = index.reset([(job("b"), entry("* * * * *", "2026-01-01T00:00:00Z"))]);
    assert_eq!(gone, [job("a"), job("c")]);
    assert_eq!(index.len(), 1);
    assert_eq!(index.due(at("2026-01-01T00:01:00Z")).len(), 1);
    index.delete(&job("b"));
    index.delete(&job("b"));
    assert!(index.is_empty() && index.due(at("2026-01-01T00:02:00Z")).is_empty());
    assert_eq!(index.next_wakeup(), None);
}

#[test]
fn ten_thousand_schedules_are_looked_at_only_when_they_are_due() {
    let mut index = Index::new(TimeDelta::zero());
    for number in 0..10_000_u32 {
        let name = format!("job-{number}");
        let text = if number < 1_000 { "30 3 * * *".to_owned() } else { format!("{} 12 * * *", number % 60) };
        index.apply(job(&name), entry(&text, "2026-01-01T00:00:00Z"));
    }
    assert_eq!((index.slots.len(), index.wakeups.len(), index.ripening.len()), (10_000, 10_000, 0));
    let found = index.due(at("2026-01-01T03:30:00Z"));
    assert_eq!(found.len(), 1_000);
    for due in &found {
        index.handled(&due.job, due.tick);
    }
    assert!(index.due(at("2026-01-01T03:30:01Z")).is_empty());
    // Each job has one wake-up and no more: nothing piles up.
    assert_eq!((index.wakeups.len(), index.ripening.len()), (10_000, 0));
}

/// Something that happens to an index.
#[derive(Clone, Debug)]
enum Step {
    /// The clock moves by so many seconds, mostly ahead.
    Move(i64),
    /// All that is due is handled.
    Handle,
    /// The watch shows the object again, as it was in the beginning.
    Stale,
    /// The watch shows it with what was handled.
    Fresh,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..7_200_i64).prop_map(Step::Move),
        1 => (-7_200..0_i64).prop_map(Step::Move),
        1 => Just(Step::Move(400_000)),
        3 => Just(Step::Handle),
        1 => Just(Step::Stale),
        1 => Just(Step::Fresh),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn every_tick_is_handled_at_most_once_and_none_in_the_future(
        text in prop::sample::select(&["* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "@every 11m"]),
        steps in steps(),
    ) {
        let anchor = at("2026-01-01T00:00:00Z");
        let whole = entry(text, "2026-01-01T00:00:00Z");
        let mut index = Index::new(TimeDelta::zero());
        index.apply(job("a"), whole.clone());
        let mut now = anchor;
        let mut last = anchor;
        for step in steps {
            match step {
                Step::Move(seconds) => now += TimeDelta::seconds(seconds),
                Step::Stale => index.apply(job("a"), whole.clone()),
                Step::Fresh => index.apply(job("a"), Entry { anchor: last, ..whole.clone() }),
                Step::Handle => {
                    for due in index.due(now) {
                        prop_assert!(due.tick > last, "{} handled again", due.tick);
                        last = due.tick;
                        index.handled(&due.job, due.tick);
                    }
                }
            }
            let found = look(&mut index, now);
            // What a fresh look at the calendar says.
            let expected = schedule(text).missed_between(last, now).latest;
            prop_assert_eq!(found.first().map(|due| due.tick), expected);
            prop_assert_eq!(found.len(), usize::from(expected.is_some()));
            if let Some(wakeup) = index.next_wakeup() {
                prop_assert!(wakeup > now || !found.is_empty(), "wakes at {} for nothing", wakeup);
            }
        }
    }
}

#[test]
fn jitter_moves_the_start_and_not_the_tick() {
    let mut index = Index::new(TimeDelta::zero());
    let tick = at("2026-01-01T02:00:00Z");
    index.apply(job("a"), Entry { jitter: TimeDelta::minutes(5), ..entry("0 2 * * *", "2026-01-01T00:00:00Z") });
    let start = tick + spread::jitter(&job("a"), tick, TimeDelta::minutes(5));
    assert!(start > tick, "this name has some");
    assert_eq!(index.due(tick), []);
    assert_eq!(index.next_wakeup(), Some(start));
    assert_eq!(index.due(start - TimeDelta::milliseconds(1)), []);
    let found = index.due(start);
    assert_eq!(found.iter().map(|due| (due.tick, due.start)).collect::<Vec<_>>(), [(tick, start)]);
    // Another jitter is another start of the same tick; a suspension ends the wait.
    index.handled(&job("a"), tick);
    let wide = Entry { jitter: TimeDelta::hours(2), ..entry("0 2 * * *", "2026-01-01T00:00:00Z") };
    index.apply(job("a"), wide.clone());
    let next = at("2026-01-02T02:00:00Z");
    assert_eq!(index.due(next), []);
    assert!(index.next_wakeup() > Some(next));
    index.apply(job("a"), Entry { suspend: true, ..wide });
    assert_eq!(index.next_wakeup(), None);
}

#[test]
fn what_is_found_late_is_spread_over_the_window_and_by_name() {
    let window = TimeDelta::minutes(10);
    let mut index = Index::new(window);
    for number in 0..200 {
        index.apply(job(&format!("job-{number}")), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    }
    let found = at("2026-01-01T04:00:00Z");
    let at_once = index.due(found).len();
    assert!(at_once < 5, "{at_once} of 200 at once");
    let half = index.due(found + window / 2).len();
    assert!((60..=140).contains(&(at_once + half)), "{half} in the first half");
    let rest = index.due(found + window).len();
    assert_eq!(at_once + half + rest, 200, "all of them within the window");
}

#[test]
fn a_tick_that_is_only_a_little_late_or_is_not_to_be_spread_is_due_at_once() {
    let mut index = Index::new(TimeDelta::minutes(10));
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    index.apply(job("b"), Entry { spread: false, ..entry("0 2 * * *", "2026-01-01T00:00:00Z") });
    index.apply(job("c"), once("2026-01-01T00:00:00Z"));
    assert_eq!(index.due(at("2026-01-01T02:01:00Z")).len(), 3);
    index.handled(&job("b"), at("2026-01-01T02:00:00Z"));
    let late: Vec<_> = index.due(at("2026-01-03T02:30:00Z")).into_iter().map(|due| due.job).collect();
    assert_eq!(late, [job("b")]);
}

#[test]
fn a_clock_that_jumps_back_brings_a_place_in_the_window_with_it() {
    let mut index = Index::new(TimeDelta::minutes(10));
    index.apply(job("a"), entry("0 2 * * *", "2026-01-01T00:00:00Z"));
    // An hour ahead: found late, and held back. Then back: the tick is not late at all.
    assert_eq!(index.due(at("2026-01-01T03:00:05Z")), []);
    assert_eq!(index.due(at("2026-01-01T02:00:05Z")).len(), 1);
}

proptest! {
    /// Whatever the schedule, the jitter, the deadline and the lateness: a tick is handed out before its successor is due,
    /// not later than the window allows, and within its deadline if it was found within it.
    #[test]
    fn no_tick_is_held_back_for_too_long(
        text in prop::sample::select(&["* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "@every 11m"]),
        name in "[a-z]{1,8}",
        jitter in 0..20_000_i64,
        deadline in prop::option::of(0..20_000_i64),
        window in 0..3_600_i64,
        late in 0..200_000_i64,
    ) {
        let (jitter, window) = (TimeDelta::seconds(jitter), TimeDelta::seconds(window));
        let deadline = deadline.map(TimeDelta::seconds);
        let mut index = Index::new(window);
        index.apply(job(&name), Entry { jitter, deadline, ..entry(text, "2026-01-01T00:00:00Z") });
        let first = schedule(text).next_after(at("2026-01-01T00:00:00Z")).expect("it goes on");
        let found = first + TimeDelta::seconds(late);
        let tick = schedule(text).missed_between(at("2026-01-01T00:00:00Z"), found).latest.expect("one at least");
        let next = schedule(text).next_after(tick).expect("it goes on");
        let mut given = index.due(found);
        let mut now = found;
        while given.is_empty() {
            now = index.next_wakeup().expect("it waits");
            given = index.due(now);
        }
        let due = &given[0];
        prop_assert_eq!(due.tick, tick, "the latest");
        prop_assert!(now < next, "handed out at {}, when {} is due", now, next);
        prop_assert!(due.start <= tick + jitter && due.start - tick <= (next - tick) / 2);
        prop_assert!(now <= due.start.max(found + window));
        if let Some(deadline) = deadline {
            prop_assert!(now <= due.start + deadline || now == found);
        }
    }
}
