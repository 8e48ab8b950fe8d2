//! **A** The images that tests use, made without a registry and imported into containerd.

use crate::command::{logged, output};
use crate::debian;
use crate::go;
use crate::image::{Config, Root, pack};
use crate::place::{Place, hex};
use crate::report::Report;
use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// How images are packed is part of what they are made from: another number when this file or `image.rs` changes them.
const PACKING: &str = "1";
const BUSYBOX: &str = "/usr/bin/busybox";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The archives of all images but the operator's own, made side by side where the cache does not have them.
pub fn archives(place: &Place, report: &Report) -> Result<Vec<PathBuf>> {
    thread::scope(|scope| {
        let postgres = scope.spawn(|| {
            cached(place, "postgres", debian::RECIPE.as_bytes(), |path| {
                report.step("the PostgreSQL image, by debootstrap (about a minute)", || debian::postgres(place, path))
            })
        });
        let pause = pause(place, report)?;
        let mut archives = vec![pause];
        archives.extend(busybox(place)?);
        archives.push(dash(place)?);
        archives.push(bsdtar(place)?);
        archives.push(postgres.join().map_err(|_| anyhow!("the making of the PostgreSQL image panicked"))??);
        Ok(archives)
    })
}

/// Nothing but the program that holds a pod's namespaces: also the image without a shell.
fn pause(place: &Place, report: &Report) -> Result<PathBuf> {
    let program = fs::read(go::build(place, report, &go::PAUSE)?)?;
    cached(place, "pause", &program, |path| {
        let mut root = Root::new()?;
        root.file("pause", 0o755, &program)?;
        let config = Config { name: "localhost/pause:1", entry: &["/pause"], variables: &[] };
        pack(&config, &mut Cursor::new(root.finish()?), path)
    })
}

/// busybox with all its applets, and once more without `tar`.
fn busybox(place: &Place) -> Result<Vec<PathBuf>> {
    let program = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let applets = output(Command::new(BUSYBOX).arg("--list"))?;
    let make = |file: &str, name: &str, without: &str| {
        cached(place, file, &program, |path| {
            let mut root = Root::new()?;
            root.file("bin/busybox", 0o755, &program)?;
            for applet in applets.lines().filter(|applet| *applet != "busybox" && *applet != without) {
                root.link(&format!("bin/{applet}"), "busybox")?;
            }
            let config = Config { name, entry: &["/bin/sh"], variables: &[PATH] };
            pack(&config, &mut Cursor::new(root.finish()?), path)
        })
    };
    Ok(vec![make("busybox", "localhost/busybox:1", "")?, make("busybox-no-tar", "localhost/busybox:no-tar", "tar")?])
}

/// busybox with Debian's dash as `sh`: a shell that cannot tell whether a pipe's first part failed, and no bash beside it.
fn dash(place: &Place) -> Result<PathBuf> {
    let applets = ["cat", "sleep", "ls", "mkdir", "rm", "tar", "dd", "head", "true", "false", "id", "kill", "ps"];
    let config = Config { name: "localhost/dash:1", entry: &["/bin/sh"], variables: &[PATH] };
    debian_programs(place, &config, &["/bin/dash"], &[("bin/sh", "dash")], &applets)
}

/// The same with Debian's bsdtar as `tar`, and more of busybox beside it. busybox's own shell would never ask for another
/// `tar` than the one that it has built in.
fn bsdtar(place: &Place) -> Result<PathBuf> {
    let applets = output(Command::new(BUSYBOX).arg("--list"))?;
    let applets: Vec<_> = applets.lines().filter(|applet| !["busybox", "sh", "tar"].contains(applet)).collect();
    let config = Config { name: "localhost/bsdtar:1", entry: &["/bin/sh"], variables: &[PATH] };
    let links = [("bin/sh", "dash"), ("bin/tar", "/usr/bin/bsdtar")];
    debian_programs(place, &config, &["/bin/dash", "/usr/bin/bsdtar"], &links, &applets)
}

/// An image of Debian's programs with all that they are linked with, links to them, and these applets of busybox.
fn debian_programs(
    place: &Place,
    config: &Config<'_>,
    programs: &[&str],
    links: &[(&str, &str)],
    applets: &[&str],
) -> Result<PathBuf> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let mut files = Vec::new();
    for program in programs {
        files.push((*program).to_owned());
        // `ldd` names the libraries and the loader by their paths.
        let libraries = output(Command::new("ldd").arg(program))?;
        files.extend(libraries.split_whitespace().filter(|word| word.starts_with('/')).map(ToOwned::to_owned));
    }
    let mut once = BTreeSet::new();
    files.retain(|file| once.insert(file.clone()));
    let contents = files
        .iter()
        .map(|file| fs::read(file).with_context(|| format!("cannot read {file}")))
        .collect::<Result<Vec<_>>>()?;
    let from: Vec<u8> = contents.iter().chain([&busybox]).flat_map(Sha256::digest).collect();
    let file = config.name.trim_start_matches("localhost/").trim_end_matches(":1");
    cached(place, file, &from, |path| {
        let mut root = Root::new()?;
        for (file, content) in files.iter().zip(&contents) {
            root.file(file.trim_start_matches('/'), 0o755, content)?;
        }
        for (called, program) in links {
            root.link(called, program)?;
        }
        root.file("bin/busybox", 0o755, &busybox)?;
        for applet in applets {
            root.link(&format!("bin/{applet}"), "busybox")?;
        }
        pack(config, &mut Cursor::new(root.finish()?), path)
    })
}

/// The archive `<cache>/<hash of what it is made from>/<name>.tar`, made if absent.
fn cached(place: &Place, name: &str, from: &[u8], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(PACKING);
    hash.update(from);
    let folder = place.cache.join(&hex(&hash.finalize())[..16]);
    let path = folder.join(format!("{name}.tar"));
    if !path.exists() {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        make(&path)?;
    }
    Ok(path)
}

/// Imports an archive under the names that stand in it, over what had them before, unless they are its own already. Says
/// whether it did.
pub fn import(place: &Place, archive: &Path) -> Result<bool> {
    let name = archive.file_stem().unwrap_or_default().to_string_lossy();
    // All images of the operator have one name, and the last one imported has it.
    let name = if is_operator(archive) { "ubo" } else { &*name };
    let mark = place.folder("imported")?.join(name);
    let which = archive.display().to_string();
    if fs::read_to_string(&mark).is_ok_and(|imported| imported == which) {
        return Ok(false);
    }
    ctr_import(place, archive)?;
    fs::write(&mark, which).context("cannot note an image as imported")?;
    Ok(true)
}

/// Whether this is an archive of [`crate::operator_image`], which are named after what is in them.
pub fn is_operator(archive: &Path) -> bool {
    archive.file_stem().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ubo-"))
}

fn ctr_import(place: &Place, archive: &Path) -> Result<()> {
    let name = archive.file_stem().unwrap_or_default().to_string_lossy();
    logged(
        Command::new("ctr")
            .arg("--address")
            .arg(place.containerd_socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive),
        &place.log(&format!("import-{name}"))?,
    )
}
