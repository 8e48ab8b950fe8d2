//! The operator killed, told to end, told of a network that it shall keep out of, cut off from the API server, without its
//! policies, and away for hours.
//!
//! Each test changes the operator that all share, so they are played one after the other, whatever `--test-threads` says.
//! Where two acts wait for the same thing, a crash and the minute that its Lease needs to expire, one test plays both.

#[path = "disruption/denied.rs"]
mod denied;
mod installed;
mod operator;
mod process;
#[path = "disruption/proxied.rs"]
mod proxied;
mod scene;

use anyhow::{Context, Result, ensure};
use chrono::{TimeDelta, Timelike};
use denied::Store;
use installed::{Installed, until, until_for};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use operator::{Operator, update};
use scene::{BUSYBOX, Scene, TWO_LEASES, edit, kill_executor, leader, operator_ready};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use ubo::api::backup_job::BackupJob;
use ubo::api::backup_run::{BackupRun, BackupRunStatus};
use ubo::clock::{Clock, SystemClock};
use ubo::run::Phase;
use ubo::run::ports::phase_of;

static STAGE: Mutex<()> = Mutex::const_new(());

/// Works until it may go, and says which processes it is: every attempt appends its own id to `/tmp/tried`.
const UNTIL_TOLD: &str = "echo $$ >> /tmp/tried; echo begun; until test -e /tmp/go; do sleep 1; done; echo whole";
/// The same by way of a directory, which must be as new for each attempt.
const IN_A_DIRECTORY: &str = "echo $$ >> /tmp/tried; test ! -e /backup/part || exit 9; echo begun > /backup/part; until \
                              test -e /tmp/go; do sleep 1; done; echo whole > /backup/dump";

/// A command around the work that notes itself in `/tmp/order`.
const BEFORE: &str = "echo before >> /tmp/order; echo $$ > /tmp/hook; until test -e /tmp/go; do sleep 1; done";
const AFTER: &str = "echo after >> /tmp/order";

/// A scene with a pod `box`.
async fn scene() -> Result<Scene> {
    let scene = Scene::new("disruption").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    Ok(scene)
}

/// Waits until so many attempts have begun in the pod; after a crash that takes until its Lease has expired.
async fn begun(scene: &Scene, attempts: usize) -> Result<()> {
    until_for(TWO_LEASES, &format!("attempt {attempts} to begin in the pod"), || async {
        let tried = scene.exec("box", "cat /tmp/tried 2> /dev/null || true").await?;
        Ok((tried.lines().count() >= attempts).then_some(()))
    })
    .await
}

/// Waits until the process of an attempt (counted from 1) has gone from the pod.
async fn gone(scene: &Scene, attempt: usize) -> Result<()> {
    let look = format!("kill -0 $(sed -n {attempt}p /tmp/tried) 2> /dev/null && echo there || true");
    until(&format!("the process of attempt {attempt} to be gone"), || async {
        Ok(scene.exec("box", &look).await?.trim().is_empty().then_some(()))
    })
    .await
}

/// A job that is tried twice.
fn tried_twice(scene: &Scene, name: &str, command: &str) -> Value {
    scene.job(name, command, |job| edit(job, "spec.retry", json!({"limit": 1, "backoffSeconds": 1})))
}

async fn may_go(scene: &Scene) -> Result<()> {
    scene.exec("box", "touch /tmp/go").await.map(drop)
}

fn reasons(status: &BackupRunStatus) -> Vec<&str> {
    status.attempts.iter().map(|attempt| attempt.reason.as_deref().unwrap_or("open")).collect()
}

/// The manifests at the destination: each is a backup.
async fn manifests(scene: &Scene) -> Result<Vec<String>> {
    Ok(scene.objects().await?.into_iter().filter(|key| key.ends_with("/manifest.json")).collect())
}

async fn runs(scene: &Scene) -> Result<Vec<BackupRun>> {
    let api: Api<BackupRun> = scene.api();
    Ok(api.list(&ListParams::default()).await?.items)
}

/// The process that executes a run.
async fn executor(scene: &Scene, run: &str) -> Result<String> {
    scene.at_work(run).await?.executor.context("nobody executes it")
}

/// Waits until the Lease of a dead process is removed.
async fn buried(scene: &Scene, instance: &str) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(scene.installed.admin.clone(), "backup-system");
    let name = format!("ubo-executor-{instance}");
    until_for(TWO_LEASES, &format!("the Lease {name} to be removed"), || async {
        Ok(leases.get_opt(&name).await?.is_none().then_some(()))
    })
    .await
}

/// One crash for both: of runs in their first attempt, and of a tick that was made up for after hours away.
#[tokio::test]
async fn a_crash_leaves_and_doubles_nothing_and_a_second_one_ends_the_run() -> Result<()> {
    let _alone = STAGE.lock().await;
    let away = Away::brought_back().await?;
    let crashing = Crashing::begun().await?;
    process::crash(&away.scene.installed).await?;
    tokio::try_join!(away.is_taken_up_again(), crashing.are_tried_again())?;
    crashing.are_ended_by_the_next_crash().await?;
    away.is_claimed_once_when_it_is_forgotten().await?;
    // Whoever comes next waits until it is so.
    away.scene.installed.kubectl(&set_env("UBO_CATCH_UP_WINDOW-"), "").await?;
    crashing.scene.end().await?;
    away.scene.end().await
}

/// Three runs that crash on the same pod: one by standard output, with an upload in parts under way, one by way of a
/// directory, and one in the middle of its first hook.
struct Crashing {
    scene: Scene,
    /// Who executes both.
    first: String,
}

impl Crashing {
    async fn begun() -> Result<Self> {
        let scene = scene().await?;
        let retry = |job: &mut Value| edit(job, "spec.retry", json!({"limit": 5, "backoffSeconds": 1}));
        let stream = format!("head -c 30000000 /dev/urandom; {UNTIL_TOLD}");
        scene.apply(&scene.job("stream", &stream, retry)).await?;
        begun(&scene, 1).await?;
        scene.apply(&scene.job("folder", IN_A_DIRECTORY, retry)).await?;
        begun(&scene, 2).await?;
        scene
            .apply(&scene.job("hook", "echo work >> /tmp/order; echo data", |job| {
                retry(job);
                edit(job, "spec.strategy.before", json!({"command": BEFORE}));
                edit(job, "spec.strategy.after", json!({"command": AFTER}));
            }))
            .await?;
        let crashing = Self { first: executor(&scene, "stream-once").await?, scene };
        crashing.hooks("before").await?;
        let (scene, first) = (&crashing.scene, &crashing.first);
        ensure!(*first == executor(scene, "folder-once").await?, "two processes start runs");
        ensure!(!scene.open_uploads()?.is_empty(), "no upload is open");
        Ok(crashing)
    }

    /// Waits until the hooks of the third run have done this.
    async fn hooks(&self, wanted: &str) -> Result<()> {
        until_for(TWO_LEASES, &format!("the hooks to do {wanted}"), || async {
            let order = self.scene.exec("box", "cat /tmp/order 2> /dev/null || true").await?;
            Ok((order.split_whitespace().collect::<Vec<_>>().join(" ") == wanted).then_some(()))
        })
        .await
    }

    /// The second attempts find a directory that holds nothing of the first ones (or end with 9).
    async fn are_tried_again(&self) -> Result<()> {
        let scene = &self.scene;
        begun(scene, 4).await?;
        gone(scene, 1).await?;
        gone(scene, 2).await?;
        let second = executor(scene, "stream-once").await?;
        ensure!(second != self.first, "the dead one executes on");
        buried(scene, &self.first).await?;
        let dead: Vec<_> = scene.objects().await?.into_iter().filter(|key| key.contains("-1/")).collect();
        let uploads: Vec<_> = scene.open_uploads()?.into_iter().filter(|key| key.contains("-1/")).collect();
        ensure!(dead.is_empty() && uploads.is_empty(), "the dead attempts left {dead:?} {uploads:?}");
        // `after` ran though nobody was left who could ask for it, and before the next attempt began.
        self.hooks("before after before").await?;
        for run in ["stream-once", "folder-once", "hook-once"] {
            let status = scene.at_work(run).await?;
            ensure!(reasons(&status) == ["OperatorRestarted", "open"], "{status:?}");
        }
        Ok(())
    }

    async fn are_ended_by_the_next_crash(&self) -> Result<()> {
        let scene = &self.scene;
        kill_executor(&scene.installed, &executor(scene, "folder-once").await?).await?;
        for run in ["stream-once", "folder-once", "hook-once"] {
            let api: Api<BackupRun> = scene.api();
            let status = until_for(TWO_LEASES, &format!("run {run} to be over"), || async {
                Ok(api.get(run).await?.status.filter(|status| status.phase.is_final()))
            })
            .await?;
            ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some("CrashLoop"), "{status:?}");
            ensure!(reasons(&status) == ["OperatorRestarted"; 2], "{status:?}");
        }
        scene.nothing_left().await?;
        // Nobody is left who could clean up in the pod but the wrapper itself.
        for attempt in 1..=4 {
            gone(scene, attempt).await?;
        }
        self.hooks("before after before after").await?;
        scene.exec("box", "! kill -0 $(cat /tmp/hook) 2> /dev/null").await?;
        until("the directory to be empty", || async {
            Ok(scene.exec("box", "ls -A /backup 2> /dev/null || true").await?.trim().is_empty().then_some(()))
        })
        .await?;
        ensure!(runs(scene).await?.len() == 3, "a run was doubled");
        Ok(())
    }
}

/// Arguments of kubectl that set a variable of the operator's, or let it be as it is installed.
fn set_env(word: &'static str) -> [&'static str; 6] {
    ["-n", "backup-system", "set", "env", "deployment/operator", word]
}

/// A BackupJob that was due every hour while no operator was there.
struct Away {
    scene: Scene,
    /// Its latest tick, as seconds since 1970.
    latest: i64,
    /// The run of that tick.
    name: String,
    /// Where its status is, and when the schedule began to count.
    path: String,
    anchor: String,
}

impl Away {
    /// The latest tick runs, and none of those before it.
    async fn brought_back() -> Result<Self> {
        let scene = scene().await?;
        let installed = &scene.installed;
        let operator = Operator::now(installed).await?;
        // What was missed is made up for at once, and not within ten minutes.
        installed.kubectl(&set_env("UBO_CATCH_UP_WINDOW=0"), "").await?;
        operator.scale(installed, 0).await?;

        // Due every hour, the last time a few minutes ago: no tick falls into the test.
        let now = SystemClock.now();
        let latest = now - TimeDelta::minutes(5);
        let schedule = format!("{} * * * *", latest.minute());
        let job = scene.job("away", UNTIL_TOLD, |job| {
            edit(job, "spec.schedule", json!(schedule));
            edit(job, "spec.retry", json!({"limit": 1, "backoffSeconds": 1}));
        });
        scene.apply(&job).await?;
        let anchor = (now - TimeDelta::hours(7)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = json!({"status": {"scheduleAnchor": {"time": anchor, "schedule": schedule, "suspend": false}}});
        let path = format!("/apis/backup.javy.dev/v1/namespaces/{}/backupjobs/away/status", scene.namespace);
        let as_operator = installed.operator().await?;
        ensure!(as_operator.merge(&path, &since).await?.is_ok(), "the operator may not write its own status");

        operator.scale(installed, 2).await?;
        begun(&scene, 1).await?;
        let name = latest.format("away-%Y%m%d-%H%M").to_string();
        let all: Vec<_> = runs(&scene).await?.into_iter().filter_map(|run| run.metadata.name).collect();
        ensure!(all == [name.clone()], "{all:?} instead of the latest tick alone, {name}");
        let latest = latest.timestamp() - i64::from(latest.second());
        Ok(Self { scene, latest, name, path, anchor })
    }

    /// Killed with the tick claimed and at work: taken up again under the same name.
    async fn is_taken_up_again(&self) -> Result<()> {
        let scene = &self.scene;
        begun(scene, 2).await?;
        may_go(scene).await?;
        let status = scene.ended(&self.name).await?;
        ensure!(reasons(&status) == ["OperatorRestarted", "Succeeded"], "{status:?}");
        let handled = self.handled("to have handled the tick").await?;
        ensure!(handled.0.as_second() == self.latest, "{handled:?}");
        Ok(())
    }

    /// Waits until the BackupJob knows which tick was handled last.
    async fn handled(&self, what: &str) -> Result<Time> {
        let last = |job: &BackupJob| job.status.as_ref().and_then(|status| status.last_schedule_time.clone());
        let job = self.scene.job_until("away", what, |job| last(job).is_some()).await?;
        last(&job).context("a time")
    }

    /// Killed between the claim and the note of it: the tick is claimed again, and found to be taken.
    async fn is_claimed_once_when_it_is_forgotten(&self) -> Result<()> {
        let scene = &self.scene;
        let operator = Operator::now(&scene.installed).await?;
        operator.scale(&scene.installed, 0).await?;
        let forgotten = json!({"status": {"lastScheduleTime": null, "scheduleAnchor": {"time": self.anchor}}});
        let as_operator = scene.installed.operator().await?;
        ensure!(as_operator.merge(&self.path, &forgotten).await?.is_ok(), "the operator may not write its own status");
        operator.scale(&scene.installed, 2).await?;
        self.handled("to know of the tick again").await?;
        let all = runs(scene).await?;
        ensure!(all.len() == 1 && all.iter().all(|run| phase_of(run) == Phase::Succeeded), "{all:?}");
        let attempts = all[0].status.as_ref().map_or(0, |status| status.attempts.len());
        ensure!(attempts == 2, "the tick ran again: {all:?}");
        ensure!(manifests(scene).await?.len() == 1, "two backups of one tick");
        Ok(())
    }
}

/// Two updates: one that waits for what is at work, and one whose patience is short. Between them a network is denied.
#[tokio::test]
async fn an_update_lets_what_is_at_work_end_where_it_works_or_cancels_it_in_time() -> Result<()> {
    let _alone = STAGE.lock().await;
    let scene = scene().await?;
    let store = Store::open(&scene).await?;
    let played = async {
        Box::pin(patient(&scene, &store)).await?;
        impatient(&scene).await
    }
    .await;
    // The second update has made it so, if it came to that.
    let restored = as_installed(&scene.installed).await;
    played?;
    restored?;
    store.is_reached(&scene).await?;
    scene.end().await
}

/// The operator's Deployment is as `ubo install` makes it, and ready.
async fn as_installed(installed: &Installed) -> Result<()> {
    update(installed, &[], None).await?;
    operator_ready(installed).await
}

/// Told to end while it is at work, and given ten minutes: the run ends where it works, and others begin elsewhere.
async fn patient(scene: &Scene, store: &Store) -> Result<()> {
    scene.apply(&scene.job("patient", IN_A_DIRECTORY, |_| {})).await?;
    begun(scene, 1).await?;
    let first = executor(scene, "patient-once").await?;
    let installed = &scene.installed;
    lead_is_lost_and_found(scene).await?;
    ensure!(executor(scene, "patient-once").await? == first, "it was taken away with the lead");
    update(installed, &store.denied(), Some(3)).await?;
    let pods: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    let old = first.rsplit_once('-').map(|(pod, _)| pod).context("an instance")?;
    // That its pod is to go is not enough: the signal comes a moment later.
    until("the executor to be told to end", || async {
        let said = pods.logs(old, &LogParams::default()).await?;
        Ok(said.contains("told to end").then_some(()))
    })
    .await?;
    // Another one leads by now. It begins no second run of the same BackupJob, and what belongs to others at once.
    operator_ready(installed).await?;
    store.is_denied(scene).await?;
    let late = scene.start("patient").await?;
    let other = scene.back_up(&scene.job("other", "echo whole", |_| {})).await?;
    ensure!(other.phase == Phase::Succeeded && other.executor.as_deref() != Some(&first), "{other:?}");
    let waits = scene.run_until(&late, "to be there", |_| true).await?;
    ensure!(waits.attempts.is_empty(), "two runs of one BackupJob at a time: {waits:?}");
    // The directory is the old one's as long as it works there: whoever needs it waits, and has not failed.
    scene.apply(&scene.job("next", "echo next > /backup/dump", |_| {})).await?;
    let waits = scene.run_until("next-once", "to wait for the directory", waits_for_a_directory).await?;
    ensure!(waits.message.as_deref().is_some_and(|said| said.contains("patient-once")), "{waits:?}");
    ensure!(executor(scene, "patient-once").await? == first, "it was taken away from a process that lives");
    may_go(scene).await?;
    let status = scene.ended("patient-once").await?;
    ensure!(status.phase == Phase::Succeeded && status.attempts.len() == 1, "{status:?}");
    let second = scene.ended(&late).await?;
    ensure!(second.phase == Phase::Succeeded && second.attempts.len() == 1, "{second:?}");
    ensure!(second.executor != status.executor, "begun by an operator that was to end: {second:?}");
    let next = scene.ended("next-once").await?;
    ensure!(next.phase == Phase::Succeeded && reasons(&next) == ["BackupDirectoryBusy", "Succeeded"], "{next:?}");
    // Its work done, it goes, and takes its Lease along.
    buried(scene, &first).await
}

fn waits_for_a_directory(run: &BackupRun) -> bool {
    phase_of(run) == Phase::Pending
        && run.status.as_ref().is_some_and(|status| reasons(status) == ["BackupDirectoryBusy"])
}

/// Somebody else writes himself into the scheduling Lease, and is not heard of any more. What becomes due meanwhile is not
/// claimed before that Lease has expired and was taken again.
async fn lead_is_lost_and_found(scene: &Scene) -> Result<()> {
    let admin = &scene.installed.admin;
    let leases: Api<Lease> = Api::namespaced(admin.clone(), "backup-system");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "backup-system");
    let leader = leader(&scene.installed).await?.context("nobody leads")?;
    let losses = async || {
        let said = pods.logs(&leader, &LogParams::default()).await?;
        anyhow::Ok(said.matches("duty=Follows").count())
    };
    let before = losses().await?;
    let stolen = json!({"spec": {"holderIdentity": "nobody", "leaseDurationSeconds": 15}});
    leases.patch("ubo-scheduler", &PatchParams::default(), &Patch::Merge(&stolen)).await?;
    until("the one who led to see it", || async { Ok((losses().await? > before).then_some(())) }).await?;
    scene.apply(&scene.job("unled", "echo unled", |_| {})).await?;
    let applied = SystemClock.now();
    let taken = until("somebody to lead again", || async {
        let spec = leases.get("ubo-scheduler").await?.spec.unwrap_or_default();
        Ok(spec.acquire_time.filter(|_| spec.holder_identity.as_deref() != Some("nobody")))
    })
    .await?;
    ensure!(
        applied.timestamp() < taken.0.as_second(),
        "{applied} is too late to tell: the Lease was taken at {taken:?}"
    );
    let ended = scene.ended("unled-once").await?;
    ensure!(ended.phase == Phase::Succeeded && ended.attempts.len() == 1, "{ended:?}");
    let run: BackupRun = scene.api().get("unled-once").await?;
    let claimed = run.metadata.creation_timestamp.context("a time")?;
    // One machine's clock; times in metadata are whole seconds.
    ensure!(claimed.0.as_second() >= taken.0.as_second(), "claimed at {claimed:?}, and nobody led before {taken:?}");
    Ok(())
}

/// Told to end, and given three seconds: the run is cancelled, and another process begins it anew.
async fn impatient(scene: &Scene) -> Result<()> {
    let installed = &scene.installed;
    scene.exec("box", "rm /tmp/go /tmp/tried").await?;
    scene.apply(&tried_twice(scene, "cancelled", IN_A_DIRECTORY)).await?;
    begun(scene, 1).await?;
    let first = executor(scene, "cancelled-once").await?;
    update(installed, &[], None).await?;
    begun(scene, 2).await?;
    gone(scene, 1).await?;
    may_go(scene).await?;
    let status = scene.ended("cancelled-once").await?;
    ensure!(status.phase == Phase::Succeeded && reasons(&status) == ["OperatorShutdown", "Succeeded"], "{status:?}");
    ensure!(status.executor.as_deref() != Some(&first), "{status:?}");
    let dead: Vec<_> = scene.objects().await?.into_iter().filter(|key| key.contains("/cancelled-")).collect();
    ensure!(dead.iter().all(|key| key.contains("-2/") || key.ends_with("/owner.json")), "{dead:?}");
    operator_ready(installed).await
}

#[tokio::test]
async fn without_the_policies_nothing_is_claimed_or_begun() -> Result<()> {
    const POLICY: &str = "validatingadmissionpolicy/backupjobs-act-as-requester";
    const BINDING: &str = "validatingadmissionpolicybinding/backupruns-claims";
    let _alone = STAGE.lock().await;
    let scene = scene().await?;
    let installed = &scene.installed;
    let printed = ubo::install::manifests("localhost/ubo:dev")?;
    let operator = Operator::now(installed).await?;
    let harm: [&[&str]; 3] = [
        &["delete", POLICY],
        &["delete", BINDING],
        &["patch", POLICY, "--type=merge", "-p", r#"{"spec":{"failurePolicy":"Ignore"}}"#],
    ];
    let mut names: Vec<String> = Vec::new();
    for (number, arguments) in harm.iter().enumerate() {
        installed.kubectl(arguments, "").await?;
        let told = async {
            let name = format!("guarded-{number}");
            scene.apply(&scene.job(&name, "echo x", |_| {})).await?;
            scene
                .job_until(&name, "to be told that it may not run", |job| is_not_ready(job, "AdmissionPolicyMissing"))
                .await?;
            // Not only the new one.
            for earlier in &names {
                scene.job_until(earlier, "to be told, too", |job| is_not_ready(job, "AdmissionPolicyMissing")).await?;
            }
            names.push(name.clone());
            // The replica that is asked may not be the one that has told.
            let said = readyz(&operator, 503).await?;
            ensure!(said.contains("[-] admission-policies"), "{said}");
            let name_of_it = arguments[1].rsplit('/').next().unwrap_or_default();
            ensure!(said.contains(name_of_it) && said.contains("ubo install"), "{said}");
            let by_hand = scene.start(&name).await?;
            Ok([format!("{name}-once"), by_hand])
        };
        let told = told.await;
        // What the API server's clock says is compared with it: one machine.
        let before = SystemClock.now();
        installed.apply(&printed, &[]).await?;
        for run in told? {
            let ended = scene.ended(&run).await?;
            ensure!(ended.phase == Phase::Succeeded, "{ended:?}");
            let start = ended.start_time.context("a start")?;
            // Times in a status are whole seconds.
            ensure!(start.0.as_second() >= before.timestamp(), "{run} was begun at {start:?}, without the policies");
        }
        readyz(&operator, 200).await?;
    }
    scene.end().await
}

/// What a replica says of itself, once it answers with this status.
async fn readyz(operator: &Operator, wanted: u16) -> Result<String> {
    until(&format!("/readyz to answer {wanted}"), || async {
        let (status, said) = operator.get("/readyz").await?;
        Ok((status == wanted).then_some(said))
    })
    .await
}

fn is_not_ready(job: &BackupJob, reason: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "False" && c.reason == reason)
}
