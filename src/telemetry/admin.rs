//! **A** The admin port: `/livez`, `/readyz`, `/metrics`. Nothing behind it changes anything or holds a secret.

use super::metrics::Metrics;
use super::readiness::Readiness;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::Write as _;
use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long an open request may still take after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// A bound port, not served yet: a port that is taken is an error at the start, not a log line later.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

impl Admin {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// The address that was bound; its port is the real one where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `cancel`, then lets open requests end for at most 5 s.
    pub async fn serve(
        self,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(show_metrics))
            .with_state(Shown { metrics, readiness });
        let drained = cancel.clone();
        let serve = axum::serve(self.listener, router).with_graceful_shutdown(cancel.cancelled_owned());
        tokio::select! {
            result = serve.into_future() => result,
            () = async { drained.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
        }
    }
}

/// A line for each gate, as the API server's own `/readyz?verbose` has them.
async fn readyz(State(shown): State<Shown>) -> Response {
    let states = shown.readiness.states();
    let mut body = String::new();
    for (gate, why) in &states {
        let _ = match why {
            None => writeln!(body, "[+] {}: ok", gate.as_str()),
            Some(why) => writeln!(body, "[-] {}: {}", gate.as_str(), why.replace('\n', " ")),
        };
    }
    let ready = states.iter().all(|(_, why)| why.is_none());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body).into_response()
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    // Ten thousand jobs are 10 MB of text: not on a thread that others wait for.
    let text = tokio::task::spawn_blocking(move || shown.metrics.render(&shown.readiness)).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be gathered\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::readiness::Gate;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_says_how_things_are_and_ends_when_told() {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.address().unwrap();
        let (metrics, readiness) = (Arc::new(Metrics::new().unwrap()), Arc::new(Readiness::new()));
        let cancel = CancellationToken::new();
        let served = tokio::spawn(admin.serve(metrics, readiness.clone(), cancel.clone()));

        assert!(ask(address, "/livez").await.starts_with("HTTP/1.1 200"));
        readiness.close(Gate::AdmissionPolicies, "policy x differs;\nrun `ubo install`");
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("[-] admission-policies: policy x differs; run `ubo install`\n"), "{answer}");
        for gate in Gate::ALL {
            readiness.open(*gate);
        }
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[+] cluster: ok\n"), "{answer}");

        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("ubo_ready{gate=\"cluster\"} 1\n"), "{answer}");
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        cancel.cancel();
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_at_once() {
        let first = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(Admin::bind(first.address().unwrap()).await.is_err());
    }
}
