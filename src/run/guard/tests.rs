use super::*;
use crate::repository::manifest::tests::sample;
use chrono::{DateTime, TimeDelta};
use proptest::prelude::*;

/// A backup of so many raw bytes, made on day `day`.
fn backup(day: i64, raw: u64) -> Manifest {
    let mut manifest = sample();
    manifest.run = format!("pg-{day}");
    manifest.started_at = DateTime::UNIX_EPOCH + TimeDelta::days(day);
    manifest.raw.size = raw;
    manifest.outcome = Outcome::Complete;
    manifest.shrunk = None;
    manifest
}

/// Backups of these sizes, the newest first.
fn newest_first(sizes: &[u64]) -> Vec<Manifest> {
    sizes.iter().zip((0..100).rev()).map(|(size, day)| backup(day, *size)).collect()
}

/// Looks at `before`, the newest first, as far as it matters.
fn shrunk<'a>(
    raw: u64,
    before: impl Iterator<Item = &'a Manifest>,
    maximum: u32,
    accepted: Option<&str>,
) -> Option<Shrunk> {
    let mut compared = Before::new(accepted);
    for backup in before {
        if !compared.add(backup) {
            break;
        }
    }
    compared.shrunk(raw, maximum)
}

fn percent(raw: u64, before: &[Manifest], maximum: u32, accepted: Option<&str>) -> Option<(u32, u64, u32)> {
    shrunk(raw, before.iter(), maximum, accepted).map(|Shrunk { percent, median, of }| (percent, median, of))
}

#[test]
fn it_is_compared_with_the_median_of_five() {
    assert_eq!(percent(0, &[], 50, None), None, "the first one has nothing before it");
    let before = newest_first(&[100, 110, 90, 1, 105, 9999, 9999]);
    assert_eq!(percent(50, &before, 50, None), None, "half is allowed");
    assert_eq!(percent(49, &before, 50, None), Some((51, 100, 5)));
    assert_eq!(percent(0, &before, 100, None), None, "100: anything is allowed");
    assert_eq!(percent(99, &before, 0, None), Some((1, 100, 5)));
    assert_eq!(percent(100, &before, 0, None), None);
    assert_eq!(percent(10, &newest_first(&[100]), 50, None), Some((90, 100, 1)));
    assert_eq!(percent(10, &newest_first(&[100, 200]), 50, None), Some((93, 150, 2)));
    assert_eq!(percent(0, &newest_first(&[0, 0]), 50, None), None, "nothing is smaller than nothing");
    let incomplete: Vec<Manifest> = before
        .into_iter()
        .map(|mut backup| {
            backup.outcome = Outcome::Incomplete;
            backup
        })
        .collect();
    assert_eq!(percent(0, &incomplete, 50, None), None, "what is not whole is no measure");
}

#[test]
fn empty_nights_do_not_become_the_rule_until_somebody_says_so() {
    let mut before = newest_first(&[100, 100, 100]);
    for night in 200..210 {
        let found = shrunk(3, before.iter(), 50, None).expect("flagged");
        let mut small = backup(night, 3);
        small.shrunk = Some(found);
        before.insert(0, small);
    }
    assert_eq!(percent(3, &before, 50, None), Some((97, 100, 3)), "the tenth night is as wrong as the first");
    assert_eq!(percent(3, &before, 50, Some("pg-209")), None);
    assert_eq!(percent(1, &before, 50, Some("pg-209")), Some((66, 3, 1)), "from there on it is the measure");
    assert_eq!(percent(3, &before, 50, Some("pg-1")), Some((97, 100, 3)), "of an unknown or another run");
    let grown = backup(210, 90);
    before.insert(0, grown);
    assert_eq!(percent(90, &before, 50, Some("pg-209")), None);
}

#[test]
fn however_many_nights_are_empty_they_do_not_become_the_rule() {
    // No more than these are looked back to; those that were good are soon older.
    let window = 64;
    let mut before = newest_first(&[100, 100, 100]);
    for night in 200..400_usize {
        let found = shrunk(3, before.iter().take(window), 50, None).expect("flagged");
        // The oldest of the good ones are out of sight first.
        let of = (200 + window).saturating_sub(night).clamp(1, 3);
        assert_eq!((found.percent, found.median, found.of), (97, 100, of.try_into().unwrap()), "night {night}");
        let mut small = backup(night.try_into().unwrap(), 3);
        small.shrunk = Some(found);
        before.insert(0, small);
    }
    before.truncate(window);
    assert_eq!(percent(50, &before, 50, None), None, "as large as is allowed");
    assert_eq!(percent(49, &before, 50, None), Some((51, 100, 1)));
    assert_eq!(percent(3, &before, 50, Some("pg-399")), None, "somebody said that it is right");
    // One that is large again is the measure at once, as always.
    before.insert(0, backup(400, 80));
    assert_eq!(percent(30, &before, 50, None), Some((62, 80, 1)));
    // What was flagged differently is a measure no more: the newest counts.
    let flagged = |day, median| {
        let mut small = backup(day, 3);
        small.shrunk = Some(Shrunk { percent: 90, median, of: 5 });
        small
    };
    assert_eq!(percent(3, &[flagged(2, 40), flagged(1, 1000)], 50, None), Some((92, 40, 5)));
    assert_eq!(percent(0, &[flagged(1, 0)], 0, None), None, "nothing is smaller than nothing");
}

#[test]
fn no_older_one_is_asked_for_than_counts() {
    let asked = |before: &[Manifest], accepted| {
        let mut compared = Before::new(accepted);
        1 + before.iter().take_while(|backup| compared.add(backup)).count()
    };
    let mut before = newest_first(&[100; 20]);
    assert_eq!(asked(&before, None), 5);
    assert_eq!(asked(&before, Some("pg-97")), 3, "the third, which somebody has accepted, is the oldest");
    before[1].outcome = Outcome::Incomplete;
    before[2].shrunk = Some(Shrunk { percent: 90, median: 1000, of: 5 });
    assert_eq!(asked(&before, None), 7);
}

#[test]
fn the_message_has_the_numbers() {
    let found = shrunk(1024, newest_first(&[4096, 4096, 8192]).iter(), 50, None).unwrap();
    assert_eq!(shrunk_message(1024, &found), "holds 1.0Ki, 75 % less than the median of the 3 before it (4.0Ki)");
    let found = shrunk(1, newest_first(&[100]).iter(), 50, None).unwrap();
    assert_eq!(shrunk_message(1, &found), "holds 1, 99 % less than the backup before it (100)");
}

proptest! {
    #[test]
    fn what_is_as_large_as_all_before_it_is_never_flagged(
        sizes in proptest::collection::vec(any::<u64>(), 0..9), maximum in 0_u32..=100,
    ) {
        let largest = sizes.iter().copied().max().unwrap_or(0);
        prop_assert!(shrunk(largest, newest_first(&sizes).iter(), maximum, None).is_none());
    }

    #[test]
    fn what_is_smaller_than_allowed_against_the_smallest_always_is(
        sizes in proptest::collection::vec(1000_u64.., 1..9), maximum in 0_u32..100,
    ) {
        let smallest = sizes.iter().copied().min().unwrap_or(0);
        let raw = u64::try_from(u128::from(smallest) * u128::from(100 - maximum) / 100).unwrap() - 1;
        let found = shrunk(raw, newest_first(&sizes).iter(), maximum, None);
        prop_assert!(found.is_some_and(|found| found.percent >= maximum && found.of <= 5));
    }
}
