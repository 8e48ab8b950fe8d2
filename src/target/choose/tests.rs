use super::*;
use crate::api::names::Namespace;
use kube::core::{Expression, Selector};
use serde_json::{Value, json};

pub(in crate::target) fn target(container: Option<&str>) -> Target {
    Target {
        kind: WorkloadKind::StatefulSet,
        name: "pg".to_owned(),
        namespace: Namespace::new("db").unwrap(),
        path: None,
        container: container.map(str::to_owned),
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
    candidates(target, &owners, pods, 3).pods.iter().map(ResourceExt::name_any).collect()
}

#[test]
fn of_a_statefulset_the_first_ready_pod_by_ordinal_is_taken() {
    let stranger = {
        let mut stranger = pod("pg-0", &ready());
        stranger.metadata.owner_references = None;
        stranger
    };
    let pods = vec![pod("pg-10", &ready()), pod("pg-2", &ready()), pod("pg-1", &waiting()), stranger];
    let found = candidates(&target(None), &["set".to_owned()], pods, 3);
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
    let found = candidates(&narrow, &["set".to_owned()], pods[..2].to_vec(), 2);
    let failure = first_ready(&narrow, found).unwrap_err();
    assert_eq!(failure.reason, Reason::TargetNotReady);
    assert!(failure.message.contains("none of its 2 pods has the labels"), "{failure}");
}

#[test]
fn what_is_not_ready_is_said() {
    let said = |pods, replicas| {
        let found = candidates(&target(None), &["set".to_owned()], pods, replicas);
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
