//! The files that the settings come from: `ferrule.toml`, `node.json` and those of flannel. They are followed while the
//! daemon runs. `decide::pools` works out the settings that follow from them.

use crate::decide::pools::settings;
use crate::decide::service::Settings;
use crate::look::flannel::Flannel;
use ferrule_config::{Config, ConfigError, DEFAULT_CONFIG, NODE_FILE, NodeFile};
use ferrule_daemon::{CommonArgs, FileWatch};
use ferrule_model::chain;
use ferrule_netlink::own_addresses;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The files as last read. If a file is broken, or `node.json` is gone, its last good state stays in force.
pub(crate) struct Inputs {
    common: CommonArgs,
    config: Config,
    config_watch: FileWatch,
    node_path: PathBuf,
    node: Option<NodeFile>,
    node_fault: Option<String>,
    node_watch: FileWatch,
    flannel: Flannel,
    /// The node's own addresses, each with its link.
    held: BTreeMap<IpAddr, String>,
    said_unseen: bool,
}

impl Inputs {
    /// Reads the files and watches them from here on. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn open(common: &CommonArgs) -> Result<Self, ConfigError> {
        // The watches begin before the first look, so that no change is missed in between.
        let path = common.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        let config_watch = FileWatch::new(path);
        let node_path = common.runtime_file(NODE_FILE);
        let node_watch = FileWatch::new(&node_path);
        let config = common.load_config()?;
        let (node, node_fault) = (None, None);
        let common = common.clone();
        let (flannel, held, said_unseen) = (Flannel::default(), BTreeMap::new(), false);
        let mut inputs = Self {
            common,
            config,
            config_watch,
            node_path,
            node,
            node_fault,
            node_watch,
            flannel,
            held,
            said_unseen,
        };
        inputs.look(own_addresses());
        inputs.flannel.follow(&inputs.config);
        inputs.read_node();
        Ok(inputs)
    }

    /// The configuration in force.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// The settings that follow from the files.
    pub(crate) fn settings(&self) -> Settings {
        settings(&self.flannel.fill(&self.config), self.node.as_ref(), self.node_fault.as_deref(), &self.held)
    }

    /// Takes the result of a look at the node's own addresses. Returns whether the addresses that pods must not get
    /// have changed.
    pub(crate) fn look(&mut self, found: io::Result<BTreeMap<IpAddr, String>>) -> bool {
        let held = match found {
            Ok(held) => held,
            Err(error) => {
                if !std::mem::replace(&mut self.said_unseen, true) {
                    tracing::error!(%error, "the node's own addresses cannot be told: pods may be given them");
                }
                return false;
            }
        };
        // The link's name is only for people. If several links have the same address, it does not matter which one is
        // named.
        if held.keys().eq(self.held.keys()) {
            return false;
        }
        let before = self.settings().held;
        self.held = held;
        !self.settings().held.keys().eq(before.keys())
    }

    /// Waits until one of the files has changed, and reads it. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = self.config_watch.changed() => self.read_config(),
            () = self.node_watch.changed() => self.read_node(),
            () = self.flannel.changed() => {}
        }
    }

    /// Reads all files.
    pub(crate) fn read(&mut self) {
        self.read_config();
        self.read_node();
        self.flannel.read();
    }

    fn read_config(&mut self) {
        match self.common.load_config() {
            Ok(config) if config == self.config => {
                tracing::info!("configuration read, nothing in it changed");
            }
            Ok(config) => {
                if config.ipam.state_dir != self.config.ipam.state_dir {
                    tracing::warn!("[ipam] state_dir counts from the next start on");
                }
                let pools: Vec<&str> = config.ipam.pools.iter().map(|pool| pool.name.as_str()).collect();
                tracing::info!(?pools, "configuration read, it counts from now on");
                self.config = config;
                self.flannel.follow(&self.config);
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "the configuration cannot be used, the last good one stays"
                );
            }
        }
    }

    fn read_node(&mut self) {
        self.node_fault = None;
        match NodeFile::load(&self.node_path) {
            Ok(node) => {
                let pod_cidrs: Vec<_> = node.pod_cidrs.iter().map(ToString::to_string).collect();
                tracing::info!(?pod_cidrs, mtu = node.mtu, "node.json read");
                self.node = Some(node);
            }
            Err(error) if error.is_missing() => {
                if self.config.ipam.pools.is_empty() {
                    tracing::info!("no node.json: waiting for routed to write it");
                }
            }
            Err(error) => self.node_fault = Some(self.report(&error)),
        }
    }

    fn report(&self, error: &ConfigError) -> String {
        let kept = if self.node.is_some() { "the last good state stays" } else { "there is none before it" };
        tracing::error!(error = chain(error), "node.json cannot be used, {kept}");
        error.to_string()
    }
}
