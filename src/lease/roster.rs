//! **P** Which processes of the operator live: their Leases as they were listed, judged by the observer's own clock.
//!
//! A process is alive while its Lease is there and changes. One whose Lease has not changed for the Lease's own duration
//! ([`super::Terms::EXECUTOR`]), since this process first saw it so, is dead.

use super::Record;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Between two lists.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was seen of the executors' Leases.
#[derive(Debug, Default)]
pub struct Roster {
    seen: HashMap<String, (Record, Instant)>,
}

impl Roster {
    /// All Leases of executors were listed: each instance with its record, asked for at `now`.
    pub fn saw(&mut self, listed: Vec<(String, Record)>, now: Instant) {
        let mut before = std::mem::take(&mut self.seen);
        for (instance, record) in listed {
            let since = match before.remove(&instance) {
                Some((known, since)) if known.version == record.version => since,
                _ => now,
            };
            self.seen.insert(instance, (record, since));
        }
    }

    /// Who lives.
    pub fn living(&self, now: Instant) -> BTreeSet<String> {
        self.seen.iter().filter(|(_, seen)| !has_expired(seen, now)).map(|(name, _)| name.clone()).collect()
    }

    /// Who is dead and has a Lease all the same: the leader removes it.
    pub fn dead(&self, now: Instant) -> Vec<(String, Record)> {
        let dead = self.seen.iter().filter(|(_, seen)| has_expired(seen, now));
        dead.map(|(name, (record, _))| (name.clone(), record.clone())).collect()
    }
}

fn has_expired((record, since): &(Record, Instant), now: Instant) -> bool {
    record.holder.is_none() || now.saturating_duration_since(*since) >= record.lasts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    const MINUTE: Duration = Duration::from_mins(1);

    fn record(version: &str) -> Record {
        Record { version: version.into(), holder: Some("x".into()), lasts: MINUTE, transitions: 0 }
    }

    #[test]
    fn a_process_lives_while_its_lease_changes_and_a_minute_longer() {
        let start = SystemClock.monotonic();
        let mut roster = Roster::default();
        for seconds in (0..300).step_by(30) {
            let now = start + Duration::from_secs(seconds);
            let a = ("a".to_owned(), record(&seconds.to_string()));
            let b = ("b".to_owned(), record(if seconds < 120 { "1" } else { "2" }));
            roster.saw(vec![a, b], now);
            assert!(roster.living(now).contains("a"));
            let b_lives = matches!(seconds, 0..60 | 120..180);
            assert_eq!(roster.living(now).contains("b"), b_lives, "after {seconds} s");
            assert_eq!(roster.dead(now).iter().any(|(name, _)| name == "b"), !b_lives, "after {seconds} s");
        }
        roster.saw(vec![], start + MINUTE * 6);
        assert!(roster.living(start + MINUTE * 6).is_empty() && roster.dead(start + MINUTE * 6).is_empty());
    }

    #[test]
    fn a_lease_that_was_given_up_is_nobodys() {
        let start = SystemClock.monotonic();
        let mut roster = Roster::default();
        roster.saw(vec![("a".into(), Record { holder: None, ..record("1") })], start);
        assert!(roster.living(start).is_empty());
    }
}
