//! **T** Scripted faults around a destination.
//!
//! A decorator for tests, in the tree so that every test can use it: the n-th operation of a kind fails, hangs, loses its
//! answer, or changes a byte. What was asked for is recorded.

use super::{Capability, Destination, ObjectInfo, Put, Staged, Stored, UNFINISHED};
use crate::api::names::ObjectKey;
use crate::error::{Failure, Reason};
use crate::source::Completion;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Operations of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// [`Destination::stage`].
    Stage,
    /// [`Staged::write`].
    Write,
    /// [`Staged::commit`].
    Commit,
    /// [`Staged::abort`].
    Abort,
    /// [`Destination::put`].
    Put,
    /// [`Destination::stat`].
    Stat,
    /// [`Destination::read`].
    Read,
    /// [`Destination::list`].
    List,
    /// [`Destination::delete`].
    Delete,
    /// [`Destination::abort_uploads`].
    AbortUploads,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and fails.
    Fail(Reason),
    /// It is done, but the answer is an error.
    LoseReply(Reason),
    /// A bit of what is written, put or read is flipped; a commit or stat says one byte less.
    Corrupt,
    /// It never ends.
    Hang,
}

/// When a fault strikes.
#[derive(Clone, Debug)]
struct Rule {
    operation: Operation,
    suffix: String,
    from: usize,
    to: usize,
    fault: Fault,
    seen: usize,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    done: Vec<(Operation, String)>,
}

/// A destination with faults.
pub struct Faulty {
    inner: Arc<dyn Destination>,
    script: Arc<Mutex<Script>>,
}

impl Faulty {
    /// `inner`, without any fault yet.
    pub fn new(inner: Arc<dyn Destination>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// From the `nth` (counted from 1) such operation on a key that ends in `suffix`, once.
    #[must_use]
    pub fn once(self, operation: Operation, suffix: &str, nth: usize, fault: Fault) -> Self {
        self.rule(operation, suffix, nth, nth, fault)
    }

    /// Every such operation on a key that ends in `suffix`.
    #[must_use]
    pub fn always(self, operation: Operation, suffix: &str, fault: Fault) -> Self {
        self.rule(operation, suffix, 1, usize::MAX, fault)
    }

    /// What was asked for so far, with the key.
    pub fn done(&self) -> Vec<(Operation, String)> {
        lock(&self.script).done.clone()
    }

    fn rule(self, operation: Operation, suffix: &str, from: usize, to: usize, fault: Fault) -> Self {
        lock(&self.script).rules.push(Rule { operation, suffix: suffix.into(), from, to, fault, seen: 0 });
        self
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the operation and gives the fault that strikes it; an operation that fails or hangs does so here.
async fn strike(script: &Mutex<Script>, operation: Operation, key: &str) -> Result<Strike, Failure> {
    let fault = {
        let mut script = lock(script);
        script.done.push((operation, key.to_string()));
        let mut struck = None;
        for rule in script.rules.iter_mut().filter(|r| r.operation == operation && key.ends_with(&r.suffix)) {
            rule.seen += 1;
            if (rule.from..=rule.to).contains(&rule.seen) {
                struck = struck.or(Some(rule.fault));
            }
        }
        struck
    };
    let scripted = |reason| Failure::new(reason, format!("scripted fault of {operation:?} {key}"));
    match fault {
        None => Ok(Strike { lost: None, corrupt: false }),
        Some(Fault::Fail(reason)) => Err(scripted(reason)),
        Some(Fault::LoseReply(reason)) => Ok(Strike { lost: Some(scripted(reason)), corrupt: false }),
        Some(Fault::Corrupt) => Ok(Strike { lost: None, corrupt: true }),
        Some(Fault::Hang) => std::future::pending().await,
    }
}

/// What happens to an operation that is done.
struct Strike {
    lost: Option<Failure>,
    corrupt: bool,
}

impl Strike {
    fn answer<T>(self, answer: T) -> Result<T, Failure> {
        self.lost.map_or(Ok(answer), Err)
    }

    fn bytes(&self, bytes: Bytes) -> Bytes {
        if !self.corrupt || bytes.is_empty() {
            return bytes;
        }
        let mut changed = bytes.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        changed.into()
    }
}

#[async_trait]
impl Destination for Faulty {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn stage(&self, key: &ObjectKey) -> Result<Box<dyn Staged>, Failure> {
        let strike = strike(&self.script, Operation::Stage, key.as_str()).await?;
        let inner = self.inner.stage(key).await?;
        strike.answer(Box::new(FaultyStaged { inner, key: key.as_str().into(), script: self.script.clone() }))
    }

    async fn put(&self, key: &ObjectKey, content: Bytes, when: Put) -> Result<Stored, Failure> {
        let strike = strike(&self.script, Operation::Put, key.as_str()).await?;
        let stored = self.inner.put(key, strike.bytes(content), when).await?;
        strike.answer(stored)
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, Failure> {
        let strike = strike(&self.script, Operation::Stat, key.as_str()).await?;
        let mut info = self.inner.stat(key).await?;
        if let Some(info) = info.as_mut().filter(|_| strike.corrupt) {
            info.size = info.size.saturating_sub(1);
        }
        strike.answer(info)
    }

    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        use futures::StreamExt;
        let strike = strike(&self.script, Operation::Read, key.as_str()).await?;
        let stream = self.inner.read(key, range).await?;
        if !strike.corrupt {
            return strike.answer(stream);
        }
        Ok(stream.map(move |piece| piece.map(|bytes| strike.bytes(bytes))).boxed())
    }

    async fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<ObjectInfo, Failure>>, Failure> {
        let strike = strike(&self.script, Operation::List, prefix).await?;
        let stream = self.inner.list(prefix).await?;
        strike.answer(stream)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Failure> {
        let strike = strike(&self.script, Operation::Delete, key.as_str()).await?;
        self.inner.delete(key).await?;
        strike.answer(())
    }

    async fn abort_uploads(&self, prefix: &str) -> Result<usize, Failure> {
        let strike = strike(&self.script, Operation::AbortUploads, prefix).await?;
        let aborted = self.inner.abort_uploads(prefix).await?;
        strike.answer(aborted)
    }
}

struct FaultyStaged {
    inner: Box<dyn Staged>,
    key: String,
    script: Arc<Mutex<Script>>,
}

#[async_trait]
impl Staged for FaultyStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let strike = strike(&self.script, Operation::Write, &self.key).await?;
        self.inner.write(strike.bytes(bytes)).await?;
        strike.answer(())
    }

    async fn commit(self: Box<Self>, proof: &Completion) -> Result<u64, Failure> {
        let strike = match strike(&self.script, Operation::Commit, &self.key).await {
            Ok(strike) => strike,
            Err(failure) => {
                // It throws away what was staged, which may fail as well.
                if strike(&self.script, Operation::Abort, &self.key).await.is_err() {
                    drop(self.inner);
                    return Err(failure.leaving(UNFINISHED));
                }
                self.inner.abort().await?;
                return Err(failure);
            }
        };
        let size = self.inner.commit(proof).await?;
        let size = if strike.corrupt { size.saturating_sub(1) } else { size };
        strike.answer(size)
    }

    async fn abort(self: Box<Self>) -> Result<(), Failure> {
        let strike = strike(&self.script, Operation::Abort, &self.key).await?;
        self.inner.abort().await?;
        strike.answer(())
    }
}
