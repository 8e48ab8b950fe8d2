//! **T** Named gates that must all be open before the process calls itself ready.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

macro_rules! gates {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What must hold. The word stands in `/readyz` and in the metric `ubo_ready`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Gate { $($(#[$doc])* $name,)* }

        impl Gate {
            /// Every gate.
            pub const ALL: &'static [Gate] = &[$(Gate::$name,)*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Gate::$name => $word,)* }
            }
        }
    };
}

gates! {
    /// The API server answers, and the watches of BackupJobs and BackupRuns have given their first full lists.
    Cluster = "cluster",
    /// The admission policies and their bindings are as `ubo install` prints them.
    AdmissionPolicies = "admission-policies",
}

/// The gates. All are closed in the beginning.
#[derive(Debug)]
pub struct Readiness {
    /// Why a gate is closed; `None` when it is open.
    gates: Mutex<BTreeMap<Gate, Option<String>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// All gates, closed: `not looked at yet`.
    pub fn new() -> Self {
        let closed = |gate: &Gate| (*gate, Some("not looked at yet".to_owned()));
        Self { gates: Mutex::new(Gate::ALL.iter().map(closed).collect()) }
    }

    /// Opens a gate.
    pub fn open(&self, gate: Gate) {
        self.set(gate, None);
    }

    /// Closes a gate; `why` is read by anybody who can reach the admin port, and says what to do.
    pub fn close(&self, gate: Gate, why: impl Into<String>) {
        self.set(gate, Some(why.into()));
    }

    /// Every gate with why it is closed, in the order of [`Gate::ALL`].
    pub fn states(&self) -> Vec<(Gate, Option<String>)> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().map(|(gate, why)| (*gate, why.clone())).collect()
    }

    /// Whether every gate is open.
    pub fn is_ready(&self) -> bool {
        self.states().iter().all(|(_, why)| why.is_none())
    }

    fn set(&self, gate: Gate, why: Option<String>) {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(gate, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_every_gate_is_open_and_not_before() {
        let readiness = Readiness::new();
        for gate in Gate::ALL {
            assert!(!readiness.is_ready());
            readiness.open(*gate);
        }
        assert!(readiness.is_ready());
        readiness.close(Gate::Cluster, "the API server does not answer");
        assert!(!readiness.is_ready());
        let closed: Vec<_> = readiness.states().into_iter().filter(|(_, why)| why.is_some()).collect();
        assert_eq!(closed, [(Gate::Cluster, Some("the API server does not answer".into()))]);
    }
}
