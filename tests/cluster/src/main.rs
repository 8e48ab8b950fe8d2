//! The rig.

fn main() {}
