//! What there should be in the kernel, for one node and another.

use std::collections::BTreeMap;

use super::*;
use crate::decide::nodes::Cluster;
use crate::decide::nodes::vtep_mac6;
use ferrule_model::vtep_mac;

const ETH0: IfIndex = IfIndex(2);
const DEVICE: IfIndex = IfIndex(9);

fn node(name: &str, number: u8) -> Node {
    Node {
        name: name.into(),
        v4: Some([192, 0, 2, number].into()),
        v6: Some(format!("2001:db8::{number}").parse().unwrap()),
        pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]
            .map(|cidr| cidr.parse().unwrap())
            .into(),
        vtep_mac: vtep_mac(name),
        wireguard_key: None,
        vtep_mac6: vtep_mac6(name),
        further: Vec::new(),
    }
}

fn cluster() -> Cluster {
    Cluster { own: node("a", 1), others: BTreeMap::from([("b".into(), node("b", 2).into())]), uplink: None }
}

fn underlay() -> Underlay {
    let uplink = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let prefix_len = if address.is_ipv4() { 24 } else { 64 };
        Some(Uplink { link: ETH0, address, prefix_len, mtu: 1500, usable: true, holds: false })
    };
    Underlay { v4: uplink("192.0.2.1"), v6: uplink("2001:db8::1") }
}

fn objects(backend: Backend, cluster: &Cluster, underlay: &Underlay, device: Option<IfIndex>) -> Wanted {
    let ground = Ground {
        backend,
        own: cluster.own.clone(),
        underlay: *underlay,
        mtu: 1450,
        device,
        device6: None,
        taken: Taken::default(),
        ways: Ways::default(),
        wireguard: None,
    };
    ground.objects(cluster.others.values().map(AsRef::as_ref))
}

fn hops(wanted: &Wanted) -> Vec<(String, String)> {
    let hop = |(key, target): (&RouteKey, &Target)| {
        let to = match target {
            Target::Unreachable => "unreachable".to_owned(),
            Target::Hop(hop) => format!("{} dev {}", hop.gateway, hop.link),
            Target::Via(hop) => format!("straight via {} dev {}", hop.gateway, hop.link),
            Target::Link(link) => format!("dev {link}"),
        };
        (key.dst.to_string(), to)
    };
    wanted.routes.iter().map(hop).collect()
}

#[test]
fn native_routes_lead_to_the_other_nodes_address_of_the_same_family() {
    let wanted = objects(Backend::Native, &cluster(), &underlay(), None);
    let expected = [
        ("10.244.1.0/24", "unreachable"),
        ("10.244.2.0/24", "192.0.2.2 dev 2"),
        ("fd00:1::/64", "unreachable"),
        ("fd00:2::/64", "2001:db8::2 dev 2"),
    ];
    assert_eq!(hops(&wanted), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert!(wanted.neighbours.is_empty() && wanted.fdb.is_empty() && wanted.addresses.is_empty());
    assert!(wanted.nexthops.values().all(|nexthop| !nexthop.onlink), "the kernel checks the segment");
}

#[test]
fn a_network_that_cannot_be_reached_is_left_out_and_named() {
    let mut cluster = cluster();
    let without = Node { v6: None, ..node("b", 2) };
    cluster.others.insert("b".into(), without.into());
    let wanted = objects(Backend::Native, &cluster, &underlay(), None);
    let told: Vec<_> = wanted.skipped.iter().map(ToString::to_string).collect();
    let expected = "no route to fd00:2::/64 of node b: the node has no IPv6 address; give it `address6` in the nodes file";
    assert_eq!(told, [expected]);
    assert_eq!(hops(&wanted).len(), 3);
}

#[test]
fn a_link_that_is_down_has_no_routes_and_an_address_that_is_gone_neither() {
    let mut underlay = underlay();
    underlay.v4.as_mut().unwrap().usable = false;
    underlay.v6 = None;
    let wanted = objects(Backend::Native, &cluster(), &underlay, None);
    let why: Vec<_> = wanted.skipped.iter().map(|skipped| skipped.why).collect();
    assert_eq!(why, [Why::UplinkDown(Family::V4), Why::NoUplink(Family::V6)]);
    assert_eq!(wanted.nexthops.len(), 0);
}

#[test]
fn a_tunnel_has_an_entry_of_each_kind_a_node_and_one_underlay_for_both_families() {
    let wanted = objects(Backend::Vxlan, &cluster(), &underlay(), Some(DEVICE));
    let mac = vtep_mac("b");
    let addresses: Vec<_> = wanted.addresses.keys().map(|key| key.prefix.to_string()).collect();
    assert_eq!(addresses, ["10.244.1.0/32", "fd00:1::/128"]);
    let fdb: Vec<_> = wanted.fdb.iter().map(|(key, entry)| (key.mac, entry.dst.to_string())).collect();
    assert_eq!(fdb, [(mac, "192.0.2.2".to_owned())]);
    assert_eq!(wanted.neighbours.len(), 2);
    assert!(wanted.neighbours.values().all(|n| n.mac == Some(mac) && n.permanent));
    let gateways: Vec<_> = wanted.nexthops.keys().map(|key| key.gateway).collect();
    let neighbours: Vec<_> = wanted.neighbours.keys().map(|key| key.address).collect();
    assert_eq!(gateways, neighbours, "each next hop is resolved");
    assert_eq!(gateways[0].to_string(), "10.244.2.0");
    assert!(matches!(gateways[1], IpAddr::V6(v6) if v6.is_unicast_link_local()));
}

#[test]
fn with_a_device_for_ipv6_each_family_travels_in_its_own() {
    let ground = |underlay: Underlay| Ground {
        mtu: 1430,
        wireguard: None,
        taken: Taken::default(),
        ways: Ways::default(),
        backend: Backend::Vxlan,
        own: node("a", 1),
        underlay,
        device: Some(DEVICE),
        device6: Some(underlay.v6.map(|_| IfIndex(10))),
    };
    let other = node("b", 2);
    let part = ground(underlay()).part(&other);
    let fdb: Vec<_> =
        part.fdb.iter().map(|(key, entry)| (key.link, key.mac, entry.dst.to_string())).collect();
    let expected = [(DEVICE, other.vtep_mac, "192.0.2.2"), (IfIndex(10), other.vtep_mac6, "2001:db8::2")];
    assert_eq!(fdb, expected.map(|(link, mac, dst)| (link, mac, dst.to_owned())));
    assert!(part.nexthops.keys().all(|hop| (hop.link == DEVICE) == hop.gateway.is_ipv4()));
    let addresses = ground(underlay()).objects(std::iter::empty()).addresses;
    assert!(addresses.keys().all(|key| (key.link == DEVICE) == key.prefix.is_ipv4()) && addresses.len() == 2);

    let mut routing = Routing::default();
    routing.vxlan.device6 = Some(IfName::new("two").unwrap());
    let (first, second) =
        (device(&routing, &node("a", 1), &underlay()), device6(&routing, &node("a", 1), &underlay()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.vxlan.local, first.mac), (Some([192, 0, 2, 1].into()), vtep_mac("a")));
    assert_eq!((second.vxlan.local.map(|ip| ip.is_ipv6()), second.mac), (Some(true), vtep_mac6("a")));
    assert_eq!((first.mtu, second.mtu), (1450, 1430));
    assert_eq!(pod_mtu(&routing, &node("a", 1), &underlay()), Some(1430), "a pod has one MTU");

    let one = Underlay { v6: None, ..underlay() };
    assert_eq!(device6(&routing, &node("a", 1), &one), None);
    let part = ground(one).part(&other);
    assert!(part.routes.keys().all(|key| key.dst.is_ipv4()) && part.routes.len() == 1);
}

#[test]
fn auto_goes_plainly_to_what_is_on_the_link_and_through_the_tunnel_to_the_rest_in_each_family() {
    let mut cluster = cluster();
    let far = Node { v4: Some([198, 51, 100, 3].into()), ..node("c", 3) };
    cluster.others.insert("c".into(), far.into());
    let wanted = objects(Backend::Auto, &cluster, &underlay(), Some(DEVICE));
    let expected = [
        ("10.244.1.0/24", "unreachable"),
        ("10.244.2.0/24", "192.0.2.2 dev 2"),
        ("10.244.3.0/24", "10.244.3.0 dev 9"),
        ("fd00:1::/64", "unreachable"),
        ("fd00:2::/64", "2001:db8::2 dev 2"),
        ("fd00:3::/64", "2001:db8::3 dev 2"),
    ];
    assert_eq!(hops(&wanted), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(wanted.fdb.len(), 1, "only where there is a tunnel");
    let routing = Routing { backend: Backend::Auto, ..Routing::default() };
    assert_eq!(pod_mtu(&routing, &cluster.own, &underlay()), Some(1450), "the smaller of the two");
    let mut jumbo = underlay();
    jumbo.v4.as_mut().unwrap().mtu = 9000;
    assert_eq!(pod_mtu(&routing, &cluster.own, &jumbo), Some(1500), "the other family's link is smaller");
}

#[test]
fn of_nodes_that_claim_the_same_the_first_by_name_gets_it_and_the_other_is_named() {
    let mut cluster = cluster();
    let twin = Node { pod_cidrs: node("b", 2).pod_cidrs, ..node("c", 3) };
    cluster.others.insert("c".into(), twin.into());
    let wanted = objects(Backend::Native, &cluster, &underlay(), None);
    assert!(wanted.clashes);
    assert_eq!(hops(&wanted)[1], ("10.244.2.0/24".to_owned(), "192.0.2.2 dev 2".to_owned()));
    let told: Vec<_> = wanted.skipped.iter().map(ToString::to_string).collect();
    assert!(
        told[0].starts_with("no route to 10.244.2.0/24, fd00:2::/64 of node c: another node"),
        "{told:?}"
    );
}

#[test]
fn the_link_local_next_hop_is_the_address_that_the_other_device_gives_itself() {
    let mac: Mac = "b2:fb:bf:b8:bd:de".parse().unwrap();
    let gateway = tunnel_gateway("fd00::".parse().unwrap(), mac);
    assert_eq!(gateway.to_string(), "fe80::b0fb:bfff:feb8:bdde");
}

#[test]
fn the_tunnels_family_goes_by_what_the_node_has_and_not_by_what_is_up() {
    let (routing, mut own) = (Routing::default(), node("a", 1));
    let without_v4 = Underlay { v4: None, ..underlay() };
    assert_eq!(device(&routing, &own, &without_v4), None, "it waits rather than moves to IPv6");
    own.v4 = None;
    let spec = device(&routing, &own, &without_v4).unwrap();
    assert_eq!(spec.vxlan.local, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(spec.mtu, 1430);
}

#[test]
fn the_mtu_is_what_the_underlay_leaves_and_never_more() {
    let (mut routing, own, mut underlay) = (Routing::default(), node("a", 1), underlay());
    assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1450));
    underlay.v4.as_mut().unwrap().mtu = 1300;
    assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1250));
    assert!(mtu_warnings(&routing, &own, &underlay)[0].contains("an MTU of 1330 or more"));
    routing.mtu = Some(1400);
    assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1250));
    assert!(mtu_warnings(&routing, &own, &underlay)[0].contains("more than the 1250 bytes"));
    routing.mtu = Some(1200);
    assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1200));
    routing = Routing { backend: Backend::Native, ..Routing::default() };
    assert_eq!(pod_mtu(&routing, &own, &underlay), Some(1300), "the least of the two links'");
}

#[test]
fn a_tunnel_too_small_for_ipv6_carries_ipv4_and_names_what_is_left_out() {
    let ground = Ground {
        backend: Backend::Vxlan,
        own: node("a", 1),
        underlay: underlay(),
        mtu: 1250,
        device: Some(DEVICE),
        device6: None,
        taken: Taken::default(),
        ways: Ways::default(),
        wireguard: None,
    };
    let cluster = cluster();
    let wanted = ground.objects(cluster.others.values().map(AsRef::as_ref));
    assert_eq!(hops(&wanted).len(), 3, "{:?}", hops(&wanted));
    assert!(wanted.addresses.keys().all(|key| key.prefix.is_ipv4()), "the kernel takes no other");
    let skipped = wanted.skipped[0].to_string();
    assert!(skipped.contains("fd00:2::/64 of node b") && skipped.contains("1250 bytes"), "{skipped}");
    let refused = Ground { mtu: 1450, device: None, ..ground };
    let wanted = refused.objects(cluster.others.values().map(AsRef::as_ref));
    assert_eq!(wanted.skipped.iter().map(|skipped| skipped.why).collect::<Vec<_>>(), [Why::NoDevice; 2]);
}

#[test]
fn a_tunnel_that_packets_are_only_taken_from_has_a_device_and_no_routes() {
    let routing = Routing { backend: Backend::Native, accept: Some(Tunnel::Vxlan), ..Routing::default() };
    let (cluster, underlay) = (cluster(), underlay());
    assert!(device(&routing, &cluster.own, &underlay).is_some());
    assert_eq!(pod_mtu(&routing, &cluster.own, &underlay), Some(1450), "fit for what comes next");
    let wanted = objects(Backend::Native, &cluster, &underlay, Some(DEVICE));
    assert_eq!(wanted.addresses.len(), 2);
    assert!(wanted.fdb.is_empty() && wanted.neighbours.is_empty());
    assert!(wanted.nexthops.keys().all(|hop| hop.link == ETH0));
}
