//! Nodes to measure on. Lives here: a node with Ferrule installed as its units run it, and a bare one for the others. What is done on
//! them lives in [`crate::rows`].

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use ferrule_tests::{
    addressing::Backend,
    cluster::Cluster,
    command::{run, run_here},
    error::{Context, LabError, Result},
    install::Install,
    service::Service,
    space::Space,
    topology::Topology,
};

use crate::machine::Stolen;

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
    /// How many measurements were made again because of the host ([`Bench::calm`]).
    pub again: Cell<usize>,
}

/// Waits until the kernel has taken down every network namespace that nobody holds any more, at most [`START_WITHIN`]. It does
/// that behind the caller's back, with thousands of objects for a long time and with the lock of route netlink held: whoever is
/// measured meanwhile pays for whoever was measured before.
///
/// Namespaces go in batches, one after the other, and the links of a batch before all else (`cleanup_net`): when those of a
/// second batch are gone, the first is through.
///
/// # Errors
/// A namespace cannot be made, or is not gone in time.
pub fn come_to_rest() -> Result<()> {
    const LOOK: Duration = Duration::from_millis(1);
    let is_there = || Ok(run_here("ip -o link show")?.contains("probe"));
    for _ in 0..2 {
        let space = Space::network("probe")?;
        let path = space.net_path();
        run_here(&format!("ip link add probe type veth peer name probe netns {}", path.display()))?;
        drop(space);
        let start = Instant::now();
        while is_there()? {
            if start.elapsed() > START_WITHIN {
                let saw = "a namespace that is still there".to_owned();
                return Err(LabError::promise("namespaces to be taken down", saw));
            }
            thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// The part of the cores that the host may keep for others while something is measured, and how often it is measured again at most.
const STOLEN_MAX: f64 = 0.02;
const AGAIN: usize = 5;

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

    /// Measures something, and again while the host of the machine kept more than 2 % of the cores for others meanwhile, five times
    /// at most; gives what was measured when it kept least.
    ///
    /// # Errors
    /// As it is measured.
    pub fn calm<T>(&self, mut measure: impl FnMut() -> Result<T>) -> Result<T> {
        let mut again = self.times(AGAIN, 0);
        let mut round = || {
            let stolen = Stolen::now();
            measure().map(|measured| (stolen.part(), measured))
        };
        let mut best = round()?;
        while best.0 > STOLEN_MAX && again > 0 {
            again -= 1;
            self.again.set(self.again.get() + 1);
            let other = round()?;
            if other.0 < best.0 {
                best = other;
            }
        }
        Ok(best.1)
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
