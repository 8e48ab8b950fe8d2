//! **A** PostgreSQL 15 as an image: a Debian root folder with the server, made by debootstrap.
//!
//! It is what the README asks of an image for the first example: the command runs as root, `PGUSER=postgres` is in the
//! environment, local connections are trusted, and `/backup` does not exist. Run as another user (999 is `postgres`), the
//! same image is the second case, which needs a volume at `/backup`.

use crate::command::logged;
use crate::image::{Config, pack};
use crate::mounts;
use crate::place::Place;
use anyhow::{Context, Result};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the image is made from: the archive in the cache lies below a hash of it. Another number when the steps change.
pub const RECIPE: &str = concat!("bookworm minbase 3 ", include_str!("debian/entry.sh"));

const ENTRY: &str = include_str!("debian/entry.sh");
const CONFIG: Config<'static> = Config {
    name: "localhost/postgres:15",
    entry: &["/usr/local/bin/entry"],
    variables: &[
        "PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PGUSER=postgres",
        "PGDATA=/var/lib/postgresql/data",
        "LANG=C.UTF-8",
    ],
};

/// What the server never reads: documentation, package lists, and LLVM, which is a third of it all and serves only
/// the just-in-time compiler that the entry point switches off.
const LEFT_OUT: [&str; 8] = [
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./var/cache/*",
    "./var/lib/apt/lists/*",
    "./dev/*",
    "./usr/lib/*/libLLVM*",
    "./usr/lib/*/libz3*",
];

/// Makes the archive at `path`.
pub fn postgres(place: &Place, path: &Path) -> Result<()> {
    let work = place.folder("debootstrap")?;
    let log = |name: &str| place.log(&format!("postgres-{name}"));
    mounts::unmount_below(&work)?;
    fs::remove_dir_all(&work)?;
    let root = work.join("root");
    fs::create_dir_all(&root)?;
    logged(
        Command::new("debootstrap").args(["--variant=minbase", "--include=postgresql-15", "bookworm"]).arg(&root),
        &log("debootstrap")?,
    )?;
    mounts::unmount_below(&work)?;
    // Fixed numbers, so that a pod can name them.
    let inside = |name: &str, words: &[&str]| logged(Command::new("chroot").arg(&root).args(words), &log(name)?);
    inside("usermod", &["usermod", "--uid", "999", "postgres"])?;
    inside("groupmod", &["groupmod", "--gid", "999", "postgres"])?;
    // The package made a database of its own, as the user's old number.
    for folder in ["var/lib/postgresql", "etc/postgresql", "run/postgresql", "var/log/postgresql"] {
        let folder = root.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
    }
    inside("folders", &["install", "-d", "-o", "postgres", "-g", "postgres", "-m", "2775", "/run/postgresql"])?;
    inside("home", &["install", "-d", "-o", "postgres", "-g", "postgres", "/var/lib/postgresql"])?;
    fs::write(root.join("usr/local/bin/entry"), ENTRY)?;
    fs::set_permissions(root.join("usr/local/bin/entry"), Permissions::from_mode(0o755))?;

    let layer = work.join("layer.tar");
    // By the system's tar: it keeps hard links, owners and attributes.
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--sort=name", "--xattrs", "--directory"]).arg(&root);
    tar.arg("--file").arg(&layer).args(LEFT_OUT.map(|folder| format!("--exclude={folder}"))).arg(".");
    logged(&mut tar, &log("tar")?)?;
    pack(&CONFIG, &mut File::open(&layer)?, path)?;
    fs::remove_dir_all(&work).context("cannot remove the root folder of the image")
}
