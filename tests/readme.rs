//! The README is run: its local commands in a folder of their own, its YAML against the manifests, its tables against the
//! program. Commands for a cluster are run by `tests/cluster/tests/readme.rs`.

#[path = "readme/blocks.rs"]
mod blocks;

use blocks::{Block, compare, plain, table};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use ubo::api::backup_job::BackupJob;
use ubo::error::{Class, Reason};
use ubo::install::documents;
use ubo::telemetry::metrics::Metric;
use ubo::validate::validate;

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(checkout().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn readme() -> (String, Vec<Block>) {
    let text = read("README.md");
    let blocks = blocks::blocks(&text).expect("each block has a mark");
    (text, blocks)
}

/// Runs a block as a person would paste it, but stops at the first line that fails.
fn bash(text: &str, folder: &Path) -> Result<String, String> {
    let ubo = PathBuf::from(env!("CARGO_BIN_EXE_ubo"));
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", ubo.parent().expect("a folder").display());
    let output = Command::new("bash")
        .args(["--noprofile", "--norc", "-euo", "pipefail", "-c", text])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .env("LANG", "C.UTF-8")
        .output()
        .map_err(|error| format!("bash: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn every_local_command_does_what_is_shown() {
    let (_, blocks) = readme();
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().canonicalize().expect("a path").display().to_string();
    let mut run = 0;
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.mark == "sh local") {
        let printed = bash(&block.text, folder.path())
            .unwrap_or_else(|error| panic!("README.md line {}: {error}\n{}", block.line, block.text));
        let shown = blocks.get(index + 1);
        compare(shown, &printed.replace(&home, "/home/me")).unwrap_or_else(|error| panic!("README.md {error}"));
        run += 1;
    }
    assert!(run >= 8, "only {run} local blocks");
}

#[test]
fn every_yaml_is_the_manifest_that_it_says() {
    let (_, blocks) = readme();
    let shown = blocks.iter().filter_map(|b| Some((b, b.mark.strip_prefix("yaml ")?)));
    // Those are for a real API server: tests/cluster/tests/readme.rs.
    let shown: Vec<_> = shown.filter(|(_, name)| *name != "dry-run").collect();
    assert!(!shown.is_empty());
    for (block, name) in shown {
        assert!(name.starts_with("manifests/"), "line {}: {name}", block.line);
        assert_eq!(block.text, read(name), "README.md line {}: not what {name} holds", block.line);
    }
}

#[test]
fn json_is_json_and_every_link_leads_somewhere() {
    let (text, blocks) = readme();
    for block in blocks.iter().filter(|block| block.mark == "json") {
        serde_json::from_str::<Value>(&block.text).unwrap_or_else(|error| panic!("line {}: {error}", block.line));
    }
    // As code hosts make them: lower case, spaces to dashes, everything else but letters, digits and dashes gone.
    let anchor = |title: &str| -> String {
        let kept = title.trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    let anchors: BTreeSet<String> =
        text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect();
    let targets: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(targets.len() > 10);
    for target in targets {
        match target.strip_prefix('#') {
            Some(name) => assert!(anchors.contains(name), "no heading for #{name}: {anchors:?}"),
            None => assert!(checkout().join(target).exists(), "no file {target}"),
        }
    }
}

#[test]
fn the_table_of_reasons_is_the_closed_set() {
    let (text, _) = readme();
    let rows = table(&text, "reason");
    let shown: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(BTreeSet::from_iter(&shown), BTreeSet::from_iter(&all));
    assert_eq!(shown.len(), all.len(), "a reason stands there twice");
    for row in &rows {
        let reason = Reason::parse(&row[0]).expect("a reason");
        let again = if reason.class() == Class::Transient { "yes" } else { "no" };
        assert_eq!(row[1], again, "whether {reason} is tried again");
        assert!(row[2].len() > 8, "{reason}: what to do?");
    }
}

#[test]
fn the_table_of_metrics_is_the_closed_set() {
    let (text, _) = readme();
    let shown = table(&text, "metric");
    let all: Vec<Vec<String>> = Metric::ALL
        .iter()
        .map(|metric| {
            let labels = if metric.labels().is_empty() { "none".to_owned() } else { metric.labels().join(", ") };
            vec![metric.name().to_owned(), labels, metric.help().trim_end_matches('.').to_owned()]
        })
        .collect();
    assert_eq!(shown, all);
    // Names in the text about alerts.
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("ubo_")) {
        assert!(Metric::ALL.iter().any(|metric| metric.name() == word), "there is no metric {word}");
    }
}

/// The first example with one field changed; `line` is `spec.field: value`.
fn changed(line: &str) -> (String, BackupJob) {
    let (path, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line} is not a field and its value"));
    let value = documents(value).unwrap_or_else(|error| panic!("{line}: {error}")).remove(0);
    let mut job = documents(&read("manifests/examples/postgres-daily-backup.yaml")).expect("the example").remove(0);
    job["metadata"]["namespace"] = "default".into();
    job["metadata"]["uid"] = "0c0c0c0c-1111-2222-3333-444444444444".into();
    job["metadata"]["creationTimestamp"] = "2026-11-24T00:00:00Z".into();
    if path == "spec.destinations" {
        job["spec"].as_object_mut().expect("a spec").remove("destination");
    }
    let mut at = &mut job;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value;
    (path.to_owned(), serde_json::from_value(job).unwrap_or_else(|error| panic!("{line}: {error}")))
}

#[test]
fn what_is_said_to_be_missing_is_missing() {
    let (text, _) = readme();
    validate(&changed("spec.schedule: \"0 2 * * *\"").1).expect("the example itself");
    let rows = table(&text, "not yet, for example");
    assert!(rows.len() > 8, "{rows:?}");
    for row in rows {
        let (path, job) = changed(&row[0]);
        let invalid = validate(&job).expect_err(&row[0]);
        assert_eq!(invalid.reason, Reason::NotSupported, "{}: {invalid}", row[0]);
        assert!(invalid.message.contains(&path), "{}: {invalid}", row[0]);
    }
}

#[test]
fn what_differs_from_day_to_day_is_taken_out() {
    assert_eq!(plain("data-20261124-122733:  583.0 KiB\n a  b "), "data-#-#: #.# KiB\na b");
    assert!(compare(None, "x").is_ok());
    let block = |mark: &str, text: &str| Block { line: 1, mark: mark.into(), text: text.into() };
    assert!(compare(Some(&block("text output", "a 1\nb\n")), "a 22\nb").is_ok());
    assert!(compare(Some(&block("text output", "a 1\nb\n")), "a 22\nc").is_err());
    assert!(compare(Some(&block("text header", "A  B\n1 2\n")), "A B\nmore").is_ok());
    assert!(compare(Some(&block("text header", "A  B\n1 2\n")), "A C\nmore").is_err());
}

#[test]
fn a_block_that_nobody_checks_is_refused() {
    assert!(blocks::blocks("```sh\nrm -rf /\n```\n").is_err());
    assert!(blocks::blocks("```sh local\nls\n").is_err());
    let found = blocks::blocks("x\n```sh local\nls\n```\n").expect("good");
    assert_eq!(found, [Block { line: 2, mark: "sh local".into(), text: "ls\n".into() }]);
}
