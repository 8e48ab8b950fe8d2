//! Every kind of workload, and which of its pods is taken.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use installed::{until, until_for};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use scene::{BUSYBOX, SLEEP, Scene, edit};
use serde_json::{Value, json};
use std::time::Duration;
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;

/// A workload of this kind whose pods sleep, labelled `app: NAME`.
fn workload(kind: &str, name: &str, replicas: u32, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", SLEEP]}],
                },
            },
        },
    });
    if kind != "DaemonSet" {
        object["spec"]["replicas"] = replicas.into();
    }
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = name.into();
        object["spec"]["podManagementPolicy"] = "Parallel".into();
    }
    change(&mut object);
    object
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The Ready pods with label `app: NAME`, the oldest first, once there are so many.
async fn ready_pods(scene: &Scene, name: &str, count: usize) -> Result<Vec<Pod>> {
    let api = scene.api::<Pod>();
    until_for(Duration::from_mins(2), &format!("{count} Ready pods of {name}"), || async {
        let mut pods = api.list(&ListParams::default().labels(&format!("app={name}"))).await?.items;
        pods.retain(is_ready);
        pods.sort_by_key(|pod| (pod.creation_timestamp().map(|time| time.0), pod.name_any()));
        Ok((pods.len() == count).then_some(pods))
    })
    .await
}

/// A job that writes the name of its pod.
fn job(scene: &Scene, name: &str, target: Value) -> Value {
    scene.job(name, "hostname", |job| edit(job, "spec.target", target))
}

async fn took(scene: &Scene, status: &BackupRunStatus, pod: &str) -> Result<()> {
    ensure!(status.phase == Phase::Succeeded && status.pod.as_deref() == Some(pod), "not {pod}: {status:?}");
    let said = scene.decompressed(status).await?;
    ensure!(said == format!("{pod}\n").as_bytes(), "{:?} answered instead of {pod}", String::from_utf8_lossy(&said));
    Ok(())
}

#[tokio::test]
async fn every_kind_is_found_and_the_oldest_ready_pod_taken() -> Result<()> {
    let scene = Scene::new("kinds").await?;
    let kinds = [("Deployment", "dep", 2), ("ReplicaSet", "rs", 2), ("DaemonSet", "ds", 1), ("StatefulSet", "sts", 2)];
    let items: Vec<_> = kinds.iter().map(|(kind, name, replicas)| workload(kind, name, *replicas, |_| {})).collect();
    scene.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await?;
    let mut expected = Vec::new();
    for (_, name, count) in kinds {
        let pods = ready_pods(&scene, name, usize::try_from(count)?).await?;
        expected.push(if name == "sts" { "sts-0".to_owned() } else { pods[0].name_any() });
    }
    let jobs: Vec<_> =
        kinds.iter().map(|(kind, name, _)| job(&scene, name, json!({"kind": kind, "name": name}))).collect();
    for (status, pod) in scene.back_up_all(&jobs).await?.iter().zip(&expected) {
        took(&scene, status, pod).await?;
    }
    // A name that there is none of, of each kind.
    let jobs: Vec<_> = kinds
        .iter()
        .map(|(kind, name, _)| job(&scene, &format!("no-{name}"), json!({"kind": kind, "name": "nobody"})))
        .collect();
    for ((kind, ..), status) in kinds.iter().zip(scene.back_up_all(&jobs).await?) {
        let said = status.message.clone().unwrap_or_default();
        ensure!(
            status.reason.as_deref() == Some("TargetNotFound") && said.contains(&format!("no {kind} nobody")),
            "{status:?}"
        );
    }
    scene.end().await
}

#[tokio::test]
async fn labels_narrow_and_say_when_nothing_is_left() -> Result<()> {
    let scene = Scene::new("kinds").await?;
    scene.apply(&workload("Deployment", "db", 3, |_| {})).await?;
    let pods = ready_pods(&scene, "db", 3).await?;
    let newest = pods.last().context("a pod")?.name_any();
    scene.kubectl(&["label", "pod", &newest, "role=replica"]).await?;
    let with = |name: &str, selector: Value| {
        job(&scene, name, json!({"kind": "Deployment", "name": "db", "podSelector": selector}))
    };
    let jobs = [
        with("labels", json!({"matchLabels": {"role": "replica"}})),
        with("rules", json!({"matchExpressions": [{"key": "role", "operator": "In", "values": ["replica", "spare"]}]})),
        with("others", json!({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]})),
        with("nobody", json!({"matchLabels": {"role": "primary"}})),
    ];
    let statuses = scene.back_up_all(&jobs).await?;
    took(&scene, &statuses[0], &newest).await?;
    took(&scene, &statuses[1], &newest).await?;
    took(&scene, &statuses[2], &pods[0].name_any()).await?;
    let none = &statuses[3];
    let said = none.message.clone().unwrap_or_default();
    ensure!(
        none.reason.as_deref() == Some("TargetNotReady") && said.contains("none of its 3 pods has the labels"),
        "{none:?}"
    );
    scene.end().await
}

#[tokio::test]
async fn in_mid_rollout_a_pod_that_stays_is_taken() -> Result<()> {
    let scene = Scene::new("kinds").await?;
    // The old pods stay, because of the two new ones only the first becomes Ready.
    let web = |generation: &str, probe: &str| {
        workload("Deployment", "web", 2, |object| {
            object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
            let template = &mut object["spec"]["template"];
            template["metadata"]["labels"]["generation"] = generation.into();
            template["spec"]["containers"][0]["readinessProbe"] =
                json!({"exec": {"command": ["sh", "-c", probe]}, "periodSeconds": 1});
        })
    };
    scene.apply(&web("old", "true")).await?;
    ready_pods(&scene, "web", 2).await?;
    scene.apply(&web("new", "[ -e /tmp/ready ]")).await?;
    let api = scene.api::<Pod>();
    let new = until("two new pods to run", || async {
        let pods = api.list(&ListParams::default().labels("app=web,generation=new")).await?.items;
        let running = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        Ok((pods.len() == 2 && pods.iter().all(running)).then_some(pods))
    })
    .await?;
    let target = json!({"kind": "Deployment", "name": "web"});
    let status = scene.back_up(&job(&scene, "before", target.clone())).await?;
    let taken = status.pod.clone().context("a pod")?;
    ensure!(
        status.phase == Phase::Succeeded && new.iter().all(|pod| pod.name_any() != taken),
        "one that is not Ready: {status:?}"
    );

    let ready = new[0].name_any();
    scene.exec(&ready, "touch /tmp/ready").await?;
    until("the new pod to be Ready", || async { Ok(is_ready(&api.get(&ready).await?).then_some(())) }).await?;
    let status = scene.back_up(&job(&scene, "during", target)).await?;
    took(&scene, &status, &ready).await?;
    scene.end().await
}

#[tokio::test]
async fn a_pod_that_was_there_is_waited_for() -> Result<()> {
    let scene = Scene::new("kinds").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let waiting =
        scene.job("again", "hostname", |job| edit(job, "spec.retry", json!({"limit": 20, "backoffSeconds": 1})));
    let status = scene.back_up(&waiting).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene
        .job_until("again", "to know of its backup", |job| {
            job.status.as_ref().is_some_and(|status| status.last_success_time.is_some())
        })
        .await?;
    let api = scene.api::<Pod>();
    api.delete("box", &DeleteParams::default()).await?;
    until("the pod to be gone", || async { Ok(api.get_opt("box").await?.is_none().then_some(())) }).await?;

    let run = scene.start("again").await?;
    let tried = scene
        .run_until(&run, "to be tried again", |run| {
            run.status.as_ref().is_some_and(|status| status.phase == Phase::Pending && !status.attempts.is_empty())
        })
        .await?;
    let said = tried.message.unwrap_or_default();
    ensure!(tried.reason.as_deref() == Some("TargetNotReady") && said.contains("on its way back"), "{said}");
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded && status.attempts.len() > 1, "{status:?}");

    // A name that nobody ever saw is told at once.
    let typo = scene.job("typo", "hostname", |job| {
        edit(job, "spec.retry", json!({"limit": 20, "backoffSeconds": 1}));
        edit(job, "spec.target.name", json!("bx"));
    });
    let status = scene.back_up(&typo).await?;
    ensure!(status.reason.as_deref() == Some("TargetNotFound") && status.attempts.len() == 1, "{status:?}");
    scene.end().await
}
