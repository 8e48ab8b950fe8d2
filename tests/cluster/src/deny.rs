//! **A** `cargo deny`: licences, sources, duplicates; advisories where their database can be fetched.

use crate::command::logged;
use crate::place::Place;
use crate::report::{Report, Stopwatch};
use crate::tally::Tally;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The version that deny.toml is written for.
const VERSION: &str = "0.20.2";
/// Seconds after which a network that says neither yes nor no counts as no.
const FETCH_SECONDS: &str = "60";

/// The program, installed once for all checkouts.
pub fn installed(place: &Place, report: &Report) -> Result<PathBuf> {
    let root = place.cache.join("tools");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        report.step("cargo-deny, installed once", || {
            // In its own folder, so that this checkout's settings are not taken for its own; without optimisation, which
            // takes longer than all runs of it together.
            let mut cargo = Command::new("cargo");
            cargo.current_dir(&root).args(["install", "--locked", "--debug", "--version", VERSION, "--root"]);
            logged(cargo.arg(&root).arg("cargo-deny"), &place.log("install-cargo-deny")?)
        })?;
    }
    Ok(program)
}

/// Runs the checks, and counts them.
pub fn check(place: &Place, report: &Report, tally: &mut Tally) -> Result<()> {
    let program = installed(place, report)?;
    let deny = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&place.checkout).args(words);
        command
    };
    println!("\n--- cargo deny");
    let watch = Stopwatch::start();
    let good = deny(&["check", "bans", "licenses", "sources"]).status().context("cannot run cargo deny")?.success();
    tally.check("cargo deny: bans, licenses, sources", good, watch.elapsed());

    let watch = Stopwatch::start();
    let mut fetch = Command::new("timeout");
    fetch.current_dir(&place.checkout).arg(FETCH_SECONDS).arg(&program).args(["fetch", "db"]);
    if logged(&mut fetch, &place.log("advisories")?).is_err() {
        tally.remark("cargo deny: advisories", "not run: their database cannot be fetched");
        return Ok(());
    }
    let good = deny(&["check", "--disable-fetch", "advisories"]).status().context("cannot run cargo deny")?.success();
    tally.check("cargo deny: advisories", good, watch.elapsed());
    Ok(())
}
