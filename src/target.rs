//! **A** From the workload that a BackupJob names to one pod and one container, with the rights of the tenant.

use crate::api::names::Namespace;
use crate::error::{Failure, Reason};
use crate::tenant::{Account, code, unavailable};
use crate::validate::{Target, WorkloadKind};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, ListParams};
use kube::core::Selector;
use kube::{Client, ResourceExt};

/// Names the container that a tool should take when none was asked for (`kubectl` reads it, too).
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

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

/// Finds the pod and container of a target: of a StatefulSet the first Ready pod by ordinal.
///
/// # Errors
/// [`Reason::TargetNotFound`], [`Reason::TargetNotReady`] saying what is not ready and why, [`Reason::ContainerNotFound`]
/// naming those that there are, [`Reason::Forbidden`] with the command that mends it, [`Reason::ClusterUnavailable`].
pub async fn resolve(client: Client, account: &Account, target: &Target) -> Result<ResolvedPod, Failure> {
    let namespace = target.namespace.as_str();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let pod = match target.kind {
        WorkloadKind::Pod => {
            let found = pods.get_opt(&target.name).await.map_err(|e| refused(account, target, "get pods", &e))?;
            found.ok_or_else(|| not_found(target))?
        }
        WorkloadKind::StatefulSet => {
            let sets = Api::<StatefulSet>::namespaced(client, namespace);
            let set = sets.get_opt(&target.name).await.map_err(|e| refused(account, target, "get statefulsets", &e))?;
            let set = set.ok_or_else(|| not_found(target))?;
            let selector = set.spec.as_ref().and_then(|spec| Selector::try_from(spec.selector.clone()).ok());
            let params = selector.map_or_else(ListParams::default, |s| ListParams::default().labels_from(&s));
            let list = pods.list(&params).await.map_err(|e| refused(account, target, "list pods", &e))?;
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            first_ready(target, owned(list.items, set.uid().as_deref()), replicas)?
        }
    };
    if let Err(why) = readiness(&pod) {
        let message = format!("pod {namespace}/{} is not Ready: {why}; it is tried again", pod.name_any());
        return Err(Failure::new(Reason::TargetNotReady, message));
    }
    in_pod(target, &pod)
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

/// The pods that this owner controls, by ordinal.
fn owned(pods: Vec<Pod>, owner: Option<&str>) -> Vec<Pod> {
    let controlled =
        |pod: &Pod| pod.owner_references().iter().any(|o| Some(o.uid.as_str()) == owner && o.controller == Some(true));
    let mut pods: Vec<Pod> = pods.into_iter().filter(controlled).collect();
    pods.sort_by_key(|pod| ordinal(&pod.name_any()));
    pods
}

/// `postgres-2` is 2; what has no number comes last.
fn ordinal(name: &str) -> u64 {
    name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

fn first_ready(target: &Target, pods: Vec<Pod>, replicas: i32) -> Result<Pod, Failure> {
    let (kind, namespace, name) = (target.kind.as_str(), &target.namespace, &target.name);
    let mut reasons = Vec::new();
    for pod in pods {
        match readiness(&pod) {
            Ok(()) => return Ok(pod),
            Err(why) => reasons.push(format!("{} {why}", pod.name_any())),
        }
    }
    let why = match reasons.len() {
        0 if replicas == 0 => "it is scaled to 0".to_owned(),
        0 => "it has no pod yet".to_owned(),
        // Some are enough to see what is the matter.
        more if more > 3 => format!("{}; and {} more", reasons[..3].join("; "), more - 3),
        _ => reasons.join("; "),
    };
    let message = format!("no pod of {kind} {namespace}/{name} is Ready: {why}; it is tried again");
    Err(Failure::new(Reason::TargetNotReady, message))
}

/// Whether a pod is Ready, and if not, why.
fn readiness(pod: &Pod) -> Result<(), String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Err("is being deleted".to_owned());
    }
    let status = pod.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    if ready.is_some_and(|condition| condition.status == "True") {
        return Ok(());
    }
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let containers: Vec<String> = status.container_statuses.iter().flatten().filter_map(not_running).collect();
    if !containers.is_empty() {
        return Err(format!("is {phase}: {}", containers.join(", ")));
    }
    let unmet = status.conditions.iter().flatten().find(|c| c.status != "True" && c.reason.is_some());
    let why = unmet.and_then(|condition| condition.reason.clone()).unwrap_or_else(|| "not Ready".to_owned());
    Err(format!("is {phase}: {why}"))
}

fn not_running(container: &ContainerStatus) -> Option<String> {
    let state = container.state.clone().unwrap_or_default();
    let why = if let Some(waiting) = state.waiting {
        waiting.reason.unwrap_or_else(|| "waiting".to_owned())
    } else if let Some(terminated) = state.terminated {
        format!("terminated with exit code {}", terminated.exit_code)
    } else if !container.ready {
        "its readiness probe fails".to_owned()
    } else {
        return None;
    };
    Some(format!("container {} {why}", container.name))
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
        let reason = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        return Some(format!("the pod has ended{reason}"));
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
