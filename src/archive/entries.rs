//! **P** Path safety of what a tar names.
