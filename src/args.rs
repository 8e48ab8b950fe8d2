//! **W** Flags and environment; the only reader of both.
