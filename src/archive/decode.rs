//! **P** Back to raw bytes, capped; truncation is an error.
