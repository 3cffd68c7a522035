//! The protocols of the daemons' sockets: the interface files, their messages as types, the framing, a small synchronous
//! client; the queue of releases for an `ipamd` that is down, and the records of what attachments have on the host.
//!
//! `io.ferrule.Ipam.varlink` and `io.ferrule.Routed.varlink` (module [`routed`]) are the definitions; the types here follow
//! them and a test holds them to it. Serving them lives in `daemon`, not here; there is no async runtime here because the
//! plugin uses this crate.

mod client;
mod error;
mod frame;
mod message;
mod queue;
mod records;
pub mod routed;
pub mod service;
mod types;

pub use client::{Client, ClientError};
pub use error::CallError;
pub use ferrule_model::Attachment;
pub use frame::{FrameError, Frames, MESSAGE_CAP, encode};
pub use message::{
    Allocate, AllocateReply, Call, Calls, Check, CheckReply, Collect, CollectReply, List, ListReply, METHODS,
    Method, Pools, PoolsReply, Release, ReleaseReply, Reply, Request, Resting, RestingReply, Served, Status,
    StatusReply,
};
pub use queue::{
    ClaimError, QueueError, Queued, QueuedRelease, find_queued, make_queue, queue_release, queued,
};
pub use records::{Record, RecordError, Records, remove_record, write_record};
pub use service::{GetInfo, GetInfoReply, GetInterfaceDescription, GetInterfaceDescriptionReply};
pub use types::{AddressRange, Family, Lease, Pod, PoolStatus, Rest};

/// Name of the interface.
pub const INTERFACE: &str = "io.ferrule.Ipam";

/// The interface's definition, as introspection serves it.
pub const DEFINITION: &str = include_str!("../io.ferrule.Ipam.varlink");

/// Definition of the interface that every Varlink service has.
pub const SERVICE_DEFINITION: &str = include_str!("../org.varlink.service.varlink");

/// Name of the standard interface.
pub const SERVICE_INTERFACE: &str = "org.varlink.service";

/// Name of the daemon's socket in the runtime directory.
pub const SOCKET_NAME: &str = "ipamd.sock";

/// The longest path of a socket, in bytes: `sun_path` of `linux/un.h`, less the NUL.
pub const SOCKET_PATH_MAX: usize = 107;
