//! **A** Kubernetes Events.
