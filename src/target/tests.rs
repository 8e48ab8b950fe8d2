use super::*;
use serde_json::{Value, json};

fn target(container: Option<&str>) -> Target {
    Target {
        kind: WorkloadKind::StatefulSet,
        name: "pg".to_owned(),
        namespace: Namespace::new("db").unwrap(),
        path: None,
        container: container.map(str::to_owned),
    }
}

fn pod(name: &str, status: &Value) -> Pod {
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

fn ready() -> Value {
    json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {"name": "postgres", "ready": true, "restartCount": 0, "image": "", "imageID": "", "containerID": "cri://1", "state": {"running": {}}},
        ],
    })
}

fn waiting() -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
        "containerStatuses": [
            {"name": "postgres", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": {"waiting": {"reason": "ImagePullBackOff"}}},
        ],
    })
}

#[test]
fn the_first_ready_pod_by_ordinal_is_taken() {
    let stranger = {
        let mut stranger = pod("pg-0", &ready());
        stranger.metadata.owner_references = None;
        stranger
    };
    let pods = vec![pod("pg-10", &ready()), pod("pg-2", &ready()), pod("pg-1", &waiting()), stranger];
    let chosen = first_ready(&target(None), owned(pods, Some("set")), 3).unwrap();
    assert_eq!(chosen.name_any(), "pg-2");
}

#[test]
fn what_is_not_ready_is_said() {
    let said = |pods, replicas| first_ready(&target(None), pods, replicas).unwrap_err();
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

#[test]
fn the_container_is_named_annotated_or_the_first() {
    let mut plain = pod("pg-0", &ready());
    assert_eq!(in_pod(&target(None), &plain).unwrap().container, "sidecar");
    assert_eq!(in_pod(&target(Some("postgres")), &plain).unwrap().container_id.as_deref(), Some("cri://1"));
    let missing = in_pod(&target(Some("nope")), &plain).unwrap_err();
    assert_eq!(missing.reason, Reason::ContainerNotFound);
    assert!(missing.message.contains("sidecar, postgres"), "{missing}");
    plain.annotations_mut().insert(DEFAULT_CONTAINER.to_owned(), "postgres".to_owned());
    assert_eq!(in_pod(&target(None), &plain).unwrap().container, "postgres");
    plain.annotations_mut().insert(DEFAULT_CONTAINER.to_owned(), "gone".to_owned());
    assert_eq!(in_pod(&target(None), &plain).unwrap().container, "sidecar");
}

#[test]
fn a_container_that_went_away_is_told_from_one_that_is_there() {
    let resolved = in_pod(&target(Some("postgres")), &pod("pg-0", &ready())).unwrap();
    assert_eq!(departure(&resolved, Some(&pod("pg-0", &ready()))), None);
    assert!(departure(&resolved, None).is_some());
    let mut another = pod("pg-0", &ready());
    another.metadata.uid = Some("another".to_owned());
    assert!(departure(&resolved, Some(&another)).is_some());
    let mut restarted = ready();
    restarted["containerStatuses"][0]["containerID"] = json!("cri://2");
    restarted["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    let why = departure(&resolved, Some(&pod("pg-0", &restarted))).unwrap();
    assert_eq!(why, "container postgres has ended with exit code 137 (OOMKilled)");
}
