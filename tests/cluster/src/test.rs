//! **O** `cargo rig test`: everything, in one run, with one line at the end.
//!
//! ```text
//! beside it     Go programs, images, cargo-deny, where the cache does not have them
//! format ─► clippy ─► build of all tests ─┬► unit and property tests ─► documentation's examples ─► cargo deny
//!                                         └► clusters up ─► their tests, in their network namespaces (see `clusters`)
//!                                                        ─► clusters down, those that were not up before
//! ```
//!
//! Everything is built for the whole workspace at once: package by package, Cargo would choose other features for the
//! same dependencies and build them again.

use crate::clusters;
use crate::command::{self, output};
use crate::place::{CLUSTERS, Place};
use crate::report::{Report, Stopwatch};
use crate::tally::{Tally, libtest};
use crate::{deny, down, go, images, packages, up};
use anyhow::{Context, Result, anyhow, bail};
use rig::soak::{Measure, Outcome, VARIABLES};
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

/// A compiled test binary, as `cargo test --no-run` tells of it.
pub struct Binary {
    /// `package target (kind)`
    pub name: String,
    /// The target alone: of an integration test, its file's name.
    pub target: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Whether it wants the cluster: it is one of `tests/cluster/tests`.
    pub cluster: bool,
    /// Only tests whose name contains this.
    pub filter: Option<String>,
}

/// Runs everything; with a filter, only the tests whose own name or whose file's name contains it, and no checks.
pub fn test(place: &Place, report: &Report, filter: Option<&str>) -> ExitCode {
    let mut tally = Tally::default();
    let result = run(place, report, filter, &mut tally);
    if let Err(error) = &result {
        tally.broken("the run of the tests", &format!("{error:#}"));
    }
    print!("{}", tally.text());
    if tally.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(place: &Place, report: &Report, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    packages::ensure(place, report)?;
    let checks = filter.is_none();
    thread::scope(|scope| {
        // What the cluster needs takes minutes the first time, and none of it needs Cargo's target folder.
        let beside = scope.spawn(|| -> Result<()> {
            go::servers(place, report)?;
            images::archives(place, report)?;
            if checks { deny::installed(place, report).map(drop) } else { Ok(()) }
        });
        if checks {
            check(place, tally, "format", &["fmt", "--all", "--check"])?;
            check(place, tally, "clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
        }
        println!("\n--- build of the tests");
        let mut binaries = build(place, filter, tally)?;
        if let Some(filter) = filter {
            binaries = chosen(binaries, filter)?;
        }
        let (files, others): (Vec<_>, Vec<_>) = binaries.into_iter().partition(|binary| binary.cluster);
        let clusters = scope.spawn(move || {
            let mut tally = Tally::default();
            let prepared = beside.join().map_err(|_| anyhow!("the preparation of the cluster panicked")).flatten();
            let result = prepared.and_then(|()| on_clusters(place, report, &files, &mut tally));
            (tally, result)
        });
        let mut tested = without_cluster(place, checks, &others, tally);
        if checks {
            tested = tested.and_then(|()| deny::check(place, report, tally));
        }
        // Whatever came of these: a cluster that is up shall not stay so.
        let (of_clusters, result) = clusters.join().map_err(|_| anyhow!("the run on the clusters panicked"))?;
        tally.append(of_clusters);
        tested.and(result)
    })
}

/// All that needs clusters, from bringing them up to taking them down.
fn on_clusters(place: &Place, report: &Report, files: &[Binary], tally: &mut Tally) -> Result<()> {
    let members = clusters::bring_up(place, report, files.len().min(usize::from(CLUSTERS)))?;
    let result = match (&members[..], files) {
        // One is watched while it runs.
        ([_], [file]) => clusters::command(place, file).and_then(|mut command| suite(tally, &file.name, &mut command)),
        _ => clusters::run(&members, files, tally),
    };
    if !files.is_empty() && !tally.good() {
        clusters::explain(&members)?;
    }
    clusters::take_down(&members, report)?;
    result
}

/// All that needs no cluster.
fn without_cluster(place: &Place, checks: bool, binaries: &[Binary], tally: &mut Tally) -> Result<()> {
    for binary in binaries {
        let mut command = Command::new(&binary.path);
        suite(tally, &binary.name, command.current_dir(&place.checkout).args(binary.filter.as_deref()))?;
    }
    if checks {
        let mut examples = cargo(place, &["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
        suite(tally, "examples in the documentation", &mut examples)?;
    }
    Ok(())
}

/// Plays the test `kills` with this measure, and gives what it counted. The cluster is brought up where it is not.
pub fn soak(place: &Place, report: &Report, measure: &Measure) -> Result<Outcome> {
    let path = measure.result.as_ref().context("no place for the result")?;
    let _ = std::fs::remove_file(path); // of an earlier soak
    let mut tally = Tally::default();
    let binaries = build(place, Some("kills"), &mut tally)?;
    let kills = binaries.iter().find(|binary| binary.cluster && binary.name.contains(" kills "));
    let kills = kills.context("the test `kills` does not compile")?;
    let fresh = up::up(place, report, true)?;
    let mut command = clusters::command(place, kills)?;
    let words = [measure.jobs.to_string(), measure.seconds.to_string(), measure.kills.to_string()];
    command.envs(VARIABLES.iter().zip(&words));
    command.env(VARIABLES[3], path);
    // Standard output is the result's.
    let status = command.stdout(std::io::stderr()).status().context("cannot run the test `kills`")?;
    // It lies in the cluster's state, which goes with the cluster.
    let outcome = std::fs::read(path).with_context(|| format!("the soak did not get to its end ({status})"));
    if fresh {
        down::down(place, report)?;
    }
    Ok(serde_json::from_slice(&outcome?)?)
}

/// A step of Cargo's that is good or not: one more that passed, or failed.
fn check(place: &Place, tally: &mut Tally, name: &str, words: &[&str]) -> Result<()> {
    println!("\n--- {name}");
    let watch = Stopwatch::start();
    let status = cargo(place, words).status().context("cannot run cargo")?;
    tally.check(name, status.success(), watch.elapsed());
    Ok(())
}

/// Builds all test binaries, outside the namespace: inside there is no registry. Where the filter is a file's name, only
/// that one: linking all of them takes a minute.
fn build(place: &Place, filter: Option<&str>, tally: &mut Tally) -> Result<Vec<Binary>> {
    #[derive(Deserialize)]
    struct Message {
        package_id: Option<String>,
        target: Option<Target>,
        profile: Option<Profile>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut words = vec!["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"];
    let file = |name: &&str| {
        let file = format!("{name}.rs");
        ["tests", "tests/cluster/tests"].iter().any(|folder| place.checkout.join(folder).join(&file).is_file())
    };
    match filter.filter(file) {
        Some(name) => words.extend(["--test", name]),
        None => words.extend(["--lib", "--bins", "--tests"]),
    }
    let output = cargo(place, &words).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        tally.broken("build of the tests", "it does not compile");
    }
    let mut binaries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message = serde_json::from_str(line).context("cannot read what cargo says")?;
        let (Some(package), Some(target), Some(path)) = (message.package_id, message.target, message.executable) else {
            continue;
        };
        if !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        // The id of a package in the workspace: path+file://FOLDER#NAME@VERSION, or without the name, when the folder is it.
        let rig = package.contains("/tests/cluster#");
        let test = target.kind.iter().any(|kind| kind == "test");
        let name = format!("{} {} ({})", if rig { "rig" } else { "ubo" }, target.name, target.kind.join(", "));
        binaries.push(Binary { name, target: target.name, path, cluster: rig && test, filter: None });
    }
    // Cargo's order is that of its threads; ours is the same each time.
    binaries.sort_by(|one, other| (one.cluster, &one.name).cmp(&(other.cluster, &other.name)));
    Ok(binaries)
}

/// Those with something that the filter wants: all of it by the file's name, or tests by their own.
fn chosen(binaries: Vec<Binary>, filter: &str) -> Result<Vec<Binary>> {
    let mut chosen = Vec::new();
    for mut binary in binaries {
        if !binary.name.contains(filter) {
            let list = output(Command::new(&binary.path).args(["--list", "--format=terse", filter]))?;
            if !list.lines().any(|line| line.ends_with(": test")) {
                continue;
            }
            binary.filter = Some(filter.to_owned());
        }
        chosen.push(binary);
    }
    Ok(chosen)
}

/// Runs test binaries with their output streamed, and counts what they say.
fn suite(tally: &mut Tally, name: &str, command: &mut Command) -> Result<()> {
    println!("\n--- {name}");
    let watch = Stopwatch::start();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {name}"))?;
    let Some(stdout) = child.stdout.take() else { bail!("{name} has no output") };
    let mut results = Vec::new();
    // Not by lines of text: a test may print any bytes.
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        results.extend(libtest(&line));
    }
    let status = child.wait()?;
    tally.suite(name, &results, status, watch.elapsed());
    Ok(())
}

fn cargo(place: &Place, words: &[&str]) -> Command {
    let mut cargo = command::cargo(&place.checkout);
    cargo.env("CARGO_TARGET_DIR", &place.target).args(words);
    cargo
}
