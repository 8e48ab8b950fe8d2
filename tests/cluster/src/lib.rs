//! What the cluster tests know of the cluster that they run on.
//!
//! `cargo rig test` runs them inside the cluster's network namespace, with the variables that `cargo rig env` prints;
//! [`Cluster::from_env`] reads these.

pub mod example;
pub mod fault_proxy;
pub mod s3;
pub mod soak;

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Removes a folder if it is there.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The running cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// An administrator's kubeconfig (`KUBECONFIG`).
    pub kubeconfig: PathBuf,
    /// A kubectl of the cluster's own version (`UBO_RIG_KUBECTL`).
    pub kubectl: PathBuf,
    /// The operator's binary (`UBO_RIG_UBO`).
    pub ubo: PathBuf,
    /// The rig itself (`UBO_RIG_RIG`), to restart parts of the cluster.
    pub rig: PathBuf,
    /// The node's address (`UBO_RIG_NODE`): what a test listens on there, pods can reach.
    pub node: String,
    /// Where the API server answers, `HOST:PORT` (`UBO_RIG_API`).
    pub api: String,
    /// The S3 server.
    pub s3: S3,
    /// The checkout (`UBO_RIG_CHECKOUT`), for manifests and fixtures.
    pub checkout: PathBuf,
    /// The cluster's state (`UBO_RIG_STATE`): logs of the parts lie in `log/`, hostPath volumes in `volumes/`.
    pub state: PathBuf,
}

/// An S3 server, and the keys of its owner.
#[derive(Clone)]
pub struct S3 {
    /// `http://HOST:PORT` (`UBO_RIG_S3_ENDPOINT`).
    pub endpoint: String,
    /// `UBO_RIG_S3_ACCESS_KEY`
    pub access_key: String,
    /// `UBO_RIG_S3_SECRET_KEY`
    pub secret_key: String,
    /// The bucket that is there from the start (`UBO_RIG_S3_BUCKET`).
    pub bucket: String,
    /// The folder that the server keeps its objects in (`UBO_RIG_S3_FOLDER`): `BUCKET/KEY` below it.
    pub folder: PathBuf,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3").field("endpoint", &self.endpoint).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the variables. A missing one is an error that says how the tests are run.
    pub fn from_env() -> Result<Cluster> {
        Cluster::from_variables(|name| {
            #[expect(clippy::disallowed_methods, reason = "the cluster tests' one look at the environment")]
            let value = std::env::var(name).ok();
            value
        })
    }

    /// The same with variables from elsewhere.
    pub fn from_variables(find: impl Fn(&str) -> Option<String>) -> Result<Cluster> {
        let variable = |name: &str| {
            find(name).with_context(|| format!("{name} is not set: run cluster tests with `cargo rig test`"))
        };
        Ok(Cluster {
            kubeconfig: variable("KUBECONFIG")?.into(),
            kubectl: variable("UBO_RIG_KUBECTL")?.into(),
            ubo: variable("UBO_RIG_UBO")?.into(),
            rig: variable("UBO_RIG_RIG")?.into(),
            node: variable("UBO_RIG_NODE")?,
            api: variable("UBO_RIG_API")?,
            s3: S3 {
                endpoint: variable("UBO_RIG_S3_ENDPOINT")?,
                access_key: variable("UBO_RIG_S3_ACCESS_KEY")?,
                secret_key: variable("UBO_RIG_S3_SECRET_KEY")?,
                bucket: variable("UBO_RIG_S3_BUCKET")?,
                folder: variable("UBO_RIG_S3_FOLDER")?.into(),
            },
            checkout: variable("UBO_RIG_CHECKOUT")?.into(),
            state: variable("UBO_RIG_STATE")?.into(),
        })
    }
}

impl Cluster {
    /// Ends a part of the cluster (`cargo rig status` names them) and starts it again; returns when it serves.
    pub fn restart(&self, part: &str, kill: bool) -> Result<()> {
        let mut rig = std::process::Command::new(&self.rig);
        rig.args(["restart", part]).args(kill.then_some("--kill"));
        let output = rig.output().context("cannot run the rig")?;
        anyhow::ensure!(output.status.success(), "restart of {part}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl S3 {
    /// The endpoint as `HOST:PORT`, as a proxy in front of it wants it.
    pub fn address(&self) -> String {
        self.endpoint.trim_start_matches("http://").to_owned()
    }

    /// Makes a further bucket; one that is there already is good.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        s3::make_bucket(&self.endpoint, &self.access_key, &self.secret_key, bucket)
    }

    /// Keys of the multipart uploads that are open below `prefix` of the bucket that is there from the start.
    pub fn open_uploads(&self, prefix: &str) -> Result<Vec<String>> {
        s3::open_uploads(&self.endpoint, &self.access_key, &self.secret_key, &self.bucket, prefix)
    }
}
