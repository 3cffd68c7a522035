//! The first half of the proof: the pods come up by the plugin's every verb, and everyone reaches everyone. What happens to a
//! network in its life is `life`'s part.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    cluster::{Cluster, serve},
    echo::Ledger,
    error::{LabError, Result},
    matrix::{self, CHECKS},
    ping,
    report::{Report, time},
    runtime::{Reply, Verb},
    table,
};

/// The versions the plugin must speak.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// How soon the sender's own kernel refuses a packet that is too long: it never gets on the wire.
const REFUSED_WITHIN: Duration = Duration::from_millis(100);

/// A pod's name: the node's number and a letter.
pub fn pod_name(node: usize, index: usize) -> String {
    let letter = u8::try_from(index).ok().and_then(|index| b'a'.checked_add(index)).map_or('?', char::from);
    format!("pod{node}{letter}")
}

/// VERSION and STATUS on every node.
pub fn plugin_answers(cluster: &Cluster) -> Result<String> {
    for node in &cluster.nodes {
        let space = &node.machine.space;
        let version = node.runtime.call(space, Verb::Version, None, None)?.expect_success("VERSION")?;
        let spoken: Vec<&str> = version.output["supportedVersions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !VERSIONS.iter().all(|wanted| spoken.contains(wanted)) {
            return Err(LabError::promise(format!("VERSION with {VERSIONS:?}"), version.output.to_string()));
        }
        // STATUS came with 1.1.0: a runtime asks it only of such a network.
        if node.runtime.network.version == "1.1.0" {
            node.runtime.call(space, Verb::Status, None, None)?.expect_success("STATUS")?;
        }
    }
    Ok(format!("{} spoken, ready for pods", VERSIONS.join(", ")))
}

/// ADD of all pods, CHECK of each.
pub fn attach_pods(cluster: &mut Cluster, per_node: usize) -> Result<String> {
    for node in 1..=cluster.nodes.len() {
        for index in 0..per_node {
            cluster.attach(node, &pod_name(node, index))?;
        }
    }
    let mut checks = Vec::new();
    for pod in &cluster.pods {
        let node = cluster.node(pod.node);
        checks.push(pod.check(&node.machine.space, &node.runtime)?);
    }
    let mtu = cluster.pods.first().map(|pod| pod.mtu).unwrap_or_default();
    if cluster.pods.iter().any(|pod| pod.mtu != mtu) {
        return Err(LabError::promise(
            "one MTU for all pods",
            format!("{:?}", cluster.pods.iter().map(|pod| pod.mtu).collect::<Vec<_>>()),
        ));
    }
    Ok(format!("{} pods, MTU {mtu}, one CHECK took {}", cluster.pods.len(), slowest(&checks)))
}

fn slowest(replies: &[Reply]) -> String {
    replies
        .iter()
        .map(|reply| reply.took)
        .max()
        .map_or("no time".to_owned(), |took| format!("at most {}", time(took)))
}

/// Everyone to everyone, with the table printed.
pub fn reach(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let endpoints = cluster.endpoints()?;
    let ledger = Arc::new(Ledger::default());
    let _servers = serve(&endpoints, &ledger)?;
    // The last one is the host outside: it is spoken to, and has no way to begin.
    let sources = &endpoints[..endpoints.len() - 1];
    let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let rows = &names[..sources.len()];
    let start = std::time::Instant::now();
    let cells = matrix::run(sources, &endpoints, &ledger)?;
    let took = time(start.elapsed());
    let indented =
        table::render(rows, &names, &cells).lines().map(|line| format!("    {line}\n")).collect::<String>();
    report.say(&format!("\n{indented}\n    {}\n", table::LEGEND.join("\n    ")));
    let failures = table::failures(rows, &names, &cells);
    for (from, to, failure) in &failures {
        report.fail(
            &format!("{from} to {to}, {}", failure.check),
            &LabError::promise(&failure.expected, &failure.saw),
        );
    }
    if failures.is_empty() {
        let cells = table::checked(&cells);
        report.prove("everyone reaches everyone", || {
            Ok(format!("{cells} pairs, {} checks, in {took}", cells * CHECKS))
        });
    }
    Ok(())
}

/// One byte more than the MTU must not pass with don't-fragment: proves that the full-size pings are of exactly the MTU.
pub fn mtu_is_exact(cluster: &Cluster) -> Result<String> {
    let (Some(first), Some(last)) = (cluster.pods.first(), cluster.pods.last()) else {
        return Err(LabError::promise("pods", "none"));
    };
    for at in [last.at.v4.into(), last.at.v6.into()] {
        let outcome = first
            .space
            .enter(|| ping::start(at, Some(first.mtu + 1), REFUSED_WITHIN).and_then(ping::finish))??;
        match outcome {
            Err(said) if said.contains("too long") || said.contains("too big") => {}
            Err(said) => return Err(LabError::promise("\"message too long\"", said)),
            Ok(()) => {
                return Err(LabError::promise(format!("{} bytes to be too long", first.mtu + 1), "a reply"));
            }
        }
    }
    Ok(format!("{} bytes pass, {} do not", first.mtu, first.mtu + 1))
}

/// The first pod and the last one, which are on the first and the last node, reach each other by both families.
pub fn first_to_last(cluster: &Cluster) -> Result<()> {
    let (Some(first), Some(last)) = (cluster.pods.first(), cluster.pods.last()) else {
        return Err(LabError::promise("pods", "none"));
    };
    for at in [last.at.v4.into(), last.at.v6.into()] {
        let outcome =
            first.space.enter(|| ping::start(at, None, ping::PATIENCE).and_then(ping::finish))??;
        outcome.map_err(|said| {
            LabError::promise(format!("{} to reach {} at {at}", first.name, last.name), said)
        })?;
    }
    Ok(())
}
