//! The whole story for one backend, from bare nodes to bare nodes.

use std::path::Path;

use crate::{
    addressing::Backend,
    cluster::{Cluster, Node},
    error::Result,
    install::Install,
    keep, life, proof,
    report::Report,
    topology::Topology,
};

/// How big the lab is and what is done with it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Number of nodes.
    pub nodes: usize,
    /// Pods on each of them.
    pub pods: usize,
}

/// Runs everything; failures are in the report. With `keep` it ends in a shell, on the network as it then is.
pub fn run(backend: Backend, size: Size, install: &Install, dir: &Path, keep: bool, report: &mut Report) {
    let shape = match backend {
        Backend::Native => "one segment",
        Backend::Vxlan | Backend::Auto => "two segments, a router between them",
    };
    let about =
        format!("{} nodes on {shape}, {} pods on each, those of node{0} on a bridge", size.nodes, size.pods);
    report.chapter(backend.as_str(), &about);
    let Some(mut cluster) = report.step("nodes, wires, a host outside", || {
        let topology = Topology::build(backend, size.nodes)?;
        let mut cluster = Cluster::prepare(topology, install, &dir.join(backend.as_str()))?;
        cluster.nodes.last_mut().into_iter().for_each(Node::bridge_pods);
        let bare: usize = cluster.nodes.iter().map(|node| node.bare.len()).sum();
        Ok((cluster, format!("{bare} kernel objects before Ferrule")))
    }) else {
        return;
    };
    let alive = prove(&mut cluster, size, keep, report);
    if keep {
        if !alive {
            report.say("\nThis is how far it came.");
        }
        if let Err(error) = keep::shell(&cluster, dir) {
            report.fail("the shell", &error);
        }
    }
}

/// The proofs in their order; says whether they all could be run.
fn prove(cluster: &mut Cluster, size: Size, keep: bool, report: &mut Report) -> bool {
    let up = report.prove("ipamd and routed on every node, by their units", || {
        cluster.start()?;
        Ok(format!("{} daemons ready", 2 * cluster.nodes.len()))
    });
    if !up || !report.prove("the plugin answers VERSION and STATUS", || proof::plugin_answers(cluster)) {
        return false;
    }
    let Some(without_pods) = report.step("the nodes without pods", || {
        let taken = cluster.snapshots()?;
        let ours: usize =
            taken.iter().zip(&cluster.nodes).map(|(now, node)| node.bare.difference(now).len()).sum();
        Ok((taken, format!("{ours} kernel objects of Ferrule")))
    }) else {
        return false;
    };
    if !report.prove("pods attached", || proof::attach_pods(cluster, size.pods)) {
        return false;
    }
    report_error("everyone to everyone", proof::reach(cluster, report), report);
    report.prove("the MTU is exact", || proof::mtu_is_exact(cluster));
    life::live(cluster, size.pods, report);
    if !keep {
        life::end(cluster, &without_pods, report);
    }
    true
}

fn report_error(name: &str, result: Result<()>, report: &mut Report) {
    if let Err(error) = result {
        report.fail(name, &error);
    }
}
