//! The layering of `src/`, as CONTRIBUTING.md draws it, read from the files themselves.
//!
//! Each file says in its first line what it is: **P** pure · **T** trait or state only · **A** adapter ·
//! **O** orchestration · **W** wiring. From that follows what it may name, of our own files and of other crates. A file is
//! read as tokens, not as text: comments and strings name nothing, `use` trees are taken apart, and a path that stands in
//! the middle of an expression or a macro counts like one that stands in a `use`. Tests (`#[cfg(test)]`, `tests.rs`,
//! `…_tests.rs`) may name anything.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/paths.rs"]
mod paths;
#[path = "architecture/rules.rs"]
mod rules;

use rules::{File, Violation, check};

/// Every Rust file below a folder, sorted.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files_below(&root.join("src"), &mut paths);
    paths
        .iter()
        .map(|path| File {
            path: path.strip_prefix(root).unwrap().to_str().unwrap().into(),
            text: fs::read_to_string(path).unwrap(),
        })
        .collect()
}

#[test]
fn the_sources_keep_to_the_layers() {
    let sources = sources();
    assert!(sources.len() > 30, "the sources were not found");
    let violations: Vec<String> = check(&sources).iter().map(Violation::to_string).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

// --- That the check can fail ---

/// A small tree with one file of each kind, and `text` as one more file.
fn with(path: &str, text: &str) -> Vec<Violation> {
    let tree = [
        ("src/lib.rs", "//! The map.\npub mod pure;"),
        ("src/pure.rs", "//! **P** Pure.\npub struct Pure;"),
        ("src/seam.rs", "//! **T** A trait.\npub trait Seam {}"),
        ("src/adapter.rs", "//! **A** An adapter.\npub struct Adapter;"),
        ("src/flow.rs", "//! **O** A flow.\npub fn flow() {}"),
        ("src/app.rs", "//! **W** Wiring.\nuse crate::adapter::Adapter;\nuse crate::flow::flow;"),
        ("src/area/mod.rs", "//! **P** An area.\npub mod adapter;"),
        ("src/area/adapter.rs", "//! **A** Its adapter.\npub struct Inner;"),
    ];
    let mut files: Vec<File> =
        tree.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
    files.retain(|file| file.path != path);
    files.push(File { path: path.into(), text: text.into() });
    check(&files)
}

#[test]
fn a_tree_that_keeps_the_rules_passes() {
    for (path, text) in [
        ("src/new.rs", "//! **P** x\nuse crate::{pure::Pure, seam::Seam};\nuse std::collections::BTreeMap;"),
        (
            "src/new.rs",
            "//! **P** x\n// crate::adapter::Adapter and std::fs are only talked about\nconst X: &str = \"tokio::fs\";",
        ),
        ("src/new.rs", "//! **P** x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    use crate::adapter::Adapter;\n}"),
        ("src/new.rs", "//! **P** x\n#[cfg(test)]\nuse std::fs;\npub fn x() {}"),
        ("src/new/tests.rs", "use super::*;\nuse std::fs;"),
        ("src/new.rs", "//! **P** x\n#[derive(kube::CustomResource)]\npub struct X;"),
        ("src/new.rs", "//! **T** x\nuse tokio::sync::mpsc;"),
        ("src/new.rs", "//! **A** x\nuse crate::adapter::Adapter;\nuse std::fs;\nuse kube::Client;"),
        ("src/new.rs", "//! **O** x\nuse crate::seam::Seam;\nuse tokio::time::sleep;"),
        ("src/cli/new.rs", "//! **W** x\nuse crate::adapter::Adapter;"),
        // Modules may be declared wherever they lie: that names nothing in them.
        ("src/area/mod.rs", "//! **P** x\npub mod adapter;"),
    ] {
        let violations: Vec<String> = with(path, text).iter().map(Violation::to_string).collect();
        assert!(violations.is_empty(), "{text}\n{violations:?}");
    }
}

#[test]
fn each_violation_is_found_where_it_stands() {
    for (path, text, line, word) in [
        ("src/new.rs", "//! No mark.", 1, "mark"),
        ("src/new.rs", "//! **X** Unknown mark.", 1, "mark"),
        ("src/new.rs", "\n//! **P** Too late.", 1, "mark"),
        ("src/new.rs", "//! **P** x\n\nuse std::fs;", 3, "std::fs"),
        (
            "src/new.rs",
            "//! **P** x\nuse std::{\n    collections::BTreeMap,\n    net::{IpAddr, TcpStream},\n};",
            4,
            "std::net::TcpStream",
        ),
        ("src/new.rs", "//! **P** x\nfn f() { let _ = ::std::env::args(); }", 2, "std::env"),
        ("src/new.rs", "//! **P** x\nuse std::process as p;", 2, "std::process"),
        ("src/new.rs", "//! **P** x\npub use tokio::fs::File;", 2, "tokio::fs"),
        ("src/new.rs", "//! **P** x\nfn f() { println!(\"{}\", tokio::time::Duration::ZERO); }", 2, "tokio::time"),
        ("src/new.rs", "//! **P** x\nuse kube::{Api, CustomResource};", 2, "kube::Api"),
        ("src/new.rs", "//! **P** x\nuse opendal::*;", 2, "opendal"),
        ("src/new.rs", "//! **T** x\nuse reqwest::Client;", 2, "reqwest"),
        ("src/new.rs", "//! **P** x\nuse crate::adapter::Adapter;", 2, "src/adapter.rs"),
        ("src/new.rs", "//! **P** x\nuse crate::{pure, adapter::{Adapter as A}};", 2, "src/adapter.rs"),
        ("src/new.rs", "//! **T** x\nuse crate::flow::flow;", 2, "src/flow.rs"),
        ("src/new.rs", "//! **A** x\nfn f() { crate::flow::flow() }", 2, "src/flow.rs"),
        ("src/new.rs", "//! **A** x\nuse crate::app;", 2, "src/app.rs"),
        ("src/new.rs", "//! **O** x\nuse crate::adapter::Adapter;", 2, "src/adapter.rs"),
        ("src/new.rs", "//! **O** x\nuse std::fs::File;", 2, "std::fs"),
        ("src/new.rs", "//! **O** x\nuse kube::Client;", 2, "kube::Client"),
        ("src/new.rs", "//! **W** x\nuse crate::adapter::Adapter;", 2, "src/adapter.rs"),
        ("src/area/mod.rs", "//! **P** x\npub mod adapter;\npub use adapter::Inner;", 3, "src/area/adapter.rs"),
        ("src/area/mod.rs", "//! **P** x\npub mod adapter;\npub use self::adapter::Inner;", 3, "src/area/adapter.rs"),
        ("src/area/new.rs", "//! **P** x\nuse super::adapter::Inner;", 2, "src/area/adapter.rs"),
        ("src/area/new.rs", "//! **P** x\nuse super::super::adapter::Adapter;", 2, "src/adapter.rs"),
        (
            "src/area/new.rs",
            "//! **P** x\n#[cfg(test)]\nuse std::fs;\nuse std::net::TcpListener;",
            4,
            "std::net::TcpListener",
        ),
        ("src/area/new.rs", "//! **P** x\n#[cfg(not(test))]\nuse std::fs;", 3, "std::fs"),
        ("src/utils.rs", "//! **P** x", 1, "utils"),
        ("src/area/helpers/mod.rs", "//! **P** x", 1, "helpers"),
        ("src/new.rs", "//! **P** x\nfn f( {", 1, "not Rust"),
    ] {
        let violations = with(path, text);
        let found: Vec<String> = violations.iter().map(Violation::to_string).collect();
        assert!(
            violations.iter().any(|v| v.path == path && v.line == line && v.what.contains(word)),
            "{path}\n{text}\nexpected line {line} and {word:?}, found {found:?}"
        );
    }
}

#[test]
fn a_file_may_have_600_lines_and_no_more() {
    let text = |lines: usize| format!("//! **P** x\n{}", "// a line\n".repeat(lines - 1));
    assert!(with("src/new.rs", &text(600)).is_empty());
    assert!(with("src/new.rs", &text(601)).iter().any(|violation| violation.what.contains("601 lines")));
}
