//! **P** One schedule: an expression in a zone, to instants.
//!
//! # How a tick is found
//! The text becomes sets of numbers (`expression.rs`); the sets become explicit lists for the `cron` crate, which walks
//! the *naive* line of wall-clock times (it is never given a zone of its own: around clock changes it goes back in time).
//! Where day of month and day of week are both restricted, cron means *or*, the crate means *and*: two of its schedules
//! stand for one of ours, and the earlier answer counts. Each naive time is then placed in the zone:
//!
//! | wall-clock time | a fixed time | minute or hour begins with `*` |
//! |---|---|---|
//! | exists once | that instant | that instant |
//! | in an overlap, exists twice | the first pass | both passes |
//! | in a gap, does not exist | the first valid minute after it | the same, unless every hour is allowed: then the next one comes by itself |
//!
//! So no day is skipped and nothing runs twice for one intended time. This is what Vixie cron does; Kubernetes' CronJob
//! skips the day of a gap and runs twice in an overlap.

use super::expression::{self, Expression, Fields, Set};
use crate::api::names::{JobName, JobRef, Namespace};
use crate::error::{Failure, Reason, cut};
use chrono::{DateTime, Duration, MappedLocalTime, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

/// What a schedule hangs on besides its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    namespace: String,
    name: String,
    /// When the object was created: `@every` counts from here.
    created: DateTime<Utc>,
}

impl Origin {
    /// The origin of a BackupJob's schedule.
    pub fn new(namespace: &Namespace, name: &JobName, created: DateTime<Utc>) -> Self {
        Self { namespace: namespace.as_str().into(), name: name.as_str().into(), created }
    }

    /// The origin of the BackupJob `job`.
    pub fn of(job: &JobRef, created: DateTime<Utc>) -> Self {
        Self::new(&job.namespace, &job.name, created)
    }

    /// The origin of an expression that belongs to no job; its `H` (see [`Schedule::spread_at`]) means nothing.
    pub fn unnamed(created: DateTime<Utc>) -> Self {
        Self { namespace: String::new(), name: String::new(), created }
    }

    /// A number for `H` that depends on the job and the field alone, the same in every version of this program.
    pub(super) fn spread(&self, field: &str) -> u64 {
        let text = format!("{}/{}/{field}", self.namespace, self.name);
        let hash = blake3::hash(text.as_bytes());
        hash.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Which of the two texts does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `schedule`.
    Expression,
    /// `timeZone`.
    Zone,
}

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {:?}: {message}", match part { Part::Expression => "schedule", Part::Zone => "timeZone" }, cut(text, 128))]
pub struct ScheduleError {
    /// Which text is meant.
    pub part: Part,
    /// That text, whole.
    pub text: String,
    /// The offending piece of it, in bytes, at character boundaries. Empty only where the text is.
    pub span: Range<usize>,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl ScheduleError {
    pub(super) fn expression(text: &str, span: Range<usize>, message: String) -> Self {
        Self { part: Part::Expression, text: text.into(), span, message }
    }

    /// The reason as it stands in a status.
    pub const fn reason(&self) -> Reason {
        match self.part {
            Part::Expression => Reason::InvalidSchedule,
            Part::Zone => Reason::InvalidTimeZone,
        }
    }

    /// Two lines: the text, and carets under the offending piece. Control characters are shown as `·`, so that the
    /// carets stay where they belong.
    pub fn caret(&self) -> String {
        let shown: String = self.text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
        let before = self.text[..self.span.start].chars().count();
        let under = self.text[self.span.clone()].chars().count().max(1);
        format!("{shown}\n{}{}", " ".repeat(before), "^".repeat(under))
    }
}

impl From<ScheduleError> for Failure {
    fn from(error: ScheduleError) -> Self {
        Failure::new(error.reason(), error.to_string())
    }
}

/// The ticks of a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// How many, at most [`Missed::LIMIT`].
    pub count: u32,
    /// There are more than `count`.
    pub more: bool,
    /// The last of them.
    pub latest: Option<DateTime<Utc>>,
}

impl Missed {
    /// Counted up to here. The number that CronJob calls too many; beyond it nobody cares how many it were.
    pub const LIMIT: u32 = 100;
}

/// A parsed schedule in its zone. Two are equal if their texts are.
#[derive(Clone)]
pub struct Schedule {
    expression: Box<str>,
    named_zone: bool,
    zone: Tz,
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    Calendar {
        /// One, or two that are joined by *or*.
        parts: Box<[cron::Schedule]>,
        /// Fires in both passes of an overlap.
        both_passes: bool,
        /// What falls in a gap is made up for by the next hour.
        every_hour: bool,
    },
    Every {
        /// On a whole minute.
        origin: DateTime<Utc>,
        minutes: i64,
    },
}

impl Schedule {
    /// Reads an expression and the name of a zone (`None`: UTC).
    pub fn parse(text: &str, zone: Option<&str>, origin: &Origin) -> Result<Self, ScheduleError> {
        let rule = match expression::parse(text, origin)? {
            Expression::Calendar(fields) => calendar(text, &fields)?,
            Expression::Every(minutes) => Rule::Every { origin: cut_to_minute(origin.created), minutes },
        };
        let named_zone = zone.is_some();
        let zone = zone.map_or(Ok(Tz::UTC), parse_zone)?;
        Ok(Self { expression: text.into(), named_zone, zone, rule })
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The IANA name of the zone, `UTC` where none was given.
    pub fn zone_name(&self) -> &'static str {
        self.zone.name()
    }

    /// Where in the expression, in bytes, its first `H` stands: its ticks depend on the job's name.
    pub fn spread_at(&self) -> Option<usize> {
        let begins_item =
            |at: usize| self.expression[..at].chars().last().is_none_or(|c| c == ',' || c.is_whitespace());
        self.expression.match_indices('H').map(|(at, _)| at).find(|at| begins_item(*at))
    }

    /// The wall clock of this schedule's zone.
    pub fn local(&self, at: DateTime<Utc>) -> DateTime<chrono::FixedOffset> {
        at.with_timezone(&self.zone).fixed_offset()
    }

    /// The first tick strictly after `after`, on a whole minute; `None` if there is none before the year 2101.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.rule {
            Rule::Every { origin, minutes } => {
                let elapsed = after.signed_duration_since(*origin);
                // Counting starts with the first interval; the creation itself is no tick.
                let number = elapsed.num_seconds().div_euclid(minutes.checked_mul(60)?).max(0) + 1;
                origin.checked_add_signed(Duration::try_minutes(minutes.checked_mul(number)?)?)
            }
            Rule::Calendar { parts, both_passes, every_hour } => {
                let offset_now = self.offset(after);
                // Before an overlap ends, its second pass still lies ahead although the wall clock has been there.
                let ahead = self.offset(after.checked_add_signed(Duration::hours(24))?);
                let overlap = Duration::seconds(i64::from((offset_now - ahead).max(0)));
                let wall = after.naive_utc().checked_add_signed(Duration::seconds(i64::from(offset_now)))?;
                let mut line = wall.checked_sub_signed(overlap)?;
                let mut best: Option<DateTime<Utc>> = None;
                loop {
                    line = next_on_line(parts, line)?;
                    let (first, second) = self.place(line, *both_passes, *every_hour);
                    for candidate in [first, second].into_iter().flatten().filter(|tick| *tick > after) {
                        best = Some(best.map_or(candidate, |best| best.min(candidate)));
                    }
                    // First passes never go back while the line goes forward, and no second pass precedes its first.
                    if first.is_some_and(|first| first > after) {
                        return best;
                    }
                }
            }
        }
    }

    /// The ticks in (`after`, `until`]: how many, and the last of them.
    pub fn missed_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Missed {
        let mut missed = Missed::default();
        let mut at = after;
        while let Some(tick) = self.next_after(at).filter(|tick| *tick <= until) {
            if missed.count == Missed::LIMIT {
                missed.more = true;
                missed.latest = Some(self.latest_between(tick, until));
                break;
            }
            missed.count += 1;
            missed.latest = Some(tick);
            at = tick;
        }
        missed
    }

    /// The last tick that is at most `until`; `tick` is one. By bisection, since there may be a million of them.
    fn latest_between(&self, tick: DateTime<Utc>, until: DateTime<Utc>) -> DateTime<Utc> {
        // Always: a tick in (low, until], or `low` is the last; none in (high, until].
        let (mut low, mut high) = (tick, until);
        while high - low > Duration::minutes(1) {
            let middle = low + (high - low) / 2;
            if self.next_after(middle).is_some_and(|next| next <= until) {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.next_after(low).filter(|next| *next <= until).unwrap_or(tick)
    }

    /// Where a wall-clock time lies: its first, or only, instant, and its second where that counts.
    fn place(
        &self,
        wall: NaiveDateTime,
        both_passes: bool,
        every_hour: bool,
    ) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        match self.zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(at) => (Some(at.to_utc()), None),
            MappedLocalTime::Ambiguous(first, second) => (Some(first.to_utc()), both_passes.then(|| second.to_utc())),
            MappedLocalTime::None if every_hour => (None, None),
            MappedLocalTime::None => {
                (GapInfo::new(&wall, &self.zone).and_then(|gap| gap.end).map(|end| end.to_utc()), None)
            }
        }
    }

    /// Seconds that the wall clock is ahead of UTC.
    fn offset(&self, at: DateTime<Utc>) -> i32 {
        self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.zone == other.zone
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl fmt::Display for Schedule {
    /// The expression, and the zone in brackets where one was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)?;
        if self.named_zone { write!(f, " ({})", self.zone.name()) } else { Ok(()) }
    }
}

/// The seconds and what is below them taken away.
fn cut_to_minute(at: DateTime<Utc>) -> DateTime<Utc> {
    at - Duration::seconds(i64::from(at.second())) - Duration::nanoseconds(i64::from(at.nanosecond()))
}

fn parse_zone(name: &str) -> Result<Tz, ScheduleError> {
    Tz::from_str(name).map_err(|_| {
        let message = match TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name.trim())) {
            Some(zone) => format!("is not an IANA zone; did you mean {:?}?", zone.name()),
            None => "is not an IANA zone; write it as in \"Europe/Berlin\", or leave it out for UTC".into(),
        };
        ScheduleError { part: Part::Zone, text: name.into(), span: 0..name.len(), message }
    })
}

fn calendar(text: &str, fields: &Fields) -> Result<Rule, ScheduleError> {
    let Fields { minute, hour, day_of_month, month, day_of_week } = *fields;
    let line = |day_of_month: Option<Set>, day_of_week: Option<Set>| {
        let any = || "*".to_owned();
        let days = day_of_month.map_or_else(any, |set| list(set, 0));
        // The crate counts weekdays from Sunday = 1.
        let weekdays = day_of_week.map_or_else(any, |set| list(set, 1));
        let line = format!("0 {} {} {days} {} {weekdays}", list(minute, 0), list(hour, 0), list(month, 0));
        cron::Schedule::from_str(&line)
            .map_err(|error| ScheduleError::expression(text, 0..text.len(), format!("cannot be used ({error})")))
    };
    let parts = if day_of_month.star || day_of_week.star {
        vec![line(Some(day_of_month), Some(day_of_week))?]
    } else {
        vec![line(Some(day_of_month), None)?, line(None, Some(day_of_week))?]
    };
    // Every combination of day and month that exists at all exists within 28 years of any date.
    if next_on_line(&parts, DateTime::UNIX_EPOCH.naive_utc()).is_none() {
        let message = "never fires: no such month has such a day".into();
        return Err(ScheduleError::expression(text, 0..text.len(), message));
    }
    Ok(Rule::Calendar { parts: parts.into(), both_passes: minute.wildcard || hour.wildcard, every_hour: hour.star })
}

/// A set as the crate reads it.
fn list(set: Set, shift: u32) -> String {
    if set.is_full() {
        return "*".into();
    }
    let values: Vec<String> = set.values().map(|value| (value + shift).to_string()).collect();
    values.join(",")
}

/// The first time on the naive line strictly after `after` that one of the parts names.
fn next_on_line(parts: &[cron::Schedule], after: NaiveDateTime) -> Option<NaiveDateTime> {
    // UTC has neither gaps nor overlaps: for the crate it is just a line.
    let after = after.and_utc();
    parts.iter().filter_map(|part| part.after(&after).next()).min().map(|next| next.naive_utc())
}
