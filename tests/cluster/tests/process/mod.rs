//! How much memory the operator's process has, as the kernel counts it.

#![allow(unreachable_pub, reason = "part of a test binary")]

use super::installed::Installed;
use super::scene::leader;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::path::PathBuf;

/// The process of the operator that runs now.
pub struct Process {
    folder: PathBuf,
}

/// Finds the one that leads, which executes: its cgroup is named after its container.
pub async fn operator(installed: &Installed) -> Result<Process> {
    let leader = leader(installed).await?.context("nobody leads")?;
    let api: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    let pod = api.get(&leader).await?;
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let running = statuses.first().context("no container")?;
    let id = running.container_id.as_deref().and_then(|id| id.split("://").nth(1)).context("no container")?;
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        let groups = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        if groups.contains(id) {
            return Ok(Process { folder });
        }
    }
    anyhow::bail!("no process of container {id}")
}

impl Process {
    /// Forgets the peak until now, and gives the resident bytes of this moment.
    pub fn begin(&self) -> Result<u64> {
        // 5 resets the peak (proc(5), clear_refs).
        std::fs::write(self.folder.join("clear_refs"), "5")?;
        self.bytes("VmRSS:")
    }

    /// The most resident bytes since [`Process::begin`].
    pub fn peak(&self) -> Result<u64> {
        self.bytes("VmHWM:")
    }

    fn bytes(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(self.folder.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }
}
