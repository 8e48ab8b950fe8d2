//! `kubectl backup`, as a person runs it: through kubectl, with a kubeconfig of his own.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use super::scene::Scene;
use anyhow::{Context, Result};
use kube::config::Kubeconfig;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use tempfile::TempDir;

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A machine on which kubectl and the plug-in are installed.
pub struct Desk {
    folder: TempDir,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Desk {
    /// The administrator's.
    pub fn of_admin(scene: &Scene) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let cluster = &scene.installed.cluster;
        symlink(&cluster.ubo, folder.path().join("kubectl-backup"))?;
        symlink(&cluster.kubectl, folder.path().join("kubectl"))?;
        Ok(Self { folder, kubeconfig: cluster.kubeconfig.clone(), namespace: scene.namespace.clone() })
    }

    /// That of a user with rights of his own.
    pub fn of(scene: &Scene, user: &str) -> Result<Self> {
        let mut desk = Self::of_admin(scene)?;
        let mut kubeconfig = Kubeconfig::read_from(&desk.kubeconfig)?;
        for named in &mut kubeconfig.auth_infos {
            if let Some(info) = &mut named.auth_info {
                info.impersonate = Some(user.to_owned());
            }
        }
        desk.kubeconfig = desk.folder.path().join("config");
        std::fs::write(&desk.kubeconfig, serde_json::to_string(&kubeconfig)?)?;
        Ok(desk)
    }

    /// `kubectl backup ARGUMENTS` in the scene's namespace.
    pub async fn backup(&self, arguments: &[&str]) -> Result<Said> {
        let output = tokio::process::Command::new(self.folder.path().join("kubectl"))
            .args([&["backup"], arguments, &["-n", self.namespace.as_str()]].concat())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.path().display()))
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_mins(5), output).await.context("it hangs")??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }
}
