//! **P** Whose turn it is: a limit on runs at work, fair between namespaces.
//!
//! Namespaces take turns, one run each; within a namespace the earliest tick goes first, and what has the same tick goes in
//! the order of arrival. A namespace that has nothing to wait for loses its place in the round and comes in again at its
//! end, so none gains anything by coming often, and whoever waits is passed at most once by each other namespace before
//! its own namespace has a turn.

use crate::api::names::Namespace;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// For how many of those that wait a place is known (`product.md` section 2: the first 20).
pub const SHOWN: usize = 20;

/// One who waits or works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A place within a namespace: the tick, then the arrival.
type Place = (DateTime<Utc>, Ticket);

/// The queue.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    at_work: HashSet<Ticket>,
    /// Of every namespace in the round, and of no other: who waits. Never empty.
    lines: BTreeMap<Namespace, BTreeSet<Place>>,
    round: VecDeque<Namespace>,
    waiting: HashMap<Ticket, (Namespace, DateTime<Utc>)>,
    next: u64,
}

impl Queue {
    /// A queue that lets `limit` work at once (at least 1).
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            at_work: HashSet::new(),
            lines: BTreeMap::new(),
            round: VecDeque::new(),
            waiting: HashMap::new(),
            next: 0,
        }
    }

    /// Somebody of `namespace` comes in, for the tick `tick`. He waits until [`Queue::admit`] names him.
    pub fn enter(&mut self, namespace: &Namespace, tick: DateTime<Utc>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let line = self.lines.entry(namespace.clone()).or_default();
        if line.is_empty() {
            self.round.push_back(namespace.clone());
        }
        line.insert((tick, ticket));
        self.waiting.insert(ticket, (namespace.clone(), tick));
        ticket
    }

    /// Somebody is through with his work, or does not want to wait any more.
    pub fn leave(&mut self, ticket: Ticket) {
        self.at_work.remove(&ticket);
        let Some((namespace, tick)) = self.waiting.remove(&ticket) else { return };
        let Some(line) = self.lines.get_mut(&namespace) else { return };
        line.remove(&(tick, ticket));
        if line.is_empty() {
            self.lines.remove(&namespace);
            self.round.retain(|other| *other != namespace);
        }
    }

    /// Those who may begin now, in order. They count as at work from here on.
    pub fn admit(&mut self) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        while self.at_work.len() < self.limit {
            let Some(namespace) = self.round.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&namespace) else { continue };
            let first = line.pop_first();
            if line.is_empty() {
                self.lines.remove(&namespace);
            } else {
                self.round.push_back(namespace);
            }
            if let Some((_, ticket)) = first {
                self.waiting.remove(&ticket);
                self.at_work.insert(ticket);
                admitted.push(ticket);
            }
        }
        admitted
    }

    /// The place of one who waits, from 1, if nobody else comes: for the first [`SHOWN`] only.
    pub fn position(&self, ticket: Ticket) -> Option<usize> {
        if !self.waiting.contains_key(&ticket) {
            return None;
        }
        let mut lines: Vec<_> = self.round.iter().filter_map(|name| self.lines.get(name)).map(BTreeSet::iter).collect();
        let mut place = 0;
        while place < SHOWN && !lines.is_empty() {
            let mut passed = Vec::with_capacity(lines.len());
            for mut line in lines {
                let Some((_, other)) = line.next() else { continue };
                place += 1;
                if *other == ticket {
                    return (place <= SHOWN).then_some(place);
                }
                passed.push(line);
            }
            lines = passed;
        }
        None
    }

    /// How many work.
    pub fn at_work(&self) -> usize {
        self.at_work.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests;
