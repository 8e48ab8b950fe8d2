//! **T** Turns of claims: so many are under way at once, and of one namespace only some of them, so that one whose creates are
//! slow (a webhook that hangs) makes nobody else's ticks late.

use crate::api::names::Namespace;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// So many claims are under way at once. More of them only wait in the API server instead of here.
const AT_ONCE: usize = 32;
/// Of one namespace.
const OF_ONE_NAMESPACE: usize = 8;

/// The turns of all claims.
pub(super) struct ClaimTurns {
    all: Arc<Semaphore>,
    /// Of each namespace with a claim that waits or is under way.
    own: HashMap<Namespace, Arc<Semaphore>>,
}

/// The turn of one claim, which may have to be waited for.
pub(super) struct ClaimTurn {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl ClaimTurns {
    /// All of them free.
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), own: HashMap::new() }
    }

    /// A turn for a claim in this namespace.
    pub(super) fn turn(&mut self, namespace: &Namespace) -> ClaimTurn {
        let own = self.own.entry(namespace.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_NAMESPACE)));
        ClaimTurn { own: Arc::clone(own), all: Arc::clone(&self.all) }
    }

    /// A claim in this namespace has ended: without another one nothing is kept of it.
    pub(super) fn ended(&mut self, namespace: &Namespace) {
        if self.own.get(namespace).is_some_and(|own| Arc::strong_count(own) == 1) {
            self.own.remove(namespace);
        }
    }
}

impl ClaimTurn {
    /// Does this when the turn has come, and gives the turn back.
    pub(super) async fn take<T>(self, work: impl Future<Output = T>) -> T {
        // Neither is ever closed. Its namespace's first, so that who waits for that takes no turn from others.
        let _own = self.own.acquire().await;
        let _all = self.all.acquire().await;
        work.await
    }
}
