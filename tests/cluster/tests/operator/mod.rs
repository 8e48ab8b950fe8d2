//! The operator's own pod and Deployment, as tests look at and change them.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use super::installed::{Installed, until, until_for};
use super::scene::{TWO_LEASES, is_of, leader, operator_pods, operator_ready};
use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Selects the operator's pods.
const PODS: &str = "app.kubernetes.io/name=ubo";
const DEPLOYMENT: &str = "deployment/operator";

/// The operator that runs now.
pub struct Operator {
    client: Client,
}

impl Operator {
    /// A ready one.
    pub async fn now(installed: &Installed) -> Result<Self> {
        operator_ready(installed).await?;
        Ok(Self { client: installed.admin.clone() })
    }

    /// Changes the number of replicas, and waits until it is so.
    pub async fn scale(&self, installed: &Installed, replicas: usize) -> Result<Self> {
        kubectl(installed, &["scale", DEPLOYMENT, &format!("--replicas={replicas}")]).await?;
        if replicas > 0 {
            return Self::now(installed).await;
        }
        let pods = self.pods();
        until("the operator to be gone", || async {
            Ok(pods.list(&ListParams::default().labels(PODS)).await?.items.is_empty().then_some(()))
        })
        .await?;
        Ok(Self { client: self.client.clone() })
    }

    /// Status and body of a GET at the admin port of one that lives, straight from the pod: also when it is not ready.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let pods = self.pods().list(&ListParams::default().labels(PODS)).await?.items;
        let mut running = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let address = running.find_map(|pod| pod.status?.pod_ip).context("no operator")?;
        get(&address, path).await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "backup-system")
    }
}

/// Changes the operator as a user would, by a patch of its Deployment: the arguments that it has besides its own, and how
/// many seconds what is at work may take to end (`None`: as it is installed).
pub async fn update(installed: &Installed, more: &[String], grace: Option<u32>) -> Result<()> {
    let args: Vec<&str> = std::iter::once("operator").chain(more.iter().map(String::as_str)).collect();
    let mut patience = json!({"name": "UBO_SHUTDOWN_GRACE_SECONDS"});
    match grace {
        Some(seconds) => patience["value"] = json!(seconds.to_string()),
        None => patience["$patch"] = json!("delete"),
    }
    let container = json!({"name": "operator", "args": args, "env": [patience]});
    let change = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    kubectl(installed, &["patch", DEPLOYMENT, "-p", &change.to_string()]).await
}

/// Status and body of a GET at the admin port of the replica that leads, and then of one that follows.
pub async fn get_both(installed: &Installed, path: &str) -> Result<[(u16, String); 2]> {
    let leader = leader(installed).await?.context("nobody leads")?;
    let pods = operator_pods(installed).await?;
    let address = |leads: bool| {
        let mut found = pods.iter().filter(|pod| (pod.metadata.name.as_deref() == Some(&leader)) == leads);
        found.find_map(|pod| pod.status.as_ref()?.pod_ip.clone())
    };
    let leads = get(&address(true).context("no address")?, path).await?;
    Ok([leads, get(&address(false).context("no follower")?, path).await?])
}

/// What tells a pod of [`lonely`] from others.
const LONELY: &str = "rig=lonely";

/// A pod like those of the Deployment, which talks to the API server through a proxy, with these variables besides. The
/// Deployment has no replicas; ready, and leading, when this returns.
pub async fn lonely(installed: &Installed, proxy: SocketAddr, more: &[(&str, &str)]) -> Result<String> {
    let printed = ubo::install::documents(&ubo::install::manifests("localhost/ubo:dev")?)?;
    let deployment = printed.into_iter().find(|document| document["kind"] == "Deployment").context("a Deployment")?;
    let (label, word) = LONELY.split_once('=').context("a label")?;
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "lonely-", "labels": {label: word}},
        "spec": deployment["spec"]["template"]["spec"]});
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().context("an environment")?;
    let (host, port) = (proxy.ip().to_string(), proxy.port().to_string());
    let server = [("KUBERNETES_SERVICE_HOST", host.as_str()), ("KUBERNETES_SERVICE_PORT", port.as_str())];
    env.extend(server.iter().chain(more).map(|(name, value)| json!({"name": name, "value": value})));
    let pods: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let name = made.metadata.name.context("a name")?;
    let leases: Api<Lease> = Api::namespaced(installed.admin.clone(), "backup-system");
    until_for(TWO_LEASES, "the lonely operator to lead", || async {
        let holder = leases.get_opt("ubo-scheduler").await?.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.is_some_and(|holder| is_of(&holder, &name)).then_some(()))
    })
    .await?;
    Ok(name)
}

/// Ends every such pod, and gives the Deployment its replicas back.
pub async fn no_longer_lonely(installed: &Installed) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    let now = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
    pods.delete_collection(&now, &ListParams::default().labels(LONELY)).await?;
    kubectl(installed, &["scale", DEPLOYMENT, "--replicas=2"]).await?;
    operator_ready(installed).await
}

async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect((address, 8080)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

async fn kubectl(installed: &Installed, arguments: &[&str]) -> Result<()> {
    installed.kubectl(&[&["-n", "backup-system"], arguments].concat(), "").await.map(drop)
}
