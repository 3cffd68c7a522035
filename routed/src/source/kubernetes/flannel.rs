//! Nodes that share their network with flannel's nodes, by flannel's annotations: what these say of the other nodes,
//! and what this node's have to say. Pure, apart from the question whether an address is this machine's.

use std::net::{IpAddr, UdpSocket};

use ferrule_config::Config;

use super::objects::{Entry, Seen};
use super::patch::Matter;
use crate::decide::nodes::Node;
use crate::source::lease::{Annotations, KnownMacs, Public, Value};

/// What this node's annotations are, and what they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    wanted: Option<Annotations>,
    are: Annotations,
}

/// Keeps the annotations. flannel writes them in the same way: with the right to patch the status.
pub(super) const MATTER: Matter<Told> = Matter { what: "flannel's annotations", due };

fn due(told: &Told) -> Option<Vec<u8>> {
    let wanted = told.wanted.as_ref().filter(|wanted| **wanted != told.are)?;
    let all: serde_json::Map<_, _> = wanted.entries().map(|(name, value)| (name, value.into())).collect();
    Some(serde_json::json!({ "metadata": { "annotations": all } }).to_string().into_bytes())
}

/// How objects are read.
#[derive(Debug)]
pub(super) struct View {
    config: Config,
    own_name: String,
    /// The MACs of this node's VXLAN devices, once they are known.
    macs: KnownMacs,
    /// Whether some link of this machine has an address.
    is_local: fn(IpAddr) -> bool,
}

impl View {
    /// `macs` are those of the VXLAN devices that exist.
    pub(super) fn new(config: Config, own_name: String, macs: KnownMacs) -> Self {
        Self { config, own_name, macs, is_local }
    }

    /// Reads an object again, by flannel's annotations. If it is this node's, returns what its annotations are and
    /// should be.
    pub(super) fn look(&mut self, seen: &mut Seen) -> Option<Told> {
        let entry = std::mem::replace(&mut seen.entry, Err(String::new()));
        let Ok(node) = entry else {
            seen.entry = entry;
            return None;
        };
        let value = seen.flannel.value();
        if node.name != self.own_name {
            seen.entry = value.and_then(|value| other(&value, node, &self.config));
            return None;
        }
        let (entry, wanted) = self.own(node, value.ok(), seen.overwrite);
        seen.entry = entry;
        Some(Told { wanted, are: (*seen.flannel).clone() })
    }

    /// This node. What was told of it stays, if that is still possible. The others are told the address in an
    /// operator's annotation; without one, that of the configuration; else the one that the machine has.
    fn own(&mut self, node: Node, told: Option<Value>, overwrite: Public) -> (Entry, Option<Annotations>) {
        let public = told.as_ref().map(Value::public).unwrap_or_default();
        let (own, is_local) = (&self.config.node, self.is_local);
        let local = Public {
            v4: own.address.or_else(|| public.v4.filter(|address| is_local((*address).into()))).or(node.v4),
            v6: own.address6.or_else(|| public.v6.filter(|address| is_local((*address).into()))).or(node.v6),
        };
        let told = told.map(|value| value.macs()).unwrap_or_default();
        let macs = self.macs.settle(told, &self.own_name);
        let public = overwrite.or(Public::configured(own)).or(local);
        let value = Value::of(public, &self.config.routing, macs, None);
        let entry = other(&value, node, &self.config);
        (entry.map(|node| Node { v4: local.v4, v6: local.v6, ..node }), Some(Annotations::from(&value)))
    }
}

/// Another node. A key that `routed` has published as its own annotation counts, because flannel's annotations have
/// none of ours.
fn other(value: &Value, node: Node, config: &Config) -> Entry {
    let told = value.node_called(node.name, node.pod_cidrs, &config.routing)?;
    let wireguard_key = node.wireguard_key.or(told.wireguard_key);
    Ok(Node { wireguard_key, further: node.further, ..told })
}

/// Whether some link of this machine has the address.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::objects::Object;
    use super::*;
    use ferrule_model::IfName;

    fn object(name: &str, annotations: &str) -> Seen {
        let line = format!(
            "{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"{name}\",\"annotations\":{annotations}}},\
             \"spec\":{{\"podCIDRs\":[\"10.244.1.0/24\"]}},\
             \"status\":{{\"addresses\":[{{\"type\":\"InternalIP\",\"address\":\"192.0.2.1\"}}]}}}}}}"
        );
        match ferrule_cluster::event::<Object>(line.as_bytes()) {
            Ok(ferrule_cluster::Told::Put(item)) => item.into(),
            other => panic!("{other:?}"),
        }
    }

    fn view() -> View {
        let mut config = Config::default();
        config.routing.vxlan.device = IfName::new("flannel.1").unwrap();
        let is_local = |address: IpAddr| address != IpAddr::from([198, 51, 100, 7]);
        View { is_local, ..View::new(config, "n1".into(), KnownMacs::default()) }
    }

    const THEIRS: &str = r#"{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"82:4b:b6:2f:54:4e\"}",
        "flannel.alpha.coreos.com/backend-type":"vxlan", "flannel.alpha.coreos.com/kube-subnet-manager":"true",
        "flannel.alpha.coreos.com/public-ip":"198.51.100.7"}"#;

    #[test]
    fn another_node_is_where_flannel_says_and_not_there_before_flannel_says_so() {
        let mut seen = object("n2", THEIRS);
        assert_eq!(view().look(&mut seen), None);
        let node = seen.entry.unwrap();
        assert_eq!(
            (node.v4, node.vtep_mac.to_string().as_str()),
            (Some([198, 51, 100, 7].into()), "82:4b:b6:2f:54:4e")
        );
        let mut seen = object("n2", "{}");
        view().look(&mut seen);
        assert!(seen.entry.unwrap_err().contains("neither flanneld nor routed"));
    }

    #[test]
    fn this_node_keeps_its_mac_and_says_what_is_not_told_yet() {
        let mut view = view();
        let mut seen = object("n1", THEIRS);
        let told = view.look(&mut seen).unwrap();
        let node = seen.entry.as_ref().unwrap();
        assert_eq!(node.vtep_mac.to_string(), "82:4b:b6:2f:54:4e");
        assert_eq!(node.v4, Some([192, 0, 2, 1].into()), "198.51.100.7 is no address of this machine");
        let patch: serde_json::Value = serde_json::from_slice(&due(&told).unwrap()).unwrap();
        let all = &patch["metadata"]["annotations"];
        assert_eq!(all["flannel.alpha.coreos.com/public-ip"], "192.0.2.1");
        assert_eq!(
            all["flannel.alpha.coreos.com/backend-data"],
            r#"{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}"#
        );
        let mut seen = object("n1", &all.to_string());
        let told = view.look(&mut seen).unwrap();
        assert_eq!(due(&told), None, "it is told");
    }

    #[test]
    fn what_an_operator_overwrites_is_published_and_the_node_itself_stays_where_it_is() {
        let overwrite = "{\"flannel.alpha.coreos.com/public-ip-overwrite\":\"203.0.113.9\",";
        let both = THEIRS.replacen('{', overwrite, 1);
        let mut configured = view();
        configured.config.node.public_address = Some([203, 0, 113, 5].into());
        for (mut view, text, public) in [
            (view(), both.as_str(), "203.0.113.9"),
            (view(), THEIRS, "192.0.2.1"),
            (View { config: configured.config.clone(), ..view() }, THEIRS, "203.0.113.5"),
            (configured, both.as_str(), "203.0.113.9"),
        ] {
            let mut seen = object("n1", text);
            let told = view.look(&mut seen).unwrap();
            assert_eq!(seen.entry.unwrap().v4, Some([192, 0, 2, 1].into()), "what the machine has");
            let patch: serde_json::Value = serde_json::from_slice(&due(&told).unwrap()).unwrap();
            let all = patch["metadata"]["annotations"].as_object().unwrap();
            assert_eq!(all["flannel.alpha.coreos.com/public-ip"], public);
            assert!(!all.keys().any(|name| name.contains("overwrite")), "it is the operator's");
        }
        let mut seen = object("n1", &both.replace("203.0.113.9", "127.0.0.1"));
        view().look(&mut seen);
        assert!(seen.entry.unwrap_err().contains("public-ip-overwrite \"127.0.0.1\""));
    }

    #[test]
    fn a_key_is_known_beside_flannels_annotations() {
        let key = ferrule_model::WgKey([7; 32]);
        let both = THEIRS.replacen('{', &format!("{{\"ferrule.io/wireguard-key\":\"{key}\","), 1);
        for name in ["n1", "n2"] {
            let mut seen = object(name, &both);
            view().look(&mut seen);
            assert_eq!(seen.entry.unwrap().wireguard_key, Some(key));
        }
    }

    #[test]
    fn the_mac_of_the_device_that_is_there_wins() {
        let mac: ferrule_model::Mac = "02:00:00:00:00:01".parse().unwrap();
        let mut view = View { macs: KnownMacs { v4: Some(mac), v6: None }, ..view() };
        let mut seen = object("n1", THEIRS);
        assert!(due(&view.look(&mut seen).unwrap()).is_some());
        assert_eq!(seen.entry.unwrap().vtep_mac, mac);
    }
}
