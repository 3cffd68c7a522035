//! Random frontends for tests.

use std::num::{NonZeroU16, NonZeroU32};

use ferrule_model::Family;
use proptest::prelude::*;

use crate::decide::{Backend, Backends, Frontend, Key, Kind, Place, PortName, Protocol, ServiceName};

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

/// An endpoint.
pub(crate) fn backend(family: Family, last: u8, is_local: bool) -> Backend {
    let address = match family {
        Family::V4 => [10, 244, 0, last].into(),
        Family::V6 => [0xfd00, 0, 0, 0, 0, 0, 0, last.into()].into(),
    };
    Backend { address, port: port(8080), is_local }
}

fn backends(family: Family) -> impl Strategy<Value = Backends> {
    let some = prop::collection::btree_map(0_u8..60, any::<bool>(), 1..24).prop_map(move |all| {
        Backends::To(all.into_iter().map(|(last, is_local)| backend(family, last, is_local)).collect())
    });
    prop_oneof![6 => some, 1 => Just(Backends::Refuse), 1 => Just(Backends::Drop)]
}

/// Frontends of one Service.
pub(crate) fn frontend() -> impl Strategy<Value = Frontend> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(is_v4, is_node)| frontend_at(80, is_v4, is_node))
}

/// Frontends of one key. An even port is TCP's, an odd one UDP's.
pub(crate) fn frontend_at(number: u16, is_v4: bool, is_node: bool) -> impl Strategy<Value = Frontend> {
    let family = if is_v4 { Family::V4 } else { Family::V6 };
    let address = if is_v4 { [10, 96, 0, 1].into() } else { [0xfd96, 0, 0, 0, 0, 0, 0, 1].into() };
    let place = if is_node { Place::Node(family) } else { Place::Address(address) };
    let protocol = if number.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
    let network = move |(third, prefix): (u8, u8)| match family {
        Family::V4 => format!("192.0.{third}.128/{prefix}").parse().unwrap(),
        Family::V6 => format!("2001:db8:{third}::/{prefix}").parse().unwrap(),
    };
    let sources = prop::collection::vec((0_u8..4, 24_u8..=32).prop_map(network), 0..5);
    let affinity = prop::option::of(1_u32..3).prop_map(|time| time.and_then(NonZeroU32::new));
    let parts = (backends(family), prop::option::of(backends(family)), affinity, prop::option::of(sources));
    parts.prop_map(move |(from_outside, from_inside, affinity, sources)| Frontend {
        key: Key { place, protocol, port: port(number) },
        port: PortName {
            service: ServiceName { namespace: "default".into(), name: "web".into() },
            port: "http".into(),
        },
        kind: if is_node { Kind::NodePort } else { Kind::ClusterIp },
        from_inside: from_inside.unwrap_or_else(|| from_outside.clone()),
        from_outside,
        keeps_client: false,
        affinity,
        sources,
    })
}
