//! **A** Workload to pod and container.
