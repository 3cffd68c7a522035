//! What one pod needs of the kernel, worked out from its lease: the veth pair, the plan for both namespaces, and
//! the result that says so. Pure.
//!
//! Mode `routed`: the pod has only its own addresses (/32, /128), and sends everything to a gateway that does not
//! exist, 169.254.1.1 or fe80::1. A permanent neighbour gives that gateway the MAC of the host's end of the veth pair,
//! so ARP and NDP are never needed. The host gets every packet of the pod this way, and routes it. Packets to the pod
//! take a host route and another permanent neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_model::{
    Address, AddressKey, Attachment, Family, IfIndex, IfName, IpNetwork, Ipv4Network, Ipv6Network, Link,
    LinkChange, LinkKind, Mac, Neighbour, NeighbourKey, Op, Plan, Route, RouteKey, VethSpec, Via, WayTo,
    family, host_mac, host_prefix, host_veth_name, link_change, pod_mac,
};
use ferrule_wire::messages::Pod;

use crate::decide::grant::Grant;
use crate::edge::result::{self, AddResult};
use crate::edge::wanted::Wanted;

/// The loopback device of every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: IfIndex = IfIndex(1);

/// The two ends of a veth pair, each as its namespace sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The node's.
    pub host: Link,
    /// The pod's.
    pub pod: Link,
}

impl Ends {
    /// The ends of a pair that was just made. The host's end tells the number of the pod's end, and the rest of the
    /// pod's end is what was asked for, so nobody needs to look into the pod. `None` if the host's end has no other
    /// end.
    pub fn made(host: Link, spec: &VethSpec) -> Option<Self> {
        let pod = Link {
            index: host.peer?,
            name: spec.pod_name.clone(),
            mac: Some(spec.pod_mac),
            mtu: host.mtu,
            up: false,
            carrier: false,
            alias: None,
            peer: Some(host.index),
            kind: LinkKind::Veth,
        };
        Some(Self { host, pod })
    }
}

/// The next hop of a pod's default route. It is link-local, so no machine elsewhere can have it. It is the same in
/// every pod.
pub const fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

/// Everything: the destination of a default route.
pub const fn anywhere(family: Family) -> IpNetwork {
    match family {
        Family::V4 => IpNetwork::V4(ANYWHERE_V4),
        Family::V6 => IpNetwork::V6(ANYWHERE_V6),
    }
}

const ANYWHERE_V4: Ipv4Network =
    Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
const ANYWHERE_V6: Ipv6Network =
    Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).expect("0 is a prefix length");

/// The default route of the pod's interface `link`. Its metric contains the link's number. So the route of a second
/// network in the same pod, ours or another's, neither replaces this one nor is replaced by it: the first interface
/// wins.
pub fn default_route(link: IfIndex, family: Family) -> (RouteKey, Route) {
    let key = RouteKey::main(anywhere(family));
    let via = Via::Gateway { address: gateway(family), link, onlink: false };
    (RouteKey { metric: key.metric.saturating_add(link.0), ..key }, Route::ours(via))
}

/// The route to IPv4's gateway, which is in no subnet of the pod. IPv6's gateway is link-local and needs none. Without
/// this route the default route would have to be `onlink`, and plugins that write the routes anew, such as `sbr`, leave
/// that out.
pub fn gateway_route(link: IfIndex) -> (RouteKey, Route) {
    let key = RouteKey::main(host_prefix(gateway(Family::V4)));
    (RouteKey { metric: key.metric.saturating_add(link.0), ..key }, Route::ours(Via::Link(link)))
}

/// The veth pair of `attachment`. Names and MACs derive from it, so that DEL and the neighbours need no lookup.
pub fn veth(attachment: &Attachment, ifname: &IfName, pod: Option<&Pod>, wanted: &Wanted) -> VethSpec {
    VethSpec {
        host_name: host_veth_name(attachment),
        host_mac: host_mac(attachment),
        alias: Some(alias(attachment, pod, &wanted.aliases)),
        pod_name: ifname.clone(),
        pod_mac: wanted.mac.unwrap_or_else(|| pod_mac(attachment)),
    }
}

/// The alias of the host's end: the network, the pod, and then the other parts of the attachment. It is for people, for
/// GC, and for an `ipamd` that has lost its store. The kernel keeps the beginning of a long alias.
fn alias(attachment: &Attachment, pod: Option<&Pod>, names: &[String]) -> String {
    let network = &attachment.network;
    let mut alias = match pod {
        Some(pod) => format!("{network}: {pod} {}/{}", attachment.container_id, attachment.ifname),
        None => format!("{network}: {}/{}", attachment.container_id, attachment.ifname),
    };
    for name in names {
        alias.push_str(", ");
        alias.push_str(name);
    }
    alias
}

/// The network to which a host's end says it belongs, whatever the link is called by now. The name of a network never
/// has a colon.
pub fn network_of(link: &Link) -> Option<&str> {
    let alias = link.alias.as_deref().filter(|_| link.kind == LinkKind::Veth)?;
    alias.split_once(": ").map(|(network, _)| network)
}

/// Whether each of the two links is the other end of the other. Numbers are unique only within a namespace, so both
/// links have to agree.
pub fn are_joined(host: &Link, pod: &Link) -> bool {
    host.peer == Some(pod.index) && pod.peer == Some(host.index)
}

/// What has to be done once the pair exists, so that the pod is reached at its addresses.
pub fn plan(ends: &Ends, spec: &VethSpec, grant: &Grant) -> Plan {
    let (host, pod) = (ends.host.index, ends.pod.index);
    let mut plan = Plan::default();
    plan.pod.extend(link(&ends.pod, spec.pod_mac, grant.mtu));
    plan.host.extend(link(&ends.host, spec.host_mac, grant.mtu));
    for address in grant.hosts() {
        let (family, ip) = (family(&address), address.ip());
        plan.pod.extend(pod_ops(pod, family, ip, spec.host_mac));
        plan.host.extend(WayTo::new(host, ip, spec.pod_mac).ops());
    }
    plan
}

/// Switches the pod's loopback device on. Deleting the pair does not undo this: after an ADD that failed, the device
/// may stay on.
pub fn loopback() -> Op {
    Op::SetLink(LOOPBACK, LinkChange { up: Some(true), ..LinkChange::default() })
}

/// What `link` lacks of being up, with this MAC and MTU.
pub(crate) fn link(link: &Link, mac: Mac, mtu: Option<u32>) -> Option<Op> {
    link_change(link, mac, mtu).map(|change| Op::SetLink(link.index, change))
}

fn pod_ops(link: IfIndex, family: Family, ip: IpAddr, host_mac: Mac) -> impl Iterator<Item = Op> {
    let to_gateway = (family == Family::V4).then(|| gateway_route(link));
    let routes = to_gateway.into_iter().chain([default_route(link, family)]);
    [
        Op::PutAddress(AddressKey { link, prefix: host_prefix(ip) }, Address { nodad: family == Family::V6 }),
        Op::PutNeighbour(NeighbourKey { link, address: gateway(family) }, permanent(host_mac)),
    ]
    .into_iter()
    .chain(routes.map(|(key, route)| Op::PutRoute(key, route)))
}

const fn permanent(mac: Mac) -> Neighbour {
    Neighbour { mac: Some(mac), permanent: true }
}

/// The result of ADD in the newest version's shape.
pub fn result(ends: &Ends, spec: &VethSpec, grant: &Grant, sandbox: &str) -> AddResult {
    let ip = |address: IpNetwork| result::Ip {
        version: None,
        interface: Some(1),
        address,
        gateway: Some(gateway(family(&address))),
    };
    let route = |family| result::Route::plain(anywhere(family), Some(gateway(family)));
    AddResult {
        version: String::new(),
        interfaces: interfaces(ends, spec, grant, sandbox).into(),
        ips: grant.hosts().map(ip).collect(),
        routes: grant.families().map(route).collect(),
        dns: grant.dns.clone(),
    }
}

/// The two ends as the result has them.
pub(crate) fn interfaces(
    ends: &Ends,
    spec: &VethSpec,
    grant: &Grant,
    sandbox: &str,
) -> [result::Interface; 2] {
    let interface = |link: &Link, mac: Mac, sandbox: &str| result::Interface {
        name: link.name.to_string(),
        mac: Some(mac.to_string()),
        mtu: Some(grant.mtu.unwrap_or(link.mtu)),
        sandbox: sandbox.to_owned(),
        socket_path: None,
        pci_id: None,
    };
    [interface(&ends.host, spec.host_mac, ""), interface(&ends.pod, spec.pod_mac, sandbox)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::grant::Granted;
    use ferrule_model::{PROTOCOL, RouteKind};
    use proptest::prelude::*;

    fn attachment() -> Attachment {
        Attachment { network: "pods".into(), container_id: "c0ffee".into(), ifname: "eth0".into() }
    }

    fn spec() -> VethSpec {
        veth(&attachment(), &IfName::new("eth0").unwrap(), None, &Wanted::default())
    }

    /// As the kernel makes them.
    fn ends(spec: &VethSpec) -> Ends {
        let link = |index, peer, name: &IfName, mac, up| Link {
            index: IfIndex(index),
            name: name.clone(),
            mac: Some(mac),
            mtu: 1500,
            up,
            carrier: false,
            alias: None,
            peer: Some(IfIndex(peer)),
            kind: LinkKind::Veth,
        };
        Ends {
            host: link(7, 2, &spec.host_name, spec.host_mac, true),
            pod: link(2, 7, &spec.pod_name, spec.pod_mac, false),
        }
    }

    fn grant(addresses: &[IpNetwork], mtu: Option<u32>) -> Grant {
        let granted = |address: &IpNetwork| Granted { address: *address, gateway: None };
        Grant { addresses: addresses.iter().map(granted).collect(), mtu, ..Grant::default() }
    }

    fn addresses(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_plan_of_a_dual_stack_pod() {
        let spec = spec();
        let plan = plan(&ends(&spec), &spec, &grant(&addresses(&["10.0.0.5/24", "fd00::5/128"]), Some(1450)));
        let text = |ops: &[Op]| ops.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            text(&plan.pod),
            [
                "link set dev 2 mtu 1450 up",
                "addr add 10.0.0.5/32 dev 2",
                "neigh replace 169.254.1.1 dev 2",
                "route replace 169.254.1.1/32 table 254",
                "route replace 0.0.0.0/0 table 254",
                "addr add fd00::5/128 dev 2",
                "neigh replace fe80::1 dev 2",
                "route replace ::/0 table 254",
            ]
        );
        assert_eq!(
            text(&plan.host),
            [
                "link set dev 7 mtu 1450",
                "neigh replace 10.0.0.5 dev 7",
                "route replace 10.0.0.5/32 table 254",
                "neigh replace fd00::5 dev 7",
                "route replace fd00::5/128 table 254",
            ]
        );
    }

    #[test]
    fn a_family_that_is_not_leased_is_not_touched() {
        let spec = spec();
        for (lease, absent) in [("10.0.0.5/32", Family::V6), ("fd00::5/128", Family::V4)] {
            let plan = plan(&ends(&spec), &spec, &grant(&addresses(&[lease]), None));
            for op in plan.pod.iter().chain(&plan.host) {
                if let Op::PutRoute(RouteKey { dst, .. }, _) = op {
                    assert_ne!(family(dst), absent);
                }
            }
        }
    }

    #[test]
    fn each_ends_neighbour_has_the_others_mac() {
        let spec = spec();
        let plan = plan(&ends(&spec), &spec, &grant(&addresses(&["10.0.0.5/32"]), None));
        let mac = |ops: &[Op]| {
            ops.iter().find_map(|op| match op {
                Op::PutNeighbour(_, neighbour) => neighbour.mac,
                _ => None,
            })
        };
        assert_eq!(mac(&plan.pod), Some(spec.host_mac));
        assert_eq!(mac(&plan.host), Some(spec.pod_mac));
    }

    #[test]
    fn a_mac_that_is_not_the_chosen_one_is_set() {
        let spec = spec();
        let mut ends = ends(&spec);
        ends.host.mac = Some(Mac::local([9; 6]));
        let plan = plan(&ends, &spec, &grant(&addresses(&["10.0.0.5/32"]), None));
        assert_eq!(
            plan.host[0],
            Op::SetLink(ends.host.index, LinkChange { mac: Some(spec.host_mac), ..LinkChange::default() })
        );
    }

    #[test]
    fn a_host_veth_tells_its_network() {
        let spec = spec();
        let mut link = ends(&spec).host;
        assert_eq!(network_of(&link), None);
        for pod in [None, Some(Pod { namespace: "a: b".into(), name: "c".into(), uid: String::new() })] {
            link.alias = Some(alias(&attachment(), pod.as_ref(), &["db".into()]));
            assert!(link.alias.as_ref().unwrap().ends_with(", db"));
            assert_eq!(network_of(&link), Some("pods"));
        }
        link.name = IfName::new("uplink7").unwrap();
        assert_eq!(network_of(&link), Some("pods"), "whatever somebody calls it");
        link.kind = LinkKind::Other("bridge".into());
        assert_eq!(network_of(&link), None, "somebody else's");
    }

    proptest! {
        #[test]
        fn everything_routed_is_ours(v4: [u8; 4], v6: [u16; 8], mtu in 1280_u32..65536) {
            let spec = spec();
            let lease = [host_prefix(IpAddr::from(v4)), host_prefix(IpAddr::from(v6))];
            let plan = plan(&ends(&spec), &spec, &grant(&lease, Some(mtu)));
            for op in plan.pod.iter().chain(&plan.host) {
                if let Op::PutRoute(_, route) = op {
                    prop_assert_eq!(route.protocol, PROTOCOL);
                    prop_assert!(matches!(route.kind, RouteKind::Unicast(_)));
                }
            }
        }
    }
}
