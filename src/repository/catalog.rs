//! **O** A backup exists if and only if its manifest does.
