//! What goes over the daemons' sockets, as types: the calls and replies of `ipamd` (`method`, `types`, `error`), of
//! `routed` ([`routed`]), and of every Varlink service ([`service`]). Pure: sending and receiving them is the affair of
//! the crate's other modules.

mod error;
mod method;
pub mod routed;
pub mod service;
mod types;

pub use error::CallError;
pub use method::{
    Allocate, AllocateReply, Call, Calls, Check, CheckReply, Collect, CollectReply, Incoming, List,
    ListReply, METHODS, Method, Pools, PoolsReply, Release, ReleaseReply, Reply, Resting, RestingReply,
    Served, Status, StatusReply,
};
pub use types::{AddressRange, Family, Lease, Pod, PoolStatus, Rest};

pub(crate) use method::Envelope;

/// Name of the interface.
pub const INTERFACE: &str = "io.ferrule.Ipam";

/// The interface's definition, as introspection serves it.
pub const DEFINITION: &str = include_str!("../../io.ferrule.Ipam.varlink");

/// Definition of the interface that every Varlink service has.
pub const SERVICE_DEFINITION: &str = include_str!("../../org.varlink.service.varlink");

/// Name of the standard interface.
pub const SERVICE_INTERFACE: &str = "org.varlink.service";
