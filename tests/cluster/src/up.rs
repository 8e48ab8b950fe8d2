//! **O** Bringing the cluster up: build what is missing, start what does not run, wait until it serves.

use crate::command::{output, tail};
use crate::parts::{self, Keys, Programs};
use crate::place::{BUCKET, Place, hex};
use crate::process::{self, Record};
use crate::report::{Report, Stopwatch};
use crate::{cgroup, down, go, images, netns, operator_image, packages, pki, status, wait};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(2);
const GLANCE: Duration = Duration::from_millis(200);

/// So many hostPath volumes of 1 GiB are there for the taking: there is no provisioner.
const VOLUMES: usize = 8;

/// Brings the cluster up, with the operator's image or without. What runs already is left alone; where nothing runs any
/// more, what a dead cluster left behind is removed first. Returns whether nothing ran before.
pub fn up(place: &Place, report: &Report, with_operator: bool) -> Result<bool> {
    let watch = Stopwatch::start();
    let _lock = lock(place)?;
    packages::ensure(place, report)?;
    let (programs, archives, operator) = build(place, report, with_operator)?;
    let fresh = !parts::ALL.iter().any(|part| lives(place, part));
    if fresh {
        // Whatever there may be is of a cluster that died without `down`.
        down::clear(place)?;
        make(place)?;
    }
    link_programs(place, &programs)?;
    let keys = keys(place)?;
    let begin = |part: &str| -> Result<()> {
        if !lives(place, part) {
            process::start(place, &parts::start(place, &programs, &keys, part))?;
        }
        Ok(())
    };
    for part in parts::ALL.iter().filter(|part| !parts::AFTER_API.contains(part)) {
        begin(part)?;
    }
    let is_new = thread::scope(|scope| -> Result<bool> {
        let imports = scope.spawn(|| report.step("images, imported into containerd", || import(place, &archives)));
        report.step("the API server", || {
            awaited(place, "apiserver", || Ok(kubectl(place, &["get", "--raw", "/readyz"]).is_ok()))
        })?;
        for part in parts::AFTER_API {
            begin(part)?;
        }
        let is_new = imports.join().map_err(|_| anyhow!("the import of images panicked"))??;
        report.step("the S3 server, and its bucket", || bucket(place, &keys))?;
        report.step("the node, and what the controllers make first", || ready(place))?;
        Ok(is_new)
    })?;
    if fresh {
        volumes(place)?;
    } else if is_new && kubectl(place, &["-n", "backup-system", "get", "deployment", "operator"]).is_ok() {
        // One that is installed here has the image of before.
        kubectl(place, &["-n", "backup-system", "rollout", "restart", "deployment", "operator"])?;
    }
    operator?;
    report.line(&format!(
        "the cluster is up ({}): cargo rig kubectl get pods -A; eval \"$(cargo rig env)\"; cargo rig down",
        watch.text()
    ));
    Ok(fresh)
}

/// Ends one part of a living cluster and starts it again; with `kill` as a crash would. Returns when it serves.
pub fn restart(place: &Place, report: &Report, part: &str, kill: bool) -> Result<()> {
    let Some(part) = parts::ALL.into_iter().find(|known| *known == part) else {
        bail!("there is no part {part}; there are {}", parts::ALL.join(", "));
    };
    let _lock = lock(place)?;
    let programs = go::servers(place, report)?;
    let keys = keys(place)?;
    report.step(&format!("{part}, once more"), || {
        if kill {
            process::kill(place, part)?;
        } else {
            process::end(place, part)?;
        }
        process::start(place, &parts::start(place, &programs, &keys, part))?;
        match part {
            "apiserver" => awaited(place, part, || Ok(kubectl(place, &["get", "--raw", "/readyz"]).is_ok())),
            "s3" => bucket(place, &keys),
            _ => ready(place),
        }
    })
}

type Built = (Programs, Vec<PathBuf>, Result<()>);

/// Everything slow, side by side. That the operator does not build is told at the end: the cluster is good without it.
fn build(place: &Place, report: &Report, with_operator: bool) -> Result<Built> {
    thread::scope(|scope| {
        let images = scope.spawn(|| images::archives(place, report));
        let operator = scope
            .spawn(|| if with_operator { operator_image::build(place, report, false).map(Some) } else { Ok(None) });
        let programs = go::servers(place, report);
        let mut archives = images.join().map_err(|_| anyhow!("the making of images panicked"))??;
        let operator = operator.join().map_err(|_| anyhow!("the build of the operator panicked"))?;
        let operator = operator.map(|archive| archives.extend(archive));
        Ok((programs?, archives, operator))
    })
}

/// One `up` or `down` at a time.
pub fn lock(place: &Place) -> Result<File> {
    let path = place.folder("")?.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().context("cannot lock the cluster's state")?;
    Ok(file)
}

fn lives(place: &Place, part: &str) -> bool {
    Record::read(place, part).is_some_and(Record::lives)
}

/// What a new cluster needs before its first process.
fn make(place: &Place) -> Result<()> {
    for folder in ["log", "conf", "cni", "s3", "volumes", "bin"] {
        place.folder(folder)?;
    }
    for part in parts::ALL {
        // The logs of the cluster before this one: nobody asked for them until now.
        let _ = fs::remove_file(place.log(part)?);
    }
    netns::make(place)?;
    cgroup::make(&place.name)?;
    pki::make(place)?;
    for (path, text) in parts::files(place) {
        fs::write(place.state.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    let mut random = [0; 30];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let keys = Keys { access: format!("UBO{}", hex(&random[..8]).to_uppercase()), secret: hex(&random[8..]) };
    fs::write(keys_file(place), serde_json::to_vec(&keys)?).context("cannot write the keys of the S3 server")
}

fn keys_file(place: &Place) -> PathBuf {
    place.state.join("pki/s3.json")
}

/// The keys of the S3 server's owner; an error if there is no cluster.
pub fn keys(place: &Place) -> Result<Keys> {
    let text = fs::read(keys_file(place)).context("there is no cluster: cargo rig up")?;
    serde_json::from_slice(&text).context("the keys of the S3 server are damaged: cargo rig down")
}

/// One link for each program that people run by hand, by the name that the common binary goes by.
fn link_programs(place: &Place, programs: &Programs) -> Result<()> {
    let link = place.folder("bin")?.join("kubectl");
    let _ = fs::remove_file(&link);
    symlink(&programs.kubernetes, &link).context("cannot link kubectl")
}

/// Imports all of them, and says whether the operator's is another one than before.
fn import(place: &Place, archives: &[PathBuf]) -> Result<bool> {
    awaited(place, "containerd", || Ok(place.containerd_socket().exists()))?;
    let is_new = Cell::new(false);
    for archive in archives {
        // The socket is there a moment before the service behind it.
        awaited(place, "containerd", || match images::import(place, archive) {
            Err(error) if format!("{error:#}").contains("connection refused") => Ok(false),
            other => {
                is_new.set(other? && images::is_operator(archive) || is_new.get());
                Ok(true)
            }
        })?;
    }
    Ok(is_new.get())
}

fn bucket(place: &Place, keys: &Keys) -> Result<()> {
    // Not only that it listens: a connection that the server before it had accepted is reset.
    let make = || rig::s3::make_bucket(&Place::s3_endpoint(), &keys.access, &keys.secret, BUCKET);
    awaited(place, "s3", || netns::inside(place, || Ok(make().is_ok())))
}

/// A Ready node, the ServiceAccount that every pod needs, and names that are answered.
fn ready(place: &Place) -> Result<()> {
    let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    awaited(place, "kubelet", || {
        Ok(kubectl(place, &["get", "node", "node", "--output", condition]).is_ok_and(|text| text.contains("True")))
    })?;
    awaited(place, "controllers", || Ok(kubectl(place, &["get", "serviceaccount", "default"]).is_ok()))?;
    awaited(place, "dns", || netns::inside(place, || Ok(status::http_ok("127.0.0.1:8181", "/ready"))))?;
    awaited(place, "proxy", || netns::inside(place, || Ok(status::http_ok("127.0.0.1:10256", "/healthz"))))
}

fn volumes(place: &Place) -> Result<()> {
    let volumes: Vec<_> = (1..=VOLUMES)
        .map(|number| {
            let name = format!("volume-{number}");
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": place.state.join("volumes").join(&name), "type": "DirectoryOrCreate"}}})
        })
        .collect();
    let path = place.state.join("conf/volumes.json");
    fs::write(&path, serde_json::to_vec(&json!({"apiVersion": "v1", "kind": "List", "items": volumes}))?)?;
    kubectl(place, &["apply", "--filename", &path.display().to_string()]).map(drop)
}

/// What kubectl prints, as the cluster's administrator.
fn kubectl(place: &Place, words: &[&str]) -> Result<String> {
    let kubectl = place.kubectl().display().to_string();
    output(netns::command(place, &kubectl).arg("--kubeconfig").arg(place.kubeconfig("admin")).args(words))
}

/// Waits for what a part does once it serves. If the part ends instead, or takes too long, its log says why.
fn awaited(place: &Place, part: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let waited = wait::until(parts::what(part), PATIENCE, GLANCE, || {
        if !lives(place, part) {
            bail!("{part} has ended");
        }
        holds()
    });
    match waited {
        Ok(()) => Ok(()),
        Err(error) => bail!("{part} does not serve: {error:#}\n{}", tail(&place.log(part)?)),
    }
}
