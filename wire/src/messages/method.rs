//! Calls and replies of `ipamd` as types, and the code that reads a call from a socket. The crate `ipamd` carries the
//! calls out.

use crate::messages::error::CallError;
use crate::messages::types::{AddressRange, Lease, Pod, PoolStatus, Rest};
use ferrule_model::Attachment;
use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::net::IpAddr;

/// A method. The type itself has the parameters as its fields.
pub trait Method: Serialize + DeserializeOwned {
    /// Full name, such as `io.ferrule.Ipam.Allocate`.
    const NAME: &'static str;
    /// The reply to a successful call.
    type Reply: Serialize + DeserializeOwned;
}

/// The calls of an interface.
pub trait Calls: Sized + Send {
    /// Reads a call.
    ///
    /// # Errors
    /// The standard errors: unknown interface or method, or parameters that do not fit.
    fn parse(method: &str, parameters: &RawValue) -> Result<Self, CallError>;
}

/// A call to a socket: either of the interface that is served there, or of the one that every service has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served<C> {
    /// A call of the socket's own interface.
    Own(C),
    /// A call of `org.varlink.service`.
    Standard(crate::messages::service::Call),
}

impl<C: Calls> Calls for Served<C> {
    fn parse(method: &str, parameters: &RawValue) -> Result<Self, CallError> {
        if interface_of(method) == crate::messages::SERVICE_INTERFACE {
            crate::messages::service::Call::parse(method, parameters).map(Self::Standard)
        } else {
            C::parse(method, parameters).map(Self::Own)
        }
    }
}

/// Implements the methods of an interface. For each it has its type and the type of its reply. One more type stands for
/// all calls.
macro_rules! methods {
    ($interface:expr; $($(#[$doc:meta])* $name:ident = $full:literal -> $reply:ident),+ $(,)?) => {
        $(impl $crate::messages::method::Method for $name {
            const NAME: &'static str = $full;
            type Reply = $reply;
        })+

        /// A call that came over a socket, read and checked against its method's parameters.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Call {
            $($(#[$doc])* $name($name),)+
        }

        /// Full names of all methods.
        pub const METHODS: &[&str] = &[$($full),+];

        impl $crate::messages::method::Calls for Call {
            fn parse(
                method: &str,
                parameters: &serde_json::value::RawValue,
            ) -> Result<Self, $crate::messages::error::CallError> {
                match method {
                    $($full => serde_json::from_str(parameters.get()).map(Self::$name).map_err(|error| {
                        $crate::messages::error::CallError::InvalidParameter { parameter: error.to_string() }
                    }),)+
                    _ => Err($crate::messages::method::unknown(method, $interface)),
                }
            }
        }
    };
}

pub(crate) use methods;

methods! {
    crate::messages::INTERFACE;
    /// Give a lease.
    Allocate = "io.ferrule.Ipam.Allocate" -> AllocateReply,
    /// Take a lease back.
    Release = "io.ferrule.Ipam.Release" -> ReleaseReply,
    /// Compare a lease with what the caller believes.
    Check = "io.ferrule.Ipam.Check" -> CheckReply,
    /// Would the next `Allocate` succeed?
    Status = "io.ferrule.Ipam.Status" -> StatusReply,
    /// Release all leases of a network except those named.
    Collect = "io.ferrule.Ipam.Collect" -> CollectReply,
    /// All leases.
    List = "io.ferrule.Ipam.List" -> ListReply,
    /// All pools.
    Pools = "io.ferrule.Ipam.Pools" -> PoolsReply,
    /// The addresses that rest.
    Resting = "io.ferrule.Ipam.Resting" -> RestingReply,
}

/// Give the attachment one address of each family that the pool has. If it has a lease already, it gets the same one
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// Whom the lease is for.
    pub attachment: Attachment,
    /// Name of the pool. `None` means the node's first pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The pod, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Path of the pod's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How long the caller waits from now, in milliseconds. If the call waits longer in the daemon, it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Exactly these addresses, at most one of each family. A family that does not occur gets an address as usual.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub requested: Vec<IpAddr>,
    /// Only addresses inside one of these ranges, for the families that occur in them.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<AddressRange>,
}

impl Allocate {
    /// A call that leaves everything to the daemon. Set the fields to ask for more.
    #[must_use]
    pub const fn new(attachment: Attachment) -> Self {
        Self {
            attachment,
            pool: None,
            pod: None,
            netns: None,
            deadline_ms: None,
            requested: Vec::new(),
            ranges: Vec::new(),
        }
    }
}

/// Answer to [`Allocate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocateReply {
    /// The lease, which is in the store.
    pub lease: Lease,
    /// Whether the attachment had it before.
    pub existing: bool,
    /// MTU for the pod's interface. `None` means the kernel's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Take the attachment's lease back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Whose lease.
    pub attachment: Attachment,
}

/// Answer to [`Release`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReply {
    /// What was released; empty if there was no lease.
    pub released: Vec<IpNetwork>,
}

/// Compare the attachment's lease with what the caller believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Whose lease.
    pub attachment: Attachment,
    /// The addresses it should hold, in any order.
    pub addresses: Vec<IpNetwork>,
}

/// Answer to [`Check`]. It means that the lease is as the caller believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {}

/// Ask whether the next [`Allocate`] from this pool would succeed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Name of the pool. `None` means the node's first pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Answer to [`Status`]. It means that it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {}

/// Release the leases of a network whose attachments are not named. One call releases at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// The network. Leases of other networks are left alone.
    pub network: String,
    /// Attachments that still exist.
    pub valid: Vec<Attachment>,
}

/// Answer to [`Collect`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReply {
    /// What was released. Repeat the call until this is empty.
    pub released: Vec<Lease>,
}

/// Ask for all leases, ordered by attachment. The answer comes in several messages, see [`crate::Client::call_more`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// One of the answers to [`List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// The next leases.
    pub leases: Vec<Lease>,
}

/// Ask for all pools, each family separately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pools {}

/// Answer to [`Pools`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolsReply {
    /// The pools.
    pub pools: Vec<PoolStatus>,
}

/// Ask for the addresses that rest. Those released longest ago come first. The answer comes in several messages, see
/// [`crate::Client::call_more`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resting {
    /// Name of the pool. `None` means all pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// One of the answers to [`Resting`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestingReply {
    /// The next addresses.
    pub addresses: Vec<Rest>,
}

/// A call that came over a socket, with Varlink's flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming<C = Call> {
    /// The call.
    pub call: C,
    /// Whether the caller takes several replies.
    pub more: bool,
    /// Whether the caller wants no reply.
    pub oneway: bool,
}

/// The envelope of a call, for writing and for reading.
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope<P> {
    pub(crate) method: String,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) parameters: Option<P>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) more: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) oneway: bool,
}

impl<C: Calls> Incoming<C> {
    /// Reads one message of a caller.
    ///
    /// # Errors
    /// `Ok(Err(_))` is an error to answer with: unknown interface or method, or parameters that do not fit. The outer
    /// error means that the message is not a Varlink call at all. Then the connection has to be closed.
    pub fn parse(message: &[u8]) -> Result<Result<Self, CallError>, serde_json::Error> {
        let envelope: Envelope<&RawValue> = serde_json::from_slice(message)?;
        let none: &RawValue = serde_json::from_str("{}")?;
        let parameters = envelope.parameters.unwrap_or(none);
        Ok(C::parse(&envelope.method, parameters).map(|call| Self {
            call,
            more: envelope.more,
            oneway: envelope.oneway,
        }))
    }
}

/// A reply as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<P> {
    /// The answer, or the error's parameters.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<P>,
    /// Whether another reply to the same call follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// Name of the error, if the reply is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl<P> Reply<P> {
    /// The reply to a successful call. `continues` says whether another reply to the same call follows.
    pub const fn success(parameters: P, continues: bool) -> Self {
        Self { parameters: Some(parameters), continues, error: None }
    }
}

impl Reply<Value> {
    /// The reply with an error.
    #[must_use]
    pub fn failure(error: &CallError) -> Self {
        Self { parameters: Some(error.parameters()), continues: false, error: Some(error.name()) }
    }
}

/// An absent value may also be written as null in Varlink.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The standard error for a method that is not served here. It says which part of the name is unknown: the interface or
/// the method.
pub(crate) fn unknown(method: &str, interface: &str) -> CallError {
    if interface_of(method) == interface {
        CallError::MethodNotFound { method: method.to_owned() }
    } else {
        CallError::InterfaceNotFound { interface: interface_of(method).to_owned() }
    }
}

fn interface_of(method: &str) -> &str {
    method.rsplit_once('.').map_or(method, |(interface, _)| interface)
}
