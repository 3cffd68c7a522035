//! Everything that can make a verb fail, its code in the specification, and how it is written.
//!
//! People read the messages in the events of a pod. So each message names what was found and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrule_model::{Family, IfName, Place, causes};
use ferrule_netlink::netns::NetnsError;
use ferrule_netlink::sysctl::SysctlError;
use ferrule_netlink::{Refusal, rights};
use ferrule_wire::messages::CallError;
use ferrule_wire::{ClientError, QueueError, RecordError};
use nix::errno::Errno;
use serde::Serialize;

use crate::edge::spec::{Verb, Version};

mod extras;

pub use extras::{HostPortError, ShapingError};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `CNI_COMMAND` is not a verb of the plugin.
    #[error("CNI_COMMAND={0:?} is not a command of this plugin: ADD, DEL, CHECK, STATUS, GC and VERSION are")]
    UnknownCommand(String),
    /// Variables that the verb needs are missing or empty.
    #[error("{} needs {} in the environment: the container runtime has to set it", verb.as_str(), names.join(", "))]
    MissingVariables {
        /// The verb.
        verb: Verb,
        /// All variables that are missing.
        names: Vec<&'static str>,
    },
    /// A variable has a value that it must not have.
    #[error("{name} in the environment: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration could not be read.
    #[error("cannot read the network configuration from standard input: {0}")]
    Stdin(#[source] io::Error),
    /// The result could not be written.
    #[error("cannot write the result to standard output: {0}; what was made is taken back")]
    Stdout(#[source] io::Error),
    /// The configuration is longer than any real one.
    #[error("the network configuration on standard input is longer than {0} bytes")]
    TooLong(u64),
    /// The configuration is not JSON. serde's message has line and column.
    #[error("the network configuration on standard input is not JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The configuration asks for a version that the plugin does not speak.
    #[error("cniVersion {found} is not supported: write one of {}", versions())]
    UnsupportedVersion {
        /// The version that it asks for.
        found: String,
    },
    /// The verb does not exist yet in the version that the configuration asks for.
    #[error("{} came with version {} and cniVersion is {}: raise cniVersion in the network configuration",
        verb.as_str(), verb.since().as_str(), found.as_str())]
    VerbTooNew {
        /// The verb.
        verb: Verb,
        /// The version that the configuration asks for.
        found: Version,
    },
    /// A field of the configuration is wrong.
    #[error("network configuration, field {field:?}: {reason}")]
    Config {
        /// The field.
        field: String,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// A field of the specification has a value that the plugin does not support.
    #[error("network configuration: {field} = {value} is not supported: {remedy}")]
    UnsupportedField {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        remedy: &'static str,
    },

    /// The container's namespace cannot be used.
    #[error("CNI_NETNS: {0}")]
    Netns(#[source] NetnsError),
    /// The container's namespace is the plugin's own.
    #[error(
        "CNI_NETNS={0} is the node's own network namespace: a pod on the host's network needs no plugin \
         (set CNI_NETNS_OVERRIDE=1 if this is meant)"
    )]
    OwnNetns(String),

    /// `ipamd` is not there or does not answer.
    #[error("{}", unreachable(socket, source))]
    IpamUnreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<ClientError>,
    },
    /// `ipamd` answered with an error.
    #[error("ipamd gives no address: {0}")]
    Ipam(#[source] Box<ClientError>),
    /// `ipamd` gave a lease that cannot be used.
    #[error("ipamd gave a lease that cannot be used: {0}")]
    Lease(String),
    /// The lease could neither be released nor queued for release.
    #[error("the addresses cannot be given back: {0}")]
    Queue(#[source] QueueError),
    /// The record of what was made, by which `routed` keeps it, could not be written.
    #[error("{0}; make room in the runtime directory, or let root write to it")]
    Record(#[source] RecordError),

    /// The IPAM plugin that the configuration names answered with an error. The error is handed on word for word.
    #[error("{plugin}: {msg}")]
    Delegate {
        /// The plugin.
        plugin: String,
        /// The error's code.
        code: u32,
        /// The error's message.
        msg: String,
        /// The error's details.
        details: String,
    },
    /// The IPAM plugin does not know the verb.
    #[error(
        "the IPAM plugin {plugin} (field \"ipam.type\") does not know {} (it says: {msg}), which came with CNI 1.1.0: \
         install a newer {plugin}, or write \"cniVersion\": \"1.0.0\" into the network configuration",
        verb.as_str()
    )]
    DelegateTooOld {
        /// The plugin.
        plugin: String,
        /// The verb that it was asked for.
        verb: Verb,
        /// What it answered.
        msg: String,
    },
    /// The IPAM plugin was not found.
    #[error("the IPAM plugin {plugin} (field \"ipam.type\") is not in CNI_PATH ({path:?}): install it there")]
    DelegateNotFound {
        /// The plugin.
        plugin: String,
        /// The directories in which it was looked for.
        path: String,
    },
    /// The IPAM plugin did not do what the specification demands.
    #[error("the IPAM plugin {plugin} failed: {reason}")]
    DelegateFailed {
        /// The plugin.
        plugin: String,
        /// What it did instead.
        reason: String,
    },
    /// The IPAM plugin did not end.
    #[error(
        "the IPAM plugin {plugin} (field \"ipam.type\") did not answer {} within {} s and was killed: look what it \
         waits for",
        verb.as_str(), waited.as_secs()
    )]
    DelegateHangs {
        /// The plugin.
        plugin: String,
        /// The verb that it was asked for.
        verb: Verb,
        /// How long the plugin waited for it.
        waited: Duration,
    },

    /// Talking to the kernel failed, or it refused.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The reason.
        #[source]
        source: ferrule_netlink::Error,
    },
    /// The kernel refused some operations of a batch.
    #[error("{}: {}", place_name(*place), refused.join("; "))]
    Refused {
        /// The namespace.
        place: Place,
        /// Each refused operation with the kernel's reason.
        refused: Vec<String>,
    },
    /// IPv6 is switched off on an interface that gets an IPv6 address, and cannot be switched on.
    #[error("{}: IPv6 is off on {link}, and cannot be switched on: {source}; {}", place_name(*place), switch_on(source, link))]
    Ipv6Disabled {
        /// The namespace.
        place: Place,
        /// The link.
        link: IfName,
        /// Why it stays off.
        #[source]
        source: SysctlError,
    },
    /// The pod already has another link with the requested name.
    #[error(
        "the container has an interface {0} already, which is not this network's: remove it, or ask for another \
         name (CNI_IFNAME)"
    )]
    IfNameTaken(IfName),
    /// The veth pair was made, but its end is not where it should be.
    #[error("the pod's interface {0} vanished while it was set up: is the pod being deleted?")]
    Vanished(IfName),
    /// The link on the host that has our name is not a veth.
    #[error("the host's link {0} has the name of the pod's veth, but is none: remove or rename it")]
    HostNameTaken(IfName),

    /// The link that has the bridge's name is not a bridge.
    #[error("the node's link {0} is no bridge: remove or rename it, or name another in the field \"bridge\"")]
    NoBridge(IfName),
    /// A host port cannot be opened.
    #[error(transparent)]
    HostPort(HostPortError),
    /// The bandwidth cannot be limited.
    #[error(transparent)]
    Shaping(ShapingError),

    /// CHECK found that the attachment has changed.
    #[error("not as ADD left it: {}", .0.join("; "))]
    Changed(Vec<String>),
    /// STATUS: ADD could not be served now.
    #[error("no pod can be attached now: {reason}")]
    NotAvailable {
        /// Why.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Box<ClientError>>,
    },
    /// STATUS: the node does not forward packets.
    #[error(
        "the node forwards no {0} packets, so that no pod reaches anything: routed switches that on \
         (`systemctl status routed`), and something has switched it off"
    )]
    NotForwarding(Family),
}

fn switch_on(source: &SysctlError, link: &IfName) -> String {
    match rights::of_sysctl(&source.source) {
        Some(remedy) => remedy.to_owned(),
        None => format!("set net.ipv6.conf.{link}.disable_ipv6 to 0, or give the pods no IPv6 addresses"),
    }
}

/// A daemon that runs but does not answer gets another message than one that cannot be reached.
pub(crate) fn unreachable(socket: &Path, source: &ClientError) -> String {
    let socket = socket.display();
    match source {
        ClientError::Deadline { .. } => {
            format!("{source} at {socket}: it hangs, or has too much to do (`journalctl -u ipamd`)")
        }
        _ => format!("ipamd cannot be reached at {socket}: is it running? (`systemctl start ipamd`)"),
    }
}

fn versions() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

const fn place_name(place: Place) -> &'static str {
    match place {
        Place::Host => "in the node's network namespace",
        Place::Pod => "in the container's network namespace",
    }
}

/// The codes of section 5, "Error". Codes from 100 on are the plugin's own.
mod code {
    pub(super) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(super) const UNSUPPORTED_FIELD: u32 = 2;
    pub(super) const ENVIRONMENT: u32 = 4;
    pub(super) const IO: u32 = 5;
    pub(super) const DECODE: u32 = 6;
    pub(super) const CONFIG: u32 = 7;
    /// This code is the reference library's. The specification does not have it.
    pub(super) const NETNS: u32 = 8;
    pub(super) const TRY_AGAIN: u32 = 11;
    pub(super) const NOT_AVAILABLE: u32 = 50;
    pub(super) const LIMITED_CONNECTIVITY: u32 = 51;
    /// The kernel refused something.
    pub(super) const KERNEL: u32 = 100;
    /// A link with this name exists already and is not ours.
    pub(super) const NAME_TAKEN: u32 = 101;
    /// `ipamd` refused for a reason that does not go away by itself.
    pub(super) const IPAM: u32 = 102;
    /// Another pod or the node itself has the host port.
    pub(super) const PORT_TAKEN: u32 = 104;
    /// CHECK: something is not as ADD left it.
    pub(super) const CHANGED: u32 = 103;
}

impl Error {
    /// A netlink socket cannot be opened, perhaps because its namespace cannot be entered.
    pub(crate) fn socket(source: ferrule_netlink::Error) -> Self {
        match source {
            ferrule_netlink::Error::Netns(error) => Self::Netns(error),
            source => Self::Kernel { doing: "talk to the kernel", source },
        }
    }

    /// The code that the runtime gets.
    pub fn code(&self) -> u32 {
        match self {
            Self::UnsupportedVersion { .. } | Self::VerbTooNew { .. } | Self::DelegateTooOld { .. } => {
                code::INCOMPATIBLE_VERSION
            }
            Self::UnsupportedField { .. } => code::UNSUPPORTED_FIELD,
            Self::UnknownCommand(_) | Self::MissingVariables { .. } | Self::Variable { .. } => {
                code::ENVIRONMENT
            }
            Self::Stdin(_) | Self::Stdout(_) | Self::Queue(_) | Self::Record(_) => code::IO,
            Self::TooLong(_) | Self::Json(_) => code::DECODE,
            Self::Config { .. } => code::CONFIG,
            Self::Netns(_) | Self::OwnNetns(_) => code::NETNS,
            Self::IpamUnreachable { .. } | Self::DelegateHangs { .. } => code::TRY_AGAIN,
            Self::Ipam(error) if passes(error) => code::TRY_AGAIN,
            // No error has the code 0. A plugin that writes 0 means "some error".
            Self::Delegate { code, .. } if *code != 0 => *code,
            Self::DelegateNotFound { .. } => code::CONFIG,
            Self::Ipam(_) | Self::Lease(_) | Self::Delegate { .. } | Self::DelegateFailed { .. } => {
                code::IPAM
            }
            Self::Kernel { .. } | Self::Refused { .. } | Self::Ipv6Disabled { .. } | Self::Vanished(_) => {
                code::KERNEL
            }
            Self::IfNameTaken(_) | Self::HostNameTaken(_) | Self::NoBridge(_) => code::NAME_TAKEN,
            Self::HostPort(HostPortError::Taken { .. } | HostPortError::Reserved(_)) => code::PORT_TAKEN,
            Self::HostPort(_) | Self::Shaping(_) => code::KERNEL,
            Self::Changed(_) => code::CHANGED,
            Self::NotAvailable { .. } => code::NOT_AVAILABLE,
            Self::NotForwarding(_) => code::LIMITED_CONNECTIVITY,
        }
    }

    /// The causes behind the message, without those that the message names already.
    fn causes(&self) -> Vec<String> {
        let mut behind = causes(self);
        if let Self::Delegate { details, .. } = self
            && !details.is_empty()
        {
            behind.insert(0, details.clone());
        }
        behind
    }
}

/// Whether the same ADD may succeed a little later although nobody does anything.
const fn passes(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Call(
            CallError::PoolExhausted { .. }
                | CallError::NoPool { .. }
                | CallError::StoreFailed { .. }
                | CallError::DeadlineExceeded {}
        )
    )
}

/// One refused operation in words, with a remedy.
pub(crate) fn refused(op: &ferrule_model::Op, refusal: &Refusal) -> String {
    let remedy = match refusal.errno {
        // The kernel checks rights before this, and reports a missing right by another number.
        Errno::EACCES => {
            Some("IPv6 is off on the link: set its sysctl net.ipv6.conf.<link>.disable_ipv6 to 0")
        }
        Errno::EAFNOSUPPORT => Some("the kernel has no IPv6: give the pods no IPv6 addresses"),
        errno => rights::of_request(errno),
    };
    match remedy {
        Some(remedy) => format!("{op}: {refusal}; {remedy}"),
        None => format!("{op}: {refusal}"),
    }
}

/// Why a verb failed, and what else went wrong while it cleaned up.
#[derive(Debug)]
pub struct Failure {
    /// The first error.
    pub error: Error,
    /// Errors of the clean-up, after which something may be left behind.
    pub clean_up: Vec<Error>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, clean_up: Vec::new() }
    }
}

impl Failure {
    /// A failure made of these errors, if there are any.
    pub(crate) fn of(mut errors: Vec<Error>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        let error = errors.remove(0);
        Err(Self { error, clean_up: errors })
    }
}

/// The error object of the specification.
#[derive(Debug, Serialize)]
pub struct ErrorObject {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    code: u32,
    msg: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

impl Failure {
    /// The object for standard output, in the caller's version.
    pub fn object(&self, version: Version) -> ErrorObject {
        let mut details = self.error.causes();
        for error in &self.clean_up {
            details.push(format!("and then: {error}"));
            details.extend(error.causes());
        }
        ErrorObject {
            cni_version: version.as_str(),
            code: self.error.code(),
            msg: self.error.to_string(),
            details: details.join("; "),
        }
    }
}

impl std::fmt::Display for ErrorObject {
    /// The line for the log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {}", self.msg, self.code)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        f.write_str(")")
    }
}
