//! **T** Asking a run to stop, and saying why.

use crate::error::Reason;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// A cancellation token that knows its cause; the first cause stays.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    cause: Arc<OnceLock<Reason>>,
    lost: CancellationToken,
}

impl Cancel {
    /// Asks for a stop because of `cause`: what somebody wants ([`Reason::CancelRequested`], [`Reason::Deleted`],
    /// [`Reason::OperatorShutdown`], …), or that the run may be another process' ([`Self::lost`]).
    pub fn request(&self, cause: Reason) {
        let _ = self.cause.set(cause); // a second cause changes nothing
        if matches!(cause, Reason::ClusterUnavailable | Reason::OperatorRestarted) {
            self.lost.cancel();
        }
        self.token.cancel();
    }

    /// Resolves when the run may be another process' from now on: this one was cut off
    /// ([`Reason::ClusterUnavailable`]), or has been told ([`Reason::OperatorRestarted`]). Also where something else had
    /// asked for a stop before.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Why, once asked.
    pub fn cause(&self) -> Option<Reason> {
        self.token.is_cancelled().then(|| self.cause.get().copied().unwrap_or(Reason::CancelRequested))
    }

    /// Resolves when asked, with the cause.
    pub async fn requested(&self) -> Reason {
        self.token.cancelled().await;
        self.cause.get().copied().unwrap_or(Reason::CancelRequested)
    }

    /// The bare token, for code that only needs to know that it shall stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
