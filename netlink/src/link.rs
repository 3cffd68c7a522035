//! Messages about links, in both directions: `struct ifinfomsg`, and those of its hundred attributes that our links
//! need.
//!
//! They are written and read by hand, because every ADD and DEL waits for them. The packet crate reads all hundred
//! attributes, and would bring the code for every kind of link into the plugin. The tests compare with it.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ferrule_model::{
    BridgePort, BridgeSpec, IfIndex, IfName, Link, LinkChange, LinkKind, Mac, VethSpec, Vxlan, VxlanSpec,
    WireguardSpec,
};
use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use crate::encode::rtm;
use crate::socket::Request;

/// Length of `struct ifinfomsg`: family, type, number, flags, and which flags are meant.
const HEADER_LEN: usize = 16;
/// The places of the number and of the flags in it.
const INDEX_AT: usize = 4;
const FLAGS_AT: usize = 8;
/// `IFF_UP`, `IFF_LOOPBACK`, `IFF_LOWER_UP`.
const UP: u32 = 1;
const LOOPBACK: u32 = 1 << 3;
const LOWER_UP: u32 = 1 << 16;

/// `IFLA_*` of `linux/if_link.h`.
mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const IFNAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const IFALIAS: u16 = 20;
    pub(super) const AF_SPEC: u16 = 26;
    pub(super) const NET_NS_FD: u16 = 28;
    /// The number by which this namespace knows the namespace of the other end.
    pub(super) const LINK_NETNSID: u16 = 37;
    pub(super) const TARGET_NETNSID: u16 = 46;
    pub(super) const PROP_LIST: u16 = 52;
    /// Inside of `PROP_LIST`.
    pub(super) const ALT_IFNAME: u16 = 53;
    pub(super) const NUM_TX_QUEUES: u16 = 31;
    pub(super) const NUM_RX_QUEUES: u16 = 32;
    /// Inside of `LINKINFO`.
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const INFO_SLAVE_KIND: u16 = 4;
    pub(super) const INFO_SLAVE_DATA: u16 = 5;
    /// Inside of what `AF_SPEC` has for `AF_INET6`.
    pub(super) const INET6_ADDR_GEN_MODE: u16 = 8;
    /// Inside of a veth pair's `INFO_DATA`: a whole message about the other end.
    pub(super) const VETH_INFO_PEER: u16 = 1;
    /// Inside of a VXLAN device's `INFO_DATA`.
    pub(super) const VXLAN_ID: u16 = 1;
    pub(super) const VXLAN_LINK: u16 = 3;
    pub(super) const VXLAN_LOCAL: u16 = 4;
    pub(super) const VXLAN_LEARNING: u16 = 7;
    pub(super) const VXLAN_PORT: u16 = 15;
    pub(super) const VXLAN_LOCAL6: u16 = 17;
    pub(super) const VXLAN_GBP: u16 = 23;
    /// Inside of a bridge port's `INFO_SLAVE_DATA`: the state, the hairpin mode, and isolation.
    pub(super) const BRPORT_STATE: u16 = 1;
    pub(super) const BRPORT_MODE: u16 = 4;
    pub(super) const BRPORT_ISOLATED: u16 = 33;
}

/// `BR_STATE_FORWARDING`.
const FORWARDING: u8 = 3;

/// `IFALIASZ` without the NUL.
const ALIAS_MAX: usize = 255;

/// Attributes one after another, behind any header.
struct Draft(Vec<u8>);

impl Draft {
    /// A draft about the link of this number. The number is 0 if the link is given by its name, or is to be made.
    fn of(index: IfIndex) -> Self {
        let mut header = vec![0; HEADER_LEN];
        header[INDEX_AT..INDEX_AT + 4].copy_from_slice(&index.0.to_ne_bytes());
        Self(header)
    }

    fn named(name: &IfName) -> Self {
        Self::of(IfIndex(0)).text(ifla::IFNAME, name.as_str())
    }

    fn up(mut self, up: bool) -> Self {
        let [flags, mask] = [if up { UP } else { 0 }, UP].map(u32::to_ne_bytes);
        self.0[FLAGS_AT..HEADER_LEN].copy_from_slice(&[flags, mask].concat());
        self
    }

    /// Adds an attribute. Ours are far shorter than the 64 KiB that an attribute may have.
    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Asks for one queue in each direction. A veth end uses only one unless told otherwise (`veth_init_queues`). But
    /// the kernel makes one for each processor and then removes all but the first, and each is an object in sysfs.
    fn one_queue(self) -> Self {
        let one = 1_u32.to_ne_bytes();
        self.with(ifla::NUM_TX_QUEUES, &one).with(ifla::NUM_RX_QUEUES, &one)
    }

    /// Adds `IFLA_LINKINFO`.
    fn info(self, info: &Self) -> Self {
        self.with(ifla::LINKINFO, &info.0)
    }

    fn request(self, kind: u16, flags: u16) -> Request {
        Request { kind, flags, payload: self.0 }
    }

    /// The request to make this link, whose name must not be taken.
    fn make(self) -> Request {
        self.request(rtm::NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    }
}

/// The inside of another attribute, which has no header.
fn kind(kind: &str) -> Draft {
    Draft(Vec::new()).text(ifla::INFO_KIND, kind)
}

/// One request for a veth pair with its other end in `pod`, both off. The other end cannot be switched on here, because
/// `veth_open` wants its peer to exist already. And if the first end goes on without the other, the kernel walks
/// through all IPv6 routes (`rt6_sync_up`): when it goes on, at each change, and when it gets its carrier.
pub(crate) fn veth(spec: &VethSpec, pod: BorrowedFd<'_>) -> Request {
    let peer = Draft::named(&spec.pod_name)
        .with(ifla::ADDRESS, &spec.pod_mac.octets())
        .with(ifla::NET_NS_FD, &pod.as_raw_fd().to_ne_bytes())
        .one_queue();
    let data = Draft(Vec::new()).with(ifla::VETH_INFO_PEER, &peer.0);
    let host = Draft::named(&spec.host_name).with(ifla::ADDRESS, &spec.host_mac.octets()).one_queue();
    host.info(&kind("veth").with(ifla::INFO_DATA, &data.0)).make()
}

/// Sets `IFLA_IFALIAS`. The kernel ignores that attribute in a request that makes a link (`rtnl_create_link`). An alias
/// that is too long for the kernel is cut.
pub(crate) fn alias(link: &IfName, alias: &str) -> Request {
    Draft::named(link).with(ifla::IFALIAS, cut(alias)).request(rtm::NEWLINK, 0)
}

/// The alias, cut to the length that fits, without the NUL, which the kernel would count (`dev_set_alias`).
fn cut(alias: &str) -> &[u8] {
    &alias.as_bytes()[..alias.floor_char_boundary(ALIAS_MAX)]
}

/// Keeps the kernel from making an IPv6 address for the link of this name when the link goes on
/// (`IN6_ADDR_GEN_MODE_NONE`). The request that makes the link cannot say so, because the link has no IPv6 yet
/// (`inet6_validate_link_af`).
pub(crate) fn without_address(link: &IfName) -> Request {
    const AF_INET6: u16 = 10;
    let inet6 = Draft(Vec::new()).with(ifla::INET6_ADDR_GEN_MODE, &[1]);
    let families = Draft(Vec::new()).with(AF_INET6, &inet6.0);
    Draft::named(link).with(ifla::AF_SPEC, &families.0).request(rtm::NEWLINK, 0)
}

/// A VXLAN device.
pub(crate) fn vxlan(spec: &VxlanSpec) -> Request {
    let Vxlan { vni, port, local, underlay, learning, gbp } = &spec.vxlan;
    let mut data = Draft(Vec::new())
        .with(ifla::VXLAN_ID, &vni.to_ne_bytes())
        .with(ifla::VXLAN_PORT, &port.to_be_bytes())
        .with(ifla::VXLAN_LEARNING, &[u8::from(*learning)]);
    data = match local {
        Some(IpAddr::V4(v4)) => data.with(ifla::VXLAN_LOCAL, &v4.octets()),
        Some(IpAddr::V6(v6)) => data.with(ifla::VXLAN_LOCAL6, &v6.octets()),
        None => data,
    };
    if let Some(underlay) = underlay {
        data = data.with(ifla::VXLAN_LINK, &underlay.0.to_ne_bytes());
    }
    if *gbp {
        data = data.with(ifla::VXLAN_GBP, &[]);
    }
    let device = Draft::named(&spec.name)
        .up(true)
        .with(ifla::ADDRESS, &spec.mac.octets())
        .with(ifla::MTU, &spec.mtu.to_ne_bytes());
    device.info(&kind("vxlan").with(ifla::INFO_DATA, &data.0)).make()
}

/// A WireGuard device, off.
pub(crate) fn wireguard(spec: &WireguardSpec) -> Request {
    Draft::named(&spec.name).with(ifla::MTU, &spec.mtu.to_ne_bytes()).info(&kind("wireguard")).make()
}

/// A bridge, on.
pub(crate) fn bridge(spec: &BridgeSpec) -> Request {
    let bridge = Draft::named(&spec.name).up(true).with(ifla::ADDRESS, &spec.mac.octets());
    bridge.info(&kind("bridge")).make()
}

/// A device to which incoming packets of other links can be redirected, on.
pub(crate) fn ifb(name: &IfName, mtu: u32) -> Request {
    Draft::named(name).up(true).with(ifla::MTU, &mtu.to_ne_bytes()).info(&kind("ifb")).make()
}

/// Two requests that belong together. The kind of port can be set only for a link that is a port.
pub(crate) fn port(link: IfIndex, port: BridgePort) -> [Request; 2] {
    let join = Draft::of(link).with(ifla::MASTER, &port.bridge.0.to_ne_bytes());
    let flags = Draft(Vec::new())
        .with(ifla::BRPORT_MODE, &[u8::from(port.hairpin)])
        .with(ifla::BRPORT_ISOLATED, &[u8::from(port.isolated)]);
    let info = Draft(Vec::new()).text(ifla::INFO_SLAVE_KIND, "bridge").with(ifla::INFO_SLAVE_DATA, &flags.0);
    [join, Draft::of(link).info(&info)].map(|draft| draft.request(rtm::NEWLINK, 0))
}

/// A change of the link of this number.
pub(crate) fn change(link: IfIndex, change: &LinkChange) -> Request {
    let mut draft = Draft::of(link);
    if let Some(up) = change.up {
        draft = draft.up(up);
    }
    if let Some(mtu) = change.mtu {
        draft = draft.with(ifla::MTU, &mtu.to_ne_bytes());
    }
    if let Some(mac) = change.mac {
        draft = draft.with(ifla::ADDRESS, &mac.octets());
    }
    if let Some(alias) = &change.alias {
        draft = draft.with(ifla::IFALIAS, cut(alias));
    }
    draft.request(rtm::NEWLINK, 0)
}

/// The deletion of the link of this number.
pub(crate) fn delete(link: IfIndex) -> Request {
    Draft::of(link).request(rtm::DELLINK, 0)
}

/// The link of this name.
pub(crate) fn named(name: &IfName) -> Request {
    Draft::named(name).request(rtm::GETLINK, 0)
}

/// The link of this number.
pub(crate) fn numbered(link: IfIndex) -> Request {
    Draft::of(link).request(rtm::GETLINK, 0)
}

/// The link of the number `link` in the namespace that is known here under the number `namespace`.
pub(crate) fn in_namespace(namespace: u32, link: IfIndex) -> Request {
    Draft::of(link).with(ifla::TARGET_NETNSID, &namespace.to_ne_bytes()).request(rtm::GETLINK, 0)
}

/// The namespace and the number of the other end of the link in a message, if the other end is in another namespace.
pub(crate) fn peer(payload: &[u8]) -> Option<(u32, IfIndex)> {
    let attribute = |wanted| {
        let mut found = attributes(payload.get(HEADER_LEN..)?);
        found.find(|(kind, _)| *kind == wanted).and_then(|(_, value)| number(value))
    };
    Some((attribute(ifla::LINK_NETNSID)?, IfIndex(attribute(ifla::LINK)?)))
}

/// All links.
pub(crate) fn all() -> Request {
    numbered(IfIndex(0))
}

/// The number of the link in a message.
pub(crate) fn index(payload: &[u8]) -> Option<IfIndex> {
    number(payload.get(INDEX_AT..INDEX_AT + 4)?).map(IfIndex)
}

/// The link in a message; `None` without a name.
pub(crate) fn parse(payload: &[u8]) -> Option<Link> {
    let flags = number(payload.get(FLAGS_AT..FLAGS_AT + 4)?)?;
    let (mut name, mut mac, mut mtu, mut alias, mut peer) = (None, None, 0, None, None);
    let mut kind = LinkKind::Other(String::new());
    for (attribute, value) in attributes(payload.get(HEADER_LEN..)?) {
        match attribute {
            ifla::IFNAME => name = IfName::new(text(value)).ok(),
            ifla::ADDRESS => mac = value.try_into().ok().map(Mac::new),
            ifla::MTU => mtu = number(value)?,
            ifla::IFALIAS => alias = Some(text(value)),
            ifla::LINK => peer = number(value).filter(|peer| *peer != 0).map(IfIndex),
            ifla::LINKINFO => kind = link_kind(value),
            _ => {}
        }
    }
    if flags & LOOPBACK != 0 {
        kind = LinkKind::Loopback;
    }
    let (up, carrier) = (flags & UP != 0, flags & LOWER_UP != 0);
    Some(Link { index: index(payload)?, name: name?, mac, mtu, up, carrier, alias, peer, kind })
}

fn link_kind(info: &[u8]) -> LinkKind {
    let inside = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let kind = inside(ifla::INFO_KIND).map(text).unwrap_or_default();
    match (kind.as_str(), inside(ifla::INFO_DATA)) {
        ("veth", _) => LinkKind::Veth,
        ("vxlan", Some(data)) => LinkKind::Vxlan(parse_vxlan(data)),
        ("wireguard", _) => LinkKind::Wireguard,
        _ => LinkKind::Other(kind),
    }
}

fn parse_vxlan(data: &[u8]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, port: 0, local: None, underlay: None, learning: false, gbp: false };
    for (attribute, value) in attributes(data) {
        match attribute {
            ifla::VXLAN_ID => vxlan.vni = number(value).unwrap_or_default(),
            ifla::VXLAN_PORT => vxlan.port = value.try_into().map(u16::from_be_bytes).unwrap_or_default(),
            ifla::VXLAN_LOCAL => vxlan.local = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            ifla::VXLAN_LOCAL6 => vxlan.local = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            ifla::VXLAN_LINK => vxlan.underlay = number(value).filter(|link| *link != 0).map(IfIndex),
            ifla::VXLAN_LEARNING => vxlan.learning = value != [0],
            ifla::VXLAN_GBP => vxlan.gbp = true,
            _ => {}
        }
    }
    vxlan
}

/// The bridge of the link in a message, and what kind of port the link is.
pub(crate) fn parse_port(payload: &[u8]) -> Option<BridgePort> {
    let mut bridge = None;
    let (mut hairpin, mut isolated) = (None, false);
    for (attribute, value) in attributes(payload.get(HEADER_LEN..)?) {
        match attribute {
            ifla::MASTER => bridge = number(value).map(IfIndex),
            ifla::LINKINFO => {
                let data = attributes(value).filter(|(kind, _)| *kind == ifla::INFO_SLAVE_DATA);
                for (flag, value) in data.flat_map(|(_, data)| attributes(data)) {
                    match flag {
                        ifla::BRPORT_MODE => hairpin = Some(value != [0]),
                        ifla::BRPORT_ISOLATED => isolated = value != [0],
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // A link can also belong to something other than a bridge.
    Some(BridgePort { bridge: bridge?, hairpin: hairpin?, isolated })
}

/// Gives a link a further name, by which it is found as by the first.
pub(crate) fn alternative(name: &IfName, other: &IfName) -> Request {
    let names = Draft(Vec::new()).text(ifla::ALT_IFNAME, other.as_str());
    let draft = Draft::named(name).with(ifla::PROP_LIST | NLA_F_NESTED, &names.0);
    draft.request(rtm::NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND)
}

/// The further names of the link in a message.
pub(crate) fn alternative_names(payload: &[u8]) -> Vec<String> {
    let lists = attributes(payload.get(HEADER_LEN..).unwrap_or_default());
    let names = lists.filter(|(kind, _)| *kind == ifla::PROP_LIST).flat_map(|(_, list)| attributes(list));
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
    names.filter(|(kind, _)| *kind == ifla::ALT_IFNAME).map(|(_, value)| text(value)).collect()
}

/// Whether the link in a message is a bridge's port that forwards packets.
pub(crate) fn forwards(payload: &[u8]) -> bool {
    let attributes_of = |payload: &[u8], wanted: u16| {
        let found = attributes(payload).find(|(kind, _)| *kind == wanted);
        found.map(|(_, value)| value.to_vec()).unwrap_or_default()
    };
    let info = attributes_of(payload.get(HEADER_LEN..).unwrap_or_default(), ifla::LINKINFO);
    attributes_of(&attributes_of(&info, ifla::INFO_SLAVE_DATA), ifla::BRPORT_STATE) == [FORWARDING]
}

/// Kind and value of each attribute, up to the first that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks each length field, and cuts the message at each byte.
    #[test]
    fn nonsense_is_passed_over_and_no_panic() {
        let local = "192.0.2.1".parse().unwrap();
        let vxlan =
            Vxlan { vni: 1, port: 8472, local: Some(local), underlay: None, learning: false, gbp: false };
        let spec = VxlanSpec { name: IfName::new("v").unwrap(), mac: Mac::local([1; 6]), mtu: 1450, vxlan };
        let whole = super::vxlan(&spec).payload;
        assert_eq!(parse(&whole).unwrap().kind, LinkKind::Vxlan(spec.vxlan));
        for cut in 0..whole.len() {
            let (_, _) = (parse(&whole[..cut]), parse_port(&whole[..cut]));
            for wrong in [0, 1, 3, 5, 255] {
                let mut broken = whole.clone();
                broken[cut] = wrong;
                let (_, _) = (parse(&broken), parse_port(&broken));
            }
        }
        assert_eq!(parse(&whole[..HEADER_LEN]), None, "no name");
    }
}
