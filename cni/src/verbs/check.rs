//! CHECK: is everything that ADD made still there? It does not look at what other plugins of the list added. What they
//! changed is known from the result that the runtime hands over.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use ferrule_model::{
    AddressKey, Attachment, IfName, IpNetwork, Link, Mac, Neighbour, NeighbourKey, PROTOCOL, Route, RouteKey,
    Via, family, host_mac, host_prefix, host_veth_name, pod_mac,
};
use ferrule_netlink::{Bridges, Kernel};

use crate::act::extras;
use crate::act::node::Node;
use crate::act::sandbox::sandbox;
use crate::ask::addresses;
use crate::decide::bridge;
use crate::decide::grant::Granted;
use crate::decide::pod::{Ends, are_joined, default_route, gateway, gateway_route};
use crate::edge::config::Mode;
use crate::edge::error::{Error, Failure};
use crate::edge::request::Check;
use crate::edge::result::{self, Interface, Ip};

/// Compares the attachment with the result of its ADD.
///
/// # Errors
/// [`Error::Changed`] with every difference. Other errors mean that a difference could not be looked for.
pub fn check<N: Node>(node: &N, request: &Check) -> Result<(), Failure> {
    let netns = sandbox(node, &request.sandbox)?;
    let mut host = node.host().map_err(Error::socket)?;
    let mut inside = node.inside(&netns).map_err(Error::socket)?;

    let mut changes = Changes::default();
    let expected = Expected::of(request, &mut changes);
    if let Some(ends) = links(&mut host, &mut inside, request, &expected, &mut changes).map_err(looking)? {
        pod_side(&mut inside, &ends, &expected, &mut changes).map_err(looking)?;
        match &expected.bridge {
            None => host_side(&mut host, &ends, &expected, &mut changes).map_err(looking)?,
            Some(name) => {
                let isolated = matches!(&request.config.mode, Mode::Bridge(bridge) if bridge.isolated);
                bridge_side(&mut host, &ends, name, isolated, &expected, &mut changes).map_err(looking)?;
            }
        }
        let Check { config, attachment, .. } = request;
        let place = (&expected.addresses[..], expected.bridge.is_some());
        let found = extras::differences(&config.extras, node, &mut host, attachment, &ends.host, place);
        for (what, expected, found) in found.map_err(looking)? {
            changes.say(&what, &expected, &found);
        }
    }
    match addresses::check(&request.config, &request.attachment, &expected.addresses, &expected.all) {
        Ok(()) => {}
        Err(Error::Ipam(error)) => changes.0.push(format!("lease: {error}")),
        Err(error) => changes.0.push(format!("lease: {error}")),
    }
    if changes.0.is_empty() { Ok(()) } else { Err(Error::Changed(changes.0).into()) }
}

/// What the result of ADD promises of our link.
struct Expected {
    host_mac: Mac,
    host_mtu: Option<u32>,
    pod_mac: Mac,
    pod_mtu: Option<u32>,
    /// The bridge on which the host's end is; `None` in mode `routed`. ADD has decided that, even if the configuration
    /// has changed since.
    bridge: Option<String>,
    /// The pod's addresses, with their gateways.
    granted: Vec<Granted>,
    /// The routes that go by these gateways.
    routes: Vec<(IpNetwork, IpAddr)>,
    /// The addresses without their gateways.
    addresses: Vec<IpNetwork>,
    /// All addresses on the interface, including those of other plugins.
    all: Vec<IpNetwork>,
}

impl Expected {
    fn of(request: &Check, changes: &mut Changes) -> Self {
        let Check { attachment, ifname, result: added, config, .. } = request;
        let host_name = host_veth_name(attachment);
        let find = |wanted: &dyn Fn(&Interface) -> bool| {
            added.interfaces.iter().enumerate().find(|(_, interface)| wanted(interface))
        };
        let host = find(&|link| link.sandbox.is_empty() && link.name == host_name.as_str());
        let pod = find(&|link| !link.sandbox.is_empty() && link.name == ifname.as_str());
        if pod.is_none() {
            changes.say("prevResult", &format!("an interface {ifname} in the container"), "none");
        }
        let place = pod.map(|(place, _)| place);
        let on_it = || added.ips.iter().filter(|ip| ip.interface.is_some() && ip.interface == place);
        // A routed pod's own addresses have our gateway. A later plugin may have put others on the link.
        let routed = |ip: &&Ip| ip.gateway == Some(gateway(family(&ip.address)));
        let before = host.and_then(|(place, _)| added.interfaces.get(place.checked_sub(1)?));
        let bridge = before
            .filter(|link| link.sandbox.is_empty() && !on_it().any(|ip| routed(&ip)))
            .map(|link| link.name.clone());
        let ours = |ip: &&Ip| if bridge.is_some() { ip.gateway.is_some() } else { routed(ip) };
        let granted: Vec<_> =
            on_it().filter(ours).map(|ip| Granted { address: ip.address, gateway: ip.gateway }).collect();
        let by_ours = |route: &&result::Route| {
            route.gw.is_some() && granted.iter().any(|granted| granted.gateway == route.gw)
        };
        Self {
            routes: added.routes.iter().filter(by_ours).filter_map(|r| Some((r.dst, r.gw?))).collect(),
            addresses: granted.iter().map(|granted| host_prefix(granted.address.ip())).collect(),
            bridge,
            granted,
            host_mac: host_mac(attachment),
            host_mtu: host.and_then(|(_, link)| link.mtu).or(config.mtu),
            pod_mac: pod.and_then(|(_, link)| mac(link)).unwrap_or_else(|| pod_mac(attachment)),
            pod_mtu: pod.and_then(|(_, link)| link.mtu).or(config.mtu),
            all: on_it().map(|ip| host_prefix(ip.address.ip())).collect(),
        }
    }
}

/// The MAC that the result names. A text that is no Ethernet address counts as none.
fn mac(link: &Interface) -> Option<Mac> {
    link.mac.as_ref()?.to_ascii_lowercase().parse().ok()
}

/// The differences found so far, in words.
#[derive(Default)]
struct Changes(Vec<String>);

impl Changes {
    fn say(&mut self, what: &str, expected: &str, found: &str) {
        self.0.push(format!("{what}: expected {expected}, found {found}"));
    }

    fn compare<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.say(what, &format!("{expected:?}"), &format!("{found:?}"));
        }
    }

    fn link(&mut self, link: &Link, mac: Mac, mtu: Option<u32>) {
        let name = link.name.as_str();
        if !link.up {
            self.say(&format!("link {name}"), "up", "down");
        }
        if link.mac != Some(mac) {
            let found = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            self.say(&format!("MAC of {name}"), &mac.to_string(), &found);
        }
        if let Some(mtu) = mtu {
            self.compare(&format!("MTU of {name}"), &mtu, &link.mtu);
        }
    }

    fn route(&mut self, what: &str, expected: &str, (key, route): (&RouteKey, &Route), found: &Routes) {
        let found = found.get(key);
        if found != Some(route) {
            self.say(what, expected, &in_words(found));
        }
    }

    fn neighbour(&mut self, what: &str, mac: Option<Mac>, found: Option<Neighbour>) {
        if found != Some(Neighbour { mac, permanent: true }) {
            let text = match found {
                None => "none".to_owned(),
                Some(Neighbour { mac, permanent }) => format!(
                    "{}{}",
                    mac.map_or_else(|| "no MAC".to_owned(), |mac| mac.to_string()),
                    if permanent { "" } else { ", not permanent" }
                ),
            };
            let mac = mac.map_or_else(|| "any MAC".to_owned(), |mac| mac.to_string());
            self.say(what, &format!("{mac}, permanent"), &text);
        }
    }
}

fn looking(source: ferrule_netlink::Error) -> Error {
    Error::Kernel { doing: "look at the attachment", source }
}

/// Looks at the two links. If they are not a pair, there is nothing more to look at.
fn links<K: Kernel>(
    host: &mut K,
    inside: &mut K,
    request: &Check,
    expected: &Expected,
    changes: &mut Changes,
) -> Result<Option<Ends>, ferrule_netlink::Error> {
    let Attachment { ifname, .. } = &request.attachment;
    let host_name = host_veth_name(&request.attachment);
    let (host_link, pod_link) = (host.link(&host_name)?, inside.link(&request.ifname)?);
    match &host_link {
        Some(link) => changes.link(link, expected.host_mac, expected.host_mtu),
        None => changes.say(&format!("link {host_name}"), "a veth on the host", "none"),
    }
    match &pod_link {
        Some(link) => changes.link(link, expected.pod_mac, expected.pod_mtu),
        None => changes.say(&format!("link {ifname}"), "a veth in the container", "none"),
    }
    let (Some(host), Some(pod)) = (host_link, pod_link) else { return Ok(None) };
    if are_joined(&host, &pod) {
        return Ok(Some(Ends { host, pod }));
    }
    changes.say(&format!("peer of {ifname}"), host_name.as_str(), "another link");
    Ok(None)
}

/// The routes of a namespace.
type Routes = BTreeMap<RouteKey, Route>;

/// Looks at the addresses, the gateway's neighbour and the default route of each family.
fn pod_side<K: Kernel>(
    kernel: &mut K,
    ends: &Ends,
    expected: &Expected,
    changes: &mut Changes,
) -> Result<(), ferrule_netlink::Error> {
    let link = ends.pod.index;
    // These lists are of one pod's namespace and have a handful of entries. The node's own lists are never read here.
    let addresses = kernel.addresses(link)?;
    let routes = kernel.routes(PROTOCOL)?;
    for Granted { address, .. } in &expected.granted {
        if !addresses.contains_key(&AddressKey { link, prefix: *address }) {
            changes.say(&format!("address {address}"), &format!("on {}", ends.pod.name), "none");
        }
    }
    for (dst, gateway) in &expected.routes {
        let (key, route) = match &expected.bridge {
            None => default_route(link, family(dst)),
            Some(_) => bridge::route(link, *dst, *gateway),
        };
        if expected.bridge.is_none() {
            let neighbour = kernel.neighbour(NeighbourKey { link, address: *gateway })?;
            changes.neighbour(&format!("neighbour {gateway} in the container"), ends.host.mac, neighbour);
        }
        let what = if dst.prefix() == 0 {
            format!("default route ({}) in the container", family(dst))
        } else {
            format!("route {dst} in the container")
        };
        changes.route(&what, &format!("via {gateway} dev {}", ends.pod.name), (&key, &route), &routes);
        if expected.bridge.is_none() && gateway.is_ipv4() {
            let (key, route) = gateway_route(link);
            let what = format!("route {} in the container", key.dst);
            changes.route(&what, &format!("dev {}", ends.pod.name), (&key, &route), &routes);
        }
    }
    Ok(())
}

/// Looks at the bridge, the host's end on it, and the gateways' addresses.
fn bridge_side<K: Bridges>(
    kernel: &mut K,
    ends: &Ends,
    name: &str,
    isolated: bool,
    expected: &Expected,
    changes: &mut Changes,
) -> Result<(), ferrule_netlink::Error> {
    let found = match IfName::new(name) {
        Ok(name) => kernel.link(&name)?,
        Err(_) => None,
    };
    let Some(bridge) = found else {
        changes.say(&format!("bridge {name}"), "a link on the host", "none");
        return Ok(());
    };
    if !bridge.up {
        changes.say(&format!("bridge {name}"), "up", "down");
    }
    let port = kernel.port(&ends.host.name)?;
    if port != Some(bridge::port(&bridge, isolated)) {
        let found = port.map_or_else(|| "on none".to_owned(), |port| format!("{port:?}"));
        let kind = if isolated { "on it, hairpin, isolated" } else { "on it, hairpin" };
        changes.say(&format!("{} on bridge {name}", ends.host.name), kind, &found);
    }
    let addresses = kernel.addresses(bridge.index)?;
    for prefix in expected.granted.iter().filter_map(bridge::on_the_bridge) {
        if !addresses.contains_key(&AddressKey { link: bridge.index, prefix }) {
            changes.say(&format!("gateway {prefix}"), &format!("on {name}"), "none");
        }
    }
    Ok(())
}

/// Looks at the route and the neighbour of each address.
fn host_side<K: Kernel>(
    kernel: &mut K,
    ends: &Ends,
    expected: &Expected,
    changes: &mut Changes,
) -> Result<(), ferrule_netlink::Error> {
    let link = ends.host.index;
    let mut has_other_mac = false;
    for address in &expected.addresses {
        let ip = address.ip();
        let neighbour = kernel.neighbour(NeighbourKey { link, address: ip })?;
        changes.neighbour(&format!("neighbour {ip} on the host"), ends.pod.mac, neighbour);
        has_other_mac |= neighbour.is_some_and(|found| found.permanent && found.mac != ends.pod.mac);
        let found = kernel.route_match(ip)?.filter(|(key, _)| *key == RouteKey::main(host_prefix(ip)));
        if found.map(|(_, route)| route) != Some(Route::ours(Via::Link(link))) {
            let expected = format!("dev {}", ends.host.name);
            let found = found.map(|(_, route)| route);
            changes.say(&format!("route {address} on the host"), &expected, &in_words(found.as_ref()));
        }
    }
    if has_other_mac {
        let name = &ends.pod.name;
        changes.0.push(format!(
            "another plugin has set the MAC of {name} behind ours, which cuts the pod off: take it out of there, and let this plugin \
             set the MAC (capability \"mac\", or \"args\": {{\"cni\": {{\"mac\": ...}}}})"
        ));
    }
    Ok(())
}

fn in_words(route: Option<&Route>) -> String {
    route.map_or_else(|| "none of ours".to_owned(), |route| format!("another ({:?})", route.kind))
}
