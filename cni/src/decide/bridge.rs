//! Mode `bridge`: what a pod needs when it shares an Ethernet segment with the other pods of its subnet, as with
//! kubenet and flannel. Pure. The mode `routed` is in [`crate::decide::pod`].
//!
//! The node is on the segment too: the bridge has the gateway's address. Pods find each other and the node by ARP and
//! NDP. The node reaches the pods by the subnet's route. The bridge is made when the first pod needs it, has a MAC of
//! its own, and stays. Every port is a hairpin, so that a pod reaches itself by a Service's address.

use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, BridgePort, BridgeSpec, Family, IfIndex, IpNetwork, Link, Op, Plan, Route, RouteKey,
    VethSpec, Via, bridge_mac, family,
};

use crate::decide::grant::{Grant, Granted};
use crate::decide::pod::{self, Ends, anywhere};
use crate::edge::config::Bridge;
use crate::edge::result::{self, AddResult};

/// The bridge of a configuration.
pub fn spec(bridge: &Bridge) -> BridgeSpec {
    BridgeSpec { name: bridge.name.clone(), mac: bridge_mac(&bridge.name) }
}

/// The place of a pod's host end on the bridge.
pub const fn port(bridge: &Link, isolated: bool) -> BridgePort {
    BridgePort { bridge: bridge.index, hairpin: true, isolated }
}

/// The gateway's address with the prefix of the subnet, as it is on the bridge.
pub fn on_the_bridge(granted: &Granted) -> Option<IpNetwork> {
    IpNetwork::new(way_out(granted)?, granted.address.prefix()).ok()
}

/// The gateway that was given, else the subnet's first address, as in the reference plugin.
fn way_out(granted: &Granted) -> Option<IpAddr> {
    let first = match granted.address.network() {
        IpAddr::V4(v4) => IpAddr::from(std::net::Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?)),
        IpAddr::V6(v6) => IpAddr::from(std::net::Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?)),
    };
    granted.gateway.or(Some(first).filter(|first| granted.address.contains(*first)))
}

/// The route of the pod's interface `link` to `dst`. For its metric see [`pod::default_route`].
pub fn route(link: IfIndex, dst: IpNetwork, gateway: IpAddr) -> (RouteKey, Route) {
    let key = RouteKey::main(dst);
    let via = Via::Gateway { address: gateway, link, onlink: false };
    (RouteKey { metric: key.metric.saturating_add(link.0), ..key }, Route::ours(via))
}

/// What has to be done once the pair exists and its host end is on `bridge`.
pub fn plan(ends: &Ends, spec: &VethSpec, bridge: &Link, grant: &Grant) -> Plan {
    let mut plan = Plan::default();
    plan.pod.extend(pod::link(&ends.pod, spec.pod_mac, grant.mtu));
    plan.host.extend(pod::link(&ends.host, spec.host_mac, grant.mtu));
    for granted in &grant.addresses {
        let nodad = Address { nodad: family(&granted.address) == Family::V6 };
        plan.pod.push(Op::PutAddress(AddressKey { link: ends.pod.index, prefix: granted.address }, nodad));
        if let Some(prefix) = on_the_bridge(granted) {
            plan.host.push(Op::PutAddress(AddressKey { link: bridge.index, prefix }, nodad));
        }
    }
    for (dst, gateway) in routes(grant) {
        let (key, route) = route(ends.pod.index, dst, gateway);
        plan.pod.push(Op::PutRoute(key, route));
    }
    plan
}

/// The pod's routes: those that came with the addresses, else a default route for each family.
fn routes(grant: &Grant) -> Vec<(IpNetwork, IpAddr)> {
    let of = |wanted| {
        let mut granted = grant.addresses.iter().filter(move |granted| family(&granted.address) == wanted);
        granted.find_map(way_out)
    };
    if grant.routes.is_empty() {
        return grant.families().filter_map(|family| Some((anywhere(family), of(family)?))).collect();
    }
    let given = grant.routes.iter();
    given.filter_map(|route| Some((route.dst, route.gw.or_else(|| of(family(&route.dst)))?))).collect()
}

/// The result of ADD. It names the bridge first, and then the two ends.
pub fn result(ends: &Ends, spec: &VethSpec, bridge: &Link, grant: &Grant, sandbox: &str) -> AddResult {
    let [host, pod] = pod::interfaces(ends, spec, grant, sandbox);
    let itself = result::Interface {
        name: bridge.name.to_string(),
        mac: bridge.mac.map(|mac| mac.to_string()),
        mtu: None,
        sandbox: String::new(),
        socket_path: None,
        pci_id: None,
    };
    let ip = |granted: &Granted| result::Ip {
        version: None,
        interface: Some(2),
        address: granted.address,
        gateway: way_out(granted),
    };
    AddResult {
        version: String::new(),
        interfaces: vec![itself, host, pod],
        ips: grant.addresses.iter().map(ip).collect(),
        routes: routes(grant).into_iter().map(|(dst, gw)| result::Route::plain(dst, Some(gw))).collect(),
        dns: grant.dns.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(address: &str, gateway: Option<&str>) -> Granted {
        Granted { address: address.parse().unwrap(), gateway: gateway.map(|text| text.parse().unwrap()) }
    }

    #[test]
    fn a_gateway_that_nobody_gave_is_the_subnets_first_address() {
        for (address, gateway, expected) in [
            ("10.1.2.3/24", Some("10.1.2.9"), "10.1.2.9/24"),
            ("10.1.2.3/24", None, "10.1.2.1/24"),
            ("fd00::5/64", None, "fd00::1/64"),
        ] {
            assert_eq!(on_the_bridge(&granted(address, gateway)).unwrap().to_string(), expected);
        }
        assert_eq!(on_the_bridge(&granted("10.1.2.3/32", None)), None);
    }

    #[test]
    fn routes_that_were_given_are_the_pods_with_its_gateway() {
        let dst = "192.0.2.0/24".parse().unwrap();
        let mut grant =
            Grant { addresses: vec![granted("10.1.2.3/24", Some("10.1.2.1"))], ..Grant::default() };
        assert_eq!(routes(&grant), [(anywhere(Family::V4), "10.1.2.1".parse().unwrap())]);
        grant.routes = vec![result::Route::plain(dst, None)];
        assert_eq!(routes(&grant), [(dst, "10.1.2.1".parse().unwrap())]);
    }
}
