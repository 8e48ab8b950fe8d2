//! **A** The network namespace: everything listens inside it, and nothing on the host.
//!
//! Programs enter it with `nsenter --net`, not with `ip netns exec`, which would also change the mount namespace and so
//! hide the kubelet's mounts from containerd.

use crate::command::output;
use crate::place::{DNS, NODE, Place};
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

/// Makes the namespace with its own loopback, the node's addresses and a default route (the kubelet refuses a loopback
/// address, and kube-proxy needs a route). A pair of veth ends, both inside, carries the addresses.
pub fn make(place: &Place) -> Result<()> {
    let name = place.name.as_str();
    ip(&["netns", "add", name])?;
    for line in [
        "link set lo up",
        "link add node0 type veth peer name node1",
        "link set node1 up",
        &format!("addr add {NODE}/24 dev node0"),
        &format!("addr add {DNS}/24 dev node0"),
        "link set node0 up",
        "route add default dev node0",
    ] {
        let mut words = vec!["-n", name];
        words.extend(line.split(' '));
        ip(&words)?;
    }
    Ok(())
}

/// Whether the namespace is there.
pub fn exists(place: &Place) -> bool {
    place.netns_file().exists()
}

/// Removes the namespace if it is there.
pub fn remove(place: &Place) -> Result<()> {
    if exists(place) { ip(&["netns", "delete", &place.name]) } else { Ok(()) }
}

/// A command that runs `program` inside. `nsenter` replaces itself by it, so its pid is the program's.
pub fn command(place: &Place, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", place.netns_file().display())).arg(program);
    command
}

/// Does `work` on a thread of its own inside the namespace.
pub fn inside<T: Send>(place: &Place, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = place.netns_file();
    thread::scope(|scope| {
        scope
            .spawn(move || {
                let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("the thread in the network namespace panicked"))?
    })
}

fn ip(words: &[&str]) -> Result<()> {
    output(Command::new("ip").args(words)).map(drop)
}
