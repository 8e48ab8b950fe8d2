//! **A** livez, readyz, metrics.
