//! The effects on the node: what is done in its kernel beside the plans that `decide` makes.
//!
//! [`node`] is the seam to the kernel, which tests replace by a fake. `sandbox` opens the pod's namespace, `hostend`
//! deletes the host's end of a veth pair, `hostports` opens and closes host ports, `reserved` knows which the node
//! itself needs, `shaping` limits the bandwidth, and `extras` is where the verbs meet the last two.
//!
//! Nothing here asks for addresses. Of the neighbours these modules may import `edge` and `decide`.

pub(crate) mod extras;
pub(crate) mod hostend;
pub(crate) mod hostports;
pub mod node;
pub(crate) mod reserved;
pub(crate) mod sandbox;
pub(crate) mod shaping;
