//! **P** Runs that are to be deleted: for how long a finalizer holds one that is not through.
//!
//! What works is told to stop, and what a dead process left is cleared away, as soon as a run is seen to be deleted; the
//! finalizer comes off when that is done. What cannot be done is given up after five minutes. In a namespace that is going it
//! is given up as soon as that is known: the rights and keys that it would need go as well, and a namespace must not stay for
//! our sake. Namespaces are not watched: one is looked at when a run in it is not through after a while.

use crate::api::names::Namespace;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;

/// How long a finalizer holds a run that is to be deleted (`product.md` section 2).
const LIMIT: TimeDelta = TimeDelta::minutes(5);
/// How long a run may take to stop and clean up before its namespace is looked at: as a rule it needs a few seconds.
const LOOK_AFTER: TimeDelta = TimeDelta::seconds(20);
/// How soon a namespace is looked at again.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(30);

/// What is to be done about a run that is to be deleted and is not through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Wait, and look again at this time.
    Until(DateTime<Utc>),
    /// See whether its namespace is going.
    Look,
    /// Give it up, and say why.
    Over(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Look {
    /// When it was asked for last, or answered.
    at: DateTime<Utc>,
    under_way: bool,
    going: bool,
}

/// What is known of runs that are to be deleted, and of the namespaces of those that are not through.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// By UID, since when this process knows: the API server's clock is another one.
    since: HashMap<String, DateTime<Utc>>,
    namespaces: HashMap<Namespace, Look>,
}

impl Going {
    /// A run is to be deleted; since when that is known.
    pub(super) fn seen(&mut self, uid: &str, now: DateTime<Utc>) -> DateTime<Utc> {
        *self.since.entry(uid.to_owned()).or_insert(now)
    }

    /// A run is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        self.since.remove(uid);
        if self.since.is_empty() {
            self.namespaces.clear();
        }
    }

    /// The clock went back: nobody waits for what it has shown already.
    pub(super) fn clock_went_back(&mut self, now: DateTime<Utc>) {
        for since in self.since.values_mut() {
            *since = now.min(*since);
        }
        for look in self.namespaces.values_mut() {
            look.at = now.min(look.at);
        }
    }

    /// What is to be done about a run that was seen to be deleted at `since` and is not through. [`Patience::Look`] is said
    /// once until [`Going::looked_at`] has the answer.
    pub(super) fn patience(&mut self, namespace: &Namespace, since: DateTime<Utc>, now: DateTime<Utc>) -> Patience {
        if now - since > LIMIT {
            return Patience::Over("after 5 minutes");
        }
        let last = self.namespaces.get(namespace);
        // An answer from before may be about a namespace that has been made anew.
        if last.is_some_and(|last| last.going && last.at >= since) {
            return Patience::Over("since its namespace is going");
        }
        let end = since + LIMIT + TimeDelta::seconds(1);
        let due = last.map_or(since + LOOK_AFTER, |last| (since + LOOK_AFTER).max(last.at + LOOK_AGAIN));
        if last.is_some_and(|last| last.under_way) {
            Patience::Until(end)
        } else if now < due {
            Patience::Until(due.min(end))
        } else {
            self.namespaces.insert(namespace.clone(), Look { at: now, under_way: true, going: false });
            Patience::Look
        }
    }

    /// Whether a namespace is going, as it was found.
    pub(super) fn looked_at(&mut self, namespace: &Namespace, going: bool, now: DateTime<Utc>) {
        if let Some(look) = self.namespaces.get_mut(namespace) {
            *look = Look { at: now, under_way: false, going };
        }
    }
}
