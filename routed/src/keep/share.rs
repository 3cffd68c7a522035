//! Which pod is over its share of the node's table of connections, as a sentence for the log. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_model::{Element, HostSide, Way};

use crate::decide::guard::share::OVER;

/// The sentence about an element of one of the sets of [`OVER`]. `pods` are all pods of
/// the node.
pub(super) fn sentence(element: &Element, pods: &[HostSide]) -> String {
    let (name, address) = (link(&element.key), address(element));
    let is_meant = |made: &&HostSide| match address {
        Some(address) => addresses(made).contains(&address),
        None => made.link().as_str() == name,
    };
    let pod = match (pods.iter().find(is_meant), address) {
        (Some(made), _) => format!("pod {} ({})", made.pod, made.link()),
        (None, Some(address)) => format!("the pod with the address {address}"),
        (None, None) => format!("the pod behind {name}"),
    };
    format!(
        "{pod} has more connections than its share, and its new ones are dropped; `conntrack -L --src ADDRESS` shows what \
         they are; if it needs them, raise [pods] connections"
    )
}

/// The address in an element, unless its set has names of links.
fn address(element: &Element) -> Option<IpAddr> {
    if element.set == OVER[0] {
        return None;
    }
    let key = &element.key[..];
    let v4 = || <[u8; 4]>::try_from(key).ok().map(|octets| Ipv4Addr::from(octets).into());
    v4().or_else(|| <[u8; 16]>::try_from(key).ok().map(|octets| Ipv6Addr::from(octets).into()))
}

fn link(key: &[u8]) -> String {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    String::from_utf8_lossy(&key[..end]).into_owned()
}

fn addresses(made: &HostSide) -> &[IpAddr] {
    match &made.way {
        Way::Routed { addresses, .. } => addresses,
        Way::Bridge { pod, .. } => pod.as_ref().map_or(&[], |pod| &pod.addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{Attachment, Limits, pod_mac};

    fn made() -> HostSide {
        let attachment =
            Attachment { network: "pods".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
        let addresses = vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let way = Way::Routed { pod_mac: pod_mac(&attachment), addresses };
        let (pod, netns, limits) = ("web".into(), String::new(), Limits::default());
        HostSide { pod, attachment, netns, mtu: 1500, way, ports: None, limits }
    }

    #[test]
    fn a_pod_is_known_by_its_link_and_by_its_addresses() {
        let pods = [made()];
        let link = pods[0].link();
        let name = [link.as_str().as_bytes(), &[0; 16][link.as_str().len()..]].concat();
        let v6 = "fd00::2".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        for (set, key) in OVER.into_iter().zip([name, vec![10, 244, 1, 2], v6]) {
            let element = Element { set, key, ..of(OVER[1], &[]) };
            assert!(
                sentence(&element, &pods).starts_with(&format!("pod web ({link}) has more")),
                "{element:?}"
            );
        }
        assert!(
            sentence(&of(OVER[1], &[10, 0, 0, 9]), &pods).starts_with("the pod with the address 10.0.0.9 ")
        );
        assert!(sentence(&of(OVER[0], b"ferx\0"), &pods).starts_with("the pod behind ferx "));
    }

    fn of(set: &'static str, key: &[u8]) -> Element {
        Element::of_set(set, key.to_vec(), String::new())
    }
}
