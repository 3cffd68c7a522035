//! Finds who holds a UDP port that a tunnel needs: another VXLAN device, or a socket, with its process if that may be
//! seen.

use std::fs;
use std::path::Path;

use ferrule_model::{IfName, LinkKind};

use crate::decide::objects::Links;

/// The tables of the sockets in the namespace of the asking thread.
const TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Who has `port`, in words for a person. `own` is the name of the device that wants it.
pub(crate) fn of_port(port: u16, own: Option<&IfName>, links: &Links) -> String {
    let has_port = |kind: &LinkKind| matches!(kind, LinkKind::Vxlan(vxlan) if vxlan.port == port);
    let device = links.values().find(|link| has_port(&link.kind) && Some(&link.name) != own);
    if let Some(link) = device {
        return format!(
            "the VXLAN device {} has UDP port {port}: remove it with `ip link del {}` if nothing needs it",
            link.name, link.name
        );
    }
    let inodes = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok());
    let Some(inode) = inodes.filter_map(|table| inode_of(&table, port)).max() else {
        return format!("UDP port {port} is taken: end what has it");
    };
    match process_of(inode) {
        Some((pid, name)) => format!("process {pid} ({name}) has UDP port {port}: end it"),
        // A socket of the kernel itself has no inode.
        None if inode == 0 => format!("a tunnel of the kernel has UDP port {port}: remove its device"),
        None => format!("a process that routed may not see has UDP port {port}: `ss -ulpn` names it; end it"),
    }
}

/// The inode of the socket that is bound to `port`, in a table of `/proc/net`.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    let bound = |line: &&str| {
        let local = line.split_whitespace().nth(1).and_then(|local| local.rsplit_once(':'));
        local.and_then(|(_, local)| u16::from_str_radix(local, 16).ok()) == Some(port)
    };
    let line = table.lines().skip(1).find(bound)?;
    line.split_whitespace().nth(9)?.parse().ok()
}

/// The process that has the socket of this inode open.
fn process_of(inode: u64) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let has = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|file| fs::read_link(file).is_ok_and(|to| to.as_os_str() == &*link))
    };
    let numbered = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    let mut processes = fs::read_dir("/proc").ok()?.flatten().filter_map(numbered);
    let (pid, path) = processes.find(|(_, path)| has(path))?;
    Some((pid, fs::read_to_string(path.join("comm")).ok()?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_is_named_with_its_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let said = of_port(port, None, &Links::new());
        assert!(said.starts_with(&format!("process {} (", std::process::id())), "{said}");
        drop(socket);
        assert!(of_port(port, None, &Links::new()).contains("is taken"), "nobody has it any more");
    }
}
