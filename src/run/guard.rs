//! **P** Is there anything in it, and enough? What stands between an empty dump and a green status.

use super::record::human_size;
use crate::error::{Failure, Reason};
use crate::repository::manifest::{Manifest, Outcome, Shrunk};
use crate::source::Completion;
use crate::source::tar_end::Counts;

/// How many backups a new one is compared with (`product.md` section 2).
const COMPARED: usize = 5;

/// Refuses a backup of nothing (no byte; in a tar, no file with content), and one below `guard.minimumSize`. `counts` is
/// there for a tar. The sizes are those of the raw bytes.
pub fn guard(
    allow_empty: bool,
    minimum_size: Option<u64>,
    completion: &Completion,
    raw_size: u64,
    counts: Option<Counts>,
) -> Result<(), Failure> {
    let empty = |message: String| {
        let mut failure = Failure::new(Reason::EmptyBackup, message);
        failure.exit_code = completion.ending().exit_code;
        if let Completion::Incomplete(_, _, why) = completion {
            failure.message = format!("{}. {why}", failure.message);
        }
        Err(failure)
    };
    if !allow_empty {
        match counts {
            None if raw_size == 0 => {
                return empty(
                    "the command wrote nothing on its standard output. If that is right, set guard.allowEmpty".into(),
                );
            }
            Some(counts) if counts.with_content == 0 => {
                return empty(match counts.files {
                    0 => "there is no file in it. If that is right, set guard.allowEmpty".into(),
                    files => format!(
                        "none of the {files} files in it has any content. If that is right, set guard.allowEmpty"
                    ),
                });
            }
            _ => {}
        }
    }
    match minimum_size {
        Some(minimum) if raw_size < minimum => {
            empty(format!("it has {raw_size} bytes, and guard.minimumSize asks for {minimum}"))
        }
        _ => Ok(()),
    }
}

/// Whether a backup of `raw` bytes is smaller by more than `maximum_percent` than the median of the last five complete ones,
/// where there are any. `backups` are those of the same archive, the newest first.
///
/// A backup that was flagged is not taken as a measure for the next ones: otherwise three empty nights would make an empty
/// database the rule. Once its run is `accepted`, it is the oldest that counts: from then on the new size is the rule.
pub fn shrunk<'a>(
    raw: u64,
    backups: impl Iterator<Item = &'a Manifest> + Clone,
    maximum_percent: u32,
    accepted: Option<&str>,
) -> Option<Shrunk> {
    let complete = backups.filter(|backup| backup.outcome == Outcome::Complete);
    let is_accepted = |backup: &Manifest| accepted == Some(backup.run.as_str());
    let since = complete.clone().find(|backup| is_accepted(backup)).map(|backup| backup.started_at);
    let counts = |backup: &&Manifest| {
        since.is_none_or(|since| backup.started_at >= since) && (backup.shrunk.is_none() || is_accepted(backup))
    };
    let mut sizes: Vec<u64> = complete.filter(counts).take(COMPARED).map(|backup| backup.raw.size).collect();
    sizes.sort_unstable();
    let middle = sizes.len() / 2;
    let median = match sizes.len() {
        0 => return None,
        even if even.is_multiple_of(2) => sizes[middle - 1].midpoint(sizes[middle]),
        _ => sizes[middle],
    };
    let allowed = 100_u64.saturating_sub(maximum_percent.into());
    if u128::from(raw) * 100 >= u128::from(median) * u128::from(allowed) {
        return None;
    }
    let percent = (u128::from(median) - u128::from(raw)) * 100 / u128::from(median);
    Some(Shrunk { percent: u32::try_from(percent).unwrap_or(100), median, of: u32::try_from(sizes.len()).unwrap_or(0) })
}

/// The same for a person.
pub fn shrunk_message(raw: u64, shrunk: &Shrunk) -> String {
    let Shrunk { percent, median, of } = shrunk;
    let before = if *of == 1 { "the backup before it".to_owned() } else { format!("the median of the {of} before it") };
    format!("holds {}, {percent} % less than {before} ({})", human_size(raw), human_size(*median))
}

#[cfg(test)]
mod tests;
