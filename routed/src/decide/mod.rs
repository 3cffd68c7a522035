//! Works out everything without doing anything: the table of nodes, what the kernel should hold for it, and the steps
//! from the one to the other. Everything here is pure: values come in, values go out, and the time is handed in.
//!
//! [`interface`] chooses the link by which this node is reached. [`roll`] leaves out the nodes that clash with others,
//! and [`nodes`] keeps the table. [`desired`] says what there should be, [`wireguard`] the same for its device,
//! [`nexthops`] gives the numbers, and [`goal`] updates both as nodes change. [`owner`] knows what is ours. [`kinds`]
//! is the list of the kinds of objects, from which [`objects`] and [`wanted`] are made. [`reconcile`] walks from what
//! there is to what should be, with [`backoff`] for what the kernel refuses. [`drift`] compares what the kernel tells
//! with what we believe, and [`diverted`] finds what diverts packets from their way. [`report`] and [`culprit`] make
//! the sentences of the log. [`guard`] is the text of the table that says what pods must not send, and
//! [`bridge_guard`] is the same for pods on a bridge, of which [`bridge_ports`] says what each may send under. [`senders`]
//! says which hosts may send into the tunnel.
//!
//! Not here: reading or changing the kernel ([`crate::pass`]), and what the pods have on the host ([`crate::keep`]). No
//! other room of this crate may be imported here.

pub mod backoff;
pub mod bridge_guard;
pub mod bridge_ports;
pub mod culprit;
pub mod desired;
pub mod diverted;
pub mod drift;
pub mod goal;
pub mod guard;
pub mod interface;
pub mod kinds;
pub mod networks;
pub mod nexthops;
pub mod nodes;
pub mod objects;
pub mod owner;
pub mod reconcile;
pub mod report;
pub mod roll;
pub mod senders;
pub mod taken;
pub mod underlay;
pub mod wanted;
pub mod wireguard;
