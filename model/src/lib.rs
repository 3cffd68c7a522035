//! The kernel's objects as values, and what can be worked out from them: links, addresses, routes, neighbours, FDB
//! entries and nexthop objects, the [`Op`]s that change them, the [`Delta`] between two sets of them, and the [`Plan`]
//! of changes in two namespaces. What the kernel says is here too: its [`Refusal`]s and its [`Event`]s.
//!
//! Pure: no socket, no clock, no process. `ferrule-netlink` talks to the kernel, and the programs decide what there
//! should be.

mod attachment;
mod causes;
mod delta;
mod element;
mod event;
mod foreign;
mod hostside;
mod identifier;
pub mod json;
mod mac;
mod names;
mod networks;
mod op;
mod owner;
mod plan;
mod prefix;
mod refusal;
mod state;
pub mod table;
mod wireguard;

pub use attachment::{Attachment, AttachmentHash};
pub use causes::{causes, chain};
pub use delta::Delta;
pub use element::{Element, Value};
pub use event::{Caller, Event, NexthopEvent, Wake};
pub use foreign::{ForeignKind, ForeignRoute, Hop, PolicyRule, RuleAction, TABLE_LOCAL, TABLE_MAIN};
pub use hostside::{Bucket, HostPorts, HostSide, Limits, PodEnd, PortElement, Way, WayTo, link_change};
pub use identifier::{Identifier, IdentifierError};
pub use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
pub use mac::{Mac, ParseMacError};
pub use names::{
    IfName, IfNameError, PROTOCOL, WIREGUARD_DEVICE, bridge_mac, host_mac, host_veth_name, host_veth_of,
    ifb_name, is_host_veth, is_ifb, made_as, pod_mac, second_name, vtep_mac,
};
pub use networks::{in_order, merged};
pub use op::{Change, LinkChange, Op};
pub use owner::Owner;
pub use plan::{Place, Plan};
pub use prefix::{Family, family, host_prefix, last_address, network_address, ordinal};
pub use refusal::Refusal;
pub use state::{
    Address, AddressKey, BridgePort, BridgeSpec, FdbEntry, FdbKey, IfIndex, Link, LinkKind, Neighbour,
    NeighbourKey, Nexthop, NexthopId, Route, RouteKey, RouteKind, VethSpec, Via, Vxlan, VxlanSpec,
};
pub use wireguard::{
    NotAKey, Peer, PeerKey, PeerState, WgKey, WgSecret, WireguardSettings, WireguardSpec, WireguardState,
};
