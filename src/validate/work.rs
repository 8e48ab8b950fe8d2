//! **P** What a run does in the target's container.

use std::time::Duration;

/// Where a dump's bytes come from (`product.md` section 3; decided once, never both).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpForm {
    /// Standard output is the backup.
    Stdout,
    /// What the command leaves in this directory is the backup.
    Directory(String),
}

/// A dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Shell text.
    pub command: String,
    /// Where the bytes come from.
    pub form: DumpForm,
    /// A pipe whose first part nobody checks is accepted.
    pub allow_unchecked_pipes: bool,
}

/// A copy of a directory or file by the container's own `tar`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Absolute, without a slash at its end; never `/`.
    pub path: String,
    /// Patterns as in .gitignore, each of which holds; none: everything.
    pub include: Vec<String>,
    /// Patterns as in .gitignore, each of which holds; they go before `include`.
    pub exclude: Vec<String>,
    /// Files that changed or vanished while they were read make the backup Incomplete, instead of being a warning.
    pub fail_on_change: bool,
    /// The files of a database that runs are taken as they are.
    pub allow_live_database: bool,
}

/// What makes the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A command.
    Dump(Dump),
    /// `tar`.
    Copy(Copy),
}

impl Work {
    /// The word of `spec.strategy.type`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Dump(_) => "dump",
            Self::Copy(_) => "copy",
        }
    }

    /// The directory that it fills in the container, if any.
    pub fn directory(&self) -> Option<&str> {
        match self {
            Self::Dump(Dump { form: DumpForm::Directory(directory), .. }) => Some(directory),
            _ => None,
        }
    }
}

/// A command around the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Shell text.
    pub command: String,
    /// After this it is ended, and has failed. Whole seconds.
    pub limit: Duration,
}

/// What runs before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Runs first. If it fails, nothing is read.
    pub before: Option<Hook>,
    /// Runs last, whatever happened.
    pub after: Option<Hook>,
}

impl Hooks {
    /// Both, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Hook> {
        self.before.iter().chain(&self.after)
    }
}
