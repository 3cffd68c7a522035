//! What is written of this node's object: the condition NetworkUnavailable, False once the routes are in the kernel and not
//! before (the scheduler keeps pods away from a node on which it is True), and with WireGuard the node's public key.
//!
//! Both go out as patches of the status, which may carry annotations as well, so that one right does for both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ferrule_model::WgKey;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::api::Api;
use super::fault::Fault;
use super::objects::WIREGUARD_KEY;
use super::pause::Pause;

/// Someone else may want the condition to be another: no fight faster than this.
const LEAST_GAP: Duration = Duration::from_secs(5);

/// What decides about condition and key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The first snapshot is in the kernel.
    pub(super) in_kernel: bool,
    /// The object of this node was seen.
    pub(super) seen: bool,
    /// It says already that the network is available.
    pub(super) is_told: bool,
    /// The key of this node, if it has one.
    pub(super) key: Option<WgKey>,
    /// The key that the object bears.
    pub(super) told_key: Option<WgKey>,
}

/// One of the things that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// The condition.
    Condition,
    /// The key.
    Key,
}

impl Writing {
    fn is_due(self, facts: &Facts) -> bool {
        facts.seen
            && match self {
                Self::Condition => facts.in_kernel && !facts.is_told,
                Self::Key => facts.key.is_some() && facts.key != facts.told_key,
            }
    }

    fn patch(self, facts: &Facts) -> Vec<u8> {
        match (self, facts.key) {
            (Self::Key, Some(key)) => annotation(&key),
            _ => patch(Timestamp::now()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Key => "WireGuard key",
        }
    }
}

/// Keeps one thing of the object of the node called `name`, until the facts come no more.
pub(super) async fn keep(
    writing: Writing,
    kubeconfig: Option<PathBuf>,
    name: String,
    mut facts: watch::Receiver<Facts>,
) {
    let mut pause = Pause::new();
    let mut said = BTreeSet::new();
    while facts.wait_for(|facts| writing.is_due(facts)).await.is_ok() {
        let due = *facts.borrow_and_update();
        match write(kubeconfig.as_deref(), &name, writing.patch(&due)).await {
            Ok(()) => {
                match writing {
                    Writing::Condition => {
                        tracing::info!("the condition NetworkUnavailable of node {name} is False now");
                    }
                    Writing::Key => tracing::info!("the WireGuard key of node {name} is published"),
                }
                (pause, said) = (Pause::new(), BTreeSet::new());
                tokio::time::sleep(LEAST_GAP).await;
                if facts.changed().await.is_err() {
                    return;
                }
            }
            Err(fault) => {
                if said.insert(fault.class()) {
                    let what = writing.name();
                    tracing::error!(
                        "cannot write the {what} of node {name}: {fault}; tried again, ever more rarely; routes are not held up"
                    );
                }
                tokio::time::sleep(pause.next()).await;
            }
        }
    }
}

async fn write(kubeconfig: Option<&std::path::Path>, name: &str, patch: Vec<u8>) -> Result<(), Fault> {
    Api::open(kubeconfig).await?.patch_status(name, patch).await
}

fn annotation(key: &WgKey) -> Vec<u8> {
    let annotations = serde_json::json!({ WIREGUARD_KEY: key.to_string() });
    serde_json::json!({ "metadata": { "annotations": annotations } }).to_string().into_bytes()
}

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
        let due = |in_kernel, seen, is_told| {
            Writing::Condition.is_due(&Facts { in_kernel, seen, is_told, ..Facts::default() })
        };
        assert!(due(true, true, false));
        assert!(!due(false, true, false) && !due(true, false, false) && !due(true, true, true));
    }

    #[test]
    fn the_key_is_written_where_the_object_bears_another_or_none() {
        let (ours, other) = (Some(WgKey([7; 32])), Some(WgKey([8; 32])));
        let due =
            |key, seen, told_key| Writing::Key.is_due(&Facts { key, seen, told_key, ..Facts::default() });
        assert!(due(ours, true, None) && due(ours, true, other));
        assert!(!due(ours, true, ours) && !due(ours, false, None) && !due(None, true, other));
        let facts = Facts { key: ours, ..Facts::default() };
        let patch = String::from_utf8(Writing::Key.patch(&facts)).unwrap();
        let expected = "{\"metadata\":{\"annotations\":{\"ferrule.io/wireguard-key\":\
                        \"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"}}}";
        assert_eq!(patch, expected);
    }
}
