//! **P** Is there anything in it, and enough? What stands between an empty dump and a green status.

use crate::error::{Failure, Reason};
use crate::source::Completion;
use crate::source::tar_end::Counts;

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
