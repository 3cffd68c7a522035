//! A node on which a container runtime lives: one node of the lab with Ferrule running by its units, a place for the runtime in it,
//! and what is asked of Ferrule about the runtime's containers. Knows no runtime in particular.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use ipnetwork::IpNetwork;
use serde_json::{Value, json as object};

use super::place::Place;
use crate::{
    addressing::{self, Backend, Pair},
    cluster::Cluster,
    command::json,
    error::{Context, LabError, Result},
    install::Install,
    ipam::Ipam,
    leftovers::Snapshot,
    ping,
    space::Space,
    topology::Topology,
};

/// How soon something that is over has to be seen to be over.
pub const SOON: Duration = Duration::from_secs(5);

/// A lease as `ipamd` lists it, with everything it says about its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The runtime's id of the container.
    pub container_id: String,
    /// Name of the interface.
    pub ifname: String,
    /// Namespace, name and uid of the pod, where the runtime told them.
    pub pod: Option<[String; 3]>,
    /// Its addresses.
    pub at: Pair,
}

/// The node.
#[derive(Debug)]
pub struct Host {
    /// Where the runtime and its containers live.
    pub place: Place,
    /// Its network before the first container.
    pub empty: Snapshot,
    cluster: Cluster,
    dir: PathBuf,
}

impl Host {
    /// Makes the node: `ipamd` and `routed` are ready, the shipped network and plugin are where a runtime looks for them. `dir` is for
    /// configuration and logs.
    pub fn start(install: &Install, dir: &Path) -> Result<Host> {
        require_root()?;
        let topology = Topology::build(Backend::Native, 1)?;
        let mut cluster = Cluster::prepare(topology, install, dir)?;
        cluster.start()?;
        let space = &cluster.nodes[0].machine.space;
        let place = Place::make(space)?;
        let conflist = install.conf_dir.join("10-ferrule.conflist");
        let text = fs::read(&conflist).context(|| conflist.display().to_string())?;
        place.write("/etc/cni/net.d/10-ferrule.conflist", &text)?;
        let empty = Snapshot::take(space)?;
        Ok(Host { place, empty, cluster, dir: dir.to_owned() })
    }

    /// The node's namespaces, without the place inside: where Ferrule's daemons are.
    pub fn space(&self) -> &Space {
        &self.cluster.nodes[0].machine.space
    }

    /// The host outside the cluster.
    pub fn outside(&self) -> &Space {
        &self.cluster.topology.outside
    }

    /// The node's own addresses, as its pods reach it.
    pub fn address(&self) -> Pair {
        self.cluster.nodes[0].machine.underlay
    }

    /// The file for what a command writes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// All leases, by the addresses' order.
    pub fn leases(&self) -> Result<Vec<Held>> {
        let answers = Ipam::connect(self.space())?.call("List", &object!({}), true)?;
        let all = answers.iter().flat_map(|answer| answer["leases"].as_array().into_iter().flatten());
        let mut all = all.map(held).collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|lease| lease.at.v4);
        Ok(all)
    }

    /// The lease of a container, which there must be exactly one of, out of the node's pod CIDRs.
    pub fn lease_of(&self, container_id: &str) -> Result<Held> {
        let all = self.leases()?;
        let mut own: Vec<&Held> = all.iter().filter(|lease| lease.container_id == container_id).collect();
        let cidrs = addressing::pod_cidrs(1).map(|cidr| cidr.parse::<IpNetwork>());
        match (own.pop(), own.is_empty()) {
            (Some(lease), true)
                if [lease.at.v4.into(), lease.at.v6.into()]
                    .into_iter()
                    .all(|at: IpAddr| cidrs.iter().flatten().any(|cidr| cidr.contains(at))) =>
            {
                Ok(lease.clone())
            }
            _ => Err(LabError::promise(
                format!("one lease of {container_id} out of {:?}", addressing::pod_cidrs(1)),
                format!("{all:?}"),
            )),
        }
    }

    /// The node reaches a pod by both families.
    pub fn ping(&self, at: Pair) -> Result<()> {
        for at in [at.v4.into(), at.v6.into()] {
            let outcome =
                self.space().enter(|| ping::start(at, None, ping::PATIENCE).and_then(ping::finish))??;
            outcome.map_err(|said| LabError::promise(format!("a reply from {at} to the node"), said))?;
        }
        Ok(())
    }

    /// The node has exactly one route to each address, of Ferrule's protocol and out of a link of Ferrule's.
    pub fn routes_to(&self, at: Pair) -> Result<()> {
        for (family, at) in [('4', IpAddr::from(at.v4)), ('6', at.v6.into())] {
            let routes = json(self.space(), &format!("ip -j -{family} route show exact {at}"))?;
            let all = routes.as_array().map(Vec::as_slice).unwrap_or_default();
            let ours = |route: &Value| {
                let is = |key: &str, wanted: &str| route[key].as_str() == Some(wanted);
                // By number, or by name where the machine has one for it.
                (is("protocol", "70") || is("protocol", "ferrule"))
                    && route["dev"].as_str().is_some_and(|dev| dev.starts_with("fer"))
            };
            if all.len() != 1 || !ours(&all[0]) {
                let expected = format!("one route of protocol 70 to {at} out of a link fer*");
                return Err(LabError::promise(expected, routes.to_string()));
            }
        }
        Ok(())
    }

    /// As many links of Ferrule's as there are containers.
    pub fn has_links(&self, count: usize) -> Result<()> {
        let links = json(self.space(), "ip -j link show")?;
        let names: Vec<&str> = links.as_array().into_iter().flatten().filter_map(link_name).collect();
        let ours = names.iter().filter(|name| name.starts_with("fer")).count();
        if ours == count {
            return Ok(());
        }
        Err(LabError::promise(format!("{count} links fer*"), names.join(" ")))
    }

    /// One link bears this alias: whose it is, for a person.
    pub fn has_alias(&self, alias: &str) -> Result<()> {
        let links = json(self.space(), "ip -j link show")?;
        let has = |link: &&Value| link["ifalias"].as_str().is_some_and(|has| has.contains(alias));
        if links.as_array().into_iter().flatten().filter(has).count() == 1 {
            return Ok(());
        }
        Err(LabError::promise(format!("one link with the alias {alias}"), links.to_string()))
    }

    /// How many elements of containers the table of host ports has, over all its maps and sets.
    pub fn host_ports(&self) -> Result<usize> {
        let table = json(self.space(), "nft -j list table inet ferrule-hostports")?;
        let objects = table["nftables"].as_array().into_iter().flatten();
        let sets = objects.filter_map(|object| object.get("map").or_else(|| object.get("set")));
        // The node's own addresses are nobody's.
        let sets = sets.filter(|set| set["name"] != "own4" && set["name"] != "own6");
        Ok(sets.map(|set| set["elem"].as_array().map_or(0, Vec::len)).sum())
    }

    /// Collects the whole network, as a runtime that has no containers asks for: this many leases go.
    pub fn collect(&self, count: usize) -> Result<()> {
        match Ipam::connect(self.space())?.collect_all("ferrule")? {
            released if released == count => Ok(()),
            released => Err(LabError::promise(format!("{count} leases released"), released.to_string())),
        }
    }

    /// No lease, and the network is as it was before the first container: links, routes, neighbours, rules.
    pub fn is_empty(&self) -> Result<String> {
        let leases = self.leases()?;
        if !leases.is_empty() {
            return Err(LabError::promise("no lease", format!("{leases:?}")));
        }
        let took = self.empty.wait_same(self.space(), "the network without containers", SOON)?;
        let counts = Ipam::connect(self.space())?.counts4()?;
        Ok(format!(
            "no lease ({} resting), no link, no route; seen after {} ms",
            counts.resting,
            took.as_millis()
        ))
    }

    /// Stops `ipamd` as `systemctl stop` does.
    pub fn stop_ipamd(&mut self) -> Result<()> {
        let service = self.cluster.nodes[0].ipamd.take();
        service.ok_or_else(|| LabError::promise("ipamd to run", "it does not"))?.stop().map(drop)
    }

    /// Starts it again and waits until it is ready.
    pub fn start_ipamd(&mut self) -> Result<()> {
        let service = self.cluster.nodes[0].service(&self.cluster.install, "ipamd")?;
        self.cluster.nodes[0].ipamd = Some(service);
        self.cluster.wait_ready(1)
    }

    /// Ends the place and everything in it, removes Ferrule, and sees the bare node again.
    pub fn finish(self) -> Result<String> {
        let Host { place, mut cluster, .. } = self;
        place.end()?;
        let node = &mut cluster.nodes[0];
        node.uninstall(&cluster.install)?;
        node.bare.wait_same(&node.machine.space, "the bare node", SOON)?;
        Ok("no process, no control group, the bare node".to_owned())
    }
}

/// A container reaches all of these by both families; `exec` runs a command line in it.
pub fn reaches(from: &str, exec: impl Fn(&str) -> Result<Output>, all: &[Pair]) -> Result<()> {
    let line = all.iter().fold("reach".to_owned(), |line, at| format!("{line} {} {}", at.v4, at.v6));
    let output = exec(&line)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::promise(format!("replies to {from}: `{line}`"), written(&output)))
}

/// What a web server at `at` answers to someone in `space`; `None` if the connection is refused.
pub fn fetch(space: &Space, at: SocketAddr, path: &str) -> Result<Option<String>> {
    let ask = || -> std::io::Result<Option<String>> {
        let mut stream = match TcpStream::connect_timeout(&at, SOON) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
            stream => stream?,
        };
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Some(answer))
    };
    space.enter(ask)?.context(|| format!("asking {at} from {}", space.name()))
}

/// A container has both addresses on `eth0`; `exec` runs a command line in it.
pub fn shows(name: &str, exec: impl Fn(&str) -> Result<Output>, at: Pair) -> Result<()> {
    let output = exec("ip address show dev eth0")?;
    let text = written(&output);
    let has = |address: String| text.split_whitespace().any(|word| word == address);
    if output.status.success() && has(format!("{}/32", at.v4)) && has(format!("{}/128", at.v6)) {
        return Ok(());
    }
    Err(LabError::promise(format!("{}/32 and {}/128 on eth0 in {name}", at.v4, at.v6), text))
}

/// All that a command wrote.
fn written(output: &Output) -> String {
    [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).join(" ")
}

/// A runtime that is not told otherwise makes containers of several users.
fn require_root() -> Result<()> {
    let map = fs::read_to_string("/proc/self/uid_map").context(|| "/proc/self/uid_map")?;
    let count = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    if count > 65_536 {
        return Ok(());
    }
    Err(LabError::promise(
        "root's rights for a container runtime (type `sudo make test`)",
        format!("a user namespace of {count} users"),
    ))
}

fn link_name(link: &Value) -> Option<&str> {
    link["ifname"].as_str()
}

fn held(value: &Value) -> Result<Held> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let owner = &value["attachment"];
    let pod = &value["pod"];
    let address = |at: usize| value["addresses"][at].as_str()?.split('/').next();
    let at = address(0).and_then(|v4| v4.parse().ok()).zip(address(1).and_then(|v6| v6.parse().ok()));
    match (text(&owner["container_id"]), text(&owner["ifname"]), at) {
        (Some(container_id), Some(ifname), Some((v4, v6))) => Ok(Held {
            container_id,
            ifname,
            pod: pod
                .is_object()
                .then(|| ["namespace", "name", "uid"].map(|key| text(&pod[key]).unwrap_or_default())),
            at: Pair { v4, v6 },
        }),
        _ => Err(LabError::parse("a lease of one IPv4 and one IPv6 address", &value)),
    }
}
