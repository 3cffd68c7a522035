//! The condition NetworkUnavailable of this node's object: False once the routes are in the kernel, and not before. The
//! scheduler keeps pods away from a node on which it is True.

use k8s_openapi::jiff::Timestamp;

use super::patch::Matter;

/// What decides about the condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The first snapshot is in the kernel.
    pub(super) in_kernel: bool,
    /// The object of this node was seen.
    pub(super) seen: bool,
    /// It says already that the network is available.
    pub(super) is_told: bool,
}

impl Facts {
    fn is_due(&self) -> bool {
        self.in_kernel && self.seen && !self.is_told
    }
}

/// What keeps it.
pub(super) const MATTER: Matter<Facts> = Matter {
    what: "the condition NetworkUnavailable",
    due: |facts| facts.is_due().then(|| patch(Timestamp::now())),
};

/// A strategic merge patch: conditions are told apart by their type, so that all others stay.
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
        let due = |in_kernel, seen, is_told| Facts { in_kernel, seen, is_told }.is_due();
        assert!(due(true, true, false));
        assert!(!due(false, true, false) && !due(true, false, false) && !due(true, true, true));
    }
}
