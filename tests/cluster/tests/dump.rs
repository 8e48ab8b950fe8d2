//! Dumps by exec, as users write them: what succeeds, what fails, what each leaves behind.

mod installed;
mod scene;

use anyhow::{Context, Result, ensure};
use scene::{BUSYBOX, Scene, edit};
use serde_json::{Value, json};
use ubo::api::backup_run::BackupRunStatus;
use ubo::error::Reason;
use ubo::run::Phase;

/// The image whose `sh` has no pipefail, with bash beside it.
const BASH: &str = "localhost/postgres:15";
/// The image whose `sh` has no pipefail, and no other shell.
const DASH: &str = "localhost/dash:1";

/// What a dump is to end with.
enum Expected {
    /// These bytes.
    Stored(&'static str),
    /// No backup, for this reason and with this exit code.
    Refused(Reason, Option<i32>),
}
use Expected::{Refused, Stored};

/// A job of `command` in pod `pod`.
fn in_pod(scene: &Scene, name: &str, pod: &str, command: &str) -> Value {
    scene.job(name, command, |job| edit(job, "spec.target.name", json!(pod)))
}

async fn expect(scene: &Scene, job: &Value, status: &BackupRunStatus, expected: &Expected) -> Result<()> {
    let told = || format!("{}: {status:?}", job["spec"]["strategy"]["command"]);
    match expected {
        Stored(bytes) => {
            ensure!(status.phase == Phase::Succeeded, "{}", told());
            let stored = scene.decompressed(status).await?;
            ensure!(stored == bytes.as_bytes(), "{:?} was stored: {}", String::from_utf8_lossy(&stored), told());
        }
        Refused(reason, code) => {
            ensure!(status.phase == Phase::Failed && status.reason.as_deref() == Some(reason.as_str()), "{}", told());
            ensure!(status.exit_code == *code && status.destinations.is_empty(), "{}", told());
        }
    }
    Ok(())
}

/// Runs all of them side by side.
async fn all(scene: &Scene, cases: Vec<(Value, Expected)>) -> Result<()> {
    let (jobs, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let statuses = scene.back_up_all(&jobs).await?;
    for ((job, status), expected) in jobs.iter().zip(&statuses).zip(&expected) {
        expect(scene, job, status, expected).await?;
    }
    Ok(())
}

/// A volume of the pod's own, mounted there.
fn volume(pod: &mut Value, name: &str, path: &str) {
    let add = |list: &mut Value, entry: Value| match list {
        Value::Array(entries) => entries.push(entry),
        none => *none = json!([entry]),
    };
    add(&mut pod["spec"]["volumes"], json!({"name": name, "emptyDir": {}}));
    add(&mut pod["spec"]["containers"][0]["volumeMounts"], json!({"name": name, "mountPath": path}));
}

/// Names in a tar, in order, and the content of its regular files.
async fn unpacked(scene: &Scene, status: &BackupRunStatus) -> Result<Vec<(String, String)>> {
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let folder = tempfile::tempdir()?;
    let place = folder.path().to_str().context("a path")?;
    scene::pipe("tar", &["-x", "-C", place], scene.decompressed(status).await?).await?;
    let mut found = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let entry = entry?;
            let name = entry.path().strip_prefix(folder.path())?.display().to_string();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() {
                found.push((name, format!("-> {}", std::fs::read_link(entry.path())?.display())));
            } else {
                found.push((name, std::fs::read_to_string(entry.path())?));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

#[tokio::test]
async fn a_dump_arrives_byte_for_byte() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.back_up(&scene.job("whole", "seq 1 100000", |_| {})).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    let numbers: Vec<_> = (1..=100_000).map(|number| number.to_string()).collect();
    let expected = numbers.join("\n") + "\n";
    ensure!(scene.decompressed(&status).await? == expected.as_bytes(), "the bytes differ");
    scene.end().await
}

#[tokio::test]
async fn an_exit_code_after_half_of_the_output_fails_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.back_up(&scene.job("half", "seq 1 5000000; exit 3", |_| {})).await?;
    ensure!(status.phase == Phase::Failed && status.exit_code == Some(3), "{status:?}");
    ensure!(status.reason.as_deref() == Some("CommandFailed"), "{status:?}");
    scene.nothing_left().await?;
    let job = scene.job_until("half", "to say how it ended", |job| {
        job.status.as_ref().is_some_and(|status| status.last_exit_code == Some(3))
    });
    job.await?;
    scene.end().await
}

#[tokio::test]
async fn commands_as_people_write_them() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let job = |name: &str, command: &str| scene.job(name, command, |_| {});
    let mut empty = job("allowed", "true");
    edit(&mut empty, "spec.guard.allowEmpty", json!(true));
    let mut small = job("small", "echo data");
    edit(&mut small, "spec.guard.minimumSize", json!("1Ki"));
    let cases = vec![
        (job("nothing", "true"), Refused(Reason::EmptyBackup, Some(0))),
        (job("only-log", "echo not a backup >&2"), Refused(Reason::EmptyBackup, Some(0))),
        // Standard input ends at once: a command that reads it neither hangs nor gets what is ours.
        (job("input", "cat"), Refused(Reason::EmptyBackup, Some(0))),
        (job("input-first", "cat; read -r line || echo data"), Stored("data\n")),
        (empty, Stored("")),
        (job("exit", "echo data; exit 0; echo more"), Stored("data\n")),
        (job("exit-code", "echo data; exit 9"), Refused(Reason::CommandFailed, Some(9))),
        (job("exec", "exec echo data"), Stored("data\n")),
        (job("exec-fails", "exec false"), Refused(Reason::CommandFailed, Some(1))),
        (job("no-program", "echo data && no-such-program"), Refused(Reason::CommandFailed, Some(127))),
        (job("syntax", "echo 'data"), Refused(Reason::CommandFailed, Some(2))),
        (job("set-e", "set -e; false; echo data"), Refused(Reason::CommandFailed, Some(1))),
        (job("redirect", "cat < /nonexistent/x && echo data"), Refused(Reason::CommandFailed, Some(1))),
        (
            job("quotes", "printf '%s\\n' \"it's \\\"one\\\"\" 'a\nb' \"$((1+1))\"\necho $# \\\n  end\n"),
            Stored("it's \"one\"\na\nb\n2\n0 end\n"),
        ),
        (job("environment", "echo $UBO_RUN $UBO_BACKUP"), Stored("environment-once\n")),
        // What it leaves in the background is waited for neither for ever nor taken for the backup.
        (job("background", "sleep 3600 >/dev/null 2>&1 & echo data"), Stored("data\n")),
        (job("no-line-end", "printf '\\n\\n'; printf data"), Stored("\n\ndata")),
    ];
    all(&scene, cases).await?;
    let status = scene.back_up(&small).await?;
    ensure!(status.phase == Phase::Failed, "smaller than guard.minimumSize: {status:?}");
    scene.no_process("box", "sleep 3600").await?;
    scene.end().await
}

#[tokio::test]
async fn the_first_part_of_a_pipe_fails_in_every_shell() -> Result<()> {
    let scene = Scene::new("dump").await?;
    let pods = [("busybox", BUSYBOX), ("bash", BASH), ("dash", DASH)];
    futures::future::try_join_all(pods.map(|(name, image)| scene.pod(name, image, |_| {}))).await?;
    let failed = || Refused(Reason::CommandFailed, Some(1));
    let unchecked = || Refused(Reason::PipelineNotChecked, None);
    let mut allowed = in_pod(&scene, "dash-allowed", "dash", "false | echo data");
    edit(&mut allowed, "spec.strategy.allowUncheckedPipes", json!(true));
    let mut cases = vec![
        (allowed, Stored("data\n")),
        (in_pod(&scene, "dash-plain", "dash", "echo data || false"), Stored("data\n")),
        (in_pod(&scene, "nested", "busybox", "sh -c 'false | echo data'"), unchecked()),
    ];
    for (name, command) in
        [("cat", "false | cat"), ("echo", "(echo half; false) | cat"), ("dir", "false | cat > /backup/x")]
    {
        cases.push((in_pod(&scene, &format!("busybox-{name}"), "busybox", command), failed()));
        cases.push((in_pod(&scene, &format!("bash-{name}"), "bash", command), failed()));
        cases.push((in_pod(&scene, &format!("dash-{name}"), "dash", command), unchecked()));
    }
    for pod in ["busybox", "bash"] {
        cases.push((in_pod(&scene, &format!("{pod}-good"), pod, "echo data | cat"), Stored("data\n")));
    }
    all(&scene, cases).await?;
    scene.end().await
}

#[tokio::test]
async fn a_directory_is_packed_whole_and_removed() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let command = "echo to the log; mkdir -p /backup/a/b /backup/empty; echo one > /backup/a/b/one; \
                   echo two > '/backup/two words'; echo three > /backup/.hidden; ln -s a/b/one /backup/link; \
                   cd \"$UBO_BACKUP_DIR\"; seq 1 3 > a/numbers";
    let whole = scene.back_up(&scene.job("whole", command, |_| {})).await?;
    let expected = [
        (".hidden", "three\n"),
        ("a/b/one", "one\n"),
        ("a/numbers", "1\n2\n3\n"),
        ("link", "-> a/b/one"),
        ("two words", "two\n"),
    ];
    ensure!(unpacked(&scene, &whole).await? == files(&expected), "{:?}", unpacked(&scene, &whole).await?);
    ensure!(scene.exec("box", "ls -A / | grep backup || true").await?.is_empty(), "something of /backup is left");

    let cases = [
        // The redirect fails, which ends the command; or it goes on, and nothing was written, whatever it said.
        ("redirect", "echo x > /backup/no/such; echo done", Reason::CommandFailed, Some(1)),
        ("allowed", "echo x > /backup/no/such || echo done", Reason::EmptyBackup, Some(0)),
        ("nothing", "ls /backup", Reason::EmptyBackup, Some(0)),
        ("no-content", "touch /backup/x", Reason::EmptyBackup, Some(0)),
        ("code", "echo half > /backup/half; exit 3", Reason::CommandFailed, Some(3)),
    ];
    let cases = cases.map(|(name, command, reason, code)| (scene.job(name, command, |_| {}), Refused(reason, code)));
    all(&scene, cases.into()).await?;
    ensure!(scene.exec("box", "ls -A / | grep backup || true").await?.is_empty(), "something of /backup is left");
    scene.end().await
}

#[tokio::test]
async fn a_directory_that_holds_something_else_is_not_touched() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    scene.exec("box", "mkdir /backup /elsewhere; echo precious > /backup/mine; touch /file").await?;
    let refused = || Refused(Reason::BackupDirectoryNotEmpty, None);
    let mut file = scene.job("file", "echo x > $UBO_BACKUP_DIR/x", |_| {});
    edit(&mut file, "spec.strategy.directory", json!("/file"));
    let mut elsewhere = scene.job("elsewhere", "echo x > /elsewhere/x", |_| {});
    edit(&mut elsewhere, "spec.strategy.directory", json!("/elsewhere"));
    let job = scene.job("in-use", "echo x > /backup/x", |_| {});
    let statuses = scene.back_up_all(&[job.clone(), file.clone(), elsewhere]).await?;
    expect(&scene, &job, &statuses[0], &refused()).await?;
    ensure!(statuses[0].message.as_deref().is_some_and(|said| said.contains("mine")), "{:?}", statuses[0]);
    expect(&scene, &file, &statuses[1], &refused()).await?;
    // Found empty: used, and left as it was found.
    ensure!(unpacked(&scene, &statuses[2]).await? == files(&[("x", "x\n")]), "{:?}", statuses[2]);
    let left =
        scene.exec("box", "cat /backup/mine; ls -A /backup; ls -A /elsewhere; ls -d /file; ls -d /*.ubo-run || :");
    ensure!(left.await? == "precious\nmine\n/file\n", "not as it was");
    scene.end().await
}

#[tokio::test]
async fn where_no_directory_can_be_made_it_says_so_and_a_volume_serves() -> Result<()> {
    let scene = Scene::new("dump").await?;
    let other_user = |pod: &mut Value| edit(pod, "spec.securityContext", json!({"runAsUser": 999, "fsGroup": 999}));
    let read_only =
        |pod: &mut Value| pod["spec"]["containers"][0]["securityContext"] = json!({"readOnlyRootFilesystem": true});
    let mounted = |pod: &mut Value| {
        other_user(pod);
        read_only(pod);
        volume(pod, "backup", "/backup");
    };
    tokio::try_join!(
        scene.pod("other-user", BUSYBOX, other_user),
        scene.pod("read-only", BUSYBOX, read_only),
        scene.pod("no-tar", DASH, |_| {}),
        scene.pod("volume", BUSYBOX, mounted),
    )?;
    scene.exec("no-tar", "rm /bin/tar").await?;
    let write = "echo x > /backup/x";
    let unavailable = || Refused(Reason::BackupDirectoryUnavailable, None);
    let cases = vec![
        (in_pod(&scene, "other-user", "other-user", write), unavailable()),
        (in_pod(&scene, "read-only", "read-only", write), unavailable()),
        (in_pod(&scene, "no-tar", "no-tar", write), Refused(Reason::TarMissing, None)),
        (in_pod(&scene, "no-tar-stdout", "no-tar", "echo x"), Stored("x\n")),
    ];
    all(&scene, cases).await?;
    let status = scene.back_up(&in_pod(&scene, "volume", "volume", "echo x > /backup/x; mkdir /backup/d")).await?;
    ensure!(unpacked(&scene, &status).await? == files(&[("x", "x\n")]), "{status:?}");
    ensure!(scene.exec("volume", "ls -A /backup").await?.is_empty(), "the volume was not emptied");
    scene.end().await
}

/// A volume in memory is as large as its limit, and the pod's memory too: the run ends before anybody has to end the pod.
#[tokio::test]
async fn a_volume_in_memory_that_fills_up_ends_the_command_and_not_the_pod() -> Result<()> {
    let scene = Scene::new("dump").await?;
    let pod = scene.pod("box", BUSYBOX, |pod| {
        volume(pod, "backup", "/backup");
        edit(pod, "spec.volumes", json!([{"name": "backup", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}}]));
        edit(pod, "spec.terminationGracePeriodSeconds", json!(0));
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    });
    pod.await?;
    // 30 of 32 MiB, and then it waits: what ends it is not that a write fails.
    let nearly = scene.job("nearly", "head -c 31457280 /dev/zero > /backup/dump; sleep 3611", |_| {});
    let status = scene.back_up(&nearly).await?;
    expect(&scene, &nearly, &status, &Refused(Reason::StagingFull, None)).await?;
    let message = status.message.unwrap_or_default();
    ensure!(message.contains("10 % free") && message.contains("standard output"), "{message}");
    scene.no_process("box", "sleep 3611").await?;
    ensure!(scene.exec("box", "ls -A /backup").await?.is_empty(), "the volume was not emptied");
    // A write that fails is the command's own failure, and leaves as little.
    let over = scene.job("over", "head -c 40000000 /dev/zero > /backup/dump", |_| {});
    let status = scene.back_up(&over).await?;
    ensure!(status.phase == Phase::Failed && status.destinations.is_empty(), "{status:?}");
    ensure!(["CommandFailed", "StagingFull"].contains(&status.reason.as_deref().unwrap_or_default()), "{status:?}");
    ensure!(scene.exec("box", "ls -A /backup").await?.is_empty(), "the volume was not emptied");
    // The pod was neither evicted nor its container killed, and there is room again.
    let pod = scene.kubectl(&[
        "get",
        "pod",
        "box",
        "-o",
        "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}",
    ]);
    ensure!(pod.await? == "Running 0", "not as it was");
    let status = scene.back_up(&scene.job("small", "echo x > /backup/x", |_| {})).await?;
    ensure!(unpacked(&scene, &status).await? == files(&[("x", "x\n")]), "{status:?}");
    scene.end().await
}

/// The container is killed in mid-run, with our shell in it: what it left lies in a volume. The next attempt clears it.
#[tokio::test]
async fn what_a_dead_run_left_is_cleared() -> Result<()> {
    let scene = Scene::new("dump").await?;
    let pod = scene.pod("box", BUSYBOX, |pod| {
        volume(pod, "backup", "/backup");
        volume(pod, "memory", "/memory");
    });
    pod.await?;
    let command = "if [ -e /memory/killed ]; then echo good > /backup/good; else \
                   touch /memory/killed; echo half > /backup/half; kill -9 -1; fi";
    let mut job = scene.job("killed", command, |_| {});
    edit(&mut job, "spec.retry", json!({"limit": 3, "backoffSeconds": 1}));
    let status = scene.back_up(&job).await?;
    ensure!(unpacked(&scene, &status).await? == files(&[("good", "good\n")]), "{status:?}");
    ensure!(status.attempts[0].reason.as_deref() == Some("TargetGone"), "{:?}", status.attempts);
    ensure!(scene.exec("box", "ls -A /backup").await?.is_empty(), "the volume was not emptied");
    scene.end().await
}

#[tokio::test]
async fn a_namespace_that_is_opted_out_and_in_again_backs_up_at_once() -> Result<()> {
    let scene = Scene::new("dump").await?;
    scene.pod("box", BUSYBOX, |_| {}).await?;
    let status = scene.back_up(&scene.job("before", "echo before", |_| {})).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    // The operator still has a token of this account, which is worth nothing from now on.
    scene.kubectl(&["delete", "serviceaccount", "backup-runner", "--timeout=30s"]).await?;
    let run = scene.start("before").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.reason.as_deref() == Some("NamespaceNotOptedIn"), "{status:?}");
    let opt_in = std::fs::read_to_string(scene.installed.cluster.checkout.join("manifests/namespace.yaml"))?;
    scene.installed.apply(&opt_in, &["-n", &scene.namespace]).await?;
    let run = scene.start("before").await?;
    let status = scene.ended(&run).await?;
    ensure!(status.phase == Phase::Succeeded, "{status:?}");
    scene.end().await
}
