//! podman on a node of the lab, as Debian ships it, with the CNI network backend. Lives here: its configuration and its commands.

use std::process::Output;

use serde_json::Value;

use super::{host::Host, image};
use crate::{
    addressing::Pair,
    error::{LabError, Result},
};

/// The commands it takes, with Debian's packages.
pub const NEEDS: [(&str, &str); 3] = [("podman", "podman"), ("conmon", "conmon"), ("runc", "runc")];

/// What is not by default: CNI as the network backend; and what lets containers run inside one: control groups without systemd, limits
/// that need no CAP_SYS_RESOURCE, no journal.
const CONTAINERS_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:2048", "nproc=4096:4096"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"

[network]
cni_plugin_dirs = ["/opt/cni/bin"]
network_backend = "cni"
"#;
const STORAGE_CONF: &str = r#"
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"#;
const POLICY: &str = r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#;

/// What podman says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id, the same over restarts.
    pub id: String,
    /// Its addresses on the network.
    pub at: Pair,
}

/// Configures podman and loads the image.
pub fn prepare(host: &Host) -> Result<()> {
    for (name, text) in
        [("containers.conf", CONTAINERS_CONF), ("storage.conf", STORAGE_CONF), ("policy.json", POLICY)]
    {
        host.place.write(&format!("/etc/containers/{name}"), text.as_bytes())?;
    }
    host.place.run(&format!("podman load --input {}", image::ARCHIVE)).map(drop)
}

/// Starts a container on the network in the background, with more of `podman run`'s options. podman leaves out the capability
/// that ping takes.
pub fn run(host: &Host, network: &str, name: &str, options: &str) -> Result<String> {
    let group = host.place.cgroup();
    host.place.run(&format!(
        "podman run --detach --name {name} --network {network} --cap-add net_raw --cgroup-parent {group} {options} {}",
        image::NAME
    ))
}

/// Runs a command in a container.
pub fn exec(host: &Host, name: &str, line: &str) -> Result<Output> {
    let mut words = vec!["podman", "exec", name];
    words.extend(line.split_whitespace());
    host.place.execute(&words)
}

/// What podman says of a running container.
pub fn inspect(host: &Host, network: &str, name: &str) -> Result<Seen> {
    let text = host.place.run(&format!("podman inspect {name}"))?;
    let all: Value =
        serde_json::from_str(&text).map_err(|error| LabError::parse("podman's description", &error))?;
    let on = &all[0]["NetworkSettings"]["Networks"][network];
    let address = |key: &str| on[key].as_str();
    let v4 = address("IPAddress").and_then(|text| text.parse().ok());
    let v6 = address("GlobalIPv6Address").and_then(|text| text.parse().ok());
    match (all[0]["Id"].as_str(), v4, v6) {
        (Some(id), Some(v4), Some(v6)) => Ok(Seen { id: id.to_owned(), at: Pair { v4, v6 } }),
        _ => Err(LabError::promise(
            format!("{name} with addresses of both families on {network}"),
            on.to_string(),
        )),
    }
}
