//! The errors a call can be answered with, each with its Varlink name and parameters.

use crate::messages::types::Family;
use ferrule_model::Attachment;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// An error that the daemon replies with. It serialises in Varlink's form: `{"error": NAME, "parameters": {..}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum CallError {
    /// No address of this family is left.
    #[error(
        "no {family} address is left in pool {pool:?} ({in_use} in use, {resting} resting, {reserved} reserved): {}",
        remedy(*in_use, *gone)
    )]
    #[serde(rename = "io.ferrule.Ipam.PoolExhausted")]
    PoolExhausted {
        /// Name of the pool.
        pool: String,
        /// Family that ran out.
        family: Family,
        /// Addresses in leases.
        in_use: u64,
        /// Released addresses that wait out the cooldown.
        resting: u64,
        /// Addresses that are never given (decimal).
        reserved: String,
        /// How many of the addresses in use belong to pods whose namespace and link are gone.
        #[serde(default, skip_serializing_if = "is_none")]
        gone: u64,
    },
    /// There is no such pool, or no pool at all yet.
    #[error("{}: {reason}", match pool { Some(p) => format!("there is no pool {p:?}"), None => "there is no pool".to_owned() })]
    #[serde(rename = "io.ferrule.Ipam.NoPool")]
    NoPool {
        /// The pool that was asked for. Absent if the caller named none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        /// Why, and what to do.
        reason: String,
    },
    /// A requested address belongs to another attachment.
    #[error(
        "{address} is leased to {} of container {} in network {:?}: request another, or delete that pod",
        attachment.ifname, attachment.container_id, attachment.network
    )]
    #[serde(rename = "io.ferrule.Ipam.AddressInUse")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Who has it.
        attachment: Attachment,
    },
    /// The attachment has no lease.
    #[error("{} of container {} in network {:?} has no lease", attachment.ifname, attachment.container_id, attachment.network)]
    #[serde(rename = "io.ferrule.Ipam.LeaseNotFound")]
    LeaseNotFound {
        /// The attachment asked for.
        attachment: Attachment,
    },
    /// The lease has other addresses than the caller believes.
    #[error(
        "{} of container {} in network {:?} is leased {}, not {}",
        attachment.ifname, attachment.container_id, attachment.network, join(leased), join(claimed)
    )]
    #[serde(rename = "io.ferrule.Ipam.LeaseMismatch")]
    LeaseMismatch {
        /// The attachment asked for.
        attachment: Attachment,
        /// The addresses that the lease has.
        leased: Vec<IpNetwork>,
        /// The addresses that the caller named.
        claimed: Vec<IpNetwork>,
    },
    /// The store could not be written. Nothing was changed.
    #[error("ipamd cannot write its store, nothing was changed: {reason}")]
    #[serde(rename = "io.ferrule.Ipam.StoreFailed")]
    StoreFailed {
        /// The store's own words.
        reason: String,
    },
    /// An argument has a value that cannot be served.
    #[error("argument {field}: {reason}")]
    #[serde(rename = "io.ferrule.Ipam.InvalidArgument")]
    InvalidArgument {
        /// The argument.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The call waited in the daemon for longer than its caller waits. Nothing was changed.
    #[error("ipamd was too busy to answer before the caller's deadline, nothing was changed: try again")]
    #[serde(rename = "io.ferrule.Ipam.DeadlineExceeded")]
    DeadlineExceeded {},
    /// The method's interface is not served here.
    #[error("interface {interface} is not served here")]
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound {
        /// The interface.
        interface: String,
    },
    /// The interface has no such method.
    #[error("there is no method {method}: the caller and ipamd are of different versions")]
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound {
        /// The method.
        method: String,
    },
    /// The method exists, but not here.
    #[error("method {method} is not implemented")]
    #[serde(rename = "org.varlink.service.MethodNotImplemented")]
    MethodNotImplemented {
        /// The method.
        method: String,
    },
    /// The parameters do not fit the method.
    #[error("parameters do not fit the method: {parameter}")]
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        /// The parameter, or what is wrong with it.
        parameter: String,
    },
    /// The caller's user may not make calls.
    #[error("permission denied: only root and the user ipamd runs as may call it")]
    #[serde(rename = "org.varlink.service.PermissionDenied")]
    PermissionDenied {},
    /// The method answers in several messages and was called without `more`.
    #[error("the method answers in several messages and must be called with \"more\"")]
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},
    /// An error that this version does not know, kept as it came.
    #[error("{name} {}", Value::Object(parameters.clone()))]
    #[serde(untagged)]
    Other {
        /// Full name of the error.
        #[serde(rename = "error")]
        name: String,
        /// Its parameters.
        #[serde(default)]
        parameters: Map<String, Value>,
    },
}

impl CallError {
    /// The error's full Varlink name, such as `io.ferrule.Ipam.NoPool`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.parts().0 {
            Value::String(name) => name,
            other => other.to_string(),
        }
    }

    /// The error's parameters as they go over the wire.
    #[must_use]
    pub fn parameters(&self) -> Value {
        self.parts().1
    }

    /// Reads an error reply. If the name is known but the parameters are others than expected, the error is kept as
    /// `Other`.
    #[must_use]
    pub fn from_reply(name: String, parameters: Map<String, Value>) -> Self {
        let reply = serde_json::json!({ "error": name, "parameters": parameters });
        serde_json::from_value(reply).unwrap_or(Self::Other { name, parameters })
    }

    fn parts(&self) -> (Value, Value) {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut reply)) => (
                reply.remove("error").unwrap_or_default(),
                reply.remove("parameters").unwrap_or_else(|| Value::Object(Map::new())),
            ),
            // A map of strings always serialises; the type of to_value cannot say so.
            Ok(_) | Err(_) => (Value::Null, Value::Object(Map::new())),
        }
    }
}

/// What helps when a pool is exhausted. Resting addresses are given before a pool counts as exhausted. So it is leases
/// that fill the pool, unless it never had an address to give.
fn remedy(in_use: u64, gone: u64) -> String {
    match (in_use, gone) {
        (0, _) => "nothing is left to give, take addresses out of `reserved` or widen the ranges".to_owned(),
        (_, 0) => "add a subnet to the pool or delete pods".to_owned(),
        (_, gone) => format!(
            "of those in use, {gone} are of pods that are gone: ipamd takes them back after `reclaim_after_s`, and its log says so \
             if it cannot; more help only another subnet or fewer pods"
        ),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_none(number: &u64) -> bool {
    *number == 0
}

fn join(addresses: &[IpNetwork]) -> String {
    if addresses.is_empty() {
        return "nothing".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
