//! Keeps right what a pass needs beside routes: sysctls, the masquerade table, the way through a host firewall, and
//! `node.json` for `ipamd`.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use ferrule_config::{Config, MTU_MIN, NODE_FILE, NodeFile, subnet_env_text};
use ferrule_daemon::write_atomically;
use ferrule_model::{Family, IpNetwork, family, table};
use ferrule_netlink::advertised;
use ferrule_netlink::forwarding;
use ferrule_netlink::iptables::{self, IptablesError, Variant};
use ferrule_netlink::nft::{self, KeptError, NftError};
use ferrule_netlink::sysctl::Watched;

use crate::decide::drift::Belief;
use crate::decide::guard;
use crate::decide::networks;
use crate::decide::nodes::{Cluster, Node};
use crate::host::rules::{Rules, Who};
use crate::host::sysctl::Setting;
use crate::host::{forward, masquerade, rules, sysctl};

/// What the lack of a masquerade table means, and how to do without the table.
const WITHOUT_MASQUERADE: &str = "until then what pods send out of the cluster keeps their addresses, and nobody there can answer; \
                                  if another program masquerades it, set [routing] masquerade = false";

/// Keeps right what is on the host.
#[derive(Debug)]
pub struct Host {
    config: Config,
    node_file: PathBuf,
    /// The last `node.json` that was written or found.
    written: Option<NodeFile>,
    /// What the nodes mean for the host.
    outcome: Option<Arc<Outcome>>,
    rules: Rules,
    /// Whether iptables is right, or was made right.
    forward: bool,
    /// The sysctls that are right, and whose changes the kernel does not tell.
    silent: Vec<(Setting, Watched)>,
    /// The complaints that were made and still hold.
    complaints: BTreeSet<String>,
}

/// What the nodes mean for the host. It is worked out once, as long as the nodes stay the same.
#[derive(Debug)]
pub struct Outcome {
    /// The nodes. The reference is weak, so that the worker need not copy the nodes to change them. Changed nodes are
    /// at another address.
    of: Weak<Cluster>,
    own: Node,
    /// The networks of all pods.
    cidrs: Vec<IpNetwork>,
    /// The ports of the node that no pod gets.
    reserved_host_ports: Vec<String>,
    /// The masquerade table.
    table: Arc<str>,
}

impl Outcome {
    fn file(&self, mtu: u32) -> NodeFile {
        let Node { name, pod_cidrs, .. } = &self.own;
        let (node, cluster_cidrs) = (name.clone(), self.cidrs.clone());
        // A link with less than IPv6 needs has no IPv6.
        let fits = |cidr: &IpNetwork| family(cidr) == Family::V4 || mtu >= MTU_MIN;
        let pod_cidrs = pod_cidrs.iter().copied().filter(fits).collect();
        let reserved_host_ports = self.reserved_host_ports.clone();
        NodeFile { node, pod_cidrs, cluster_cidrs, mtu, reserved_host_ports }
    }
}

impl Host {
    /// `runtime_dir` is the directory for `node.json`.
    pub fn new(config: Config, runtime_dir: &std::path::Path) -> Self {
        let node_file = runtime_dir.join(NODE_FILE);
        Self {
            config,
            node_file,
            written: None,
            outcome: None,
            rules: Rules::default(),
            forward: false,
            silent: Vec::new(),
            complaints: BTreeSet::new(),
        }
    }

    /// The nftables tables whose changes concern the host, including those of the pods' host ports and of their guard.
    pub fn tables(config: &Config) -> &'static [&'static str] {
        const TABLES: [&str; 4] = [masquerade::TABLE, table::TABLE, guard::TABLE, forward::TABLE];
        if config.routing.accept_forward { &TABLES } else { &TABLES[..3] }
    }

    /// Whether anything here depends on the other nodes.
    pub fn depends_on_others(&self) -> bool {
        self.config.cluster.pod_cidrs.is_empty()
    }

    /// Says for a person what [`Host::prepare`] and the others would do.
    pub fn plan(&self, cluster: &Arc<Cluster>, belief: &Belief, mtu: u32) -> Vec<String> {
        let (uplinks, tunnels) = belief.names();
        let settings = sysctl::settings(&uplinks, &tunnels, &advertised().unwrap_or_default());
        let mut lines = sysctl::plan(&settings, &tunnels);
        if !lines.iter().any(|line| line.contains("ip_forward")) {
            let stopped = forwarding::stopped().unwrap_or_default();
            lines.extend(sysctl::plan(&sysctl::forwarding(&stopped, &uplinks, &tunnels), &[]));
        }
        let masquerades = self.config.routing.masquerade;
        let outcome = self.work_out(cluster);
        for family in ["inet", "bridge"] {
            if rules::list(family, guard::TABLE).is_ok_and(|listed| listed.is_none()) {
                lines.push(format!("set nftables table {family} {}", guard::TABLE));
            }
        }
        match rules::list("inet", masquerade::TABLE) {
            Ok(Some(listed)) if masquerades && nft::same(&listed, &outcome.table) => {}
            Ok(_) if masquerades => lines.push(format!("set nftables table inet {}", masquerade::TABLE)),
            Ok(None) => {}
            Ok(Some(_)) => lines.push(format!("remove nftables table inet {}", masquerade::TABLE)),
            Err(error) => lines.push(format!("masquerading is left out of this plan: {error}")),
        }
        lines.extend(self.plan_forward(&outcome.own));
        let file = outcome.file(mtu);
        if !NodeFile::load(&self.node_file).is_ok_and(|found| found == file) {
            lines.push(format!("write {}", self.node_file.display()));
        }
        lines
    }

    fn plan_forward(&self, own: &Node) -> Vec<String> {
        let wanted = self.config.routing.accept_forward;
        let (pods, chain) = self.forward_pods(own);
        let line = |(variant, family)| {
            let (program, verb) = (iptables::program(variant, family), if wanted { "set" } else { "remove" });
            match differing(variant, family, pods, chain) {
                Ok(None) => None,
                Ok(Some(_)) => Some(format!("{verb} chain {} of {program}", forward::CHAIN)),
                Err(error) if !wanted && error.is_out_of_reach() => None,
                Err(error) => Some(format!("{program} is left out of this plan: {error}")),
            }
        };
        filter_tables().filter_map(line).collect()
    }

    /// The networks that iptables is to let through, and the chain without which there is nothing to do.
    fn forward_pods<'a>(&self, own: &'a Node) -> (&'a [IpNetwork], &'static str) {
        if self.config.routing.accept_forward { (&own.pod_cidrs, "FORWARD") } else { (&[], forward::CHAIN) }
    }

    /// Sets the sysctls.
    pub fn prepare(&mut self, uplinks: &[String], tunnels: &[String]) {
        let given = advertised();
        let unknown = given
            .as_ref()
            .err()
            .map(|error| format!("which links have IPv6 by router advertisements cannot be told: {error}"));
        let settings = sysctl::settings(uplinks, tunnels, &given.unwrap_or_default());
        let (mut changed, mut failed) = sysctl::apply(&settings);
        failed.extend(unknown);
        // A node that begins to forward does so on all its links.
        match forwarding::stopped() {
            Ok(stopped) => {
                let (put_right, refused) = sysctl::apply(&sysctl::forwarding(&stopped, uplinks, tunnels));
                changed.extend(put_right);
                failed.extend(refused);
            }
            Err(error) => failed.push(format!("which links forward cannot be told: {error}")),
        }
        // A sysctl that cannot be set is tried again in the next pass.
        let silent = settings.into_iter().filter(|setting| setting.is_silent() && failed.is_empty());
        let watched = |setting: Setting| {
            let watched = Watched::open(&setting.name).ok()?;
            let is_right = watched.look(|now| !setting.is_wrong(now))?;
            is_right.then_some((setting, watched))
        };
        self.silent = silent.filter_map(watched).collect();
        if !changed.is_empty() {
            tracing::info!("sysctl {}", changed.join(" "));
        }
        self.complain("sysctl", failed);
    }

    /// Whether there are sysctls whose changes the kernel does not tell.
    pub fn has_silent(&self) -> bool {
        !self.silent.is_empty()
    }

    /// Sets those sysctls among them that are no longer as they have to be.
    pub fn put_silent_right(&mut self) {
        let is_right = |setting: &Setting, watched: &Watched| {
            watched.look(|now| !setting.is_wrong(now)).unwrap_or(false)
        };
        let doubtful = self.silent.iter().filter(|(setting, watched)| !is_right(setting, watched));
        let doubtful: Vec<_> = doubtful.map(|(setting, _)| setting.clone()).collect();
        let (changed, failed) = sysctl::apply(&doubtful);
        if !changed.is_empty() {
            tracing::warn!("sysctl {} was changed by someone else; put right", changed.join(" "));
        }
        if !failed.is_empty() {
            self.silent.clear();
        }
    }

    /// Keeps the packet filters, which separate programs set: the masquerade table, and the way through iptables. `who`
    /// is asked who has changed our table, once it is right again.
    pub fn filters(&mut self, outcome: &Outcome, who: Who<'_>) {
        self.masquerade(outcome, who);
        self.accept_forward(&outcome.own);
    }

    /// Makes the masquerade table right, or removes it if it is switched off.
    fn masquerade(&mut self, outcome: &Outcome, who: Who<'_>) {
        let failed = if self.config.routing.masquerade {
            self.rules.keep(&outcome.table, who)
        } else {
            rules::remove("inet", masquerade::TABLE).map_err(KeptError::from).map(|removed| {
                if removed {
                    tracing::info!("the nftables table inet {} is removed", masquerade::TABLE);
                }
            })
        };
        self.complain(
            "nft",
            failed.err().map(|error| format!("{error}; {WITHOUT_MASQUERADE}")).into_iter().collect(),
        );
    }

    /// Lets the pods through iptables, if it has a chain that decides. Removes our rules if that is no longer wanted.
    fn accept_forward(&mut self, own: &Node) {
        let wanted = self.config.routing.accept_forward;
        if !wanted && std::mem::replace(&mut self.forward, true) {
            return;
        }
        let (pods, chain) = self.forward_pods(own);
        let mut failed = Vec::new();
        for (variant, family) in filter_tables() {
            let program = iptables::program(variant, family);
            match adjust(variant, family, pods, chain) {
                Ok(true) if wanted && self.forward => {
                    tracing::warn!("{program} did not let the pods through; put right");
                }
                Ok(true) if wanted => tracing::info!("{program} lets the pods through"),
                Ok(true) => tracing::info!("{program} is without rules of ours again"),
                Ok(false) => {}
                Err(error) if !wanted && error.is_out_of_reach() => {}
                // The complaint about the masquerade table says this already.
                Err(IptablesError::Nft(NftError::Run(_))) if self.config.routing.masquerade => {}
                Err(error) => failed.push(error.to_string()),
            }
        }
        if wanted {
            match nft::list_chains() {
                Ok(chains) => failed.extend(forward::out_of_reach(&chains)),
                Err(NftError::Run(_)) if self.config.routing.masquerade => {}
                Err(error) => failed.push(error.to_string()),
            }
        }
        self.forward = true;
        self.complain("accept_forward", failed);
    }

    fn work_out(&self, cluster: &Arc<Cluster>) -> Outcome {
        let cidrs = networks::cluster_cidrs(&self.config.cluster.pod_cidrs, cluster);
        let unchanged = [cidrs.as_slice(), &self.config.cluster.non_masquerade_cidrs].concat();
        let table = masquerade::table(&cluster.own.pod_cidrs, &unchanged).into();
        let reserved_host_ports = self.config.reserved_host_ports();
        Outcome { of: Arc::downgrade(cluster), own: cluster.own.clone(), cidrs, reserved_host_ports, table }
    }

    /// What these nodes mean for the host.
    pub fn outcome(&mut self, cluster: &Arc<Cluster>) -> Arc<Outcome> {
        let known = self.outcome.take().filter(|outcome| outcome.of.as_ptr() == Arc::as_ptr(cluster));
        let outcome = known.unwrap_or_else(|| Arc::new(self.work_out(cluster)));
        Arc::clone(self.outcome.insert(outcome))
    }

    /// Writes `node.json` if it has changed or is gone. Returns `true` when it is as it should be.
    pub fn hand_over(&mut self, outcome: &Outcome, mtu: u32) -> bool {
        let file = outcome.file(mtu);
        self.tell_flannel(&file);
        let known = self.written.take().filter(|_| self.node_file.exists());
        let known = known.or_else(|| NodeFile::load(&self.node_file).ok());
        if known.as_ref() == Some(&file) {
            self.written = Some(file);
            return true;
        }
        let written = self.write(&file);
        let failed = written.as_ref().err().map(|error| {
            let path = self.node_file.display();
            format!(
                "cannot write {path}: {error}; ipamd waits for it: let routed write to the runtime directory"
            )
        });
        self.complain("node.json", failed.into_iter().collect());
        if written.is_ok() {
            tracing::info!("{} is written: MTU {mtu}", self.node_file.display());
            self.written = Some(file);
        }
        written.is_ok()
    }

    /// Writes `subnet.env` for flannel's plugin, if that is wanted.
    fn tell_flannel(&mut self, file: &NodeFile) {
        let Some(path) = &self.config.routing.flannel.subnet_env else { return };
        let masquerade = self.config.routing.masquerade;
        let text = subnet_env_text(&file.cluster_cidrs, &file.pod_cidrs, file.mtu, masquerade);
        if std::fs::read_to_string(path).is_ok_and(|known| known == text) {
            return self.complain("subnet.env", Vec::new());
        }
        let written = write_file(path, &text);
        if written.is_ok() {
            tracing::info!("{} is written", path.display());
        }
        let failed = written.err().map(|error| {
            format!("cannot write {}: {error}; let routed write to its directory", path.display())
        });
        self.complain("subnet.env", failed.into_iter().collect());
    }

    fn write(&self, file: &NodeFile) -> io::Result<()> {
        write_file(&self.node_file, &file.to_json())
    }

    /// Logs what is new among the complaints about one subject.
    fn complain(&mut self, subject: &str, now: Vec<String>) {
        let now: BTreeSet<_> = now.into_iter().map(|text| format!("{subject}: {text}")).collect();
        for text in now.difference(&self.complaints) {
            tracing::error!("{text}");
        }
        self.complaints.retain(|text| !text.starts_with(&format!("{subject}: ")));
        self.complaints.extend(now);
    }

    /// Removes the tables, our chain in iptables and `node.json`. Returns what was removed, for a person.
    ///
    /// # Errors
    /// nft or iptables refused, or the file cannot be removed.
    pub fn clean(&self) -> Result<Vec<String>, CleanError> {
        let mut removed = Vec::new();
        for (family, table) in [("inet", masquerade::TABLE), ("inet", guard::TABLE), ("bridge", guard::TABLE)]
        {
            if rules::remove(family, table)? {
                removed.push(format!("nftables table {family} {table}"));
            }
        }
        for (variant, family) in filter_tables() {
            match adjust(variant, family, &[], forward::CHAIN) {
                Ok(true) => {
                    let program = iptables::program(variant, family);
                    removed.push(format!("chain {} of {program}", forward::CHAIN));
                }
                Ok(false) => {}
                Err(error) if error.is_out_of_reach() => {}
                Err(error) => return Err(error.into()),
            }
        }
        match std::fs::remove_file(&self.node_file) {
            Ok(()) => removed.push(self.node_file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CleanError::File { path: self.node_file.clone(), source }),
        }
        Ok(removed)
    }
}

fn write_file(path: &std::path::Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    write_atomically(path, text.as_bytes())
}

/// What cannot be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The masquerade table.
    #[error(transparent)]
    Table(#[from] NftError),
    /// Our rules in iptables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// `node.json`.
    #[error("cannot remove {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn filter_tables() -> impl Iterator<Item = (Variant, Family)> {
    [Variant::Nft, Variant::Legacy]
        .into_iter()
        .flat_map(|variant| Family::BOTH.map(|family| (variant, family)))
}

/// The script that makes iptables let these pods through, if it has this chain and does not let them through yet.
fn differing(
    variant: Variant,
    of: Family,
    pods: &[IpNetwork],
    chain: &str,
) -> Result<Option<String>, IptablesError> {
    let pods: Vec<_> = pods.iter().filter(|pods| family(pods) == of).copied().collect();
    let listed = iptables::rules(variant, of, chain)?;
    Ok(listed.and_then(|listed| forward::change(&listed, &pods)))
}

/// Runs that script. Returns whether something was changed.
fn adjust(variant: Variant, of: Family, pods: &[IpNetwork], chain: &str) -> Result<bool, IptablesError> {
    let Some(script) = differing(variant, of, pods, chain)? else { return Ok(false) };
    iptables::restore(variant, of, &script)?;
    Ok(true)
}
