//! **O** Fetch, decode, verify, write.
