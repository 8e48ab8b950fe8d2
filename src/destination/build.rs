//! **W** Address, options and credentials to a destination.
