//! **P** Expression and zone to instants.

/// A parsed schedule in its zone.
#[derive(Clone, Debug)]
pub struct Schedule {}
