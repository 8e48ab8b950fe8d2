//! **P** Clock changes with exact instants, and a model that walks minute by minute.

use super::*;
use chrono::{Datelike, Timelike};
use proptest::prelude::*;

fn origin() -> Origin {
    let job = JobRef::new("default", "postgres").unwrap();
    Origin::of(&job, "2026-01-01T10:20:30.5Z".parse().unwrap())
}

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, Some(zone), &origin()).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Ticks in (from, until], as local time with its offset.
fn between(text: &str, zone: &str, from: &str, until: &str) -> Vec<String> {
    let schedule = schedule(text, zone);
    let mut found = Vec::new();
    let mut now = at(from);
    while let Some(next) = schedule.next_after(now).filter(|next| *next <= at(until)) {
        assert!(next > now);
        found.push(schedule.local(next).format("%dT%H:%M%z").to_string());
        now = next;
    }
    found
}

#[test]
fn a_fixed_time_in_a_gap_runs_at_the_first_valid_minute() {
    for (text, zone, from, until, expected) in [
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            "2026-03-09T12:00:00Z",
            &["08T03:00-0400", "09T02:30-0400"],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            "2026-03-30T12:00:00Z",
            &["29T03:00+0200", "30T02:30+0200"],
        ),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            "2026-10-05T00:00:00Z",
            &["04T02:30+1100", "05T02:15+1100"],
        ),
        (
            "0 0 * * *",
            "Africa/Cairo",
            "2026-04-23T12:00:00Z",
            "2026-04-25T12:00:00Z",
            &["24T01:00+0300", "25T00:00+0300"],
        ),
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T12:00:00Z",
            "2026-09-07T12:00:00Z",
            &["06T01:00-0300", "07T00:00-0300"],
        ),
        // Minutes like a wildcard's, but an hour that comes once a day: the day must not be lost.
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", &["29T03:00+0200"]),
        (
            "0 */12 * * *",
            "Africa/Cairo",
            "2026-04-23T12:00:00Z",
            "2026-04-24T12:00:00Z",
            &["24T01:00+0300", "24T12:00+0300"],
        ),
        // Several intended times in one gap are one run, and one with the time that follows the gap.
        (
            "0,15,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            "2026-03-29T01:16:00Z",
            &["29T03:00+0200", "29T03:15+0200"],
        ),
    ] as [(&str, &str, &str, &str, &[&str]); 8]
    {
        assert_eq!(between(text, zone, from, until), expected, "{text} {zone}");
    }
}

#[test]
fn a_fixed_time_in_an_overlap_runs_once_in_the_first_pass() {
    for (text, zone, from, until, expected) in [
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            "2026-11-02T12:00:00Z",
            &["01T01:30-0400", "02T01:30-0500"],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            "2026-10-26T12:00:00Z",
            &["25T02:30+0200", "26T02:30+0100"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            "2026-04-06T00:00:00Z",
            &["05T01:45+1100", "06T01:45+1030"],
        ),
        (
            "30 23 * * *",
            "Africa/Cairo",
            "2026-10-29T12:00:00Z",
            "2026-10-30T22:00:00Z",
            &["29T23:30+0300", "30T23:30+0200"],
        ),
        (
            "30 23 * * *",
            "America/Santiago",
            "2026-04-04T12:00:00Z",
            "2026-04-06T12:00:00Z",
            &["04T23:30-0300", "05T23:30-0400"],
        ),
    ] as [(&str, &str, &str, &str, &[&str]); 5]
    {
        assert_eq!(between(text, zone, from, until), expected, "{text} {zone}");
    }
}

#[test]
fn a_wildcard_runs_in_both_passes_in_order() {
    assert_eq!(
        between("*/30 * * * *", "America/New_York", "2026-11-01T04:59:00Z", "2026-11-01T07:00:00Z"),
        ["01T01:00-0400", "01T01:30-0400", "01T01:00-0500", "01T01:30-0500", "01T02:00-0500"]
    );
    assert_eq!(
        between("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T02:30:00Z"),
        ["25T02:00+0200", "25T02:00+0100", "25T03:00+0100"]
    );
    assert_eq!(
        between("*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:20:00Z", "2026-04-04T15:40:00Z"),
        ["05T01:30+1100", "05T01:45+1100", "05T01:30+1030", "05T01:45+1030", "05T02:00+1030"]
    );
    assert_eq!(
        between("*/20 23 * * *", "Africa/Cairo", "2026-10-29T19:59:00Z", "2026-10-29T22:00:00Z"),
        ["29T23:00+0300", "29T23:20+0300", "29T23:40+0300", "29T23:00+0200", "29T23:20+0200", "29T23:40+0200"]
    );
}

#[test]
fn every_hour_needs_nothing_made_up_in_a_gap() {
    assert_eq!(
        between("15 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z"),
        ["29T01:15+0100", "29T03:15+0200"]
    );
    assert_eq!(
        between("*/15 * * * *", "Australia/Lord_Howe", "2026-10-03T15:20:00Z", "2026-10-03T15:50:00Z"),
        ["04T02:30+1100", "04T02:45+1100"]
    );
}

#[test]
fn the_next_tick_in_the_second_pass_is_not_in_the_past() {
    // 01:10 EST is 06:10Z. The crate alone answers 01:15 EDT, 55 minutes back: a loop that sleeps until then spins.
    let next = schedule("*/15 * * * *", "America/New_York").next_after(at("2026-11-01T06:10:00Z"));
    assert_eq!(next, Some(at("2026-11-01T06:15:00Z")));
}

#[test]
fn an_interval_counts_from_the_creation_cut_to_the_minute() {
    let schedule = schedule("@every 90m", "America/New_York");
    for (after, expected) in [
        ("2026-01-01T10:20:30Z", "2026-01-01T11:50:00Z"),
        ("2025-01-01T00:00:00Z", "2026-01-01T11:50:00Z"),
        ("2026-01-01T11:50:00Z", "2026-01-01T13:20:00Z"),
        ("2026-01-01T11:49:59.999Z", "2026-01-01T11:50:00Z"),
        ("2026-03-08T07:00:00Z", "2026-03-08T07:20:00Z"),
    ] {
        assert_eq!(schedule.next_after(at(after)), Some(at(expected)), "{after}");
    }
}

#[test]
fn what_was_missed_is_counted_to_a_limit_and_its_last_is_exact() {
    let nightly = Schedule::parse("0 2 * * *", None, &origin()).unwrap();
    let missed = nightly.missed_between(at("2026-01-01T02:00:00Z"), at("2026-01-04T02:00:00Z"));
    assert_eq!(missed, Missed { count: 3, more: false, latest: Some(at("2026-01-04T02:00:00Z")) });
    let none = nightly.missed_between(at("2026-01-01T02:00:00Z"), at("2026-01-02T01:59:59Z"));
    assert_eq!(none, Missed::default());
    assert_eq!(nightly.missed_between(at("2026-01-02T00:00:00Z"), at("2026-01-01T00:00:00Z")), Missed::default());

    let minutely = Schedule::parse("* * * * *", None, &origin()).unwrap();
    let missed = minutely.missed_between(at("2020-01-01T00:00:00Z"), at("2026-06-15T12:34:56Z"));
    assert_eq!(missed, Missed { count: 100, more: true, latest: Some(at("2026-06-15T12:34:00Z")) });

    let bunched = Schedule::parse("* * 1 1 *", None, &origin()).unwrap();
    let missed = bunched.missed_between(at("2020-06-01T00:00:00Z"), at("2026-12-31T00:00:00Z"));
    assert_eq!(missed, Missed { count: 100, more: true, latest: Some(at("2026-01-01T23:59:00Z")) });
}

#[test]
fn the_ends_of_time_are_no_panic() {
    for text in ["* * * * *", "0 2 * * *", "@every 1m", "@every 87840h"] {
        let schedule = schedule(text, "Europe/Berlin");
        assert_eq!(schedule.next_after(DateTime::<Utc>::MAX_UTC), None, "{text}");
        let _ = schedule.next_after(DateTime::<Utc>::MIN_UTC);
        let _ = schedule.missed_between(DateTime::<Utc>::MIN_UTC, at("2026-01-01T00:00:00Z"));
    }
}

// --- The model: it asks of every minute whether it fires, and knows nothing of sets, lists or lines. ---

fn model_value(text: &str, names: &str) -> u32 {
    names.split(' ').position(|name| !name.is_empty() && name == text).map_or_else(
        || text.parse().unwrap(),
        |index| u32::try_from(index).unwrap() + u32::from(names.starts_with("jan")),
    )
}

fn model_field(text: &str, value: u32, max: u32, names: &str) -> bool {
    text.split(',').any(|item| {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let lowest = u32::from(max == 31 || max == 12);
        let (low, high) = if range == "*" {
            (lowest, max)
        } else if let Some((low, high)) = range.split_once('-') {
            (model_value(low, names), model_value(high, names))
        } else {
            let low = model_value(range, names);
            (low, if step.is_some() { max } else { low })
        };
        let step: u32 = step.map_or(1, |step| step.parse().unwrap());
        let hit = |value: u32| value >= low && value <= high && (value - low).is_multiple_of(step);
        hit(value) || (max == 6 && value == 0 && hit(7))
    })
}

fn model_star(text: &str) -> bool {
    text.split(',').any(|item| item == "*" || item == "*/1")
}

fn model_matches(fields: &[&str], wall: NaiveDateTime) -> bool {
    let month = "jan feb mar apr may jun jul aug sep oct nov dec";
    let week = "sun mon tue wed thu fri sat";
    let day = model_field(fields[2], wall.day(), 31, "");
    let weekday = model_field(fields[4], wall.weekday().num_days_from_sunday(), 6, week);
    let days = if model_star(fields[2]) || model_star(fields[4]) { day && weekday } else { day || weekday };
    days && model_field(fields[0], wall.minute(), 59, "")
        && model_field(fields[1], wall.hour(), 23, "")
        && model_field(fields[3], wall.month(), 12, month)
}

fn model_ticks(text: &str, zone: Tz, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let fields: Vec<&str> = text.split(' ').collect();
    let both = fields[0].starts_with('*') || fields[1].starts_with('*');
    let minute = Duration::minutes(1);
    let wall = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local();
    let mut now = cut_to_minute(from) + minute;
    let mut found = Vec::new();
    while now <= until {
        let seen_before = || (1..=180).any(|back| wall(now - minute * back) == wall(now));
        let mut fires = model_matches(&fields, wall(now)) && (both || !seen_before());
        let mut skipped = wall(now - minute) + minute;
        while skipped < wall(now) {
            fires |= !model_star(fields[1]) && model_matches(&fields, skipped);
            skipped += minute;
        }
        if fires {
            found.push(now);
        }
        now += minute;
    }
    found
}

fn item(low: u32, max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (1..max).prop_map(|step| format!("*/{step}")),
        (low..=max).prop_map(|value| value.to_string()),
        (low..=max, low..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        (low..=max, low..=max, 1..10_u32).prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b))),
        (low..=max, 1..max).prop_map(|(value, step)| format!("{value}/{step}")),
    ]
}

fn field(low: u32, max: u32) -> impl Strategy<Value = String> {
    prop::collection::vec(item(low, max), 1..3).prop_map(|items| items.join(","))
}

fn expression() -> impl Strategy<Value = String> {
    let weekday = prop_oneof![
        field(0, 6),
        Just("7".to_owned()),
        Just("5-7".to_owned()),
        Just("mon-fri".to_owned()),
        Just("sat,sun".to_owned())
    ];
    let star = || Just("*".to_owned());
    (
        field(0, 59),
        prop_oneof![field(0, 23), field(0, 3), star()],
        prop_oneof![star(), field(1, 31)],
        prop_oneof![4 => star(), 1 => field(1, 12)],
        prop_oneof![star(), weekday],
    )
        .prop_map(|(minute, hour, day, month, week)| format!("{minute} {hour} {day} {month} {week}"))
}

/// Zones whose clocks change in unlike ways, and an instant near a change of each.
const CHANGES: &[(Tz, &str)] = &[
    (Tz::America__New_York, "2026-03-08T07:00:00Z"),
    (Tz::America__New_York, "2026-11-01T06:00:00Z"),
    (Tz::Europe__Berlin, "2026-03-29T01:00:00Z"),
    (Tz::Europe__Berlin, "2026-10-25T01:00:00Z"),
    (Tz::Africa__Cairo, "2026-04-23T22:00:00Z"),
    (Tz::Africa__Cairo, "2026-10-29T21:00:00Z"),
    (Tz::America__Santiago, "2026-04-05T03:00:00Z"),
    (Tz::America__Santiago, "2026-09-06T04:00:00Z"),
    (Tz::Australia__Lord_Howe, "2026-04-04T15:00:00Z"),
    (Tz::Australia__Lord_Howe, "2026-10-03T15:30:00Z"),
    (Tz::Africa__Casablanca, "2026-02-15T02:00:00Z"),
    (Tz::Antarctica__Troll, "2026-03-29T01:00:00Z"),
    (Tz::Antarctica__Troll, "2026-10-25T01:00:00Z"),
    (Tz::UTC, "2026-12-31T23:00:00Z"),
    (Tz::Asia__Kathmandu, "2028-02-28T18:00:00Z"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_agrees_with_the_model(
        text in expression(),
        (zone, change) in prop::sample::select(CHANGES),
        before in 0..2_000_i64,
        seconds in 0..60_i64,
    ) {
        let from = at(change) - Duration::minutes(before) - Duration::seconds(seconds);
        let until = at(change) + Duration::hours(40);
        let expected = model_ticks(&text, zone, from, until);
        match Schedule::parse(&text, Some(zone.name()), &origin()) {
            Ok(schedule) => {
                let mut found = Vec::new();
                let mut now = from;
                while let Some(next) = schedule.next_after(now).filter(|next| *next <= until) {
                    found.push(next);
                    now = next;
                }
                prop_assert_eq!(&found, &expected, "{} {}", text, zone);
                let missed = schedule.missed_between(from, until);
                prop_assert_eq!(missed.latest, expected.last().copied());
                prop_assert_eq!(missed.count as usize, expected.len().min(100));
                prop_assert_eq!(missed.more, expected.len() > 100);
            }
            Err(error) => {
                prop_assert!(error.message.contains("never fires"), "{}", error);
                prop_assert!(expected.is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_caret(text in "\\PC{0,40}|[0-9*/,@HTZ()=a-z -]{0,30}") {
        if let Err(error) = Schedule::parse(&text, None, &origin()) {
            prop_assert!(text.get(error.span.clone()).is_some());
            prop_assert!(!error.message.is_empty());
            prop_assert!(error.caret().contains('^'));
        }
    }

    #[test]
    fn a_day_never_goes_by_without_a_daily_tick(
        hour in 0..24_u32,
        minute in 0..60_u32,
        zone in prop::sample::select(TZ_VARIANTS.as_slice()),
        day in 0..3_650_i64,
    ) {
        let schedule = schedule(&format!("{minute} {hour} * * *"), zone.name());
        let from = at("2026-01-01T00:00:00Z") + Duration::days(day);
        let first = schedule.next_after(from).unwrap();
        let second = schedule.next_after(first).unwrap();
        let apart = second - first;
        prop_assert!(apart >= Duration::hours(21) && apart <= Duration::hours(27), "{first} {second}");
    }
}
