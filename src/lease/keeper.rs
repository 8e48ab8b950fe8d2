//! **O** Keeps a Lease: one loop that asks [`Tenure`] what is next, does it, and says whether the Lease is held.
//!
//! Whether it is held is a `watch`: whoever acts on it sees a loss at the deadline itself, also while a request hangs. The
//! loop ends only when it is told to, and gives the Lease up then, so that a successor need not wait. A task that dies
//! takes the process with it (`app` sees to that).

use super::ports::{Entry, Leases, Put};
use super::roster::{LOOK_EVERY, Roster};
use super::{EXECUTOR_PREFIX, Record, Step, Tenure};
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long giving a Lease up may take; after that it expires by itself.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);
/// The least that others wait for a Lease that was given up.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// One Lease and what it takes to keep it.
pub struct Keeper {
    leases: Arc<dyn Leases>,
    clock: Arc<dyn Clock>,
    name: String,
    me: String,
    tenure: Tenure,
    held: watch::Sender<bool>,
    failing: bool,
}

impl Keeper {
    /// Keeps the Lease `name` for `me`; `held` is told whether it is held.
    pub fn new(
        leases: Arc<dyn Leases>,
        clock: Arc<dyn Clock>,
        name: impl Into<String>,
        tenure: Tenure,
        held: watch::Sender<bool>,
    ) -> Self {
        Self { leases, clock, name: name.into(), me: tenure.me.clone(), tenure, held, failing: false }
    }

    /// Keeps it until `stop`, then gives it up. With `remove` the Lease goes as well.
    pub async fn keep(mut self, stop: CancellationToken, remove: bool) {
        loop {
            let pause = self.one_round(&stop).await;
            self.tell();
            // A loss is said when it happens, not a pause later.
            let now = self.clock.monotonic();
            let left = self.tenure.deadline().map(|deadline| deadline.saturating_duration_since(now));
            let pause = left.filter(|left| !left.is_zero()).map_or(pause, |left| pause.min(left));
            if stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.held.send_replace(false);
        if tokio::time::timeout(RELEASE_LIMIT, self.give_up(remove)).await.is_err() {
            tracing::warn!(lease = %self.name, "not given up in time; it expires by itself");
        }
    }

    /// Looks, and writes where that is due. Says how long to wait before the next round.
    async fn one_round(&mut self, stop: &CancellationToken) -> Duration {
        let asked = self.clock.monotonic();
        let due = match self.tenure.next(asked) {
            // What belongs to somebody else is looked at each time; what is ours is simply written.
            Step::Renew(record) => Step::Renew(record),
            _ => match self.in_time(self.leases.get(&self.name), stop).await {
                Some(Ok(record)) => {
                    self.tenure.saw(record, asked);
                    self.tenure.next(self.clock.monotonic())
                }
                Some(Err(failure)) => return self.failed(&failure),
                None => return Duration::ZERO,
            },
        };
        let asked = self.clock.monotonic();
        let written = match &due {
            Step::Look => {
                self.failing = false;
                return self.tenure.terms().retry;
            }
            Step::Create => self.in_time(self.leases.create(&self.entry(true)), stop).await,
            Step::Take(seen) => self.in_time(self.leases.replace(&self.entry(true), seen), stop).await,
            Step::Renew(seen) => self.in_time(self.leases.replace(&self.entry(false), seen), stop).await,
        };
        match written {
            Some(Ok(Put::Stored(record))) => {
                if self.failing || !matches!(due, Step::Renew(_)) {
                    tracing::info!(lease = %self.name, holder = %self.me, "Lease held");
                }
                self.failing = false;
                self.tenure.wrote(record, asked);
                self.tenure.terms().retry
            }
            Some(Ok(Put::Refused)) => {
                self.tenure.was_refused();
                // Looked at soon: it may only be that the answer to a renewal was lost.
                self.tenure.terms().retry / 10
            }
            Some(Err(failure)) => self.failed(&failure),
            None => Duration::ZERO,
        }
    }

    fn failed(&mut self, failure: &Failure) -> Duration {
        if !self.failing {
            tracing::warn!(lease = %self.name, %failure, "Lease not renewed, tried until it is");
        }
        self.failing = true;
        self.tenure.terms().retry
    }

    /// A request within its time; what is lost meanwhile is said meanwhile. `None`: told to stop.
    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, Failure>>,
        stop: &CancellationToken,
    ) -> Option<Result<T, Failure>> {
        let limited = tokio::time::timeout(self.tenure.terms().request_limit(), request);
        let say_loss = async {
            if let Some(deadline) = self.tenure.deadline() {
                tokio::time::sleep(deadline.saturating_duration_since(self.clock.monotonic())).await;
                self.tell();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = limited => Some(answer.unwrap_or_else(|_| {
                Err(Failure::new(Reason::ClusterUnavailable, "the API server did not answer in time"))
            })),
            () = say_loss => None, // never: it only speaks
            () = stop.cancelled() => None,
        }
    }

    fn tell(&self) {
        let now = self.tenure.is_held(self.clock.monotonic());
        let changed = self.held.send_if_modified(|held| std::mem::replace(held, now) != now);
        if changed && !now {
            tracing::warn!(lease = %self.name, "Lease lost");
        }
    }

    fn entry(&self, taken: bool) -> Entry {
        let lasts = self.tenure.terms().lasts;
        Entry { name: self.name.clone(), holder: Some(self.me.clone()), lasts, taken }
    }

    /// Writes that nobody holds it, or removes it. Only a record that is ours is touched.
    async fn give_up(&self, remove: bool) {
        let Some(record) = self.tenure.own_record() else { return };
        let result = if remove {
            self.leases.delete(&self.name, record).await
        } else {
            let nobody = Entry { name: self.name.clone(), holder: None, lasts: GIVEN_UP, taken: false };
            self.leases.replace(&nobody, record).await.map(drop)
        };
        match result {
            Ok(()) => tracing::info!(lease = %self.name, "Lease given up"),
            Err(failure) => tracing::warn!(lease = %self.name, %failure, "Lease not given up; it expires by itself"),
        }
    }
}

/// Looks who lives and tells it, until nobody wants to know (`false`); while `leads` says so the Leases of the dead are removed.
pub async fn call_the_roll<F: Future<Output = bool> + Send>(
    leases: Arc<dyn Leases>,
    clock: Arc<dyn Clock>,
    leads: watch::Receiver<bool>,
    living: impl Fn(BTreeSet<String>) -> F + Send,
) {
    let mut roster = Roster::default();
    loop {
        let asked = clock.monotonic();
        let listed = tokio::time::timeout(super::Terms::SCHEDULING.request_limit(), leases.list(EXECUTOR_PREFIX)).await;
        // A list that does not come says nothing about who lives.
        if let Ok(Ok(listed)) = listed {
            roster.saw(instances(listed), asked);
            let now = clock.monotonic();
            let dead = roster.dead(now);
            if !living(roster.living(now)).await {
                return;
            }
            if *leads.borrow() {
                bury(leases.as_ref(), &dead).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn instances(listed: Vec<(String, Record)>) -> Vec<(String, Record)> {
    let instance = |name: &str| name.strip_prefix(EXECUTOR_PREFIX).map(str::to_owned);
    listed.into_iter().filter_map(|(name, record)| Some((instance(&name)?, record))).collect()
}

/// Removes the Leases of the dead, unless one has risen meanwhile.
async fn bury(leases: &dyn Leases, dead: &[(String, Record)]) {
    for (instance, record) in dead {
        match leases.delete(&format!("{EXECUTOR_PREFIX}{instance}"), record).await {
            Ok(()) => tracing::info!(%instance, "the Lease of a dead process was removed"),
            Err(failure) => tracing::warn!(%instance, %failure, "the Lease of a dead process stays, tried again"),
        }
    }
}

#[cfg(test)]
mod tests;
