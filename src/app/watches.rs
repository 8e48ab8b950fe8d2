//! **W** Watches of one kind of object, told to the controller.
//!
//! A watch begins anew, with a list of everything that is stored then, when the epoch changes.

use crate::controller::{Seen, Signal};
use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use tokio::sync::{mpsc, watch};

/// Watches until nobody listens. Errors are retried with kube's own back-off (800 ms to 30 s) and said once per row of
/// failures: a watch that breaks costs nothing but time, since it begins anew with a list. An object that cannot be read is
/// told as such, and keeps nobody from reading the others.
pub(super) async fn watch<K>(
    api: Api<DeserializeGuard<K>>,
    signals: mpsc::Sender<Signal>,
    mut epochs: watch::Receiver<u64>,
    wrap: fn(Seen<K>) -> Signal,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let begin = || watcher(api.clone(), watcher::Config::default()).default_backoff().boxed();
    let mut epoch = *epochs.borrow_and_update();
    let mut stream = begin();
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            Ok(()) = epochs.changed() => {
                epoch = *epochs.borrow_and_update();
                stream = begin();
                continue;
            }
        };
        let Some(event) = event else { return };
        let seen = match event {
            Ok(Event::Apply(DeserializeGuard(object)) | Event::InitApply(DeserializeGuard(object))) => match object {
                Ok(object) => Seen::Apply(Box::new(object)),
                Err(invalid) => Seen::Unreadable { metadata: Box::new(invalid.metadata), why: Some(invalid.error) },
            },
            Ok(Event::Delete(DeserializeGuard(object))) => match object {
                Ok(object) => Seen::Delete(Box::new(object)),
                Err(invalid) => Seen::Unreadable { metadata: Box::new(invalid.metadata), why: None },
            },
            Ok(Event::Init) => Seen::Begin(epoch),
            Ok(Event::InitDone) => Seen::Complete,
            Err(error) => {
                if !failing {
                    tracing::warn!(kind = std::any::type_name::<K>(), %error, "watch failed, begun anew until it holds");
                }
                failing = true;
                continue;
            }
        };
        failing = false;
        if signals.send(wrap(seen)).await.is_err() {
            return;
        }
    }
}
