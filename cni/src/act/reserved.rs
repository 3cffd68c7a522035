//! The node's own ports, which no pod gets as a host port. `routed` writes them into `node.json`.
//!
//! The file is read only if a pod asks for host ports, so that other pods do not pay for it. If there is no file, there
//! is no `routed`, and no port is known to be the node's.

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use crate::edge::error::{Error, HostPortError};
use crate::edge::mappings::PortMapping;

/// The part of the file that concerns the plugin.
#[derive(Debug, Deserialize)]
struct NodeFile {
    /// Each port is written as `tcp 22`. An older `routed` does not write any.
    #[serde(default)]
    reserved_host_ports: Vec<String>,
}

/// Looks whether the node itself needs one of the `wanted` ports.
///
/// # Errors
/// It needs one of them, or that cannot be found out.
pub(crate) fn check(wanted: &[PortMapping], runtime_dir: &Path) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let path = runtime_dir.join("node.json");
    let unknown = |reason: String| Error::HostPort(HostPortError::NodeFile { path: path.clone(), reason });
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unknown(error.to_string())),
    };
    let file: NodeFile = serde_json::from_slice(&text).map_err(|error| unknown(error.to_string()))?;
    let names = wanted.iter().map(|mapping| format!("{} {}", mapping.protocol, mapping.host_port));
    match names.into_iter().find(|name| file.reserved_host_ports.contains(name)) {
        Some(name) => Err(Error::HostPort(HostPortError::Reserved(name))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::mappings::{HostIp, Protocol};

    fn port(protocol: Protocol, host_port: u16) -> PortMapping {
        PortMapping { protocol, host_port, container_port: 80, host_ip: HostIp::Every }
    }

    #[test]
    fn the_nodes_own_ports_are_refused_by_protocol_and_what_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let check = |protocol, host_port| {
            check(&[port(Protocol::Tcp, 80), port(protocol, host_port)], dir.path())
                .map_err(|e| e.to_string())
        };
        assert_eq!(check(Protocol::Udp, 8472), Ok(()), "there is no routed");
        let write = |text: &str| std::fs::write(dir.path().join("node.json"), text).unwrap();
        write(r#"{"node":"n1"}"#);
        assert_eq!(check(Protocol::Udp, 8472), Ok(()), "routed is older");
        write(r#"{"node":"n1","reserved_host_ports":["tcp 22","udp 8472"]}"#);
        assert_eq!(check(Protocol::Tcp, 8472), Ok(()));
        let why = check(Protocol::Udp, 8472).unwrap_err();
        assert!(why.starts_with("host port udp 8472 is the node's own"), "{why}");
        write("{");
        let why = check(Protocol::Udp, 1).unwrap_err();
        assert!(why.contains("node.json does not tell") && why.contains("restart routed"), "{why}");
        assert!(super::check(&[], dir.path()).is_ok(), "who asks for nothing reads nothing");
    }
}
