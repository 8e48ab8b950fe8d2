//! Copies of a pod's files by its own `tar`.

mod installed;
mod scene;

use anyhow::{Result, ensure};
use scene::{BUSYBOX, Scene, edit, pipe};
use serde_json::{Value, json};
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;
use ubo::source::Consistency;

/// An image whose `sh` has nothing built in.
const DASH: &str = "localhost/dash:1";
/// An image with GNU tar.
const GNU: &str = "localhost/postgres:15";

/// A job that copies `path` of pod `pod`.
fn copy(scene: &Scene, name: &str, pod: &str, path: &str, changes: &[(&str, Value)]) -> Value {
    scene.job(name, "", |job| {
        job["spec"]["strategy"] = json!({"type": "copy"});
        edit(job, "spec.target.name", json!(pod));
        edit(job, "spec.target.path", json!(path));
        for (path, value) in changes {
            edit(job, path, value.clone());
        }
    })
}

/// Kinds, modes, owners, links, sizes, times and names of all that lies in the working directory, and digests of contents.
const LISTING: &str = "find . -printf '%y %m %U %G %n %l %Ts %P\\n' | sort -k 8 | cat -v; find . -type f -links 1 -size -9000k -exec md5sum {} + | sort | cat -v; tail -c 3 sparse";

#[tokio::test]
async fn a_folder_comes_back_file_by_file() -> Result<()> {
    let scene = Scene::new("copy").await?;
    scene.pod("gnu", GNU, |_| {}).await?;
    let make = "mkdir -p /data/a/b/empty && cd /data && seq 1 50000 > a/numbers && echo two > 'a/two words' && \
                ln a/numbers a/same && ln -s ../nowhere a/link && chmod 4750 'a/two words' && chown 123:456 a/numbers && \
                mkdir -m 1777 sticky && touch -d '2020-02-02 02:02:02' a/b/old && \
                touch \"$(printf 'not-utf8-\\377\\376')\" && \
                d=$(printf 'long%.0s' $(seq 1 40)) && mkdir -p $d/$d && echo deep > $d/$d/file && \
                truncate -s 9G sparse && printf end | dd of=sparse bs=1 seek=9663676000 conv=notrunc 2>/dev/null && \
                touch -d '2021-01-01' . a a/b sticky $d $d/$d";
    scene.exec("gnu", make).await?;
    let status = scene.back_up(&copy(&scene, "whole", "gnu", "/data", &[])).await?;
    ensure!(status.phase == Phase::Succeeded && status.warnings.is_empty(), "{status:?}");
    ensure!(status.consistency == Some(Consistency::Live), "{status:?}");
    // Holes are not read: nine gigabytes of them come as one megabyte or so.
    ensure!(status.bytes_read.is_some_and(|bytes| bytes < 4 << 20), "{status:?}");
    let folder = tempfile::tempdir()?;
    let place = folder.path().display().to_string();
    pipe("tar", &["-x", "-p", "--numeric-owner", "-C", &place], scene.decompressed(&status).await?).await?;
    let here = format!("cd '{place}' && {LISTING}");
    let back = String::from_utf8_lossy(&pipe("sh", &["-c", &here], Vec::new()).await?).into_owned();
    let there = scene.exec("gnu", &format!("cd /data && {LISTING}")).await?;
    ensure!(back == there, "not the same:\n{back}\n----\n{there}");
    scene.end().await
}

#[tokio::test]
async fn patterns_mean_the_same_under_each_tar() -> Result<()> {
    let scene = Scene::new("copy").await?;
    tokio::try_join!(scene.pod("gnu", GNU, |_| {}), scene.pod("box", BUSYBOX, |_| {}))?;
    for pod in ["gnu", "box"] {
        let make = "mkdir -p /data/cache/x /data/a/cache /data/keep; cd /data; for f in cache/x/1 a/cache/2 a/3.tmp a/4.sql 5.sql; \
                    do echo $f > $f; done";
        scene.exec(pod, make).await?;
        let exclude = [("spec.target.exclude", json!(["/cache/", "*.tmp"]))];
        let include = [("spec.target.include", json!(["*.sql"])), ("spec.target.exclude", json!(["/5.sql"]))];
        for (name, changes, expected) in [
            ("exclude", &exclude[..], "./ ./5.sql ./a/ ./a/4.sql ./a/cache/ ./a/cache/2 ./keep/"),
            ("include", &include, "./ ./a/ ./a/4.sql"),
        ] {
            let status = scene.back_up(&copy(&scene, &format!("{name}-{pod}"), pod, "/data", changes)).await?;
            ensure!(status.phase == Phase::Succeeded, "{pod} {name}: {status:?}");
            let listed = pipe("tar", &["-t"], scene.decompressed(&status).await?).await?;
            let mut names: Vec<_> = std::str::from_utf8(&listed)?.lines().collect();
            names.sort_unstable();
            ensure!(names.join(" ") == expected, "{pod} {name}: {names:?}");
        }
    }
    scene.end().await
}

#[tokio::test]
async fn what_is_not_whole_is_not_a_success() -> Result<()> {
    let scene = Scene::new("copy").await?;
    let other_user = |pod: &mut Value| edit(pod, "spec.securityContext", json!({"runAsUser": 999}));
    tokio::try_join!(
        scene.pod("gnu", GNU, other_user),
        scene.pod("box", BUSYBOX, other_user),
        scene.pod("root", BUSYBOX, |_| {}),
        scene.pod("no-tar", DASH, |_| {}),
    )?;
    scene.exec("no-tar", "rm /bin/tar").await?;
    for pod in ["gnu", "box"] {
        scene
            .exec(pod, "mkdir -p /tmp/d/x; echo 1 > /tmp/d/good; echo 2 > /tmp/d/secret; chmod 0 /tmp/d/secret")
            .await?;
    }
    scene.exec("root", "mkdir -p /pg /hollow; touch /hollow/a; echo 1 > /pg/postmaster.pid; echo 1 > /pg/base").await?;
    scene.exec("root", "mkdir /links; echo 1 > /links/a; ln /links/a /links/b").await?;
    let first = scene.exec("root", "tar -cf - -C /links . | tar -t | grep -m 1 '[ab]$'").await?;
    let first = first.trim().trim_start_matches("./").to_owned();
    let cases: Vec<(Value, Phase, &str, &str)> = vec![
        (copy(&scene, "unread-gnu", "gnu", "/tmp/d", &[]), Phase::Incomplete, "SourceIncomplete", "secret"),
        (copy(&scene, "unread-box", "box", "/tmp/d", &[]), Phase::Incomplete, "SourceIncomplete", "secret"),
        (copy(&scene, "live", "root", "/pg", &[]), Phase::Incomplete, "LiveDatabase", "postmaster.pid"),
        (
            copy(&scene, "hidden-lock", "root", "/pg", &[("spec.target.exclude", json!(["postmaster.pid"]))]),
            Phase::Incomplete,
            "LiveDatabase",
            "postmaster.pid",
        ),
        (
            copy(&scene, "lost-link", "root", "/links", &[("spec.target.exclude", json!([first]))]),
            Phase::Failed,
            "EmptyBackup",
            "hard links",
        ),
        (copy(&scene, "missing", "root", "/nowhere", &[]), Phase::Failed, "PathNotFound", "/nowhere"),
        (copy(&scene, "hollow", "root", "/hollow", &[]), Phase::Failed, "EmptyBackup", "allowEmpty"),
        (copy(&scene, "no-tar", "no-tar", "/etc", &[]), Phase::Failed, "TarMissing", "tar"),
    ];
    let jobs: Vec<Value> = cases.iter().map(|case| case.0.clone()).collect();
    let statuses = scene.back_up_all(&jobs).await?;
    for ((job, phase, reason, said), status) in cases.iter().zip(&statuses) {
        let told = status.message.as_deref().unwrap_or_default();
        let name = &job["metadata"]["name"];
        ensure!(status.phase == *phase && status.reason.as_deref() == Some(*reason), "{name}: {status:?}");
        ensure!(told.contains(said), "{name}: {told}");
    }
    let good = [
        copy(&scene, "live-allowed", "root", "/pg", &[("spec.guard.allowLiveDatabase", json!(true))]),
        copy(&scene, "hollow-allowed", "root", "/hollow", &[("spec.guard.allowEmpty", json!(true))]),
        copy(&scene, "one-file", "root", "/pg/base", &[]),
        copy(&scene, "quieted", "root", "/pg", &[("spec.strategy.before", json!({"command": "true"}))]),
    ];
    let statuses: Vec<BackupRunStatus> = scene.back_up_all(&good).await?;
    for status in &statuses {
        ensure!(status.phase == Phase::Succeeded, "{status:?}");
    }
    ensure!(statuses[3].consistency == Some(Consistency::Quiesced), "{:?}", statuses[3]);
    let listed = pipe("tar", &["-t"], scene.decompressed(&statuses[2]).await?).await?;
    ensure!(listed == b"./base\n", "{listed:?}");
    scene.end().await
}
