//! **A** The main job on real input: a PostgreSQL, the BackupJob of the documentation unchanged, backups by the clock and
//! by hand, and the way back into an empty PostgreSQL.
//!
//! Each act is a function that runs what a person would type and waits for what it is for; `cargo rig demo` shows them,
//! `tests/example.rs` checks them. All of it happens in namespace `default`, because the BackupJob says so.

use crate::{Cluster, remove_folder};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The operator's image in the cluster.
pub const IMAGE: &str = "localhost/ubo:dev";
/// The database that is backed up: StatefulSet and Service, and a pod `postgres-0`.
pub const POSTGRES: &str = "postgres";
/// An empty one, for the way back.
pub const EMPTY: &str = "postgres-restored";
/// The BackupJob of the documentation.
pub const JOB: &str = "postgres-daily-backup";
/// Its copy that fires each minute.
pub const COPY: &str = "postgres-every-minute";
/// Where the backups of both go.
pub const URI: &str = "s3://my-bucket/backups/postgres";
/// The namespace that the BackupJob names.
const NAMESPACE: &str = "default";

/// Rows of different kinds, with text that a careless copy would damage, and a role, which only `pg_dumpall` keeps.
const ROWS: &str = r"
CREATE ROLE clerk LOGIN;
CREATE DATABASE shop OWNER clerk;
\connect shop
CREATE TABLE orders (id integer PRIMARY KEY, customer text, amount numeric(10,2), note bytea, placed timestamptz);
INSERT INTO orders SELECT n, 'Zoë ' || md5(n::text) || E'\t''\\', random() * 1000, decode(md5(random()::text), 'hex'),
    timestamptz '2026-01-01 00:00:00+00' + n * interval '1 minute' FROM generate_series(1, 20000) AS n;
CREATE INDEX ON orders (customer);
";
/// One line that says whether two databases hold the same.
const DIGEST: &str = "SELECT count(*) || ' rows, md5 ' || md5(string_agg(o::text, chr(10) ORDER BY id)) || ', owner ' || \
    (SELECT rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE datname = 'shop') FROM orders o";

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// `Succeeded`, or what else.
    pub phase: String,
    /// What the operator says about it.
    pub message: String,
    /// Folder of the backup below [`URI`].
    pub folder: String,
}

/// A tick that will come.
#[derive(Clone, Debug)]
pub struct Tick {
    /// As the status says it: `2026-11-24T02:00:00Z`.
    pub at: String,
    /// Name of the run that it will make.
    pub run: String,
}

/// The acts, on one cluster.
#[derive(Debug)]
pub struct Example<'a> {
    cluster: &'a Cluster,
}

impl<'a> Example<'a> {
    /// The acts on this cluster.
    pub fn new(cluster: &'a Cluster) -> Example<'a> {
        Example { cluster }
    }

    /// `ubo install | kubectl apply`, and waits until the operator is ready.
    pub fn install(&self) -> Result<()> {
        let manifests = self.run(Command::new(&self.cluster.ubo).args(["install", "--image", IMAGE]), Stdio::null())?;
        self.apply(&manifests)?;
        self.kubectl(&["rollout", "status", "deployment/operator", "-n", "backup-system", "--timeout=180s"]).map(drop)
    }

    /// Starts the operator anew, with the image as it is now.
    pub fn restart_operator(&self) -> Result<()> {
        self.kubectl(&["rollout", "restart", "deployment/operator", "-n", "backup-system"])?;
        self.kubectl(&["rollout", "status", "deployment/operator", "-n", "backup-system", "--timeout=180s"]).map(drop)
    }

    /// Removes everything of the example, also what an earlier one left: only what it makes itself, by name.
    pub fn clear(&self) -> Result<()> {
        let delete = ["delete", "--ignore-not-found", "--timeout=120s", "-n", NAMESPACE];
        let run = |names: &[&str]| self.kubectl(&[&delete, names].concat());
        // Jobs first: what is at work is ended in good order while its pod is there. Where there is no definition yet,
        // there is no object either.
        if self.kubectl(&["get", "crd", "backupjobs.backup.javy.dev"]).is_ok() {
            run(&["backupjob", JOB, COPY])?;
            self.kubectl(&[
                "wait",
                "backupruns",
                "-n",
                NAMESPACE,
                "-l",
                &format!("backup.javy.dev/job in ({JOB},{COPY})"),
                "--for=delete",
                "--timeout=120s",
            ])?;
        }
        run(&["statefulset,service", POSTGRES, EMPTY])?;
        run(&["secret", POSTGRES, EMPTY, "s3-credentials"])?;
        run(&["-f", &self.manifest("namespace.yaml").display().to_string()])?;
        for name in [POSTGRES, EMPTY] {
            run(&["pod", &format!("{name}-0")])?;
            run(&["persistentvolumeclaim", &format!("data-{name}-0")])?;
            run(&["persistentvolume", &volume(name)])?;
            remove_folder(&self.volume_folder(name))?;
        }
        remove_folder(&self.work())?;
        remove_folder(&self.cluster.s3.folder.join(&self.cluster.s3.bucket).join("backups/postgres"))
    }

    /// `manifests/examples/postgres.yaml` under `name`, with the cluster's own image, and a volume for its claim.
    pub fn start_postgres(&self, name: &str) -> Result<()> {
        let folder = self.volume_folder(name);
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume(name)},
            "spec": {
                "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": NAMESPACE, "name": format!("data-{name}-0")},
                "hostPath": {"path": folder, "type": "DirectoryOrCreate"},
            },
        });
        self.apply(&volume.to_string())?;
        for document in documents(&self.manifest("examples/postgres.yaml"))? {
            self.apply(&named(document, name).to_string())?;
        }
        let what = format!("statefulset/{name}");
        self.kubectl(&["rollout", "status", &what, "-n", NAMESPACE, "--timeout=180s"]).map(drop)
    }

    /// Puts rows into the database, and says what there is ([`Example::digest`]).
    pub fn fill(&self) -> Result<String> {
        let mut psql = self.psql(POSTGRES, &["--set", "ON_ERROR_STOP=1"]);
        self.run(&mut psql, text_input(ROWS)?)?;
        self.digest(POSTGRES)
    }

    /// The rows of a database as one line: how many, and a digest of them all.
    pub fn digest(&self, name: &str) -> Result<String> {
        let mut psql =
            self.psql(name, &["--dbname", "shop", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"]);
        Ok(self.run(&mut psql, text_input(DIGEST)?)?.trim().to_owned())
    }

    /// Whether a database knows nothing of the rows yet.
    pub fn is_empty(&self, name: &str) -> Result<bool> {
        let mut psql =
            self.psql(name, &["--no-align", "--tuples-only", "--command", "SELECT datname FROM pg_database"]);
        Ok(!self.run(&mut psql, Stdio::null())?.lines().any(|database| database == "shop"))
    }

    /// The Secret of the destination, and what lets the operator act in the namespace.
    pub fn opt_in(&self) -> Result<()> {
        let s3 = &self.cluster.s3;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials", "namespace": NAMESPACE},
            "stringData": {
                "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key,
                "AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1",
            },
        });
        self.apply(&secret.to_string())?;
        self.kubectl(&["apply", "-n", NAMESPACE, "-f", &self.manifest("namespace.yaml").display().to_string()])
            .map(drop)
    }

    /// Applies the BackupJob of the documentation, byte for byte, and waits for its next run.
    pub fn apply_job(&self) -> Result<Tick> {
        let file = self.manifest("examples/postgres-daily-backup.yaml");
        self.kubectl(&["apply", "-n", NAMESPACE, "-f", &file.display().to_string()])?;
        self.next_run(JOB)
    }

    /// Applies a copy of it that fires each minute, and waits for its next run.
    pub fn apply_copy(&self) -> Result<Tick> {
        let file = self.manifest("examples/postgres-daily-backup.yaml");
        let mut job = documents(&file)?.pop().context("the example is empty")?;
        job["metadata"]["name"] = json!(COPY);
        job["metadata"]["namespace"] = json!(NAMESPACE);
        job["spec"]["schedule"] = json!("* * * * *");
        self.apply(&job.to_string())?;
        self.next_run(COPY)
    }

    /// Lets the copy rest.
    pub fn suspend_copy(&self) -> Result<()> {
        let patch = r#"{"spec":{"suspend":true}}"#;
        self.kubectl(&["patch", "backupjob", COPY, "-n", NAMESPACE, "--type=merge", "-p", patch]).map(drop)
    }

    /// Asks for a run of the original now, and gives its name.
    pub fn run_by_hand(&self) -> Result<String> {
        let file = self.manifest("examples/run-now.yaml").display().to_string();
        let made = self.kubectl(&["create", "-n", NAMESPACE, "-f", &file, "-o", "name"])?;
        let name = made.trim().rsplit('/').next().unwrap_or_default();
        ensure!(!name.is_empty(), "kubectl create said {made:?}");
        Ok(name.to_owned())
    }

    /// Waits until a run has been made and is over.
    pub fn ended(&self, name: &str) -> Result<Run> {
        let what = format!("backuprun/{name}");
        self.kubectl(&["wait", &what, "-n", NAMESPACE, "--for=create", "--timeout=90s"])?;
        self.kubectl(&["wait", &what, "-n", NAMESPACE, "--for=condition=Complete", "--timeout=180s"])?;
        let run: Value = serde_json::from_str(&self.kubectl(&["get", &what, "-n", NAMESPACE, "-o", "json"])?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = &run["status"];
        Ok(Run {
            name: name.to_owned(),
            phase: text(&status["phase"]),
            message: text(&status["message"]),
            folder: text(&status["destinations"][0]["folder"]),
        })
    }

    /// What `kubectl get` shows.
    pub fn status(&self) -> Result<String> {
        self.kubectl(&["get", "backupjobs,backupruns", "-n", NAMESPACE])
    }

    /// What `ubo list` shows: the backups as they lie at the destination, with no cluster asked.
    pub fn list(&self) -> Result<String> {
        let s3 = &self.cluster.s3;
        let mut ubo = Command::new(&self.cluster.ubo);
        ubo.args(["list", URI])
            .env("AWS_ACCESS_KEY_ID", &s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &s3.secret_key)
            .env("AWS_ENDPOINT_URL", &s3.endpoint)
            .env("AWS_REGION", "us-east-1");
        self.run(&mut ubo, Stdio::null())
    }

    /// The archive's file in the S3 server's own folder.
    pub fn archive(&self, run: &Run) -> PathBuf {
        let bucket = self.cluster.s3.folder.join(&self.cluster.s3.bucket);
        bucket.join("backups/postgres").join(&run.folder).join("archive.tar.zst")
    }

    /// Reads a backup back with `zstd -d | tar x` and nothing of ours; gives the dump's file.
    pub fn read_back(&self, run: &Run) -> Result<PathBuf> {
        let folder = self.work();
        remove_folder(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut shell = Command::new("bash");
        shell.args(["-c", r#"set -o pipefail; zstd -d -c "$1" | tar x -C "$2""#, "by-hand"]);
        self.run(shell.arg(self.archive(run)).arg(&folder), Stdio::null())?;
        let dump = folder.join("dump.sql");
        ensure!(dump.is_file(), "there is no dump.sql in the archive");
        Ok(dump)
    }

    /// Feeds a dump to a database. What `psql` says about the role `postgres`, which is there already, is no failure.
    pub fn restore(&self, dump: &Path, name: &str) -> Result<()> {
        let file = File::open(dump).with_context(|| format!("cannot open {}", dump.display()))?;
        self.run(&mut self.psql(name, &["--quiet", "--output=/dev/null"]), Stdio::from(file)).map(drop)
    }

    fn next_run(&self, job: &str) -> Result<Tick> {
        let what = format!("backupjob/{job}");
        self.kubectl(&["wait", &what, "-n", NAMESPACE, "--for=jsonpath={.status.nextRunTime}", "--timeout=60s"])?;
        let at = self.kubectl(&["get", &what, "-n", NAMESPACE, "-o", "jsonpath={.status.nextRunTime}"])?;
        let run = run_name(job, &at).with_context(|| format!("the next run of {job} is at {at:?}"))?;
        Ok(Tick { at, run })
    }

    /// psql in a database's pod, fed on standard input.
    fn psql(&self, name: &str, arguments: &[&str]) -> Command {
        let pod = format!("{name}-0");
        let mut command = Command::new(&self.cluster.kubectl);
        command.args(["exec", "--stdin", "-n", NAMESPACE, &pod, "--", "psql", "--no-psqlrc"]).args(arguments);
        command
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.cluster.checkout.join("manifests").join(name)
    }

    fn volume_folder(&self, name: &str) -> PathBuf {
        self.cluster.state.join("volumes").join(volume(name))
    }

    fn work(&self) -> PathBuf {
        self.cluster.state.join("example")
    }

    fn apply(&self, text: &str) -> Result<()> {
        let mut kubectl = Command::new(&self.cluster.kubectl);
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        self.run(&mut kubectl, text_input(text)?).map(drop)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run(Command::new(&self.cluster.kubectl).args(arguments), Stdio::null())
    }

    fn run(&self, command: &mut Command, input: Stdio) -> Result<String> {
        let what = || {
            let words: Vec<_> = command_words(command).take(4).collect();
            words.join(" ")
        };
        let what = what();
        let output = command
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(input)
            .output()
            .with_context(|| format!("cannot run {what}"))?;
        if !output.status.success() {
            bail!("{what} … ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).with_context(|| format!("{what} … did not print text"))
    }
}

fn command_words(command: &Command) -> impl Iterator<Item = String> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(program).chain(command.get_args().map(|word| word.to_string_lossy().into_owned()))
}

/// A text as a program's standard input, of any length: through a file without a name, so that nobody has to feed it.
fn text_input(text: &str) -> Result<Stdio> {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// The PersistentVolume of a database.
fn volume(name: &str) -> String {
    format!("example-{name}")
}

/// The run that a tick makes: `<job>-<YYYYMMDD-HHMM>`.
fn run_name(job: &str, at: &str) -> Option<String> {
    let digits: String = at.chars().filter(char::is_ascii_digit).collect();
    Some(format!("{job}-{}-{}", digits.get(..8)?, digits.get(8..12)?))
}

/// A document of the example's PostgreSQL, called `name`, with an image that the cluster has.
fn named(mut document: Value, name: &str) -> Value {
    document["metadata"]["name"] = json!(name);
    if let Some(spec) = document.get_mut("spec") {
        if spec.get("template").is_some() {
            spec["serviceName"] = json!(name);
            spec["selector"]["matchLabels"]["app"] = json!(name);
            spec["template"]["metadata"]["labels"]["app"] = json!(name);
            spec["template"]["spec"]["containers"][0]["image"] = json!("localhost/postgres:15");
        } else {
            spec["selector"]["app"] = json!(name);
        }
    }
    document
}

fn documents(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("{} is not YAML", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{named, run_name};
    use serde_json::json;

    #[test]
    fn a_tick_names_its_run() {
        assert_eq!(run_name("job", "2026-11-24T02:05:00Z").as_deref(), Some("job-20261124-0205"));
        assert_eq!(run_name("job", "soon"), None);
    }

    #[test]
    fn only_names_and_the_image_change() {
        let service =
            json!({"kind": "Service", "metadata": {"name": "postgres"}, "spec": {"selector": {"app": "postgres"}}});
        assert_eq!(
            named(service, "other"),
            json!({"kind": "Service", "metadata": {"name": "other"}, "spec": {"selector": {"app": "other"}}})
        );
        let secret = json!({"kind": "Secret", "metadata": {"name": "postgres"}, "stringData": {"password": "x"}});
        assert_eq!(named(secret.clone(), "postgres"), secret);
    }
}
