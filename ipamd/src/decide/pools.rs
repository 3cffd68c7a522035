//! Which pools there are: those of the configuration, else the node's CIDRs out of `node.json`. Pure.

use crate::decide::pool::PoolSpec;
use crate::decide::service::Settings;
use ferrule_config::{Config, NodeFile};
use ferrule_wire::messages::AddressRange;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Name of the pool of `node.json`.
pub(crate) const NODE_POOL: &str = "node";

/// The settings that follow from configuration and `node.json`. `node` is the last good state of the file, `fault` what
/// was wrong when it was last read.
///
/// `held` is what the node itself has; what is of no pool is left out.
pub(crate) fn settings(
    config: &Config,
    node: Option<&NodeFile>,
    fault: Option<&str>,
    held: &BTreeMap<IpAddr, String>,
) -> Settings {
    let (known, waiting): (Vec<_>, Vec<_>) =
        config.ipam.pools.iter().partition(|pool| !pool.subnets.is_empty());
    let configured = known.into_iter().map(|pool| PoolSpec {
        name: pool.name.clone(),
        subnets: pool.subnets.clone(),
        reserved: pool.reserved.clone(),
        ranges: pool.ranges.iter().map(|&(first, last)| AddressRange { first, last }).collect(),
    });
    let mut pools: Vec<PoolSpec> = configured.collect();
    let cidrs = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    if config.ipam.pools.is_empty() && !cidrs.is_empty() {
        pools.push(PoolSpec { name: NODE_POOL.to_owned(), subnets: cidrs, ..PoolSpec::default() });
    }
    let file = waiting.first().and_then(|pool| pool.subnet_env.as_ref());
    let why_no_pool = match (file, node, fault) {
        (Some(file), ..) => waits_for(file),
        (None, None, None) => {
            "routed has not written node.json yet; start routed, or set [[ipam.pool]]".to_owned()
        }
        (None, None, Some(fault)) => format!("node.json cannot be used: {fault}"),
        (None, Some(node), _) => format!("routed knows no pod CIDR of the node {:?} yet", node.node),
    };
    let is_ours =
        |address: IpAddr| pools.iter().flat_map(|pool| &pool.subnets).any(|subnet| subnet.contains(address));
    let held = held.iter().filter(|(address, _)| is_ours(**address));
    Settings {
        held: held.map(|(address, link)| (*address, link.clone())).collect(),
        pools,
        cooldown: config.ipam.cooldown,
        // routed writes the configured MTU into node.json, limited to what the network between the nodes can carry.
        mtu: node.map(|node| node.mtu).or(config.routing.mtu),
        why_no_pool,
    }
}

fn waits_for(file: &Path) -> String {
    format!(
        "flannel has not written {} yet, or it cannot be used (the log says why); start flannel, or set `subnets` in \
         [[ipam.pool]]",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(config: &Config, node: Option<&NodeFile>, fault: Option<&str>) -> Settings {
        super::settings(config, node, fault, &BTreeMap::new())
    }

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("ferrule.toml")).unwrap()
    }

    fn node(cidrs: &[&str]) -> NodeFile {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        NodeFile {
            node: "a".into(),
            pod_cidrs,
            cluster_cidrs: Vec::new(),
            mtu: 1450,
            reserved_host_ports: Vec::new(),
        }
    }

    #[test]
    fn the_node_s_cidrs_are_the_pool_unless_the_configuration_has_one() {
        let node = node(&["10.244.1.0/24", "fd00:1::/64"]);
        let settings_of_node = settings(&Config::default(), Some(&node), None);
        assert_eq!(settings_of_node.pools[0].name, NODE_POOL);
        assert_eq!(settings_of_node.pools[0].subnets, node.pod_cidrs);
        assert_eq!(settings_of_node.mtu, Some(1450));

        let own = "[[ipam.pool]]\nname = \"own\"\nsubnets = [\"10.9.0.0/24\"]\nreserved = [\"10.9.0.1\"]\n";
        let own = settings(&config(own), Some(&node), None);
        let names: Vec<_> = own.pools.iter().map(|pool| pool.name.as_str()).collect();
        assert_eq!(names, ["own"]);
        assert_eq!(own.pools[0].reserved, ["10.9.0.1/32".parse().unwrap()]);
        assert_eq!(own.mtu, Some(1450));
    }

    #[test]
    fn without_a_pool_the_reason_is_said() {
        let reason = |node: Option<&NodeFile>, fault| settings(&Config::default(), node, fault).why_no_pool;
        assert!(reason(None, None).starts_with("routed has not written node.json yet"));
        assert!(reason(None, Some("line 3")).contains("line 3"));
        let empty = node(&[]);
        assert!(settings(&Config::default(), Some(&empty), None).pools.is_empty());
        assert!(reason(Some(&empty), None).contains("no pod CIDR"));
        assert_eq!(settings(&config("[routing]\nmtu = 1400\n"), None, None).mtu, Some(1400));
    }

    #[test]
    fn of_the_node_s_own_addresses_those_of_a_pool_count() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let held =
            [("192.0.2.1", "eth0"), ("10.244.1.1", "cni0"), ("fd00:1::1", "cni0"), ("fd00::1", "eth0")];
        let held = held.map(|(text, link)| (address(text), link.to_owned())).into();
        let node = node(&["10.244.1.0/24", "fd00:1::/64"]);
        let told = super::settings(&Config::default(), Some(&node), None, &held).held;
        assert_eq!(told.into_keys().collect::<Vec<_>>(), [address("10.244.1.1"), address("fd00:1::1")]);
    }
}
