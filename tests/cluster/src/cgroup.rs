//! **A** The cluster's own root in the control groups, so that two clusters on one machine share no pods, and so that
//! every process that came of this one can be found.
//!
//! ```text
//! <hierarchy>/<name>/rig        the parts and their children (containerd's shims)
//! <hierarchy>/<name>/kubepods   the containers, made by the kubelet
//! ```

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";
/// Where the parts go below the root: a leaf, because version 2 wants processes in leaves only.
const LEAF: &str = "rig";

/// Makes the root in every hierarchy, or in the one of version 2.
pub fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let root = hierarchy.join(name);
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        // Version 1: without these no process may enter the group.
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(hierarchy.join(setting))
                && root.join(setting).exists()
            {
                fs::write(root.join(setting), value)?;
            }
        }
        // Version 2: controllers are handed down level by level, those that there are.
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            for level in [&hierarchy, &root] {
                for controller in controllers.split_whitespace() {
                    let _ = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
    }
    fs::create_dir_all(leaf(name)?)?;
    Ok(())
}

/// Puts a process under the root, and with it all that it will start.
pub fn join(name: &str, pid: i32) -> Result<()> {
    let file = leaf(name)?.join("cgroup.procs");
    fs::write(&file, pid.to_string()).with_context(|| format!("cannot put process {pid} into {}", file.display()))
}

/// Takes a process out again, so that its remains do not keep the root from being removed: an ended process stays a
/// member until its parent has asked for its exit code, and not every init is quick at that.
pub fn leave(name: &str, pid: i32) {
    if let Ok(leaf) = leaf(name)
        && let Some(hierarchy) = leaf.ancestors().nth(2)
    {
        // It may have ended by itself meanwhile.
        let _ = fs::write(hierarchy.join("cgroup.procs"), pid.to_string());
    }
}

/// Every process under the root: those of containers, or the parts and their children as well.
pub fn members(name: &str, containers_only: bool) -> Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for group in below(&hierarchy.join(name)) {
            if containers_only && group.ends_with(Path::new(name).join(LEAF)) {
                continue;
            }
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    Ok(pids)
}

/// Removes the root from every hierarchy. There must be no process left in it.
pub fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        for group in below(&hierarchy.join(name)) {
            if let Err(error) = fs::remove_dir(&group)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).with_context(|| format!("cannot remove {}", group.display()));
            }
        }
    }
    Ok(())
}

/// Version 2 is one hierarchy; version 1 has one folder for each controller (links are other names of the same).
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(mount).with_context(|| format!("cannot read {MOUNT}"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The group of the parts, in one hierarchy: it is there to find processes, not to limit them.
fn leaf(name: &str) -> Result<PathBuf> {
    let hierarchies = hierarchies()?;
    let chosen = hierarchies
        .iter()
        .find(|hierarchy| hierarchy.ends_with("pids"))
        .or(hierarchies.first())
        .context("this machine has no control groups")?;
    Ok(chosen.join(name).join(LEAF))
}

/// A group and all below it, children before parents.
fn below(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(below(&entry.path()));
            }
        }
        found.push(group.to_owned());
    }
    found
}
