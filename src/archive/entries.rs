//! **P** Path safety of what a tar names.
//!
//! A tar is input from a container that may be hostile. What it names is written only below the folder that the user
//! gave: no absolute path, no `..`, no NUL, no device, socket or fifo; a hard link only to something that was named as
//! safely. A symbolic link may point anywhere (PostgreSQL's `pg_wal` does), because nothing is ever written *through* one:
//! the writer opens every folder on the way without following links.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path of plain names below the restore's folder; never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath {
    names: Vec<OsString>,
}

impl SafePath {
    /// All names, the last one included.
    pub fn names(&self) -> &[OsString] {
        &self.names
    }

    /// The folders on the way.
    pub fn folders(&self) -> &[OsString] {
        &self.names[..self.names.len().saturating_sub(1)]
    }

    /// The last name.
    pub fn file_name(&self) -> &OsStr {
        self.names.last().map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// For messages.
    pub fn to_path(&self) -> PathBuf {
        self.names.iter().collect()
    }

    /// Whether this is `other` or lies below it.
    pub fn is_in(&self, other: &SafePath) -> bool {
        self.names.starts_with(&other.names)
    }
}

/// Why a path is not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It begins with `/`.
    #[error("it is absolute")]
    Absolute,
    /// It has a `..`.
    #[error("it climbs with `..`")]
    Climbs,
    /// It holds a NUL.
    #[error("it holds a NUL byte")]
    Nul,
    /// It is empty.
    #[error("it is empty")]
    Empty,
}

/// What a tar names, made safe; `None` is the folder itself (`./`).
pub fn safe_path(raw: &[u8]) -> Result<Option<SafePath>, Refusal> {
    if raw.is_empty() {
        return Err(Refusal::Empty);
    }
    if raw.contains(&0) {
        return Err(Refusal::Nul);
    }
    if raw[0] == b'/' {
        return Err(Refusal::Absolute);
    }
    let mut names = Vec::new();
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Refusal::Climbs),
            name => names.push(OsStr::from_bytes(name).to_os_string()),
        }
    }
    Ok((!names.is_empty()).then_some(SafePath { names }))
}

/// What a user asks for with `--path`: as in the tar, with or without `./` or a leading `/`.
pub fn asked_path(text: &str) -> Result<Option<SafePath>, Refusal> {
    let text = text.trim_start_matches('/');
    if text.is_empty() { Ok(None) } else { safe_path(Path::new(text).as_os_str().as_bytes()) }
}

/// The mode that is set. A set-user-ID or set-group-ID bit is kept only where the owner is restored too: on a file that
/// now belongs to whoever restores, it would lend out *his* rights.
pub const fn safe_mode(mode: u32, owner_restored: bool) -> u32 {
    if owner_restored { mode & 0o7777 } else { mode & 0o1777 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_made_safe_or_refused() {
        let shown = |raw: &[u8]| safe_path(raw).map(|p| p.map(|p| p.to_path().display().to_string()));
        assert_eq!(shown(b"./a/b"), Ok(Some("a/b".into())));
        assert_eq!(shown(b"a//b/./c/"), Ok(Some("a/b/c".into())));
        assert_eq!(shown(b"./"), Ok(None));
        assert_eq!(shown(b"."), Ok(None));
        assert_eq!(shown(b"..a/b.."), Ok(Some("..a/b..".into())));
        assert_eq!(shown(b"/etc/passwd"), Err(Refusal::Absolute));
        assert_eq!(shown(b"a/../../b"), Err(Refusal::Climbs));
        assert_eq!(shown(b".."), Err(Refusal::Climbs));
        assert_eq!(shown(b"a\0b"), Err(Refusal::Nul));
        assert_eq!(shown(b""), Err(Refusal::Empty));
    }

    #[test]
    fn what_is_asked_for_may_be_written_as_a_person_does() {
        let a = asked_path("/data/x").unwrap().unwrap();
        assert_eq!(Some(a.clone()), asked_path("./data/x/").unwrap());
        assert!(safe_path(b"./data/x/y").unwrap().unwrap().is_in(&a));
        assert!(!safe_path(b"./data/xy").unwrap().unwrap().is_in(&a));
        assert_eq!(asked_path("/"), Ok(None));
    }

    #[test]
    fn set_user_id_needs_its_owner() {
        assert_eq!(safe_mode(0o104_755, true), 0o4755);
        assert_eq!(safe_mode(0o106_755, false), 0o755);
        assert_eq!(safe_mode(0o1777, false), 0o1777);
    }

    proptest! {
        #[test]
        fn nothing_leaves_the_folder(raw in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..40)) {
            if let Ok(Some(path)) = safe_path(&raw) {
                let joined = Path::new("/restore").join(path.to_path());
                prop_assert!(joined.starts_with("/restore"));
                prop_assert!(joined.components().all(|c| c != std::path::Component::ParentDir));
                prop_assert!(!path.names().is_empty());
            }
        }
    }
}
