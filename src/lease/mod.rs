//! **P** Who holds a Lease: what was seen of it, and when by the observer's own clock, to what is to be done about it.
//!
//! One implementation, used twice: for the Lease `ubo-scheduler`, whose holder claims ticks and starts runs, and for one
//! Lease `ubo-executor-<instance>` per process, which says that the process lives ([`roster`] reads those).
//!
//! **When it has expired.** Two machines' clocks are never compared. A record that has not changed for its duration *since
//! this process first saw it so*, on a clock that only goes forward, has expired; the times in the Lease are for people.
//! **Who writes.** Every write carries the resourceVersion of the record that it replaces, so that of two who take an
//! expired Lease one is refused.
//! **When it is lost.** The holder counts from the moment at which it *asked* for its last successful renewal. It gives up
//! after `renew_within`, which is shorter than what others wait: they begin later than the last holder has stopped.
//!
//! None of this is a fence: a process that sleeps through its deadline acts for a moment on what it knew. What makes that
//! harmless is elsewhere: a tick is claimed by creating an object of its name, a run's record is written under its
//! resourceVersion, and each attempt has a folder of its own.

pub mod cluster;
pub mod keeper;
pub mod ports;
pub mod roster;

use std::time::{Duration, Instant};

/// Name of the Lease whose holder schedules.
pub const SCHEDULER: &str = "ubo-scheduler";
/// What the names of executors' Leases begin with; the instance follows.
pub const EXECUTOR_PREFIX: &str = "ubo-executor-";

/// The times of a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a record that does not change is believed by others.
    pub lasts: Duration,
    /// How long the holder believes in itself after it last asked for a renewal that was granted. Shorter than `lasts`.
    pub renew_within: Duration,
    /// Between two looks or renewals.
    pub retry: Duration,
}

impl Terms {
    /// Of `ubo-scheduler`: client-go's defaults.
    pub const SCHEDULING: Self =
        Self { lasts: Duration::from_secs(15), renew_within: Duration::from_secs(10), retry: Duration::from_secs(2) };
    /// Of an executor (`product.md` section 7: dead after 60 s). One that cannot renew for 40 s cancels its runs, which
    /// leaves them 20 s before anybody calls it dead: half to finish what is nearly a backup, half to clean up
    /// (`run::backup::LOST_GRACE`).
    pub const EXECUTOR: Self =
        Self { lasts: Duration::from_mins(1), renew_within: Duration::from_secs(40), retry: Duration::from_secs(5) };

    /// Longest time for one request: a try that hangs leaves room for another one.
    pub fn request_limit(self) -> Duration {
        self.renew_within / 2
    }
}

/// A Lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its resourceVersion: changes with every write.
    pub version: String,
    /// Who holds it; `None` if it was given up.
    pub holder: Option<String>,
    /// How long its holder wants to be believed.
    pub lasts: Duration,
    /// How often it changed hands.
    pub transitions: i32,
}

/// What is to be done about a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look at it: nothing is known, or what is known belongs to somebody else.
    Look,
    /// Make it: there is none.
    Create,
    /// Write it, in place of this record: it is ours.
    Renew(Record),
    /// Write it, in place of this record: it was given up, or has expired.
    Take(Record),
}

/// What this process knows of one Lease.
#[derive(Debug)]
pub struct Tenure {
    me: String,
    terms: Terms,
    /// The newest record (`None`: there is no Lease), and since when it has been like that, as far as we saw.
    seen: Option<(Option<Record>, Instant)>,
    /// When the last successful renewal was asked for.
    held_since: Option<Instant>,
}

impl Tenure {
    /// Nothing is known yet. `me` names this process and no other, ever.
    pub fn new(me: impl Into<String>, terms: Terms) -> Self {
        Self { me: me.into(), terms, seen: None, held_since: None }
    }

    /// Its times.
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// The API server was asked and showed this at `now`.
    pub fn saw(&mut self, record: Option<Record>, now: Instant) {
        if record.as_ref().and_then(|record| record.holder.as_ref()) != Some(&self.me) {
            self.held_since = None;
        }
        let version = |record: &Option<Record>| record.as_ref().map(|record| record.version.clone());
        match &self.seen {
            Some((known, _)) if version(known) == version(&record) => {}
            _ => self.seen = Some((record, now)),
        }
    }

    /// A write of ours was granted; it was asked for at `asked`.
    pub fn wrote(&mut self, record: Record, asked: Instant) {
        self.held_since = (record.holder.as_ref() == Some(&self.me)).then_some(asked);
        self.seen = Some((Some(record), asked));
    }

    /// A write of ours was refused: somebody was quicker. The next step is to look.
    pub fn was_refused(&mut self) {
        self.seen = None;
    }

    /// What to do after having looked at `now`.
    pub fn next(&self, now: Instant) -> Step {
        match &self.seen {
            None => Step::Look,
            Some((None, _)) => Step::Create,
            Some((Some(record), since)) => match &record.holder {
                None => Step::Take(record.clone()),
                Some(holder) if *holder == self.me => Step::Renew(record.clone()),
                Some(_) if now.saturating_duration_since(*since) >= record.lasts => Step::Take(record.clone()),
                Some(_) => Step::Look,
            },
        }
    }

    /// Whether this process holds it at `now`.
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_since.is_some_and(|asked| now.saturating_duration_since(asked) < self.terms.renew_within)
    }

    /// When a held Lease is lost unless it is renewed.
    pub fn deadline(&self) -> Option<Instant> {
        self.held_since.map(|asked| asked + self.terms.renew_within)
    }

    /// The record that our own name stands in, if it does: what is written when it is given up.
    pub fn own_record(&self) -> Option<&Record> {
        let (record, _) = self.seen.as_ref()?;
        record.as_ref().filter(|record| record.holder.as_ref() == Some(&self.me))
    }
}

#[cfg(test)]
mod tests;
