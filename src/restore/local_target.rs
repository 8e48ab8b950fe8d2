//! **A** A local folder, or standard output.
