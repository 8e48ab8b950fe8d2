//! **A** What the kubelet and containerd mounted below a folder.

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::{Path, PathBuf};

/// Unmounts everything below `folder`, the deepest first, and says how many there were.
pub fn unmount_below(folder: &Path) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let mut points: Vec<PathBuf> = points(&table).into_iter().filter(|point| point.starts_with(folder)).collect();
    // The table is in the order of mounting, so that what lies on top comes off first.
    points.reverse();
    for point in &points {
        // Lazily: what a dead process's children still hold open must not keep the state from being removed.
        if let Err(error) = unmount(point.as_path(), UnmountFlags::DETACH) {
            // It went away with one above it.
            if error != rustix::io::Errno::INVAL && error != rustix::io::Errno::NOENT {
                return Err(error).with_context(|| format!("cannot unmount {}", point.display()));
            }
        }
    }
    Ok(points.len())
}

/// The mount points of a `mountinfo` table: its fifth column, with octal escapes for blanks (proc_pid_mountinfo(5)).
fn points(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::points;
    use std::path::PathBuf;

    #[test]
    fn a_blank_in_a_mount_point_is_read() {
        let table = "36 35 98:0 / /state/a\\040b rw,noatime master:1 - ext4 /dev/root rw\n37 36 0:5 / /state/x rw - tmpfs t rw\n";
        assert_eq!(points(table), [PathBuf::from("/state/a b"), PathBuf::from("/state/x")]);
    }
}
