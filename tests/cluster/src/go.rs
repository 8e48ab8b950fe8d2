//! **A** The Go programs: built from modules of their own in `tests/cluster/go`, once for all checkouts.

use crate::command::logged;
use crate::parts::Programs;
use crate::place::{Place, hex};
use crate::report::Report;
use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

/// One program: a module with a lock file, and how it is linked.
pub struct Program {
    /// The folder below `tests/cluster/go`, and the program's name.
    pub name: &'static str,
    /// What to build: `.` or `tool` (the one that go.mod names).
    pub package: &'static str,
    /// Further arguments of `go build`.
    pub arguments: &'static [&'static str],
    /// C code or not: a program that goes into an image alone must be static.
    pub cgo: bool,
    /// What the step is called.
    pub step: &'static str,
}

/// Five components and kubectl. Without the version set at the link, everything calls itself v0.0.0.
pub const KUBERNETES: Program = Program {
    name: "kubernetes",
    package: ".",
    arguments: &[
        "-tags",
        "providerless",
        "-ldflags",
        "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35",
    ],
    cgo: true,
    step: "Kubernetes 1.35.4, built from its Go module (about 8 minutes the first time)",
};

/// Service names.
pub const COREDNS: Program =
    Program { name: "coredns", package: ".", arguments: PLAIN, cgo: true, step: "CoreDNS, built from its Go module" };

/// The S3 server.
pub const VERSITYGW: Program = Program {
    name: "versitygw",
    package: "tool",
    arguments: PLAIN,
    cgo: true,
    step: "versitygw (S3), built from its Go module",
};

/// What holds a pod's namespaces.
pub const PAUSE: Program =
    Program { name: "pause", package: ".", arguments: PLAIN, cgo: false, step: "the pause program" };

const PLAIN: &[&str] = &["-ldflags", "-s -w"];

/// The servers, built side by side where they are not in the cache.
pub fn servers(place: &Place, report: &Report) -> Result<Programs> {
    thread::scope(|scope| {
        let kubernetes = scope.spawn(|| build(place, report, &KUBERNETES));
        let coredns = scope.spawn(|| build(place, report, &COREDNS));
        let versitygw = scope.spawn(|| build(place, report, &VERSITYGW));
        let end = |name: &'static str, thread: thread::ScopedJoinHandle<'_, Result<PathBuf>>| {
            thread.join().map_err(|_| anyhow!("the build of {name} panicked"))?
        };
        Ok(Programs {
            kubernetes: end("Kubernetes", kubernetes)?,
            coredns: end("CoreDNS", coredns)?,
            versitygw: end("versitygw", versitygw)?,
        })
    })
}

/// The built program, from the cache if it is there: `<cache>/<hash of sources and arguments>/<name>`.
pub fn build(place: &Place, report: &Report, program: &Program) -> Result<PathBuf> {
    let module = place.checkout.join("tests/cluster/go").join(program.name);
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        // Not every module has all three.
        hash.update(fs::read(module.join(file)).unwrap_or_default());
        hash.update([0]);
    }
    for word in program.arguments {
        hash.update(word);
        hash.update([0]);
    }
    hash.update([u8::from(program.cgo)]);
    let folder = place.cache.join(&hex(&hash.finalize())[..16]);
    let built = folder.join(program.name);
    if built.exists() {
        return Ok(built);
    }
    report.step(program.step, || {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Under another name until it is whole: another checkout may build the same at this moment.
        let unfinished = folder.join(format!("{}.{}", program.name, std::process::id()));
        logged(
            Command::new("go")
                .current_dir(&module)
                .env("CGO_ENABLED", if program.cgo { "1" } else { "0" })
                .args(["build", "-trimpath", "-buildvcs=false"])
                .args(program.arguments)
                .arg("-o")
                .arg(&unfinished)
                .arg(program.package),
            &place.log(&format!("build-{}", program.name))?,
        )?;
        fs::rename(&unfinished, &built).with_context(|| format!("cannot keep {}", built.display()))
    })?;
    Ok(built)
}
