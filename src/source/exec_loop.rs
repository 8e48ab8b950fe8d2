//! **A** exec_loop
