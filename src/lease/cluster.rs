//! **A** Leases in the Kubernetes API: PUT with a resourceVersion, in the operator's own namespace.

use super::Record;
use super::ports::{Entry, Leases, Put};
use crate::clock::Clock;
use crate::error::{Failure, Reason};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a Lease without a duration counts for; nobody but us writes these.
const NO_DURATION: Duration = Duration::ZERO;
/// Label of every Lease of ours.
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "ubo");

/// The Leases in the cluster.
pub struct ClusterLeases {
    api: Api<Lease>,
    clock: Arc<dyn Clock>,
    /// When each Lease was taken, as its holder wrote it: a renewal leaves that as it is.
    acquired: Mutex<HashMap<String, MicroTime>>,
}

impl ClusterLeases {
    /// Leases in `namespace`, with the operator's own client. The clock dates them, for people.
    pub fn new(client: Client, namespace: &str, clock: Arc<dyn Clock>) -> Self {
        Self { api: Api::namespaced(client, namespace), clock, acquired: Mutex::default() }
    }

    fn lease(&self, entry: &Entry, seen: Option<&Record>) -> Lease {
        let now = micro_time(self.clock.now());
        let mut acquired = self.acquired.lock().unwrap_or_else(PoisonError::into_inner);
        if entry.taken {
            acquired.insert(entry.name.clone(), now.clone());
        }
        let transitions = seen.map_or(0, |seen| seen.transitions.saturating_add(i32::from(entry.taken)));
        Lease {
            metadata: ObjectMeta {
                name: Some(entry.name.clone()),
                labels: Some([(LABEL.0.to_owned(), LABEL.1.to_owned())].into()),
                resource_version: seen.map(|seen| seen.version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(entry.holder.clone().unwrap_or_default()),
                lease_duration_seconds: Some(i32::try_from(entry.lasts.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: acquired.get(&entry.name).cloned(),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

#[async_trait]
impl Leases for ClusterLeases {
    async fn get(&self, name: &str) -> Result<Option<Record>, Failure> {
        Ok(self.api.get_opt(name).await.map_err(|error| failure(&error))?.map(record))
    }

    async fn create(&self, entry: &Entry) -> Result<Put, Failure> {
        put(self.api.create(&PostParams::default(), &self.lease(entry, None)).await)
    }

    async fn replace(&self, entry: &Entry, seen: &Record) -> Result<Put, Failure> {
        put(self.api.replace(&entry.name, &PostParams::default(), &self.lease(entry, Some(seen))).await)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>, Failure> {
        let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        let all = self.api.list(&ours).await.map_err(|error| failure(&error))?;
        let named = all.items.into_iter().filter_map(|lease| Some((lease.metadata.name.clone()?, lease)));
        Ok(named.filter(|(name, _)| name.starts_with(prefix)).map(|(name, lease)| (name, record(lease))).collect())
    }

    async fn delete(&self, name: &str, seen: &Record) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: Some(Preconditions { resource_version: Some(seen.version.clone()), uid: None }),
            ..DeleteParams::default()
        };
        match self.api.delete(name, &params).await {
            Ok(_) => Ok(()),
            // Gone, or alive after all.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        version: lease.metadata.resource_version.unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        lasts: seconds.map_or(NO_DURATION, Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn put(written: Result<Lease, kube::Error>) -> Result<Put, Failure> {
    match written {
        Ok(lease) => Ok(Put::Stored(record(lease))),
        // Made by somebody else, changed by somebody else, or taken away.
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(Put::Refused),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 403 => Failure::new(
            Reason::Forbidden,
            format!(
                "the operator may not use Leases in its namespace: apply what `ubo install` prints ({})",
                status.message
            ),
        ),
        other => Failure::new(Reason::ClusterUnavailable, format!("a Lease: {other}")),
    }
}

fn micro_time(at: DateTime<Utc>) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(at.timestamp_micros()).unwrap_or(Timestamp::UNIX_EPOCH))
}
