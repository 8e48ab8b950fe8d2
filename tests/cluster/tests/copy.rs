//! Copies of a pod's files by its own `tar`.

mod installed;
mod scene;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use scene::{BUSYBOX, Scene, edit, pipe};
use serde_json::{Value, json};
use ubo::api::backup_run::BackupRunStatus;
use ubo::run::Phase;
use ubo::source::Consistency;

/// An image whose `sh` has nothing built in.
const DASH: &str = "localhost/dash:1";
/// An image with nothing but one program.
const PAUSE: &str = "localhost/pause:1";
/// A pod for each kind of tar, and its image.
const TARS: [(&str, &str); 3] = [("gnu", "localhost/postgres:15"), ("box", BUSYBOX), ("bsd", "localhost/bsdtar:1")];

/// Those pods, as root or as another user.
async fn pods(scene: &Scene, user: u32) -> Result<()> {
    let as_user = |pod: &mut Value| edit(pod, "spec.securityContext", json!({"runAsUser": user}));
    try_join_all(TARS.map(|(name, image)| scene.pod(name, image, as_user))).await.map(drop)
}

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

/// What a copy must bring back: long paths and a long link, names with whatever a name may hold, hard links, bits of modes,
/// owners, times, what is empty. `SIZE` and `END` are those of a file that is one hole up to its last three bytes.
const TREE: &str = r#"
    set -e
    mkdir -p /data/a/b/empty; cd /data
    seq 1 50000 > a/numbers; ln a/numbers a/same; chown 123:456 a/numbers
    echo two > 'a/two words'; chmod 4750 'a/two words'; ln -s ../nowhere a/link; mkfifo -m 640 pipe
    mkdir -m 1777 sticky; touch -d '2020-02-02 02:02:02' a/b/old
    for odd in "$(printf 'not-utf8-\377\376')" "$(printf 'line\nend')" 'back\slash' ' blanks ' ./-rf '*' "it's"; do
        echo "$odd" > "$odd"
    done
    d=$(printf 'long%.0s' $(seq 1 40)); mkdir -p $d/$d; echo deep > $d/$d/file; ln -s $d/$d/file far
    truncate -s SIZE sparse; printf end | dd of=sparse bs=1 seek=END conv=notrunc 2>/dev/null
    touch -d '2021-01-01 00:00:00' . a a/b sticky $d $d/$d"#;

/// Kinds and modes, owners, links, times and names of all that lies in the working directory, where links lead, and the
/// digests of contents.
const LISTING: &str = r#"
    (
        find . -exec stat -c '%f %u %g %h %Y %n' {} +
        find . -type l -exec readlink {} \;
        find . -type f ! -name sparse -exec sh -c 'for f; do printf "%s " "$f"; md5sum < "$f"; done' sh {} +
    ) | LC_ALL=C sort | cat -v
    stat -c %s sparse; tail -c 3 sparse"#;

#[tokio::test]
async fn a_folder_comes_back_file_by_file_by_each_tar() -> Result<()> {
    let scene = Scene::new("copy").await?;
    pods(&scene, 0).await?;
    for (pod, _) in TARS {
        // A hole is what GNU tar alone leaves out, and the others read and store as zeros: those are given a small one.
        let (size, end) = if pod == "gnu" { ("9663676416", "9663676413") } else { ("5242880", "5242877") };
        scene.exec(pod, &TREE.replace("SIZE", size).replace("END", end)).await?;
    }
    let jobs = TARS.map(|(pod, _)| copy(&scene, &format!("whole-{pod}"), pod, "/data", &[]));
    for ((pod, _), status) in TARS.iter().zip(scene.back_up_all(&jobs).await?) {
        ensure!(status.phase == Phase::Succeeded && status.warnings.is_empty(), "{pod}: {status:?}");
        ensure!(status.consistency == Some(Consistency::Live), "{pod}: {status:?}");
        // Nine gigabytes of holes come as one megabyte or so.
        ensure!(*pod != "gnu" || status.bytes_read.is_some_and(|bytes| bytes < 4 << 20), "{pod}: {status:?}");
        let folder = tempfile::tempdir()?;
        let place = folder.path().display().to_string();
        // libarchive's tar comes back to a folder when it has been elsewhere: times of folders are set at the end.
        let unpack = ["-x", "-p", "--numeric-owner", "--delay-directory-restore", "-C", &place];
        pipe("tar", &unpack, scene.decompressed(&status).await?).await?;
        let here = format!("cd '{place}' && {LISTING}");
        let back = String::from_utf8_lossy(&pipe("sh", &["-c", &here], Vec::new()).await?).into_owned();
        let there = scene.exec(pod, &format!("cd /data && {LISTING}")).await?;
        ensure!(there.ends_with("end") && there.lines().count() > 40, "{pod}: not the listing: {there}");
        ensure!(back == there, "{pod}: not the same:\n{back}\n----\n{there}");
    }
    scene.end().await
}

#[tokio::test]
async fn patterns_mean_the_same_under_each_tar() -> Result<()> {
    let scene = Scene::new("copy").await?;
    pods(&scene, 0).await?;
    let exclude = [("spec.target.exclude", json!(["/cache/", "*.tmp"]))];
    let include = [("spec.target.include", json!(["*.sql"])), ("spec.target.exclude", json!(["/5.sql"]))];
    let (mut jobs, mut expected) = (Vec::new(), Vec::new());
    for (pod, _) in TARS {
        let make = "mkdir -p /data/cache/x /data/a/cache /data/keep; cd /data; for f in cache/x/1 a/cache/2 a/3.tmp a/4.sql 5.sql; \
                    do echo $f > $f; done";
        scene.exec(pod, make).await?;
        for (name, changes, names) in [
            ("exclude", &exclude[..], "./ ./5.sql ./a/ ./a/4.sql ./a/cache/ ./a/cache/2 ./keep/"),
            ("include", &include, "./ ./a/ ./a/4.sql"),
        ] {
            jobs.push(copy(&scene, &format!("{name}-{pod}"), pod, "/data", changes));
            expected.push((pod, name, names));
        }
    }
    for ((pod, name, expected), status) in expected.into_iter().zip(scene.back_up_all(&jobs).await?) {
        ensure!(status.phase == Phase::Succeeded, "{pod} {name}: {status:?}");
        let listed = pipe("tar", &["-t"], scene.decompressed(&status).await?).await?;
        let mut names: Vec<_> = std::str::from_utf8(&listed)?.lines().collect();
        names.sort_unstable();
        ensure!(names.join(" ") == expected, "{pod} {name}: {names:?}");
    }
    scene.end().await
}

#[tokio::test]
async fn what_is_not_whole_is_not_a_success() -> Result<()> {
    let scene = Scene::new("copy").await?;
    let one_program = |pod: &mut Value| {
        edit(pod, "spec.containers", json!([{"name": "main", "image": PAUSE, "imagePullPolicy": "Never"}]));
    };
    tokio::try_join!(
        pods(&scene, 999),
        scene.pod("root", BUSYBOX, |_| {}),
        scene.pod("no-tar", DASH, |_| {}),
        scene.pod("no-shell", PAUSE, one_program),
    )?;
    scene.exec("no-tar", "rm /bin/tar").await?;
    for (pod, _) in TARS {
        // Below a folder, so that each tar comes to the good one first.
        let make = "mkdir -p /tmp/d/x; echo 1 > /tmp/d/good; echo 2 > /tmp/d/x/secret; chmod 0 /tmp/d/x/secret";
        scene.exec(pod, make).await?;
    }
    scene.exec("root", "mkdir -p /pg /hollow; touch /hollow/a; echo 1 > /pg/postmaster.pid; echo 1 > /pg/base").await?;
    scene.exec("root", "mkdir /links; echo 1 > /links/a; ln /links/a /links/b").await?;
    let first = scene.exec("root", "tar -cf - -C /links . | tar -t | grep -m 1 '[ab]$'").await?;
    let first = first.trim().trim_start_matches("./").to_owned();
    let cases: Vec<(Value, Phase, &str, &str)> = vec![
        (copy(&scene, "unread-gnu", "gnu", "/tmp/d", &[]), Phase::Incomplete, "SourceIncomplete", "secret"),
        (copy(&scene, "unread-box", "box", "/tmp/d", &[]), Phase::Incomplete, "SourceIncomplete", "secret"),
        (
            copy(&scene, "unread-bsd", "bsd", "/tmp/d", &[]),
            Phase::Incomplete,
            "SourceIncomplete",
            "secret': Permission denied. libarchive's tar gives up",
        ),
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
        (copy(&scene, "no-shell", "no-shell", "/etc", &[]), Phase::Failed, "ShellMissing", "spec.target.container"),
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

#[tokio::test]
async fn a_file_that_changes_is_a_warning_or_makes_the_copy_incomplete() -> Result<()> {
    let scene = Scene::new("copy").await?;
    pods(&scene, 0).await?;
    // Written to all the time, and so long that it takes tar a while: no reader finds it as it was. Nobody writes for ever.
    let make = "mkdir /data; echo still > /data/still; head -c 60000000 /dev/zero > /data/log; \
                timeout 120 sh -c 'until test -e /stop; do echo more >> /data/log; sleep 0.01; done' > /dev/null 2>&1 &";
    let (mut jobs, mut expected) = (Vec::new(), Vec::new());
    // Only GNU tar tells which file it was.
    let tars =
        [("gnu", "./log: file changed as we read it"), ("box", "cannot tell which"), ("bsd", "cannot tell which")];
    for (pod, told) in tars {
        scene.exec(pod, make).await?;
        for (policy, phase, reason) in
            [("Warn", Phase::Succeeded, None), ("Fail", Phase::Incomplete, Some("FilesChanged"))]
        {
            let on_change = [("spec.strategy.onChange", json!(policy))];
            jobs.push(copy(&scene, &format!("{}-{pod}", policy.to_lowercase()), pod, "/data", &on_change));
            expected.push((pod, policy, phase, reason, told));
        }
    }
    let statuses = scene.back_up_all(&jobs).await?;
    for ((pod, policy, phase, reason, told), status) in expected.into_iter().zip(statuses) {
        ensure!(status.phase == phase && status.reason.as_deref() == reason, "{pod} {policy}: {status:?}");
        let words =
            if reason.is_none() { status.warnings.join("; ") } else { status.message.clone().unwrap_or_default() };
        ensure!(words.contains(told) && !words.contains("still"), "{pod} {policy}: {words}");
        // What there is of it is kept, as long as the file was when tar came to it.
        let mut files = pipe("tar", &["-t"], scene.decompressed(&status).await?).await?;
        files.retain(|byte| *byte != b'\n');
        ensure!([&b"././still./log"[..], b"././log./still"].contains(&&*files), "{pod} {policy}: {files:?}");
    }
    for (pod, _) in tars {
        scene.exec(pod, "touch /stop").await?;
    }
    scene.end().await
}

#[tokio::test]
async fn files_that_come_and_go_are_a_warning_or_make_the_copy_incomplete() -> Result<()> {
    let scene = Scene::new("copy").await?;
    pods(&scene, 0).await?;
    // There are always thirty of them, and none is there for long; what stays among them takes tar so much time that all that
    // it found listed have gone before their turn. Nobody writes for ever.
    let make = "mkdir /data; cd /data; for f in a b c d e f; do head -c 10000000 /dev/zero > still-$f; done; \
                timeout 120 sh -c 'n=0; until test -e /stop; do n=$((n + 1)); echo $n > come-$n; rm -f come-$((n - 30)); \
                sleep 0.005; done' > /dev/null 2>&1 &";
    for (pod, _) in TARS {
        scene.exec(pod, make).await?;
    }
    let jobs = TARS.map(|(pod, _)| copy(&scene, &format!("go-{pod}"), pod, "/data", &[]));
    for ((pod, _), status) in TARS.iter().zip(scene.back_up_all(&jobs).await?) {
        let warned = status
            .warnings
            .iter()
            .any(|warning| warning.contains("vanished while they were read") && warning.contains("./come-"));
        // libarchive's tar gives up where a file goes between its look and its opening.
        let gave_up = *pod == "bsd"
            && status.phase == Phase::Incomplete
            && status.reason.as_deref() == Some("SourceIncomplete")
            && status.message.as_deref().unwrap_or_default().contains("what comes after it is missing");
        ensure!(gave_up || (status.phase == Phase::Succeeded && warned), "{pod}: {status:?}");
        if !gave_up {
            let listed = pipe("tar", &["-t"], scene.decompressed(&status).await?).await?;
            let still = std::str::from_utf8(&listed)?.lines().filter(|name| name.starts_with("./still-")).count();
            ensure!(still == 6, "{pod}: of the files that stayed {still} are there");
        }
    }
    for (pod, _) in TARS {
        scene.exec(pod, "touch /stop").await?;
    }
    scene.end().await
}
