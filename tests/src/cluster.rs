//! A cluster: a topology whose nodes run Ferrule. Lives here: configuration, the daemons, the nodes file and the pods. What is proved on
//! it lives in `proof` and `life`.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    addressing::{self, Backend, CLUSTER_CIDRS},
    command::run,
    echo::{Ledger, Server},
    endpoint::{Endpoint, Kind},
    error::{Context, LabError, Result},
    install::Install,
    leftovers::Snapshot,
    pod::{self, Pod},
    runtime::Runtime,
    service::Service,
    topology::{Machine, Topology},
};

/// The bridge's name, by the plugin's default.
pub const BRIDGE: &str = "ferrule0";
/// `cooldown_s` in the lab: short enough to be waited out, long enough to be looked at in between.
pub const COOLDOWN: Duration = Duration::from_secs(3);
/// The VXLAN device's name, by the daemons' default.
pub const VXLAN_DEVICE: &str = "ferrule.1";
/// How long a daemon may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(10);

/// A node that runs Ferrule.
#[derive(Debug)]
pub struct Node {
    /// Its place.
    pub machine: Machine,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its directory in the lab's: configuration and logs.
    pub dir: PathBuf,
    /// Its network before Ferrule started.
    pub bare: Snapshot,
    /// `ipamd`, while it is meant to run.
    pub ipamd: Option<Service>,
    /// `routed`, while it is meant to run.
    pub routed: Option<Service>,
    /// The runtime that attaches its pods.
    pub runtime: Runtime,
    /// Its pods are on a bridge.
    pub is_bridged: bool,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The wires and the other machines.
    pub topology: Topology,
    /// The nodes, in order of their numbers.
    pub nodes: Vec<Node>,
    /// What is installed on them.
    pub install: Install,
    /// The pods that are attached.
    pub pods: Vec<Pod>,
    nodes_file: PathBuf,
}

impl Cluster {
    /// Prepares a cluster on a topology: configuration is written, nothing runs yet. `dir` is for configuration and logs.
    pub fn prepare(mut topology: Topology, install: &Install, dir: &Path) -> Result<Cluster> {
        let nodes_file = dir.join("nodes.toml");
        let mut nodes = Vec::new();
        for machine in std::mem::take(&mut topology.machines) {
            let dir = dir.join(machine.space.name());
            fs::create_dir_all(&dir).context(|| dir.display().to_string())?;
            let config = dir.join("ferrule.toml");
            let text = config_text(topology.backend, &machine, &nodes_file);
            fs::write(&config, text).context(|| config.display().to_string())?;
            install.place(&machine.space)?;
            let bare = Snapshot::take(&machine.space)?;
            let runtime = install.runtime()?;
            nodes.push(Node {
                machine,
                config,
                dir,
                bare,
                ipamd: None,
                routed: None,
                runtime,
                is_bridged: false,
            });
        }
        let cluster = Cluster { topology, nodes, install: install.clone(), pods: Vec::new(), nodes_file };
        cluster.write_nodes_file(None)?;
        Ok(cluster)
    }

    /// Writes the nodes file every node watches, whole, by rename; `without` leaves one node out.
    pub fn write_nodes_file(&self, without: Option<usize>) -> Result<()> {
        let mut text = String::from("# The nodes of this lab.\n");
        for Node { machine, .. } in self.nodes.iter().filter(|node| Some(node.machine.number) != without) {
            let [cidr4, cidr6] = addressing::pod_cidrs(machine.number);
            let _ = write!(
                text,
                "\n[[node]]\nname = \"{}\"\naddress = \"{}\"\naddress6 = \"{}\"\npod_cidrs = [\"{cidr4}\", \"{cidr6}\"]\n",
                machine.space.name(),
                machine.underlay.v4,
                machine.underlay.v6
            );
        }
        let fresh = self.nodes_file.with_extension("new");
        fs::write(&fresh, text).context(|| fresh.display().to_string())?;
        fs::rename(&fresh, &self.nodes_file).context(|| self.nodes_file.display().to_string())
    }

    /// Starts both daemons on every node and waits until all are ready.
    pub fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.routed = Some(node.service(&self.install, "routed")?);
            node.ipamd = Some(node.service(&self.install, "ipamd")?);
        }
        self.wait_ready(1)
    }

    /// Waits until every running daemon has been ready `count` times.
    pub fn wait_ready(&self, count: u64) -> Result<()> {
        let mut services = self.nodes.iter().flat_map(|node| node.routed.iter().chain(&node.ipamd));
        services.try_for_each(|service| service.wait_ready(count, READY_WITHIN))
    }

    /// Attaches a new pod to a node.
    pub fn attach(&mut self, number: usize, name: &str) -> Result<&Pod> {
        let cidrs = addressing::pod_cidrs(number);
        let node = self.node(number);
        let pod = pod::attach(&node.machine.space, number, &cidrs, &node.runtime, name)?;
        self.pods.push(pod);
        self.pods.sort_by(|one, other| (one.node, &one.name).cmp(&(other.node, &other.name)));
        self.pod(name)
    }

    /// Takes a pod out of the list; it still is attached.
    pub fn take_pod(&mut self, name: &str) -> Result<Pod> {
        let at = self.pods.iter().position(|pod| pod.name == name);
        at.map(|at| self.pods.remove(at)).ok_or_else(|| LabError::promise(format!("a pod {name}"), "none"))
    }

    /// A pod by its name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.name == name)
            .ok_or_else(|| LabError::promise(format!("a pod {name}"), "none"))
    }

    /// A node by its number, which counts from 1 and comes from this cluster.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Every node's network, in order.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        thread::scope(|scope| {
            let taken: Vec<_> =
                self.nodes.iter().map(|node| scope.spawn(|| Snapshot::take(&node.machine.space))).collect();
            taken
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// Everybody in the table: nodes, pods, the host outside.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let mut all = Vec::new();
        for Node { machine, .. } in &self.nodes {
            let addresses: BTreeSet<_> =
                machine.addresses()?.iter().filter_map(|text| text.parse().ok()).collect();
            all.push(Endpoint {
                name: machine.space.name().to_owned(),
                space: machine.space.clone(),
                at: machine.underlay,
                kind: Kind::Node { number: machine.number, addresses },
            });
        }
        for pod in &self.pods {
            let node_underlay = self.node(pod.node).machine.underlay;
            let kind = Kind::Pod { node: pod.node, node_underlay, mtu: pod.mtu };
            all.push(Endpoint { name: pod.name.clone(), space: pod.space.clone(), at: pod.at, kind });
        }
        let space = self.topology.outside.clone();
        all.push(Endpoint {
            name: "outside".to_owned(),
            space,
            at: addressing::outside(),
            kind: Kind::Outside,
        });
        Ok(all)
    }
}

/// Echo servers at all endpoints.
pub fn serve(endpoints: &[Endpoint], ledger: &Arc<Ledger>) -> Result<Vec<Server>> {
    endpoints.iter().map(|endpoint| Server::start(&endpoint.space, endpoint.at, ledger)).collect()
}

impl Node {
    /// Has the pods to come on a bridge.
    pub fn bridge_pods(&mut self) {
        self.runtime.network = self.runtime.network.clone().bridged();
        self.is_bridged = true;
    }

    /// Starts a daemon by its shipped unit.
    pub fn service(&self, install: &Install, name: &str) -> Result<Service> {
        let unit = install.unit(name, &self.config)?;
        Service::start(&self.machine.space, &unit, &self.dir.join(format!("{name}.log")))
    }

    /// Stops both daemons and has `routed` remove what it left in place.
    pub fn uninstall(&mut self, install: &Install) -> Result<()> {
        for service in [self.ipamd.take(), self.routed.take()].into_iter().flatten() {
            service.stop()?;
        }
        let unit = install.unit("routed", &self.config)?;
        let line = format!("{} --config {} cleanup", unit.exec[0], self.config.display());
        run(&self.machine.space, &line).map(drop)
    }
}

fn config_text(backend: Backend, machine: &Machine, nodes_file: &Path) -> String {
    let [cluster4, cluster6] = CLUSTER_CIDRS;
    format!(
        "[node]\nname = \"{name}\"\naddress = \"{v4}\"\naddress6 = \"{v6}\"\n\n\
         [cluster]\npod_cidrs = [\"{cluster4}\", \"{cluster6}\"]\n\n\
         [ipam]\ncooldown_s = {cooldown}\n\n\
         [routing]\nbackend = \"{backend}\"\nsource = \"file\"\n\n\
         [routing.file]\npath = \"{path}\"\n",
        name = machine.space.name(),
        v4 = machine.underlay.v4,
        v6 = machine.underlay.v6,
        cooldown = COOLDOWN.as_secs(),
        path = nodes_file.display(),
    )
}
