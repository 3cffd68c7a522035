//! The routing daemon: brings the other nodes' pod networks into this node's kernel, and keeps them there.
//!
//! A walk through it. A [`source`] tells a snapshot of the nodes, and later changes; [`nodes`] works out what has really
//! changed, once the [`roll`] has left out who clashes with others. The [`worker`]'s thread is told, and makes a pass ([`apply`]): [`observe`] reads the kernel, [`desired`] says
//! what there should be, [`nexthops`] gives numbers, and [`reconcile`] walks from the one to the other, with [`backoff`]
//! for what the kernel refuses. [`owner`] knows what is ours, and [`device`] keeps the VXLAN device, [`offload`] its checksums, and [`wireguard`] the other device; one that is refused stops nothing else (`spare`, `holder`). A change of nodes
//! moves the [`goal`] and walks over the [`objects`] that are touched, without reading anything. What the kernel tells
//! afterwards is held against what the pass left ([`drift`]); a disagreement starts a pass that reads. [`host`] keeps the
//! rest right: [`sysctl`], the [`masquerade`] table ([`rules`]), the way through a host firewall ([`forward`]),
//! `node.json`. [`keep`] keeps what the plugin made for the pods.
//! What can be seen from outside stands in the [`outlook`] and is shown by the [`window`]: `routed.sock`, `/metrics` and
//! health. [`plan`] makes the same pass and only tells what it would do.
//!
//! `again` is what SIGHUP does.
//!
//! Pure: `nodes`, `roll`, `networks`, `desired`, `goal`, `objects`, `nexthops`, `reconcile`, `backoff`, `owner`, `drift`, `report`,
//! `masquerade`, `forward`, and of `keep` `watch` and `repair`.

mod again;
pub mod apply;
pub mod backoff;
pub mod cli;
pub mod culprit;
pub mod desired;
pub mod device;
pub mod drift;
pub mod forward;
pub mod goal;
mod holder;
pub mod host;
pub mod keep;
pub mod keeper;
pub mod masquerade;
pub mod networks;
pub mod nexthops;
pub mod nodes;
pub mod objects;
pub mod observe;
pub mod offload;
pub mod outlook;
pub mod owner;
mod place;
pub mod plan;
pub mod reconcile;
pub mod report;
pub mod roll;
pub mod rules;
pub mod run;
pub mod source;
mod spare;
pub mod sysctl;
pub mod taken;
pub mod tell;
pub mod underlay;
pub mod window;
pub mod wireguard;
pub mod worker;
