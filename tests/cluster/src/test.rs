//! **O** `cargo rig test`: everything, in one run, with one line at the end.
//!
//! ```text
//! beside it     Go programs, images, cargo-deny, where the cache does not have them
//! format ─► clippy ─► build of all tests ─► unit and property tests ─► documentation's examples ─► cargo deny
//!        ─► cluster up ─► cluster tests, inside its network namespace ─► cluster down, if it was not up before
//! ```
//!
//! Everything is built for the whole workspace at once: package by package, Cargo would choose other features for the
//! same dependencies and build them again.

use crate::command::{output, tail};
use crate::place::Place;
use crate::process::Record;
use crate::report::{Report, Stopwatch};
use crate::tally::{Tally, libtest};
use crate::{deny, down, go, images, netns, packages, parts, status, up};
use anyhow::{Context, Result, anyhow, bail};
use rig::soak::{Measure, Outcome, VARIABLES};
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

/// Cluster tests mostly wait for the cluster, which has the same two cores.
const CLUSTER_THREADS: &str = "--test-threads=2";

/// A compiled test binary, as `cargo test --no-run` tells of it.
struct Binary {
    /// `package: target`
    name: String,
    path: PathBuf,
    /// Whether it wants the cluster: it is one of `tests/cluster/tests`.
    cluster: bool,
    /// Only tests whose name contains this.
    filter: Option<String>,
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
    let binaries = thread::scope(|scope| {
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
        for binary in binaries.iter().filter(|binary| !binary.cluster) {
            let mut command = Command::new(&binary.path);
            suite(tally, &binary.name, command.current_dir(&place.checkout).args(binary.filter.as_deref()))?;
        }
        if checks {
            let mut examples = cargo(place, &["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
            suite(tally, "examples in the documentation", &mut examples)?;
        }
        beside.join().map_err(|_| anyhow!("the preparation of the cluster panicked"))??;
        Ok::<_, anyhow::Error>(binaries)
    })?;
    if checks {
        deny::check(place, report, tally)?;
    }
    if !binaries.iter().any(|binary| binary.cluster) {
        return Ok(());
    }
    let fresh = up::up(place, report, true)?;
    let result = cluster(place, &binaries, tally);
    if !tally.good() {
        explain(place)?;
    }
    if fresh {
        down::down(place, report)?;
    }
    result
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
    let mut command = netns::command(place, &kills.path.display().to_string());
    command.envs(status::variables(place)?);
    let words = [measure.jobs.to_string(), measure.seconds.to_string(), measure.kills.to_string()];
    command.envs(VARIABLES.iter().zip(&words));
    command.env(VARIABLES[3], path).current_dir(place.checkout.join("tests/cluster"));
    // Standard output is the result's.
    let status = command.stdout(std::io::stderr()).status().context("cannot run the test `kills`")?;
    if fresh {
        down::down(place, report)?;
    }
    let outcome = std::fs::read(path).with_context(|| format!("the soak did not get to its end ({status})"))?;
    Ok(serde_json::from_slice(&outcome)?)
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
        binaries.push(Binary { name, path, cluster: rig && test, filter: None });
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

fn cluster(place: &Place, binaries: &[Binary], tally: &mut Tally) -> Result<()> {
    let variables = status::variables(place)?;
    for binary in binaries.iter().filter(|binary| binary.cluster) {
        let mut command = netns::command(place, &binary.path.display().to_string());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(place.checkout.join("tests/cluster")).arg(CLUSTER_THREADS);
        command.args(binary.filter.as_deref());
        suite(tally, &binary.name, &mut command)?;
    }
    Ok(())
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
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&place.checkout).env("CARGO_TARGET_DIR", &place.target).args(words);
    cargo
}

/// Something failed: if a part of the cluster died, that is why.
fn explain(place: &Place) -> Result<()> {
    for part in parts::ALL {
        if Record::read(place, part).is_some_and(|record| !record.lives()) {
            println!("{part} has died meanwhile\n{}", tail(&place.log(part)?));
        }
    }
    Ok(())
}
