//! Where the operator does not connect to, whatever a BackupJob says: by name, by address in each form, and after the name
//! server has changed its answer.

mod installed;
mod scene;
mod through;

use anyhow::{Context, Result, ensure};
use installed::until_for;
use rig::fault_proxy::{Fault, Rule, Which};
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use std::time::Duration;
use through::{job_through, proxy};
use ubo::run::Phase;

/// A job whose destination is behind this endpoint.
fn behind(scene: &Scene, name: &str, endpoint: &str) -> Value {
    scene.job(name, "echo data", |job| edit(job, "spec.destination.options", json!({"endpoint": endpoint})))
}

/// Host and port of the test's S3 server, which lies in the cluster's own network.
fn s3(scene: &Scene) -> Result<(String, u16)> {
    let endpoint = scene.installed.cluster.s3.endpoint.clone();
    let (host, port) = endpoint.trim_start_matches("http://").rsplit_once(':').context("a port")?;
    Ok((host.to_owned(), port.parse()?))
}

/// The address of a Service.
async fn cluster_ip(scene: &Scene, namespace: &str, service: &str) -> Result<String> {
    let path = "jsonpath={.spec.clusterIP}";
    scene.installed.kubectl(&["get", "service", "-n", namespace, service, "-o", path], "").await
}

#[tokio::test]
async fn nothing_that_only_the_operator_reaches_is_asked() -> Result<()> {
    let scene = Scene::new("forbidden").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let (node, port) = s3(&scene)?;
    let (api_service, own_service) = tokio::try_join!(
        cluster_ip(&scene, "default", "kubernetes"),
        cluster_ip(&scene, "backup-system", "ubo-metrics")
    )?;
    let server = scene
        .installed
        .kubectl(
            &[
                "get",
                "endpoints",
                "-n",
                "default",
                "kubernetes",
                "-o",
                "jsonpath={.subsets[0].addresses[0].ip}:{.subsets[0].ports[0].port}",
            ],
            "",
        )
        .await?;
    let cases = [
        ("loopback-name", format!("http://localhost:{port}"), "loopback"),
        ("loopback", format!("http://127.0.0.1:{port}"), "loopback"),
        ("decimal", format!("http://2130706433:{port}"), "loopback"),
        ("mapped", format!("http://[::ffff:127.0.0.1]:{port}"), "loopback"),
        ("metadata", "http://169.254.169.254".to_owned(), "link-local"),
        ("metadata-mapped", "http://[::ffff:169.254.169.254]".to_owned(), "link-local"),
        ("metadata-aws", "http://[fd00:ec2::254]".to_owned(), "metadata"),
        ("nothing", format!("http://0.0.0.0:{port}"), "no address of a single host"),
        ("server-name", "https://kubernetes.default.svc".to_owned(), "API server"),
        ("server", format!("https://{api_service}"), "API server"),
        ("server-direct", format!("https://{server}"), "API server"),
        ("own-name", "http://ubo-metrics.backup-system.svc:8080".to_owned(), "own address"),
        ("own-service", format!("http://{own_service}:8080"), "own address"),
    ];
    let jobs: Vec<_> = cases.iter().map(|(name, endpoint, _)| behind(&scene, name, endpoint)).collect();
    for ((name, endpoint, word), status) in cases.iter().zip(scene.back_up_all(&jobs).await?) {
        let said = status.message.clone().unwrap_or_default();
        ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{name} {endpoint}: {status:?}");
        ensure!(status.reason.as_deref() == Some("DestinationForbidden"), "{name} {endpoint}: {status:?}");
        ensure!(said.contains(word), "{name} {endpoint}: {said:?} lacks {word:?}");
    }
    // The node's address is the API server's, too, and another port of it is served by somebody else.
    ensure!(server.starts_with(&format!("{node}:")), "the S3 server is not where the API server is: {server}, {node}");
    let status = scene.back_up(&behind(&scene, "good", &format!("http://{node}:{port}"))).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene.nothing_left_but("good").await?;
    scene.end().await
}

/// Nobody has looked at where a redirect leads: it is not followed, not even to where the operator may connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redirect_is_followed() -> Result<()> {
    let scene = Scene::new("forbidden").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let elsewhere = proxy(&scene)?;
    let metadata = "http://169.254.169.254/latest/meta-data/".to_owned();
    let server = format!("https://{}/api", scene.installed.cluster.api);
    let at_once = |to| Rule::new(Which::All, Fault::Redirect(to));
    let cases = [
        ("to-the-server", at_once(server)),
        ("to-metadata", at_once(metadata)),
        ("to-another", at_once(elsewhere.endpoint())),
        ("in-mid-upload", at_once(elsewhere.endpoint()).method("PUT").containing("partNumber=")),
    ];
    // The proxies live as long as the runs.
    let (mut proxies, mut jobs) = (Vec::new(), Vec::new());
    for (name, rule) in cases {
        let proxy = proxy(&scene)?;
        proxy.rule(rule);
        let mut job = job_through(&scene, name, "head -c 20000000 /dev/urandom", &proxy.endpoint());
        edit(&mut job, "spec.retry", json!({"limit": 2, "backoffSeconds": 1}));
        jobs.push(job);
        proxies.push(proxy);
    }
    for (proxy, status) in proxies.iter().zip(scene.back_up_all(&jobs).await?) {
        ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
        ensure!(status.reason.as_deref() == Some("DestinationNotFound"), "{status:?}");
        let said = status.message.unwrap_or_default();
        ensure!(["redirect", "not followed", "endpoint"].iter().all(|word| said.contains(word)), "{said}");
        ensure!(proxy.seen().faults > 0, "nothing was redirected: {said}");
    }
    ensure!(elsewhere.seen().connections == 0, "a redirect was followed: {:?}", elsewhere.seen());
    // It is there, and allowed.
    let status = scene.back_up(&job_through(&scene, "good", "echo data", &elsewhere.endpoint())).await?;
    ensure!(status.phase == Phase::Succeeded && elsewhere.seen().connections > 0, "{status:?}");
    scene.nothing_left_but("good").await?;
    scene.end().await
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_looked_at_again() -> Result<()> {
    let scene = Scene::new("forbidden").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let (node, port) = s3(&scene)?;
    // A name without an address of its own: it leads wherever its endpoints say.
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store"},
        "spec": {"clusterIP": "None", "ports": [{"port": port}]}});
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "store", "labels": {"kubernetes.io/service-name": "store"}},
            "addressType": "IPv4", "ports": [{"port": port}], "endpoints": [{"addresses": [address]}]})
    };
    scene.apply(&service).await?;
    scene.apply(&slice(&node)).await?;
    let endpoint = format!("http://store.{}.svc:{port}", scene.namespace);
    scene.apply(&behind(&scene, "flip", &endpoint)).await?;
    scene.ended("flip-once").await?;
    let becomes = |phase: Phase, reason: Option<&'static str>| {
        let scene = &scene;
        // The name server may answer from its memory for half a minute.
        until_for(Duration::from_mins(3), "a run to end the other way", move || async move {
            let run = scene.start("flip").await?;
            let status = scene.ended(&run).await?;
            Ok((status.phase == phase && status.reason.as_deref() == reason).then_some(status))
        })
    };
    becomes(Phase::Succeeded, None).await?;
    scene.apply(&slice(&cluster_ip(&scene, "backup-system", "ubo-metrics").await?)).await?;
    let status = becomes(Phase::Failed, Some("DestinationForbidden")).await?;
    let said = status.message.unwrap_or_default();
    ensure!(said.contains("own address") && said.contains("store."), "{said}");
    scene.apply(&slice(&node)).await?;
    becomes(Phase::Succeeded, None).await?;
    scene.end().await
}
