//! A pod of the lab: a pinned network namespace, attached by the plugin. Lives here: attaching with everything the runtime relies on
//! looked at, and detaching with nothing left.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::{
    addressing::Pair,
    command::{json, json_here},
    error::{LabError, Result},
    runtime::{Container, Reply, Runtime, Verb},
    space::Space,
};

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name, unique in the lab.
    pub name: String,
    /// Number of the node it is on.
    pub node: usize,
    /// Its network namespace.
    pub space: Space,
    /// Its addresses.
    pub at: Pair,
    /// Its interface's MTU in bytes.
    pub mtu: u32,
    /// As the runtime knows it.
    pub container: Container,
    /// What ADD answered, which the runtime keeps for CHECK and DEL.
    pub result: Value,
}

/// A sandbox that is not attached yet.
#[derive(Debug)]
pub struct Sandbox {
    /// Its network namespace.
    pub space: Space,
    /// As the runtime knows it.
    pub container: Container,
}

static SANDBOXES: AtomicU64 = AtomicU64::new(1);

impl Sandbox {
    /// Makes a sandbox for a pod: a namespace pinned below `/run/netns`, and an id never used before.
    pub fn create(node: &Space, pod: &str) -> Result<Sandbox> {
        let serial = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        let word = |salt: u64| (serial << 8 | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id: String = (0..4).map(|salt| format!("{:016x}", word(salt))).collect();
        let netns = PathBuf::from(format!("/run/netns/{pod}"));
        let space = node.pin_network(pod, &netns)?;
        Ok(Sandbox {
            space,
            container: Container { id, netns, ifname: "eth0".to_owned(), pod: pod.to_owned() },
        })
    }

    /// Removes the sandbox' namespace.
    pub fn remove(self, node: &Space) -> Result<()> {
        node.unpin(&self.container.netns)
    }
}

/// Attaches a new pod and looks at everything that ADD promised.
pub fn attach(node: &Space, number: usize, cidrs: &[String], runtime: &Runtime, name: &str) -> Result<Pod> {
    let sandbox = Sandbox::create(node, name)?;
    let reply = runtime
        .call(node, Verb::Add, Some(&sandbox.container), None)?
        .expect_success(&format!("ADD of {name}"))?;
    let result = reply.output;
    if result["cniVersion"] != runtime.network.version.as_str() {
        return Err(LabError::promise(
            format!("a result of version {}", runtime.network.version),
            result.to_string(),
        ));
    }
    let at = promised_addresses(&result, cidrs)?;
    let mtu = sandbox.space.enter(|| inside(&sandbox.container.ifname, at))??;
    host_side(node, &result, &sandbox.container)?;
    Ok(Pod {
        name: name.to_owned(),
        node: number,
        space: sandbox.space,
        at,
        mtu,
        container: sandbox.container,
        result,
    })
}

impl Pod {
    /// CHECK with the kept result.
    pub fn check(&self, node: &Space, runtime: &Runtime) -> Result<Reply> {
        let what = format!("CHECK of {}", self.name);
        runtime.call(node, Verb::Check, Some(&self.container), Some(&self.result))?.expect_success(&what)
    }

    /// DEL, at once gone, and DEL again, which must succeed too; then the sandbox goes.
    pub fn detach(self, node: &Space, runtime: &Runtime) -> Result<Reply> {
        let what = format!("DEL of {}", self.name);
        let call = || {
            runtime.call(node, Verb::Del, Some(&self.container), Some(&self.result))?.expect_success(&what)
        };
        let reply = call()?;
        let names = |links: &Value| names(links).collect::<Vec<_>>().join(" ");
        let inside = json(&self.space, "ip -j link show")?;
        if names(&inside) != "lo" {
            return Err(LabError::promise(format!("only lo in {} after DEL", self.name), names(&inside)));
        }
        let host = host_link(&self.result)?;
        let outside = json(node, "ip -j link show")?;
        if names(&outside).split(' ').any(|name| name == host) {
            return Err(LabError::promise(format!("{host} to be gone after DEL"), names(&outside)));
        }
        call()?;
        drop(self.space);
        node.unpin(&self.container.netns)?;
        Ok(reply)
    }
}

/// The addresses in the result: one of each family, each out of the node's CIDRs.
fn promised_addresses(result: &Value, cidrs: &[String]) -> Result<Pair> {
    let cidrs: Vec<IpNetwork> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok();
    let addresses: Vec<IpAddr> = result["ips"].as_array().into_iter().flatten().filter_map(address).collect();
    match addresses[..] {
        [IpAddr::V4(v4), IpAddr::V6(v6)]
            if addresses.iter().all(|at| cidrs.iter().any(|cidr| cidr.contains(*at))) =>
        {
            Ok(Pair { v4, v6 })
        }
        _ => Err(LabError::promise(
            format!("ips of one IPv4 and one IPv6 address out of {cidrs:?}"),
            result["ips"].to_string(),
        )),
    }
}

/// Looks at the interface inside the pod, on a thread that is there, and gives its MTU.
fn inside(ifname: &str, at: Pair) -> Result<u32> {
    let links = json_here(&format!("ip -j address show dev {ifname}"))?;
    let infos = links[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let usable = |address: IpAddr| {
        infos.iter().any(|info| info["local"] == address.to_string() && info["tentative"].is_null())
    };
    if !usable(at.v4.into()) || !usable(at.v6.into()) {
        return Err(LabError::promise(
            format!("{} and {} usable on {ifname}", at.v4, at.v6),
            links.to_string(),
        ));
    }
    let mtu = links[0]["mtu"].as_u64().and_then(|mtu| mtu.try_into().ok());
    mtu.ok_or_else(|| LabError::parse("the pod's MTU", &links))
}

/// The node's end of the pair, as the result names it, by the name it must have. A bridge may stand before it.
fn host_link(result: &Value) -> Result<String> {
    let links = result["interfaces"].as_array().into_iter().flatten();
    let hosts = links.filter(|link| link["sandbox"].as_str().unwrap_or_default().is_empty());
    let named = |name: &&str| {
        let digits = name.strip_prefix("fer").unwrap_or_default();
        digits.len() == 12 && digits.chars().all(|c| c.is_ascii_hexdigit())
    };
    hosts.filter_map(|link| link["name"].as_str()).find(named).map(str::to_owned).ok_or_else(|| {
        LabError::promise("a link of the node in the result, fer and 12 hex digits", result.to_string())
    })
}

/// The host's end is there and says whose it is.
fn host_side(node: &Space, result: &Value, container: &Container) -> Result<()> {
    let name = host_link(result)?;
    let links = json(node, &format!("ip -j link show dev {name}"))?;
    if !links[0]["ifalias"].as_str().unwrap_or_default().contains(&container.pod) {
        return Err(LabError::promise("the pod's name as ifalias", links.to_string()));
    }
    let netns = Value::from(container.netns.display().to_string());
    let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
    if !interfaces.iter().any(|link| link["name"] == container.ifname.as_str() && link["sandbox"] == netns) {
        return Err(LabError::promise(
            format!("{} in {netns} among the interfaces", container.ifname),
            result.to_string(),
        ));
    }
    Ok(())
}

/// Names of the links in a dump.
fn names(links: &Value) -> impl Iterator<Item = &str> {
    links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str())
}
