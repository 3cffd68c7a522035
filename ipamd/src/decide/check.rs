//! Which arguments are taken: names of a length and form that leases, logs and answers can carry. Pure.

use ferrule_wire::messages::{Allocate, CallError};
use std::net::IpAddr;

/// Longest name of a network, a container or part of a pod's name, in bytes: the longest DNS name and then some.
const NAME_MAX: usize = 255;

/// Longest path, in bytes: the kernel's `PATH_MAX` without its NUL.
const PATH_MAX: usize = 4095;

/// Longest name of an interface, in bytes: the kernel's `IFNAMSIZ` without its NUL.
const IFNAME_MAX: usize = 15;

/// Most ranges in a call: each is compared with each address of the pool that is in use.
const RANGES_MAX: usize = 16;

/// Checks the arguments of an `Allocate`.
///
/// # Errors
/// `InvalidArgument` with the first field that cannot be taken.
pub(crate) fn allocate(call: &Allocate) -> Result<(), CallError> {
    name("attachment.network", &call.attachment.network, 1, NAME_MAX)?;
    name("attachment.container_id", &call.attachment.container_id, 1, NAME_MAX)?;
    name("attachment.ifname", &call.attachment.ifname, 1, IFNAME_MAX)?;
    name("pool", call.pool.as_deref().unwrap_or("-"), 1, NAME_MAX)?;
    name("netns", call.netns.as_deref().unwrap_or("-"), 1, PATH_MAX)?;
    if let Some(pod) = &call.pod {
        name("pod.namespace", &pod.namespace, 0, NAME_MAX)?;
        name("pod.name", &pod.name, 0, NAME_MAX)?;
        name("pod.uid", &pod.uid, 0, NAME_MAX)?;
    }
    requested(&call.requested)?;
    ranges(call)
}

fn requested(addresses: &[IpAddr]) -> Result<(), CallError> {
    for (place, address) in addresses.iter().enumerate() {
        if addresses[..place].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let reason = format!("{address} is the second of its family, and a lease has one of each");
            return Err(refuse("requested", reason));
        }
    }
    Ok(())
}

fn ranges(call: &Allocate) -> Result<(), CallError> {
    if call.ranges.len() > RANGES_MAX {
        return Err(refuse("ranges", format!("there are more than {RANGES_MAX}")));
    }
    match call.ranges.iter().find(|r| r.first.is_ipv4() != r.last.is_ipv4() || r.first > r.last) {
        Some(range) => Err(refuse("ranges", format!("{range} does not go from an address to one above it"))),
        None => Ok(()),
    }
}

fn refuse(field: &str, reason: String) -> CallError {
    CallError::InvalidArgument { field: field.to_owned(), reason }
}

fn name(field: &str, value: &str, least: usize, most: usize) -> Result<(), CallError> {
    let reason = if value.len() < least {
        "is empty".to_owned()
    } else if value.len() > most {
        format!("is longer than {most} bytes")
    } else if value.chars().any(char::is_control) {
        "has a control character in it".to_owned()
    } else {
        return Ok(());
    };
    Err(refuse(field, reason))
}
