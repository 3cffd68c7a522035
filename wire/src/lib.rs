//! The protocols of the daemons' sockets: the interface files, their messages as types, the framing, and a small
//! synchronous client. The queue of releases for an `ipamd` that is down, and the records of what attachments have on
//! the host, are here too.
//!
//! `io.ferrule.Ipam.varlink` and `io.ferrule.Routed.varlink` (module [`routed`]) are the definitions. The types here
//! follow them, and a test makes sure that they do. The crate `daemon` serves them. There is no async runtime here,
//! because the plugin uses this crate.

mod client;
mod frame;
pub mod messages;
mod queue;
mod records;

pub use client::{Client, ClientError};
pub use ferrule_model::Attachment;
pub use frame::{FrameError, Frames, MESSAGE_CAP, encode};
pub use messages::service::{GetInfo, GetInfoReply, GetInterfaceDescription, GetInterfaceDescriptionReply};
pub use messages::{
    AddressRange, Allocate, AllocateReply, Call, CallError, Calls, Check, CheckReply, Collect, CollectReply,
    DEFINITION, Family, INTERFACE, Incoming, Lease, List, ListReply, METHODS, Method, Pod, PoolStatus, Pools,
    PoolsReply, Release, ReleaseReply, Reply, Rest, Resting, RestingReply, SERVICE_DEFINITION,
    SERVICE_INTERFACE, Served, Status, StatusReply, routed, service,
};
pub use queue::{
    ClaimError, QueueError, Queued, QueuedRelease, find_queued, make_queue, queue_release, queued,
};
pub use records::{Record, RecordError, Records, remove_record, write_record};

/// Name of the daemon's socket in the runtime directory.
pub const SOCKET_NAME: &str = "ipamd.sock";

/// The longest path of a socket, in bytes: `sun_path` of `linux/un.h`, less the NUL.
pub const SOCKET_PATH_MAX: usize = 107;
