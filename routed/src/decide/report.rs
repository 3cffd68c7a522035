//! Puts what a pass did into words that a person reads in the log: pure.

use std::collections::BTreeSet;
use std::fmt;

use ferrule_model::{Change, IfIndex, IfName, LinkChange, Nexthop, Op, Refusal};
use nix::errno::Errno;

use crate::decide::desired::Skipped;
use crate::decide::kinds::Kind;
use crate::decide::objects::Links;
use crate::decide::objects::Objects;

/// At most so many lines of one kind are logged; the others are only counted.
pub const LINES: usize = 8;

/// How many changes of each kind were made: put, and deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    devices: [usize; 2],
    objects: [[usize; 2]; Kind::ALL.len()],
}

/// The outcome of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many changes were made.
    pub tally: Tally,
    /// What was put back, after someone else had removed or changed it.
    pub repaired: Vec<String>,
    /// Changes of a device that are not among those counted.
    pub done: Vec<String>,
    /// What the kernel refused, why, and what a person can do.
    pub refused: BTreeSet<String>,
    /// Why the device that packets to other nodes need is refused, if it is.
    pub hindered: Option<String>,
    /// What does not hinder this node, but an operator should know.
    pub warnings: BTreeSet<String>,
    /// What is left out.
    pub skipped: BTreeSet<Skipped>,
    /// How many objects are there as they should be.
    pub objects: usize,
    /// How many are still to be made, changed or removed.
    pub pending: usize,
    /// The MTU of the pods in bytes.
    pub mtu: u32,
    /// This node's addresses and the links that hold them.
    pub underlay: String,
}

impl Tally {
    /// Counts a change.
    pub fn count(&mut self, op: &Op) {
        let counter = match Kind::of(op) {
            None => &mut self.devices,
            Some(kind) => &mut self.objects[kind as usize],
        };
        counter[usize::from(op.change() == Change::Delete)] += 1;
    }

    /// All changes.
    pub fn total(&self) -> usize {
        self.kinds().map(|(_, [put, deleted])| put + deleted).sum()
    }

    /// How many were put and deleted: links first, then each kind.
    pub fn kinds(&self) -> impl DoubleEndedIterator<Item = (&'static str, [usize; 2])> {
        let objects = Kind::ALL.into_iter().zip(self.objects);
        std::iter::once(("links", self.devices)).chain(objects.map(|(kind, counts)| (kind.name(), counts)))
    }
}

impl fmt::Display for Tally {
    /// As in `routes +3 -1, nexthops +3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (kind, [put, deleted]) in self.kinds().rev().filter(|(_, counts)| *counts != [0, 0]) {
            write!(f, "{}{kind}", if first { "" } else { ", " })?;
            first = false;
            if put > 0 {
                write!(f, " +{put}")?;
            }
            if deleted > 0 {
                write!(f, " -{deleted}")?;
            }
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// The object that `op` changes, named for a person.
pub fn object(op: &Op, observed: &Objects, links: &Links) -> String {
    let link = |index: &IfIndex| match links.get(index) {
        Some(link) => link.name.to_string(),
        None => format!("link {index}"),
    };
    match op {
        Op::AddVxlan(spec) => format!("link {}", spec.name),
        Op::AddWireguard(spec) => format!("link {}", spec.name),
        Op::SetLink(index, _) | Op::DeleteLink(index) => format!("link {}", link(index)),
        Op::SetWireguard(index, settings) => format!("key and port {} of {}", settings.port, link(index)),
        Op::PutPeer(key, _) | Op::DeletePeer(key) => format!("peer {} of {}", key.key, link(&key.link)),
        Op::PutAddress(key, _) | Op::DeleteAddress(key) => {
            format!("address {} on {}", key.prefix, link(&key.link))
        }
        Op::PutFdb(key, entry) | Op::DeleteFdb(key, entry) => {
            format!("FDB entry {} dst {} on {}", key.mac, entry.dst, link(&key.link))
        }
        Op::PutNeighbour(key, _) | Op::DeleteNeighbour(key) => {
            format!("neighbour {} on {}", key.address, link(&key.link))
        }
        Op::PutNexthop(id, nexthop) | Op::AddNexthop(id, nexthop) => {
            format!("nexthop {} via {} on {}", id.0, nexthop.gateway, link(&nexthop.link))
        }
        Op::DeleteNexthop(id) => match observed.nexthops.get(id) {
            Some(nexthop) => format!("nexthop {} via {}", id.0, nexthop.gateway),
            None => format!("nexthop {}", id.0),
        },
        Op::PutRoute(key, _) | Op::AddRoute(key, _) | Op::DeleteRoute(key) => format!("route {}", key.dst),
    }
}

/// The sentence about a repair, if `op` put back what was in `before` and is missing from `found`.
pub fn repair(op: &Op, before: &Objects, found: &Objects, links: &Links) -> Option<String> {
    fn told<V: PartialEq>(wanted: &V, before: Option<&V>, found: Option<&V>) -> Option<&'static str> {
        if before != Some(wanted) {
            return None;
        }
        Some(if found.is_some() { "changed" } else { "deleted" })
    }
    let verb = match op {
        Op::PutAddress(key, value) => told(value, before.addresses.get(key), found.addresses.get(key)),
        Op::PutFdb(key, value) => told(value, before.fdb.get(key), found.fdb.get(key)),
        Op::PutNeighbour(key, value) => told(value, before.neighbours.get(key), found.neighbours.get(key)),
        Op::PutNexthop(id, value) | Op::AddNexthop(id, value) => {
            told(value, before.nexthops.get(id), found.nexthops.get(id))
        }
        Op::PutPeer(key, value) => told(value, before.peers.get(key), found.peers.get(key)),
        Op::PutRoute(key, value) => told(value, before.routes.get(key), found.routes.get(key)),
        _ => None,
    }?;
    Some(format!("{} was {verb} by someone else; put back", object(op, found, links)))
}

/// The sentence about switching the device's checksums.
pub fn offload(device: &IfName, on: bool) -> String {
    let who = if on { "the link below it" } else { "it" };
    format!("checksums of what {device} sends are made by {who} now (tx-checksum-ip-generic {})", onoff(on))
}

/// The sentence about checksums of the device that cannot be switched.
pub fn offload_refusal(device: &IfName, on: bool, refusal: &Refusal) -> String {
    let remedy = "remove [routing.vxlan] checksum_offload to leave it as it is";
    format!("cannot set tx-checksum-ip-generic {} on {device}: {refusal}; {remedy}", onoff(on))
}

fn onoff(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The sentence about what someone else had changed on the device.
pub fn device_repair(name: &str, change: &LinkChange) -> String {
    let mut what = Vec::new();
    if change.up.is_some() {
        what.push("switched off");
    }
    if change.mtu.is_some() {
        what.push("given another MTU");
    }
    if change.mac.is_some() {
        what.push("given another MAC");
    }
    format!("link {name} was {} by someone else; put right", what.join(" and "))
}

/// The sentence about a refusal: the object, the kernel's reason, and what a person can do.
pub fn refusal(op: &Op, refusal: &Refusal, observed: &Objects, links: &Links) -> String {
    let verb = if op.change() == Change::Delete { "remove" } else { "set" };
    format!("cannot {verb} {}: {}", object(op, observed, links), reason(op, refusal))
}

/// The kernel's reason, and what a person can do.
pub fn reason(op: &Op, refusal: &Refusal) -> String {
    format!("{refusal}; {}", remedy(op, refusal))
}

/// Logs the first of `count` lines, and how many more there are. `lines` holds at least those first ones.
pub fn log_lines(lines: &[String], count: usize, rest: &str, log: impl Fn(&str)) {
    lines.iter().take(LINES).for_each(|line| log(line));
    if count > LINES {
        log(&format!("{} {rest}", count - LINES));
    }
}

/// Whether the op is about IPv6, and not about a link.
fn is_ipv6(op: &Op) -> bool {
    match op {
        Op::PutAddress(key, _) | Op::DeleteAddress(key) => key.prefix.is_ipv6(),
        Op::PutRoute(key, _) | Op::AddRoute(key, _) | Op::DeleteRoute(key) => key.dst.is_ipv6(),
        Op::PutNexthop(_, hop) | Op::AddNexthop(_, hop) => hop.gateway.is_ipv6(),
        _ => false,
    }
}

fn remedy(op: &Op, refusal: &Refusal) -> &'static str {
    match (op, refusal.errno) {
        // The kernel checks rights first, and has another number for missing rights.
        (op, Errno::EACCES | Errno::EAFNOSUPPORT) if is_ipv6(op) => {
            "IPv6 is off on the link: set its sysctl net.ipv6.conf.<link>.disable_ipv6 to 0, or give the nodes no IPv6 pod CIDRs"
        }
        (_, Errno::EPERM | Errno::EACCES) => {
            "routed needs CAP_NET_ADMIN in this network namespace: run it by its unit, as root, or in a pod with NET_ADMIN in \
             securityContext.capabilities.add and hostNetwork: true"
        }
        (Op::AddRoute(..), Errno::EEXIST) => {
            "it is left alone; see whose it is: if it is how this node reaches a network of its own, give the pods another network, \
             and remove it only if nothing needs it"
        }
        (Op::AddNexthop(..), Errno::EEXIST) => "another program has taken the number; it gets another",
        (
            Op::PutNexthop(_, Nexthop { onlink: false, .. })
            | Op::AddNexthop(_, Nexthop { onlink: false, .. }),
            Errno::EINVAL | Errno::ENETUNREACH | Errno::EHOSTUNREACH,
        ) => {
            "without a tunnel a node has to be on this node's segment: give the right address in the nodes file, or use \
             backend = \"auto\" or \"vxlan\""
        }
        (Op::AddVxlan(_), Errno::EOPNOTSUPP) => "load the kernel module vxlan, or use backend = \"native\"",
        (Op::AddVxlan(_), Errno::EEXIST) => {
            "another VXLAN device has this VNI and port: remove it, or choose others in [routing.vxlan] on every node"
        }
        (Op::AddWireguard(_) | Op::SetWireguard(..), Errno::EOPNOTSUPP) => {
            "load the kernel module wireguard (Linux 5.6 and later have it), or use another backend"
        }
        (_, Errno::ENETDOWN | Errno::ENODEV) => "it is tried again when the link is back",
        (Op::AddVxlan(_) | Op::AddWireguard(_) | Op::SetLink(..) | Op::SetWireguard(..), _) => {
            "it is tried again; the nodes that need it wait for it, and everything else goes on"
        }
        _ => "it is tried again, ever more rarely; the other objects are not held up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{Route, RouteKey};

    #[test]
    fn a_tally_reads_as_what_was_done() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "nothing");
        let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
        tally.count(&Op::PutRoute(key, Route::unreachable()));
        tally.count(&Op::DeleteRoute(key));
        tally.count(&Op::DeleteLink(IfIndex(2)));
        assert_eq!(tally.to_string(), "routes +1 -1, links -1");
        assert_eq!(tally.total(), 3);
    }

    #[test]
    fn what_we_made_and_is_not_there_is_a_repair_and_what_is_new_is_none() {
        let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
        let op = Op::PutRoute(key, Route::unreachable());
        let (empty, links) = (Objects::default(), Links::new());
        let mut before = Objects::default();
        assert_eq!(repair(&op, &before, &empty, &links), None);
        before.routes.insert(key, Route::unreachable());
        let sentence = repair(&op, &before, &empty, &links).unwrap();
        assert_eq!(sentence, "route 10.244.2.0/24 was deleted by someone else; put back");
        let mut found = Objects::default();
        found.routes.insert(key, Route { protocol: 4, ..Route::unreachable() });
        assert!(repair(&op, &before, &found, &links).unwrap().contains("was changed"));
    }

    #[test]
    fn a_refusal_names_object_reason_and_remedy() {
        let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
        let refused = Refusal { errno: Errno::EPERM, reason: None };
        let text = refusal(&Op::DeleteRoute(key), &refused, &Objects::default(), &Links::new());
        assert!(text.starts_with("cannot remove route 10.244.2.0/24: EPERM"), "{text}");
        assert!(text.contains("needs CAP_NET_ADMIN in this network namespace: run it"), "{text}");
    }

    #[test]
    fn a_missing_right_names_its_remedy_and_ipv6_that_is_off_is_none() {
        let reason_of = |dst: &str, errno| {
            let op = Op::DeleteRoute(RouteKey::main(dst.parse().unwrap()));
            reason(&op, &Refusal { errno, reason: None })
        };
        for dst in ["10.244.2.0/24", "fd00::/64"] {
            let told = reason_of(dst, Errno::EPERM);
            assert!(
                told.contains("CAP_NET_ADMIN")
                    && told.contains("by its unit")
                    && told.contains("NET_ADMIN in"),
                "{told}"
            );
        }
        for errno in [Errno::EACCES, Errno::EAFNOSUPPORT] {
            let told = reason_of("fd00::/64", errno);
            assert!(told.contains("disable_ipv6") && !told.contains("CAP_NET_ADMIN"), "{told}");
        }
    }
}
