//! **P** The byte layout of an archive.

pub mod decode;
pub mod encode;
pub mod entries;
pub mod seek_table;
