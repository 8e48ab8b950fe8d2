//! The S3 destination and the command line, against the real server.

#[path = "../../destinations/suite.rs"]
mod suite;

use anyhow::{Context, Result, ensure};
use rig::Cluster;
use std::collections::BTreeMap;
use std::process::{Command, Output};
use ubo::destination::address::Address;
use ubo::destination::build::build;

/// A prefix of its own for every test that runs.
fn prefix(cluster: &Cluster, name: &str) -> String {
    format!("s3://{}/{name}-{}", cluster.s3.bucket, std::process::id())
}

#[tokio::test]
async fn s3_keeps_what_every_destination_promises() -> Result<()> {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::from_env()?;
    let address = Address::parse(&prefix(&cluster, "suite"))?;
    let options = BTreeMap::from([("endpoint".to_owned(), cluster.s3.endpoint.clone())]);
    let credentials = BTreeMap::from([
        ("AWS_ACCESS_KEY_ID".to_owned(), cluster.s3.access_key.clone()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), cluster.s3.secret_key.clone()),
    ]);
    suite::suite(build(&address, &options, &credentials)?).await;
    Ok(())
}

/// `ubo` with the server's keys, or another secret one.
fn ubo(cluster: &Cluster, secret_key: &str, args: &[&str]) -> Result<Output> {
    Command::new(&cluster.ubo)
        .args(args)
        .env("AWS_ENDPOINT_URL", &cluster.s3.endpoint)
        .env("AWS_ACCESS_KEY_ID", &cluster.s3.access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .output()
        .context("ubo cannot be run")
}

#[tokio::test]
async fn the_command_line_backs_up_to_s3_and_gets_it_back() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let uri = prefix(&cluster, "cli");
    let run = |args: &[&str]| ubo(&cluster, &cluster.s3.secret_key, args);
    let made = run(&["backup", "--command", "seq 1 5000000", "--name", "numbers", "--to", &uri])?;
    ensure!(made.status.success(), "{made:?}");
    let listed = run(&["list", &uri])?;
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("local/numbers"), "{listed:?}");
    ensure!(run(&["verify", &uri])?.status.success());
    let restored = run(&["restore", &uri, "--to", "-"])?;
    let expected = Command::new("seq").args(["1", "5000000"]).output()?;
    ensure!(restored.status.success() && restored.stdout == expected.stdout, "the bytes differ");

    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("file"), b"content")?;
    let from = folder.path().to_string_lossy().into_owned();
    let made = run(&["backup", "--from", &from, "--name", "folder", "--to", &uri])?;
    ensure!(made.status.success(), "{made:?}");
    let to = folder.path().join("restored").to_string_lossy().into_owned();
    let restored = run(&["restore", &uri, "--archive", "local/folder", "--to", &to])?;
    ensure!(restored.status.success(), "{restored:?}");
    ensure!(std::fs::read(folder.path().join("restored/file"))? == b"content");
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_what_to_do() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let said = |secret: &str, uri: &str| -> Result<String> {
        let out = ubo(&cluster, secret, &["backup", "--command", "echo x", "--to", uri])?;
        ensure!(out.status.code() == Some(1), "{out:?}");
        Ok(String::from_utf8(out.stderr)?)
    };
    let denied = said("another", &prefix(&cluster, "denied"))?;
    ensure!(denied.contains("DestinationDenied") && denied.contains("secret key"), "{denied}");
    let missing = said(&cluster.s3.secret_key, "s3://no-such-bucket-here/x")?;
    ensure!(missing.contains("DestinationNotFound") && missing.contains("no such bucket"), "{missing}");
    Ok(())
}
