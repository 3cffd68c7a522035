//! Who is measured at ADD and DEL: the plugin, a peer's plugins, or the floor, each on a node of its own. Lives here: how each is
//! executed. When, and what is made of the times, is in [`crate::rows`].

use std::path::PathBuf;
use std::time::Duration;

use ferrule_tests::{error::Result, install::Install, pod::Sandbox, space::Space};
use serde_json::{Value, json};

use crate::process::Exec;
use crate::stand::Bench;

/// Where Debian's `containernetworking-plugins` are.
pub const PEERS: &str = "/usr/lib/cni";
/// The peer's addresses and where it keeps them: the node's own /run, in memory as ours.
const PEER_SUBNETS: [&str; 2] = ["10.250.0.0/16", "fd00:250::/64"];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
}

/// One of those compared.
#[derive(Clone, Debug)]
pub struct Contender {
    /// As the table calls it.
    pub name: &'static str,
    /// Its node.
    pub node: Space,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Plugin { directory: String, config: Value },
    Floor(PathBuf),
}

/// A sandbox of a contender's.
#[derive(Debug)]
pub struct Seat {
    /// The sandbox.
    pub sandbox: Sandbox,
    number: u16,
}

impl Contender {
    /// Ferrule on a node of [`Bench::stand`], with addresses from `pool`.
    ///
    /// # Errors
    /// The shipped network configuration cannot be read.
    pub fn ferrule(install: &Install, node: &Space, pool: &str) -> Result<Contender> {
        let runtime = install.runtime()?;
        let mut config = runtime.network.plugin_config(None);
        config["ipam"] = json!({ "type": "ferrule-ipam", "pool": pool });
        let directory = runtime.plugin_dir.display().to_string();
        Ok(Contender { name: "ferrule", node: node.clone(), kind: Kind::Plugin { directory, config } })
    }

    /// One of Debian's interface plugins with host-local, on a bare node; `families` is 1 (IPv4) or 2.
    ///
    /// # Errors
    /// The node cannot be made.
    pub fn peer(plugin: &'static str, families: usize) -> Result<Contender> {
        let ranges: Vec<_> =
            PEER_SUBNETS[..families].iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        let routes: Vec<_> =
            ["0.0.0.0/0", "::/0"][..families].iter().map(|dst| json!({ "dst": dst })).collect();
        let config = json!({
            "cniVersion": "1.0.0", "name": "peer", "type": plugin, "isGateway": true, "bridge": "cni0",
            "ipam": { "type": "host-local", "dataDir": "/run/host-local", "ranges": ranges, "routes": routes },
        });
        let kind = Kind::Plugin { directory: PEERS.to_owned(), config };
        Ok(Contender { name: plugin, node: Bench::bare(plugin)?, kind })
    }

    /// A peer that masquerades what its pods send to the world, as our nodes do.
    #[must_use]
    pub fn masquerading(mut self) -> Contender {
        if let Kind::Plugin { config, .. } = &mut self.kind {
            config["ipMasq"] = json!(true);
        }
        self
    }

    /// The floor, on a bare node.
    ///
    /// # Errors
    /// The node cannot be made.
    pub fn floor(bench: &Bench) -> Result<Contender> {
        Ok(Contender { name: "floor", node: Bench::bare("floor")?, kind: Kind::Floor(bench.floor.clone()) })
    }

    /// Makes a sandbox; the number is unique among the contender's.
    ///
    /// # Errors
    /// The namespace cannot be made.
    pub fn seat(&self, number: u16) -> Result<Seat> {
        Ok(Seat { sandbox: Sandbox::create(&self.node, &format!("{}-{number}", self.name))?, number })
    }

    /// Sandboxes with the numbers from 1.
    ///
    /// # Errors
    /// As [`Contender::seat`].
    pub fn seats(&self, count: u16) -> Result<Vec<Seat>> {
        (1..=count).map(|number| self.seat(number)).collect()
    }

    /// What is executed for a verb, on the contender's node.
    pub fn exec(&self, verb: Verb, seat: &Seat) -> Exec {
        let container = &seat.sandbox.container;
        match &self.kind {
            Kind::Floor(program) => {
                let name = format!("floor{}", seat.number);
                let [high, low] = seat.number.to_be_bytes();
                let args = match verb {
                    Verb::Add => {
                        let netns = container.netns.display().to_string();
                        vec!["add".to_owned(), netns, name, format!("10.251.{high}.{low}")]
                    }
                    Verb::Del => vec!["del".to_owned(), name],
                };
                Exec { program: program.clone(), args, ..Exec::default() }
            }
            Kind::Plugin { directory, config } => {
                let args = format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
                    container.pod, container.id
                );
                let command = if verb == Verb::Add { "ADD" } else { "DEL" };
                let env = vec![
                    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
                    ("CNI_COMMAND", command.to_owned()),
                    ("CNI_CONTAINERID", container.id.clone()),
                    ("CNI_NETNS", container.netns.display().to_string()),
                    ("CNI_IFNAME", container.ifname.clone()),
                    ("CNI_PATH", directory.clone()),
                    ("CNI_ARGS", args),
                ];
                let plugin = config["type"].as_str().unwrap_or_default();
                let program = PathBuf::from(directory).join(plugin);
                Exec { program, args: Vec::new(), env, input: config.to_string().into_bytes() }
            }
        }
    }

    /// Executes a verb on the contender's node.
    ///
    /// # Errors
    /// It failed.
    pub fn call(&self, verb: Verb, seat: &Seat) -> Result<Duration> {
        let exec = self.exec(verb, seat);
        self.node.enter(|| exec.run())?
    }
}
