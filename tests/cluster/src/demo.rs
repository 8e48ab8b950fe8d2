//! **O** `cargo rig demo`: the main job from beginning to end, on the real cluster, as a person would do it by hand.
//!
//! Every command is shown before it runs, and what it prints is its own. Nothing is taken for granted: each step waits for
//! what the cluster says, and the rows that come back are compared with those that went in.

use crate::command::output;
use crate::parts::Keys;
use crate::place::{BUCKET, Place};
use crate::report::Report;
use crate::{netns, operator_image, up, wait};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The document of the first page, and what this demo adds to it.
const JOB: &str = "postgres-daily-backup";
const COPY: &str = "postgres-every-minute";
const URI: &str = "s3://my-bucket/backups/postgres";
const ROWS: &str = "10000";
/// How a table is told by one line: how many rows, and a digest over all of them.
const FINGERPRINT: &str = "select count(*), md5(string_agg(v::text, ',' order by v.id)) from visits v";
const PATIENCE: Duration = Duration::from_mins(3);
const GLANCE: Duration = Duration::from_millis(500);

/// Runs it, and leaves everything in place to look at.
pub fn demo(place: &Place, report: &Report) -> Result<()> {
    up::up(place, report, true)?;
    let demo = Demo { place, keys: up::keys(place)?, work: place.folder("demo")? };
    demo.clear()?;
    demo.install()?;
    demo.database()?;
    demo.job()?;
    demo.by_hand()?;
    demo.by_itself()?;
    demo.read_back()?;
    Demo::say("Done. It goes on: `cargo rig kubectl get backupjobs,backupruns`; `cargo rig down` ends it.");
    Ok(())
}

struct Demo<'a> {
    place: &'a Place,
    keys: Keys,
    work: PathBuf,
}

impl Demo<'_> {
    /// What an earlier demo left in the cluster.
    fn clear(&self) -> Result<()> {
        if self.ask(&["get", "crd", "backupjobs.backup.javy.dev"]).is_ok() {
            self.ask(&["delete", "backupjob", JOB, COPY, "--ignore-not-found", "--timeout=120s"])?;
        }
        self.ask(&["delete", "pod", "restored", "--ignore-not-found", "--now"]).map(drop)
    }

    fn install(&self) -> Result<()> {
        Self::say("The operator, as a Deployment");
        let again = self.ask(&["--namespace", "backup-system", "get", "deployment", "operator"]).is_ok();
        let ubo = operator_image::binary(self.place, false).display().to_string();
        let manifests = output(netns::command(self.place, &ubo).args(["install", "--image", operator_image::NAME]))?;
        self.shown(&format!("ubo install --image {} | kubectl apply --server-side -f -", operator_image::NAME));
        self.kubectl(&["apply", "--server-side", "--filename", "-"], Some(&manifests))?;
        if again {
            // The image's name is always the same: a pod of an older build must not be taken for the new one.
            self.ask(&["--namespace", "backup-system", "rollout", "restart", "deployment/operator"])?;
        }
        self.show(&["--namespace", "backup-system", "rollout", "status", "deployment/operator", "--timeout=180s"])
    }

    fn database(&self) -> Result<()> {
        Self::say(
            "A PostgreSQL, with rows in it (manifests/examples/postgres.yaml, with an image and a size that are here)",
        );
        let example = self.example("postgres.yaml")?;
        let here = example.replace("image: postgres:17", "image: localhost/postgres:15").replace("10Gi", "500Mi");
        ensure!(here.contains("localhost/postgres:15"), "manifests/examples/postgres.yaml names another image now");
        self.kubectl(&["apply", "--filename", "-"], Some(&here))?;
        self.show(&["rollout", "status", "statefulset/postgres", "--timeout=180s"])?;
        self.psql("postgres-0", "create table if not exists visits (id int primary key, at timestamptz, note text)")?;
        self.psql(
            "postgres-0",
            &format!(
                "insert into visits select i, now() - i * interval '1 minute', md5(i::text) from generate_series(1, {ROWS}) i \
                 on conflict do nothing"
            ),
        )?;
        println!("rows, and their digest: {}", self.psql("postgres-0", FINGERPRINT)?);
        Ok(())
    }

    fn job(&self) -> Result<()> {
        Self::say("The namespace opts in, the credentials, and the BackupJob as it stands in the README");
        self.show(&["apply", "--filename", &self.manifest("namespace.yaml")])?;
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": {
            "AWS_ACCESS_KEY_ID": self.keys.access, "AWS_SECRET_ACCESS_KEY": self.keys.secret,
            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": Place::s3_endpoint()}});
        self.kubectl(&["apply", "--filename", "-"], Some(&secret.to_string()))?;
        self.show(&["apply", "--filename", &self.manifest("examples/postgres-daily-backup.yaml")])?;
        self.wait(&["get", "backupjob", JOB], |job| job["status"]["nextRunTime"].is_string())?;
        self.show(&["get", "backupjobs"])?;
        Self::say("A copy of it that fires every minute");
        let job = self.example("postgres-daily-backup.yaml")?;
        let copy = job.replace(JOB, COPY).replace("0 2 * * *", "* * * * *");
        self.kubectl(&["apply", "--filename", "-"], Some(&copy))
    }

    fn by_hand(&self) -> Result<()> {
        Self::say("A BackupRun made by hand runs the original now");
        let file = self.manifest("examples/run-now.yaml");
        self.shown(&format!("kubectl create -f {file}"));
        let run = self.ask(&["create", "--filename", &file, "--output", "jsonpath={.metadata.name}"])?;
        self.succeeded(run.trim())
    }

    fn by_itself(&self) -> Result<()> {
        Self::say("The copy fires by itself, at the next full minute");
        let runs = |demo: &Self| -> Result<Option<String>> {
            let text = demo.ask(&["get", "backupruns", "--output", "json"])?;
            let list: Value = serde_json::from_str(&text)?;
            let runs = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            let fired =
                runs.iter().find(|run| run["spec"]["backupJobName"] == COPY && run["spec"]["scheduledAt"].is_string());
            Ok(fired.and_then(|run| run["metadata"]["name"].as_str()).map(ToOwned::to_owned))
        };
        wait::until("a scheduled run", PATIENCE, GLANCE, || Ok(runs(self)?.is_some()))?;
        let Some(run) = runs(self)? else { bail!("the scheduled run is gone") };
        self.succeeded(&run)?;
        self.ask(&["patch", "backupjob", COPY, "--type=merge", "--patch", "{\"spec\":{\"suspend\":true}}"])?;
        self.show(&["get", "backupjobs"])
    }

    fn succeeded(&self, run: &str) -> Result<()> {
        let found = self.wait(&["get", "backuprun", run], |run| {
            run["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Complete" && one["status"] == "True"))
        })?;
        self.show(&["get", "backuprun", run])?;
        ensure!(
            found["status"]["phase"] == "Succeeded",
            "{run} ended as {}, {}: {}",
            found["status"]["phase"],
            found["status"]["reason"],
            found["status"]["message"]
        );
        Ok(())
    }

    fn read_back(&self) -> Result<()> {
        Self::say("The backups, listed");
        let ubo = operator_image::binary(self.place, false).display().to_string();
        self.shown(&format!("ubo list {URI}"));
        let mut list = netns::command(self.place, &ubo);
        list.env("AWS_ACCESS_KEY_ID", &self.keys.access).env("AWS_SECRET_ACCESS_KEY", &self.keys.secret);
        list.env("AWS_REGION", "us-east-1").env("AWS_ENDPOINT_URL", Place::s3_endpoint());
        ensure!(list.args(["list", URI]).status()?.success(), "ubo list failed");

        Self::say("Read back with nothing of ours: zstd and tar");
        // The S3 server keeps its objects as files, so that no S3 client is needed either.
        let archive = self.place.state.join("s3").join(BUCKET).join("backups/postgres/default").join(JOB);
        let attempt = fs::read_dir(&archive)
            .with_context(|| format!("there is no {}", archive.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.join("manifest.json").exists())
            .context("no backup has a manifest")?;
        let folder = self.work.join("restored");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        self.shown(&format!("cat {}/archive.tar.zst* | zstd -d | tar x", attempt.display()));
        plain_restore(&attempt, &folder)?;
        let dump = folder.join("dump.sql");
        println!("{} ({} bytes)", dump.display(), fs::metadata(&dump).context("there is no dump.sql in it")?.len());

        Self::say("Into an empty PostgreSQL, and the rows compared");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "restored"}, "spec": {"containers": [{
            "name": "postgres", "image": "localhost/postgres:15",
            "readinessProbe": {"exec": {"command": ["pg_isready", "--quiet"]}, "periodSeconds": 1}}]}});
        self.kubectl(&["apply", "--filename", "-"], Some(&pod.to_string()))?;
        self.show(&["wait", "--for=condition=Ready", "pod/restored", "--timeout=120s"])?;
        self.shown("kubectl exec -i restored -- psql --quiet < dump.sql");
        let psql = self
            .command()
            .args(["exec", "--stdin", "restored", "--", "psql", "--quiet", "--output=/dev/null"])
            .stdin(File::open(&dump)?)
            .stderr(Stdio::null())
            .status()?;
        ensure!(psql.success(), "the dump could not be loaded");
        let (before, after) = (self.psql("postgres-0", FINGERPRINT)?, self.psql("restored", FINGERPRINT)?);
        println!("before: {before}\nafter:  {after}");
        ensure!(before == after && before.starts_with(ROWS), "the rows differ");
        Ok(())
    }

    fn say(text: &str) {
        println!("\n=== {text}");
    }

    fn shown(&self, line: &str) {
        println!("$ {}", line.replace(&format!("{}/", self.place.checkout.display()), ""));
    }

    fn manifest(&self, name: &str) -> String {
        self.place.checkout.join("manifests").join(name).display().to_string()
    }

    fn example(&self, name: &str) -> Result<String> {
        let path = self.manifest(&format!("examples/{name}"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    fn command(&self) -> Command {
        let mut command = netns::command(self.place, &self.place.kubectl().display().to_string());
        command.arg("--kubeconfig").arg(self.place.kubeconfig("admin"));
        command
    }

    /// What kubectl prints.
    fn ask(&self, words: &[&str]) -> Result<String> {
        output(self.command().args(words))
    }

    /// Runs kubectl in sight.
    fn show(&self, words: &[&str]) -> Result<()> {
        self.shown(&format!("kubectl {}", words.join(" ")));
        self.kubectl(words, None)
    }

    fn kubectl(&self, words: &[&str], input: Option<&str>) -> Result<()> {
        let mut child = self
            .command()
            .args(words)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .spawn()
            .context("cannot run kubectl")?;
        if let (Some(mut stdin), Some(text)) = (child.stdin.take(), input) {
            stdin.write_all(text.as_bytes())?;
        }
        ensure!(child.wait()?.success(), "kubectl {} failed", words.first().unwrap_or(&""));
        Ok(())
    }

    fn psql(&self, pod: &str, statement: &str) -> Result<String> {
        let text =
            self.ask(&["exec", pod, "--", "psql", "--no-psqlrc", "--tuples-only", "--no-align", "-c", statement])?;
        Ok(text.trim().to_owned())
    }

    /// Waits until an object satisfies `holds`, and returns it.
    fn wait(&self, words: &[&str], holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let what = words.join(" ");
        wait::until(&what, PATIENCE, GLANCE, || {
            let mut words = words.to_vec();
            words.extend(["--output", "json"]);
            last = serde_json::from_str(&self.ask(&words)?)?;
            Ok(holds(&last))
        })
        .with_context(|| format!("the last status: {}", last["status"]))?;
        Ok(last)
    }
}

/// `cat archive.tar.zst* | zstd -d | tar x`, with every exit code looked at.
fn plain_restore(attempt: &std::path::Path, folder: &std::path::Path) -> Result<()> {
    let mut segments: Vec<PathBuf> = fs::read_dir(attempt)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("archive.tar.zst")))
        .collect();
    segments.sort();
    let mut zstd = Command::new("zstd")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run zstd")?;
    let unpacked = zstd.stdout.take().context("zstd has no output")?;
    let mut tar = Command::new("tar").arg("x").current_dir(folder).stdin(unpacked).spawn().context("cannot run tar")?;
    let mut input = zstd.stdin.take().context("zstd has no input")?;
    for segment in segments {
        std::io::copy(&mut File::open(segment)?, &mut input)?;
    }
    drop(input);
    ensure!(zstd.wait()?.success() && tar.wait()?.success(), "zstd or tar refused the archive");
    Ok(())
}
