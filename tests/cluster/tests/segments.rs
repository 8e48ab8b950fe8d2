//! A backup that is longer than an object may be, at a real S3 server: it is there as a whole, or not at all.
//!
//! Of 76 GiB each, objects of a real one are too long for a test. So these are of 28 MiB, by the functions that the operator
//! itself carries out an attempt with and clears away a dead one; nobody else has a reason to choose the length.

mod installed;
mod scene;
mod through;

use anyhow::{Context, Result, bail, ensure};
use installed::until;
use rig::fault_proxy::{Fault, FaultProxy, Rule, Which};
use scene::Scene;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use through::proxy;
use tokio::process::Command;
use tokio::task::JoinHandle;
use ubo::api::names::{JobRef, ObjectKey, RunName, Uid};
use ubo::clock::SystemClock;
use ubo::destination::Destination;
use ubo::destination::address::Address;
use ubo::destination::build::build;
use ubo::error::{Failure, Reason};
use ubo::repository::layout;
use ubo::run::backup::back_up;
use ubo::run::cancel::Cancel;
use ubo::run::recover::recover;
use ubo::run::report::{Plan, Progress, Recovered, Report};
use ubo::run::{AttemptId, Phase};
use ubo::source::walk::Walk;

/// Longest object: each is an upload of several parts (8 MiB each).
const SEGMENT_SIZE: u64 = 28 << 20;
/// Not compressible: three objects are made of it, the last one of four parts. Only of more than two its upload is begun early.
const SIZES: [(&str, u64); 2] = [("first", 45_000_000), ("folder/second", 35_000_000)];
/// In the order of their names, which is the order of their bytes.
const OBJECTS: [&str; 3] = ["archive.tar.zst", "archive.tar.zst.0001", "archive.tar.zst.0002"];

/// What is backed up, and where to.
struct Large {
    scene: Scene,
    data: TempDir,
}

#[tokio::test]
async fn a_backup_of_several_objects_is_there_as_a_whole_or_not_at_all() -> Result<()> {
    let large = Large::new().await?;
    large.leaves_nothing_when_a_later_object_is_refused().await?;
    large.is_cleared_away_when_it_dies_between_two_commits().await?;
    large.succeeds().await?;
    large.is_read_back().await?;
    large.scene.end().await
}

impl Large {
    async fn new() -> Result<Self> {
        let scene = Scene::not_opted_in("segments").await?;
        let data = tempfile::tempdir()?;
        fs::create_dir(data.path().join("folder"))?;
        for (name, size) in SIZES {
            io::copy(&mut File::open("/dev/urandom")?.take(size), &mut File::create(data.path().join(name))?)?;
        }
        Ok(Self { scene, data })
    }

    /// The second of three commits is refused, for a reason that does not pass: the first object, which was there, and both
    /// uploads are gone.
    async fn leaves_nothing_when_a_later_object_is_refused(&self) -> Result<()> {
        let proxy = proxy(&self.scene)?;
        proxy.rule(commit_of(1, Fault::Status(403)));
        let Err(failure) = self.begin(1, &proxy)?.await? else { bail!("it succeeded without its second object") };
        ensure!(failure.reason == Reason::DestinationDenied && failure.left.is_none(), "{failure:?}");
        ensure!(committed(&proxy) == OBJECTS[..1], "{:?}", proxy.seen().requests);
        self.scene.nothing_left().await
    }

    /// As a process that dies leaves it: one object that can be seen, and two uploads that cannot.
    async fn is_cleared_away_when_it_dies_between_two_commits(&self) -> Result<()> {
        let proxy = proxy(&self.scene)?;
        proxy.rule(commit_of(1, Fault::Stall));
        // Who dies asks for nothing any more; what is dropped here does.
        proxy.rule(Rule::new(Which::All, Fault::Status(503)).method("DELETE"));
        let attempt = self.begin(2, &proxy)?;
        stalls(&proxy, &attempt).await?;
        attempt.abort();
        ensure!(attempt.await.is_err_and(|error| error.is_cancelled()), "it had ended");
        drop(proxy);
        let folder = layout::folder(&id(2)?)?;
        let objects = self.scene.objects().await?;
        let mut expected = [OBJECTS[0], "started.json"].map(|name| format!("{folder}/{name}")).to_vec();
        expected.push("default/large/owner.json".to_owned());
        expected.sort_unstable();
        ensure!(objects == expected, "{objects:?}");
        self.are_open(2, &OBJECTS[1..])?;
        let recovered = recover(self.scene.destination()?.as_ref(), &id(2)?).await?;
        ensure!(matches!(recovered, Recovered::Cleared(None)), "{recovered:?}");
        self.scene.nothing_left().await
    }

    /// All objects are open until the source has ended, and appear one after the other.
    async fn succeeds(&self) -> Result<()> {
        let proxy = proxy(&self.scene)?;
        proxy.rule(commit_of(0, Fault::Stall));
        let attempt = self.begin(3, &proxy)?;
        stalls(&proxy, &attempt).await?;
        self.are_open(3, &OBJECTS)?;
        ensure!(!self.scene.objects().await?.iter().any(|key| key.contains("/archive.")), "seen before its commit");
        proxy.release();
        let report = attempt.await??;
        ensure!(report.phase == Phase::Succeeded && report.warnings.is_empty(), "{report:?}");
        let names: Vec<&str> = report.objects.iter().map(|object| object.name.as_str()).collect();
        ensure!(names == OBJECTS, "{report:?}");
        ensure!(report.objects.iter().all(|object| object.size <= SEGMENT_SIZE), "{report:?}");
        ensure!(committed(&proxy) == OBJECTS, "{:?}", proxy.seen().requests);
        ensure!(self.scene.open_uploads()?.is_empty(), "uploads left: {:?}", self.scene.open_uploads());
        Ok(())
    }

    /// By `ubo`, and by hand without it.
    async fn is_read_back(&self) -> Result<()> {
        let scene = &self.scene;
        let (uri, out) = (scene.uri(), tempfile::tempdir()?);
        let (restored, by_hand) = (out.path().join("restored"), out.path().join("by-hand"));
        let ubo = |words: &[&str]| Command::new(&scene.installed.cluster.ubo).args(words).envs(scene.keys()).output();
        let verified = ubo(&["verify", &uri]).await?;
        ensure!(verified.status.success(), "{verified:?}");
        let to = restored.to_str().context("a path")?;
        let got = ubo(&["restore", &uri, "--to", to]).await?;
        ensure!(got.status.success(), "{got:?}");
        self.is_same(&restored).await?;

        let folder = layout::folder(&id(3)?)?;
        for name in OBJECTS {
            fs::write(out.path().join(name), scene.read(&format!("{folder}/{name}")).await?)?;
        }
        fs::create_dir(&by_hand)?;
        let line = "set -o pipefail; cat archive.tar.zst* | zstd -d | tar -x -C by-hand";
        let status = Command::new("bash").args(["-c", line]).current_dir(out.path()).status().await?;
        ensure!(status.success(), "{line}: {status}");
        self.is_same(&by_hand).await
    }

    async fn is_same(&self, folder: &Path) -> Result<()> {
        let diff =
            Command::new("diff").arg("-r").args([self.data.path(), folder]).stdin(Stdio::null()).output().await?;
        ensure!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        Ok(())
    }

    /// An attempt at work, at the server behind this proxy.
    fn begin(&self, attempt: u32, proxy: &FaultProxy) -> Result<JoinHandle<Result<Report, Failure>>> {
        let options = BTreeMap::from([("endpoint".to_owned(), proxy.endpoint())]);
        let destination: Arc<dyn Destination> =
            build(&Address::parse(&self.scene.uri())?, &options, &self.scene.keys())?;
        let source = Walk::new(self.data.path());
        let plan = Plan {
            id: id(attempt)?,
            adopt: None,
            target: json!({"kind": "Folder", "path": "/data"}),
            strategy: "copy",
            compression_level: 1,
            recipients: Vec::new(),
            allow_empty: false,
            minimum_size: None,
            maximum_shrink_percent: None,
            accepted: None,
            waited: false,
            segment_size: SEGMENT_SIZE,
        };
        Ok(tokio::spawn(async move {
            let (progress, cancel) = (Progress::default(), Cancel::default());
            back_up(&plan, &source, destination.as_ref(), &SystemClock, &progress, &cancel).await
        }))
    }

    /// These uploads of an attempt are open at the server, and no other ones.
    fn are_open(&self, attempt: u32, names: &[&str]) -> Result<()> {
        let folder = layout::folder(&id(attempt)?)?;
        let expected: Vec<_> = names.iter().map(|name| format!("{}/{folder}/{name}", self.scene.namespace)).collect();
        let mut open = self.scene.open_uploads()?;
        open.sort_unstable();
        ensure!(open == expected, "{open:?} instead of {expected:?}");
        Ok(())
    }
}

/// An attempt of the one run.
fn id(attempt: u32) -> Result<AttemptId> {
    Ok(AttemptId {
        job: JobRef::new("default", "large")?,
        job_uid: Uid::new("aaaaaaaa-0000")?,
        cluster_id: Uid::new("cccccccc-0000")?,
        run: RunName::new("large-1")?,
        run_uid: Uid::new("01234567-89ab")?,
        attempt,
        scheduled_at: None,
        archive: ObjectKey::new("default/large")?,
    })
}

/// A fault of the request that makes an object visible (CompleteMultipartUpload).
fn commit_of(object: usize, fault: Fault) -> Rule {
    // The first one's name is the beginning of the others'.
    let name = format!("/{}?", OBJECTS[object]);
    Rule::new(Which::All, fault).method("POST").containing(&name).containing("uploadId=")
}

/// Waits until the proxy holds a commit.
async fn stalls(proxy: &FaultProxy, attempt: &JoinHandle<Result<Report, Failure>>) -> Result<()> {
    until("a commit to be held", || async {
        ensure!(!attempt.is_finished(), "the attempt has ended");
        Ok((proxy.seen().faults == 1).then_some(()))
    })
    .await
}

/// The objects that were committed, in the order in which it was asked for.
fn committed(proxy: &FaultProxy) -> Vec<String> {
    let requests = proxy.seen().requests.into_iter();
    let commits = requests.filter(|request| {
        request.method == "POST" && request.target.contains("uploadId=") && request.status == Some(200)
    });
    let name = |target: &str| target.split(['?', '/']).find(|word| word.starts_with("archive.")).map(str::to_owned);
    commits.filter_map(|request| name(&request.target)).collect()
}
