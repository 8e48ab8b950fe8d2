//! **P** What expressions mean, one by one: as Kubernetes' CronJob, or as the documentation says where it differs.

use super::*;

fn origin() -> Origin {
    let job = JobRef::new("default", "postgres-daily-backup").unwrap();
    Origin::of(&job, "2026-01-01T00:00:30Z".parse().unwrap())
}

fn ticks(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
    let mut at: DateTime<Utc> = from.parse().unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let Some(next) = schedule.next_after(at) else { break };
        found.push(next.format("%Y-%m-%dT%H:%M").to_string());
        at = next;
    }
    found
}

/// Expression, and its next ticks after 2026-01-01T00:00:00Z, a Thursday. A tick begins with a month where the year is 2026.
const TABLE: &[(&str, &[&str])] = &[
    ("* * * * *", &["01-01T00:01", "01-01T00:02", "01-01T00:03"]),
    ("0 2 * * *", &["01-01T02:00", "01-02T02:00", "01-03T02:00"]),
    ("0 0 * * *", &["01-02T00:00", "01-03T00:00"]),
    ("59 23 31 12 *", &["12-31T23:59", "2027-12-31T23:59"]),
    ("*/15 * * * *", &["01-01T00:15", "01-01T00:30", "01-01T00:45", "01-01T01:00"]),
    ("*/1 * * * *", &["01-01T00:01", "01-01T00:02"]),
    ("*/7 0 * * *", &["01-01T00:07", "01-01T00:14", "01-01T00:21"]),
    ("*/70 * * * *", &["01-01T01:00", "01-01T02:00"]),
    ("*/59 * * * *", &["01-01T00:59", "01-01T01:00", "01-01T01:59"]),
    ("5/20 * * * *", &["01-01T00:05", "01-01T00:25", "01-01T00:45", "01-01T01:05"]),
    ("50/20 * * * *", &["01-01T00:50", "01-01T01:50"]),
    ("10-20/5 * * * *", &["01-01T00:10", "01-01T00:15", "01-01T00:20", "01-01T01:10"]),
    ("10-20/100 * * * *", &["01-01T00:10", "01-01T01:10"]),
    ("10-10 * * * *", &["01-01T00:10", "01-01T01:10"]),
    ("0,30 * * * *", &["01-01T00:30", "01-01T01:00"]),
    ("30,0 * * * *", &["01-01T00:30", "01-01T01:00"]),
    ("1,1,2 * * * *", &["01-01T00:01", "01-01T00:02", "01-01T01:01"]),
    ("0-3,40/10 0 * * *", &["01-01T00:01", "01-01T00:02", "01-01T00:03", "01-01T00:40", "01-01T00:50"]),
    ("? ? ? ? ?", &["01-01T00:01", "01-01T00:02"]),
    ("?/30 * * * *", &["01-01T00:30", "01-01T01:00"]),
    ("+5 * * * *", &["01-01T00:05"]),
    ("005 * * * *", &["01-01T00:05"]),
    ("*-5 * * * *", &["01-01T00:01", "01-01T00:02"]),
    ("  0\t2  * * *  ", &["01-01T02:00"]),
    ("0 */2 * * *", &["01-01T02:00", "01-01T04:00"]),
    ("0 */5 * * *", &["01-01T05:00", "01-01T10:00", "01-01T15:00", "01-01T20:00", "01-02T00:00"]),
    ("0 9-17 * * *", &["01-01T09:00", "01-01T10:00"]),
    ("0 9-17/4 * * *", &["01-01T09:00", "01-01T13:00", "01-01T17:00", "01-02T09:00"]),
    ("0 20/2 * * *", &["01-01T20:00", "01-01T22:00", "01-02T20:00"]),
    ("0 23-23 * * *", &["01-01T23:00", "01-02T23:00"]),
    ("0 0 1 * *", &["02-01T00:00", "03-01T00:00"]),
    ("0 0 31 * *", &["01-31T00:00", "03-31T00:00", "05-31T00:00", "07-31T00:00", "08-31T00:00"]),
    ("0 0 30 * *", &["01-30T00:00", "03-30T00:00"]),
    ("0 0 29 2 *", &["2028-02-29T00:00", "2032-02-29T00:00"]),
    ("0 0 1,15 * *", &["01-15T00:00", "02-01T00:00", "02-15T00:00"]),
    ("0 0 */10 * *", &["01-11T00:00", "01-21T00:00", "01-31T00:00", "02-01T00:00"]),
    ("0 0 28-31 2 *", &["02-28T00:00", "2027-02-28T00:00", "2028-02-28T00:00", "2028-02-29T00:00"]),
    ("0 0 1 1 *", &["2027-01-01T00:00", "2028-01-01T00:00"]),
    ("0 0 1 */3 *", &["04-01T00:00", "07-01T00:00", "10-01T00:00", "2027-01-01T00:00"]),
    ("0 0 1 feb *", &["02-01T00:00", "2027-02-01T00:00"]),
    ("0 0 1 FEB,Apr-jun *", &["02-01T00:00", "04-01T00:00", "05-01T00:00", "06-01T00:00", "2027-02-01T00:00"]),
    ("0 0 1 nov/1 *", &["11-01T00:00", "12-01T00:00", "2027-11-01T00:00"]),
    ("0 0 1 2-12/5 *", &["02-01T00:00", "07-01T00:00", "12-01T00:00"]),
    // --- weekdays: 0 and 7 are Sunday ---
    ("0 0 * * 0", &["01-04T00:00", "01-11T00:00"]),
    ("0 0 * * 7", &["01-04T00:00", "01-11T00:00"]),
    ("0 0 * * 0,7", &["01-04T00:00", "01-11T00:00"]),
    ("0 0 * * sun", &["01-04T00:00", "01-11T00:00"]),
    ("0 0 * * 1", &["01-05T00:00", "01-12T00:00"]),
    ("0 0 * * MON", &["01-05T00:00", "01-12T00:00"]),
    ("0 22 * * 1-5", &["01-01T22:00", "01-02T22:00", "01-05T22:00", "01-06T22:00"]),
    ("0 22 * * mon-fri", &["01-01T22:00", "01-02T22:00", "01-05T22:00"]),
    ("0 0 * * 6", &["01-03T00:00", "01-10T00:00"]),
    ("0 0 * * 6-7", &["01-03T00:00", "01-04T00:00", "01-10T00:00"]),
    ("0 0 * * 5-7/2", &["01-02T00:00", "01-04T00:00", "01-09T00:00"]),
    ("0 0 * * 5/2", &["01-02T00:00", "01-09T00:00"]),
    ("0 0 * * 7/3", &["01-03T00:00", "01-04T00:00", "01-07T00:00"]),
    ("0 0 * * 0-7", &["01-02T00:00", "01-03T00:00", "01-04T00:00"]),
    ("0 0 * * */2", &["01-03T00:00", "01-04T00:00", "01-06T00:00", "01-08T00:00"]),
    ("0 0 * * tue,thu", &["01-06T00:00", "01-08T00:00", "01-13T00:00"]),
    // --- day of month and day of week: `or` where both are restricted, `and` where one is a star ---
    ("0 0 13 * 5", &["01-02T00:00", "01-09T00:00", "01-13T00:00", "01-16T00:00"]),
    ("0 0 13 2 fri", &["02-06T00:00", "02-13T00:00", "02-20T00:00", "02-27T00:00", "2027-02-05T00:00"]),
    ("0 0 */2 * 1", &["01-03T00:00", "01-05T00:00", "01-07T00:00", "01-09T00:00", "01-11T00:00", "01-12T00:00"]),
    ("0 0 */1 * 1", &["01-05T00:00", "01-12T00:00"]),
    ("0 0 *,5 * 1", &["01-05T00:00", "01-12T00:00"]),
    ("0 0 ? * 1", &["01-05T00:00", "01-12T00:00"]),
    ("0 0 1-31 * 1", &["01-02T00:00", "01-03T00:00"]),
    ("0 0 13 * *", &["01-13T00:00", "02-13T00:00"]),
    ("0 0 13 * */1", &["01-13T00:00", "02-13T00:00"]),
    ("0 0 31 2 1", &["02-02T00:00", "02-09T00:00"]),
    // --- words ---
    ("@yearly", &["2027-01-01T00:00", "2028-01-01T00:00"]),
    ("@annually", &["2027-01-01T00:00"]),
    ("@monthly", &["02-01T00:00", "03-01T00:00"]),
    ("@weekly", &["01-04T00:00", "01-11T00:00"]),
    ("@daily", &["01-02T00:00", "01-03T00:00"]),
    ("@midnight", &["01-02T00:00", "01-03T00:00"]),
    ("@hourly", &["01-01T01:00", "01-01T02:00"]),
    ("@every 90m", &["01-01T01:30", "01-01T03:00", "01-01T04:30"]),
    ("@every 1h30m", &["01-01T01:30", "01-01T03:00"]),
    ("@every 1.5h", &["01-01T01:30", "01-01T03:00"]),
    ("@every 60s", &["01-01T00:01", "01-01T00:02"]),
    ("@every 48h", &["01-03T00:00", "01-05T00:00"]),
    ("@every 0.5m30s", &["01-01T00:01"]),
];

#[test]
fn every_expression_means_what_cronjob_means() {
    assert!(TABLE.len() >= 60);
    for (text, expected) in TABLE {
        let schedule = Schedule::parse(text, None, &origin()).unwrap_or_else(|error| panic!("{error}"));
        let expected: Vec<String> = expected
            .iter()
            .map(|tick| if tick.len() == 11 { format!("2026-{tick}") } else { (*tick).into() })
            .collect();
        assert_eq!(ticks(&schedule, "2026-01-01T00:00:00Z", expected.len()), expected, "{text}");
    }
}

/// Expression, the piece that the caret stands under, and a word of the message.
const ERRORS: &[(&str, &str, &str)] = &[
    ("", "", "empty"),
    ("   ", "   ", "empty"),
    ("* * * *", "* * * *", "4 fields"),
    ("*", "*", "1 field,"),
    ("* * * * * *", "* * * * * *", "seconds and years are not supported"),
    ("0 0 2 * * * 2027", "0 0 2 * * * 2027", "7 fields"),
    ("60 * * * *", "60", "minute: 60 is not within 0-59"),
    ("0 24 * * *", "24", "hour: 24 is not within 0-23"),
    ("0 0 0 * *", "0", "day of month: 0 is not within 1-31"),
    ("0 0 32 * *", "32", "not within 1-31"),
    ("0 0 1 0 *", "0", "month: 0 is not within 1-12"),
    ("0 0 1 13 *", "13", "month"),
    ("0 0 * * 8", "8", "day of week: 8 is not within 0-7"),
    ("0 0 * * funday", "funday", "a name (sun to sat)"),
    ("0 0 * janvier *", "janvier", "a name (jan to dec)"),
    ("0 jan * * *", "jan", "not a number"),
    ("1,,2 * * * *", "1,,2", "empty"),
    (",1 * * * *", ",1", "empty"),
    ("1, * * * *", "1,", "empty"),
    ("1-2-3 * * * *", "1-2-3", "more than one `-`"),
    ("1/2/3 * * * *", "1/2/3", "more than one `/`"),
    ("1/0 * * * *", "0", "at least 1"),
    ("*/x * * * *", "x", "not a number"),
    ("*/ * * * *", "", "not a number"),
    ("*/-5 * * * *", "-5", "not a number"),
    ("20-10 * * * *", "20-10", "begins after its end"),
    ("0 0 * * fri-mon", "fri-mon", "two ranges"),
    ("-5 * * * *", "", "missing"),
    ("5- * * * *", "", "missing"),
    ("1.5 * * * *", "1.5", "not a number"),
    ("99999999999999999999 * * * *", "99999999999999999999", "not a number"),
    ("0 0 L * *", "L", "not a number"),
    ("0 0 15W * *", "15W", "not a number"),
    ("0 0 * * 5#2", "5#2", "not a number"),
    ("0 0 30 2 *", "0 0 30 2 *", "never fires"),
    ("0 0 31 4,6,9,11 *", "0 0 31 4,6,9,11 *", "never fires"),
    ("TZ=Europe/Berlin 0 2 * * *", "TZ=Europe/Berlin", "timeZone"),
    ("CRON_TZ=UTC 0 2 * * *", "CRON_TZ=UTC", "timeZone"),
    ("@dayly", "@dayly", "@daily"),
    ("@Daily", "@Daily", "@daily"),
    ("@daily 5", "5", "stands alone"),
    ("@reboot", "@reboot", "once"),
    ("@every", "@every", "90m"),
    ("@every 30s", "30s", "whole number of minutes"),
    ("@every 90s", "90s", "whole number of minutes"),
    ("@every 0m", "0m", "at least 1m"),
    ("@every -5m", "-5m", "not a duration"),
    ("@every 90", "90", "not a duration"),
    ("@every m", "m", "not a duration"),
    ("@every 1d", "1d", "hours"),
    ("@every 1.2.3h", "1.2.3h", "not a duration"),
    ("@every 999999h", "999999h", "ten years"),
    ("@every 99999999999999999999h", "99999999999999999999h", "not a duration"),
    ("H/61 * * * *", "H/61", "longer"),
    ("H(5) * * * *", "H(5)", "spread"),
    ("H(0-29 * * * *", "H(0-29", "spread"),
    ("H(0-60) * * * *", "60", "not within"),
    ("H(9-3) * * * *", "H(9-3)", "begins after"),
    ("h * * * *", "h", "not a number"),
    ("Hx * * * *", "Hx", "not a number"),
    ("0 2 * * * ü", "0 2 * * * ü", "6 fields"),
];

#[test]
fn every_error_points_at_its_piece() {
    for (text, piece, word) in ERRORS {
        let error = Schedule::parse(text, None, &origin()).expect_err(text);
        assert_eq!(error.part, Part::Expression, "{text}");
        assert_eq!(error.reason(), Reason::InvalidSchedule);
        assert_eq!(&text[error.span.clone()], *piece, "{text}: {error}");
        assert!(error.message.contains(word), "{text}: {error}");
    }
}

#[test]
fn the_caret_stands_under_the_piece() {
    let error = Schedule::parse("0 25 * * *", None, &origin()).unwrap_err();
    assert_eq!(error.caret(), "0 25 * * *\n  ^^");
    assert_eq!(error.to_string(), "schedule \"0 25 * * *\": hour: 25 is not within 0-23");
    let error = Schedule::parse("ü 2 * *\n*", None, &origin()).unwrap_err();
    assert_eq!(error.caret(), "ü 2 * *·*\n^");
}

#[test]
fn a_zone_must_be_an_iana_name() {
    for (zone, word) in [
        ("", "IANA"),
        ("Local", "IANA"),
        ("europe/berlin", "did you mean \"Europe/Berlin\""),
        ("Europe/Berlin ", "did you mean"),
        ("CEST", "IANA"),
        ("+02:00", "IANA"),
    ] {
        let error = Schedule::parse("0 2 * * *", Some(zone), &origin()).expect_err(zone);
        assert_eq!((error.part, error.reason()), (Part::Zone, Reason::InvalidTimeZone));
        assert!(error.message.contains(word), "{error}");
        assert_eq!(&error.text[error.span.clone()], zone);
    }
    for zone in ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "US/Eastern"] {
        assert_eq!(Schedule::parse("0 2 * * *", Some(zone), &origin()).unwrap().zone_name(), zone);
    }
}

#[test]
fn it_shows_itself_as_it_was_written() {
    let plain = Schedule::parse("0 2 * * *", None, &origin()).unwrap();
    let zoned = Schedule::parse("0 2 * * *", Some("Europe/Berlin"), &origin()).unwrap();
    assert_eq!(plain.to_string(), "0 2 * * *");
    assert_eq!(zoned.to_string(), "0 2 * * * (Europe/Berlin)");
    assert_ne!(plain, zoned);
    assert_eq!(plain, Schedule::parse("0 2 * * *", Some("UTC"), &origin()).unwrap());
}

#[test]
fn the_spread_is_the_same_for_ever() {
    // These values are a promise: a job's time must not move with an update of the operator.
    for (text, expected) in [
        ("H H * * *", "2026-01-01T09:14"),
        ("H(0-29) 3 * * *", "2026-01-01T03:14"),
        ("H 3 H * *", "2026-01-05T03:14"),
        ("0 0 * * H", "2026-01-06T00:00"),
        ("0 0 1 H *", "2026-11-01T00:00"),
    ] {
        let schedule = Schedule::parse(text, None, &origin()).unwrap();
        assert_eq!(ticks(&schedule, "2026-01-01T00:00:00Z", 1), [expected], "{text}");
    }
    let schedule = Schedule::parse("H/15 * * * *", None, &origin()).unwrap();
    let minutes: Vec<u32> =
        ticks(&schedule, "2026-01-01T00:00:00Z", 4).iter().map(|t| t[14..].parse().unwrap()).collect();
    assert!(minutes[0] < 15, "{minutes:?}");
    assert_eq!(minutes, [minutes[0], minutes[0] + 15, minutes[0] + 30, minutes[0] + 45]);
}

#[test]
fn the_spread_is_even() {
    let mut hours = [0_u32; 24];
    for number in 0..2400 {
        let job = JobRef::new("default", format!("job-{number}")).unwrap();
        let schedule = Schedule::parse("0 H * * *", None, &Origin::of(&job, DateTime::UNIX_EPOCH)).unwrap();
        let tick = schedule.next_after("2026-01-01T23:59:59Z".parse().unwrap()).unwrap();
        hours[tick.hour() as usize] += 1;
    }
    assert!(hours.iter().all(|count| (60..140).contains(count)), "{hours:?}");
}
