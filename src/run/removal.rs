//! **O** Removing what an attempt has written: the manifest first, and alone; `started.json` last.
//!
//! Whoever lists a manifest must also find what it names, so where it cannot be removed everything stays. The rest goes
//! [`AT_ONCE`] at a time: of 500 pods there are a thousand objects, and the time for cleaning up is short.

use crate::api::names::ObjectKey;
use crate::destination::Destination;
use crate::error::Failure;
use crate::repository::layout::{MANIFEST, STARTED};
use futures::StreamExt;
use std::collections::BTreeSet;

/// Objects of an attempt that are removed, or looked at, at the same time.
pub(super) const AT_ONCE: usize = 8;
/// More names than these are a number.
const NAMED: usize = 10;

/// Removes these objects. Each that is gone is taken out of `left`, so that it says what stays also when this future is
/// dropped. Gives the first failure.
pub(super) async fn remove(destination: &dyn Destination, left: &mut BTreeSet<ObjectKey>) -> Result<(), Failure> {
    let (manifests, rest): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|key| key.file_name() == MANIFEST);
    let (started, data): (Vec<_>, Vec<_>) = rest.into_iter().partition(|key| key.file_name() == STARTED);
    together(destination, manifests, left).await?;
    let removed = together(destination, data, left).await;
    removed.and(together(destination, started, left).await)
}

async fn together(
    destination: &dyn Destination,
    keys: Vec<ObjectKey>,
    left: &mut BTreeSet<ObjectKey>,
) -> Result<(), Failure> {
    let delete = |key: ObjectKey| async move { (destination.delete(&key).await, key) };
    let mut deletes = futures::stream::iter(keys.into_iter().map(delete)).buffer_unordered(AT_ONCE);
    let mut first = Ok(());
    while let Some((removed, key)) = deletes.next().await {
        match removed {
            Ok(()) => {
                left.remove(&key);
            }
            Err(failure) => {
                tracing::warn!(%key, reason = %failure.reason, "an object of an attempt could not be removed");
                first = first.and(Err(failure));
            }
        }
    }
    first
}

/// What stays in a folder, for a message: names, or how many where they are many.
pub(super) fn shown(folder: &ObjectKey, left: &BTreeSet<ObjectKey>) -> Option<String> {
    if left.is_empty() {
        return None;
    }
    if left.iter().any(|key| key.file_name() == MANIFEST) {
        return Some("perhaps the whole backup (its manifest was not removed)".into());
    }
    if left.len() > NAMED {
        return Some(format!("{} objects", left.len()));
    }
    let below = |key: &ObjectKey| {
        let name = key.as_str().strip_prefix(folder.as_str()).and_then(|rest| rest.strip_prefix('/'));
        name.unwrap_or(key.as_str()).to_owned()
    };
    Some(left.iter().map(below).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_named_or_counted() {
        let folder = ObjectKey::new("default/pg/run-1").unwrap();
        let said = |names: &[&str]| shown(&folder, &names.iter().map(|name| folder.join(name).unwrap()).collect());
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["web-1/log.txt", "dump.zst"]).as_deref(), Some("dump.zst, web-1/log.txt"));
        let many: Vec<String> = (0..994).map(|n| format!("web-{n}/dump.zst")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(said(&many).as_deref(), Some("994 objects"));
        many.push("manifest.json");
        assert!(said(&many).is_some_and(|said| said.starts_with("perhaps the whole backup")));
    }
}
