//! `subnet.env`: what flannel tells the plugins of its node. It consists of shell assignments, which are read here and
//! never executed.

use std::path::Path;

use ipnetwork::IpNetwork;

use crate::document::{Checked, Document};
use crate::error::ConfigError;
use crate::node_file::{MTU_MAX, MTU_MIN};

/// The file of `[[ipam.pool]] subnet_env`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubnetEnv {
    /// This node's networks: `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`; at least one.
    pub subnets: Vec<IpNetwork>,
    /// The addresses by which the two networks are written. They belong to the bridge of flannel's pods.
    pub gateways: Vec<IpNetwork>,
    /// `FLANNEL_MTU`: the longest packet that fits into flannel's tunnel.
    pub mtu: Option<u32>,
}

impl SubnetEnv {
    /// Reads the file from its text. `file` is only a name for messages.
    ///
    /// # Errors
    /// If it is not what flannel writes.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text);
        let mut found = Self::default();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let begin = at;
            at += line.len();
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            let wrong = |reason: &str, remedy: &str| document.fault_at(begin..begin + 1, key, reason, remedy);
            match key.trim() {
                "FLANNEL_SUBNET" | "FLANNEL_IPV6_SUBNET" => {
                    let network = subnet(key.ends_with("IPV6_SUBNET"), value).ok_or_else(|| {
                        wrong(&format!("\"{value}\" is no network with the bridge's address"), REMEDY)
                    })?;
                    found.gateways.push(IpNetwork::from(network.ip()));
                    found.subnets.push(whole(network));
                }
                "FLANNEL_MTU" => {
                    let mtu = value.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
                    let reason = format!("\"{value}\" is not between {MTU_MIN} and {MTU_MAX}");
                    found.mtu = Some(mtu.ok_or_else(|| wrong(&reason, REMEDY))?);
                }
                _ => {}
            }
        }
        some(&document, found).map_err(ConfigError::from)
    }
}

/// The file's text for a node with these pod CIDRs, at most one for each family, as flannel writes it. `networks` are
/// those of all pods.
#[must_use]
pub fn subnet_env_text(
    networks: &[IpNetwork],
    pod_cidrs: &[IpNetwork],
    mtu: u32,
    masquerade: bool,
) -> String {
    let mut text = String::new();
    for (family, cidr) in [
        ("", pod_cidrs.iter().find(|cidr| cidr.is_ipv4())),
        ("IPV6_", pod_cidrs.iter().find(|cidr| cidr.is_ipv6())),
    ] {
        let Some(cidr) = cidr else { continue };
        let of_family: Vec<_> = networks.iter().filter(|one| one.is_ipv4() == cidr.is_ipv4()).collect();
        let network = cover(&of_family).unwrap_or(*cidr);
        let gateway = first_host(cidr);
        text.push_str(&format!(
            "FLANNEL_{family}NETWORK={network}\nFLANNEL_{family}SUBNET={gateway}/{}\n",
            cidr.prefix()
        ));
    }
    text.push_str(&format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={masquerade}\n"));
    text
}

/// The smallest network that contains all of these.
fn cover(networks: &[&IpNetwork]) -> Option<IpNetwork> {
    let mut prefix = networks.iter().map(|network| network.prefix()).min()?;
    let first = networks.first()?;
    loop {
        let wide = IpNetwork::new(first.ip(), prefix).ok()?;
        if prefix == 0 || networks.iter().all(|network| wide.contains(network.network())) {
            return IpNetwork::new(wide.network(), prefix).ok();
        }
        prefix -= 1;
    }
}

/// The address after the network's own, which flannel's bridge has.
fn first_host(network: &IpNetwork) -> std::net::IpAddr {
    match network.network() {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip).saturating_add(1)).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip).saturating_add(1)).into(),
    }
}

const REMEDY: &str = "let flannel write the file, as FLANNEL_SUBNET=10.244.1.1/24";

fn some(document: &Document<'_>, found: SubnetEnv) -> Checked<SubnetEnv> {
    if found.subnets.is_empty() {
        let reason = "neither FLANNEL_SUBNET nor FLANNEL_IPV6_SUBNET is in the file";
        return Err(document.fault_at(0..0, "FLANNEL_SUBNET", reason, REMEDY));
    }
    Ok(found)
}

/// A network of pods of that family, with the address by which it was written.
fn subnet(is_v6: bool, text: &str) -> Option<IpNetwork> {
    let network: IpNetwork = text.contains('/').then(|| text.parse().ok())??;
    let address = network.ip();
    let odd = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    (network.is_ipv6() == is_v6 && network.prefix() > 0 && !odd).then_some(network)
}

fn whole(network: IpNetwork) -> IpNetwork {
    // The prefix is known to be valid for the family.
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SubnetEnv, String> {
        SubnetEnv::parse(text, Path::new("subnet.env")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_flannels_and_read_back() {
        let networks =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNetwork>>();
        let own = networks(&["10.244.1.0/24", "fd00:244:0:1::/64"]);
        let all = networks(&["10.244.0.0/16", "fd00:244::/56"]);
        let text = subnet_env_text(&all, &own, 1450, true);
        let golden = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/56\n\
                      FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        assert_eq!(text, golden);
        let read = SubnetEnv::parse(&text, Path::new("subnet.env")).unwrap();
        assert_eq!((read.subnets, read.mtu), (own.clone(), Some(1450)));
        let known = networks(&["10.244.1.0/24", "10.244.2.0/23", "10.244.9.0/24"]);
        let text = subnet_env_text(&known, &own[..1], 1400, false);
        assert_eq!(
            text,
            "FLANNEL_NETWORK=10.244.0.0/20\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n"
        );
    }

    #[test]
    fn flannel_s_file_is_read() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10::/56\n\
                    FLANNEL_IPV6_SUBNET=fd00:10:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let env = parse(text).unwrap();
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(env.subnets, nets(["10.244.1.0/24", "fd00:10:0:1::/64"]));
        assert_eq!(env.gateways, nets(["10.244.1.1/32", "fd00:10:0:1::1/128"]));
        assert_eq!(env.mtu, Some(1450));
        assert_eq!(parse("FLANNEL_SUBNET=\"10.244.1.1/24\"").unwrap().mtu, None);
    }

    #[test]
    fn what_flannel_would_not_write_is_refused_with_its_line() {
        for (text, told) in [
            ("", "neither FLANNEL_SUBNET"),
            ("\nFLANNEL_SUBNET=10.244.1.1\n", "subnet.env:2:1: FLANNEL_SUBNET: \"10.244.1.1\" is no network"),
            ("FLANNEL_SUBNET=fd00::1/64", "is no network"),
            ("FLANNEL_IPV6_SUBNET=::1/64", "is no network"),
            ("FLANNEL_SUBNET=0.0.0.0/0", "is no network"),
            ("FLANNEL_SUBNET=10.0.0.1/24\nFLANNEL_MTU=70000", "subnet.env:2:1: FLANNEL_MTU"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
