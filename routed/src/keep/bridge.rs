//! Keeps a pod's place on a bridge, and the bridge itself: there, on, with its MAC and the gateways' addresses.

use ferrule_model::{
    Address, AddressKey, BridgePort, BridgeSpec, Family, HostSide, IfName, IpNetwork, Link, LinkKind, Mac,
    Op, bridge_mac, family, link_change,
};
use ferrule_netlink::{Bridges, Error, sysctl};

use super::repair::{Fix, of};
use crate::decide::report;

/// The bridge and the place that there have to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Name of the bridge.
    pub name: &'a IfName,
    /// Its MAC, if that is known.
    pub mac: Option<Mac>,
    /// Whether the pod is isolated.
    pub isolated: bool,
    /// The addresses of the bridge.
    pub gateways: &'a [IpNetwork],
}

/// The bridge as [`find`] leaves it.
#[derive(Debug)]
pub struct Found {
    /// The bridge.
    pub bridge: Link,
    /// The pod's place there.
    pub port: BridgePort,
    /// What is left to do.
    pub fixes: Vec<Fix>,
    /// What was done.
    pub repaired: Vec<String>,
}

/// Looks at the bridge of the pod behind `link`. A bridge that is gone is made again, and a link that is not on it is
/// put on it. `None` if what has the bridge's name is no bridge.
///
/// # Errors
/// The kernel refused, or did not answer.
pub fn find<K: Bridges>(
    kernel: &mut K,
    made: &HostSide,
    link: &Link,
    wanted: &Wanted<'_>,
) -> Result<Option<Found>, Error> {
    let Wanted { name, mac, isolated, gateways } = *wanted;
    let mut repaired = Vec::new();
    let mut found = kernel.link(name)?;
    if found.is_none() {
        kernel.create_bridge(&BridgeSpec {
            name: name.clone(),
            mac: mac.unwrap_or_else(|| bridge_mac(name)),
        })?;
        // The plugin does the same, and says why there.
        let _ = sysctl::set(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
        repaired.push(format!("bridge {name} was deleted by someone else; made again{}", of(made)));
        found = kernel.link(name)?;
    }
    let Some(bridge) = found.filter(|link| link.kind == LinkKind::Other("bridge".into())) else {
        return Ok(None);
    };
    let port = BridgePort { bridge: bridge.index, hairpin: true, isolated };
    let there = kernel.port(&link.name)?;
    if there != Some(port) {
        kernel.set_port(link.index, port)?;
        let what = match there {
            Some(there) if there.bridge == bridge.index => "given another kind of place on",
            _ => "taken from",
        };
        let veth = &link.name;
        repaired.push(format!("link {veth} was {what} bridge {name} by someone else; put right{}", of(made)));
    }
    let mut fixes = Vec::new();
    if let Some(change) = mac.or(bridge.mac).and_then(|mac| link_change(&bridge, mac, None)) {
        let said = report::device_repair(name.as_str(), &change) + &of(made);
        fixes.push(Fix { op: Op::SetLink(bridge.index, change), said: Some(said) });
    }
    let addresses = kernel.addresses(bridge.index)?;
    for prefix in gateways {
        let key = AddressKey { link: bridge.index, prefix: *prefix };
        if !addresses.contains_key(&key) {
            let nodad = Address { nodad: family(prefix) == Family::V6 };
            let said =
                format!("address {prefix} on {name} was deleted by someone else; put back{}", of(made));
            fixes.push(Fix { op: Op::PutAddress(key, nodad), said: Some(said) });
        }
    }
    Ok(Some(Found { bridge, port, fixes, repaired }))
}
