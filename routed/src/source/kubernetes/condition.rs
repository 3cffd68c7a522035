//! What is written to this node's object. One part is the condition NetworkUnavailable: it becomes False once the
//! routes are in the kernel, and not before (the scheduler keeps pods away from a node on which it is True). With
//! WireGuard the other part is the node's public key.
//!
//! Both are patches of the status, which may carry annotations as well, so that one right suffices for both.

use ferrule_model::WgKey;
use k8s_openapi::jiff::Timestamp;

use super::objects::{PUBLIC_ADDRESS, WIREGUARD_KEY};
use super::patch::Matter;
use crate::source::lease::Public;

/// The facts that decide about condition and key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the first snapshot is in the kernel.
    pub(super) in_kernel: bool,
    /// Whether the object of this node was seen.
    pub(super) seen: bool,
    /// Whether the object already says that the network is available.
    pub(super) is_told: bool,
    /// The key of this node, if it has one.
    pub(super) key: Option<WgKey>,
    /// The key that the object bears.
    pub(super) told_key: Option<WgKey>,
    /// The addresses by which the others reach this node, if they differ from its own.
    pub(super) public: Public,
    /// The public addresses that the object bears.
    pub(super) told_public: Public,
}

impl Facts {
    fn is_due(&self) -> bool {
        self.in_kernel && self.seen && !self.is_told
    }

    fn due_key(&self) -> Option<WgKey> {
        self.key.filter(|key| self.seen && self.told_key != Some(*key))
    }
}

/// Keeps the condition.
pub(super) const MATTER: Matter<Facts> = Matter {
    what: "the condition NetworkUnavailable",
    due: |facts| facts.is_due().then(|| patch(Timestamp::now())),
};

/// Keeps the key.
pub(super) const KEY: Matter<Facts> =
    Matter { what: "the WireGuard key", due: |facts| facts.due_key().map(|key| annotation(&key)) };

/// Keeps the public addresses, and removes what an earlier configuration wrote.
pub(super) const PUBLIC: Matter<Facts> = Matter {
    what: "the public address",
    due: |facts| (facts.seen && facts.public != facts.told_public).then(|| public(facts.public)),
};

fn public(public: Public) -> Vec<u8> {
    let all = [public.v4.map(|ip| ip.to_string()), public.v6.map(|ip| ip.to_string())];
    let text = all.into_iter().flatten().collect::<Vec<_>>().join(",");
    // Null removes the annotation.
    let annotations = serde_json::json!({ PUBLIC_ADDRESS: Some(text).filter(|text| !text.is_empty()) });
    serde_json::json!({ "metadata": { "annotations": annotations } }).to_string().into_bytes()
}

fn annotation(key: &WgKey) -> Vec<u8> {
    let annotations = serde_json::json!({ WIREGUARD_KEY: key.to_string() });
    serde_json::json!({ "metadata": { "annotations": annotations } }).to_string().into_bytes()
}

/// A strategic merge patch. It tells conditions apart by their type, so all other conditions stay.
fn patch(now: Timestamp) -> Vec<u8> {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let condition = serde_json::json!({
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FerruleIsUp",
        "message": "routed has set up the routes to the other nodes",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    });
    serde_json::json!({ "status": { "conditions": [condition] } }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_whole_seconds() {
        let text = String::from_utf8(patch("2026-01-02T03:04:05.678Z".parse().unwrap())).unwrap();
        assert!(text.contains("\"lastTransitionTime\":\"2026-01-02T03:04:05Z\""), "{text}");
    }

    #[test]
    fn the_condition_is_written_only_for_a_node_that_is_there_and_whose_routes_are_in_the_kernel() {
        let due = |in_kernel, seen, is_told| Facts { in_kernel, seen, is_told, ..Facts::default() }.is_due();
        assert!(due(true, true, false));
        assert!(!due(false, true, false) && !due(true, false, false) && !due(true, true, true));
    }

    #[test]
    fn the_key_is_written_where_the_object_bears_another_or_none() {
        let (ours, other) = (Some(WgKey([7; 32])), Some(WgKey([8; 32])));
        let due = |key, seen, told_key| (KEY.due)(&Facts { key, seen, told_key, ..Facts::default() });
        assert!(due(ours, true, None).is_some());
        assert!(due(ours, true, ours).is_none() && due(ours, false, None).is_none());
        assert!(due(None, true, other).is_none());
        let patch = String::from_utf8(due(ours, true, other).unwrap()).unwrap();
        let expected = "{\"metadata\":{\"annotations\":{\"ferrule.io/wireguard-key\":\
                        \"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"}}}";
        assert_eq!(patch, expected);
    }
}
