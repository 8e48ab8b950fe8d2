//! The S3 server as backups meet it: refusing, broken off in the middle, or not there.
//!
//! What may pass by itself must not be noticed; what a person has to mend is said at once and not tried again; and
//! whatever happens, nothing is left at the server that is not a backup.

mod installed;
mod scene;
#[path = "../../destinations/suite.rs"]
mod suite;
mod through;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use installed::{until, until_for};
use rig::fault_proxy::{Fault, FaultProxy, Request, Rule, Which};
use scene::{BUSYBOX, Scene, edit};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use through::{DATA, is_whole, job_through, proxy, with_data};
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::destination::address::Address;
use ubo::destination::build::build;
use ubo::run::Phase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_by_itself_is_not_noticed() -> Result<()> {
    let (scene, digest) = with_data(40_000_000).await?;
    let part = |which, fault| Rule::new(which, fault).method("PUT").containing("partNumber=");
    let cases = [
        ("some-503", part(Which::EveryNth(3), Fault::Status(503))),
        ("cut-in-a-part", part(Which::Nth(2), Fault::CutAfter(3_000_000))),
        ("reset-in-a-part", part(Which::Nth(2), Fault::ResetAfter(3_000_000))),
        ("no-answer-to-a-part", part(Which::Nth(3), Fault::CutAnswerAfter(0))),
        (
            "no-answer-at-the-end",
            Rule::new(Which::First(1), Fault::CutAnswerAfter(0)).method("POST").containing("uploadId="),
        ),
        (
            "half-a-manifest",
            Rule::new(Which::First(1), Fault::CutAnswerAfter(20)).method("GET").containing("manifest.json"),
        ),
        ("manifest-503", Rule::new(Which::First(2), Fault::Status(503)).method("PUT").containing("manifest.json")),
    ];
    let runs = cases.into_iter().map(|(name, rule)| {
        let (scene, digest) = (&scene, &digest);
        async move {
            let proxy = proxy(scene)?;
            proxy.rule(rule);
            let status = scene.back_up(&job_through(scene, name, DATA, &proxy.endpoint())).await?;
            ensure!(proxy.seen().faults > 0, "{name}: nothing went wrong");
            ensure!(status.attempts.len() == 1, "{name}: {status:?}");
            is_whole(scene, &status, digest).await.context(name)
        }
    });
    try_join_all(runs).await?;
    ensure!(scene.open_uploads()?.is_empty(), "uploads left: {:?}", scene.open_uploads());
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_arrives_as_another_one_is_refused_and_the_run_tried_again() -> Result<()> {
    let (scene, digest) = with_data(20_000_000).await?;
    let proxy = proxy(&scene)?;
    proxy.rule(Rule::new(Which::Nth(2), Fault::Corrupt).method("PUT").containing("partNumber="));
    let mut job = job_through(&scene, "spoilt", DATA, &proxy.endpoint());
    edit(&mut job, "spec.retry", json!({"limit": 1, "backoffSeconds": 1}));
    let status = scene.back_up(&job).await?;
    let reasons: Vec<_> = status.attempts.iter().filter_map(|attempt| attempt.reason.as_deref()).collect();
    ensure!(reasons == ["DestinationMismatch", "Succeeded"], "{status:?}");
    is_whole(&scene, &status, &digest).await?;
    // Of the first attempt nothing is there.
    let objects = scene.objects().await?;
    ensure!(!objects.iter().any(|key| key.contains("-1/")), "{objects:?}");
    ensure!(scene.open_uploads()?.is_empty(), "uploads left: {:?}", scene.open_uploads());
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_waited_for_and_who_cancels_does_not_wait_for_it() -> Result<()> {
    let (scene, digest) = with_data(30_000_000).await?;
    let hangs = || Rule::new(Which::Nth(2), Fault::Stall).method("PUT").containing("partNumber=");
    let stalled = async |name: &str| -> Result<Arc<FaultProxy>> {
        let proxy = Arc::new(proxy(&scene)?);
        proxy.rule(hangs());
        scene.apply(&job_through(&scene, name, DATA, &proxy.endpoint())).await?;
        let asked = Arc::clone(&proxy);
        tokio::task::spawn_blocking(move || asked.wait(Duration::from_mins(1), |seen| seen.faults > 0)).await??;
        Ok(proxy)
    };
    let (patient, impatient) = tokio::try_join!(stalled("patient"), stalled("impatient"))?;
    let cancel = json!({"spec": {"cancel": true}}).to_string();
    scene.kubectl(&["patch", "br", "impatient-once", "--type=merge", "-p", &cancel]).await?;
    let status = scene.ended("impatient-once").await?;
    ensure!(status.phase == Phase::Cancelled, "{status:?}");
    patient.release();
    let status = scene.ended("patient-once").await?;
    ensure!(status.attempts.len() == 1, "{status:?}");
    is_whole(&scene, &status, &digest).await?;
    // What hung is let go: it must not become an upload again.
    impatient.release();
    until("no upload to be open", || async { Ok(scene.open_uploads()?.is_empty().then_some(())) }).await?;
    let left: Vec<_> = scene.objects().await?.into_iter().filter(|key| key.contains("/impatient-once-")).collect();
    ensure!(left.is_empty(), "{left:?}");
    scene.no_process("box", "/tmp/data").await?;
    scene.end().await
}

/// It takes parts of the data no more, and never says so: one run's while it reads, and the last ones of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_for_good_holds_a_run_up_for_no_longer_than_it_may_take() -> Result<()> {
    let (scene, digest) = with_data(60_000_000).await?;
    let proxy = Arc::new(proxy(&scene)?);
    proxy.rule(Rule::new(Which::All, Fault::Stall).method("PUT").containing("partNumber="));
    let hung = [("reading", DATA), ("at-its-end", "head -c 20000000 /tmp/data")];
    for (name, command) in hung {
        let mut job = job_through(&scene, name, command, &proxy.endpoint());
        edit(&mut job, "spec.activeDeadlineSeconds", json!(30));
        edit(&mut job, "spec.retry", json!({"limit": 5, "backoffSeconds": 1}));
        scene.apply(&job).await?;
    }
    until("both to hang", || async {
        let stalls = |name: &str| {
            let of = |request: &Request| request.fault.is_some() && request.target.contains(&format!("/{name}-once"));
            proxy.seen().requests.iter().any(of)
        };
        Ok(hung.iter().all(|(name, _)| stalls(name)).then_some(()))
    })
    .await?;
    let other = scene.back_up(&scene.job("other", DATA, |_| {})).await?;
    is_whole(&scene, &other, &digest).await?;
    for (name, _) in hung {
        let status = scene.ended(&format!("{name}-once")).await?;
        ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
        ensure!(status.reason.as_deref() == Some("DeadlineExceeded"), "{status:?}");
        let message = status.message.as_deref().unwrap_or_default();
        ensure!(message.contains("raise activeDeadlineSeconds") && !message.contains("stays"), "{message}");
        ensure!(other.completion_time < status.completion_time, "the other one had to wait: {other:?} {status:?}");
    }
    // What hung is let go, and has reached the server before anybody looks: it must not become an upload again.
    proxy.release();
    let asked = Arc::clone(&proxy);
    tokio::task::spawn_blocking(move || asked.wait(Duration::from_mins(1), |seen| seen.open == 0)).await??;
    scene.nothing_left_but("other").await?;
    scene.no_process("box", "/tmp/data").await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_in_mid_upload_ends_the_command_and_aborts_the_upload() -> Result<()> {
    let (scene, _) = with_data(10_000_000).await?;
    let proxy = proxy(&scene)?;
    proxy.rule(Rule::new(Which::Nth(3), Fault::Status(403)).method("PUT").containing("partNumber="));
    let mut job = job_through(&scene, "refused", "while cat /tmp/data; do :; done", &proxy.endpoint());
    edit(&mut job, "spec.retry", json!({"limit": 3, "backoffSeconds": 1}));
    let status = scene.back_up(&job).await?;
    ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
    ensure!(status.reason.as_deref() == Some("DestinationDenied"), "{status:?}");
    scene.nothing_left().await?;
    let requests = proxy.seen().requests;
    let aborted = requests.iter().any(|request| request.method == "DELETE" && request.target.contains("uploadId="));
    ensure!(aborted, "the upload was not aborted: {requests:?}");
    scene.no_process("box", "/tmp/data").await?;
    scene.end().await
}

/// Most of the data, some parts of an upload, and the rest when it may go on.
const IN_TWO: &str =
    "head -c 40000000 /tmp/data; until test -e /tmp/go; do sleep 0.2; done; tail -c +40000001 /tmp/data";

/// From the middle of an upload on the server has this answer to everything, for as long as the run lasts.
async fn answers_only(status: u16) -> Result<(Scene, BackupRunStatus)> {
    let (scene, _) = with_data(60_000_000).await?;
    let proxy = Arc::new(proxy(&scene)?);
    scene.apply(&job_through(&scene, "given-up", IN_TWO, &proxy.endpoint())).await?;
    let asked = Arc::clone(&proxy);
    let stored = |request: &Request| request.target.contains("partNumber=") && request.status == Some(200);
    let wait = move || asked.wait(Duration::from_mins(1), |seen| seen.requests.iter().any(stored));
    tokio::task::spawn_blocking(wait).await??;
    proxy.rule(Rule::new(Which::All, Fault::Status(status)));
    scene.exec("box", "touch /tmp/go").await?;
    let ended = until_for(Duration::from_mins(5), "the run to be given up", || async {
        let run: BackupRun = scene.api().get("given-up-once").await?;
        Ok(run.status.filter(|status| status.phase.is_final()))
    })
    .await?;
    scene.no_process("box", "/tmp/data").await?;
    Ok((scene, ended))
}

/// What lies at the server is what the run's message says, and the upload in whatever words.
async fn nothing_stays_unsaid(scene: &Scene, status: &BackupRunStatus, upload: &str) -> Result<()> {
    let message = status.message.as_deref().unwrap_or_default();
    let (folder, stays) = message.rsplit_once(" stays: ").with_context(|| message.to_owned())?;
    let (_, folder) = folder.rsplit_once(". In ").with_context(|| message.to_owned())?;
    let objects = scene.objects().await?;
    let rest: Vec<_> = objects.iter().filter(|key| !key.ends_with("/owner.json")).collect();
    ensure!(rest == [&format!("{folder}/started.json")], "{rest:?}: {message}");
    let open = scene.open_uploads()?;
    ensure!(open.len() == 1 && open[0].ends_with(&format!("{folder}/dump.zst")), "{open:?}: {message}");
    // What to do follows behind a semicolon.
    let mut said: Vec<_> = stays.split("; ").take(1).flat_map(|stays| stays.split(", ")).collect();
    said.sort_unstable();
    let mut expected = ["started.json", upload];
    expected.sort_unstable();
    ensure!(said == expected, "{message}");
    Ok(())
}

/// It takes as long as a server is given to come back: first in the test's name, so that the others are played meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dying_server_is_given_up_within_minutes_and_what_stays_there_is_said() -> Result<()> {
    let (scene, status) = answers_only(503).await?;
    ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
    ensure!(status.reason.as_deref() == Some("DestinationUnavailable"), "{status:?}");
    nothing_stays_unsaid(&scene, &status, "perhaps an unfinished upload").await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_everything_in_mid_upload_keeps_what_is_said() -> Result<()> {
    let (scene, status) = answers_only(403).await?;
    ensure!(status.phase == Phase::Failed && status.attempts.len() == 1, "{status:?}");
    ensure!(status.reason.as_deref() == Some("DestinationDenied"), "{status:?}");
    nothing_stays_unsaid(&scene, &status, "an unfinished upload of dump.zst").await?;
    scene.end().await
}

#[tokio::test]
async fn a_server_that_cannot_is_tried_again_within_its_limits() -> Result<()> {
    let scene = Scene::new("destination").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let proxy = proxy(&scene)?;
    proxy.rule(Rule::new(Which::All, Fault::Status(503)));
    let mut job = job_through(&scene, "unwilling", "echo never read", &proxy.endpoint());
    edit(&mut job, "spec.retry", json!({"limit": 1, "backoffSeconds": 1}));
    let status = scene.back_up(&job).await?;
    let reasons: Vec<_> = status.attempts.iter().filter_map(|attempt| attempt.reason.as_deref()).collect();
    ensure!(reasons == ["DestinationUnavailable"; 2] && status.phase == Phase::Failed, "{status:?}");
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("several times") && !message.contains("by the fault proxy"), "{message}");
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test]
async fn what_a_person_must_mend_is_said_at_once_and_not_tried_again() -> Result<()> {
    let scene = Scene::new("destination").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let keys = scene.keys();
    let without = |gone: &str| -> BTreeMap<_, _> { keys.clone().into_iter().filter(|(key, _)| key != gone).collect() };
    let mut wrong = keys.clone();
    wrong.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "not-the-key".to_owned());
    let mut stranger = keys.clone();
    stranger.insert("AWS_ACCESS_KEY_ID".to_owned(), "nobody".to_owned());
    scene.secret("wrong", &wrong).await?;
    scene.secret("stranger", &stranger).await?;
    scene.secret("no-id", &without("AWS_ACCESS_KEY_ID")).await?;
    scene.secret("no-key", &without("AWS_SECRET_ACCESS_KEY")).await?;
    let bucket = format!("s3://no-bucket-{}/x", scene.namespace);
    let cases: [(&str, &str, &str, &str, &[&str]); 6] = [
        (
            "wrong-key",
            "destination.secretRef",
            "wrong",
            "DestinationDenied",
            &["SignatureDoesNotMatch", "secret key", "Secret wrong"],
        ),
        (
            "stranger",
            "destination.secretRef",
            "stranger",
            "DestinationDenied",
            &["XAdminUserNotFound", "access key", "Secret stranger"],
        ),
        ("no-bucket", "destination.uri", &bucket, "DestinationNotFound", &["no-bucket-", "create it"]),
        ("no-secret", "destination.secretRef", "nowhere", "SecretNotFound", &["Secret nowhere", &scene.namespace]),
        (
            "no-id",
            "destination.secretRef",
            "no-id",
            "SecretKeyMissing",
            &["AWS_ACCESS_KEY_ID is missing", "Secret no-id"],
        ),
        (
            "no-key",
            "destination.secretRef",
            "no-key",
            "SecretKeyMissing",
            &["AWS_SECRET_ACCESS_KEY is missing", "Secret no-key"],
        ),
    ];
    let runs = cases.into_iter().map(|(name, field, value, reason, words)| {
        let scene = &scene;
        async move {
            let job = scene.job(name, "echo x", |job| {
                edit(job, &format!("spec.{field}"), json!(value));
                edit(job, "spec.retry", json!({"limit": 5, "backoffSeconds": 1}));
            });
            let status = scene.back_up(&job).await?;
            ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some(reason), "{name}: {status:?}");
            ensure!(status.attempts.len() == 1, "{name} was tried again: {status:?}");
            let message = status.message.unwrap_or_default();
            ensure!(words.iter().all(|word| message.contains(word)), "{name}: {message}");
            ensure!(!message.contains("not-the-key"), "{name}: {message}");
            // A Secret that is missing is said before the run is over, too: then no failure is counted yet.
            scene
                .job_until(name, "to say so, and to count one failure", |job| {
                    job.status.as_ref().is_some_and(|status| {
                        status.message.as_deref() == Some(&message) && status.consecutive_failures == Some(1)
                    })
                })
                .await
                .map(drop)
        }
    });
    try_join_all(runs).await?;
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() -> Result<()> {
    let scene = Scene::new("destination").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    // An address on the node where nobody listens any more.
    let address = proxy(&scene)?.address();
    let status = scene.back_up(&job_through(&scene, "nobody", "echo x", &format!("http://{address}"))).await?;
    ensure!(status.phase == Phase::Failed, "{status:?}");
    ensure!(status.reason.as_deref() == Some("DestinationUnavailable"), "{status:?}");
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("refused") && message.contains("Check the endpoint"), "{message}");
    scene.nothing_left().await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flaky_server_keeps_what_every_destination_promises() -> Result<()> {
    let scene = Scene::new("destination").await?;
    let proxy = proxy(&scene)?;
    proxy.rule(Rule::new(Which::EveryNth(7), Fault::Status(503)));
    let options = BTreeMap::from([("endpoint".to_owned(), proxy.endpoint())]);
    suite::suite(build(&Address::parse(&scene.uri())?, &options, &scene.keys())?).await;
    ensure!(proxy.seen().faults > 3, "nothing went wrong");
    ensure!(scene.open_uploads()?.is_empty(), "uploads left: {:?}", scene.open_uploads());
    scene.end().await
}
