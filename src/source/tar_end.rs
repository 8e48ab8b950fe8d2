//! **P** tar_end
