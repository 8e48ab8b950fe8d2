//! **T** Scripted faults around a destination.
