//! Works out which link `[node] interface` means, and which of its addresses count: pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_config::{Interface, Node};
use ferrule_model::{IfName, IpNetwork};

/// At most so many links are named in a message.
const NAMED: usize = 12;

/// A link by which other nodes may reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: IfName,
    /// Whether it is up and connected.
    pub usable: bool,
    /// Its addresses by which a host can be reached, the best ones first.
    pub addresses: Vec<IpNetwork>,
}

/// The link, and the addresses by which this node can be reached there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The link.
    pub link: IfName,
    /// The best address first. Empty if the link has none of this family; then the node's address is the same as
    /// without a choice of a link.
    v4: Vec<Ipv4Addr>,
    /// The same for IPv6.
    v6: Vec<Ipv6Addr>,
}

/// No link fits `[node] interface`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unfit {
    wanted: Interface,
    why: Why,
    there: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// There is no link of this name.
    NoLink,
    /// The link has no address.
    NoAddress,
    /// No link has an address in the network.
    NotInNetwork,
    /// The link does not have the address that the configuration gives this node.
    Other(IfName, IpAddr),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, why, there } = self;
        write!(f, "[node] interface = \"{wanted}\": ")?;
        match why {
            Why::NoLink => f.write_str("no link to other nodes is called so")?,
            Why::NoAddress => {
                f.write_str("the link has no address by which other nodes can reach this one")?;
            }
            Why::NotInNetwork => f.write_str("no link has such an address")?,
            Why::Other(link, address) => {
                write!(f, "the link {link} does not have {address}, which [node] gives this node")?;
            }
        }
        let there = if there.is_empty() { "none" } else { there };
        write!(f, "; there are: {there}. Correct the key, or give the link its address; it is waited for")
    }
}

impl Chosen {
    /// The node's addresses, where a source tells them. An address that the link has stays.
    pub fn addresses(
        &self,
        told: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    ) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        (one(&self.v4, told.0), one(&self.v6, told.1))
    }

    /// Whether all that is true now is still true `after`: the same link and the same best addresses, and no address
    /// has gone.
    pub fn lives_in(&self, after: &Self) -> bool {
        self.link == after.link
            && self.v4.first() == after.v4.first()
            && self.v6.first() == after.v6.first()
            && self.v4.iter().all(|address| after.v4.contains(address))
            && self.v6.iter().all(|address| after.v6.contains(address))
    }

    /// The configuration of this node, completed by what was chosen.
    pub fn configured(&self, node: &Node) -> Node {
        let (address, address6) = self.addresses((None, None));
        Node { address: address.or(node.address), address6: address6.or(node.address6), ..node.clone() }
    }
}

fn one<T: Copy + PartialEq>(chosen: &[T], told: Option<T>) -> Option<T> {
    told.filter(|told| chosen.contains(told)).or(chosen.first().copied()).or(told)
}

/// The link that `wanted` means among those there are. `before` was chosen the last time. It stays as long as it fits,
/// so that a further address or a further link in the network changes nothing.
///
/// # Errors
/// [`Unfit`], with what there is.
pub fn choose(
    wanted: &Interface,
    node: &Node,
    there: &[Candidate],
    before: Option<&Chosen>,
) -> Result<Chosen, Unfit> {
    let unfit = |why| Unfit { wanted: wanted.clone(), why, there: list(there) };
    let is_meant = |address: &IpNetwork| match wanted {
        Interface::Name(_) => true,
        Interface::Network(network) => network.contains(address.ip()),
    };
    let link = match wanted {
        Interface::Name(name) => {
            let link = there.iter().find(|link| link.name == *name).ok_or_else(|| unfit(Why::NoLink))?;
            if link.addresses.is_empty() {
                return Err(unfit(Why::NoAddress));
            }
            link
        }
        Interface::Network(_) => {
            let fit = there.iter().filter(|link| link.addresses.iter().any(is_meant));
            let is_known = |link: &&Candidate| before.is_some_and(|before| before.link == link.name);
            let best = fit.min_by_key(|link| (!link.usable, !is_known(link)));
            best.ok_or_else(|| unfit(Why::NotInNetwork))?
        }
    };
    // In the family of the network only addresses inside the network count.
    let counts = |address: &&IpNetwork| match wanted {
        Interface::Network(network) if network.is_ipv4() == address.is_ipv4() => is_meant(address),
        _ => true,
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in link.addresses.iter().filter(counts) {
        match address.ip() {
            IpAddr::V4(address) => v4.push(address),
            IpAddr::V6(address) => v6.push(address),
        }
    }
    let before = before.filter(|before| before.link == link.name);
    Ok(Chosen {
        link: link.name.clone(),
        v4: first(v4, node.address, before.and_then(|before| before.v4.first()))
            .map_err(|address| unfit(Why::Other(link.name.clone(), address.into())))?,
        v6: first(v6, node.address6, before.and_then(|before| before.v6.first()))
            .map_err(|address| unfit(Why::Other(link.name.clone(), address.into())))?,
    })
}

/// The addresses, with the one that was chosen `before` in front. If one is `given`, that one alone.
fn first<T: Copy + PartialEq>(mut all: Vec<T>, given: Option<T>, before: Option<&T>) -> Result<Vec<T>, T> {
    if let Some(given) = given {
        return if all.contains(&given) { Ok(vec![given]) } else { Err(given) };
    }
    all.sort_by_key(|address| Some(address) != before);
    Ok(all)
}

/// As in `eth0 (192.0.2.1/24, 2001:db8::1/64), eth1`.
fn list(there: &[Candidate]) -> String {
    let one = |link: &Candidate| {
        let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            link.name.to_string()
        } else {
            format!("{} ({})", link.name, addresses.join(", "))
        }
    };
    let mut words: Vec<_> = there.iter().take(NAMED).map(one).collect();
    if there.len() > NAMED {
        words.push(format!("and {} more", there.len() - NAMED));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, usable: bool, addresses: &[&str]) -> Candidate {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Candidate { name: IfName::new(name).unwrap(), usable, addresses }
    }

    fn there() -> Vec<Candidate> {
        vec![
            link("lo", true, &[]),
            link("eth0", true, &["10.0.2.15/24", "fd00:2::15/64"]),
            link("eth1", true, &["192.0.2.1/24", "192.0.2.7/24", "198.51.100.1/24", "2001:db8::1/64"]),
        ]
    }

    fn name(text: &str) -> Interface {
        Interface::Name(IfName::new(text).unwrap())
    }

    fn network(text: &str) -> Interface {
        Interface::Network(text.parse().unwrap())
    }

    fn chosen(wanted: &Interface) -> Result<(String, String), Unfit> {
        let chosen = choose(wanted, &Node::default(), &there(), None)?;
        Ok((chosen.link.to_string(), format!("{:?}", chosen.addresses((None, None)))))
    }

    #[test]
    fn a_name_and_a_network_choose_the_link_and_its_addresses() {
        for (wanted, link, addresses) in [
            (name("eth0"), "eth0", "(Some(10.0.2.15), Some(fd00:2::15))"),
            (name("eth1"), "eth1", "(Some(192.0.2.1), Some(2001:db8::1))"),
            (network("192.0.2.0/24"), "eth1", "(Some(192.0.2.1), Some(2001:db8::1))"),
            (network("192.0.2.7/32"), "eth1", "(Some(192.0.2.7), Some(2001:db8::1))"),
            (network("198.51.0.0/16"), "eth1", "(Some(198.51.100.1), Some(2001:db8::1))"),
            (network("fd00::/16"), "eth0", "(Some(10.0.2.15), Some(fd00:2::15))"),
        ] {
            assert_eq!(chosen(&wanted).unwrap(), (link.to_owned(), addresses.to_owned()), "{wanted}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_there_is() {
        let list = "lo, eth0 (10.0.2.15/24, fd00:2::15/64), eth1 (192.0.2.1/24, 192.0.2.7/24, 198.51.100.1/24, 2001:db8::1/64). \
                    Correct the key, or give the link its address; it is waited for";
        for (wanted, why) in [
            (name("eth7"), "\"eth7\": no link to other nodes is called so"),
            (name("lo"), "\"lo\": the link has no address by which other nodes can reach this one"),
            (network("172.16.0.0/12"), "\"172.16.0.0/12\": no link has such an address"),
        ] {
            let said = chosen(&wanted).unwrap_err().to_string();
            assert_eq!(said, format!("[node] interface = {why}; there are: {list}"));
        }
        let node = Node { address: Some([10, 0, 2, 15].into()), ..Node::default() };
        let said = choose(&name("eth1"), &node, &there(), None).unwrap_err().to_string();
        assert!(
            said.contains("the link eth1 does not have 10.0.2.15, which [node] gives this node"),
            "{said}"
        );
        let said = choose(&name("eth1"), &node, &[], None).unwrap_err().to_string();
        assert!(said.contains("there are: none."), "{said}");
    }

    #[test]
    fn what_a_source_tells_stays_if_the_link_has_it() {
        let chosen = choose(&name("eth1"), &Node::default(), &there(), None).unwrap();
        let told = |v4: [u8; 4], v6: &str| chosen.addresses((Some(v4.into()), Some(v6.parse().unwrap())));
        assert_eq!(told([192, 0, 2, 7], "2001:db8::1").0, Some([192, 0, 2, 7].into()));
        assert_eq!(
            told([10, 0, 2, 15], "fd00::9"),
            (Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap()))
        );
        // If the link has no address of a family, that family is treated as if no link were chosen.
        let chosen =
            choose(&name("a"), &Node::default(), &[link("a", true, &["192.0.2.1/24"])], None).unwrap();
        let told = Some("fd00::9".parse().unwrap());
        assert_eq!(chosen.addresses((None, told)), (Some([192, 0, 2, 1].into()), told));
    }

    #[test]
    fn a_choice_stays_as_long_as_it_fits() {
        let wanted = network("192.0.2.0/24");
        let one = |name, usable| link(name, usable, &["192.0.2.1/24"]);
        let choose = |there: &[Candidate], before: Option<&Chosen>| {
            choose(&wanted, &Node::default(), there, before).unwrap()
        };
        let before = choose(&[one("a", false), one("b", true)], None);
        assert_eq!(before.link.as_str(), "b", "it works");
        assert_eq!(choose(&[one("a", true), one("b", true)], Some(&before)), before);
        assert_eq!(choose(&[one("a", true), one("b", false)], Some(&before)).link.as_str(), "a");
        let more = link("b", true, &["192.0.2.9/24", "192.0.2.1/24"]);
        let after = choose(&[more], Some(&before));
        assert_eq!(after.addresses((None, None)), before.addresses((None, None)));
        assert!(
            before.lives_in(&after) && !after.lives_in(&before),
            "an address more is no change, one less is"
        );
    }
}
