//! **P** The parts of the cluster: what each is started with, and what it reads.
//!
//! The settings that are not a matter of taste, each found by its absence: `restrict_oom_score_adj` (without
//! CAP_SYS_RESOURCE every sandbox dies), `failCgroupV1`, `enforceNodeAllocatable`, `conntrack.maxPerCore` (the sysctl
//! belongs to the host), own folders for everything that would otherwise lie in `/var/lib` or `/run`.

use crate::place::{API_PORT, DNS, NODE, Place, S3_PORT};
use crate::process::Start;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The parts in the order in which they are started; ended in the order of [`END`].
pub const ALL: [&str; 9] =
    ["etcd", "containerd", "s3", "apiserver", "controllers", "scheduler", "kubelet", "proxy", "dns"];

/// Each in turn and waited for: the API server needs etcd for an orderly end, and the kubelet needs containerd.
pub const END: [&str; 8] = ["dns", "proxy", "kubelet", "scheduler", "controllers", "apiserver", "etcd", "s3"];

/// Those that need the API server when they start.
pub const AFTER_API: [&str; 5] = ["controllers", "scheduler", "kubelet", "proxy", "dns"];

/// What one sentence says about a part.
pub fn what(name: &str) -> &'static str {
    match name {
        "etcd" => "the API server's store",
        "containerd" => "runs the containers",
        "s3" => "versitygw, an S3 server over a folder",
        "apiserver" => "kube-apiserver",
        "controllers" => "kube-controller-manager",
        "scheduler" => "kube-scheduler",
        "kubelet" => "the node",
        "proxy" => "kube-proxy: Services",
        "dns" => "CoreDNS: Service names",
        _ => "",
    }
}

/// The built programs.
pub struct Programs {
    /// All Kubernetes programs in one.
    pub kubernetes: PathBuf,
    /// CoreDNS.
    pub coredns: PathBuf,
    /// The S3 server.
    pub versitygw: PathBuf,
}

/// The keys of the S3 server's owner.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Keys {
    /// `AWS_ACCESS_KEY_ID`
    pub access: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: String,
}

/// How the part of this name is started.
pub fn start<'a>(place: &Place, programs: &Programs, keys: &Keys, name: &'a str) -> Start<'a> {
    let state = |name: &str| place.state.join(name).display().to_string();
    let conf = |user: &str| place.kubeconfig(user).display().to_string();
    let program = |path: &Path, words: &[String]| {
        let mut line = vec![path.display().to_string()];
        line.extend_from_slice(words);
        line
    };
    let mut variables = Vec::new();
    let line = match name {
        "etcd" => words(&[
            "etcd",
            &format!("--data-dir={}", state("etcd")),
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // A test cluster that loses its machine is made anew.
            "--unsafe-no-fsync",
        ]),
        "containerd" => words(&["containerd", "--config", &state("conf/containerd.toml")]),
        "s3" => {
            variables.push(("ROOT_ACCESS_KEY", keys.access.clone()));
            variables.push(("ROOT_SECRET_KEY", keys.secret.clone()));
            program(&programs.versitygw, &words(&["--port", &format!("{NODE}:{S3_PORT}"), "posix", &state("s3")]))
        }
        "apiserver" => program(&programs.kubernetes, &api_server(&state("pki"))),
        "controllers" => program(
            &programs.kubernetes,
            &words(&[
                "kube-controller-manager",
                &format!("--kubeconfig={}", conf(name)),
                &format!("--authentication-kubeconfig={}", conf(name)),
                &format!("--authorization-kubeconfig={}", conf(name)),
                &format!("--service-account-private-key-file={}", state("pki/account.key")),
                &format!("--root-ca-file={}", state("pki/ca.crt")),
                &format!("--cluster-signing-cert-file={}", state("pki/ca.crt")),
                &format!("--cluster-signing-key-file={}", state("pki/ca.key")),
                "--use-service-account-credentials",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
            ]),
        ),
        "scheduler" => program(
            &programs.kubernetes,
            &words(&[
                "kube-scheduler",
                &format!("--kubeconfig={}", conf(name)),
                &format!("--authentication-kubeconfig={}", conf(name)),
                &format!("--authorization-kubeconfig={}", conf(name)),
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
            ]),
        ),
        "kubelet" => program(
            &programs.kubernetes,
            &words(&[
                "kubelet",
                &format!("--config={}", state("conf/kubelet.json")),
                &format!("--kubeconfig={}", conf(name)),
                &format!("--root-dir={}", state("kubelet")),
                "--hostname-override=node",
                &format!("--node-ip={NODE}"),
            ]),
        ),
        "proxy" => {
            program(&programs.kubernetes, &words(&["kube-proxy", &format!("--config={}", state("conf/proxy.json"))]))
        }
        _ => program(&programs.coredns, &words(&["-conf", &state("conf/Corefile")])),
    };
    Start { name, line, variables }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn api_server(pki: &str) -> Vec<String> {
    let mut line = words(&[
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        &format!("--secure-port={API_PORT}"),
        &format!("--advertise-address={NODE}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--kubelet-preferred-address-types=InternalIP",
        // The aggregated API: the front proxy's identity, and routes to a Service's endpoints.
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--enable-aggregator-routing=true",
    ]);
    for (flag, file) in [
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("client-ca-file", "ca.crt"),
        ("service-account-key-file", "account.pub"),
        ("service-account-signing-key-file", "account.key"),
        ("kubelet-client-certificate", "apiserver-kubelet.crt"),
        ("kubelet-client-key", "apiserver-kubelet.key"),
        ("requestheader-client-ca-file", "front-proxy-ca.crt"),
        ("proxy-client-cert-file", "front-proxy.crt"),
        ("proxy-client-key-file", "front-proxy.key"),
    ] {
        line.push(format!("--{flag}={pki}/{file}"));
    }
    line
}

/// The files that the parts read: path below the state, content.
pub fn files(place: &Place) -> Vec<(&'static str, String)> {
    let state = place.state.display();
    let conf = |user: &str| place.kubeconfig(user).display().to_string();
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{state}/pki/ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{state}/pki/kubelet.crt"), "tlsPrivateKeyFile": format!("{state}/pki/kubelet.key"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{}", place.name),
        "failCgroupV1": false, "failSwapOn": false, "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{}", place.containerd_socket().display()),
        "clusterDNS": [DNS], "clusterDomain": "cluster.local", "resolvConf": "",
        // A developer's disk is often nearly full; images that nobody can pull again must not be collected.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
            "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "podLogsDir": format!("{state}/pod-logs"), "volumePluginDir": format!("{state}/volume-plugins"),
        "healthzBindAddress": "127.0.0.1",
        // Tests start and end pods all day: status and secrets shall not lag by the usual minute.
        "syncFrequency": "10s", "shutdownGracePeriod": "0s", "registryPullQPS": 0,
    });
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": conf("proxy")}, "hostnameOverride": "node", "mode": "iptables",
        "clusterCIDR": "10.244.0.0/16", "conntrack": {"maxPerCore": 0}, "bindAddress": "127.0.0.1",
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
    });
    vec![
        ("conf/kubelet.json", pretty(&kubelet)),
        ("conf/proxy.json", pretty(&proxy)),
        ("conf/Corefile", corefile(&conf("admin"))),
        ("conf/containerd.toml", containerd(place)),
        ("cni/10-pods.conflist", pretty(&network(place))),
    ]
}

fn pretty(document: &Value) -> String {
    format!("{document:#}\n")
}

/// The pods' network. Its name is the cluster's own, because the plugins' results lie in a folder of the whole machine.
fn network(place: &Place) -> Value {
    json!({"cniVersion": "0.4.0", "name": place.name, "plugins": [
        {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": place.state.join("addresses"),
                "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn corefile(kubeconfig: &str) -> String {
    format!(
        ". {{\n    bind {DNS}\n    errors\n    health 127.0.0.1:8080\n    ready 127.0.0.1:8181\n    kubernetes \
         cluster.local in-addr.arpa {{\n        kubeconfig {kubeconfig} rig\n        ttl 5\n    }}\n}}\n"
    )
}

fn containerd(place: &Place) -> String {
    let state = place.state.display();
    let socket = place.containerd_socket();
    let socket = socket.display();
    format!(
        r#"version = 2
root = "{state}/containerd"
state = "{state}/run"

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{state}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{state}/runc"

[plugins."io.containerd.internal.v1.opt"]
path = "{state}/opt"
"#
    )
}
