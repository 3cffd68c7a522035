//! What the watch and the keeper tell each other: which pods are to be looked at, and which were found right.

use std::collections::BTreeSet;

use ferrule_model::{BridgePort, IfName, Link, WayTo};

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Everything of everybody.
    pub all: bool,
    /// What is on the links of those behind these host's ends.
    pub links: BTreeSet<IfName>,
    /// The host ports of everybody.
    pub ports: bool,
    /// The table that guards pods.
    pub guard: bool,
}

impl Suspects {
    /// Everything of everybody.
    pub fn everybody() -> Self {
        Self { all: true, ..Self::default() }
    }

    pub(super) fn is_none(&self) -> bool {
        !self.all && !self.ports && !self.guard && self.links.is_empty()
    }
}

/// A pod that was found, or made, as it has to be.
#[derive(Debug)]
pub struct Settled {
    /// The host's end of its veth pair.
    pub link: Link,
    /// Its routes and neighbours.
    pub ways: Vec<WayTo>,
    /// The bridge that it is on, and its place there.
    pub bridge: Option<(Link, BridgePort)>,
    /// The device that limits what it sends.
    pub ifb: Option<Link>,
    /// It has limits.
    pub is_limited: bool,
}
