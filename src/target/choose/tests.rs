use super::*;
use crate::api::names::Namespace;
use crate::validate::Pods;
use kube::core::{Expression, Selector};
use serde_json::{Value, json};

pub(in crate::target) fn target(container: Option<&str>) -> Target {
    Target {
        kind: WorkloadKind::StatefulSet,
        name: "pg".to_owned(),
        namespace: Namespace::new("db").unwrap(),
        path: None,
        container: container.map(str::to_owned),
        pods: Pods::First,
        pod_selector: Selector::default(),
    }
}

pub(in crate::target) fn pod(name: &str, status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "db", "uid": format!("uid-{name}"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "set", "controller": true}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "sidecar"}, {"name": "postgres"}]},
        "status": status,
    }))
    .unwrap()
}

pub(in crate::target) fn ready() -> Value {
    json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {"name": "postgres", "ready": true, "restartCount": 0, "image": "", "imageID": "", "containerID": "cri://1", "state": {"running": {}}},
        ],
    })
}

pub(in crate::target) fn waiting() -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [
            {"name": "postgres", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
        ],
    })
}

/// A pod of another owner, made in this second of an hour.
fn aged(name: &str, owner: &str, second: u32, status: &Value) -> Pod {
    let mut pod = pod(name, status);
    pod.metadata.creation_timestamp = serde_json::from_value(json!(format!("2026-11-24T02:00:{second:02}Z"))).unwrap();
    pod.metadata.owner_references.as_mut().unwrap()[0].uid = owner.to_owned();
    pod
}

fn of(kind: WorkloadKind) -> Target {
    Target { kind, ..target(None) }
}

fn chosen(target: &Target, owners: &[&str], pods: Vec<Pod>) -> Vec<String> {
    let owners: Vec<String> = owners.iter().map(ToString::to_string).collect();
    candidates(target, &owners, pods, 3, 0).pods.iter().map(ResourceExt::name_any).collect()
}

#[test]
fn of_a_statefulset_the_first_ready_pod_by_ordinal_is_taken() {
    let stranger = {
        let mut stranger = pod("pg-0", &ready());
        stranger.metadata.owner_references = None;
        stranger
    };
    let pods = vec![pod("pg-10", &ready()), pod("pg-2", &ready()), pod("pg-1", &waiting()), stranger];
    let found = candidates(&target(None), &["set".to_owned()], pods, 3, 0);
    assert_eq!(first_ready(&target(None), found).unwrap().name_any(), "pg-2");
}

#[test]
fn of_others_the_oldest_comes_first() {
    for kind in [WorkloadKind::Deployment, WorkloadKind::ReplicaSet, WorkloadKind::DaemonSet] {
        let pods = vec![aged("a-1", "s", 9, &ready()), aged("a-2", "s", 3, &ready()), aged("a-0", "s", 9, &ready())];
        assert_eq!(chosen(&of(kind), &["s"], pods), ["a-2", "a-0", "a-1"]);
    }
}

#[test]
fn of_a_deployment_in_mid_rollout_the_new_pods_come_first() {
    let set = |name: &str, owner: &str, revision: Option<&str>| -> ReplicaSet {
        let annotations = revision.map(|revision| json!({ REVISION: revision }));
        serde_json::from_value(json!({"metadata": {
            "name": name, "uid": name, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": owner, "controller": true}],
        }}))
        .unwrap()
    };
    let sets = vec![
        set("none", "d", None),
        set("nine", "d", Some("9")),
        set("ten", "d", Some("10")),
        set("other", "e", Some("11")),
    ];
    let owners = newest_first(Some("d"), sets);
    assert_eq!(owners, ["ten", "nine", "none"], "by number, and those of this Deployment alone");
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    let pods = vec![
        aged("old", "nine", 1, &ready()),
        aged("new", "ten", 30, &waiting()),
        aged("newer", "ten", 31, &ready()),
        aged("stranger", "other", 0, &ready()),
    ];
    assert_eq!(chosen(&of(WorkloadKind::Deployment), &owners, pods), ["new", "newer", "old"]);
}

#[test]
fn a_selector_narrows_and_says_when_it_leaves_nothing() {
    let mut narrow = target(None);
    narrow.pod_selector.extend([Expression::Equal("role".to_owned(), "replica".to_owned())]);
    let mut replica = pod("pg-2", &ready());
    replica.labels_mut().insert("role".to_owned(), "replica".to_owned());
    let pods = vec![pod("pg-0", &ready()), pod("pg-1", &ready()), replica];
    assert_eq!(chosen(&narrow, &["set"], pods.clone()), ["pg-2"]);
    let found = candidates(&narrow, &["set".to_owned()], pods[..2].to_vec(), 2, 0);
    let failure = first_ready(&narrow, found).unwrap_err();
    assert_eq!(failure.reason, Reason::TargetNotReady);
    assert!(failure.message.contains("none of its 2 pods has the labels"), "{failure}");
}

#[test]
fn what_is_not_ready_is_said() {
    let said = |pods, replicas| {
        let found = candidates(&target(None), &["set".to_owned()], pods, replicas, 0);
        first_ready(&target(None), found).unwrap_err()
    };
    let failure = said(vec![pod("pg-0", &waiting())], 1);
    assert_eq!(failure.reason, Reason::TargetNotReady);
    assert!(failure.message.contains("pg-0 is Pending: container postgres ImagePullBackOff"), "{failure}");
    assert!(said(vec![], 0).message.contains("scaled to 0"));
    assert!(said(vec![], 2).message.contains("no pod yet"));
    let many = (0..5).map(|n| pod(&format!("pg-{n}"), &waiting())).collect();
    assert!(said(many, 5).message.contains("and 2 more"));
    let mut leaving = pod("pg-0", &ready());
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-24T02:00:00Z")).unwrap();
    assert_eq!(readiness(&leaving), Err("is being deleted".to_owned()));
    let unscheduled = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
    assert_eq!(readiness(&pod("pg-0", &unscheduled)), Err("is Pending: Unschedulable".to_owned()));
}

/// What is found of each pod: its name, and why it cannot be read.
fn found(target: &Target, pods: Vec<Pod>, replicas: i32, first_ordinal: i32) -> Result<Vec<(String, String)>, Failure> {
    let owners = ["set".to_owned()];
    let found = each(target, candidates(target, &owners, pods, replicas, first_ordinal))?;
    Ok(found.into_iter().map(|(name, pod)| (name, pod.err().map(|e| e.message).unwrap_or_default())).collect())
}

fn leaving(mut pod: Pod) -> Pod {
    pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-24T02:00:00Z")).unwrap();
    pod
}

fn names(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn each_pod_of_a_statefulset_comes_by_its_ordinal_and_none_is_overlooked() {
    let pods = vec![pod("pg-10", &ready()), pod("pg-2", &ready()), pod("pg-1", &waiting()), pod("pg-0", &ready())];
    let all = found(&target(None), pods.clone(), 4, 0).unwrap();
    assert_eq!(names(&all), ["pg-0", "pg-1", "pg-2", "pg-10"]);
    assert_eq!(all[1].1, "pod db/pg-1 is Pending: container postgres ImagePullBackOff");
    assert!(all.iter().filter(|(name, _)| name != "pg-1").all(|(_, why)| why.is_empty()));
    // One that it should have and that is not there; one that goes, and whose successor has its name.
    let all = found(&target(None), pods[1..].to_vec(), 4, 0).unwrap();
    assert_eq!((names(&all), all[3].1.as_str()), (vec!["pg-0", "pg-1", "pg-2", "pg-3"], "pod db/pg-3 is not there"));
    let goes = vec![pod("pg-0", &ready()), leaving(pod("pg-1", &ready()))];
    let all = found(&target(None), goes, 2, 0).unwrap();
    assert_eq!((names(&all), all[1].1.as_str()), (vec!["pg-0", "pg-1"], "pod db/pg-1 is being deleted"));
    // Scaled down: one that goes for good is none of them.
    let goes = vec![pod("pg-0", &ready()), leaving(pod("pg-1", &ready()))];
    assert_eq!(names(&found(&target(None), goes, 1, 0).unwrap()), ["pg-0"]);
    let counted_from_five = vec![pod("pg-5", &ready())];
    assert_eq!(names(&found(&target(None), counted_from_five, 2, 5).unwrap()), ["pg-5", "pg-6"]);
}

#[test]
fn each_pod_of_others_is_counted() {
    let deployment = of(WorkloadKind::Deployment);
    let evicted = json!({"phase": "Failed", "reason": "Evicted"});
    let pods = vec![
        aged("a-1", "set", 1, &ready()),
        aged("a-2", "set", 2, &evicted),
        leaving(aged("a-0", "set", 0, &ready())),
        aged("a-3", "set", 3, &ready()),
    ];
    assert_eq!(names(&found(&deployment, pods.clone(), 2, 0).unwrap()), ["a-1", "a-3"], "those that were replaced");
    let all = found(&deployment, pods, 3, 0).unwrap();
    assert_eq!((names(&all)[..2].to_vec(), all[2].0.as_str()), (vec!["a-1", "a-3"], "pg (3 of 3)"));
    assert!(all[2].1.ends_with("is not there"), "{all:?}");
}

#[test]
fn a_selector_narrows_each_too() {
    let mut narrow = target(None);
    narrow.pod_selector.extend([Expression::Equal("role".to_owned(), "replica".to_owned())]);
    let mut replica = pod("pg-1", &ready());
    replica.labels_mut().insert("role".to_owned(), "replica".to_owned());
    let pods = vec![pod("pg-0", &ready()), replica];
    assert_eq!(names(&found(&narrow, pods.clone(), 2, 0).unwrap()), ["pg-1"], "the primary is passed over, not missed");
    // The third may have been one of them: nobody knows.
    assert_eq!(names(&found(&narrow, pods.clone(), 3, 0).unwrap()), ["pg-1", "pg-2"]);
    let failure = found(&narrow, pods[..1].to_vec(), 1, 0).unwrap_err();
    assert!(failure.message.contains("none of its 1 pods has the labels"), "{failure}");
}

#[test]
fn each_of_none_is_a_failure() {
    for (pods, replicas, said) in [
        (vec![], 0, "scaled to 0"),
        (vec![], 2, "pg-1 is not there"),
        (vec![pod("pg-0", &waiting())], 1, "ImagePullBackOff"),
        (vec![leaving(pod("pg-0", &ready()))], 1, "is being deleted"),
        (vec![leaving(pod("pg-0", &ready()))], 0, "scaled to 0"),
    ] {
        let failure = found(&target(None), pods, replicas, 0).unwrap_err();
        assert_eq!(failure.reason, Reason::TargetNotReady, "{said}");
        assert!(failure.message.contains(said), "{failure}");
    }
}
