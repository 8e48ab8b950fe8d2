//! **P** Which files of a copy are wanted: `target.include` and `target.exclude`, read as .gitignore is.
//!
//! A pattern is judged here and never by the container's `tar`: GNU's, busybox's and libarchive's tar read patterns in three
//! ways, and none of them as git does. The rules are git's, from the folder that is copied: a pattern with a slash at its
//! beginning or in its middle starts at that folder, any other matches at every depth; one that ends in a slash matches
//! folders only; `**` crosses folders; the last pattern that matches decides, and `!` takes back; nothing below a folder
//! that was left out can be taken back. Braces are themselves, which the matcher has to be told. `exclude` goes first; where there are `include` patterns, only what one of them
//! matches, and what lies below a folder that one matches, is taken.

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is in the backup.
    Taken,
    /// A folder that is taken if something below it is, so that it keeps its mode and owner.
    OnTheWay,
    /// It is not.
    LeftOut,
}

/// The patterns of one copy.
#[derive(Clone, Debug)]
pub struct Selection {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Selection {
    /// Whether `pattern` can be read.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    pub fn check(pattern: &str) -> Result<(), String> {
        if pattern.contains(['\n', '\r', '\0']) {
            return Err("holds a line end or a NUL character".to_owned());
        }
        if pattern.contains("[:") {
            return Err("has a class by name, which is not supported: write the characters, as in [a-z0-9]".to_owned());
        }
        let read = matcher(std::slice::from_ref(&pattern))?;
        if read.is_empty() {
            return Err(
                "is blank, or a comment as .gitignore has it: write `\\#` for a name that begins with #".to_owned()
            );
        }
        Ok(())
    }

    /// The patterns, each of which was checked. `None` where there is none.
    ///
    /// # Errors
    /// As [`Selection::check`].
    pub fn new(include: &[String], exclude: &[String]) -> Result<Option<Self>, String> {
        if include.is_empty() && exclude.is_empty() {
            return Ok(None);
        }
        let include = if include.is_empty() { None } else { Some(matcher(include)?) };
        Ok(Some(Self { include, exclude: matcher(exclude)? }))
    }

    /// What becomes of the entry at `path`, relative to the folder that is copied; empty for that folder itself. Any bytes
    /// may be in it.
    pub fn choose(&self, path: &[u8], is_folder: bool) -> Choice {
        if hit(&self.exclude, path, is_folder) {
            return Choice::LeftOut;
        }
        match &self.include {
            None => Choice::Taken,
            Some(include) if hit(include, path, is_folder) => Choice::Taken,
            Some(_) if is_folder => Choice::OnTheWay,
            Some(_) => Choice::LeftOut,
        }
    }
}

fn matcher(patterns: &[impl AsRef<str>]) -> Result<Gitignore, String> {
    let unreadable = |error: ignore::Error| format!("is no pattern as .gitignore has them: {error}");
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, &plain_braces(pattern.as_ref())).map_err(unreadable)?;
    }
    builder.build().map_err(unreadable)
}

/// The pattern with its braces escaped: to the matcher `{a,b}` is a choice, to git it is a name.
fn plain_braces(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let (mut escaped, mut class) = (false, false);
    for c in pattern.chars() {
        if !escaped && !class && matches!(c, '{' | '}') {
            plain.push('\\');
        }
        class = !escaped && if class { c != ']' } else { c == '[' };
        escaped = !escaped && c == '\\';
        plain.push(c);
    }
    plain
}

/// The folders that `exclude` leaves out by their whole names, relative and without slashes around: `tar` need not enter
/// them. None where a pattern takes something back, since the order of patterns would count.
pub fn whole_folders(exclude: &[String]) -> Vec<&str> {
    if exclude.iter().any(|pattern| pattern.starts_with('!')) {
        return Vec::new();
    }
    // Of libarchive's patterns a `$` at the end is none of the name, and `//` and `/./` match a `/`.
    let is_name = |pattern: &&str| !pattern.contains(['*', '?', '[', '\\', '$']) && !pattern.ends_with(' ');
    let is_plain = |name: &&str| name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let anchored = |pattern: &str| pattern.trim_end_matches('/').contains('/');
    let names = exclude.iter().map(String::as_str).filter(|pattern| anchored(pattern)).filter(is_name);
    names.map(|name| name.trim_matches('/')).filter(is_plain).collect()
}

/// Whether the patterns match the entry or a folder above it, from the top: what lies below a match cannot be taken back.
fn hit(patterns: &Gitignore, path: &[u8], is_folder: bool) -> bool {
    let ends = memchr::memchr_iter(b'/', path).map(|end| (end, true)).chain([(path.len(), is_folder)]);
    let mut parts = ends.filter(|(end, _)| *end > 0);
    parts.any(|(end, folder)| patterns.matched(Path::new(OsStr::from_bytes(&path[..end])), folder).is_ignore())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn texts(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn choose(include: &[&str], exclude: &[&str], path: &str) -> Choice {
        let selection = Selection::new(&texts(include), &texts(exclude)).unwrap().unwrap();
        selection.choose(path.trim_end_matches('/').as_bytes(), path.ends_with('/') || path.is_empty())
    }

    #[test]
    fn exclude_as_gitignore() {
        for (exclude, path, choice) in [
            (&["*.tmp"][..], "a/b.tmp", Choice::LeftOut),
            (&["*.tmp"], "a/b.sql", Choice::Taken),
            (&["/cache/"], "cache/", Choice::LeftOut),
            (&["/cache/"], "cache/x/y", Choice::LeftOut),
            (&["/cache/"], "cache", Choice::Taken),
            (&["/cache/"], "a/cache/", Choice::Taken),
            (&["a/b"], "c/a/b", Choice::Taken),
            (&["a/**/z"], "a/b/c/z", Choice::LeftOut),
            (&["*.log", "!keep.log"], "x/keep.log", Choice::Taken),
            (&["/logs/", "!/logs/keep.log"], "logs/keep.log", Choice::LeftOut),
            (&["/logs/*", "!/logs/keep.log"], "logs/keep.log", Choice::Taken),
            (&["\\#x"], "#x", Choice::LeftOut),
            (&["*"], "", Choice::Taken),
            (&["{a,b}"], "a", Choice::Taken),
            (&["{a,b}"], "{a,b}", Choice::LeftOut),
            (&["[{]\\}{"], "{}{", Choice::LeftOut),
        ] {
            assert_eq!(choose(&[], exclude, path), choice, "{exclude:?} {path}");
        }
    }

    #[test]
    fn include_takes_only_what_it_names_and_the_folders_on_the_way() {
        for (include, exclude, path, choice) in [
            (&["*.sql"][..], &[][..], "a/b.sql", Choice::Taken),
            (&["*.sql"], &[], "a/", Choice::OnTheWay),
            (&["*.sql"], &[], "a/b.txt", Choice::LeftOut),
            (&["/etc/"], &[], "etc/x/y", Choice::Taken),
            (&["/etc/"], &["*.key"], "etc/x/y.key", Choice::LeftOut),
            (&["/etc/"], &["/etc/x/"], "etc/x/", Choice::LeftOut),
            (&["*.sql", "!b.sql"], &[], "b.sql", Choice::LeftOut),
        ] {
            assert_eq!(choose(include, exclude, path), choice, "{include:?} {exclude:?} {path}");
        }
    }

    #[test]
    fn folders_that_need_not_be_read() {
        let exclude = texts(&[
            "/cache/", "a/b", "*.tmp", "tmp/", "/x*/", "/a b/", "/y ", "/", "/c$/", "/d/./e", "/f//g", "/../h",
        ]);
        assert_eq!(whole_folders(&exclude), ["cache", "a/b", "a b"]);
        assert_eq!(whole_folders(&texts(&["/cache/", "!/cache/"])), [""; 0]);
    }

    #[test]
    fn names_that_are_not_utf8() {
        let selection = Selection::new(&[], &texts(&["*.tmp"])).unwrap().unwrap();
        assert_eq!(selection.choose(b"\xff\xfe.tmp", false), Choice::LeftOut);
        assert_eq!(selection.choose(b"\xff\xfe.sql", false), Choice::Taken);
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for pattern in ["", "  ", "# x", "a\nb", "[z-a]", "x\0", "[[:alpha:]]"] {
            assert!(Selection::check(pattern).is_err(), "{pattern:?}");
        }
        for pattern in ["*", "!x", "\\ ", "a b", "[a-c]*/", "ä/**", "{a}"] {
            assert_eq!(Selection::check(pattern), Ok(()), "{pattern:?}");
        }
        assert!(Selection::new(&[], &[]).unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        // Against git itself, on names and patterns made of the pieces that matter.
        #[test]
        fn as_git_reads_them(
            patterns in prop::collection::vec("!?/?(\\*\\*/|[ab*]/)?[ab?*]{1,2}(/|/\\*\\*)?", 1..4),
            paths in prop::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}", 1..8),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let git = |arguments: &[&str]| {
                let done = Command::new("git").arg("-C").arg(folder.path()).args(arguments).output().unwrap();
                String::from_utf8(done.stdout).unwrap()
            };
            git(&["init", "-q"]);
            let patterns: Vec<String> = patterns.into_iter().filter(|pattern| !pattern.starts_with("!/!")).collect();
            std::fs::write(folder.path().join(".gitignore"), patterns.join("\n")).unwrap();
            for path in &paths {
                let path = folder.path().join(path);
                // A name that is a folder already, or whose folder is a file already, is left.
                if std::fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                    std::fs::write(path, "x").unwrap();
                }
            }
            let listed = git(&["ls-files", "--others", "--exclude-standard"]);
            prop_assume!(!patterns.is_empty());
            let selection = Selection::new(&[], &patterns).unwrap().unwrap();
            for path in paths.iter().filter(|path| folder.path().join(path).is_file()) {
                let taken = selection.choose(path.as_bytes(), false) == Choice::Taken;
                prop_assert_eq!(taken, listed.lines().any(|line| line == path), "{:?} {}", patterns, path);
            }
        }
    }
}
