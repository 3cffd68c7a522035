//! Finds out whose a lease is: pure. etcd knows no names of nodes. An address may be shared by several nodes (behind
//! one NAT), and may change with a restart. So a node is recognised by what is its own.
//!
//! Its name is in the number of the lease, because etcd lets a client choose that number. Its MACs, or its WireGuard
//! key, are in the value. The address alone decides only if a lease says nothing else.

use ferrule_model::{Mac, WgKey, vtep_mac};

use crate::source::lease::{Public, Value};
use crate::source::subnets::Subnets;

/// The beginning of the number of every lease that `routed` chose. The rest is a hash of the name and the network's
/// prefix.
const BEGINS: i64 = 0x4665 << 48;

/// The number of the lease of the node called `name`, in the network with this prefix.
pub(super) fn lease_of(prefix: &str, name: &str) -> i64 {
    let hash = vtep_mac(&[prefix, "\n", name].concat()).octets();
    hash.iter().fold(0, |number, octet| number << 8 | i64::from(*octet)) | BEGINS
}

fn is_routeds(lease: i64) -> bool {
    lease >> 48 == BEGINS >> 48
}

/// What identifies this node.
#[derive(Debug, Clone)]
pub(super) struct Me {
    /// The number of its lease.
    pub(super) lease: i64,
    /// The MACs of its VXLAN devices, or those that follow from its name.
    pub(super) macs: Vec<Mac>,
    /// Its WireGuard key.
    pub(super) key: Option<WgKey>,
    /// The addresses by which the others reach it.
    pub(super) public: Public,
    /// The subnets that it had before.
    pub(super) previous: Option<Subnets>,
    /// Whether another living node has its name or its MAC. Then neither tells anything.
    pub(super) has_twin: bool,
}

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// It is this node's, at its present address.
    Mine,
    /// It is this node's, from a time when it had another address.
    MineElsewhere,
    /// It belongs to another node that has this one's address.
    AtMyAddress,
    /// It belongs to another node.
    Others,
}

impl Me {
    /// Whose the lease of this number with these subnets is. A lease whose `value` cannot be read belongs to nobody.
    pub(super) fn whose(&self, lease: i64, subnets: &Subnets, value: Option<&Value>) -> Whose {
        let macs: Vec<_> = value.map(Value::macs).unwrap_or_default().all().collect();
        let key = value.and_then(Value::public_key);
        let is_named = lease == self.lease
            || macs.iter().any(|mac| self.macs.contains(mac))
            || key.is_some_and(|key| self.key == Some(key));
        let is_here = value.is_some_and(|value| value.public().is_same_node(&self.public));
        if !is_here {
            return if is_named && !self.has_twin { Whose::MineElsewhere } else { Whose::Others };
        }
        // Without a tunnel all nodes are on one segment, where each address belongs to one node.
        let says_nothing = macs.is_empty() && key.is_none() && !is_routeds(lease);
        let is_mine = is_named || says_nothing || self.previous.as_ref() == Some(subnets);
        if is_mine { Whose::Mine } else { Whose::AtMyAddress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: WgKey = WgKey([7; 32]);
    /// A number as etcd chooses it.
    const ETCDS: i64 = 0x694d_8f2c_3a51_c20a;

    fn me() -> Me {
        Me {
            lease: lease_of("/n", "n1"),
            macs: vec![vtep_mac("n1")],
            key: Some(KEY),
            public: Public { v4: Some([192, 0, 2, 1].into()), v6: None },
            previous: Subnets::parse("10.5.9.0-24"),
            has_twin: false,
        }
    }

    fn whose(me: &Me, lease: i64, (name, last, data): (&str, u8, &str)) -> Whose {
        let text = format!(r#"{{"PublicIP":"192.0.2.{last}","BackendType":"vxlan","BackendData":{data}}}"#);
        let value = Value::parse(text.as_bytes()).unwrap();
        me.whose(lease, &Subnets::parse(name).unwrap(), Some(&value))
    }

    #[test]
    fn the_number_of_a_lease_is_the_nodes_in_its_network_and_one_that_etcd_takes() {
        let all = [lease_of("/n", "n1"), lease_of("/n", "n2"), lease_of("/m", "n1")];
        assert!(all.iter().all(|lease| *lease > 0 && is_routeds(*lease)), "{all:x?}");
        assert!(all[0] != all[1] && all[0] != all[2]);
        assert!(!is_routeds(ETCDS) && !is_routeds(0));
    }

    #[test]
    fn name_mac_and_key_tell_a_node_wherever_it_was() {
        let (me, other) = (me(), lease_of("/n", "n2"));
        let mine = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, vtep_mac("n1"));
        let key = format!(r#"{{"PublicKey":"{KEY}"}}"#);
        for (lease, data) in [(me.lease, "null"), (ETCDS, mine.as_str()), (ETCDS, &key), (other, &key)] {
            assert_eq!(whose(&me, lease, ("10.5.1.0-24", 1, data)), Whose::Mine, "{data}");
            assert_eq!(whose(&me, lease, ("10.5.1.0-24", 2, data)), Whose::MineElsewhere, "{data}");
            let twin = Me { has_twin: true, ..me.clone() };
            assert_eq!(whose(&twin, lease, ("10.5.1.0-24", 1, data)), Whose::Mine, "{data}");
            assert_eq!(whose(&twin, lease, ("10.5.1.0-24", 2, data)), Whose::Others, "{data}");
        }
    }

    #[test]
    fn an_address_tells_it_only_where_nothing_else_does() {
        let (me, other) = (me(), lease_of("/n", "n2"));
        let theirs = r#"{"VNI":1,"VtepMAC":"82:4b:b6:00:00:07"}"#;
        assert_eq!(whose(&me, ETCDS, ("10.5.1.0-24", 1, theirs)), Whose::AtMyAddress);
        assert_eq!(whose(&me, 0, ("10.5.1.0-24", 1, theirs)), Whose::AtMyAddress);
        assert_eq!(whose(&me, ETCDS, ("10.5.9.0-24", 1, theirs)), Whose::Mine, "it had that one");
        assert_eq!(whose(&me, ETCDS, ("10.5.1.0-24", 1, "null")), Whose::Mine, "a plain route's");
        assert_eq!(whose(&me, 0, ("10.5.1.0-24", 1, "null")), Whose::Mine, "reserved for it");
        assert_eq!(whose(&me, other, ("10.5.1.0-24", 1, "null")), Whose::AtMyAddress);
        assert_eq!(whose(&me, ETCDS, ("10.5.9.0-24", 2, theirs)), Whose::Others);
        let subnets = Subnets::parse("10.5.9.0-24").unwrap();
        assert_eq!(me.whose(ETCDS, &subnets, None), Whose::Others, "what cannot be read is nobody's");
    }
}
