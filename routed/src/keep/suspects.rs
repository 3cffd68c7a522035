//! What the watch and the keeper tell each other: which pods are to be looked at, and which pods were found right.

use std::collections::BTreeSet;

use ferrule_model::{BridgePort, IfName, Link, WayTo};

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Everything of all pods.
    pub all: bool,
    /// What is on the links of the pods behind these host's ends.
    pub links: BTreeSet<IfName>,
    /// The host ports of all pods.
    pub ports: bool,
    /// The tables that guard the pods.
    pub guard: bool,
    /// What the ports of these pods may send under. Their records are new.
    pub added: BTreeSet<IfName>,
    /// The same of ports that are gone.
    pub gone: BTreeSet<IfName>,
}

impl Suspects {
    /// Everything of all pods.
    pub fn everybody() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn is_none(&self) -> bool {
        let names = [&self.links, &self.added, &self.gone];
        !self.all && !self.ports && !self.guard && names.iter().all(|names| names.is_empty())
    }
}

/// A pod whose objects were found right, or made right.
#[derive(Debug)]
pub struct Settled {
    /// The host's end of its veth pair.
    pub link: Link,
    /// Its routes and neighbours.
    pub ways: Vec<WayTo>,
    /// The bridge that the pod is on, and its place there.
    pub bridge: Option<(Link, BridgePort)>,
    /// The device that limits what the pod sends.
    pub ifb: Option<Link>,
    /// Whether the pod has limits.
    pub is_limited: bool,
}
