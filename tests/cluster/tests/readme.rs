//! The README's commands for a cluster, run in order as a person would paste them, in a namespace of their own.
//!
//! What is replaced in them, and nothing else is: [`replaced`].

#[path = "../../readme/blocks.rs"]
mod blocks;
mod installed;
mod scene;

use anyhow::{Context, Result, anyhow, bail, ensure};
use blocks::{Block, compare};
use installed::{Installed, set};
use scene::operator_ready;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use ubo::install::documents;

/// How long one block may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// What stands in the README and its manifests, and what stands for it here: the namespace is the test's own, images come
/// from no registry, the bucket's folder is the test's own, and the binary is the one that was built.
fn replaced(installed: &Installed, namespace: &str, text: &str) -> String {
    let s3 = &installed.cluster.s3;
    let server = format!("AWS_ENDPOINT_URL: {}", s3.endpoint);
    let pairs = [
        ("-n default", format!("-n {namespace}")),
        ("namespace: default", format!("namespace: {namespace}")),
        ("get bj -A", "get bj".to_owned()),
        ("image: postgres:17", "image: localhost/postgres:15".to_owned()),
        ("s3://my-bucket/backups/postgres", format!("s3://my-bucket/{namespace}")),
        ("AWS_ACCESS_KEY_ID: replace-me", format!("AWS_ACCESS_KEY_ID: {}", s3.access_key)),
        ("AWS_SECRET_ACCESS_KEY: replace-me", format!("AWS_SECRET_ACCESS_KEY: {}", s3.secret_key)),
        ("# AWS_ENDPOINT_URL: https://minio.example.com", server),
        ("ubo install --image registry.example.com/ubo:0.1.0", "ubo install --image localhost/ubo:dev".to_owned()),
        // The release build takes minutes: the binary that lies there is packed instead, by the same file.
        ("cargo build --release\n", String::new()),
        ("target/*/release/ubo", "ubo".to_owned()),
        (
            "push registry.example.com/ubo:0.1.0",
            "push registry.example.com/ubo:0.1.0 docker-archive:ubo.tar".to_owned(),
        ),
    ];
    pairs.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
}

fn readme(installed: &Installed) -> Result<(String, Vec<Block>)> {
    let text = fs::read_to_string(installed.cluster.checkout.join("README.md"))?;
    let blocks = blocks::blocks(&text).map_err(|error| anyhow!("README.md {error}"))?;
    Ok((text, blocks))
}

/// Runs a block; what it printed, or an error with all that it said.
async fn bash(text: &str, folder: &Path) -> Result<String> {
    let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.join("bin").display());
    let child = Command::new("bash")
        .args(["--noprofile", "--norc", "-euo", "pipefail", "-c", text])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, child).await.context("it does not end")??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    bail!("{}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Runs all blocks with this mark in order, and compares what is shown.
async fn run_all(installed: &Installed, namespace: &str, mark: &str, folder: &Path) -> Result<usize> {
    let (_, blocks) = readme(installed)?;
    let mut count = 0;
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.mark == mark) {
        let text = replaced(installed, namespace, &block.text);
        let printed =
            bash(&text, folder).await.with_context(|| format!("README.md line {}: {}", block.line, block.text))?;
        compare(blocks.get(index + 1), &printed).map_err(|error| anyhow!("README.md {error}"))?;
        count += 1;
    }
    Ok(count)
}

/// The folder that a person is in: the checkout's manifests, the programs, and a kubeconfig whose namespace is the test's.
fn workplace(installed: &Installed, namespace: &str, folder: &Path) -> Result<()> {
    let cluster = &installed.cluster;
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("manifests/examples"))?;
    symlink(&cluster.ubo, folder.join("bin/ubo"))?;
    symlink(&cluster.kubectl, folder.join("bin/kubectl"))?;
    for name in ["manifests", "manifests/examples"] {
        for entry in fs::read_dir(cluster.checkout.join(name))? {
            let path = entry?.path();
            if path.is_file() {
                let text = replaced(installed, namespace, &fs::read_to_string(&path)?);
                fs::write(folder.join(name).join(path.file_name().context("a name")?), text)?;
            }
        }
    }
    let mut kubeconfig = documents(&fs::read_to_string(&cluster.kubeconfig)?)?.remove(0);
    for context in kubeconfig["contexts"].as_array_mut().context("contexts")? {
        context["context"]["namespace"] = json!(namespace);
    }
    fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
    Ok(())
}

#[tokio::test]
async fn every_command_for_a_cluster_does_what_is_shown() -> Result<()> {
    let installed = Installed::get().await?;
    operator_ready(&installed).await?;
    let namespace = installed.namespace("readme").await?;
    let folder = tempfile::tempdir()?;
    workplace(&installed, &namespace, folder.path())?;
    // A volume for the claim of the example's PostgreSQL: this cluster makes none by itself.
    let volume = folder.path().join("volume");
    let name = format!("{namespace}-data");
    let document = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": "data-postgres-0"},
            "hostPath": {"path": volume, "type": "DirectoryOrCreate"},
        },
    });
    installed.apply(&document.to_string(), &[]).await?;

    let count = run_all(&installed, &namespace, "sh cluster", folder.path()).await?;
    ensure!(count >= 8, "only {count} blocks");

    installed.kubectl(&["delete", "namespace", &namespace, "--timeout=120s"], "").await?;
    installed.kubectl(&["delete", "persistentvolume", &name, "--timeout=60s"], "").await?;
    Ok(())
}

#[tokio::test]
async fn the_image_is_built_as_it_is_shown() -> Result<()> {
    let installed = Installed::get().await?;
    let folder = tempfile::tempdir()?;
    // Its own store: whoever uses buildah on this machine for something else shall not notice.
    fs::create_dir_all(folder.path().join("bin"))?;
    let buildah = folder.path().join("bin/buildah");
    let script = "#!/bin/sh\nexec /usr/bin/buildah --root \"$HOME/store\" --runroot \"$HOME/run\" --storage-driver vfs \
                  \"$@\"\n";
    fs::write(&buildah, script)?;
    fs::set_permissions(&buildah, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    symlink(&installed.cluster.ubo, folder.path().join("ubo"))?;
    symlink(installed.cluster.checkout.join("Containerfile"), folder.path().join("Containerfile"))?;
    let isolation = "export BUILDAH_ISOLATION=chroot\n";
    let (_, blocks) = readme(&installed)?;
    let block = blocks.iter().find(|block| block.mark == "sh image").context("no block builds the image")?;
    bash(&format!("{isolation}{}", replaced(&installed, "default", &block.text)), folder.path()).await?;
    let packed = bash("tar xOf ubo.tar manifest.json", folder.path()).await?;
    let packed: Value = serde_json::from_str(&packed)?;
    ensure!(packed[0]["RepoTags"][0] == "registry.example.com/ubo:0.1.0", "{packed}");
    Ok(())
}

#[tokio::test]
async fn every_yaml_is_accepted_by_the_api_server() -> Result<()> {
    let installed = Installed::get().await?;
    let namespace = installed.namespace("readme").await?;
    let (_, blocks) = readme(&installed)?;
    let mut count = 0;
    for block in blocks.iter().filter(|block| block.mark.starts_with("yaml")) {
        for mut document in documents(&block.text)? {
            set(&mut document, "metadata.namespace", json!(namespace));
            // `create` as the README says, because of the name that the server makes.
            let made = document["metadata"]["generateName"].is_string();
            let verb: &[&str] = if made { &["create"] } else { &["apply", "--server-side"] };
            let arguments = [verb, &["--dry-run=server", "--validate=strict", "-f", "-"]].concat();
            installed
                .kubectl(&arguments, &document.to_string())
                .await
                .with_context(|| format!("line {}", block.line))?;
            count += 1;
        }
    }
    ensure!(count >= 5, "only {count} documents");
    installed.remove_namespace(&namespace).await
}

#[test]
fn the_rigs_commands_are_known_to_it() -> Result<()> {
    let cluster = rig::Cluster::from_env()?;
    let text = fs::read_to_string(cluster.checkout.join("README.md"))?;
    let blocks = blocks::blocks(&text).map_err(|error| anyhow!("README.md {error}"))?;
    let lines: Vec<&str> = blocks.iter().filter(|b| b.mark == "sh rig").flat_map(|block| block.text.lines()).collect();
    ensure!(lines.len() >= 2, "only {lines:?}");
    for line in lines {
        let words =
            line.strip_prefix("cargo rig ").with_context(|| format!("{line:?} is none of the rig's commands"))?;
        let help =
            std::process::Command::new(env!("CARGO_BIN_EXE_rig")).args(words.split(' ')).arg("--help").output()?;
        ensure!(help.status.success(), "{line}: {}", String::from_utf8_lossy(&help.stderr));
    }
    Ok(())
}

#[test]
fn nothing_that_is_replaced_has_gone_from_the_readme() -> Result<()> {
    let cluster = rig::Cluster::from_env()?;
    let mut all = fs::read_to_string(cluster.checkout.join("README.md"))?;
    for name in ["postgres.yaml", "s3-credentials.yaml"] {
        all.push_str(&fs::read_to_string(cluster.checkout.join("manifests/examples").join(name))?);
    }
    for text in
        ["image: postgres:17", "s3://my-bucket/backups/postgres", "# AWS_ENDPOINT_URL: https://minio.example.com"]
    {
        ensure!(all.contains(text), "{text:?} is replaced by this test, and is nowhere");
    }
    Ok(())
}
