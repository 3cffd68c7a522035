//! An ordered list of changes in the two namespaces of a veth pair.

use crate::Op;

/// One of the two network namespaces of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The node's.
    Host,
    /// The pod's.
    Pod,
}

/// What has to be done once the veth pair exists, with one batch for each namespace.
///
/// ```
/// use ferrule_model::{IfIndex, LinkChange, Op, Place, Plan};
///
/// let on = |link| Op::SetLink(IfIndex(link), LinkChange { up: Some(true), ..LinkChange::default() });
/// let plan = Plan { host: vec![on(7)], pod: vec![on(2)] };
/// let steps: Vec<_> = plan
///     .batches()
///     .iter()
///     .flat_map(|(place, ops)| ops.iter().map(move |op| format!("{place:?}: {op}")))
///     .collect();
/// assert_eq!(steps, ["Pod: link set dev 2 up", "Host: link set dev 7 up"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes in the pod's namespace, in this order. They come first.
    pub pod: Vec<Op>,
    /// The changes in the node's namespace, in this order. They come afterwards, so that the node sends packets only to
    /// a pod that is ready.
    pub host: Vec<Op>,
}

impl Plan {
    /// The two batches, in the order in which they are carried out.
    pub fn batches(&self) -> [(Place, &[Op]); 2] {
        [(Place::Pod, &self.pod), (Place::Host, &self.host)]
    }
}
