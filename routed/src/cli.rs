//! The command line.

use clap::{Parser, Subcommand};
use ferrule_daemon::CommonArgs;

use crate::show::tell::Form;

/// What stands below the options in `--help`.
const MORE: &str = "\
How it works:
routed reads the list of nodes (the file of [routing.file] path, /etc/ferrule/nodes.toml by default) and keeps in this node's \
kernel what it takes to reach their pods: routes to their pod CIDRs, over the shared segment (backend = \"native\"), through the \
VXLAN device ferrule.1 (backend = \"vxlan\", the default), by both as the segment is (backend = \"auto\"), or encrypted through the \
WireGuard device ferrule-wg (backend = \"wireguard\"). It masquerades what leaves the cluster, and writes node.json for ipamd. What \
others remove of it comes back within a second.

It runs in the foreground and logs to standard error. When it stops, everything stays as it is: pods go on talking.

Examples:
  routed                         as the unit runs it
  routed --log routed=debug      saying more
  routed plan --config my.toml   what it would do with that configuration
  routed status                  how this node is
  routed nodes                   the nodes, and what keeps one from being reached
  routed wireguard-key           this node's public key, for the nodes file
  routed cleanup                 removes all that is routed's from this node
  ip route show proto 70         what it has put into the routing table

Exit status: 0; 1 if something could not be done, with the reason; 2 for a wrong command line; of status: 3 if not all is well.";

/// The routing daemon of Ferrule: other nodes' pods, reachable from this one
#[derive(Debug, Parser)]
#[command(name = "routed", version, about, after_help = MORE)]
pub struct Cli {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Debug, Clone, Copy, Subcommand, PartialEq, Eq)]
pub enum Command {
    /// Say what the daemon would do now with this configuration, in the order in which it would, and change nothing
    ///
    /// It reads the nodes and the kernel. Reading nftables and iptables takes CAP_NET_ADMIN; without it that part is left out
    /// and said so. Not with source = "etcd", where a node takes a subnet as soon as it listens.
    Plan,
    /// Show how this node is, by the daemon that runs here: what is in the kernel, what is waited for, what is refused
    ///
    /// Exit status 0 if all is well, 3 if not, 1 if the daemon cannot be asked. Needs root, or the daemon's own user.
    Status(Form),
    /// Show the nodes that the daemon which runs here knows, and what keeps one from being reached
    Nodes(Form),
    /// Remove all that is routed's from this node (not the pods' links and their routes), say what, and exit
    Cleanup,
    /// Print the public key of this node, for wireguard_key in the nodes file; it is made if there is none
    WireguardKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["routed", "--runtime-dir", "/tmp/r", "cleanup"]).unwrap();
        assert_eq!(cli.command, Some(Command::Cleanup));
        assert_eq!(Cli::try_parse_from(["routed", "plan"]).unwrap().command, Some(Command::Plan));
        assert_eq!(Cli::try_parse_from(["routed"]).unwrap().command, None);
    }
}
