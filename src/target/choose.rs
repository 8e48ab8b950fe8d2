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
use std::collections::BTreeSet;

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
    pub(super) passed_over: Vec<Pod>,
    /// How many it should have, all told.
    pub(super) replicas: i32,
    /// Ordinal of a StatefulSet's first pod.
    pub(super) first_ordinal: i32,
}

/// The pods that one of these owners controls. Of two owners, the pods of the one that is named first come first.
pub(super) fn candidates(
    target: &Target,
    owners: &[String],
    pods: Vec<Pod>,
    replicas: i32,
    first_ordinal: i32,
) -> Candidates {
    let rank = |pod: &Pod| {
        let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        owners.iter().position(|uid| *uid == controller.uid)
    };
    let mut ours: Vec<(usize, Pod)> = pods.into_iter().filter_map(|pod| Some((rank(&pod)?, pod))).collect();
    let by_ordinal = target.kind == WorkloadKind::StatefulSet;
    ours.sort_by_cached_key(|(rank, pod)| {
        let age = pod.creation_timestamp().map(|time| time.0);
        let ordinal = if by_ordinal { ordinal(&pod.name_any()) } else { 0 };
        (*rank, ordinal, age.is_none(), age, pod.name_any())
    });
    let ours = ours.into_iter().map(|(_, pod)| pod);
    let (pods, passed_over) = ours.partition(|pod| target.pod_selector.matches(pod.labels()));
    Candidates { pods, passed_over, replicas, first_ordinal }
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
    Err(not_ready(target, &some(&reasons).unwrap_or(none)))
}

/// Some of these are enough to see what is the matter; `None` of none.
fn some(reasons: &[String]) -> Option<String> {
    match reasons.len() {
        0 => None,
        more if more > 3 => Some(format!("{}; and {} more", reasons[..3].join("; "), more - 3)),
        _ => Some(reasons.join("; ")),
    }
}

/// A pod's name, and the pod if it can be read, or why not.
pub(super) type Found = (String, Result<Pod, Failure>);

/// All of them, in their order. A pod that is about to be replaced, or was (it is being deleted, or has ended), is none; but
/// a workload that has fewer than it should have lacks some, and those are among them.
pub(super) fn each(target: &Target, candidates: Candidates) -> Result<Vec<Found>, Failure> {
    let none = nothing_there(&candidates);
    let Candidates { pods, passed_over, replicas, first_ordinal } = candidates;
    let live = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
    };
    let wanted = usize::try_from(replicas).unwrap_or(0);
    let there = pods.iter().chain(&passed_over).filter(|pod| live(pod)).count();
    let names: BTreeSet<String> =
        pods.iter().chain(&passed_over).filter(|pod| live(pod)).map(ResourceExt::name_any).collect();
    let mut absent = absent(target, &names, wanted, wanted.saturating_sub(there), first_ordinal);
    for (name, why) in &mut absent {
        // It says more than that there is none.
        if let Some(Err(known)) = pods.iter().find(|pod| pod.name_any() == *name).map(readiness) {
            why.clone_from(&known);
        }
    }
    let refused = |name: &str, why: &str| {
        let message = format!("pod {}/{name} {why}", target.namespace);
        Failure::new(Reason::TargetNotReady, message)
    };
    let mut found: Vec<Found> = pods
        .into_iter()
        .filter(live)
        .map(|pod| {
            let name = pod.name_any();
            let read = readiness(&pod).map_err(|why| refused(&name, &why));
            (name, read.map(|()| pod))
        })
        .collect();
    found.extend(absent.into_iter().map(|(name, why)| {
        let failure = refused(&name, &why);
        (name, Err(failure))
    }));
    if target.kind == WorkloadKind::StatefulSet {
        found.sort_by_cached_key(|(name, _)| ordinal(name));
    }
    if found.iter().any(|(_, pod)| pod.is_ok()) {
        return Ok(found);
    }
    let reasons = found.iter().filter_map(|(_, pod)| pod.as_ref().err()).map(|failure| failure.message.clone());
    Err(not_ready(target, &some(&reasons.collect::<Vec<_>>()).unwrap_or(none)))
}

/// The pods that a workload should have and has not, as many as `count`: those of a StatefulSet have names that are known.
fn absent(
    target: &Target,
    there: &BTreeSet<String>,
    wanted: usize,
    count: usize,
    first_ordinal: i32,
) -> Vec<(String, String)> {
    let ordinals = (i64::from(first_ordinal)..).take(wanted).map(|ordinal| format!("{}-{ordinal}", target.name));
    let named = |name: &String| target.kind == WorkloadKind::StatefulSet && !there.contains(name);
    let mut absent: Vec<(String, String)> =
        ordinals.filter(named).take(count).map(|name| (name, "is not there".to_owned())).collect();
    for nth in absent.len()..count {
        let name = format!("{} ({} of {wanted})", target.name, there.len() + nth + 1);
        absent.push((name, "is not there".to_owned()));
    }
    absent
}

/// Why a workload has no pod to choose from.
fn nothing_there(candidates: &Candidates) -> String {
    match candidates {
        Candidates { passed_over, replicas: 0, .. } if passed_over.is_empty() => "it is scaled to 0".to_owned(),
        Candidates { passed_over, .. } if passed_over.is_empty() => "it has no pod yet".to_owned(),
        Candidates { passed_over, .. } => {
            let count = passed_over.len();
            format!("none of its {count} pods has the labels that spec.target.podSelector asks for")
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
