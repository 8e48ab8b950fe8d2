//! **P** How a target is read: `spec.strategy`, with the parts of `spec.target` that only a copy has.

use super::problems::Problems;
use super::read::absolute_path;
use super::{Copy, DEFAULT_DIRECTORY, Dump, DumpForm, Hook, Hooks, Work, dump_form};
use crate::api::backup_job;
use crate::api::backup_job::{OnChange, Output, StrategySpec, StrategyType, Via};
use crate::source::selection::Selection;
use std::time::Duration;

/// Default of `timeoutSeconds` of a hook.
const HOOK_SECONDS: u32 = 300;

/// Room for all commands of a job in the request of an exec, in bytes as a URL holds them: letters, digits and blanks are
/// one, all else is three. A request line has 64 KiB (`http::Uri`), of which the wrapper takes at most 20.
pub const COMMANDS_LIMIT: usize = 34 * 1024;

/// What the kernel shows as files and is none: `tar` would read without end.
const NO_FILES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What of the target matters here. `path` is absolute, if there is one.
pub(super) struct Files<'a> {
    pub(super) path: Option<&'a str>,
    /// There is one, whether or not it holds.
    pub(super) path_given: bool,
    pub(super) include: &'a [String],
    pub(super) exclude: &'a [String],
    pub(super) allow_live_database: bool,
}

pub(super) fn strategy(spec: &StrategySpec, files: &Files<'_>, problems: &mut Problems) -> Option<(Work, Hooks)> {
    let StrategySpec { kind, command, output, directory, image, before, after, via, allow_unchecked_pipes, on_change } =
        spec;

    let is_copy = match kind {
        StrategyType::dump => false,
        StrategyType::copy => true,
        StrategyType::snapshot | StrategyType::custom | StrategyType::Unknown(_) => {
            problems.unsupported("spec.strategy.type", format_args!("{kind} (only dump and copy are)"));
            return None;
        }
    };
    if image.is_some() {
        problems.invalid("spec.strategy.image", "belongs to type custom");
    }
    let hooks = Hooks {
        before: hook("spec.strategy.before", before.as_ref(), problems),
        after: hook("spec.strategy.after", after.as_ref(), problems),
    };
    let all = hooks.iter().map(|hook| &hook.command).chain(command);
    if all.map(|text| in_url(text)).sum::<usize>() > COMMANDS_LIMIT {
        problems.invalid(
            "spec.strategy",
            "its commands are too long for one request to the API server: put them into a script in the image",
        );
    }
    let work = if is_copy {
        belongs_to_dump(spec, problems);
        copy(files, via.as_ref(), on_change.as_ref(), problems).map(Work::Copy)
    } else {
        if via.as_ref().is_some_and(|via| *via != Via::Auto) {
            problems.invalid("spec.strategy.via", "belongs to type copy");
        }
        if on_change.as_ref().is_some_and(|on_change| *on_change != OnChange::Warn) {
            problems.invalid("spec.strategy.onChange", "belongs to type copy");
        }
        for (field, patterns) in [("spec.target.include", files.include), ("spec.target.exclude", files.exclude)] {
            if !patterns.is_empty() {
                problems.invalid(field, "belongs to strategy copy; a dump's command decides what is in it");
            }
        }
        let allowed = allow_unchecked_pipes.unwrap_or(false);
        dump(command.as_deref(), output.as_ref(), directory.as_deref(), allowed, problems).map(Work::Dump)
    };
    Some((work?, hooks))
}

fn belongs_to_dump(spec: &StrategySpec, problems: &mut Problems) {
    for (field, present) in [
        ("command", spec.command.is_some()),
        ("output", spec.output.as_ref().is_some_and(|output| *output != Output::Auto)),
        ("directory", spec.directory.is_some()),
        ("allowUncheckedPipes", spec.allow_unchecked_pipes == Some(true)),
    ] {
        if present {
            problems.invalid(format_args!("spec.strategy.{field}"), "belongs to type dump");
        }
    }
}

fn hook(path: &str, spec: Option<&backup_job::Hook>, problems: &mut Problems) -> Option<Hook> {
    let backup_job::Hook { command, timeout_seconds } = spec?;
    let seconds = timeout_seconds.unwrap_or(HOOK_SECONDS);
    if !(1..=86_400).contains(&seconds) {
        problems.invalid(format_args!("{path}.timeoutSeconds"), format_args!("{seconds} is not between 1 and 86400"));
    }
    let command = shell_text(&format!("{path}.command"), command, problems)?;
    Some(Hook { command, limit: Duration::from_secs(seconds.into()) })
}

fn shell_text(path: &str, text: &str, problems: &mut Problems) -> Option<String> {
    if text.trim().is_empty() {
        problems.invalid(path, "is blank");
        return None;
    }
    if text.contains('\0') {
        problems.invalid(path, "holds a NUL character");
        return None;
    }
    Some(text.to_owned())
}

/// How many bytes of a query `text` takes (`application/x-www-form-urlencoded`).
fn in_url(text: &str) -> usize {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b" *-._".contains(&b) { 1 } else { 3 }).sum()
}

fn copy(files: &Files<'_>, via: Option<&Via>, on_change: Option<&OnChange>, problems: &mut Problems) -> Option<Copy> {
    if let Some(via @ (Via::Volume | Via::Unknown(_))) = via {
        problems.unsupported("spec.strategy.via", format_args!("{via} (only Auto and Exec are)"));
    }
    let fail_on_change = match on_change.unwrap_or(&OnChange::Warn) {
        OnChange::Warn => false,
        OnChange::Fail => true,
        OnChange::Unknown(word) => {
            problems.unsupported("spec.strategy.onChange", word);
            false
        }
    };
    for (field, patterns) in [("spec.target.include", files.include), ("spec.target.exclude", files.exclude)] {
        for pattern in patterns {
            if let Err(why) = Selection::check(pattern) {
                problems.invalid(field, format_args!("{pattern:?} {why}"));
            }
        }
    }
    let Some(path) = files.path else {
        if !files.path_given {
            problems.invalid("spec.target.path", "is needed with type copy: the directory or file to be copied");
        }
        return None;
    };
    let below = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if path == "/" || NO_FILES.iter().any(|folder| below(folder)) {
        problems.invalid(
            "spec.target.path",
            format_args!("{path} holds what is no file (/proc, /sys, /dev): name the folder with the data"),
        );
        return None;
    }
    Some(Copy {
        path: path.to_owned(),
        include: files.include.to_vec(),
        exclude: files.exclude.to_vec(),
        fail_on_change,
        allow_live_database: files.allow_live_database,
    })
}

fn dump(
    command: Option<&str>,
    output: Option<&Output>,
    directory: Option<&str>,
    allow_unchecked_pipes: bool,
    problems: &mut Problems,
) -> Option<Dump> {
    let command = if let Some(command) = command {
        shell_text("spec.strategy.command", command, problems)
    } else {
        problems.invalid("spec.strategy.command", "is needed with type dump: the shell text that writes the backup");
        None
    };
    let field = "spec.strategy.directory";
    let directory = absolute_path(field, directory.unwrap_or(DEFAULT_DIRECTORY), problems).filter(|path| {
        path != "/" || {
            problems.invalid(field, "must not be the root directory: it is emptied after the backup");
            false
        }
    });
    let form = match output.unwrap_or(&Output::Auto) {
        Output::Auto => dump_form(command.as_deref()?, &directory?),
        Output::Stdout => DumpForm::Stdout,
        Output::Directory => DumpForm::Directory(directory?),
        Output::Unknown(word) => {
            problems.unsupported("spec.strategy.output", word);
            return None;
        }
    };
    Some(Dump { command: command?, form, allow_unchecked_pipes })
}

#[cfg(test)]
mod tests;
