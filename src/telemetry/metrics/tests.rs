//! **P** The registry against its own list, and the life of a job's series.

use super::*;
use serde_json::json;
use std::collections::BTreeMap;

fn job(name: &str) -> JobRef {
    JobRef::new("default", name).unwrap()
}

fn text(metrics: &Metrics) -> String {
    metrics.render(&Readiness::new()).unwrap()
}

fn has(metrics: &Metrics, line: &str) -> bool {
    text(metrics).lines().any(|found| found == line)
}

/// A status with everything that is shown, as the API server has it.
fn status() -> BackupJobStatus {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "Valid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let healthy = json!({
        "type": "Healthy", "status": "False", "reason": "BackupShrunk", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(json!({
        "conditions": [ready, healthy],
        "lastRunTime": "2026-01-01T00:00:00Z",
        "lastSuccessTime": "2025-12-31T00:00:00Z",
        "nextRunTime": "2026-01-02T00:00:00Z",
        "consecutiveFailures": 2,
    }))
    .unwrap()
}

/// A registry in which everything has happened once.
fn busy() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new().unwrap());
    metrics.at_scrape(|| Scraped { in_flight: 2, queued: 3 });
    metrics.job_seen(&job("pg"), &status());
    let run = metrics.run_series(&job("pg"));
    run.moved(10, 4);
    run.ended(Phase::Succeeded, None, Duration::from_secs(7));
    metrics.run_series(&job("pg")).ended(Phase::Failed, Some(Reason::StreamCut), Duration::from_secs(9));
    metrics.attempt_ended(Some(Reason::StreamCut));
    metrics.tick_claimed(Duration::from_millis(40));
    metrics.ticks_skipped(TickSkip::Superseded, 3);
    metrics.status_write(StatusWrite::Written);
    metrics.event_write(EventWrite::Dropped);
    metrics
}

#[test]
fn what_is_shown_is_what_is_listed() {
    let text = text(&busy());
    let shown: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let kind = |metric: &Metric| match metric.kind() {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let listed: BTreeMap<&str, &str> = Metric::ALL.iter().map(|metric| (metric.name(), kind(metric))).collect();
    assert_eq!(shown, listed);
    for metric in Metric::ALL {
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name(), metric.help())), "{metric:?}");
    }
}

#[test]
fn names_follow_the_conventions() {
    for metric in Metric::ALL {
        let name = metric.name();
        assert!(name.starts_with("ubo_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
        if metric.kind() == Kind::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        assert!(metric.help().ends_with('.'), "{name}");
        let known = ["namespace", "job", "phase", "reason", "result", "gate", "version"];
        assert!(metric.labels().iter().all(|label| known.contains(label)), "{name}");
    }
}

#[test]
fn values_arrive_where_they_belong() {
    let metrics = busy();
    for line in [
        r#"ubo_runs_total{job="pg",namespace="default",phase="Succeeded",reason="None"} 1"#,
        r#"ubo_runs_total{job="pg",namespace="default",phase="Failed",reason="StreamCut"} 1"#,
        r#"ubo_attempts_total{reason="StreamCut"} 1"#,
        r#"ubo_attempts_total{reason="EmptyBackup"} 0"#,
        "ubo_exec_streams_cut_total 1",
        r#"ubo_read_bytes_total{job="pg",namespace="default"} 10"#,
        r#"ubo_stored_bytes_total{job="pg",namespace="default"} 4"#,
        r#"ubo_job_last_success_timestamp_seconds{job="pg",namespace="default"} 1767139200"#,
        r#"ubo_job_last_run_timestamp_seconds{job="pg",namespace="default"} 1767225600"#,
        r#"ubo_job_consecutive_failures{job="pg",namespace="default"} 2"#,
        r#"ubo_job_next_run_timestamp_seconds{job="pg",namespace="default"} 1767312000"#,
        r#"ubo_job_ready{job="pg",namespace="default"} 1"#,
        r#"ubo_run_duration_seconds_bucket{phase="Succeeded",le="15"} 1"#,
        r#"ubo_ticks_skipped_total{reason="Superseded"} 3"#,
        r#"ubo_claim_delay_seconds_bucket{le="0.05"} 1"#,
        "ubo_runs_queued 3",
        "ubo_runs_in_flight 2",
        r#"ubo_ready{gate="cluster"} 0"#,
    ] {
        assert!(has(&metrics, line), "{line} is not in\n{}", text(&metrics));
    }
}

#[test]
fn an_open_gate_is_shown() {
    let metrics = Metrics::new().unwrap();
    let readiness = Readiness::new();
    readiness.open(Gate::Cluster);
    let text = metrics.render(&readiness).unwrap();
    assert!(
        text.contains("ubo_ready{gate=\"cluster\"} 1\n") && text.contains("ubo_ready{gate=\"admission-policies\"} 0\n")
    );
}

#[test]
fn a_job_that_goes_takes_all_its_series_along() {
    let metrics = busy();
    metrics.job_seen(&job("other"), &BackupJobStatus::default());
    let late = metrics.run_series(&job("pg"));
    metrics.job_removed(&job("pg"));
    late.moved(1, 1);
    late.ended(Phase::Cancelled, Some(Reason::Deleted), Duration::from_secs(1));
    let text = text(&metrics);
    assert!(!text.contains("\"pg\""), "{text}");
    assert!(text.contains("\"other\""));
    // One of the same name, made anew, begins from nothing.
    metrics.run_series(&job("pg")).ended(Phase::Succeeded, None, Duration::from_secs(1));
    assert!(has(&metrics, r#"ubo_runs_total{job="pg",namespace="default",phase="Succeeded",reason="None"} 1"#));
}

#[test]
fn a_job_that_has_never_run_shows_no_time() {
    let metrics = Metrics::new().unwrap();
    metrics.job_seen(&job("pg"), &BackupJobStatus::default());
    assert!(!text(&metrics).contains("_timestamp_seconds{"));
    // Suspended: the time that was shown goes.
    metrics.job_seen(&job("pg"), &status());
    metrics.job_seen(&job("pg"), &BackupJobStatus { next_run_time: None, ..status() });
    assert!(text(&metrics).contains("ubo_job_last_run_timestamp_seconds{"));
    assert!(!text(&metrics).contains("ubo_job_next_run_timestamp_seconds{"));
    metrics.job_seen(&job("pg"), &BackupJobStatus::default());
    assert!(has(&metrics, r#"ubo_job_ready{job="pg",namespace="default"} 0"#));
}

#[test]
fn health_is_shown_and_goes_with_its_job() {
    let metrics = busy();
    assert!(has(&metrics, r#"ubo_job_healthy{job="pg",namespace="default"} 0"#), "{}", text(&metrics));
    assert!(has(&metrics, r#"ubo_job_backup_shrunk{job="pg",namespace="default"} 1"#));
    let mut good = status();
    good.conditions[1].status = "True".into();
    good.conditions[1].reason = "BackupSucceeded".into();
    metrics.job_seen(&job("pg"), &good);
    assert!(has(&metrics, r#"ubo_job_healthy{job="pg",namespace="default"} 1"#));
    assert!(has(&metrics, r#"ubo_job_backup_shrunk{job="pg",namespace="default"} 0"#));
    metrics.job_removed(&job("pg"));
    assert!(!text(&metrics).contains("ubo_job_healthy{"));
}
