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

/// What a backup is compared with: the median of the last five complete ones before it.
///
/// One that was flagged is no measure for the next ones: otherwise three empty nights would make an empty database the
/// rule. But where flagged ones are all that is left (those before them are more than anybody looks back to, or were deleted),
/// what the newest of them was compared with goes on to be the measure: it says so in its manifest. Once its run is
/// `accepted`, it is the oldest that counts: from then on the new size is the rule.
#[derive(Debug)]
pub struct Before<'a> {
    accepted: Option<&'a str>,
    sizes: Vec<u64>,
    /// What the newest flagged one says of itself.
    flagged: Option<Shrunk>,
    /// The accepted one was seen.
    ends: bool,
}

impl<'a> Before<'a> {
    /// Nothing yet; `accepted` is the name of the run whose size somebody said is right.
    pub const fn new(accepted: Option<&'a str>) -> Self {
        Self { accepted, sizes: Vec::new(), flagged: None, ends: false }
    }

    /// Takes in the next older backup, beginning with the newest. Whether those before it matter too.
    pub fn add(&mut self, backup: &Manifest) -> bool {
        let accepted = self.accepted == Some(backup.run.as_str());
        if backup.outcome == Outcome::Complete {
            if let Some(flagged) = backup.shrunk.as_ref().filter(|_| !accepted) {
                self.flagged.get_or_insert_with(|| flagged.clone());
            } else {
                self.sizes.push(backup.raw.size);
                self.ends |= accepted;
            }
        }
        !self.ends && self.sizes.len() < COMPARED
    }

    /// Whether there is nothing to compare with.
    pub const fn is_empty(&self) -> bool {
        self.sizes.is_empty() && self.flagged.is_none()
    }

    /// Whether `raw` bytes are smaller than the median by more than `maximum_percent`.
    pub fn shrunk(mut self, raw: u64, maximum_percent: u32) -> Option<Shrunk> {
        let sizes = &mut self.sizes;
        sizes.sort_unstable();
        let middle = sizes.len() / 2;
        let count = u32::try_from(sizes.len()).unwrap_or(0);
        let (median, of) = match sizes.len() {
            0 => self.flagged.map(|flagged| (flagged.median, flagged.of))?,
            even if even.is_multiple_of(2) => (sizes[middle - 1].midpoint(sizes[middle]), count),
            _ => (sizes[middle], count),
        };
        let allowed = 100_u64.saturating_sub(maximum_percent.into());
        if u128::from(raw) * 100 >= u128::from(median) * u128::from(allowed) {
            return None;
        }
        let percent = (u128::from(median) - u128::from(raw)) * 100 / u128::from(median);
        Some(Shrunk { percent: u32::try_from(percent).unwrap_or(100), median, of })
    }
}

/// The same for a person.
pub fn shrunk_message(raw: u64, shrunk: &Shrunk) -> String {
    let Shrunk { percent, median, of } = shrunk;
    let before = if *of == 1 { "the backup before it".to_owned() } else { format!("the median of the {of} before it") };
    format!("holds {}, {percent} % less than {before} ({})", human_size(raw), human_size(*median))
}

#[cfg(test)]
mod tests;
