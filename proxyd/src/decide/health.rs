//! What load balancers are answered when they ask whether to send packets to this node: the answers of kube-proxy
//! (`pkg/proxy/healthcheck`).

use std::num::NonZeroU16;

use serde::Serialize;

use super::ServiceName;

/// A Service whose load balancer asks each node whether it has endpoints (`spec.healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ServiceName,
    /// The port of the node where it asks.
    pub port: NonZeroU16,
    /// How many endpoints that are ready this node has. Terminating ones still serve, but do not count here, so that
    /// the load balancer goes elsewhere before they end.
    pub local_endpoints: usize,
}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200 or 503.
    pub status: u16,
    /// Names and values of the headers that belong to it.
    pub headers: Vec<(&'static str, String)>,
    /// The text.
    pub body: String,
}

const YES: u16 = 200;
const NO: u16 = 503;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody<'a> {
    service: NameBody<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct NameBody<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl HealthCheck {
    /// The answer at the health check's port, whatever the path. `is_healthy` says whether the proxy keeps up with what
    /// it is told. Whether the node is about to be removed does not count here: load balancers that go by this port
    /// look for endpoints, and an endpoint on such a node is still to be served.
    pub fn answer(&self, is_healthy: bool) -> Answer {
        let ServiceName { namespace, name } = &self.service;
        let body = HealthBody {
            service: NameBody { namespace, name },
            local_endpoints: self.local_endpoints,
            service_proxy_healthy: is_healthy,
        };
        let status = if self.local_endpoints > 0 && is_healthy { YES } else { NO };
        let mut answer = json(status, &body);
        answer.headers.push(("X-Load-Balancing-Endpoint-Weight", self.local_endpoints.to_string()));
        answer
    }
}

/// How the proxy itself is, for `/healthz` and `/livez`. With the external traffic policy `Cluster` load balancers go
/// by `/healthz`: every node is good for them whose proxy works and that is to stay (KEP-3836).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHealth {
    /// Whether the proxy keeps up with what it is told.
    pub is_healthy: bool,
    /// Whether the node takes new connections, by [`super::NodeFacts::is_eligible`].
    pub is_eligible: bool,
    /// When the data path was last right, as text.
    pub last_updated: String,
    /// Now, as text.
    pub current_time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyBody<'a> {
    last_updated: &'a str,
    current_time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

impl ProxyHealth {
    /// `/healthz`: whether load balancers should send packets to this node.
    pub fn healthz(&self) -> Answer {
        self.answer(self.is_healthy && self.is_eligible, Some(self.is_eligible))
    }

    /// `/livez`: whether the proxy works, wherever the node stands.
    pub fn livez(&self) -> Answer {
        self.answer(self.is_healthy, None)
    }

    fn answer(&self, is_good: bool, node_eligible: Option<bool>) -> Answer {
        // As kube-proxy does it: a proxy that is healthy is up to date now.
        let last_updated = if is_good { &self.current_time } else { &self.last_updated };
        let body = ProxyBody { last_updated, current_time: &self.current_time, node_eligible };
        json(if is_good { YES } else { NO }, &body)
    }
}

fn json(status: u16, body: &impl Serialize) -> Answer {
    let headers = vec![
        ("Content-Type", "application/json".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
    ];
    // The bodies are structures of texts, numbers and truths, and JSON can hold all of those.
    let body = serde_json::to_string_pretty(body).unwrap_or_default();
    Answer { status, headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(local_endpoints: usize) -> HealthCheck {
        let service = ServiceName { namespace: "default".into(), name: "web".into() };
        HealthCheck { service, port: NonZeroU16::MIN, local_endpoints }
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(&answer.body).unwrap()
    }

    #[test]
    fn a_health_check_says_yes_with_endpoints_here_and_a_healthy_proxy() {
        for (endpoints, is_healthy, status) in [(2, true, YES), (2, false, NO), (0, true, NO), (0, false, NO)]
        {
            let answer = check(endpoints).answer(is_healthy);
            assert_eq!(answer.status, status);
            assert_eq!(
                body(&answer),
                json!({
                    "service": { "namespace": "default", "name": "web" },
                    "localEndpoints": endpoints,
                    "serviceProxyHealthy": is_healthy,
                })
            );
            assert_eq!(
                answer.headers,
                [
                    ("Content-Type", "application/json".to_owned()),
                    ("X-Content-Type-Options", "nosniff".to_owned()),
                    ("X-Load-Balancing-Endpoint-Weight", endpoints.to_string()),
                ]
            );
        }
    }

    #[test]
    fn healthz_asks_for_the_node_too_and_livez_does_not() {
        for (is_healthy, is_eligible) in [(true, true), (true, false), (false, true), (false, false)] {
            let health = ProxyHealth {
                is_healthy,
                is_eligible,
                last_updated: "before".to_owned(),
                current_time: "now".to_owned(),
            };
            let (healthz, livez) = (health.healthz(), health.livez());
            let is_good = is_healthy && is_eligible;
            assert_eq!(healthz.status, if is_good { YES } else { NO });
            let updated = if is_good { "now" } else { "before" };
            let expected =
                json!({ "lastUpdated": updated, "currentTime": "now", "nodeEligible": is_eligible });
            assert_eq!(body(&healthz), expected);
            assert_eq!(livez.status, if is_healthy { YES } else { NO });
            assert!(body(&livez).get("nodeEligible").is_none());
        }
    }
}
