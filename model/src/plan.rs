//! An ordered list of changes in two namespaces that knows how to take itself back.

use crate::Op;

/// Which of the two network namespaces of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The node's.
    Host,
    /// The pod's.
    Pod,
}

/// What is to be done after the veth pair exists, one batch for each namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the pod's namespace, in this order, first.
    pub pod: Vec<Op>,
    /// In the node's namespace, in this order, afterwards: the node sends packets only to a pod that is ready.
    pub host: Vec<Op>,
}

impl Plan {
    /// The two batches in the order they are carried out.
    pub fn batches(&self) -> [(Place, &[Op]); 2] {
        [(Place::Pod, &self.pod), (Place::Host, &self.host)]
    }

    /// What takes back the first `done` changes, last one first.
    pub fn undo(&self, done: usize) -> Vec<(Place, Op)> {
        let steps = self.batches().into_iter().flat_map(|(place, ops)| ops.iter().map(move |op| (place, op)));
        let mut inverses: Vec<_> =
            steps.take(done).filter_map(|(place, op)| Some((place, op.inverse()?))).collect();
        inverses.reverse();
        inverses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, AddressKey, IfIndex, LinkChange, Neighbour, NeighbourKey};

    fn plan() -> Plan {
        let link = IfIndex(2);
        Plan {
            pod: vec![
                Op::SetLink(link, LinkChange { up: Some(true), ..LinkChange::default() }),
                Op::PutAddress(
                    AddressKey { link, prefix: "10.0.0.1/32".parse().unwrap() },
                    Address::default(),
                ),
            ],
            host: vec![Op::PutNeighbour(
                NeighbourKey { link, address: "10.0.0.1".parse().unwrap() },
                Neighbour { mac: None, permanent: true },
            )],
        }
    }

    #[test]
    fn undo_runs_backwards_over_what_was_done_and_no_further() {
        let plan = plan();
        assert_eq!(plan.undo(0), []);
        assert_eq!(plan.undo(1), [], "a changed link goes with the link");
        assert_eq!(plan.undo(2), [(Place::Pod, plan.pod[1].inverse().unwrap())]);
        assert_eq!(
            plan.undo(3),
            [(Place::Host, plan.host[0].inverse().unwrap()), (Place::Pod, plan.pod[1].inverse().unwrap())]
        );
    }
}
