//! The networks of all pods: pure.

use ferrule_model::{IpNetwork, merged};

use crate::decide::nodes::Cluster;

/// The networks of all pods: the configured ones, or those of all known nodes.
pub fn cluster_cidrs(configured: &[IpNetwork], cluster: &Cluster) -> Vec<IpNetwork> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let nodes = std::iter::once(&cluster.own).chain(cluster.others.values().map(AsRef::as_ref));
    merged(nodes.flat_map(|node| node.pod_cidrs.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::nodes::Node;
    use ferrule_model::vtep_mac;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn without_configured_networks_the_cluster_is_what_the_nodes_have() {
        let node = |name: &str, pods: &[&str]| Node {
            name: name.into(),
            v4: None,
            v6: None,
            pod_cidrs: networks(pods),
            vtep_mac: vtep_mac(name),
            wireguard_key: None,
            vtep_mac6: vtep_mac(name),
            further: Vec::new(),
        };
        let own = node("a", &["10.244.1.0/24", "fd00:1::/64"]);
        let other = node("b", &["10.244.2.0/24"]);
        let cluster = Cluster { own, others: [("b".into(), other.into())].into(), uplink: None };
        let configured = networks(&["10.244.0.0/16"]);
        assert_eq!(cluster_cidrs(&configured, &cluster), configured);
        assert_eq!(
            cluster_cidrs(&[], &cluster),
            networks(&["10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64"])
        );
    }
}
