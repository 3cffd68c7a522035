//! What a process without any privilege sees of the pods on its node: whether a namespace's path exists, whether a link
//! exists, and which addresses are routed to which pod's link. `leaks` and `adopt` decide what follows from it.
//!
//! Netlink is not used. `if_nametoindex` asks by an ioctl that any unix socket takes. Routes are read from `/proc/net`,
//! and a link's alias from `/sys/class/net`. All of these show the network namespace in which this process runs. That
//! has to be the host's, and `home` tells whether it is.

use crate::decide::seen::{PodLink, Presence, Sight, Whereabouts, whom_it_serves};
use crate::look::home::Home;
use ferrule_wire::Attachment;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// The node this process runs on.
#[derive(Debug, Clone)]
pub(crate) struct NodeSight {
    home: Arc<Home>,
}

impl NodeSight {
    /// The node as this process sees it. `home` tells whether its callers run in the same network namespace.
    pub(crate) const fn new(home: Arc<Home>) -> Self {
        Self { home }
    }
}

impl Sight for NodeSight {
    fn namespace(&self, path: &Path) -> Presence {
        namespace(path)
    }

    fn whereabouts(&self) -> Whereabouts {
        self.home.whereabouts()
    }

    fn link(&self, attachment: &Attachment) -> Presence {
        let name = ferrule_model::host_veth_name(attachment);
        match called(&name) {
            // If somebody has renamed the link, it is found by its second name. Older kernels have no second names.
            Presence::Gone => ferrule_model::second_name(&name).map_or(Presence::Gone, |name| called(&name)),
            presence => presence,
        }
    }
}

/// Whether a link has this as its name or as an alternative name. The kernel's `dev_get_by_name` looks for both.
fn called(name: &ferrule_model::IfName) -> Presence {
    match if_nametoindex(name.as_str()) {
        Ok(_) => Presence::There,
        Err(Errno::ENODEV) => Presence::Gone,
        Err(_) => Presence::Unknown,
    }
}

/// The name under which the link `name` was made, if it is a pod's link that somebody has renamed. Its alias tells whom
/// it serves, and it has the second name that belongs to that.
/// the second name of that.
fn made_as(name: &str) -> Option<String> {
    let (attachment, _) = whom_it_serves(&alias(name))?;
    let made_as = ferrule_model::host_veth_name(&attachment);
    let second = ferrule_model::second_name(&made_as)?;
    let is_same = if_nametoindex(second.as_str()).ok()? == if_nametoindex(name).ok()?;
    is_same.then(|| made_as.as_str().to_owned())
}

fn namespace(path: &Path) -> Presence {
    match fs::metadata(path) {
        Ok(_) => Presence::There,
        // If the directory cannot be seen, the namespace may still be in it.
        Err(error) if error.kind() == ErrorKind::NotFound => match path.parent().map(fs::metadata) {
            Some(Ok(directory)) if directory.is_dir() => Presence::Gone,
            Some(_) | None => Presence::Unknown,
        },
        Err(_) => Presence::Unknown,
    }
}

/// The pods' links of this node by the names under which they were made.
///
/// # Errors
/// `/proc/net` cannot be read.
pub fn pod_links() -> io::Result<BTreeMap<String, PodLink>> {
    let mut links: BTreeMap<String, PodLink> = BTreeMap::new();
    let mut renamed = BTreeMap::new();
    // All links are listed, with or without a route.
    for line in fs::read_to_string("/proc/net/dev")?.lines() {
        let name = line.split(':').next().unwrap_or_default().trim();
        if ferrule_model::is_host_veth(name) {
            links.insert(name.to_owned(), PodLink { alias: alias(name), addresses: Vec::new() });
        } else if let Some(first) = made_as(name) {
            links.insert(first.clone(), PodLink { alias: alias(name), addresses: Vec::new() });
            renamed.insert(name.to_owned(), first);
        }
    }
    let ipv4 = fs::read_to_string("/proc/net/route")?;
    let ipv6 = match fs::read_to_string("/proc/net/ipv6_route") {
        Ok(text) => text,
        // The kernel has no IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    for (name, address) in ipv4.lines().filter_map(ipv4_route).chain(ipv6.lines().filter_map(ipv6_route)) {
        let name = renamed.get(name).map_or(name, String::as_str);
        if let Some(link) = links.get_mut(name)
            && !link.addresses.contains(&address)
        {
            link.addresses.push(address);
        }
    }
    Ok(links)
}

fn alias(name: &str) -> String {
    let path = Path::new("/sys/class/net").join(name).join("ifalias");
    fs::read_to_string(path).map(|text| text.trim_end_matches('\n').to_owned()).unwrap_or_default()
}

/// Link and address of a host route in a line of `/proc/net/route` (`fib_route_seq_show` in the kernel).
fn ipv4_route(line: &str) -> Option<(&str, IpAddr)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, destination, _, _, _, _, _, mask, ..] = fields.as_slice() else { return None };
    // Each number has the bytes of the address as they are in memory, printed as one number of this machine.
    let address = u32::from_str_radix(destination, 16).ok()?.to_ne_bytes();
    (*mask == "FFFFFFFF").then(|| (*name, IpAddr::V4(Ipv4Addr::from(address))))
}

/// Link and address of a host route in a line of `/proc/net/ipv6_route` (`rt6_info_route` in the kernel).
fn ipv6_route(line: &str) -> Option<(&str, IpAddr)> {
    /// `RTF_LOCAL` and `RTF_ANYCAST`: addresses of this machine.
    const OWN: u32 = 0x8010_0000;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, "80", _, _, _, _, _, _, flags, name] = fields.as_slice() else { return None };
    let address = Ipv6Addr::from_bits(u128::from_str_radix(destination, 16).ok()?);
    let is_pod = u32::from_str_radix(flags, 16).ok()? & OWN == 0
        && !address.is_multicast()
        && !address.is_unicast_link_local();
    is_pod.then_some((*name, IpAddr::V6(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_routes_are_told_from_all_others() {
        let line =
            |mask: &str| format!("fer0123456789ab\t0501F40A\t00000000\t0005\t0\t0\t0\t{mask}\t0\t0\t0");
        let bytes = u32::from_ne_bytes([10, 244, 1, 5]);
        let host = line("FFFFFFFF").replace("0501F40A", &format!("{bytes:08X}"));
        assert_eq!(ipv4_route(&host), Some(("fer0123456789ab", "10.244.1.5".parse().unwrap())));
        assert_eq!(ipv4_route(&line("00FFFFFF")), None);
        assert_eq!(ipv4_route("Iface\tDestination\tGateway"), None);

        let line = |address: &str, length: &str, flags: &str| {
            let none = "00000000000000000000000000000000";
            format!("{address} {length} {none} 00 {none} 00000400 00000001 00000000 {flags} fer0123456789ab")
        };
        let pod = "fd000010024400010000000000000005";
        assert_eq!(
            ipv6_route(&line(pod, "80", "00000001")),
            Some(("fer0123456789ab", "fd00:10:244:1::5".parse().unwrap()))
        );
        for other in [
            line(pod, "40", "00000001"),
            line(pod, "80", "80200001"),
            line("fe800000000000000000000000000001", "80", "00000001"),
            line("ff020000000000000000000000000001", "80", "00000001"),
            String::new(),
        ] {
            assert_eq!(ipv6_route(&other), None, "{other}");
        }
    }

    #[test]
    fn a_path_is_gone_only_where_its_directory_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns");
        assert_eq!(namespace(&path), Presence::Gone);
        fs::write(&path, "").unwrap();
        assert_eq!(namespace(&path), Presence::There);
        for unseen in [path.join("inside/of-a-file"), dir.path().join("no/such"), "/proc/0/ns/net".into()] {
            assert_eq!(namespace(&unseen), Presence::Unknown, "{}", unseen.display());
        }
    }
}
