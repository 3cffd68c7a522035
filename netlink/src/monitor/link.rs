//! Links from events. rtnetlink reads these, not `link`.

use ferrule_model::{BridgePort, IfIndex, IfName, Link, LinkKind, Mac, Vxlan, is_host_veth};
use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

/// `IFLA_BRPORT_MODE` and `IFLA_BRPORT_ISOLATED` of `linux/if_link.h`.
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;

/// Whether a bridge sent the message about its port. Such a message says less about the link than the link's own.
pub(super) fn is_of_bridge(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Bridge
}

/// The place of the host's end of a pod's veth pair on a bridge.
pub(super) fn port(message: &LinkMessage) -> Option<(IfIndex, Option<BridgePort>)> {
    let (mut bridge, mut hairpin, mut isolated, mut is_pods) = (None, None, false, false);
    let mut flag = |kind: u16, on: bool| match kind {
        BRPORT_MODE => hairpin = Some(on),
        BRPORT_ISOLATED => isolated = on,
        _ => {}
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => is_pods = is_host_veth(name),
            LinkAttribute::Controller(link) => bridge = (*link != 0).then_some(IfIndex(*link)),
            LinkAttribute::ProtoInfoBridge(infos) => infos.iter().for_each(|info| {
                let mut value = vec![0; info.value_len()];
                info.emit_value(&mut value);
                flag(info.kind(), value != [0]);
            }),
            LinkAttribute::LinkInfo(infos) => {
                let data = infos.iter().filter_map(|info| match info {
                    LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
                    _ => None,
                });
                data.flatten().for_each(|info| match info {
                    InfoBridgePort::HairpinMode(on) => flag(BRPORT_MODE, *on),
                    InfoBridgePort::Isolated(on) => flag(BRPORT_ISOLATED, *on),
                    _ => {}
                });
            }
            _ => {}
        }
    }
    let port = bridge.zip(hairpin).map(|(bridge, hairpin)| BridgePort { bridge, hairpin, isolated });
    is_pods.then_some((IfIndex(message.header.index), port))
}

pub(super) fn told(message: &LinkMessage) -> Option<Link> {
    if is_of_bridge(message) {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: IfIndex(message.header.index),
        name: IfName::new("?").ok()?,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        alias: None,
        peer: None,
        kind: LinkKind::Other(String::new()),
    };
    let mut named = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => {
                link.name = IfName::new(name.as_str()).ok()?;
                named = true;
            }
            LinkAttribute::Address(octets) => link.mac = octets.as_slice().try_into().ok().map(Mac::new),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Link(peer) => link.peer = (*peer != 0).then_some(IfIndex(*peer)),
            LinkAttribute::LinkInfo(infos) => link.kind = link_kind(infos),
            _ => {}
        }
    }
    if flags.contains(LinkFlags::Loopback) {
        link.kind = LinkKind::Loopback;
    }
    named.then_some(link)
}

fn link_kind(infos: &[LinkInfo]) -> LinkKind {
    let mut kind = LinkKind::Other(String::new());
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Veth) => kind = LinkKind::Veth,
            LinkInfo::Kind(InfoKind::Vxlan) => {}
            LinkInfo::Kind(InfoKind::Wireguard) => kind = LinkKind::Wireguard,
            LinkInfo::Kind(other) => kind = LinkKind::Other(other.to_string()),
            LinkInfo::Data(InfoData::Vxlan(data)) => kind = LinkKind::Vxlan(vxlan(data)),
            _ => {}
        }
    }
    kind
}

fn vxlan(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, port: 0, local: None, underlay: None, learning: false, gbp: false };
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(v4) => vxlan.local = Some((*v4).into()),
            InfoVxlan::Local6(v6) => vxlan.local = Some((*v6).into()),
            InfoVxlan::Link(link) => vxlan.underlay = (*link != 0).then_some(IfIndex(*link)),
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Gbp => vxlan.gbp = true,
            _ => {}
        }
    }
    vxlan
}

#[cfg(test)]
mod tests {
    use ferrule_model::{BridgePort, BridgeSpec, Op, VethSpec, VxlanSpec};
    use netlink_packet_core::Parseable;

    use super::*;
    use crate::socket::Socket;
    use crate::traffic::Traffic;
    use crate::{Bridges, Kernel, Netlink, link, netns};

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn vxlan_spec(text: &str, vni: u32, local: Option<&str>, underlay: Option<IfIndex>) -> VxlanSpec {
        let local = local.map(|local| local.parse().unwrap());
        let vxlan = Vxlan { vni, port: 8472, local, underlay, learning: underlay.is_some(), gbp: false };
        VxlanSpec { name: name(text), mac: Mac::local([3; 6]), mtu: 1400, vxlan }
    }

    /// This crate and the packet crate read the same.
    #[test]
    fn a_link_is_the_same_in_an_event_and_in_an_answer() {
        let (here, pod) = (netns::make().unwrap(), netns::make().unwrap());
        let mut kernel = Netlink::open_in(&here).unwrap();
        let spec = VethSpec {
            host_name: name("fer0"),
            host_mac: Mac::local([1; 6]),
            alias: Some("pods: größer".into()),
            pod_name: name("eth0"),
            pod_mac: Mac::local([2; 6]),
        };
        let veth = kernel.create_veth(&spec, &pod).unwrap();
        let bridge = BridgeSpec { name: name("fbr0"), mac: Mac::local([4; 6]) };
        kernel.create_bridge(&bridge).unwrap();
        let bridge = kernel.link(&bridge.name).unwrap().unwrap().index;
        kernel.set_port(veth.index, BridgePort { bridge, hairpin: true, isolated: true }).unwrap();
        kernel.add_ifb(&name("fei0"), 1450, "pods: a").unwrap();
        let devices = [
            vxlan_spec("ferrule.1", 1, Some("192.0.2.1"), Some(veth.index)),
            vxlan_spec("ferrule.2", 2, Some("2001:db8::1"), None),
            vxlan_spec("ferrule.3", 0xff_ffff, None, None),
        ];
        for result in kernel.apply(&devices.map(Op::AddVxlan)).unwrap() {
            result.unwrap();
        }
        let messages = Socket::open_in(&here).unwrap().dump(&link::all()).unwrap();
        assert_eq!(messages.len(), 7);
        for message in messages {
            let read = link::parse(&message.payload).unwrap();
            assert_eq!(Some(read), told(&LinkMessage::parse(&message.payload).unwrap()));
        }
    }
}
