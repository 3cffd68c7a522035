//! What can be seen of pods on their node, as values, and the one trait through which the rest of this folder has
//! somebody look. Pure: `look::sight` is the real one, tests bring their own.

use ferrule_model::Attachment;
use ferrule_wire::messages::Pod;
use std::net::IpAddr;
use std::path::Path;

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// It is not: the place where it would be was seen.
    Gone,
    /// It cannot be told, which never speaks against a lease.
    Unknown,
}

/// A way to look; tests bring their own.
pub trait Sight: Send + Sync {
    /// Whether the path of a network namespace is there.
    fn namespace(&self, path: &Path) -> Presence;
    /// Whether the host's end of the attachment's veth pair is there.
    fn link(&self, attachment: &Attachment) -> Presence;
    /// Whether links are looked for where the plugin makes them.
    fn whereabouts(&self) -> Whereabouts;
}

/// A pod's link on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodLink {
    /// Its alias, in which the plugin tells whom it serves; empty if it cannot be read.
    pub alias: String,
    /// The single addresses that are routed to it, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// What is known of where the links are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// The plugin calls from the namespace of this process.
    Here,
    /// It calls from another one: its links are not seen from here.
    Elsewhere,
    /// Nobody has called yet, or the kernel does not tell (before 5.14).
    Untold,
}

/// Whom a link says it serves: its alias is `NETWORK: NAMESPACE/POD CONTAINER/IFNAME`, without the namespace or the pod
/// if the runtime did not name them.
pub(crate) fn whom_it_serves(alias: &str) -> Option<(Attachment, Option<Pod>)> {
    let (network, rest) = alias.split_once(": ")?;
    // Behind a comma the pod's other names follow.
    let rest = rest.split_once(", ").map_or(rest, |(rest, _)| rest);
    let (pod, end) = rest.rsplit_once(' ').map_or((None, rest), |(pod, end)| (Some(pod), end));
    let (container_id, ifname) = end.rsplit_once('/')?;
    let attachment = Attachment {
        network: network.to_owned(),
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    let pod = pod.map(|pod| {
        let (namespace, name) = pod.split_once('/').unwrap_or(("", pod));
        Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() }
    });
    Some((attachment, pod))
}
