//! **T** The [`queue`](super::queue) as something that a task can wait for.

use super::queue::{Queue, Ticket};
use crate::api::names::Namespace;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Of everybody who waits: how he is called.
    calls: HashMap<Ticket, oneshot::Sender<()>>,
}

impl State {
    fn call(&mut self) {
        for ticket in self.queue.admit() {
            if let Some(call) = self.calls.remove(&ticket) {
                let _ = call.send(()); // he who does not listen any more leaves when his place is dropped
            }
        }
    }
}

/// Turns of runs: so many at once, the others wait. Clones share them.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<State>>);

impl Turns {
    /// So many may work at once, at least 1.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State { queue: Queue::new(limit), calls: HashMap::new() })))
    }

    /// Comes in. The place, and later the turn, is given up by dropping what is returned.
    pub fn enter(&self, namespace: &Namespace, tick: DateTime<Utc>) -> Place {
        let (call, called) = oneshot::channel();
        let mut state = self.lock();
        let ahead = state.queue.waiting();
        let ticket = state.queue.enter(namespace, tick);
        state.calls.insert(ticket, call);
        state.call();
        Place { turns: self.clone(), ticket, called, ahead }
    }

    /// How many work, and how many wait for their turn.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.at_work(), state.queue.waiting())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, and then a turn.
#[derive(Debug)]
pub struct Place {
    turns: Turns,
    ticket: Ticket,
    called: oneshot::Receiver<()>,
    ahead: usize,
}

impl Place {
    /// Whether the turn has come already.
    pub fn is_called(&self) -> bool {
        !self.turns.lock().calls.contains_key(&self.ticket)
    }

    /// Waits for the turn. May be dropped and asked again.
    pub async fn called(&mut self) {
        if !self.is_called() {
            let _ = (&mut self.called).await; // its sender is dropped only after it was used, or with the place
        }
    }

    /// The place, from 1, while it is one of the first [`super::queue::SHOWN`].
    pub fn position(&self) -> Option<usize> {
        self.turns.lock().queue.position(self.ticket)
    }

    /// How many waited when this place was taken.
    pub const fn ahead(&self) -> usize {
        self.ahead
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.calls.remove(&self.ticket);
        state.queue.leave(self.ticket);
        state.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_dropped_makes_room_whether_he_waited_or_worked() {
        let turns = Turns::new(1);
        let space = Namespace::new("shop").expect("good name");
        let tick = |seconds| DateTime::from_timestamp(seconds, 0).expect("in range");
        let mut first = turns.enter(&space, tick(1));
        first.called().await;
        let second = turns.enter(&space, tick(2));
        let mut third = turns.enter(&space, tick(3));
        assert_eq!((second.position(), third.position()), (Some(1), Some(2)));
        assert_eq!(turns.counts(), (1, 2));
        drop(second);
        assert_eq!((third.position(), third.is_called()), (Some(1), false));
        drop(first);
        third.called().await;
        assert!(third.is_called() && third.position().is_none());
        third.called().await;
        assert_eq!(turns.counts(), (1, 0));
        drop(third);
        assert_eq!(turns.counts(), (0, 0));
    }
}
