//! Which endpoints are near enough, by the hints of their EndpointSlices (KEP-2433, KEP-3015).

use super::{Hints, NodeFacts};

/// How near an endpoint has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Hints do not count.
    Anywhere,
    /// It is meant for the zone of this node.
    Zone,
    /// It is meant for this node.
    Node,
}

impl Reach {
    /// Works the reach out of the hints of all ready endpoints of one port and family.
    ///
    /// Hints for nodes come first, then those for zones. Hints of one kind count only if every ready endpoint has some
    /// and at least one of them is for here: otherwise an endpoint that nobody has given away would get no packets, or
    /// the clients here would have no endpoint.
    pub(super) fn of<'a>(hints: impl Iterator<Item = Option<&'a Hints>>, node: &NodeFacts) -> Self {
        let (mut nodes, mut zones) = (Poll::default(), Poll::default());
        for hints in hints {
            nodes.add(hints.is_some_and(|hints| !hints.nodes.is_empty()), Self::Node.takes(hints, node));
            zones.add(hints.is_some_and(|hints| !hints.zones.is_empty()), Self::Zone.takes(hints, node));
        }
        if nodes.counts() {
            Self::Node
        } else if zones.counts() {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    /// Whether an endpoint with these hints is near enough.
    pub(super) fn takes(self, hints: Option<&Hints>, node: &NodeFacts) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Zone => {
                hints.zip(node.zone.as_ref()).is_some_and(|(hints, zone)| hints.zones.contains(zone))
            }
            Self::Node => hints.is_some_and(|hints| hints.nodes.contains(&node.name)),
        }
    }
}

/// What the endpoints say in hints of one kind.
#[derive(Debug, Default)]
struct Poll {
    is_any_missing: bool,
    is_any_for_here: bool,
}

impl Poll {
    fn add(&mut self, is_there: bool, is_for_here: bool) {
        self.is_any_missing |= !is_there;
        self.is_any_for_here |= is_for_here;
    }

    fn counts(&self) -> bool {
        !self.is_any_missing && self.is_any_for_here
    }
}
