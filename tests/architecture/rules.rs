//! What each kind of file may name.

use super::paths::{Named, named};
use std::collections::BTreeMap;
use std::fmt;

/// A source file; the path is relative to the repository.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Something that breaks a rule.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// What a file says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Pure,
    Trait,
    Adapter,
    Orchestration,
    Wiring,
}

/// Longer files are split by job.
const LINE_LIMIT: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc", "engine", "handler"];

/// Files without a mark, and why.
const UNMARKED: &[&str] = &[
    "src/lib.rs", // the map: it declares the stations of the flow and holds no code
];

/// The only wiring that knows concrete adapters.
fn may_know_adapters(path: &str) -> bool {
    let below = ["src/app/", "src/cli/"].iter().any(|folder| path.starts_with(folder));
    below || path == "src/app.rs" || path == "src/destination/build.rs"
}

/// What reaches a disk, a network, the environment or another process.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
    "tokio::signal",
    "tokio_tungstenite",
    "kube::Client",
    "kube::Config",
    "kube::Api",
    "kube::api::Api",
    "kube::client",
    "kube::config",
    "kube::runtime",
    "axum",
    "hyper",
    "indicatif",
    "opendal",
    "reqwest",
    "rustix",
    "rustls",
];

/// Parts of the above that only describe: types without a way out.
const DESCRIBES: &[&str] = &[
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::os::unix::ffi",
    "std::process::ExitCode",
];

/// What waits or keeps time: orchestration's business, not that of a pure file or of a trait.
const TIME: &[&str] = &["tokio::time", "tokio::runtime", "std::thread::sleep"];

/// Every violation, by file and line.
pub(crate) fn check(files: &[File]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let marks: BTreeMap<&str, Mark> =
        files.iter().filter_map(|file| Some((file.path.as_str(), mark(&file.text)?))).collect();
    for file in files {
        let mut say = |line: usize, what: String| violations.push(Violation { path: file.path.clone(), line, what });
        let lines = file.text.lines().count();
        if lines > LINE_LIMIT {
            say(lines, format!("has {lines} lines, at most {LINE_LIMIT}: split it by job"));
        }
        for segment in file.path.trim_end_matches(".rs").split('/') {
            if EMPTY_NAMES.contains(&segment) {
                say(1, format!("`{segment}` says nothing about what is inside"));
            }
        }
        let named = match named(&file.text) {
            Ok(named) => named,
            Err(error) => {
                say(1, format!("is not Rust: {error}"));
                continue;
            }
        };
        if is_test(&file.path) || UNMARKED.contains(&file.path.as_str()) {
            continue;
        }
        let Some(own) = marks.get(file.path.as_str()) else {
            say(1, "has no mark: begin with `//! **P|T|A|O|W** what it is`".into());
            continue;
        };
        for Named { segments, line } in named {
            if let Some(what) = outside(*own, &segments) {
                say(line, what);
            }
            if let Some(target) = target(&file.path, &segments, files)
                && let Some(other) = marks.get(target)
                && let Some(what) = inside(*own, &file.path, *other, target)
            {
                say(line, what);
            }
        }
    }
    violations
}

fn mark(text: &str) -> Option<Mark> {
    let mark = text.lines().next()?.strip_prefix("//! **")?;
    match mark.split_once("** ")?.0 {
        "P" => Some(Mark::Pure),
        "T" => Some(Mark::Trait),
        "A" => Some(Mark::Adapter),
        "O" => Some(Mark::Orchestration),
        "W" => Some(Mark::Wiring),
        _ => None,
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

/// What a file of this kind must not name of other crates.
fn outside(own: Mark, segments: &[String]) -> Option<String> {
    let path = segments.join("::");
    let within = |list: &[&str]| list.iter().any(|prefix| begins_with(&path, prefix));
    let forbidden = match own {
        Mark::Pure | Mark::Trait => within(OUTSIDE) || within(TIME),
        Mark::Orchestration => within(OUTSIDE),
        Mark::Adapter | Mark::Wiring => false,
    };
    let own = describe(own);
    (forbidden && !within(DESCRIBES)).then(|| format!("{own} names `{path}`"))
}

/// Whether a path is `prefix` or lies below it; a glob of something above the prefix takes it in as well.
fn begins_with(path: &str, prefix: &str) -> bool {
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    below(path, prefix) || path.strip_suffix("::*").is_some_and(|above| above.contains("::") && below(prefix, above))
}

/// What a file of this kind must not name of ours.
fn inside(own: Mark, own_path: &str, other: Mark, other_path: &str) -> Option<String> {
    let allowed = match (own, other) {
        (_, Mark::Pure | Mark::Trait)
        | (Mark::Wiring, Mark::Orchestration | Mark::Wiring)
        | (Mark::Adapter, Mark::Adapter)
        | (Mark::Orchestration, Mark::Orchestration) => true,
        (Mark::Wiring, Mark::Adapter) => may_know_adapters(own_path),
        _ => false,
    };
    (!allowed).then(|| format!("{} names {} `{other_path}`", describe(own), describe(other)))
}

const fn describe(mark: Mark) -> &'static str {
    match mark {
        Mark::Pure => "a pure file",
        Mark::Trait => "a trait",
        Mark::Adapter => "an adapter",
        Mark::Orchestration => "orchestration",
        Mark::Wiring => "wiring",
    }
}

/// The modules that a file is: `src/run/backup.rs` is `["run", "backup"]`.
fn module(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut segments: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if segments.last().is_some_and(|last| last == "mod" || inner == "lib" || inner == "main") {
        segments.pop();
    }
    segments
}

/// The file of ours that a path leads to: the deepest module that it goes through.
fn target<'a>(from: &str, segments: &[String], files: &'a [File]) -> Option<&'a str> {
    let here = module(from);
    let mut absolute = match segments[0].as_str() {
        "crate" | "ubo" => Vec::new(),
        "self" => here.clone(),
        "super" => here[..here.len().saturating_sub(1)].to_vec(),
        // A child of this module, or else another crate.
        first => {
            let child: Vec<String> = here.iter().cloned().chain([first.to_owned()]).collect();
            files.iter().find(|file| module(&file.path) == child)?;
            child
        }
    };
    for segment in &segments[1..] {
        match segment.as_str() {
            "super" => drop(absolute.pop()),
            "self" => {}
            other => absolute.push(other.to_owned()),
        }
    }
    let on_the_way = files.iter().filter(|file| !is_test(&file.path)).filter(|file| {
        let module = module(&file.path);
        !module.is_empty() && absolute.starts_with(&module)
    });
    let deepest = on_the_way.max_by_key(|file| module(&file.path).len())?;
    (deepest.path != from).then_some(deepest.path.as_str())
}
