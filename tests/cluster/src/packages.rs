//! **A** What the machine must have: Debian packages, installed where they are missing, and the two tool chains.

use crate::command::{logged, output};
use crate::place::Place;
use crate::report::Report;
use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A file that each package brings, and the package.
const NEEDED: [(&str, &str); 18] = [
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/bin/ip", "iproute2"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/bin/dash", "dash"),
    ("/usr/sbin/debootstrap", "debootstrap"),
    ("/usr/bin/buildah", "buildah"),
    ("/usr/bin/strip", "binutils"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/bsdtar", "libarchive-tools"), // the third kind of tar that a container may have
    ("/usr/bin/git", "git"),                 // what a pattern as in .gitignore means
    ("/usr/bin/age", "age"),
];

/// `invoke-rc.d` asks this file whether it may start a service (policy-rc.d, Debian policy 9.3.3); 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that everything is there. It says so before it installs anything, and where it cannot install, it says
/// exactly what a person has to.
pub fn ensure(place: &Place, report: &Report) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the test cluster needs Linux");
    }
    let missing: Vec<&str> = NEEDED.iter().filter(|(file, _)| !present(file)).map(|(_, package)| *package).collect();
    let root = geteuid().is_root();
    if !missing.is_empty() {
        let command = format!("apt-get install --no-install-recommends {}", missing.join(" "));
        if !Path::new("/etc/debian_version").exists() {
            bail!("this is not Debian: install what these Debian packages hold, then try again: {}", missing.join(" "));
        }
        if !root {
            bail!("these packages are missing, and only root can install them: {command}");
        }
        report.line(&format!("  installing Debian packages: {}", missing.join(" ")));
        report.step("Debian packages", || install(place, &missing))?;
        if let Some((file, package)) = NEEDED.iter().find(|(file, _)| !present(file)) {
            bail!("the package {package} is installed, and yet there is no {file}");
        }
    }
    if !root {
        bail!("the test cluster makes network namespaces, mounts and control groups: run it as root");
    }
    if output(Command::new("go").arg("version")).is_err() {
        bail!("there is no Go: install 1.26 or newer (go.dev/dl); Debian's own is too old for Kubernetes 1.35");
    }
    Ok(())
}

/// Whether the file is there: also where `/usr/bin` and `/usr/sbin` are one, or a tool lies in the other.
fn present(file: &str) -> bool {
    Path::new(file).exists() || Path::new(&file.replacen("/usr/sbin/", "/usr/bin/", 1)).exists()
}

fn install(place: &Place, packages: &[&str]) -> Result<()> {
    // Only the programs are wanted: a containerd or etcd service on the host would be a surprise.
    let no_services = !Path::new(POLICY).exists();
    if no_services {
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").context("cannot keep packages from starting services")?;
        fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
    }
    let apt = |words: &[&str]| {
        logged(
            Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words),
            &place.log(&format!("apt-{}", words[0]))?,
        )
    };
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend_from_slice(packages);
    let result = apt(&["update"]).and_then(|()| apt(&words));
    if no_services {
        fs::remove_file(POLICY).context("cannot remove the file that kept services from starting")?;
    }
    result
}
