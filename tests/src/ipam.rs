//! Asks a node's `ipamd` over its socket, as any Varlink client would: JSON messages ended by NUL. On purpose not the client the
//! programs share: this one knows only the protocol.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    error::{Context, LabError, Result},
    space::Space,
};

/// Where a node sees the socket.
pub const SOCKET: &str = "/run/ferrule/ipamd.sock";
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection to the `ipamd` of one node.
#[derive(Debug)]
pub struct Ipam {
    stream: BufReader<UnixStream>,
}

/// Addresses held for one attachment, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The container it is held for.
    pub container_id: String,
    /// Without prefix lengths, IPv4 first.
    pub addresses: Vec<String>,
}

/// The pool's counts of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// In leases.
    pub in_use: u64,
    /// Waiting out the cooldown.
    pub resting: u64,
    /// To be had at once.
    pub free: u64,
}

impl Ipam {
    /// Connects from inside the node.
    pub fn connect(node: &Space) -> Result<Ipam> {
        let stream =
            node.enter(|| UnixStream::connect(SOCKET))?.context(|| format!("{SOCKET} in {}", node.name()))?;
        stream.set_read_timeout(Some(PATIENCE)).context(|| "the socket's timeout")?;
        Ok(Ipam { stream: BufReader::new(stream) })
    }

    /// Calls a method of `io.ferrule.Ipam` and gives all its answers (several only with `more`).
    pub fn call(&mut self, method: &str, parameters: &Value, more: bool) -> Result<Vec<Value>> {
        let mut message = json!({ "method": format!("io.ferrule.Ipam.{method}"), "parameters": parameters });
        if more {
            message["more"] = true.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.stream.get_mut().write_all(&bytes).context(|| format!("asking ipamd: {method}"))?;
        let mut answers = Vec::new();
        loop {
            let mut bytes = Vec::new();
            self.stream.read_until(0, &mut bytes).context(|| format!("ipamd's answer to {method}"))?;
            bytes.pop();
            let mut answer: Value = serde_json::from_slice(&bytes)
                .map_err(|error| LabError::parse(format!("ipamd's answer to {method}"), &error))?;
            if !answer["error"].is_null() {
                return Err(LabError::promise(format!("ipamd to answer {method}"), answer.to_string()));
            }
            answers.push(answer["parameters"].take());
            if answer["continues"] != json!(true) {
                return Ok(answers);
            }
        }
    }

    /// All leases of the node.
    pub fn leases(&mut self) -> Result<Vec<Lease>> {
        let answers = self.call("List", &json!({}), true)?;
        let all = answers.iter().flat_map(|answer| answer["leases"].as_array().into_iter().flatten());
        all.map(lease).collect()
    }

    /// Takes an address of each family for an attachment that has no pod.
    pub fn allocate(&mut self, network: &str, container_id: &str) -> Result<Lease> {
        let attachment = json!({ "network": network, "container_id": container_id, "ifname": "eth0" });
        let answers = self.call("Allocate", &json!({ "attachment": attachment }), false)?;
        lease(&answers[0]["lease"])
    }

    /// Releases everything of a network.
    pub fn collect_all(&mut self, network: &str) -> Result<usize> {
        let mut total = 0;
        loop {
            let answers = self.call("Collect", &json!({ "network": network, "valid": [] }), false)?;
            match answers[0]["released"].as_array().map_or(0, Vec::len) {
                0 => return Ok(total),
                released => total += released,
            }
        }
    }

    /// The first pool's counts of IPv4.
    pub fn counts4(&mut self) -> Result<Counts> {
        let answers = self.call("Pools", &json!({}), false)?;
        let pools = answers[0]["pools"].as_array().cloned().unwrap_or_default();
        let pool = pools.iter().find(|pool| pool["family"] == json!("ipv4"));
        let pool = pool.ok_or_else(|| LabError::promise("an IPv4 pool", answers[0].to_string()))?;
        let number = |key: &str| {
            let value = &pool[key];
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
            number.ok_or_else(|| LabError::parse(format!("{key} of a pool"), &value))
        };
        Ok(Counts { in_use: number("in_use")?, resting: number("resting")?, free: number("free")? })
    }
}

fn lease(value: &Value) -> Result<Lease> {
    let address = |value: &Value| Some(value.as_str()?.split('/').next()?.to_owned());
    let addresses: Option<Vec<String>> =
        value["addresses"].as_array().and_then(|all| all.iter().map(address).collect());
    match (value["attachment"]["container_id"].as_str(), addresses) {
        (Some(id), Some(addresses)) => Ok(Lease { container_id: id.to_owned(), addresses }),
        _ => Err(LabError::parse("a lease", &value)),
    }
}
