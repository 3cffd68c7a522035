//! Finds routes of other programs in the main table that get packets which our routes should get: pure.
//!
//! The kernel takes the longest prefix first, and of routes with the same prefix the one with the lowest metric. If
//! these are the same too, the first route in its list wins. For IPv4 that is a route that was put before ours
//! (`ip route prepend`). For IPv6 a route by a nexthop object stays first, whatever is put beside it.

use std::collections::BTreeMap;

use ferrule_model::{
    ForeignRoute, IpNetwork, PROTOCOL, Route, RouteKey, RouteKind, TABLE_MAIN, host_prefix, network_address,
};

use super::{Diversion, Diverted, ip, protocol, text};
use crate::decide::objects::Links;

/// `RTPROT_KERNEL`: the protocol of routes that the kernel makes for an address.
const KERNEL: u8 = 2;

/// The route among `routes` whose destination is this network or covers it. The routes must not overlap.
pub fn covering<'a, V>(
    routes: &'a BTreeMap<RouteKey, V>,
    network: &IpNetwork,
) -> Option<(&'a RouteKey, &'a V)> {
    let last = RouteKey { dst: host_prefix(network_address(network)), table: u32::MAX, metric: u32::MAX };
    let (key, route) = routes.range(..=last).next_back()?;
    let covers = key.dst.prefix() <= network.prefix() && key.dst.contains(network.ip());
    covers.then_some((key, route))
}

/// The one of our `routes` whose packets another route with this key takes, or may take.
pub fn taken_from<'a, V>(routes: &'a BTreeMap<RouteKey, V>, key: &RouteKey) -> Option<(&'a RouteKey, &'a V)> {
    let found = Some(key).filter(|key| key.table == TABLE_MAIN).and_then(|key| covering(routes, &key.dst));
    found.filter(|(ours, _)| ours.dst != key.dst || key.metric <= ours.metric)
}

/// Whether a route leads to another node. The route that refuses addresses which none of this node's pods has leads
/// nowhere. Whatever is more specific than that one is meant to come first: the ways to this node's own pods, whoever
/// made them.
pub fn leads(route: &Route) -> bool {
    matches!(route.kind, RouteKind::Unicast(_))
}

/// Finds what takes the packets of the `wanted` routes. Those of them that are in `ours` stand in the kernel.
pub fn find(
    foreign: &[ForeignRoute],
    wanted: &BTreeMap<RouteKey, Route>,
    ours: &BTreeMap<RouteKey, Route>,
    links: &Links,
) -> Diverted {
    let stands = |key: &RouteKey| ours.get(key).is_some_and(|route| route.protocol == PROTOCOL);
    let mut taken = BTreeMap::<RouteKey, Vec<&ForeignRoute>>::new();
    for route in foreign {
        let Some((key, _)) = taken_from(wanted, &route.key).filter(|(_, ours)| leads(ours)) else { continue };
        // If our route does not stand beside this one, the kernel has refused ours, and that is told elsewhere.
        if *key != route.key || (route.is_first && stands(key)) {
            taken.entry(*key).or_default().push(route);
        }
    }
    let routes = taken.values().flatten().map(|route| route.key).collect();
    let all = taken.iter().map(|(key, routes)| diversion(key, routes, links)).collect();
    Diverted { all, routes, ..Diverted::default() }
}

fn diversion(key: &RouteKey, routes: &[&ForeignRoute], links: &Links) -> Diversion {
    // A route that takes all packets is worth more words than one that takes some.
    let widest = routes.iter().copied().min_by_key(|route| route.key.dst.prefix());
    let told = widest.map(|route| {
        let (what, others) = (text(route, links), routes.len() - 1);
        let whose = match route.key.dst == key.dst {
            true => "its packets".to_owned(),
            false => format!("its packets to {}", route.key.dst),
        };
        let more = match others {
            0 => String::new(),
            1 => " (and one more such route)".to_owned(),
            others => format!(" (and {others} more such routes)"),
        };
        let remedy = match route.protocol {
            KERNEL => {
                "it comes with an address on that link: give the pods another network, or remove the address"
                    .to_owned()
            }
            _ => format!(
                "see what made it (protocol {}), and if nothing needs it, remove it: {} route del {what}",
                protocol(route.protocol),
                ip(&key.dst)
            ),
        };
        format!(
            "{whose} go by a route of another program, which the kernel takes first: {what}{more}; {remedy}"
        )
    });
    Diversion {
        networks: vec![key.dst],
        object: format!("route {}", key.dst),
        reason: told.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use ferrule_model::{ForeignKind, Hop, IfIndex, IfName, Link, LinkKind, NexthopId, Via};

    use super::*;

    const ETH0: IfIndex = IfIndex(2);

    fn links() -> Links {
        let link = Link {
            index: ETH0,
            name: IfName::new("eth0").unwrap(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            alias: None,
            peer: None,
            kind: LinkKind::Veth,
        };
        Links::from([(ETH0, link)])
    }

    fn key(text: &str) -> RouteKey {
        RouteKey::main(text.parse().unwrap())
    }

    /// The ways to two nodes, and the route that refuses addresses which none of this node's pods has.
    fn wanted() -> BTreeMap<RouteKey, Route> {
        let hop = |id| Route::ours(Via::Nexthop(NexthopId(id)));
        let own = RouteKey { metric: u32::MAX, ..key("10.244.1.0/24") };
        BTreeMap::from([
            (own, Route::unreachable()),
            (key("10.244.2.0/24"), hop(1)),
            (key("10.244.3.0/24"), hop(2)),
            (key("fd00:2::/64"), hop(3)),
        ])
    }

    fn foreign(key: RouteKey, gateway: &str) -> ForeignRoute {
        let hops = vec![Hop { gateway: Some(gateway.parse().unwrap()), link: Some(ETH0) }];
        ForeignRoute { key, protocol: 3, kind: ForeignKind::Unicast, nexthop: None, hops, is_first: true }
    }

    fn found(routes: &[ForeignRoute]) -> Vec<String> {
        find(routes, &wanted(), &wanted(), &links()).lines().collect()
    }

    #[test]
    fn what_the_kernel_takes_first_is_named_with_its_remedy() {
        let route = foreign(key("10.244.2.0/24"), "192.0.2.99");
        assert_eq!(
            found(std::slice::from_ref(&route)),
            [
                "route 10.244.2.0/24: its packets go by a route of another program, which the kernel takes first: \
              10.244.2.0/24 via 192.0.2.99 dev eth0 proto boot; see what made it (protocol boot), and if nothing needs it, \
              remove it: ip route del 10.244.2.0/24 via 192.0.2.99 dev eth0 proto boot"
            ]
        );
        assert_eq!(
            found(&[ForeignRoute { is_first: false, ..route.clone() }]),
            [""; 0],
            "it stands behind ours"
        );
        let refused = find(&[route], &wanted(), &BTreeMap::new(), &links());
        assert_eq!(refused, Diverted::default(), "ours was refused, and that is told");
    }

    #[test]
    fn a_more_specific_route_and_a_lower_metric_take_packets() {
        let half = foreign(key("10.244.2.128/25"), "192.0.2.99");
        let host = foreign(key("10.244.2.7/32"), "192.0.2.98");
        let line = &found(&[host, half])[..];
        assert_eq!(line.len(), 1, "{line:?}");
        assert!(line[0].contains("its packets to 10.244.2.128/25 go by"), "{line:?}");
        assert!(line[0].contains("proto boot (and one more such route); "), "{line:?}");
        let lower = RouteKey { metric: 512, ..key("fd00:2::/64") };
        let line = found(&[foreign(lower, "2001:db8::99")]);
        assert!(
            line[0].ends_with("ip -6 route del fd00:2::/64 via 2001:db8::99 dev eth0 proto boot metric 512"),
            "{line:?}"
        );
        let higher = RouteKey { metric: 2048, ..lower };
        assert_eq!(found(&[foreign(higher, "2001:db8::99")]), [""; 0]);
    }

    #[test]
    fn routes_of_every_kind_are_named_as_ip_takes_them() {
        let plain = foreign(key("10.244.2.0/25"), "192.0.2.99");
        let second = Hop { gateway: Some("192.0.2.98".parse().unwrap()), link: Some(ETH0) };
        let several = ForeignRoute { hops: vec![plain.hops[0], second], ..plain.clone() };
        let object = ForeignRoute { nexthop: Some(NexthopId(9)), protocol: 12, ..plain.clone() };
        let nothing = ForeignRoute { kind: ForeignKind::Blackhole, hops: vec![], ..plain };
        for (route, command) in [
            (
                several,
                "10.244.2.0/25 proto boot nexthop via 192.0.2.99 dev eth0 nexthop via 192.0.2.98 dev eth0",
            ),
            (nothing, "blackhole 10.244.2.0/25 proto boot"),
            (object, "10.244.2.0/25 nhid 9 proto bird"),
        ] {
            let line = found(&[route]);
            assert!(line[0].ends_with(&format!("remove it: ip route del {command}")), "{line:?}");
        }
        let connected = found(&[ForeignRoute { protocol: 2, ..foreign(key("10.244.2.0/25"), "192.0.2.99") }]);
        assert!(
            connected[0].ends_with("give the pods another network, or remove the address"),
            "{connected:?}"
        );
    }

    #[test]
    fn what_takes_none_of_our_packets_is_not_named() {
        let others = [
            foreign(key("10.244.0.0/16"), "192.0.2.99"),
            foreign(key("0.0.0.0/0"), "192.0.2.99"),
            foreign(key("::/0"), "2001:db8::99"),
            foreign(key("172.16.0.0/12"), "192.0.2.99"),
            // This node's own pods.
            foreign(key("10.244.1.5/32"), "192.0.2.99"),
            foreign(key("10.244.1.0/24"), "192.0.2.99"),
            foreign(RouteKey { table: 7, ..key("10.244.2.0/24") }, "192.0.2.99"),
        ];
        assert_eq!(found(&others), [""; 0]);
    }

    #[test]
    fn what_was_found_about_a_node_that_is_gone_is_forgotten() {
        let routes = ["10.244.2.0/24", "10.244.3.0/25"].map(|dst| foreign(key(dst), "192.0.2.99"));
        let mut found = find(&routes, &wanted(), &wanted(), &links());
        assert_eq!(found.all.len(), 2);
        let mut less = wanted();
        less.remove(&key("10.244.2.0/24"));
        found.keep(&less);
        assert_eq!(
            found.all.iter().map(|one| one.networks[0].to_string()).collect::<Vec<_>>(),
            ["10.244.3.0/24"]
        );
    }
}
