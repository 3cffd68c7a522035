//! What each port of a bridge may send under, as elements of the sets of the guard's table for bridges
//! ([`super::bridge_guard`]): pure.

use std::net::IpAddr;

use ferrule_model::{Element, HostSide, IfName, Owner, Way};

/// Length of an interface's name in a key (`IFNAMSIZ`).
const NAME: usize = 16;

/// The elements of the port of this pod. There are none in mode `routed`, and a record of an earlier version tells only
/// of isolation. A port that is not in the set `ports` may send under anything.
pub fn elements(made: &HostSide) -> Vec<Element> {
    let Way::Bridge { isolated, pod, .. } = &made.way else { return Vec::new() };
    let (port, comment) = (made.link(), Owner::of(&made.attachment).to_string());
    let mut elements = Vec::new();
    let mut put = |set, key| {
        elements.push(Element::of_set(set, key, comment.clone()));
    };
    if *isolated {
        put("isolated", of(&port, &[]));
    }
    let Some(end) = pod else { return elements };
    put("ports", of(&port, &[]));
    put("macs", of(&port, &end.mac.octets()));
    put("options", of(&port, &end.mac.octets()));
    let link_local = IpAddr::from(end.mac.link_local());
    let others = end.addresses.iter().filter(|address| **address != link_local);
    for address in others.chain([&link_local]) {
        match address {
            IpAddr::V4(address) => put("addresses4", of(&port, &address.octets())),
            IpAddr::V6(address) => {
                put("addresses6", of(&port, &address.octets()));
                put("targets", of(&port, &address.octets()));
            }
        }
    }
    for address in end.addresses.iter().filter(|_| *isolated) {
        match address {
            IpAddr::V4(address) => put("isolated4", address.octets().into()),
            IpAddr::V6(address) => put("isolated6", address.octets().into()),
        }
    }
    elements.sort();
    elements.dedup();
    elements
}

/// The key of a port's element. Each field of it begins at a multiple of four bytes.
fn of(port: &IfName, value: &[u8]) -> Vec<u8> {
    let mut key = port.as_str().as_bytes().to_vec();
    key.resize(NAME, 0);
    key.extend_from_slice(value);
    key.resize(key.len().next_multiple_of(4), 0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::bridge_guard::SETS;
    use ferrule_model::{Attachment, Limits, Mac, PodEnd};

    fn made(isolated: bool, pod: Option<PodEnd>) -> HostSide {
        let attachment =
            Attachment { network: "pods".into(), container_id: "c0ffee".into(), ifname: "eth0".into() };
        let name = IfName::new("ferrule0").unwrap();
        HostSide {
            attachment,
            pod: "default/web".into(),
            netns: "/run/netns/a".into(),
            mtu: 1450,
            way: Way::Bridge { name, mac: None, isolated, gateways: Vec::new(), pod },
            ports: None,
            limits: Limits::default(),
        }
    }

    fn end() -> PodEnd {
        let addresses = ["10.244.1.5", "fd00::5"].map(|text| text.parse().unwrap()).into();
        PodEnd { mac: Mac::local([2, 0, 0, 0, 0, 1]), addresses }
    }

    fn sets(elements: &[Element]) -> Vec<&str> {
        elements.iter().map(|element| element.set).collect()
    }

    #[test]
    fn a_port_has_its_mac_its_addresses_and_the_link_local_one_of_the_mac() {
        let found = elements(&made(false, Some(end())));
        assert_eq!(
            sets(&found),
            ["addresses4", "addresses6", "addresses6", "macs", "options", "ports", "targets", "targets"]
        );
        assert!(
            found.iter().all(|element| element.key.starts_with(made(false, None).link().as_str().as_bytes()))
        );
        let of_set =
            |set| found.iter().filter(move |element| element.set == set).map(|element| &element.key[NAME..]);
        assert_eq!(of_set("macs").next().unwrap(), [2, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(of_set("addresses4").next().unwrap(), [10, 244, 1, 5]);
        let link_local: std::net::Ipv6Addr = "fe80::ff:fe00:1".parse().unwrap();
        assert!(of_set("targets").any(|key| key == link_local.octets()));
        assert!(found.iter().all(|element| SETS.iter().any(|(set, _)| *set == element.set)));
    }

    #[test]
    fn only_an_isolated_pod_is_kept_from_others_by_its_address() {
        let found = elements(&made(true, Some(end())));
        let isolated: Vec<_> = found.iter().filter(|element| element.set.starts_with("isolated")).collect();
        assert_eq!(
            isolated.iter().map(|element| element.set).collect::<Vec<_>>(),
            ["isolated", "isolated4", "isolated6"]
        );
        assert_eq!(isolated[1].key, [10, 244, 1, 5]);
    }

    #[test]
    fn a_record_of_an_earlier_version_leaves_the_port_unchecked() {
        assert_eq!(elements(&made(false, None)), []);
        assert_eq!(sets(&elements(&made(true, None))), ["isolated"]);
    }

    #[test]
    fn an_address_that_is_given_twice_has_one_element() {
        let mut end = end();
        end.addresses.extend(end.addresses.clone());
        end.addresses.push(end.mac.link_local().into());
        let found = elements(&made(false, Some(end)));
        assert_eq!(sets(&found).iter().filter(|set| **set == "targets").count(), 2);
    }
}
