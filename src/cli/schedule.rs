//! **W** `ubo schedule`: when a schedule fires, or why it cannot.

use crate::api::names::JobRef;
use crate::clock::Clock;
use crate::schedule::cron::{Origin, Part, Schedule, ScheduleError};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use std::io::{self, Write};

/// Exit code for what was typed wrongly.
const USAGE: u8 = 2;
/// The most fire times that are printed at once.
const COUNT_LIMIT: u16 = 1000;

/// How the result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Print the next times at which a schedule fires
#[derive(Clone, Debug, clap::Args)]
pub struct ScheduleArgs {
    /// The expression as in a BackupJob's `schedule`: '0 2 * * *', '@daily', '@every 90m', 'H H * * *'
    #[arg(value_name = "EXPR")]
    pub expression: String,
    /// IANA name of the zone, as in `timeZone`
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub time_zone: String,
    /// Print what fires after this time, as in 2026-10-24T00:00:00Z (default: now); '@every' counts from here
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub from: Option<DateTime<Utc>>,
    /// How many times to print
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(COUNT_LIMIT)))]
    pub count: u16,
    /// The BackupJob whose schedule it is: 'H' stands for another time with each
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_job)]
    pub job: Option<JobRef>,
    /// Print text for a person, or JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc());
    time.map_err(|_| "write it as RFC 3339, as in 2026-10-24T00:00:00Z".into())
}

fn parse_job(text: &str) -> Result<JobRef, String> {
    let (namespace, name) = text.split_once('/').ok_or("write it as NAMESPACE/NAME")?;
    JobRef::new(namespace, name).map_err(|failure| failure.message)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing<'a> {
    schedule: &'a str,
    time_zone: &'a str,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    utc: String,
    local: String,
}

/// Prints to `out`, or says to `err` what is wrong; gives the exit code: 0, or 2 for an expression or zone that does not
/// hold. An error is one of writing.
pub fn run(args: &ScheduleArgs, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let from = args.from.unwrap_or_else(|| clock.now());
    let schedule = match parse(args, from) {
        Ok(schedule) => schedule,
        Err(error) => {
            let field = match error.part {
                Part::Expression => "schedule",
                Part::Zone => "time zone",
            };
            writeln!(err, "error: {field}: {}\n", error.message)?;
            for line in error.caret().lines() {
                writeln!(err, "  {line}")?;
            }
            return Ok(USAGE);
        }
    };
    let runs = runs(&schedule, from, args.count);
    match args.output {
        Format::Json => {
            let listing = Listing { schedule: schedule.expression(), time_zone: schedule.zone_name(), runs };
            serde_json::to_writer(&mut *out, &listing)?;
            writeln!(out)?;
        }
        Format::Text => {
            let width = runs.first().map_or(0, |run| run.utc.len());
            writeln!(out, "{:width$}  {}", "UTC", schedule.zone_name())?;
            for Run { utc, local } in runs {
                writeln!(out, "{utc}  {local}")?;
            }
        }
    }
    Ok(0)
}

fn parse(args: &ScheduleArgs, from: DateTime<Utc>) -> Result<Schedule, ScheduleError> {
    let origin = args.job.as_ref().map_or_else(|| Origin::unnamed(from), |job| Origin::of(job, from));
    let schedule = Schedule::parse(&args.expression, Some(&args.time_zone), &origin)?;
    match schedule.spread_at().filter(|_| args.job.is_none()) {
        None => Ok(schedule),
        Some(at) => Err(ScheduleError {
            part: Part::Expression,
            span: at..at + 1,
            text: args.expression.clone(),
            message: "`H` is another time for each BackupJob; say which with --job NAMESPACE/NAME".into(),
        }),
    }
}

fn runs(schedule: &Schedule, from: DateTime<Utc>, count: u16) -> Vec<Run> {
    let ticks = std::iter::successors(schedule.next_after(from), |tick| schedule.next_after(*tick));
    let show = |tick: DateTime<Utc>| Run {
        utc: tick.to_rfc3339_opts(SecondsFormat::Secs, true),
        local: schedule.local(tick).to_rfc3339_opts(SecondsFormat::Secs, false),
    };
    ticks.take(usize::from(count)).map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ScheduleArgs,
    }

    /// Exit code, standard output and standard error of `ubo schedule` with these words, on 2026-10-24.
    fn ubo(words: &[&str]) -> (u8, String, String) {
        let line = Line::try_parse_from(std::iter::once("schedule").chain(words.iter().copied())).unwrap();
        let clock = FixedClock::at("2026-10-24T00:00:00Z".parse().unwrap());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&line.args, &clock, &mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn it_prints_both_clocks() {
        let (code, out, err) = ubo(&["30 2 * * *", "--time-zone", "Europe/Berlin", "--count", "3"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(
            out,
            "UTC                   Europe/Berlin\n\
             2026-10-24T00:30:00Z  2026-10-24T02:30:00+02:00\n\
             2026-10-25T00:30:00Z  2026-10-25T02:30:00+02:00\n\
             2026-10-26T01:30:00Z  2026-10-26T02:30:00+01:00\n"
        );
    }

    #[test]
    fn its_json_has_exactly_these_fields() {
        let (code, out, _) =
            ubo(&["0 2 * * *", "--from", "2026-01-01T03:00:00+01:00", "--count", "1", "--output", "json"]);
        assert_eq!(code, 0);
        assert_eq!(
            out,
            "{\"schedule\":\"0 2 * * *\",\"timeZone\":\"UTC\",\"runs\":[{\"utc\":\"2026-01-02T02:00:00Z\",\
             \"local\":\"2026-01-02T02:00:00+00:00\"}]}\n"
        );
    }

    #[test]
    fn five_are_printed_unless_said_otherwise() {
        assert_eq!(ubo(&["@every 90m"]).1.lines().count(), 6);
    }

    #[test]
    fn an_error_has_a_caret_and_is_usage() {
        let (code, out, err) = ubo(&["0 25 * * *"]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert_eq!(err, "error: schedule: hour: 25 is not within 0-23\n\n  0 25 * * *\n    ^^\n");
        let (code, _, err) = ubo(&["0 2 * * *", "--time-zone", "Europe/Berln"]);
        assert_eq!(code, 2);
        assert!(err.starts_with("error: time zone: ") && err.ends_with("  Europe/Berln\n  ^^^^^^^^^^^^\n"), "{err}");
    }

    #[test]
    fn a_spread_needs_its_job() {
        let (code, _, err) = ubo(&["0 H * * *"]);
        assert_eq!(code, 2);
        assert!(err.contains("--job") && err.ends_with("  0 H * * *\n    ^\n"), "{err}");
        assert_eq!(ubo(&["0 H * * *", "--job", "default/pg"]).0, 0);
        // The H of a weekday's name is none.
        assert_eq!(ubo(&["0 2 * * THU"]).0, 0);
    }

    #[test]
    fn nonsense_on_the_command_line_is_refused() {
        for words in [
            &["0 2 * * *", "--from", "yesterday"],
            &["0 2 * * *", "--count", "0"],
            &["0 2 * * *", "--count", "1001"],
            &["0 2 * * *", "--job", "pg"],
            &["0 2 * * *", "--job", "default/PG"],
        ] {
            assert!(Line::try_parse_from(std::iter::once(&"schedule").chain(words.iter())).is_err(), "{words:?}");
        }
    }
}
