//! **A** Events against an API server that answers as told.

use super::*;
use crate::clock::FixedClock;
use crate::telemetry::readiness::Readiness;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Mutex;

type Seen = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// An API server that answers every request with this status, and what it was asked.
async fn server(status: StatusCode) -> (Client, Seen) {
    async fn answer(
        State((seen, status)): State<(Seen, StatusCode)>,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> impl IntoResponse {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let answer = if status.is_success() {
            json!({ "metadata": { "name": "answer" }, "eventTime": null })
        } else {
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status.as_u16(), "message": "no" })
        };
        seen.lock().unwrap().push((method, uri.path().to_owned(), body));
        (status, [(header::CONTENT_TYPE, "application/json")], answer.to_string())
    }
    let seen = Seen::default();
    let router = Router::new().fallback(answer).with_state((seen.clone(), status));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = kube::Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Client::try_from(config).unwrap(), seen)
}

fn run_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("backup.javy.dev/v1".into()),
        kind: Some("BackupRun".into()),
        name: Some(name.into()),
        namespace: Some("default".into()),
        uid: Some(format!("uid-of-{name}")),
        ..ObjectReference::default()
    }
}

/// Publishes, waits until all is written, and gives what the server saw and the metrics' lines about Events.
async fn publish(
    status: StatusCode,
    events: &[(&str, EventKind, &str)],
) -> (Vec<(Method, String, Value)>, Vec<String>) {
    let (client, seen) = server(status).await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Arc::new(FixedClock::at("2026-01-01T02:00:00.5Z".parse().unwrap()));
    let (publisher, writer) = Events::new(client, "operator-0", metrics.clone(), clock);
    for (name, kind, note) in events {
        publisher.publish(run_reference(name), *kind, *note);
    }
    drop(publisher);
    writer.await;
    let text = metrics.render(&Readiness::new()).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("ubo_events_total{")).map(str::to_owned).collect();
    let seen = seen.lock().unwrap().clone();
    (seen, lines)
}

#[tokio::test]
async fn an_event_has_all_that_the_api_demands() {
    let (seen, lines) = publish(
        StatusCode::CREATED,
        &[("pg-20260101-0200", EventKind::Failed(Reason::EmptyBackup), "the command wrote nothing")],
    )
    .await;
    let (method, path, body) = &seen[0];
    assert_eq!((method, path.as_str()), (&Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events"));
    assert!(body["metadata"]["name"].as_str().unwrap().starts_with("pg-20260101-0200."));
    assert_eq!(body["eventTime"], "2026-01-01T02:00:00.500000Z");
    assert_eq!(
        (&body["reason"], &body["type"], &body["action"]),
        (&json!("EmptyBackup"), &json!("Warning"), &json!("Backup"))
    );
    assert_eq!(body["note"], "the command wrote nothing");
    assert_eq!(body["regarding"]["uid"], "uid-of-pg-20260101-0200");
    assert_eq!(body["reportingController"], "backup.javy.dev/operator");
    assert_eq!(body["reportingInstance"], "operator-0");
    assert!(lines.contains(&"ubo_events_total{result=\"Written\"} 1".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn a_repetition_is_counted_and_another_note_is_not_one() {
    let kind = EventKind::NameTaken;
    let (seen, _) = publish(
        StatusCode::OK,
        &[
            ("a", kind, "taken"),
            ("a", kind, "taken"),
            ("a", kind, "taken"),
            ("a", kind, "still taken"),
            ("b", kind, "taken"),
        ],
    )
    .await;
    let methods: Vec<&Method> = seen.iter().map(|(method, _, _)| method).collect();
    assert_eq!(methods, [&Method::POST, &Method::PATCH, &Method::PATCH, &Method::POST, &Method::POST]);
    assert_eq!(seen[2].2["series"]["count"], 3);
    let name = seen[0].2["metadata"]["name"].as_str().unwrap();
    assert!(seen[1].1.ends_with(name), "{}", seen[1].1);
}

#[tokio::test]
async fn a_long_note_is_cut_to_what_the_api_takes() {
    let (seen, _) = publish(StatusCode::CREATED, &[("a", EventKind::TickSkipped, &"ü".repeat(2000))]).await;
    assert_eq!(seen[0].2["note"].as_str().unwrap().len(), 1024);
}

#[tokio::test]
async fn a_refusal_is_counted_and_the_next_event_is_written_all_the_same() {
    let (seen, lines) =
        publish(StatusCode::FORBIDDEN, &[("a", EventKind::Ready, "x"), ("b", EventKind::Ready, "y")]).await;
    assert_eq!(seen.len(), 2);
    assert!(lines.contains(&"ubo_events_total{result=\"Failed\"} 2".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn a_full_queue_drops_and_does_not_wait() {
    let (client, seen) = server(StatusCode::CREATED).await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Arc::new(FixedClock::at(DateTime::UNIX_EPOCH));
    let (publisher, writer) = Events::new(client, "operator-0", metrics.clone(), clock);
    for number in 0..QUEUE + 3 {
        publisher.publish(run_reference(&format!("run-{number}")), EventKind::RunStarted, "");
    }
    drop(publisher);
    writer.await;
    assert_eq!(seen.lock().unwrap().len(), QUEUE);
    let text = metrics.render(&Readiness::new()).unwrap();
    assert!(text.contains("ubo_events_total{result=\"Dropped\"} 3\n"));
}

#[test]
fn no_two_kinds_have_one_word() {
    let words: Vec<&str> = EventKind::all().map(EventKind::as_str).collect();
    assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    assert!(words.iter().all(|word| word.len() <= 128));
}
