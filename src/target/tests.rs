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
