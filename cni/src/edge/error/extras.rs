//! What host ports and limited bandwidth fail with.

use std::fmt;
use std::path::PathBuf;

use ferrule_model::table::TABLE;
use ferrule_netlink::Error as NetlinkError;
use ferrule_netlink::nft::NftError;
use nix::errno::Errno;

/// Why host ports cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// Another pod has the port.
    #[error("host port {port} is taken by {owner}: delete that pod, or ask for another hostPort")]
    Taken {
        /// The port.
        port: String,
        /// Whose it is.
        owner: String,
    },
    /// The node itself needs the port.
    #[error(
        "host port {0} is the node's own: ask for another hostPort (ferrule.toml, [pods] reserved_host_ports, has the ports \
         that no pod gets, and the tunnel's port is one)"
    )]
    Reserved(String),
    /// It cannot be told which ports the node itself needs.
    #[error("{path} does not tell which ports the node itself needs: {reason}; restart routed, which writes it", path = .path.display())]
    NodeFile {
        /// The file of `routed`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The table, or a part of it that is missing, could not be made.
    #[error(
        "cannot make the nftables table {TABLE} for host ports: {0} (`nft list table inet {TABLE}` shows what is there; the \
         host ports in it work on)"
    )]
    Table(#[source] NftError),
    /// Somebody removes the table, or a part of it, as often as it is made.
    #[error(
        "the nftables table {TABLE} went, or a part of it, as soon as it was made: find the program that flushes the \
         rulesets (`nft monitor` shows it at work)"
    )]
    Flushed,
    /// Every attempt met another transaction.
    #[error("nftables' rulesets changed during each of {attempts} attempts to change the host ports")]
    Busy {
        /// How many there were.
        attempts: u32,
    },
}

/// The kernel cannot limit bandwidth.
#[derive(Debug, thiserror::Error)]
#[error("cannot limit the pod's bandwidth: {step}: {source}{}", Remedy(.module, .source))]
pub struct ShapingError {
    /// What could not be made.
    pub step: &'static str,
    /// The kernel module that does it.
    pub module: &'static str,
    /// What the kernel said.
    #[source]
    pub source: NetlinkError,
}

struct Remedy<'a>(&'static str, &'a NetlinkError);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.errno() {
            Some(Errno::ENOENT | Errno::EOPNOTSUPP) => {
                write!(
                    f,
                    "; the kernel lacks {0} (`modprobe {0}`, or leave the pod's bandwidth annotations out)",
                    self.0
                )
            }
            _ => Ok(()),
        }
    }
}
