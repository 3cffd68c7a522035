//! Which endpoint the kernel remembers for a client: forgotten as the endpoint goes.

use std::collections::HashSet;
use std::net::IpAddr;

use ferrule_model::{Element, Family, IpNetwork};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, Netfilter};
use nix::errno::Errno;

use super::flows::whose;
use crate::decide::Key;
use crate::nft::TABLE;
use crate::nft::sets::{AFFINITY, read_endpoint, read_key};

/// How often the entries are listed again because one of them timed out before it was deleted.
const ATTEMPTS: u32 = 5;

/// The client's address, the first field of a key.
const CLIENT: usize = 4;

/// Forgets the entries of these frontends that `stays` does not hold for. Returns how many there were.
pub(super) fn forget(
    netfilter: &mut impl Netfilter,
    (frontends, node_ports): (&HashSet<Key>, &[IpNetwork]),
    stays: impl Fn(&Key, IpAddr, u16) -> bool,
) -> Result<usize, Error> {
    let is_stale = |element: &Element| {
        let key = element.key.get(CLIENT..).and_then(|key| read_key(key, Family::V4, false));
        let Some(key) = key.and_then(|(key, _)| whose(key, frontends, node_ports)) else { return false };
        let endpoint = read_endpoint(element.value.data(), Family::V4);
        !endpoint.is_some_and(|(address, port)| stays(&key, address, port.get()))
    };
    for _ in 0..ATTEMPTS {
        let mut entries = netfilter.elements(TABLE, AFFINITY)?;
        entries.retain(is_stale);
        let changes: Vec<_> = entries.iter().map(Change::Delete).collect();
        match netfilter.change(TABLE, &changes, None) {
            Ok(()) => return Ok(entries.len()),
            // One of them has timed out.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    // So many time out that no list is true for long. One by one none of them matters to the others.
    let mut entries = netfilter.elements(TABLE, AFFINITY)?;
    entries.retain(is_stale);
    for entry in &entries {
        match netfilter.change(TABLE, &[Change::Delete(entry)], None) {
            Err(error) if error.errno() != Some(Errno::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(entries.len())
}
