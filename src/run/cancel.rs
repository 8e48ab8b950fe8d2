//! **T** Asking a run to stop, and saying why.

use crate::error::Reason;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// A cancellation token that knows its cause; the first cause stays.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    token: CancellationToken,
    cause: Arc<OnceLock<Reason>>,
}

impl Cancel {
    /// Asks for a stop because of `cause` ([`Reason::CancelRequested`], [`Reason::Deleted`] or
    /// [`Reason::OperatorShutdown`]).
    pub fn request(&self, cause: Reason) {
        let _ = self.cause.set(cause); // a second cause changes nothing
        self.token.cancel();
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
