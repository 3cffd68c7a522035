//! Recognises what is ours by protocol number, name, kind and VNI, never by guessing: pure. All else is left alone.

use std::collections::BTreeMap;
use std::fmt;

use ferrule_config::Vxlan;
use ferrule_model::{
    AddressKey, IfIndex, IfName, Link, LinkChange, LinkKind, Mac, Nexthop, NexthopId, PROTOCOL, Route,
    RouteKey, RouteKind, Via, VxlanSpec, is_host_veth,
};

use crate::decide::objects::Nexthops;
use crate::decide::objects::Objects;

/// Of the routes with our protocol number, those that `routed` is responsible for. The routes out of pods' links are
/// the plugin's. A route whose link is not among `links` is left alone. So `links` must have been listed after
/// `routes`: then the link of a pod that has just come is among them.
pub fn routes(
    mut routes: BTreeMap<RouteKey, Route>,
    links: &BTreeMap<IfIndex, Link>,
) -> BTreeMap<RouteKey, Route> {
    routes.retain(|_, route| is_ours(route, |index| links.get(&index)));
    routes
}

/// Whether `routed` is responsible for a route.
pub fn is_ours<'a>(route: &Route, link: impl Fn(IfIndex) -> Option<&'a Link>) -> bool {
    let pods = |index| link(index).is_none_or(|link| is_host_veth(link.name.as_str()));
    route.protocol == PROTOCOL && !route.link().is_some_and(pods)
}

/// `RTPROT_BOOT`: the protocol of flannel's routes, and of those that a person typed.
pub const FLANNELS_PROTOCOL: u8 = 3;

/// Whether the names of these settings are those of flannel's devices.
pub fn are_flannels(settings: &Vxlan) -> bool {
    settings.device.as_str().starts_with("flannel")
}

/// Whether a route has exactly the form that flannel gives its own: through one of our devices, to a network, by way of
/// that network's first address, and `onlink`.
pub fn is_flannels(key: &RouteKey, route: &Route, devices: &[IfIndex]) -> bool {
    let is_vtep = matches!(route.kind, RouteKind::Unicast(Via::Gateway { address, link, onlink: true })
        if address == key.dst.network() && devices.contains(&link));
    is_vtep && route.protocol == FLANNELS_PROTOCOL && *key == RouteKey::main(key.dst)
}

/// Of all nexthop objects those with our protocol number.
pub fn nexthops(all: &Nexthops) -> BTreeMap<NexthopId, Nexthop> {
    let plain = all.iter().filter_map(|(id, nexthop)| Some((*id, (*nexthop)?)));
    plain.filter(|(_, nexthop)| nexthop.protocol == PROTOCOL).collect()
}

/// Whether a route of flannel leads where our route is to lead without a tunnel. The backend host-gw, and the backend
/// vxlan with DirectRouting, make such routes in a form that anybody could use. So only those count that have the
/// destination, the node and the link that our route will have.
pub fn is_flannels_to(key: &RouteKey, route: &Route, wanted: &Objects) -> bool {
    let target = wanted.routes.get(key).map(|route| route.kind);
    let Some(RouteKind::Unicast(Via::Nexthop(id))) = target else { return false };
    let leads_there = |hop: &Nexthop| {
        let via = Via::Gateway { address: hop.gateway, link: hop.link, onlink: false };
        !hop.onlink && route.kind == RouteKind::Unicast(via)
    };
    route.protocol == FLANNELS_PROTOCOL && wanted.nexthops.get(&id).is_some_and(leads_there)
}

/// Whether an address of our device is ours rather than the kernel's own link-local one.
pub fn is_our_address(key: &AddressKey) -> bool {
    match key.prefix.ip() {
        std::net::IpAddr::V4(_) => true,
        std::net::IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// What is to be done about the VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceStep {
    /// No device is wanted and none is there.
    Nothing,
    /// The device is as it should be.
    Keep(IfIndex),
    /// The device is ours, and can be corrected in place.
    Change(IfIndex, LinkChange),
    /// There is no device, and one is wanted.
    Create,
    /// The device is ours, but so different that it must be deleted and made again.
    Recreate(IfIndex),
    /// The device is ours and no longer wanted.
    Remove(IfIndex),
}

/// A link that is not ours has our device's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the link {name} is not Ferrule's ({kind}) and is left alone; remove it with `ip link del {name}`, or choose another \
     name as `device` in [routing.vxlan] or [routing.wireguard]"
)]
pub struct ForeignDevice {
    name: IfName,
    kind: Kind,
}

impl ForeignDevice {
    /// The error about this link, which has the name of one of our devices.
    pub fn of(link: &Link) -> Self {
        Self { name: link.name.clone(), kind: Kind(link.kind.clone()) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind(LinkKind);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            LinkKind::Loopback => f.write_str("it is the loopback device"),
            LinkKind::Veth => f.write_str("it is a veth"),
            LinkKind::Wireguard => f.write_str("it is a WireGuard device of someone else's"),
            LinkKind::Vxlan(vxlan) => write!(f, "its VNI is {}", vxlan.vni),
            LinkKind::Other(kind) if kind.is_empty() => f.write_str("it has no kind"),
            LinkKind::Other(kind) => write!(f, "it is a {kind} device"),
        }
    }
}

/// Whether a link with our device's name is ours: a VXLAN device with our VNI, or with the MAC that only this node's
/// device has (then the VNI in the configuration was changed).
fn is_our_device(link: &Link, settings: &Vxlan, mac: Mac) -> bool {
    match &link.kind {
        LinkKind::Vxlan(vxlan) => vxlan.vni == settings.vni || link.mac == Some(mac),
        LinkKind::Loopback | LinkKind::Veth | LinkKind::Wireguard | LinkKind::Other(_) => false,
    }
}

/// Whether a link is our device under another name, which an earlier configuration gave it. It is recognised by its
/// VNI, its port, and the MAC that only this node's device has.
pub fn is_our_renamed_device(link: &Link, settings: &Vxlan, mac: Mac) -> bool {
    match &link.kind {
        LinkKind::Vxlan(vxlan) => {
            vxlan.vni == settings.vni && vxlan.port == settings.port && link.mac == Some(mac)
        }
        LinkKind::Loopback | LinkKind::Veth | LinkKind::Wireguard | LinkKind::Other(_) => false,
    }
}

/// What is to be done about the device. The link is the one that has its name, or that is ours under another name.
///
/// # Errors
/// The device is wanted, and the link of its name is not ours.
pub fn device_step(
    wanted: Option<&VxlanSpec>,
    found: Option<&Link>,
    settings: &Vxlan,
    mac: Mac,
) -> Result<DeviceStep, ForeignDevice> {
    let found_ours = found.filter(|link| is_our_device(link, settings, mac));
    match (wanted, found_ours, found) {
        (None, None, _) => Ok(DeviceStep::Nothing),
        (None, Some(link), _) => Ok(DeviceStep::Remove(link.index)),
        (Some(_), None, None) => Ok(DeviceStep::Create),
        (Some(spec), None, Some(link)) => {
            debug_assert_eq!(spec.name, link.name);
            Err(ForeignDevice::of(link))
        }
        (Some(spec), Some(link), _)
            if link.kind != LinkKind::Vxlan(spec.vxlan.clone()) || link.name != spec.name =>
        {
            Ok(DeviceStep::Recreate(link.index))
        }
        (Some(spec), Some(link), _) => {
            let change = LinkChange {
                up: (!link.up).then_some(true),
                mtu: (link.mtu != spec.mtu).then_some(spec.mtu),
                mac: (link.mac != Some(spec.mac)).then_some(spec.mac),
                alias: None,
            };
            if change == LinkChange::default() {
                Ok(DeviceStep::Keep(link.index))
            } else {
                Ok(DeviceStep::Change(link.index, change))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::vtep_mac;

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        Link {
            index: IfIndex(index),
            name: IfName::new(name).unwrap(),
            mac: Some(vtep_mac("a")),
            mtu: 1450,
            up: true,
            carrier: true,
            alias: None,
            peer: None,
            kind,
        }
    }

    fn vxlan(vni: u32) -> ferrule_model::Vxlan {
        ferrule_model::Vxlan { vni, port: 8472, local: None, underlay: None, learning: false, gbp: false }
    }

    fn spec() -> VxlanSpec {
        VxlanSpec { name: IfName::new("ferrule.1").unwrap(), mac: vtep_mac("a"), mtu: 1450, vxlan: vxlan(1) }
    }

    fn step(wanted: Option<&VxlanSpec>, found: Option<&Link>) -> Result<DeviceStep, ForeignDevice> {
        device_step(wanted, found, &Vxlan::default(), vtep_mac("a"))
    }

    #[test]
    fn routes_out_of_pods_links_and_unknown_ones_are_not_ours() {
        let links =
            [link(2, "eth0", LinkKind::Other(String::new())), link(3, "fer0123456789ab", LinkKind::Veth)];
        let links: BTreeMap<_, _> = links.into_iter().map(|link| (link.index, link)).collect();
        let key = |third: u8| RouteKey::main(format!("10.244.{third}.0/24").parse().unwrap());
        let via = |index| Route::ours(Via::Link(IfIndex(index)));
        let all = BTreeMap::from([
            (key(0), Route::unreachable()),
            (key(1), Route::ours(Via::Nexthop(NexthopId(9)))),
            (key(2), via(2)),
            (key(3), via(3)),
            (key(4), via(4)),
            (key(5), Route { protocol: 4, ..Route::unreachable() }),
        ]);
        assert_eq!(routes(all, &links).into_keys().collect::<Vec<_>>(), [key(0), key(1), key(2)]);
    }

    #[test]
    fn of_routes_through_our_device_flannels_own_are_known_by_their_form() {
        let device = IfIndex(9);
        let is = |dst: &str, address: &str, link: IfIndex, onlink: bool, protocol: u8| {
            let via = Via::Gateway { address: address.parse().unwrap(), link, onlink };
            let route = Route { protocol, ..Route::ours(via) };
            is_flannels(&RouteKey::main(dst.parse().unwrap()), &route, &[device])
        };
        assert!(is("10.244.2.0/24", "10.244.2.0", device, true, 3));
        assert!(is("fd00:2::/64", "fd00:2::", device, true, 3));
        assert!(!is("10.244.2.0/24", "10.244.2.1", device, true, 3), "another gateway");
        assert!(!is("10.244.2.0/24", "10.244.2.0", IfIndex(2), true, 3), "another device");
        assert!(!is("10.244.2.0/24", "10.244.2.0", device, false, 3), "not for granted");
        assert!(!is("10.244.2.0/24", "10.244.2.0", device, true, 4), "another program's");
    }

    #[test]
    fn of_plain_routes_flannels_own_are_those_that_lead_where_ours_will() {
        let gateway = "192.0.2.2".parse().unwrap();
        let hop = Nexthop { gateway, link: IfIndex(2), onlink: false, protocol: PROTOCOL };
        let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
        let wanted = |hop: Nexthop| Objects {
            routes: BTreeMap::from([(key, Route::ours(Via::Nexthop(NexthopId(7))))]),
            nexthops: BTreeMap::from([(NexthopId(7), hop)]),
            ..Objects::default()
        };
        let via = |address: &str, link: u32, onlink: bool, protocol: u8| {
            let via = Via::Gateway { address: address.parse().unwrap(), link: IfIndex(link), onlink };
            Route { protocol, ..Route::ours(via) }
        };
        let right = via("192.0.2.2", 2, false, 3);
        let is = |key: RouteKey, route: Route| is_flannels_to(&key, &route, &wanted(hop));
        assert!(is(key, right));
        assert!(!is(key, via("192.0.2.3", 2, false, 3)), "another node");
        assert!(!is(key, via("192.0.2.2", 3, false, 3)), "another link");
        assert!(!is(key, via("192.0.2.2", 2, true, 3)), "for granted");
        assert!(!is(key, via("192.0.2.2", 2, false, 4)), "another program's");
        assert!(!is(key, Route { protocol: 3, ..Route::ours(Via::Link(IfIndex(2))) }));
        assert!(!is(RouteKey { metric: 5, ..key }, right), "another metric");
        assert!(!is(RouteKey::main("10.244.3.0/24".parse().unwrap()), right), "nobody's network");
        let tunnelled = wanted(Nexthop { onlink: true, ..hop });
        assert!(!is_flannels_to(&key, &right, &tunnelled), "ours will go through a tunnel");
    }

    #[test]
    fn the_device_is_made_kept_changed_recreated_or_removed() {
        let right = link(5, "ferrule.1", LinkKind::Vxlan(vxlan(1)));
        let index = right.index;
        assert_eq!(step(Some(&spec()), None), Ok(DeviceStep::Create));
        assert_eq!(step(Some(&spec()), Some(&right)), Ok(DeviceStep::Keep(index)));
        let off = Link { up: false, mtu: 1400, ..right.clone() };
        let change = LinkChange { up: Some(true), mtu: Some(1450), ..LinkChange::default() };
        assert_eq!(step(Some(&spec()), Some(&off)), Ok(DeviceStep::Change(index, change)));
        let other_port =
            Link { kind: LinkKind::Vxlan(ferrule_model::Vxlan { port: 4789, ..vxlan(1) }), ..right.clone() };
        assert_eq!(step(Some(&spec()), Some(&other_port)), Ok(DeviceStep::Recreate(index)));
        assert_eq!(step(None, Some(&right)), Ok(DeviceStep::Remove(index)));
        assert_eq!(step(None, None), Ok(DeviceStep::Nothing));
    }

    #[test]
    fn our_device_is_known_under_the_name_that_it_had() {
        let old = link(5, "flannel.1", LinkKind::Vxlan(vxlan(1)));
        let settings = Vxlan::default();
        assert!(is_our_renamed_device(&old, &settings, vtep_mac("a")));
        assert_eq!(step(Some(&spec()), Some(&old)), Ok(DeviceStep::Recreate(IfIndex(5))));
        assert!(!is_our_renamed_device(&old, &settings, vtep_mac("b")));
        assert!(!is_our_renamed_device(&old, &Vxlan { port: 4789, ..settings }, vtep_mac("a")));
    }

    #[test]
    fn our_mac_tells_our_device_after_the_vni_was_changed() {
        let old_vni = link(5, "ferrule.1", LinkKind::Vxlan(vxlan(7)));
        assert_eq!(step(Some(&spec()), Some(&old_vni)), Ok(DeviceStep::Recreate(IfIndex(5))));
    }

    #[test]
    fn a_foreign_link_with_our_name_is_left_alone_and_named() {
        let bridge = link(5, "ferrule.1", LinkKind::Other("bridge".into()));
        let error = step(Some(&spec()), Some(&bridge)).unwrap_err().to_string();
        assert!(
            error.contains("it is a bridge device") && error.contains("ip link del ferrule.1"),
            "{error}"
        );
        assert_eq!(step(None, Some(&bridge)), Ok(DeviceStep::Nothing));
        let theirs = Link { mac: None, ..link(5, "ferrule.1", LinkKind::Vxlan(vxlan(7))) };
        assert!(step(Some(&spec()), Some(&theirs)).unwrap_err().to_string().contains("its VNI is 7"));
        assert_eq!(step(None, Some(&theirs)), Ok(DeviceStep::Nothing));
    }
}
