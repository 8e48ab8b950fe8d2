//! The exec source against a real API server, kubelet and runtime: what must arrive whole does, what is cut is said to be,
//! and nothing stays behind in anybody's container.

#[path = "exec/world.rs"]
mod world;

use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use ubo::error::Reason;
use ubo::source::{Completion, Content, Source};
use ubo::validate::WorkloadKind;
use world::{OTHER_UID, Pace, UID, World, begun, directory, drain, hasty, stdout};

const BUSYBOX: &str = "localhost/busybox:1";
const DASH: &str = "localhost/dash:1";
/// Debian: dash as `sh`, bash beside it.
const DEBIAN: &str = "localhost/postgres:15";
const PAUSE: &str = "localhost/pause:1";

/// What `seq 1 LAST` prints; about 64 MiB, of which no two places are alike.
const LAST: usize = 8_600_000;

fn counted() -> Vec<u8> {
    let mut text = String::with_capacity(70_000_000);
    for n in 1..=LAST {
        writeln!(text, "{n}").unwrap();
    }
    text.into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_each_time() {
    let world = World::new("slow").await;
    let expected = counted();
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    for _ in 0..3 {
        let capture =
            world.source(&pod, stdout(&format!("seq 1 {LAST}"))).open(CancellationToken::new()).await.unwrap();
        assert_eq!((capture.facts.content, capture.facts.pod.as_deref()), (Content::Raw, Some("bb")));
        let bytes = drain(capture, Pace::Slow).await.whole();
        assert!(bytes == expected, "{} of {} bytes", bytes.len(), expected.len());
    }
    for _ in 0..2 {
        let dump = directory(&format!("seq 1 {LAST} > /backup/dump.sql"));
        let capture = world.source(&pod, dump).open(CancellationToken::new()).await.unwrap();
        assert_eq!(capture.facts.content, Content::Tar);
        let archive = drain(capture, Pace::Slow).await.whole();
        let at = archive.windows(16).position(|w| w == &expected[..16]).expect("the file is in the archive");
        assert!(archive[at..].starts_with(&expected), "{} bytes", archive.len());
        assert!(archive.ends_with(&[0; 1024]), "end of archive");
    }
    world.nothing_left_in(&pod, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_3_half_way_is_a_failure_that_keeps_the_code() {
    let world = World::new("code").await;
    for (name, image) in [("bb", BUSYBOX), ("dash", DASH), ("debian", DEBIAN)] {
        let pod = world.pod(name, image, &json!({})).await;
        for dump in [
            stdout("dd if=/dev/zero bs=65536 count=100 2>/dev/null; echo no secret >&2; exit 3"),
            directory("echo half > /backup/x; exit 3"),
        ] {
            let failure = world.run(&pod, dump).await.failure();
            assert_eq!((failure.reason, failure.exit_code), (Reason::CommandFailed, Some(3)), "{name}: {failure}");
            assert!(!failure.message.contains("no secret"), "{failure}");
        }
        world.nothing_left_in(&pod, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_first_part_of_a_pipe_is_no_success_in_any_image() {
    let world = World::new("pipe").await;
    for (name, image, reason) in [
        ("bb", BUSYBOX, Reason::CommandFailed),
        ("debian", DEBIAN, Reason::CommandFailed),
        ("dash", DASH, Reason::PipelineNotChecked),
    ] {
        let pod = world.pod(name, image, &json!({})).await;
        for dump in [stdout("false | cat"), directory("false | cat > /backup/x")] {
            assert_eq!(world.run(&pod, dump).await.failure().reason, reason, "{name}");
        }
        if reason == Reason::CommandFailed {
            assert_eq!(world.run(&pod, stdout("echo x | cat")).await.whole(), b"x\n");
        }
        let nested = world.run(&pod, stdout("sh -c 'false | cat'")).await.failure();
        assert_eq!(nested.reason, Reason::PipelineNotChecked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_may_do_and_still_be_read_whole() {
    let world = World::new("shapes").await;
    for (name, image) in [("bb", BUSYBOX), ("dash", DASH), ("debian", DEBIAN)] {
        let pod = world.pod(name, image, &json!({})).await;
        for (command, expected) in [
            ("printf a; exit 0", &b"a"[..]),
            ("exec cat", b""),
            ("cat; echo read", b"read\n"),
            ("echo 'it'\\''s'\necho \"$UBO_RUN $UBO_TARGET_PATH\"", b"it's\npg-once /data\n"),
            ("true", b""),
        ] {
            assert_eq!(world.run(&pod, stdout(command)).await.whole(), expected, "{name}: {command}");
        }
        // Its redirect may fail, the rest does not: a tar without a file, which the run judges as empty.
        let archive = world.run(&pod, directory("echo x > /backup/no/such/folder || echo done")).await.whole();
        assert!(archive.ends_with(&[0; 1024]), "{name}");
        world.nothing_left_in(&pod, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_ends_everything_in_the_container() {
    let world = World::new("cut").await;
    for (name, image) in [("bb", BUSYBOX), ("dash", DASH), ("debian", DEBIAN)] {
        let pod = world.pod(name, image, &json!({})).await;
        for dump in [
            stdout("while :; do echo more; done"),
            // In the pipe of a command that writes nothing.
            stdout("echo first >&2; dd if=/dev/zero bs=1000000 count=3 2>/dev/null; sleep 1000"),
            directory("echo x > /backup/x; sleep 1000 & sleep 1000"),
        ] {
            let streams = dump.form == ubo::validate::DumpForm::Stdout;
            let (relay, tenants) = world.relayed().await;
            let source = world.source_of(&tenants, &pod, dump, UID);
            let mut capture = source.open(CancellationToken::new()).await.unwrap();
            if streams {
                assert!(begun(&mut capture).await > 0);
            } else {
                world.appears_in(&pod, "x").await;
            }
            relay.cut();
            let failure = drain(capture, Pace::Fast).await.failure();
            assert_eq!(failure.reason, Reason::StreamCut, "{name}: {failure}");
            world.nothing_left_in(&pod, &[]).await;
        }
    }
}

/// A reset throws away what is on its way, at both ends, and neither sees an orderly end.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_reset_is_no_success_and_ends_everything_in_the_container() {
    let world = World::new("reset").await;
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    let failure = async |dump, begins: &str, bytes_down: u64| {
        let (proxy, tenants) = world.proxied();
        let source = world.source_of(&tenants, &pod, dump, UID);
        let mut capture = source.open(CancellationToken::new()).await.unwrap();
        if begins.is_empty() {
            assert!(begun(&mut capture).await > 0);
        } else {
            world.appears_in(&pod, begins).await;
        }
        // As slow as this it cannot be over before it is reset.
        proxy.limit(Some(1_000_000));
        let drained = tokio::spawn(drain(capture, Pace::Fast));
        let more = proxy.seen().bytes_down + bytes_down;
        tokio::task::block_in_place(|| proxy.wait(Duration::from_mins(1), |seen| seen.bytes_down >= more)).unwrap();
        proxy.reset();
        let outcome = drained.await.unwrap();
        world.nothing_left_in(&pod, &[]).await;
        outcome.failure()
    };
    for (dump, begins, bytes) in [
        (stdout("while :; do echo more; done"), "", 1_000_000),
        (stdout(&format!("seq 1 {LAST}")), "", 10_000),
        // In the pipe of a command that writes nothing any more.
        (stdout("seq 1 430000; sleep 1000"), "", 0),
        (directory("echo x > /backup/x; sleep 1000 & sleep 1000"), "x", 0),
    ] {
        let failure = failure(dump, begins, bytes).await;
        assert_eq!(failure.reason, Reason::StreamCut, "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_or_dropping_a_capture_clears_the_container() {
    let world = World::new("cancel").await;
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    let endless = "echo x > /backup/x; sleep 1000";
    let cancel = CancellationToken::new();
    let capture = world.source(&pod, directory(endless)).open(cancel.clone()).await.unwrap();
    world.appears_in(&pod, "x").await;
    cancel.cancel();
    let outcome = tokio::time::timeout(Duration::from_secs(30), drain(capture, Pace::Fast)).await.expect("it hangs");
    assert_eq!(outcome.failure().reason, Reason::CancelRequested);
    // The far end was waited for: nothing is left.
    assert_eq!(world.left_in(&pod), [] as [String; 0]);

    let capture = world.source(&pod, directory(endless)).open(CancellationToken::new()).await.unwrap();
    world.appears_in(&pod, "x").await;
    drop(capture);
    world.nothing_left_in(&pod, &[]).await;

    // A destination that fails takes no more bytes.
    let mut capture =
        world.source(&pod, stdout("while :; do echo more; done")).open(CancellationToken::new()).await.unwrap();
    begun(&mut capture).await;
    capture.bytes.close();
    assert_eq!(drain(capture, Pace::Fast).await.failure().reason, Reason::SourceUnavailable);
    assert_eq!(world.left_in(&pod), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_in_mid_stream_is_said_to_have_gone() {
    let world = World::new("gone").await;
    let ending = ["delete", "pod", "a", "-n", world.namespace.as_str(), "--grace-period=0", "--force", "--wait=false"];
    let pod = world.pod("a", BUSYBOX, &json!({})).await;
    let mut capture =
        world.source(&pod, stdout("while :; do echo more; done")).open(CancellationToken::new()).await.unwrap();
    begun(&mut capture).await;
    world.kubectl(&ending);
    assert_eq!(drain(capture, Pace::Fast).await.failure().reason, Reason::TargetGone);

    // Its first process ends, and the kubelet starts another container under the same pod.
    let pod = world
        .pod(
            "b",
            BUSYBOX,
            &json!({"containers": [{"command": ["sh", "-c", "trap 'exit 3' USR1; while :; do sleep 1; done"]}]}),
        )
        .await;
    let mut capture =
        world.source(&pod, stdout("while :; do echo more; done")).open(CancellationToken::new()).await.unwrap();
    begun(&mut capture).await;
    world.kubectl(&["exec", "-n", world.namespace.as_str(), "b", "--", "sh", "-c", "kill -s USR1 1"]);
    let failure = drain(capture, Pace::Fast).await.failure();
    assert_eq!(failure.reason, Reason::TargetGone, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_a_stall_and_what_hangs_is_cleared_once_the_connection_is_gone() {
    let world = World::new("stall").await;
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    let (relay, tenants) = world.relayed().await;
    let dump = directory("echo x > /backup/x; sleep 1000");
    let source = world.source_of(&tenants, &pod, dump, UID).with_times(hasty());
    let capture = source.open(CancellationToken::new()).await.unwrap();
    // Heartbeats every two seconds keep it from stalling.
    let quiet = tokio::time::timeout(hasty().stall * 2, drain(capture, Pace::Fast)).await;
    assert!(quiet.is_err(), "ended without a reason");
    world.nothing_left_in(&pod, &[]).await;

    let source = world.source_of(&tenants, &pod, stdout("while :; do echo more; done"), UID).with_times(hasty());
    let mut capture = source.open(CancellationToken::new()).await.unwrap();
    begun(&mut capture).await;
    relay.hold();
    let failure = drain(capture, Pace::Fast).await.failure();
    assert_eq!(failure.reason, Reason::StreamStalled, "{failure}");
    relay.cut();
    world.nothing_left_in(&pod, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_shell_or_without_tar_is_said() {
    let world = World::new("bare").await;
    let pod = world.pod("pause", PAUSE, &json!({})).await;
    let failure = world.run(&pod, stdout("pg_dumpall")).await.failure();
    assert_eq!(failure.reason, Reason::ShellMissing, "{failure}");

    let no_tar = json!({"containers": [{"command": ["sh", "-c", "rm /bin/tar; sleep 100000"]}]});
    let pod = world.pod("no-tar", DASH, &no_tar).await;
    let failure = world.run(&pod, directory("echo ran > /ran")).await.failure();
    assert_eq!(failure.reason, Reason::TarMissing, "{failure}");
    let look = world.run(&pod, stdout("ls /ran 2>/dev/null || echo not there")).await.whole();
    assert_eq!(look, b"not there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_directory_is_made_found_empty_or_refused() {
    let world = World::new("folder").await;
    let user = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}});
    let mut with_volume = user.clone();
    with_volume["volumes"] = json!([{"name": "b", "emptyDir": {}}]);
    with_volume["containers"] = json!([{"volumeMounts": [{"name": "b", "mountPath": "/backup"}]}]);

    let pod = world.pod("user", BUSYBOX, &user).await;
    let failure = world.run(&pod, directory("echo x > /backup/x")).await.failure();
    assert_eq!(failure.reason, Reason::BackupDirectoryUnavailable, "{failure}");
    assert!(failure.message.contains("emptyDir") && failure.message.contains("standard output"), "{failure}");

    for (name, image) in [("volume", BUSYBOX), ("volume-debian", DEBIAN), ("volume-dash", DASH)] {
        let pod = world.pod(name, image, &with_volume).await;
        let mounted = ["/backup"];
        let archive = world.run(&pod, directory("id -u > /backup/who")).await.whole();
        let mut archive = tar::Archive::new(archive.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert!(
            names.iter().any(|n| n == "who" || n == "./who") && !names.iter().any(|n| n.contains("ubo")),
            "{names:?}"
        );
        world.nothing_left_in(&pod, &mounted).await;

        world.kubectl(&[
            "exec",
            "-n",
            world.namespace.as_str(),
            name,
            "--",
            "sh",
            "-c",
            "echo precious > /backup/.keep",
        ]);
        let failure = world.run(&pod, directory("echo x > /backup/x")).await.failure();
        assert_eq!(failure.reason, Reason::BackupDirectoryNotEmpty, "{failure}");
        assert!(failure.message.contains(".keep"), "{failure}");
        let kept = world.run(&pod, stdout("cat /backup/.keep")).await.whole();
        assert_eq!(kept, b"precious\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_in_one_container() {
    let world = World::new("two").await;
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    let (a, b) = tokio::join!(
        world.run(&pod, stdout("seq 1 500000")),
        world.run(&pod, stdout("seq 1 500000; sleep 1; echo end")),
    );
    let (a, b) = (a.whole(), b.whole());
    assert!(b.starts_with(&a) && b.ends_with(b"\n500000\nend\n"));

    let cancel = CancellationToken::new();
    let hold = world.source(&pod, directory("echo x > /backup/x; sleep 1000")).open(cancel.clone()).await.unwrap();
    world.appears_in(&pod, "x").await;
    let second = world.source_of(&world.tenants, &pod, directory("echo y > /backup/y"), OTHER_UID);
    let failure = drain(second.open(CancellationToken::new()).await.unwrap(), Pace::Fast).await.failure();
    assert_eq!(failure.reason, Reason::BackupDirectoryBusy, "{failure}");
    // The next attempt of the first run ends what is left of the one before.
    let again = world.source(&pod, directory("echo z > /backup/z"));
    let outcome = drain(again.open(CancellationToken::new()).await.unwrap(), Pace::Fast).await;
    let Ok(Completion::Complete(ending)) = outcome.completion else { panic!("{:?}", outcome.completion) };
    assert!(ending.warnings[0].contains(UID), "{:?}", ending.warnings);
    assert_eq!(drain(hold, Pace::Fast).await.failure().reason, Reason::StreamCut);
    world.nothing_left_in(&pod, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_and_targets_that_are_missing_are_named_with_what_mends_them() {
    let closed = World::closed("closed").await;
    let failure = closed.resolve(WorkloadKind::Pod, "bb", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NamespaceNotOptedIn, "{failure}");
    assert!(
        failure.message.contains(&format!("kubectl apply -n {} -f manifests/namespace.yaml", closed.namespace)),
        "{failure}"
    );

    let world = World::new("rights").await;
    let pod = world.pod("bb", BUSYBOX, &json!({})).await;
    let missing = world.resolve(WorkloadKind::Pod, "nope", None).await.unwrap_err();
    assert_eq!(missing.reason, Reason::TargetNotFound);
    assert_eq!(
        world.resolve(WorkloadKind::StatefulSet, "nope", None).await.unwrap_err().reason,
        Reason::TargetNotFound
    );
    let container = world.resolve(WorkloadKind::Pod, "bb", Some("nope")).await.unwrap_err();
    assert_eq!(container.reason, Reason::ContainerNotFound);
    assert!(container.message.contains("it has main"), "{container}");

    let set = |image: &str, replicas: u32| {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set"},
            "spec": {
                "serviceName": "set", "replicas": replicas, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": "set"}},
                "template": {
                    "metadata": {"labels": {"app": "set"}},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                        {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", "sleep 100000"]},
                    ]},
                },
            },
        })
        .to_string()
    };
    world.apply(&set("localhost/none:1", 1));
    let mut unready = world.resolve(WorkloadKind::StatefulSet, "set", None).await.unwrap_err();
    for _ in 0..600 {
        if unready.message.contains("ErrImageNeverPull") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        unready = world.resolve(WorkloadKind::StatefulSet, "set", None).await.unwrap_err();
    }
    assert_eq!(unready.reason, Reason::TargetNotReady);
    assert!(unready.message.contains("set-0 is Pending: container main ErrImageNeverPull"), "{unready}");
    world.apply(&set(BUSYBOX, 2));
    world.kubectl(&["delete", "pod", "set-0", "-n", world.namespace.as_str()]);
    world.kubectl(&["rollout", "status", "statefulset/set", "-n", world.namespace.as_str(), "--timeout=60s"]);
    assert_eq!(world.resolve(WorkloadKind::StatefulSet, "set", None).await.unwrap().pod, "set-0");

    // The namespace's own roles bound what is done with its token, at once.
    let client = world.tenants.client_for(&world.namespace, "backup-runner").await.unwrap();
    world.kubectl(&[
        "create",
        "secret",
        "generic",
        "keys",
        "-n",
        world.namespace.as_str(),
        "--from-literal=A=secret-value",
    ]);
    let keys = ubo::tenant::read_secret(client.clone(), &world.account(), "keys").await.unwrap();
    assert_eq!(keys["A"], "secret-value");
    let absent = ubo::tenant::read_secret(client.clone(), &world.account(), "absent").await.unwrap_err();
    assert_eq!(absent.reason, Reason::SecretNotFound);
    world.kubectl(&["delete", "rolebinding", "backup-runner", "-n", world.namespace.as_str()]);
    let mut refused = ubo::tenant::read_secret(client.clone(), &world.account(), "keys").await;
    for _ in 0..600 {
        if refused.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        refused = ubo::tenant::read_secret(client.clone(), &world.account(), "keys").await;
    }
    assert_eq!(refused.unwrap_err().reason, Reason::Forbidden);
    let refused = world.run(&pod, stdout("echo x")).await.failure();
    assert_eq!(refused.reason, Reason::Forbidden, "{refused}");
    assert!(refused.message.contains("kubectl apply -n"), "{refused}");
    // Nothing of another namespace's is within reach, either.
    let elsewhere = ubo::validate::Target {
        kind: WorkloadKind::Pod,
        name: "bb".to_owned(),
        namespace: closed.namespace.clone(),
        path: None,
        container: None,
        pods: ubo::validate::Pods::First,
        pod_selector: kube::core::Selector::default(),
    };
    let refused = ubo::target::resolve(client, &world.account(), &elsewhere).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Forbidden);
    assert!(refused.message.contains("--clusterrole=backup-target"), "{refused}");
}

/// Each frame costs a walk through runtime, kubelet and API server: small writes are gathered before.
#[tokio::test(flavor = "multi_thread")]
async fn small_pieces_come_in_large_frames() {
    let world = World::new("frames").await;
    for (name, image) in [("bb", BUSYBOX), ("dash", DASH), ("debian", DEBIAN)] {
        let pod = world.pod(name, image, &json!({})).await;
        let command = "dd if=/dev/zero bs=1000 count=20000 2>/dev/null";
        let mut capture = world.source(&pod, stdout(command)).open(CancellationToken::new()).await.unwrap();
        let (mut frames, mut bytes) = (0, 0);
        while let Some(chunk) = capture.bytes.recv().await {
            frames += 1;
            bytes += chunk.len();
        }
        capture.completion.await.unwrap();
        assert_eq!(bytes, 20_000_000);
        assert!(bytes / frames > 4_000, "{name}: {frames} frames");
    }
}
