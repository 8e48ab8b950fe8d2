//! **P** Which pods of a workload, in which order, and which of them can be read.
//!
//! # The order
//! Of a StatefulSet by ordinal. Of the others by age, the oldest first: it has been Ready for longest, and is the one that
//! is there the next time too. Of a Deployment that is being rolled out, the pods of the newest ReplicaSet come before all
//! others: the others are about to be ended, and a backup of one would be cut off.

use crate::error::{Failure, Reason};
use crate::validate::{Target, WorkloadKind};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::core::SelectorExt;
use std::cmp::Reverse;

/// Names the container that a tool should take when none was asked for (`kubectl` reads it, too).
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Counts the rollouts of a Deployment, on its ReplicaSets; the Deployment controller writes it.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The pods of a workload.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    /// Those that it controls and that `podSelector` leaves, in their order.
    pub(super) pods: Vec<Pod>,
    /// Those that it controls and that `podSelector` does not leave.
    pub(super) passed_over: usize,
    /// How many it should have, all told.
    pub(super) replicas: i32,
}

/// The pods that one of these owners controls. Of two owners, the pods of the one that is named first come first.
pub(super) fn candidates(target: &Target, owners: &[String], pods: Vec<Pod>, replicas: i32) -> Candidates {
    let rank = |pod: &Pod| {
        let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        owners.iter().position(|uid| *uid == controller.uid)
    };
    let mut ours: Vec<(usize, Pod)> = pods.into_iter().filter_map(|pod| Some((rank(&pod)?, pod))).collect();
    let all = ours.len();
    ours.retain(|(_, pod)| target.pod_selector.matches(pod.labels()));
    let by_ordinal = target.kind == WorkloadKind::StatefulSet;
    ours.sort_by_cached_key(|(rank, pod)| {
        let age = pod.creation_timestamp().map(|time| time.0);
        let ordinal = if by_ordinal { ordinal(&pod.name_any()) } else { 0 };
        (*rank, ordinal, age.is_none(), age, pod.name_any())
    });
    let pods: Vec<Pod> = ours.into_iter().map(|(_, pod)| pod).collect();
    Candidates { passed_over: all - pods.len(), pods, replicas }
}

/// UIDs of the ReplicaSets of a Deployment, the newest revision first.
pub(super) fn newest_first(deployment: Option<&str>, mut sets: Vec<ReplicaSet>) -> Vec<String> {
    sets.retain(|set| {
        let owners = set.owner_references();
        owners.iter().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == deployment)
    });
    let revision = |set: &ReplicaSet| set.annotations().get(REVISION).and_then(|text| text.parse::<u64>().ok());
    sets.sort_by_cached_key(|set| Reverse((revision(set), set.creation_timestamp().map(|time| time.0))));
    sets.into_iter().filter_map(|set| set.uid()).collect()
}

/// `postgres-2` is 2; what has no number comes last.
fn ordinal(name: &str) -> u64 {
    name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

/// The first that is Ready.
pub(super) fn first_ready(target: &Target, candidates: Candidates) -> Result<Pod, Failure> {
    let none = nothing_there(&candidates);
    let mut reasons = Vec::new();
    for pod in candidates.pods {
        match readiness(&pod) {
            Ok(()) => return Ok(pod),
            Err(why) => reasons.push(format!("{} {why}", pod.name_any())),
        }
    }
    let why = match reasons.len() {
        0 => none,
        // Some are enough to see what is the matter.
        more if more > 3 => format!("{}; and {} more", reasons[..3].join("; "), more - 3),
        _ => reasons.join("; "),
    };
    Err(not_ready(target, &why))
}

/// Why a workload has no pod to choose from.
fn nothing_there(candidates: &Candidates) -> String {
    match candidates {
        Candidates { passed_over: 0, replicas: 0, .. } => "it is scaled to 0".to_owned(),
        Candidates { passed_over: 0, .. } => "it has no pod yet".to_owned(),
        Candidates { passed_over, .. } => {
            format!("none of its {passed_over} pods has the labels that spec.target.podSelector asks for")
        }
    }
}

fn not_ready(target: &Target, why: &str) -> Failure {
    let (kind, namespace, name) = (target.kind.as_str(), &target.namespace, &target.name);
    let message = format!("no pod of {kind} {namespace}/{name} is Ready: {why}");
    Failure::new(Reason::TargetNotReady, message)
}

/// Whether a pod is Ready, and if not, why.
pub(super) fn readiness(pod: &Pod) -> Result<(), String> {
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

#[cfg(test)]
pub(super) mod tests;
