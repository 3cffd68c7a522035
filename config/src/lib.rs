//! Ferrule's configuration, from text to types.
//!
//! These files live here: `ferrule.toml` ([`Config`]), the nodes file of `source = "file"` ([`NodesFile`]), the
//! services file of `proxyd` ([`ServicesFile`]), `node.json` ([`NodeFile`]), which `routed` writes and `ipamd` reads,
//! `services.json` ([`ServedFile`]), which `proxyd` writes, and flannel's `subnet.env` ([`SubnetEnv`]). Each is parsed and checked as a whole before anything uses it. A fault names the file,
//! the line, the key, the reason and the remedy.
//!
//! Watching files, writing them, and the command line do not live here (crate `daemon`). The only effect in this crate
//! is reading a file, in `load`. All else is a function of the text that it is given.

mod claims;
mod document;
mod edited;
mod endpoint;
mod error;
mod etcd;
mod interface;
mod kubernetes;
mod load;
mod name;
mod node_file;
mod nodes;
mod overlap;
mod pods;
mod ranges;
mod raw;
mod regular;
mod served_file;
mod service_settings;
mod services;
mod settings;
mod subnet_env;
mod tunnel;

pub use edited::{Edit, EditedNodes};
pub use endpoint::Endpoint;
pub use error::{ConfigError, Fault};
pub use etcd::Etcd;
pub use interface::Interface;
pub use kubernetes::Kubernetes;
pub use name::{NodeNameError, check_node_name, node_name};
pub use node_file::{IPV4_MTU_MIN, MTU_MAX, MTU_MIN, NodeFile};
pub use nodes::{NodeEntry, NodesFile};
pub use pods::{Pods, SourceCheck};
pub use served_file::{ServedAddress, ServedFile, ServedKind};
pub use service_settings::{ServiceBackend, ServiceSource, Services};
pub use services::{
    EndpointEntry, PortEntry, ServiceEntry, ServiceKind, ServicesFile, TrafficDistribution, Transport,
    ZoneEntry,
};
pub use settings::{
    Backend, Cluster, Config, FileSource, Flannel, Ipam, Metrics, Node, Pool, Routing, Source,
};
pub use subnet_env::{SubnetEnv, subnet_env_text};
pub use tunnel::{Tunnel, Vxlan, Wireguard};

/// Where `ferrule.toml` is looked for when no `--config` is given.
pub const DEFAULT_CONFIG: &str = "/etc/ferrule/ferrule.toml";

/// The runtime directory when no `--runtime-dir` is given.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/ferrule";

/// The nodes file when `[routing.file] path` is not set.
pub const DEFAULT_NODES: &str = "/etc/ferrule/nodes.toml";

/// Where `proxyd` looks for the services file unless the configuration names another path.
pub const DEFAULT_SERVICES: &str = "/etc/ferrule/services.toml";

/// The name of the file of served addresses inside the runtime directory.
pub const SERVED_FILE: &str = "services.json";

/// The name of the node file inside the runtime directory.
pub const NODE_FILE: &str = "node.json";
