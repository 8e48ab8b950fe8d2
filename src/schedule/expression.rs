//! **P** The text of a schedule: five cron fields, the `@` words and `H`, to sets of numbers.
//!
//! The grammar is the one of Kubernetes' CronJob (robfig/cron v3, standard parser), so that an expression can be taken
//! over unchanged: lists, ranges, steps, `*` and `?`, names of months and weekdays in any case, `N/step` for `N-max/step`,
//! and a star that a step above 1 turns into an ordinary set (which decides whether day of month and day of week are
//! joined by *and* or by *or*). On purpose different: 7 is Sunday too, and an empty list item is an error.
//! `H` is Jenkins' letter for "some fixed value, spread by name".

use super::cron::{Origin, ScheduleError};
use std::ops::Range;

/// What an expression says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Five fields, or a word that stands for five.
    Calendar(Fields),
    /// `@every`: whole minutes, at least 1.
    Every(i64),
}

/// The five fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) minute: Set,
    pub(super) hour: Set,
    pub(super) day_of_month: Set,
    pub(super) month: Set,
    pub(super) day_of_week: Set,
}

/// The values that one field allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// Bit n is set if n is allowed.
    pub(super) bits: u64,
    /// Some item of the list is a star, or a star with step 1.
    pub(super) star: bool,
    /// The text begins with a star, with whatever step: at clock changes it follows the wall clock.
    pub(super) wildcard: bool,
    /// Largest value of the field.
    max: u32,
    /// Smallest value of the field.
    min: u32,
}

impl Set {
    /// The allowed values, ascending.
    pub(super) fn values(self) -> impl Iterator<Item = u32> {
        (self.min..=self.max).filter(move |value| self.bits & (1 << value) != 0)
    }

    /// Whether every value of the field is allowed.
    pub(super) fn is_full(self) -> bool {
        self.values().count() == (self.min..=self.max).count()
    }
}

/// One of the five, with its limits.
struct Field {
    name: &'static str,
    min: u32,
    /// What `*` and `N/step` reach up to.
    max: u32,
    /// The largest number that may be written (7 for Sunday).
    written_max: u32,
    /// What `H` reaches up to: day 28 exists in every month.
    hash_max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, written_max: 59, hash_max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, written_max: 23, hash_max: 23, names: &[] },
    Field { name: "day of month", min: 1, max: 31, written_max: 31, hash_max: 28, names: &[] },
    Field { name: "month", min: 1, max: 12, written_max: 12, hash_max: 12, names: MONTHS },
    Field { name: "day of week", min: 0, max: 6, written_max: 7, hash_max: 6, names: WEEKDAYS },
];

/// The words that stand for five fields, as cron has them.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// A piece of the expression and where it begins in it, in bytes.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Piece<'a> {
    fn span(self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }

    /// The pieces between the `separator`s, which may be empty.
    fn split(self, separator: char) -> impl Iterator<Item = Piece<'a>> {
        let mut at = self.at;
        self.text.split(separator).map(move |text| {
            let piece = Piece { text, at };
            at += text.len() + separator.len_utf8();
            piece
        })
    }
}

/// Why a piece does not hold, before the whole expression is known.
struct Fault {
    span: Range<usize>,
    message: String,
}

impl Fault {
    fn at(piece: Piece<'_>, message: impl Into<String>) -> Self {
        Self { span: piece.span(), message: message.into() }
    }
}

/// Reads an expression. `origin` gives `H` its spread.
pub(super) fn parse(text: &str, origin: &Origin) -> Result<Expression, ScheduleError> {
    parse_text(text, origin).map_err(|fault| ScheduleError::expression(text, fault.span, fault.message))
}

fn parse_text(text: &str, origin: &Origin) -> Result<Expression, Fault> {
    let words: Vec<Piece<'_>> = words(text);
    let Some(first) = words.first() else {
        return Err(Fault { span: 0..text.len(), message: "is empty; `0 2 * * *` is every day at 02:00".into() });
    };
    if first.text.starts_with("TZ=") || first.text.starts_with("CRON_TZ=") {
        return Err(Fault::at(*first, "does not take a zone; set the field `timeZone`"));
    }
    if first.text.starts_with('@') {
        return parse_word(&words);
    }
    let Ok(words) = <[Piece<'_>; 5]>::try_from(words.as_slice()) else {
        let mut message = format!(
            "has {} field{}, must have five: minute, hour, day of month, month, day of week",
            words.len(),
            if words.len() == 1 { "" } else { "s" }
        );
        if words.len() > 5 {
            message.push_str(" (seconds and years are not supported)");
        }
        let end = words.last().map_or(text.len(), |last| last.span().end);
        return Err(Fault { span: first.at..end, message });
    };
    let set = |index: usize| parse_field(&FIELDS[index], words[index], origin);
    Ok(Expression::Calendar(Fields {
        minute: set(0)?,
        hour: set(1)?,
        day_of_month: set(2)?,
        month: set(3)?,
        day_of_week: set(4)?,
    }))
}

/// The pieces between white space.
fn words(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = Piece { text, at: 0 };
    loop {
        let trimmed = rest.text.trim_start();
        let at = rest.at + rest.text.len() - trimmed.len();
        let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        if end == 0 {
            return found;
        }
        found.push(Piece { text: &trimmed[..end], at });
        rest = Piece { text: &trimmed[end..], at: at + end };
    }
}

fn parse_word(words: &[Piece<'_>]) -> Result<Expression, Fault> {
    let first = words[0];
    if first.text == "@every" {
        let [_, duration] = words else {
            return Err(Fault::at(first, "wants one duration after it, as in `@every 90m`"));
        };
        return Ok(Expression::Every(whole_minutes(*duration)?));
    }
    if first.text == "@reboot" {
        return Err(Fault::at(first, "has no meaning in a cluster; leave `schedule` out for a job that runs once"));
    }
    let Some((_, fields)) = WORDS.iter().find(|(word, _)| *word == first.text) else {
        let known = WORDS.map(|(word, _)| word).join(", ");
        return Err(Fault::at(first, format!("is not known; there are {known} and `@every 90m`")));
    };
    if let Some(second) = words.get(1) {
        return Err(Fault::at(*second, format!("is too much: {} stands alone", first.text)));
    }
    // The words hold no `H`, so that nobody's name matters.
    parse_text(fields, &Origin::unnamed(chrono::DateTime::UNIX_EPOCH))
}

/// A Go duration (`1h30m`, `1.5h`, `90m`, `5400s`) that is a whole number of minutes, at least one.
fn whole_minutes(piece: Piece<'_>) -> Result<i64, Fault> {
    const MINUTE: i128 = 60_000_000_000;
    let not_one = || Fault::at(piece, "is not a duration; write it as in `90m`, `1h30m` or `24h`");
    let mut rest = piece.text;
    if rest.is_empty() {
        return Err(not_one());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(not_one)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => MINUTE,
            "h" => 60 * MINUTE,
            "d" => return Err(Fault::at(piece, "knows no days; write hours, as in `48h`")),
            _ => return Err(not_one()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // 18 digits and 9 of a fraction are beyond every unit's use and keep the sums below far from overflow.
        if whole.len() > 18 || fraction.len() > 9 || whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(not_one());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| not_one())? };
        let scale = (0..fraction.len()).fold(1_i128, |scale, _| scale * 10);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| not_one())? };
        total += whole * nanos + fraction * nanos / scale;
        rest = after;
    }
    if total < MINUTE || total % MINUTE != 0 {
        return Err(Fault::at(piece, "must be a whole number of minutes, at least 1m"));
    }
    // Ten years: beyond it a backup schedule is a slip of the pen.
    let minutes = i64::try_from(total / MINUTE).ok().filter(|minutes| *minutes <= 10 * 366 * 24 * 60);
    minutes.ok_or_else(|| Fault::at(piece, "must be at most ten years"))
}

fn parse_field(field: &Field, piece: Piece<'_>, origin: &Origin) -> Result<Set, Fault> {
    let mut set =
        Set { bits: 0, star: false, wildcard: piece.text.starts_with(['*', '?']), max: field.max, min: field.min };
    for item in piece.split(',') {
        if item.text.is_empty() {
            return Err(Fault::at(piece, format!("{}: an item of the list is empty", field.name)));
        }
        let (bits, star) = parse_item(field, item, origin)?;
        set.bits |= bits;
        set.star |= star;
    }
    // Sunday may be written as 7; there is only one of it.
    if field.written_max > field.max && set.bits & (1 << field.written_max) != 0 {
        set.bits = (set.bits & !(1 << field.written_max)) | 1 << field.min;
    }
    Ok(set)
}

/// One item of a list: its bits, and whether it counts as a star.
fn parse_item(field: &Field, item: Piece<'_>, origin: &Origin) -> Result<(u64, bool), Fault> {
    let mut parts = item.split('/');
    let head = parts.next().unwrap_or(item);
    let step = parts.next();
    if parts.next().is_some() {
        return Err(Fault::at(item, format!("{}: more than one `/`", field.name)));
    }
    let stride = match step {
        None => 1,
        Some(step) => match number(step.text) {
            None => return Err(Fault::at(step, format!("{}: the step `{}` is not a number", field.name, step.text))),
            Some(0) => return Err(Fault::at(step, format!("{}: the step must be at least 1", field.name))),
            Some(value) => value,
        },
    };
    if head.text == "H" || head.text.starts_with("H(") {
        return Ok((hashed(field, item, head, step.map(|_| stride), origin)?, false));
    }
    let (first, last) = match head.text.split_once('-') {
        None => (head, None),
        Some((first, last)) => {
            (Piece { text: first, at: head.at }, Some(Piece { text: last, at: head.at + first.len() + 1 }))
        }
    };
    if first.text == "*" || first.text == "?" {
        return Ok((every(field.min, field.max, stride), stride == 1));
    }
    let mut low = value(field, first)?;
    let high = match last {
        Some(last) if last.text.contains('-') => {
            return Err(Fault::at(head, format!("{}: more than one `-`", field.name)));
        }
        Some(last) => value(field, last)?,
        None if step.is_some() => {
            // Sunday with a step is the beginning of the week, not its end.
            low = if low > field.max { field.min } else { low };
            field.max
        }
        None => low,
    };
    if low > high {
        let message = format!("{}: `{}` begins after its end; write two ranges with a comma", field.name, head.text);
        return Err(Fault::at(head, message));
    }
    Ok((every(low, high, stride), false))
}

/// `H`, `H(a-b)`, each with or without a step.
fn hashed(field: &Field, item: Piece<'_>, head: Piece<'_>, step: Option<u64>, origin: &Origin) -> Result<u64, Fault> {
    let (low, high) = if head.text == "H" {
        (field.min, field.hash_max)
    } else {
        let inside = head.text.strip_prefix("H(").and_then(|text| text.strip_suffix(')'));
        let Some((first, last)) = inside.and_then(|text| text.split_once('-')) else {
            return Err(Fault::at(item, format!("{}: write a spread as `H`, `H/15` or `H(0-29)`", field.name)));
        };
        let at = head.at + 2;
        let low = value(field, Piece { text: first, at })?;
        let high = value(field, Piece { text: last, at: at + first.len() + 1 })?;
        if low > high {
            return Err(Fault::at(head, format!("{}: `{}` begins after its end", field.name, head.text)));
        }
        (low, high)
    };
    let width = u64::from(high - low) + 1;
    let hash = origin.spread(field.name);
    match step {
        None => Ok(1 << (u64::from(low) + hash % width)),
        Some(step) if step > width => {
            Err(Fault::at(item, format!("{}: the step is longer than the {width} values it steps over", field.name)))
        }
        Some(step) => {
            let offset = u32::try_from(hash % step).unwrap_or(0);
            Ok(every(low + offset, high, step))
        }
    }
}

/// A number or a name of this field.
fn value(field: &Field, piece: Piece<'_>) -> Result<u32, Fault> {
    let by_name = field.names.iter().position(|name| name.eq_ignore_ascii_case(piece.text));
    let number = match by_name {
        Some(index) => u64::try_from(index).ok().map(|index| index + u64::from(field.min)),
        None => number(piece.text),
    };
    let Some(number) = number else {
        let what = if piece.text.is_empty() {
            "a number is missing".to_owned()
        } else {
            let ends = field.names.first().zip(field.names.last());
            let or = ends.map_or_else(String::new, |(first, last)| format!(" or a name ({first} to {last})"));
            format!("`{}` is not a number{or}", piece.text)
        };
        return Err(Fault::at(piece, format!("{}: {what}", field.name)));
    };
    u32::try_from(number).ok().filter(|n| (field.min..=field.written_max).contains(n)).ok_or_else(|| {
        let message = format!("{}: {} is not within {}-{}", field.name, piece.text, field.min, field.written_max);
        Fault::at(piece, message)
    })
}

/// A number as Go's `Atoi` reads it: a leading plus is fine, a minus has no use here.
fn number(text: &str) -> Option<u64> {
    text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok())
}

/// Bits from `low` to `high` in steps.
fn every(low: u32, high: u32, step: u64) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (low..=high).step_by(step).fold(0, |bits, value| bits | 1 << value)
}
