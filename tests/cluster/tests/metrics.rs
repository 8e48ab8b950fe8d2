//! What Prometheus gets of the operator as it is installed.

mod installed;
mod operator;
mod scene;

use anyhow::{Result, ensure};
use installed::until;
use operator::get_both;
use scene::{BUSYBOX, Scene, edit};
use serde_json::json;
use ubo::telemetry::metrics::Metric;

#[tokio::test]
async fn a_success_and_a_failure_are_seen_and_go_with_their_jobs() -> Result<()> {
    let scene = Scene::new("metrics").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let good = scene.back_up(&scene.job("good", "seq 1 1000", |_| {})).await?;
    let bad = scene.back_up(&scene.job("bad", "echo x; exit 4", |_| {})).await?;
    scene.apply(&scene.job("planned", "echo x", |job| edit(job, "spec.schedule", json!("0 0 1 1 *")))).await?;
    let planned = scene
        .job_until("planned", "to know its next run", |job| {
            job.status.as_ref().is_some_and(|status| status.next_run_time.is_some())
        })
        .await?;
    let planned = planned.status.and_then(|status| status.next_run_time);
    let namespace = &scene.namespace;
    let of = |job: &str| format!("job=\"{job}\",namespace=\"{namespace}\"");
    let seconds = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map_or(0, |time| time.0.as_second())
    };
    let expected = [
        format!("ubo_runs_total{{{},phase=\"Succeeded\",reason=\"None\"}} 1", of("good")),
        format!("ubo_runs_total{{{},phase=\"Failed\",reason=\"CommandFailed\"}} 1", of("bad")),
        format!("ubo_job_consecutive_failures{{{}}} 0", of("good")),
        format!("ubo_job_consecutive_failures{{{}}} 1", of("bad")),
        format!("ubo_job_last_success_timestamp_seconds{{{}}} {}", of("good"), seconds(&good.start_time)),
        format!("ubo_job_last_run_timestamp_seconds{{{}}} {}", of("bad"), seconds(&bad.start_time)),
        format!("ubo_job_ready{{{}}} 1", of("good")),
        format!("ubo_job_next_run_timestamp_seconds{{{}}} {}", of("planned"), seconds(&planned)),
        format!("ubo_read_bytes_total{{{}}} 3893", of("good")),
        "ubo_ready{gate=\"cluster\"} 1".to_owned(),
        "ubo_ready{gate=\"admission-policies\"} 1".to_owned(),
    ];
    // Each pod by itself, as a Prometheus does: the gauges of jobs are the leader's.
    let scrape = || async {
        let [(_, leads), (_, follows)] = get_both(&scene.installed, "/metrics").await?;
        ensure!(leads.contains("\nubo_leader 1\n") && follows.contains("\nubo_leader 0\n"), "{leads}\n{follows}");
        ensure!(!follows.contains("ubo_job_ready{"), "a follower shows gauges of jobs: {follows}");
        anyhow::Ok(leads)
    };
    // Gauges of a job follow its status, which is written after the run's own.
    let text = until("the metrics of the jobs", || async {
        let text = scrape().await?;
        Ok(expected.iter().all(|line| text.lines().any(|have| have == line)).then_some(text))
    })
    .await;
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let text = scrape().await?;
            let ours: Vec<_> = text.lines().filter(|line| line.contains(namespace.as_str())).collect();
            anyhow::bail!("{error}: {expected:#?} in {ours:#?}");
        }
    };
    for metric in Metric::ALL {
        ensure!(
            text.contains(&format!("# HELP {} {}\n", metric.name(), metric.help())),
            "{} is not served",
            metric.name()
        );
    }
    ensure!(
        !text.contains(&format!("ubo_job_last_success_timestamp_seconds{{{}}}", of("bad"))),
        "a success that never was: {text}"
    );

    scene.kubectl(&["delete", "backupjob", "good", "bad", "planned"]).await?;
    until("the series of the jobs to go", || async {
        Ok((!scrape().await?.contains(namespace.as_str())).then_some(()))
    })
    .await?;
    for path in ["/livez", "/readyz"] {
        for (status, said) in get_both(&scene.installed, path).await? {
            ensure!(status == 200, "{path}: {said}");
        }
    }
    scene.end().await
}
