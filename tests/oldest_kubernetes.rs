//! The operator refuses to start below Kubernetes 1.30, and says why. The binary itself, before a server that only says
//! which version it is.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Answers `/version` with this version and everything else with 503; tells which paths were asked for.
fn api_server(major: &'static str, minor: &'static str) -> (SocketAddr, Receiver<String>) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    let (tell, told) = channel();
    thread::spawn(move || {
        for stream in socket.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines().map_while(Result::ok);
            let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { continue };
            let _head = lines.take_while(|line| !line.is_empty()).count();
            let (status, body) = if path == "/version" {
                let version = format!("v{major}.{minor}.0");
                (
                    200,
                    format!(
                        r#"{{"major":"{major}","minor":"{minor}","gitVersion":"{version}","gitCommit":"","gitTreeState":"",
                    "buildDate":"","goVersion":"","compiler":"","platform":""}}"#
                    ),
                )
            } else {
                (503, String::new())
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            if tell.send(path).is_err() {
                return;
            }
        }
    });
    (address, told)
}

fn operator(address: SocketAddr) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters:\n- name: x\n  cluster: {{server: 'http://{address}'}}\n\
         users:\n- name: x\n  user: {{token: hunter2}}\ncontexts:\n- name: x\n  context: {{cluster: x, user: x}}\n"
    );
    std::fs::write(&file, text).expect("a kubeconfig");
    Command::new(env!("CARGO_BIN_EXE_ubo"))
        .args(["operator", "--metrics-address", "127.0.0.1:0"])
        .env("KUBECONFIG", file)
        .output()
        .expect("the operator")
}

#[test]
fn an_older_kubernetes_is_refused() {
    let (address, told) = api_server("1", "29");
    let output = operator(address);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["NotSupported", "v1.29.0", "1.30 is the oldest", "Upgrade the cluster"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["/version"], "it asked for more than the version");
}

#[test]
fn the_oldest_that_works_is_not_refused_however_its_vendor_writes_it() {
    let (address, told) = api_server("1", "30+");
    let output = operator(address);
    let said = String::from_utf8_lossy(&output.stderr);
    // It goes on to the next question, which this server does not answer.
    assert!(!output.status.success() && said.contains("ClusterUnavailable"), "{said}");
    assert_eq!(told.recv_timeout(Duration::from_secs(5)).as_deref(), Ok("/version"));
    let next = told.recv_timeout(Duration::from_secs(5));
    assert!(next.as_ref().is_ok_and(|path| path.contains("/namespaces/kube-system")), "{next:?}");
}
