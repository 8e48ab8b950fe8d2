//! **O** Taking the cluster down: exactly what `up` started and made, and nothing else.

use crate::place::Place;
use crate::report::Report;
use crate::{cgroup, mounts, netns, parts, process, up, wait};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// So long init may take to ask for the exit codes of what was ended.
const PATIENCE: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(100);

/// Where the network plug-ins' library notes what it did, for all clusters of the machine.
const RESULTS: &str = "/var/lib/cni/results";

/// What stays in the state: logs, because somebody may still want to know, and what is no part of the cluster.
const STAYS: [&str; 3] = ["log", "lock", "image"];

/// Ends the parts, each in turn, then clears what they left.
pub fn down(place: &Place, report: &Report) -> Result<()> {
    let _lock = up::lock(place)?;
    report.step("the cluster is taken down", || clear(place))
}

/// The same without a word: also for what a cluster left that died without it.
pub fn clear(place: &Place) -> Result<()> {
    for part in parts::END {
        process::end(place, part)?;
    }
    // Nobody restarts containers now. Killed while containerd lives, so that their shims can tidy up.
    process::kill_members(place, true)?;
    process::end(place, "containerd")?;
    process::kill_members(place, false)?;
    sockets(place);
    mounts::unmount_below(&place.state)?;
    wait::until("removal of the control groups", PATIENCE, GLANCE, || Ok(cgroup::remove(&place.name).is_ok()))
        .or_else(|_| cgroup::remove(&place.name))?;
    netns::remove(place)?;
    leavings(place)?;
    for entry in fs::read_dir(place.folder("")?)? {
        let path = entry?.path();
        if STAYS.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// containerd's shims listen in a folder of the whole machine; each bundle says at which address.
fn sockets(place: &Place) {
    let bundles = place.state.join("run/io.containerd.runtime.v2.task/k8s.io");
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        if let Ok(address) = fs::read_to_string(bundle.path().join("address"))
            && let Some(path) = address.trim().strip_prefix("unix://")
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Two folders of the whole machine in which the network plug-ins and the kubelet note what is ours.
fn leavings(place: &Place) -> Result<()> {
    // `<network>-<sandbox>-<interface>`; the loopback's network has one name in all clusters.
    let ours = format!("{}-", place.name);
    let names: Vec<String> = fs::read_dir(RESULTS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for name in names.iter().filter(|name| name.starts_with(&ours)) {
        fs::remove_file(Path::new(RESULTS).join(name)).context("cannot remove a network plug-in's result")?;
        if let Some(sandbox) = name[ours.len()..].split('-').next() {
            let _ = fs::remove_file(Path::new(RESULTS).join(format!("cni-loopback-{sandbox}-lo")));
        }
    }
    for entry in fs::read_dir(Path::new("/var/log/containers")).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&place.state)) {
            fs::remove_file(entry.path()).context("cannot remove a link to a container's log")?;
        }
    }
    Ok(())
}
