//! A backup of several pods, as the operator writes it, listed, verified and restored by a person.

use super::{Scene, listing};
use std::collections::BTreeMap;
use std::time::Duration;
use ubo::api::names::{JobRef, ObjectKey, RunName, Uid};
use ubo::clock::SystemClock;
use ubo::destination::address::Address;
use ubo::destination::build::build;
use ubo::error::{Failure, Reason};
use ubo::run::AttemptId;
use ubo::run::backup::{Member, SEGMENT_SIZE, back_up_each};
use ubo::run::cancel::Cancel;
use ubo::run::report::{Plan, Progress};
use ubo::source::Source;
use ubo::source::walk::Walk;

fn plan(run: &str) -> Plan {
    Plan {
        id: AttemptId {
            job: JobRef::new("default", "web").unwrap(),
            job_uid: Uid::new("aaaaaaaa-0000").unwrap(),
            cluster_id: Uid::new("cccccccc-0000").unwrap(),
            run: RunName::new(run).unwrap(),
            run_uid: Uid::new("01234567-89ab").unwrap(),
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new("default/web").unwrap(),
        },
        adopt: None,
        target: serde_json::json!({"kind": "StatefulSet", "name": "web", "pods": "Each"}),
        strategy: "copy",
        compression_level: 3,
        recipients: Vec::new(),
        allow_empty: false,
        minimum_size: None,
        maximum_shrink_percent: None,
        accepted: None,
        waited: false,
        segment_size: SEGMENT_SIZE,
    }
}

/// Backs up `pods`, whose data lies in the folder `pods/<name>`; one without a folder is not Ready.
fn back_up(scene: &Scene, run: &str, pods: &[&str]) {
    let destination = build(&Address::parse(&scene.uri()).unwrap(), &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let member = |pod: &&str| {
        let folder = scene.at("pods").join(pod);
        let source: Result<Box<dyn Source>, Failure> = if folder.exists() {
            Ok(Box::new(Walk::new(folder)))
        } else {
            Err(Failure::new(Reason::TargetNotReady, format!("pod default/{pod} is Pending")))
        };
        Member { pod: pod.to_string(), source }
    };
    let members: Vec<Member> = pods.iter().map(member).collect();
    let (plan, progress, cancel) = (plan(run), Progress::default(), Cancel::default());
    let work = async {
        back_up_each(&plan, &members, &*destination, &SystemClock, &progress, &cancel).await.unwrap();
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(10));
}

fn scene() -> Scene {
    let scene = Scene::new();
    for pod in ["web-0", "web-1"] {
        let folder = scene.at("pods").join(pod);
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("name"), pod).unwrap();
        std::fs::write(folder.join("sub").join(format!("only-{pod}")), vec![7; 3_000_000]).unwrap();
    }
    back_up(&scene, "web-1", &["web-0", "web-1"]);
    scene
}

#[test]
fn each_pod_comes_back_into_its_folder_and_one_alone_without_it() {
    let scene = scene();
    let uri = scene.uri();
    let text = scene.expect(0, &["list", &uri]);
    assert!(text.contains("  web-0") && text.contains("  web-1") && !text.contains("unfinished"), "{text}");
    let listed = scene.json(0, &["list", &uri]);
    assert_eq!(listed["archives"].as_array().unwrap().len(), 1);
    let pods = &listed["archives"][0]["backups"][0]["pod"];
    assert_eq!(
        (&pods[1]["name"], &pods[1]["outcome"], &pods[1]["files"]),
        (&"web-1".into(), &"Complete".into(), &2.into())
    );
    assert!(scene.expect(0, &["verify", &uri]).contains("of 2 pods, 4 files, every digest agrees"));

    let text = scene.expect(0, &["restore", &uri, "--to", "all"]);
    assert!(text.contains("all, a folder for each pod"), "{text}");
    for pod in ["web-0", "web-1"] {
        assert_eq!(listing(&scene.at("all").join(pod)), listing(&scene.at("pods").join(pod)));
        scene.expect(0, &["restore", &uri, "--pod", pod, "--to", pod]);
        assert_eq!(listing(&scene.at(pod)), listing(&scene.at("pods").join(pod)));
    }
    // By hand.
    let archive = scene.at("backups/default/web/web-1-01234567-1/web-1/archive.tar.zst");
    let command = format!("mkdir by-hand && zstd -d < {} | tar x -C by-hand", archive.display());
    assert!(
        std::process::Command::new("sh").args(["-c", &command]).current_dir(scene.at("")).status().unwrap().success()
    );
    assert_eq!(listing(&scene.at("by-hand")), listing(&scene.at("pods/web-1")));
    // Nothing is overwritten, and nothing half done.
    scene.expect(1, &["restore", &uri, "--to", "all"]);
    scene.expect(2, &["restore", &uri, "--to", "-"]);
    assert!(!scene.expect(0, &["restore", &uri, "--pod", "web-0", "--to", "-"]).is_empty());
}

#[test]
fn paths_are_looked_for_in_each_pod() {
    let scene = scene();
    let uri = scene.uri();
    scene.expect(0, &["restore", &uri, "--to", "names", "--path", "name"]);
    assert_eq!(std::fs::read_to_string(scene.at("names/web-1/name")).unwrap(), "web-1");
    assert!(!scene.at("names/web-1/sub").exists());
    let told = scene.json(3, &["restore", &uri, "--to", "some", "--path", "sub/only-web-1"]);
    assert!(told["problems"][0].as_str().unwrap().starts_with("web-0: none of the paths"), "{told}");
    assert!(scene.at("some/web-1/sub/only-web-1").exists() && !scene.at("some/web-0").exists());
    let told = scene.json(1, &["restore", &uri, "--to", "none", "--path", "nowhere"]);
    assert_eq!(told["error"]["reason"], "BackupNotFound");
}

#[test]
fn a_pod_that_is_missing_is_said_by_every_reader() {
    let scene = scene();
    let uri = scene.uri();
    back_up(&scene, "web-2", &["web-0", "web-9"]);
    assert!(scene.expect(0, &["list", &uri]).contains("Missing     TargetNotReady"));
    let verified = scene.json(3, &["verify", &uri, "web-2"]);
    assert_eq!((&verified["reason"], &verified["pods"][1]["outcome"]), (&"PodsMissing".into(), &"Missing".into()));
    let told = scene.json(3, &["restore", &uri, "web-2", "--to", "part"]);
    assert_eq!((&told["phase"], &told["problemCount"]), (&"Incomplete".into(), &1.into()));
    assert!(told["problems"][0].as_str().unwrap().contains("pod web-9 is not in the backup (TargetNotReady"), "{told}");
    assert_eq!(listing(&scene.at("part/web-0")), listing(&scene.at("pods/web-0")));
    for (pod, said) in [("web-9", "is not in the backup (TargetNotReady"), ("web-7", "it has: web-0")] {
        let told = scene.json(1, &["restore", &uri, "web-2", "--pod", pod, "--to", "never"]);
        assert_eq!(told["error"]["reason"], "BackupNotFound");
        assert!(told["error"]["message"].as_str().unwrap().contains(said), "{told}");
    }
    assert!(!scene.at("never").exists());
    // The one that has them all is the latest.
    assert_eq!(scene.json(0, &["verify", &uri])["run"], "web-1");
}

#[test]
fn damage_of_one_pod_is_found_and_named() {
    let scene = scene();
    let uri = scene.uri();
    let folder = scene.at("backups/default/web/web-1-01234567-1");
    let archive = folder.join("web-1/archive.tar.zst");
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    for command in [vec!["verify", &uri], vec!["restore", &uri, "--to", "back"]] {
        let told = scene.json(1, &command);
        assert_eq!(told["error"]["reason"], "BackupDamaged");
        assert!(told["error"]["message"].as_str().unwrap().contains("pod web-1"), "{told}");
    }
    scene.expect(0, &["restore", &uri, "--pod", "web-0", "--to", "good"]);
    // A pod that somebody takes out of the manifest is not forgotten in silence.
    let manifest = folder.join("manifest.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(value["formatVersion"], 2);
    value["pod"].as_array_mut().unwrap().pop();
    std::fs::write(&manifest, value.to_string()).unwrap();
    assert!(scene.expect(0, &["list", &uri]).contains("DAMAGED"));
    assert_eq!(scene.json(1, &["restore", &uri, "web-1-01234567-1", "--to", "x"])["error"]["reason"], "BackupDamaged");
}

#[test]
fn a_pod_is_asked_for_where_there_is_one() {
    let scene = Scene::new();
    let uri = scene.uri();
    scene.expect(0, &["backup", "--from", "data", "--to", &uri]);
    let told = scene.json(1, &["restore", &uri, "--pod", "web-0", "--to", "x"]);
    assert!(told["error"]["message"].as_str().unwrap().contains("leave --pod out"), "{told}");
}
