//! **W** `ubo`: operator, command line and offline restorer in one binary.

fn main() {}
