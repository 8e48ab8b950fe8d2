//! A namespace that was opted in, with pods to back up, beside the operator as `ubo install` deploys it.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use super::installed::{Installed, set, until, until_for};
use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::destination::Destination;
use ubo::destination::address::Address;
use ubo::destination::build::build;
use ubo::run::Phase;
use ubo::run::ports::phase_of;

/// A container that does nothing until it is told to end.
pub const SLEEP: &str = "trap 'exit 0' TERM; sleep 100000 & wait";
/// Holds `/backup` as a run does that the operator knows nothing of: a marker beside it names a process that lives, by the
/// time that it began, and the container that it is in.
pub const HOLD: &str = "since() { sed 's/.*) //' /proc/$1/stat | cut -d' ' -f20; }; sleep 3603 > /dev/null 2>&1 < \
                        /dev/null & echo $! > /tmp/holder; here=$(cat /proc/sys/kernel/hostname):$(since 1); echo \
                        \"6b1cbb4c-0000-4000-8000-000000000002 $! $(since $!) $here elsewhere-20261124-0200\" > \
                        /backup.ubo-run; mkdir /backup; echo theirs > /backup/theirs";
/// An image with busybox as its shell and tar.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// Until a Lease whose holder died has passed on, and a dead executor's runs are taken over, on a machine that is busy.
pub const TWO_LEASES: Duration = Duration::from_mins(3);
/// Selects the operator's pods.
const OPERATOR_PODS: &str = "app.kubernetes.io/name=ubo";

/// The stage of one test; its namespace goes when the test is over.
pub struct Scene {
    /// The cluster.
    pub installed: Installed,
    /// The test's own namespace.
    pub namespace: String,
    ended: bool,
}

impl Drop for Scene {
    /// A test that fails leaves its namespace to be looked at, and no backup at work in it: others wait for their turn.
    fn drop(&mut self) {
        if !self.ended {
            let _ = std::process::Command::new(&self.installed.cluster.kubectl)
                .args(["delete", "backupjobs", "--all", "--wait=false", "-n", &self.namespace])
                .env("KUBECONFIG", &self.installed.cluster.kubeconfig)
                .output();
        }
    }
}

impl Scene {
    /// A new namespace, opted in, with a Secret `s3` for the S3 server, beside a ready operator.
    pub async fn new(what: &str) -> Result<Self> {
        let scene = Self::not_opted_in(what).await?;
        scene.opt_in().await?;
        Ok(scene)
    }

    /// The same, not opted in.
    pub async fn not_opted_in(what: &str) -> Result<Self> {
        let installed = Installed::get().await?;
        operator_ready(&installed).await?;
        let namespace = installed.namespace(what).await?;
        let scene = Self { installed, namespace, ended: false };
        scene.secret("s3", &scene.keys()).await?;
        Ok(scene)
    }

    /// Opts the namespace in as its admin would.
    pub async fn opt_in(&self) -> Result<()> {
        let opt_in = std::fs::read_to_string(self.installed.cluster.checkout.join("manifests/namespace.yaml"))?;
        self.installed.apply(&opt_in, &["-n", &self.namespace]).await.map(drop)
    }

    /// The keys of the S3 server, as a Secret holds them.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let s3 = &self.installed.cluster.s3;
        let pairs = [
            ("AWS_ACCESS_KEY_ID", &s3.access_key),
            ("AWS_SECRET_ACCESS_KEY", &s3.secret_key),
            ("AWS_ENDPOINT_URL", &s3.endpoint),
        ];
        let mut keys: BTreeMap<_, _> = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        keys.insert("AWS_REGION".to_owned(), "us-east-1".to_owned());
        keys
    }

    /// Makes or replaces a Secret.
    pub async fn secret(&self, name: &str, keys: &BTreeMap<String, String>) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys});
        self.apply(&secret).await
    }

    /// Server-side apply of one document in this namespace.
    pub async fn apply(&self, document: &Value) -> Result<()> {
        self.installed.apply(&document.to_string(), &["-n", &self.namespace]).await.map(drop)
    }

    /// kubectl in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.installed.kubectl(&[&["-n", &self.namespace], arguments].concat(), "").await
    }

    /// A pod with one container `main` that sleeps; `change` edits it. Ready when this returns, unless it never can be.
    pub async fn pod(&self, name: &str, image: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", SLEEP]}],
            },
        });
        change(&mut pod);
        self.apply(&pod).await?;
        let api: Api<Pod> = self.api();
        until(&format!("pod {name} to be Ready"), || async {
            let pod = api.get(name).await?;
            let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(()))
        })
        .await
    }

    /// A client for this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.installed.admin.clone(), &self.namespace)
    }

    /// A BackupJob without a schedule (so that it runs at once, as `NAME-once`): the standard output of `command` in pod
    /// `box` goes to this test's own folder of the S3 server. `change` edits it.
    pub fn job(&self, name: &str, command: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut job = json!({
            "apiVersion": "backup.javy.dev/v1", "kind": "BackupJob", "metadata": {"name": name},
            "spec": {
                "target": {"kind": "Pod", "name": "box"},
                "destination": {"type": "s3", "uri": self.uri(), "secretRef": "s3"},
                "strategy": {"type": "dump", "command": command},
                "retry": {"limit": 0},
            },
        });
        change(&mut job);
        job
    }

    /// This test's own folder of the S3 server.
    pub fn uri(&self) -> String {
        format!("s3://{}/{}", self.installed.cluster.s3.bucket, self.namespace)
    }

    /// Applies a BackupJob that has no schedule and waits until its run is over.
    pub async fn back_up(&self, job: &Value) -> Result<BackupRunStatus> {
        self.apply(job).await?;
        let name = job["metadata"]["name"].as_str().context("a name")?;
        self.ended(&format!("{name}-once")).await
    }

    /// Applies BackupJobs that have no schedule, all at once, and waits until their runs are over, in their order.
    pub async fn back_up_all(&self, jobs: &[Value]) -> Result<Vec<BackupRunStatus>> {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": jobs})).await?;
        let names: Vec<_> = jobs.iter().filter_map(|job| job["metadata"]["name"].as_str()).collect();
        ensure!(names.len() == jobs.len(), "a job without a name");
        let runs = names.into_iter().map(|name| async move { self.ended(&format!("{name}-once")).await });
        futures::future::try_join_all(runs).await
    }

    /// Asks for a run of a BackupJob by hand and gives its name.
    pub async fn start(&self, job: &str) -> Result<String> {
        let run = json!({"apiVersion": "backup.javy.dev/v1", "kind": "BackupRun",
            "metadata": {"generateName": format!("{job}-m")}, "spec": {"backupJobName": job}});
        let api: Api<BackupRun> = self.api();
        let made = api.create(&PostParams::default(), &serde_json::from_value(run)?).await?;
        made.metadata.name.context("a run without a name")
    }

    /// Waits until a run is over.
    pub async fn ended(&self, run: &str) -> Result<BackupRunStatus> {
        self.run_until(run, "to be over", |run| phase_of(run).is_final()).await
    }

    /// Waits until a run is at work and has read something.
    pub async fn at_work(&self, run: &str) -> Result<BackupRunStatus> {
        self.run_until(run, "to work", |run| phase_of(run) == Phase::Running).await
    }

    /// Waits until `holds` of a run.
    pub async fn run_until(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&BackupRun) -> bool,
    ) -> Result<BackupRunStatus> {
        let api: Api<BackupRun> = self.api();
        let mut last = None;
        let found = until(&format!("run {name} {what}"), || {
            let api = api.clone();
            let holds = &holds;
            async move {
                let found = api.get_opt(name).await?;
                Ok(found.filter(|run| holds(run)))
            }
        })
        .await;
        if found.is_err() {
            last = api.get_opt(name).await?.and_then(|run| run.status);
        }
        let run = found.with_context(|| format!("its status: {last:?}"))?;
        Ok(run.status.unwrap_or_default())
    }

    /// The BackupJob as it is now.
    pub async fn job_now(&self, name: &str) -> Result<BackupJob> {
        let api: Api<BackupJob> = self.api();
        Ok(api.get(name).await?)
    }

    /// Waits until `holds` of a BackupJob.
    pub async fn job_until(&self, name: &str, what: &str, holds: impl Fn(&BackupJob) -> bool) -> Result<BackupJob> {
        let api: Api<BackupJob> = self.api();
        until(&format!("BackupJob {name} {what}"), || {
            let (api, holds) = (api.clone(), &holds);
            async move { Ok(api.get_opt(name).await?.filter(|job| holds(job))) }
        })
        .await
    }

    /// The S3 server, as the operator sees this test's folder.
    pub fn destination(&self) -> Result<Arc<dyn Destination>> {
        let address = Address::parse(&self.uri())?;
        Ok(build(&address, &BTreeMap::new(), &self.keys())?)
    }

    /// Keys of all objects of this test, relative to its folder, in order.
    pub async fn objects(&self) -> Result<Vec<String>> {
        let listed: Vec<_> = self.destination()?.list("").await?.try_collect().await?;
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.key.as_str().to_owned()).collect();
        keys.sort();
        Ok(keys)
    }

    /// An object's stored bytes.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>> {
        let key = ubo::api::names::ObjectKey::new(key)?;
        let chunks: Vec<_> = self.destination()?.read(&key, None).await?.try_collect().await?;
        Ok(chunks.concat())
    }

    /// Bytes of one object of a run's folder, by its name.
    pub async fn object(&self, status: &BackupRunStatus, name: &str) -> Result<Vec<u8>> {
        let folder = status.destinations.first().and_then(|found| found.folder.as_deref()).context("a folder")?;
        self.read(&format!("{folder}/{name}")).await
    }

    /// The one archive or dump of a run that succeeded, decompressed by `zstd -d`: what a person would do by hand.
    pub async fn decompressed(&self, status: &BackupRunStatus) -> Result<Vec<u8>> {
        let destination = status.destinations.first().context("a destination")?;
        let folder = destination.folder.as_deref().context("a folder")?;
        let object = destination
            .objects
            .iter()
            .find(|object| std::path::Path::new(&object.name).extension().is_some_and(|word| word == "zst"))
            .context("an archive")?;
        let stored = self.read(&format!("{folder}/{}", object.name)).await?;
        pipe("zstd", &["-d", "-c"], stored).await
    }

    /// Nothing but `owner.json` lies in this test's folder, and no upload is open in it: what a failed run leaves.
    pub async fn nothing_left(&self) -> Result<()> {
        until("everything of the run to be gone", || async {
            let rest: Vec<_> = self.objects().await?.into_iter().filter(|key| !key.ends_with("/owner.json")).collect();
            Ok((rest.is_empty() && self.open_uploads()?.is_empty()).then_some(()))
        })
        .await
        .with_context(|| format!("objects and uploads left: {:?}", self.open_uploads()))
    }

    /// The same, but that one BackupJob's backups may lie there.
    pub async fn nothing_left_but(&self, job: &str) -> Result<()> {
        let folder = format!("{}/{job}/", self.namespace);
        until("everything of the failed runs to be gone", || async {
            let keys = self.objects().await?;
            let rest = keys.iter().filter(|key| !key.ends_with("/owner.json") && !key.starts_with(&folder)).count();
            Ok((rest == 0 && self.open_uploads()?.is_empty()).then_some(()))
        })
        .await
        .with_context(|| format!("objects and uploads left: {:?}", self.open_uploads()))
    }

    /// Keys of this test's multipart uploads that are open at the server.
    pub fn open_uploads(&self) -> Result<Vec<String>> {
        self.installed.cluster.s3.open_uploads(&format!("{}/", self.namespace))
    }

    /// What a command in a pod prints; an exit code other than 0 is an error.
    pub async fn exec(&self, pod: &str, command: &str) -> Result<String> {
        self.kubectl(&["exec", pod, "--", "sh", "-c", command]).await
    }

    /// Waits until no process in the pod has `word` in its command line.
    pub async fn no_process(&self, pod: &str, word: &str) -> Result<()> {
        // The brackets keep the search from finding itself.
        let (first, rest) = word.split_at(1);
        let look = format!("ps | grep '[{first}]{rest}' || true");
        until(&format!("no process {word} in pod {pod}"), || async {
            Ok(self.exec(pod, &look).await?.trim().is_empty().then_some(()))
        })
        .await
    }

    /// Reasons of the Events about an object of this namespace.
    pub async fn event_reasons(&self, name: &str) -> Result<Vec<String>> {
        let api: Api<Event> = self.api();
        let events = api.list(&ListParams::default().fields(&format!("involvedObject.name={name}"))).await?;
        Ok(events.items.into_iter().filter_map(|event| event.reason).collect())
    }

    /// Ends the scene: its namespace goes.
    pub async fn end(mut self) -> Result<()> {
        self.ended = true;
        self.installed.remove_namespace(&self.namespace).await
    }
}

/// Waits until every replica of the operator says that it is ready, and one of them leads.
pub async fn operator_ready(installed: &Installed) -> Result<()> {
    let api: Api<Deployment> = Api::namespaced(installed.admin.clone(), "backup-system");
    until_for(TWO_LEASES, "the operator to be ready", || async {
        let deployment = api.get("operator").await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        // A status that is of the Deployment as it was before a change says nothing of it as it is.
        if status.observed_generation < deployment.metadata.generation {
            return Ok(None);
        }
        if [status.ready_replicas, status.updated_replicas, status.replicas] != [wanted; 3] {
            return Ok(None);
        }
        Ok(leader(installed).await?.map(drop))
    })
    .await
}

/// The pod of the operator that leads, if it is there and Ready.
pub async fn leader(installed: &Installed) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(installed.admin.clone(), "backup-system");
    let lease = leases.get_opt("ubo-scheduler").await?;
    let Some(holder) = lease.and_then(|lease| lease.spec?.holder_identity) else { return Ok(None) };
    let pods = operator_pods(installed).await?;
    let name = |pod: &Pod| pod.metadata.name.clone();
    Ok(pods.iter().filter(|pod| is_ready(pod)).find_map(|pod| name(pod).filter(|name| is_of(&holder, name))))
}

/// Whether an instance (pod name and five letters) is a process of this pod.
pub fn is_of(instance: &str, pod: &str) -> bool {
    instance.rsplit_once('-').is_some_and(|(name, _)| name == pod)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Every pod of the operator, those that are to go included.
pub async fn operator_pods(installed: &Installed) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    Ok(api.list(&ListParams::default().labels(OPERATOR_PODS)).await?.items)
}

/// Kills the replica that executes: the instance as a run's status names it.
pub async fn kill_executor(installed: &Installed, instance: &str) -> Result<()> {
    let pods = operator_pods(installed).await?.into_iter().filter_map(|pod| pod.metadata.name);
    let names: Vec<_> = pods.filter(|pod| is_of(instance, pod)).collect();
    ensure!(names.len() == 1, "no pod of {instance}");
    kill_pods(installed, &names).await
}

/// Kills pods of the operator: with a second to clean up in, which no backup ends in. Returns when they are gone and
/// others ready in their place.
pub async fn kill_pods(installed: &Installed, names: &[String]) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    for name in names {
        let now = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        api.delete(name, &now).await?;
    }
    // A pod that is forced away at once leaves a process that still writes for a second; these are dead when they go.
    until("the killed operator to be gone", || async {
        let there = operator_pods(installed).await?;
        let is_old = |pod: &Pod| pod.metadata.name.as_ref().is_some_and(|name| names.contains(name));
        Ok((!there.iter().any(is_old)).then_some(()))
    })
    .await?;
    operator_ready(installed).await
}

/// Standard output of a program that is given `input`; an exit code other than 0 is an error.
pub async fn pipe(program: &str, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>> {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let feed = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await??;
    feed.await??;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    Ok(output.stdout)
}

/// Sets a field of a document by its path.
pub fn edit(document: &mut Value, path: &str, value: Value) {
    set(document, path, value);
}
