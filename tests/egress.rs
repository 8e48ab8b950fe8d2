//! What the operator's S3 client does when it is led astray: by a name, by a redirect.

use axum::Router;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use ubo::api::names::ObjectKey;
use ubo::destination::Destination;
use ubo::destination::address::Address;
use ubo::destination::build::build_within;
use ubo::destination::egress::Egress;
use ubo::error::{Failure, Reason};

/// A destination behind `endpoint`, as the operator builds it.
fn destination(egress: Egress, endpoint: &str) -> Arc<dyn Destination> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|key| (key.to_owned(), "x".to_owned()));
    let options = BTreeMap::from([("endpoint".to_owned(), endpoint.to_owned())]);
    let address = Address::parse("s3://bucket/x").expect("an address");
    build_within(&Arc::new(egress), &address, &options, &BTreeMap::from(keys)).expect("a destination")
}

/// A server at this address that counts what it is asked, and answers with `answer`.
async fn server(
    at: &str,
    answer: impl Fn(&Uri) -> axum::response::Response + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let listener = tokio::net::TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let routes = Router::new().fallback(move |uri: Uri| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(answer(&uri))
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, asked)
}

/// What every kind of request comes to.
async fn failures(destination: &dyn Destination) -> Vec<Failure> {
    let key = ObjectKey::new("a/b").expect("a key");
    let put = destination.put(&key, bytes::Bytes::from_static(b"x"), ubo::destination::Put::Always).await.err();
    let read = destination.read(&key, None).await.err();
    let stat = destination.stat(&key).await.err();
    [put, read, stat].into_iter().flatten().collect()
}

#[tokio::test]
async fn a_name_that_is_loopback_is_refused_before_anything_is_asked() {
    let (server, asked) = server("127.0.0.1:0", |_| StatusCode::NOT_FOUND.into_response()).await;
    let endpoint = format!("http://localhost:{}", server.port());
    let failed = failures(destination(Egress::of_operator(), &endpoint).as_ref()).await;
    assert_eq!(failed.len(), 3, "{failed:?}");
    for failure in failed {
        assert_eq!(failure.reason, Reason::DestinationForbidden, "{failure}");
        assert!(failure.message.contains("localhost is at "), "{failure}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // The same server is asked where nothing is refused: it is not the server that was not there.
    let there = destination(Egress::unrestricted(), &endpoint).stat(&ObjectKey::new("a/b").expect("a key")).await;
    assert!(there.is_ok_and(|found| found.is_none()) && asked.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let (inner, asked) = server("127.0.0.2:0", |_| "secret of the node".into_response()).await;
    for status in [StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT] {
        let location = format!("http://{inner}/latest/meta-data");
        let answer = move |_: &Uri| (status, [(header::LOCATION, location.clone())]).into_response();
        let (outer, outer_asked) = server("127.0.0.1:0", answer).await;
        // The outer server is allowed here, so that there is somebody to redirect; where it leads to is refused.
        let egress = Egress::unrestricted().denying(["127.0.0.2/32".parse().expect("a network")]);
        let failed = failures(destination(egress, &format!("http://{outer}")).as_ref()).await;
        assert_eq!(failed.len(), 3, "{status}: {failed:?}");
        for failure in failed {
            assert_eq!(failure.reason, Reason::DestinationNotFound, "{status}: {failure}");
            let says = |word| failure.message.contains(word);
            assert!(
                says("redirect") && says("endpoint") && !says("secret") && !says("127.0.0.2"),
                "{status}: {failure}"
            );
        }
        assert_eq!(outer_asked.load(Ordering::SeqCst), 3, "{status}: each is asked once");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "a redirect was followed");
}
