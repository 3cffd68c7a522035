//! Nodes to measure on. Lives here: a node with Ferrule installed as its units run it, and a bare one for the others. What is done on
//! them lives in [`crate::rows`].

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ferrule_tests::{
    addressing::Backend,
    cluster::Cluster,
    command::run,
    error::{Context, Result},
    install::Install,
    service::Service,
    space::Space,
    topology::Topology,
};

/// What the measurements share.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The built programs.
    pub install: Install,
    /// The built `ferrule-floor`.
    pub floor: PathBuf,
    /// Directory on a disk for configuration, logs and stores.
    pub dir: PathBuf,
    /// How often a verb is measured.
    pub rounds: usize,
    /// Fewer and shorter measurements.
    pub quick: bool,
}

/// How long a daemon may take to start before a measurement is given up.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// Pools of every stand: [`POOL_V4`] has one family, [`POOL_DUAL`] both. They are inside the cluster's CIDRs, so that nothing
/// between pods is masqueraded.
const POOLS: &str = r#"
[[ipam.pool]]
name = "v4"
subnets = ["10.244.128.0/18"]

[[ipam.pool]]
name = "dual"
subnets = ["10.244.64.0/18", "fd00:10:244:4000::/64"]
"#;
/// A pool of IPv4 addresses.
pub const POOL_V4: &str = "v4";
/// A pool of both families.
pub const POOL_DUAL: &str = "dual";

impl Bench {
    /// `full`, or `quick` of them in a quick run.
    pub fn times(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A node with both daemons up, and nobody else in its cluster. `name` is for its directory.
    ///
    /// # Errors
    /// A daemon does not become ready.
    pub fn stand(&self, name: &str) -> Result<Cluster> {
        self.stand_with(name, "")
    }

    /// The same with more lines in the configuration's table `[routing]`.
    ///
    /// # Errors
    /// A daemon does not become ready.
    pub fn stand_with(&self, name: &str, routing: &str) -> Result<Cluster> {
        let mut cluster = self.cluster(name, Backend::Native, 1)?;
        let config = &cluster.node(1).config;
        let doing = || config.display().to_string();
        let text = fs::read_to_string(config).context(doing)?;
        let text = text.replacen("[routing]\n", &format!("[routing]\n{routing}"), 1);
        fs::write(config, text + POOLS).context(doing)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// A cluster of the lab with Ferrule installed and not started.
    ///
    /// # Errors
    /// The network cannot be made.
    pub fn cluster(&self, name: &str, backend: Backend, nodes: usize) -> Result<Cluster> {
        Cluster::prepare(Topology::build(backend, nodes)?, &self.install, &self.directory(name)?)
    }

    /// A directory below the bench's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).context(|| dir.display().to_string())?;
        Ok(dir)
    }

    /// A node without Ferrule.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn bare(name: &str) -> Result<Space> {
        let space = Space::node(name)?;
        run(&space, "ip link set lo up")?;
        Ok(space)
    }

    /// Starts a daemon by its unit, with a configuration of its own, and gives it once it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn daemon(&self, space: &Space, name: &str, config: &Path) -> Result<Service> {
        let unit = self.install.unit(name, config)?;
        let service = Service::start(space, &unit, &config.with_file_name(format!("{name}.log")))?;
        service.wait_ready(1, START_WITHIN)?;
        Ok(service)
    }
}
