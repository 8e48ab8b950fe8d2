//! **O** Task set, recovery, retries.
