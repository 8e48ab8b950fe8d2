//! **A** Running other programs: what they say goes to a log, of which a failure shows the end.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

/// So many lines of a log are shown when the step fails.
const TAIL: usize = 25;

/// What `cargo run` sets for the program that it runs, which is the rig, and what build scripts look at: a Cargo that
/// inherits them takes `ring`, and with it half of the tree, for changed.
const OF_THE_RIG: [&str; 9] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_MANIFEST_PATH",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// Cargo as a person starts it, in the checkout.
pub fn cargo(checkout: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    for name in OF_THE_RIG {
        cargo.env_remove(name);
    }
    cargo.current_dir(checkout);
    cargo
}

/// Runs `command` with its output in `log` (made anew). An exit code other than 0 is an error with the log's last lines.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run {}", words(command)))?;
    if !status.success() {
        bail!("{} ended with {status}\n{}", words(command), tail(log));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote. An exit code other than 0 is an error with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", words(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", words(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a log, each indented, under its name.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = format!("  the end of {}:", log.display());
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        shown.push_str("\n    ");
        shown.push_str(line);
    }
    shown
}

/// The program's name alone: arguments may be long, and the log has them where they matter.
fn words(command: &Command) -> String {
    let first = command.get_args().next().map(|word| format!(" {}", word.to_string_lossy())).unwrap_or_default();
    format!("{}{first}", command.get_program().to_string_lossy())
}
