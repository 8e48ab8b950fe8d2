//! What the tests of the exec source stand on: a namespace of their own, opted in, pods in it, and a relay in front of
//! the API server that can be cut.

#![allow(dead_code, reason = "part of two test binaries, each of which uses a part of it")]

use futures::future::{AbortHandle, abortable};
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Selector;
use kube::runtime::conditions::is_pod_running;
use kube::runtime::wait::await_condition;
use kube::{Api, Config};
use rig::Cluster;
use rig::fault_proxy::FaultProxy;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use ubo::api::names::{JobRef, Namespace, ObjectKey, RunName, Uid};
use ubo::clock::SystemClock;
use ubo::error::Failure;
use ubo::run::AttemptId;
use ubo::source::exec::ExecSource;
use ubo::source::exec_loop::Times;
use ubo::source::{Capture, Completion, Source};
use ubo::target::{ResolvedPod, resolve};
use ubo::tenant::{Account, Tenants};
use ubo::validate::{Dump, DumpForm, Pods, Target, Work, WorkloadKind};

pub(crate) const UID: &str = "6b1cbb4c-0000-4000-8000-000000000001";
pub(crate) const OTHER_UID: &str = "6b1cbb4c-0000-4000-8000-000000000002";

/// One test's namespace; it goes with it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Namespace,
    pub(crate) config: Config,
    pub(crate) tenants: Tenants,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Command::new(&self.cluster.kubectl)
            .args(["delete", "namespace", self.namespace.as_str(), "--wait=false"])
            .output();
    }
}

impl World {
    /// A namespace that was opted in as its admin would do it.
    pub(crate) async fn new(name: &str) -> World {
        let world = World::closed(name).await;
        let opt_in = std::fs::read_to_string(world.cluster.checkout.join("manifests/namespace.yaml")).unwrap();
        world.apply(&opt_in);
        world
    }

    /// A namespace that nobody opted in.
    pub(crate) async fn closed(name: &str) -> World {
        let cluster = Cluster::from_env().unwrap();
        let namespace = Namespace::new(format!("exec-{name}-{}", std::process::id())).unwrap();
        let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let tenants = Tenants::new(config.clone(), Arc::new(SystemClock)).unwrap();
        let world = World { cluster, namespace, config, tenants };
        world.kubectl(&["create", "namespace", world.namespace.as_str()]);
        // The two roles that the tenants' rights come from, as they are installed.
        let install = std::fs::read_to_string(world.cluster.checkout.join("manifests/install.yaml")).unwrap();
        let roles: Vec<&str> = install
            .split("\n---\n")
            .filter(|document| document.contains("\nkind: ClusterRole\n"))
            .filter(|document| {
                ["backup-runner", "backup-target"].iter().any(|name| document.contains(&format!("\n  name: {name}\n")))
            })
            .collect();
        assert_eq!(roles.len(), 2);
        world.apply(&roles.join("\n---\n"));
        world
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let out = Command::new(&self.cluster.kubectl).args(arguments).output().unwrap();
        assert!(out.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let mut child = Command::new(&self.cluster.kubectl)
            .args(["apply", "-n", self.namespace.as_str(), "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{manifest}");
    }

    /// A pod of one container `main` that sleeps; `more` is laid over its spec.
    pub(crate) async fn pod(&self, name: &str, image: &str, more: &Value) -> ResolvedPod {
        let mut spec = json!({
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "Never",
                "command": if image.contains("pause") { json!(["/pause"]) } else { json!(["sh", "-c", "sleep 100000"]) },
            }],
        });
        merge(&mut spec, more);
        self.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string());
        let client = kube::Client::try_from(self.config.clone()).unwrap();
        let pods = Api::<Pod>::namespaced(client, self.namespace.as_str());
        let running = await_condition(pods, name, is_pod_running());
        tokio::time::timeout(Duration::from_mins(3), running).await.expect("the pod does not run").unwrap();
        self.resolve(WorkloadKind::Pod, name, None).await.unwrap()
    }

    pub(crate) fn account(&self) -> Account {
        Account { namespace: self.namespace.clone(), name: "backup-runner".to_owned() }
    }

    pub(crate) async fn resolve(
        &self,
        kind: WorkloadKind,
        name: &str,
        container: Option<&str>,
    ) -> Result<ResolvedPod, Failure> {
        let client = self.tenants.client_for(&self.namespace, "backup-runner").await?;
        let target = Target {
            kind,
            name: name.to_owned(),
            namespace: self.namespace.clone(),
            path: None,
            container: container.map(str::to_owned),
            pods: Pods::First,
            pod_selector: Selector::default(),
        };
        resolve(client, &self.account(), &target).await
    }

    pub(crate) fn source(&self, pod: &ResolvedPod, dump: Dump) -> ExecSource {
        self.source_of(&self.tenants, pod, dump, UID)
    }

    pub(crate) fn source_of(&self, tenants: &Tenants, pod: &ResolvedPod, dump: Dump, uid: &str) -> ExecSource {
        let id = AttemptId {
            job: JobRef::new(self.namespace.as_str(), "pg").unwrap(),
            job_uid: Uid::new(OTHER_UID).unwrap(),
            cluster_id: Uid::new(OTHER_UID).unwrap(),
            run: RunName::new("pg-once").unwrap(),
            run_uid: Uid::new(uid).unwrap(),
            attempt: 1,
            scheduled_at: None,
            archive: ObjectKey::new("exec/pg").unwrap(),
        };
        let work = Work::Dump(dump);
        ExecSource::new(tenants.clone(), self.account(), pod.clone(), work, Some("/data".to_owned()), &id)
    }

    pub(crate) async fn run(&self, pod: &ResolvedPod, dump: Dump) -> Outcome {
        let capture = self.source(pod, dump).open(CancellationToken::new()).await;
        match capture {
            Ok(capture) => drain(capture, Pace::Fast).await,
            Err(failure) => Outcome { bytes: Vec::new(), completion: Err(failure) },
        }
    }

    /// What still runs in a container besides its first process and what that has started, and what lies at /backup.
    pub(crate) fn left_in(&self, pod: &ResolvedPod) -> Vec<String> {
        let look = "echo $$; cat /proc/[0-9]*/stat 2>/dev/null; echo; ls -d /backup* 2>/dev/null; ls -A /backup 2>/dev/null; true";
        let said = self.kubectl(&[
            "exec",
            "-n",
            self.namespace.as_str(),
            &pod.pod,
            "-c",
            &pod.container,
            "--",
            "sh",
            "-c",
            look,
        ]);
        let (own, said) = said.split_once('\n').unwrap();
        let (stats, files) = said.split_once("\n\n").unwrap_or((said, ""));
        let session =
            |line: &str| line.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3).map(str::to_owned));
        let processes = stats.lines().filter(|line| {
            let of = session(line);
            of.as_deref() != Some(own) && of.as_deref() != Some("1")
        });
        processes.chain(files.lines()).map(str::to_owned).collect()
    }

    /// Waits until a file is in /backup.
    pub(crate) async fn appears_in(&self, pod: &ResolvedPod, file: &str) {
        for _ in 0..240 {
            if self.left_in(pod).iter().any(|name| name == file) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("{file} does not appear");
    }

    /// Waits until nothing is left; `spared` are names that were there before.
    pub(crate) async fn nothing_left_in(&self, pod: &ResolvedPod, spared: &[&str]) {
        let mut left = Vec::new();
        for _ in 0..240 {
            left = self.left_in(pod);
            left.retain(|name| !spared.contains(&name.as_str()));
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("left in {}: {left:?}", pod.pod);
    }

    /// Tenants that reach the API server through a relay.
    pub(crate) async fn relayed(&self) -> (Relay, Tenants) {
        let relay = Relay::new(self.cluster.api.clone()).await;
        let tenants = self.tenants_at(&relay.address);
        (relay, tenants)
    }

    /// The same through a proxy whose connections can be reset.
    pub(crate) fn proxied(&self) -> (FaultProxy, Tenants) {
        let proxy = FaultProxy::tcp("127.0.0.1", &self.cluster.api).unwrap();
        let tenants = self.tenants_at(&proxy.address().to_string());
        (proxy, tenants)
    }

    fn tenants_at(&self, address: &str) -> Tenants {
        let mut config = self.config.clone();
        config.cluster_url = format!("https://{address}").parse().unwrap();
        config.tls_server_name = Some("kubernetes".to_owned());
        Tenants::new(config, Arc::new(SystemClock)).unwrap()
    }
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(more)) => {
            for (at, value) in more.iter().enumerate() {
                if at == into.len() {
                    into.push(Value::Null);
                }
                merge(&mut into[at], value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

pub(crate) fn stdout(command: &str) -> Dump {
    Dump { command: command.to_owned(), form: DumpForm::Stdout, allow_unchecked_pipes: false }
}

pub(crate) fn directory(command: &str) -> Dump {
    Dump { command: command.to_owned(), form: DumpForm::Directory("/backup".to_owned()), allow_unchecked_pipes: false }
}

/// Times for tests that wait for a stall.
pub(crate) fn hasty() -> Times {
    Times { stall: Duration::from_secs(6), ..Times::default() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    /// Begins three seconds late and takes about 30 MB/s: what loses the tail of a plain exec.
    Slow,
}

pub(crate) struct Outcome {
    pub(crate) bytes: Vec<u8>,
    pub(crate) completion: Result<Completion, Failure>,
}

impl Outcome {
    pub(crate) fn failure(self) -> Failure {
        match self.completion {
            Err(failure) => failure,
            Ok(completion) => panic!("a success of {} bytes: {completion:?}", self.bytes.len()),
        }
    }

    /// The bytes of a backup that is whole, and warnings apart nothing else.
    pub(crate) fn whole(self) -> Vec<u8> {
        match self.completion {
            Ok(Completion::Complete(ending)) => {
                assert_eq!((ending.exit_code, ending.warnings.as_slice()), (Some(0), &[] as &[String]));
                self.bytes
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn drain(mut capture: Capture, pace: Pace) -> Outcome {
    let mut bytes = Vec::new();
    if pace == Pace::Slow {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    while let Some(chunk) = capture.bytes.recv().await {
        if pace == Pace::Slow {
            tokio::time::sleep(Duration::from_micros(chunk.len() as u64 / 30)).await;
        }
        bytes.extend_from_slice(&chunk);
    }
    Outcome { bytes, completion: capture.completion.await }
}

/// Waits for the first bytes and gives how many came.
pub(crate) async fn begun(capture: &mut Capture) -> usize {
    tokio::time::timeout(Duration::from_mins(2), capture.bytes.recv())
        .await
        .expect("nothing came")
        .map_or(0, |b| b.len())
}

/// A TCP relay that can be cut, or held.
pub(crate) struct Relay {
    pub(crate) address: String,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    held: tokio::sync::watch::Sender<bool>,
    down: Arc<Mutex<Down>>,
}

/// What has come back from the server, in bytes, and after how many of them everything is cut.
#[derive(Default)]
struct Down {
    passed: u64,
    cut_at: Option<u64>,
}

impl Relay {
    async fn new(to: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let (held, watch) = tokio::sync::watch::channel(false);
        let down = Arc::<Mutex<Down>>::default();
        let (handles, count) = (open.clone(), down.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&to).await.unwrap();
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                let both = futures::future::join(
                    pass(near_read, far_write, watch.clone(), None),
                    pass(far_read, near_write, watch.clone(), Some((count.clone(), handles.clone()))),
                );
                let (task, handle) = abortable(both);
                handles.lock().unwrap().push(handle);
                tokio::spawn(task);
            }
        });
        Relay { address, open, held, down }
    }

    /// Bytes that have come back from the server.
    pub(crate) fn passed(&self) -> u64 {
        self.down.lock().unwrap().passed
    }

    /// Cuts every connection when exactly so many bytes more have come back from the server.
    pub(crate) fn cut_after(&self, bytes: u64) {
        let mut down = self.down.lock().unwrap();
        down.cut_at = Some(down.passed + bytes);
    }

    /// Every connection is gone at once, on both sides.
    pub(crate) fn cut(&self) {
        for handle in self.open.lock().unwrap().drain(..) {
            handle.abort();
        }
    }

    /// Not a byte passes any more, and nobody is told.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }
}

/// Where bytes are counted, and what is cut when enough of them have passed.
type Count = (Arc<Mutex<Down>>, Arc<Mutex<Vec<AbortHandle>>>);

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut held: tokio::sync::watch::Receiver<bool>,
    count: Option<Count>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(mut size) => {
                let mut last = false;
                if let Some((down, _)) = &count {
                    let mut down = down.lock().unwrap();
                    let left = down.cut_at.map_or(u64::MAX, |at| at.saturating_sub(down.passed));
                    last = size as u64 >= left;
                    size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
                    down.passed += size as u64;
                }
                if held.wait_for(|held| !held).await.is_err() || to.write_all(&buffer[..size]).await.is_err() {
                    break;
                }
                if let Some((_, open)) = count.as_ref().filter(|_| last) {
                    for handle in open.lock().unwrap().drain(..) {
                        handle.abort();
                    }
                }
            }
        }
    }
    let _ = to.shutdown().await;
}
