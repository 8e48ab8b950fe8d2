//! **P** Start, queue or skip.
