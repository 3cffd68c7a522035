//! Calls and replies of `ipamd` as types, and reading a call that came over a socket. What a call does lives in `ipamd`.

use crate::messages::error::CallError;
use crate::messages::types::{AddressRange, Lease, Pod, PoolStatus, Rest};
use ferrule_model::Attachment;
use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::net::IpAddr;

/// A method: its parameters are the type itself.
pub trait Method: Serialize + DeserializeOwned {
    /// Full name, such as `io.ferrule.Ipam.Allocate`.
    const NAME: &'static str;
    /// What a success answers.
    type Reply: Serialize + DeserializeOwned;
}

/// The calls of an interface.
pub trait Calls: Sized + Send {
    /// Reads a call.
    ///
    /// # Errors
    /// The standard ones: unknown interface or method, parameters that do not fit.
    fn parse(method: &str, parameters: &RawValue) -> Result<Self, CallError>;
}

/// What is served on a socket: an interface, and the one that every service has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Served<C> {
    /// Of the interface.
    Own(C),
    /// Of `org.varlink.service`.
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

/// The methods of an interface: for each its type and its reply's, and one type of all calls.
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
    /// Release all leases of a network but those named.
    Collect = "io.ferrule.Ipam.Collect" -> CollectReply,
    /// All leases.
    List = "io.ferrule.Ipam.List" -> ListReply,
    /// All pools.
    Pools = "io.ferrule.Ipam.Pools" -> PoolsReply,
    /// The addresses that rest.
    Resting = "io.ferrule.Ipam.Resting" -> RestingReply,
}

/// Give the attachment one address of each family of the pool; the same lease again if it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// Whom the lease is for.
    pub attachment: Attachment,
    /// Name of the pool; `None` = the node's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The pod, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Path of the pod's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// How long the caller waits from now, in milliseconds: a call that waits longer in the daemon changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Exactly these addresses, at most one of a family; families that do not occur get theirs as always.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub requested: Vec<IpAddr>,
    /// Only addresses inside one of these, for the families that occur.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<AddressRange>,
}

impl Allocate {
    /// A call that leaves everything to the daemon; the fields say otherwise.
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
    /// MTU for the pod's interface; `None` = the kernel's default.
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

/// Answer to [`Check`]: the lease is as believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {}

/// Would the next [`Allocate`] from this pool succeed?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Name of the pool; `None` = the node's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Answer to [`Status`]: it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {}

/// Release the leases of a network whose attachment is not named; at most 64 a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// The network; leases of others are left alone.
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

/// All leases, ordered by attachment; answers in several messages, see [`crate::Client::call_more`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// One of the answers to [`List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    /// The next leases.
    pub leases: Vec<Lease>,
}

/// All pools, each family apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pools {}

/// Answer to [`Pools`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolsReply {
    /// The pools.
    pub pools: Vec<PoolStatus>,
}

/// The addresses that rest, those released longest ago first; answers in several messages, see
/// [`crate::Client::call_more`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resting {
    /// Name of the pool; `None` = of all.
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
    /// The caller takes several replies.
    pub more: bool,
    /// The caller wants no reply.
    pub oneway: bool,
}

/// The envelope of a call, both ways.
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
    /// `Ok(Err(_))` is an error to answer with: unknown interface or method, parameters that do not fit.
    /// The outer error means that the message is no Varlink call at all and the connection is to be closed.
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
    /// Another reply to the same call follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
    /// Name of the error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl<P> Reply<P> {
    /// A success; `continues` if another reply to the same call follows.
    pub const fn success(parameters: P, continues: bool) -> Self {
        Self { parameters: Some(parameters), continues, error: None }
    }
}

impl Reply<Value> {
    /// An error.
    #[must_use]
    pub fn failure(error: &CallError) -> Self {
        Self { parameters: Some(error.parameters()), continues: false, error: Some(error.name()) }
    }
}

/// Varlink's "not there" may be written as null too.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The standard error for a method that is not ours: which half of its name is unknown?
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
