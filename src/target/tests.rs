use super::choose::tests::{pod, ready, target};
use super::*;
use serde_json::json;

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

#[test]
fn what_the_node_says_of_a_pod_that_ended_is_told() {
    let resolved = in_pod(&target(Some("postgres")), &pod("pg-0", &ready())).unwrap();
    let told = |status| departure(&resolved, Some(&pod("pg-0", &status))).unwrap();
    let evicted = |message: &str| json!({"phase": "Failed", "reason": "Evicted", "message": message});
    let why = told(evicted("Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". "));
    assert_eq!(why, "the pod has ended (Evicted: Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\")");
    assert_eq!(told(json!({"phase": "Succeeded"})), "the pod has ended");
    let long = told(evicted(&"long ".repeat(1000)));
    assert!(long.starts_with("the pod has ended (Evicted: long ") && long.len() < 400, "{long}");
}

fn all_of(pods: Vec<Pod>, container: Option<&str>) -> Result<Vec<EachPod>, Failure> {
    let replicas = i32::try_from(pods.len()).unwrap();
    each_of(&target(container), candidates(&target(container), &["set".to_owned()], pods, replicas, 0))
}

#[test]
fn each_pod_needs_the_container_and_there_is_a_limit() {
    let pods = |count| (0..count).map(|n| pod(&format!("pg-{n}"), &ready())).collect::<Vec<_>>();
    let found = all_of(pods(EACH_LIMIT), Some("postgres")).unwrap();
    assert!(found.len() == EACH_LIMIT && found.iter().all(|(_, pod)| pod.is_ok()));
    let failure = all_of(pods(EACH_LIMIT + 1), None).unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidSpec);
    assert!(failure.message.contains("has 501 pods") && failure.message.contains("podSelector"), "{failure}");
    assert_eq!(all_of(pods(2), Some("nope")).unwrap_err().reason, Reason::ContainerNotFound);
    let mut other = pods(2);
    other[1].spec.as_mut().unwrap().containers.truncate(1);
    let found = all_of(other, Some("postgres")).unwrap();
    assert!(found[0].1.is_ok());
    assert_eq!(found[1].1.as_ref().unwrap_err().reason, Reason::ContainerNotFound);
}

#[test]
fn a_pod_that_waited_for_its_turn_is_looked_at_again() {
    let before = in_pod(&target(Some("postgres")), &pod("pg-0", &ready())).unwrap();
    assert_eq!(still(&before, Some(&pod("pg-0", &ready()))), Ok(before.clone()));
    // Its container may have been restarted meanwhile; the pod is the same.
    let mut restarted = ready();
    restarted["containerStatuses"][0]["containerID"] = json!("cri://2");
    let now = still(&before, Some(&pod("pg-0", &restarted))).unwrap();
    assert_eq!(now.container_id.as_deref(), Some("cri://2"));
    assert_eq!(still(&before, None).unwrap_err().reason, Reason::TargetGone);
    let mut another = pod("pg-0", &ready());
    another.metadata.uid = Some("another".to_owned());
    assert_eq!(still(&before, Some(&another)).unwrap_err().reason, Reason::TargetGone);
    let failure = still(&before, Some(&pod("pg-0", &super::choose::tests::waiting()))).unwrap_err();
    assert_eq!(failure.reason, Reason::TargetNotReady);
    assert!(failure.message.contains("when its turn came: it is Pending"), "{failure}");
}
