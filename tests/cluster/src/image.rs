//! **A** Image archives: one layer and what to run, packed so that containerd imports it.
//!
//! ```text
//! <hash>.json            the config: environment, entry point, the layer's digest
//! <digest>/layer.tar     the root folder
//! manifest.json          which is which, and the name
//! ```

use crate::place::hex;
use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// What a container of the image runs, and in which environment.
pub struct Config<'a> {
    /// The image's name, with its tag.
    pub name: &'a str,
    /// The entry point.
    pub entry: &'a [&'a str],
    /// `NAME=value`.
    pub variables: &'a [&'a str],
}

/// Packs the layer into an archive at `path`, which appears only when it is whole.
pub fn pack(config: &Config<'_>, layer: &mut (impl Read + Seek), path: &Path) -> Result<()> {
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut size = 0_u64;
    loop {
        let read = layer.read(&mut block)?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        size += read as u64;
    }
    layer.seek(SeekFrom::Start(0))?;
    let digest = hex(&hash.finalize());
    let document = serde_json::to_vec(&json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": config.entry, "Env": config.variables},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    }))?;
    let document_name = format!("{}.json", hex(&Sha256::digest(&document)));
    let layer_name = format!("{digest}/layer.tar");
    let manifest = serde_json::to_vec(&json!([
        {"Config": document_name, "RepoTags": [config.name], "Layers": [layer_name]}]))?;

    let unfinished = path.with_extension(format!("{}", std::process::id()));
    let mut archive = Builder::new(File::create(&unfinished).context("cannot make an image archive")?);
    append(&mut archive, &document_name, 0o644, document.len() as u64, document.as_slice())?;
    append(&mut archive, &layer_name, 0o644, size, layer)?;
    append(&mut archive, "manifest.json", 0o644, manifest.len() as u64, manifest.as_slice())?;
    archive.into_inner()?.flush()?;
    fs::rename(&unfinished, path).context("cannot keep an image archive")
}

/// How images name the processor that this program was built for.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A root folder, written straight as the tar of a layer: everything belongs to root, and is of the epoch's first day.
pub struct Root {
    tar: Builder<Vec<u8>>,
}

impl Root {
    /// With the folders that programs expect.
    pub fn new() -> Result<Root> {
        let mut root = Root { tar: Builder::new(Vec::new()) };
        for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("var", 0o755)] {
            root.folder(path, mode)?;
        }
        root.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
        root.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        Ok(root)
    }

    /// A folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(mode, 0);
        header.set_entry_type(EntryType::Directory);
        Ok(self.tar.append_data(&mut header, format!("{path}/"), std::io::empty())?)
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        append(&mut self.tar, path, mode, content.len() as u64, content)
    }

    /// A symbolic link at `path` to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(0o777, 0);
        header.set_entry_type(EntryType::Symlink);
        Ok(self.tar.append_link(&mut header, path, target)?)
    }

    /// The finished tar.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

fn append(tar: &mut Builder<impl Write>, path: &str, mode: u32, size: u64, content: impl Read) -> Result<()> {
    let mut header = header(mode, size);
    header.set_entry_type(EntryType::Regular);
    Ok(tar.append_data(&mut header, path, content)?)
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::{Config, Root, pack};
    use std::io::{Cursor, Read};

    #[test]
    fn an_archive_names_its_layer_by_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image.tar");
        let layer = Root::new().and_then(Root::finish).expect("a layer");
        let config = Config { name: "localhost/x:1", entry: &["/x"], variables: &["A=1"] };
        pack(&config, &mut Cursor::new(&layer), &path).expect("packed");
        let mut archive = tar::Archive::new(std::fs::File::open(&path).expect("the archive"));
        let mut found = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            found.push((entry.path().expect("its path").display().to_string(), content));
        }
        let manifest: serde_json::Value = serde_json::from_slice(&found[2].1).expect("a manifest");
        assert_eq!(manifest[0]["Config"], found[0].0.as_str());
        assert_eq!(manifest[0]["Layers"][0], found[1].0.as_str());
        assert_eq!(found[1].1, layer);
        let config: serde_json::Value = serde_json::from_slice(&found[0].1).expect("a config");
        let digest = found[1].0.trim_end_matches("/layer.tar");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}").as_str());
    }
}
