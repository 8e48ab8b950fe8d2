//! **P** Outcome and old status to new status.
