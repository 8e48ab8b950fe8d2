//! **A** The operator's own image: `Containerfile`, by buildah, without a registry.

use crate::command::{cargo, logged, output};
use crate::elf::Elf;
use crate::images;
use crate::place::{Place, hex};
use crate::process::Record;
use crate::report::Report;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The name under which the cluster knows it.
pub const NAME: &str = "localhost/ubo:dev";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The operator's binary as `cargo build` leaves it.
pub fn binary(place: &Place, release: bool) -> PathBuf {
    place.target.join(&place.tuple).join(if release { "release" } else { "debug" }).join("ubo")
}

/// Builds the binary and packs the image, if the binary changed; returns the archive.
pub fn build(place: &Place, report: &Report, release: bool) -> Result<PathBuf> {
    report.step("the operator: cargo build", || {
        // No package is named: for one alone, Cargo would choose other features than for `cargo build`, and build twice.
        let mut cargo = cargo(&place.checkout);
        cargo.args(["build", "--bin", "ubo"]);
        cargo.arg("--target-dir").arg(&place.target);
        if release {
            cargo.arg("--release");
        }
        logged(&mut cargo, &place.log("build-operator")?)
    })?;
    let folder = place.folder("image")?;
    let context = place.folder("image/context")?;
    let stripped = context.join("ubo");
    // Debug information is most of a development build; the file in target/ keeps it.
    output(Command::new("strip").arg("-o").arg(&stripped).arg(binary(place, release)))?;
    let program = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    Elf::read(&program)
        .and_then(Elf::check)
        .with_context(|| format!("{} cannot go into the image", stripped.display()))?;
    fs::copy(BUNDLE, context.join("ca-certificates.crt")).with_context(|| format!("cannot copy {BUNDLE}"))?;

    let mut hash = Sha256::new();
    for file in [&stripped, &place.checkout.join("Containerfile"), &context.join("ca-certificates.crt")] {
        hash.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let archive = folder.join(format!("ubo-{}.tar", &hex(&hash.finalize())[..16]));
    if archive.exists() {
        return Ok(archive);
    }
    for entry in fs::read_dir(&folder)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "tar") {
            fs::remove_file(entry.path())?;
        }
    }
    report.step("the operator's image: buildah", || {
        // Its own store: whoever uses buildah on this machine for something else shall not notice.
        let buildah = |words: &[&str]| {
            let mut command = Command::new("buildah");
            command.arg("--root").arg(folder.join("store")).arg("--runroot").arg(folder.join("run"));
            command.args(["--storage-driver", "vfs"]).args(words);
            command
        };
        let containerfile = place.checkout.join("Containerfile").display().to_string();
        logged(
            buildah(&["bud", "--isolation", "chroot", "--tag", NAME, "--file", &containerfile]).arg(&context),
            &place.log("image-build")?,
        )?;
        let unfinished = archive.with_extension("unfinished");
        let _ = fs::remove_file(&unfinished);
        let target = format!("docker-archive:{}:{NAME}", unfinished.display());
        logged(&mut buildah(&["push", NAME, &target]), &place.log("image-push")?)?;
        logged(&mut buildah(&["rmi", "--all", "--force"]), &place.log("image-remove")?)?;
        fs::rename(&unfinished, &archive).context("cannot keep the image archive")
    })?;
    Ok(archive)
}

/// Builds the image anew, and imports it where the cluster runs.
pub fn refresh(place: &Place, report: &Report, release: bool) -> Result<()> {
    let archive = build(place, report, release)?;
    if Record::read(place, "containerd").is_some_and(Record::lives) {
        report.step("import into the cluster", || images::import(place, &archive).map(drop))?;
        report.line(&format!("{NAME} is new; pods that are made from now on have it"));
    } else {
        report.line(&format!("{NAME} is in {}", archive.display()));
    }
    Ok(())
}
