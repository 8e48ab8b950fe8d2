//! **W** The operator: builds concrete types, starts tasks, waits on every handle, drains on a signal.
