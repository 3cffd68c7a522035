//! Finds the links of the calling thread's network namespace that have IPv6 from a router that advertises itself. Such
//! a link has a route that the advertisements gave, or an address with a limited lifetime.

use std::collections::BTreeSet;
use std::fs;

use ferrule_model::IpNetwork;

use crate::{Error, Kernel, Netlink};

/// `RTPROT_RA`: the protocol of the routes that the kernel makes by router advertisements (`rt6_add_dflt_router`).
const BY_ADVERTISEMENT: u8 = 9;
/// `IFA_F_PERMANENT`: an address without this flag has a limited lifetime. It comes from advertisements, or from DHCP,
/// which is used together with them.
const PERMANENT: u8 = 0x80;
/// `RT_SCOPE_UNIVERSE`, as `/proc/net/if_inet6` writes it.
const GLOBAL: &str = "00";

/// The names of these links.
///
/// # Errors
/// The kernel does not tell.
pub fn advertised() -> Result<BTreeSet<String>, Error> {
    let mut kernel = Netlink::open()?;
    let routes = kernel.routes(BY_ADVERTISEMENT)?;
    let given = routes.iter().filter(|(key, _)| matches!(key.dst, IpNetwork::V6(_)));
    let given: BTreeSet<_> = given.filter_map(|(_, route)| route.link()).collect();
    let mut names = match fs::read_to_string("/proc/thread-self/net/if_inet6") {
        Ok(text) => text.lines().filter_map(with_passing_address).map(str::to_owned).collect(),
        // The kernel has no IPv6, or /proc shows nothing of networks. Then the routes decide alone.
        Err(_) => BTreeSet::new(),
    };
    if !given.is_empty() {
        let links = kernel.links()?.into_iter().filter(|link| given.contains(&link.index));
        names.extend(links.map(|link| link.name.as_str().to_owned()));
    }
    Ok(names)
}

/// The link in a line of `/proc/net/if_inet6` (`if6_seq_show` in the kernel), if its address is global and not
/// permanent.
fn with_passing_address(line: &str) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, _, _, GLOBAL, flags, name] = words.as_slice() else { return None };
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (flags & PERMANENT == 0).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_ends_is_told_from_one_that_stays() {
        for (line, expected) in [
            ("20010db8000000000000000000000001 02 40 00 80     eth0", None),
            ("20010db8000000000000000000000005 02 40 00 00     eth0", Some("eth0")),
            ("20010db8000000000000000000000006 02 40 00 01  enp0s8", Some("enp0s8")),
            ("fe8000000000000000a5c7fffe2d6dbd 02 40 20 00     eth0", None),
            ("", None),
        ] {
            assert_eq!(with_passing_address(line), expected, "{line}");
        }
    }
}
