//! The operator's processes, as the kernel knows them: how much memory one has, and its end without a word.

#![allow(dead_code, unreachable_pub, reason = "part of each test binary, which uses a part of it")]

use super::installed::{Installed, until_for};
use super::scene::{TWO_LEASES, leader, operator_pods, operator_ready};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The process of a container that runs now.
pub struct Process {
    folder: PathBuf,
}

/// Finds the one that leads, which executes.
pub async fn operator(installed: &Installed) -> Result<Process> {
    let leader = leader(installed).await?.context("nobody leads")?;
    let api: Api<Pod> = Api::namespaced(installed.admin.clone(), "backup-system");
    Process::of(&api.get(&leader).await?)?.context("the leader has no process")
}

/// Ends every replica's process as lack of memory would: from then on nobody cleans up, and nobody gives up a Lease. Returns
/// when others are at work in the same pods, and one of them leads.
pub async fn crash(installed: &Installed) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(installed.admin.clone(), "backup-system");
    let holder = || async { anyhow::Ok(leases.get("ubo-scheduler").await?.spec.and_then(|spec| spec.holder_identity)) };
    let before = holder().await?;
    let mut killed = BTreeSet::new();
    for pod in operator_pods(installed).await? {
        if let (Some(process), Some(container)) = (Process::of(&pod)?, container(&pod)) {
            process.kill()?;
            killed.insert(container);
        }
    }
    ensure!(!killed.is_empty(), "no operator to kill");
    until_for(TWO_LEASES, "other containers in the operator's pods", || async {
        let pods = operator_pods(installed).await?;
        Ok(pods.iter().all(|pod| container(pod).is_some_and(|id| !killed.contains(&id))).then_some(()))
    })
    .await?;
    until_for(TWO_LEASES, "another process to lead", || async { Ok((holder().await? != before).then_some(())) })
        .await?;
    operator_ready(installed).await
}

/// The container that a pod has now, if it runs.
pub fn container(pod: &Pod) -> Option<String> {
    let running = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    running.state.as_ref()?.running.as_ref()?;
    running.container_id.as_deref()?.split("://").nth(1).map(str::to_owned)
}

impl Process {
    /// The first process of a pod's container, if there is one. Its cgroup is named after the container.
    pub fn of(pod: &Pod) -> Result<Option<Process>> {
        let Some(id) = container(pod) else { return Ok(None) };
        for entry in std::fs::read_dir("/proc")? {
            let folder = entry?.path();
            let groups = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
            if groups.contains(&id) {
                return Ok(Some(Process { folder }));
            }
        }
        Ok(None)
    }

    /// Ends it in the middle of whatever it does. It may have gone by itself.
    pub fn kill(&self) -> Result<()> {
        let id = self.folder.file_name().and_then(|name| name.to_str()).context("a process id")?;
        let id = Pid::from_raw(id.parse()?).context("a process id")?;
        match kill_process(id, Signal::KILL) {
            Err(error) if error != rustix::io::Errno::SRCH => Err(error).context("cannot kill"),
            _ => Ok(()),
        }
    }

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
