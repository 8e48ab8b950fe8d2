//! **A** From the workload that a BackupJob names to one pod and one container, with the rights of the tenant.

use crate::api::names::Namespace;
use crate::error::{Failure, Reason, cut};
use crate::tenant::{Account, code, unavailable};
use crate::validate::{Target, WorkloadKind};
use choose::{Candidates, DEFAULT_CONTAINER, candidates, each, first_ready, newest_first, readiness};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use kube::core::Selector;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

mod choose;

/// How much is told of what the node says about a pod that ended.
const SAID_LIMIT: usize = 300;

/// A container that a command can run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPod {
    /// Namespace of the pod.
    pub namespace: Namespace,
    /// The pod's name.
    pub pod: String,
    /// Its UID: another pod of that name is another pod.
    pub uid: String,
    /// The container.
    pub container: String,
    /// The runtime's id of the container: after a restart it is another one.
    pub container_id: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
}

/// Finds the pod and container of a target: the pod that was named, or a workload's first Ready one.
///
/// # Errors
/// [`Reason::TargetNotFound`], [`Reason::TargetNotReady`] saying what is not ready and why, [`Reason::ContainerNotFound`]
/// naming those that there are, [`Reason::Forbidden`] with the command that mends it, [`Reason::ClusterUnavailable`].
pub async fn resolve(client: Client, account: &Account, target: &Target) -> Result<ResolvedPod, Failure> {
    let look = Look { client, account, target };
    let pod = match target.kind {
        WorkloadKind::Pod => look.named::<Pod>("get pods").await?,
        _ => first_ready(target, look.candidates().await?)?,
    };
    if let Err(why) = readiness(&pod) {
        let message = format!("pod {}/{} is not Ready: {why}", target.namespace, pod.name_any());
        return Err(Failure::new(Reason::TargetNotReady, message));
    }
    in_pod(target, &pod)
}

/// Pods of one run, at most: each is an entry of the manifest, and two objects in the run's status, which takes 1,000.
pub const EACH_LIMIT: usize = 500;

/// Finds every pod of a workload, in the order in which they are read. For one that cannot be read, or that is not there
/// though the workload should have it, there is the reason why ([`Reason::TargetNotReady`], [`Reason::ContainerNotFound`]).
/// At least one can be read.
///
/// # Errors
/// As [`resolve`]; and [`Reason::InvalidSpec`] where there are more than [`EACH_LIMIT`].
pub async fn resolve_each(client: Client, account: &Account, target: &Target) -> Result<Vec<EachPod>, Failure> {
    let look = Look { client, account, target };
    each_of(target, look.candidates().await?)
}

/// One pod of several: its name, and where to read it, or why it cannot be read.
pub type EachPod = (String, Result<ResolvedPod, Failure>);

fn each_of(target: &Target, candidates: Candidates) -> Result<Vec<EachPod>, Failure> {
    let pods = each(target, candidates)?;
    if pods.len() > EACH_LIMIT {
        let message = format!(
            "spec.target.pods: {} {} has {} pods, and one run takes at most {EACH_LIMIT}: narrow them with \
             spec.target.podSelector, in several BackupJobs",
            target.kind.as_str(),
            target.name,
            pods.len()
        );
        return Err(Failure::new(Reason::InvalidSpec, message));
    }
    let resolved = pods.into_iter().map(|(name, pod)| (name, pod.and_then(|pod| in_pod(target, &pod))));
    let resolved: Vec<EachPod> = resolved.collect();
    match resolved.iter().find_map(|(_, pod)| pod.as_ref().err()) {
        // Ready, and not one of them has the container.
        Some(failure) if resolved.iter().all(|(_, pod)| pod.is_err()) => Err(failure.clone()),
        _ => Ok(resolved),
    }
}

/// Looks at a pod again that was found a while ago: it must be the same one, and Ready. As it is now.
///
/// # Errors
/// [`Reason::TargetGone`], [`Reason::TargetNotReady`], [`Reason::Forbidden`], [`Reason::ClusterUnavailable`].
pub async fn find_again(client: &Client, account: &Account, before: &ResolvedPod) -> Result<ResolvedPod, Failure> {
    let pods = Api::<Pod>::namespaced(client.clone(), before.namespace.as_str());
    let now = pods.get_opt(&before.pod).await.map_err(|e| match code(&e) {
        Some(403) => account.forbidden("get pods", before.namespace.as_str()),
        _ => unavailable(&format!("get pod {}/{}", before.namespace, before.pod), &e),
    })?;
    still(before, now.as_ref())
}

fn still(before: &ResolvedPod, now: Option<&Pod>) -> Result<ResolvedPod, Failure> {
    let Some(now) = now.filter(|now| now.uid().as_deref() == Some(&before.uid)) else {
        let message = format!("pod {}/{} went away before its turn came", before.namespace, before.pod);
        return Err(Failure::new(Reason::TargetGone, message));
    };
    readiness(now).map_err(|why| {
        let message = format!("pod {}/{} was not Ready when its turn came: it {why}", before.namespace, before.pod);
        Failure::new(Reason::TargetNotReady, message)
    })?;
    Ok(ResolvedPod { container_id: container_id(now, &before.container), ..before.clone() })
}

/// Looks at the cluster with an account's rights.
struct Look<'a> {
    client: Client,
    account: &'a Account,
    target: &'a Target,
}

impl Look<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.target.namespace.as_str())
    }

    /// The object that the target names.
    async fn named<K>(&self, what: &str) -> Result<K, Failure>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let found = self.api::<K>().get_opt(&self.target.name).await;
        found.map_err(|e| refused(self.account, self.target, what, &e))?.ok_or_else(|| not_found(self.target))
    }

    async fn listed<K>(&self, what: &str, selector: &LabelSelector) -> Result<Vec<K>, Failure>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        // One that cannot be read narrows nothing; the owner decides in any case.
        let selector = Selector::try_from(selector.clone()).unwrap_or_default();
        let list = self.api::<K>().list(&ListParams::default().labels_from(&selector)).await;
        Ok(list.map_err(|e| refused(self.account, self.target, what, &e))?.items)
    }

    /// The pods of the workload that the target names.
    async fn candidates(&self) -> Result<Candidates, Failure> {
        let mut first = 0;
        let (uid, selector, replicas) = match self.target.kind {
            WorkloadKind::Pod => return Err(not_found(self.target)),
            WorkloadKind::StatefulSet => {
                let found = self.named::<StatefulSet>("get statefulsets").await?;
                let spec = found.spec.clone().unwrap_or_default();
                first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
                (found.uid(), spec.selector, spec.replicas.unwrap_or(1))
            }
            WorkloadKind::ReplicaSet => {
                let found = self.named::<ReplicaSet>("get replicasets").await?;
                let spec = found.spec.clone().unwrap_or_default();
                (found.uid(), spec.selector, spec.replicas.unwrap_or(1))
            }
            WorkloadKind::DaemonSet => {
                let found = self.named::<DaemonSet>("get daemonsets").await?;
                let wanted = found.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
                (found.uid(), found.spec.clone().unwrap_or_default().selector, wanted)
            }
            WorkloadKind::Deployment => {
                let found = self.named::<Deployment>("get deployments").await?;
                let spec = found.spec.clone().unwrap_or_default();
                let sets = self.listed::<ReplicaSet>("list replicasets", &spec.selector).await?;
                let owners = newest_first(found.uid().as_deref(), sets);
                let pods = self.listed("list pods", &spec.selector).await?;
                return Ok(candidates(self.target, &owners, pods, spec.replicas.unwrap_or(1), first));
            }
        };
        let pods = self.listed("list pods", &selector).await?;
        Ok(candidates(self.target, &[uid.unwrap_or_default()], pods, replicas, first))
    }
}

fn refused(account: &Account, target: &Target, what: &str, error: &kube::Error) -> Failure {
    match code(error) {
        Some(403) => account.forbidden(what, target.namespace.as_str()),
        _ => unavailable(&format!("{what} in namespace {}", target.namespace), error),
    }
}

fn not_found(target: &Target) -> Failure {
    let (kind, namespace, name) = (target.kind.as_str(), &target.namespace, &target.name);
    Failure::new(
        Reason::TargetNotFound,
        format!("there is no {kind} {name} in namespace {namespace}: correct spec.target, or create it"),
    )
}

fn in_pod(target: &Target, pod: &Pod) -> Result<ResolvedPod, Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    let names: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let annotated = pod.annotations().get(DEFAULT_CONTAINER).map(String::as_str).filter(|name| names.contains(name));
    let wanted = target.container.as_deref().or(annotated).or_else(|| names.first().copied()).unwrap_or_default();
    if !names.contains(&wanted) {
        return Err(Failure::new(
            Reason::ContainerNotFound,
            format!(
                "pod {}/{} has no container {wanted}; it has {}: correct spec.target.container",
                target.namespace,
                pod.name_any(),
                names.join(", ")
            ),
        ));
    }
    Ok(ResolvedPod {
        namespace: target.namespace.clone(),
        pod: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        container: wanted.to_owned(),
        container_id: container_id(pod, wanted),
        node: spec.node_name,
    })
}

fn container_id(pod: &Pod, container: &str) -> Option<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().find(|status| status.name == container).and_then(|status| status.container_id.clone())
}

/// Why a container that was there cannot be read any more; `None` while it is as it was.
///
/// # Errors
/// The API server's, when it cannot be asked.
pub async fn gone(client: &Client, pod: &ResolvedPod) -> Result<Option<String>, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), pod.namespace.as_str());
    let now = pods.get_opt(&pod.pod).await?;
    Ok(departure(pod, now.as_ref()))
}

fn departure(pod: &ResolvedPod, now: Option<&Pod>) -> Option<String> {
    let Some(now) = now.filter(|now| now.uid().as_deref() == Some(&pod.uid)) else {
        return Some("the pod was deleted".to_owned());
    };
    if now.metadata.deletion_timestamp.is_some() {
        return Some("the pod is being deleted".to_owned());
    }
    let status = now.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let said: Vec<String> = [status.reason, status.message].into_iter().flatten().collect();
        let said = said.join(": ");
        let said = cut(said.trim_end_matches(['.', ' ']), SAID_LIMIT);
        return Some(if said.is_empty() {
            "the pod has ended".to_owned()
        } else {
            format!("the pod has ended ({said})")
        });
    }
    let container = status.container_statuses.unwrap_or_default().into_iter().find(|c| c.name == pod.container)?;
    let last = container.last_state.and_then(|state| state.terminated);
    let state = container.state.unwrap_or_default();
    if state.running.is_some() && container.container_id == pod.container_id {
        return None;
    }
    let ended = state.terminated.or(last);
    let why = ended
        .map(|t| format!(" with exit code {}{}", t.exit_code, t.reason.map(|r| format!(" ({r})")).unwrap_or_default()));
    Some(format!("container {} has ended{}", pod.container, why.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
