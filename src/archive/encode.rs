//! **P** Count, digest and compress into independent frames.
