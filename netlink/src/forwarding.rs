//! Finds the links of the calling thread's network namespace that do not forward IPv4. The kernel tells it in one list,
//! however many links there are (`inet_netconf_dump_devconf`).
//!
//! Whether a packet is forwarded depends on the link by which it came in (`ip_mkroute_input`). The caller has to say
//! which links are on the packets' way.

use ferrule_model::{IfIndex, IfName, Link, LinkKind, is_host_veth};

use crate::attributes::Attributes;
use crate::encode::rtm;
use crate::socket::Request;
use crate::{Bridges, Error, Kernel, Netlink};

/// `struct netconfmsg`, padded to four bytes.
const HEADER: [u8; 4] = [INET, 0, 0, 0];
/// `AF_INET`.
const INET: u8 = 2;
/// `NETCONFA_IFINDEX` and `NETCONFA_FORWARDING`.
const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_DEFAULT`: the settings with which a new link begins.
const DEFAULT: i32 = -2;

/// Something that does not forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// Links that are made later.
    Default,
    /// A link.
    Link {
        /// Its name.
        name: IfName,
        /// Whether it is a bridge, and one of its ports is the host's end of a pod's veth pair.
        has_pods: bool,
    },
}

/// What does not forward, though the node may (`ip_forward`). Nothing if the kernel has no IPv4.
///
/// # Errors
/// The kernel did not answer.
pub fn stopped() -> Result<Vec<Stopped>, Error> {
    let mut kernel = Netlink::open()?;
    let request = Request { kind: rtm::GETNETCONF, flags: 0, payload: HEADER.to_vec() };
    let messages = kernel.list_raw(&request)?;
    let off: Vec<_> = messages.iter().filter_map(|message| off(&message.payload)).collect();
    let default = off.contains(&DEFAULT).then_some(Stopped::Default);
    let indices: Vec<_> =
        off.into_iter().filter_map(|index| u32::try_from(index).ok().map(IfIndex)).collect();
    let mut stopped: Vec<_> = default.into_iter().collect();
    if !indices.is_empty() {
        let links = kernel.links()?;
        for link in links.iter().filter(|link| indices.contains(&link.index)) {
            stopped.push(Stopped::Link {
                name: link.name.clone(),
                has_pods: has_pods(&mut kernel, link, &links)?,
            });
        }
    }
    Ok(stopped)
}

/// The number of the link in this message, if that link does not forward.
fn off(payload: &[u8]) -> Option<i32> {
    let (mut index, mut forwarding) = (None, None);
    for (kind, value) in Attributes(payload.get(HEADER.len()..)?).flatten() {
        let number = || value.try_into().ok().map(i32::from_ne_bytes);
        match kind {
            IFINDEX => index = number(),
            FORWARDING => forwarding = number(),
            _ => {}
        }
    }
    index.filter(|_| forwarding == Some(0))
}

/// Whether `bridge` is a bridge that has a pod's link among its ports.
fn has_pods(kernel: &mut Netlink, bridge: &Link, links: &[Link]) -> Result<bool, Error> {
    if bridge.kind != LinkKind::Other("bridge".into()) {
        return Ok(false);
    }
    for pod in links.iter().filter(|link| is_host_veth(link.name.as_str())) {
        if kernel.port(&pod.name)?.is_some_and(|port| port.bridge == bridge.index) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{netns, sysctl};

    fn ip(line: &str) {
        let status = std::process::Command::new("ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "{line}");
    }

    #[test]
    fn what_does_not_forward_is_listed_with_whether_it_is_a_bridge_of_pods() {
        netns::make()
            .unwrap()
            .run(|| {
                sysctl::set("net/ipv4/ip_forward", "1").unwrap();
                ip("link add br0 type bridge");
                ip("link add br1 type bridge");
                ip("link add fer0123456789ab type veth peer name u1");
                ip("link set fer0123456789ab master br0");
                assert_eq!(stopped().unwrap(), []);
                for name in ["default", "br0", "br1", "u1"] {
                    sysctl::set(&format!("net/ipv4/conf/{name}/forwarding"), "0").unwrap();
                }
                let link = |name, has_pods| Stopped::Link { name: IfName::new(name).unwrap(), has_pods };
                let found = stopped().unwrap();
                for wanted in [Stopped::Default, link("br0", true), link("br1", false), link("u1", false)] {
                    assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
                }
                assert_eq!(found.len(), 4);
            })
            .unwrap();
    }
}
