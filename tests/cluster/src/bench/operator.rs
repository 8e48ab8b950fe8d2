//! **A** The operator's processes, and others beside them, as the kernel counts their memory.

use super::kubectl::Kubectl;
use anyhow::{Context, Result, ensure};
use rig::Cluster;
use rig::example::Example;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

const NAMESPACE: &str = "backup-system";
const DEPLOYMENT: &str = "deployment/operator";
const PODS: &str = "app.kubernetes.io/name=ubo";
/// How often, and how far apart, it is looked whether all is at rest.
const LOOKS: u32 = 240;
const PAUSE: Duration = Duration::from_millis(500);

/// The Deployment.
pub struct Operator<'a> {
    kubectl: Kubectl<'a>,
}

/// One process.
pub struct Process {
    folder: PathBuf,
    /// Resident bytes when it was at rest.
    pub idle: u64,
}

impl<'a> Operator<'a> {
    /// The operator of a cluster.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { kubectl: Kubectl { cluster, namespace: NAMESPACE } }
    }

    /// Starts it anew, and gives its processes as soon as one leads and those of before are gone.
    pub fn fresh(&self) -> Result<Vec<Process>> {
        Example::new(self.kubectl.cluster).restart_operator()?;
        let replicas = self.replicas()?.parse::<usize>()?;
        for _ in 0..LOOKS {
            let pods =
                self.kubectl.run(&["get", "pods", "-l", PODS, "-o", "jsonpath={.items[*].metadata.name}"], "")?;
            let lease = ["get", "lease", "ubo-scheduler", "-o", "jsonpath={.spec.holderIdentity}"];
            let holder = self.kubectl.run(&lease, "")?;
            let pods: Vec<_> = pods.split_whitespace().collect();
            if pods.len() == replicas && pods.iter().any(|pod| holder.starts_with(pod)) {
                let mut processes = self.processes()?;
                processes.iter_mut().try_for_each(Process::rest)?;
                ensure!(processes.len() == replicas, "{} processes in {replicas} pods", processes.len());
                return Ok(processes);
            }
            thread::sleep(PAUSE);
        }
        anyhow::bail!("the operator that was started anew does not lead")
    }

    /// Its processes now, with the peaks that they had.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let path = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
        let ids = self.kubectl.run(&["get", "pods", "-l", PODS, "-o", path], "")?;
        let ids: Vec<_> = ids.split_whitespace().filter_map(|id| id.split("://").nth(1)).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let folder = entry.path();
            let groups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
            if ids.iter().any(|id| groups.contains(id)) {
                found.push(Process { folder, idle: 0 });
            }
        }
        ensure!(!found.is_empty(), "no process of the operator");
        Ok(found)
    }

    /// How many replicas there are to be.
    pub fn replicas(&self) -> Result<String> {
        self.kubectl.run(&["get", DEPLOYMENT, "-o", "jsonpath={.spec.replicas}"], "")
    }

    /// Changes that number.
    pub fn scale(&self, replicas: &str) -> Result<()> {
        self.kubectl.run(&["scale", DEPLOYMENT, &format!("--replicas={replicas}")], "").map(drop)
    }
}

impl Process {
    /// The process of this id.
    pub fn of(pid: i32) -> Self {
        Self { folder: PathBuf::from(format!("/proc/{pid}")), idle: 0 }
    }

    /// Forgets the peak until now; what is resident at this moment is its rest.
    pub fn rest(&mut self) -> Result<()> {
        // 5 resets the peak (proc(5), clear_refs).
        fs::write(self.folder.join("clear_refs"), "5")?;
        self.idle = self.resident()?;
        Ok(())
    }

    /// Resident bytes now.
    pub fn resident(&self) -> Result<u64> {
        self.bytes("VmRSS:")
    }

    /// The most resident bytes since its rest. The kernel's own mark: no peak falls between two looks.
    pub fn peak(&self) -> Result<u64> {
        self.bytes("VmHWM:")
    }

    fn bytes(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(self.folder.join("status")).context("a process that is measured has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }
}
