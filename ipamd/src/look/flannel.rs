//! The files of flannel that pools take their networks from (`subnet_env`), followed while the daemon runs. What stands
//! in one is read in `ferrule_config`.

use ferrule_config::{Config, SubnetEnv};
use ferrule_daemon::FileWatch;
use ferrule_model::chain;
use ipnetwork::IpNetwork;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::task::Poll;

/// The files as last read. If a file is gone or broken, its last good state stays in force.
#[derive(Debug, Default)]
pub(crate) struct Flannel {
    files: Vec<Followed>,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    watch: FileWatch,
    last: Option<SubnetEnv>,
}

impl Flannel {
    /// Follows the files that the configuration names from here on, and no others. Must be called inside a tokio
    /// runtime.
    pub(crate) fn follow(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.files);
        for path in config.ipam.pools.iter().filter_map(|pool| pool.subnet_env.as_ref()) {
            if self.files.iter().any(|followed| followed.path == *path) {
                continue;
            }
            let followed = match before.iter().position(|followed| followed.path == *path) {
                Some(at) => before.swap_remove(at),
                None => {
                    // The watch begins before the first look, so that no change is missed in between.
                    let watch = FileWatch::new(path);
                    let mut followed = Followed { path: path.clone(), watch, last: None };
                    followed.read();
                    followed
                }
            };
            self.files.push(followed);
        }
    }

    /// Waits until one of the files has changed, and reads them. If there are no files, it waits for ever. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        {
            let mut waits: Vec<_> =
                self.files.iter_mut().map(|file| Box::pin(file.watch.changed())).collect();
            poll_fn(|context| {
                let mut ready = waits.iter_mut().map(|wait| wait.as_mut().poll(context));
                ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
            })
            .await;
        }
        self.read();
    }

    /// Reads all files.
    pub(crate) fn read(&mut self) {
        self.files.iter_mut().for_each(Followed::read);
    }

    /// The configuration with the files' networks in its pools. If a pool's file has no network yet, the pool has none
    /// either.
    pub(crate) fn fill(&self, config: &Config) -> Config {
        let mut filled = config.clone();
        let mut known: Vec<IpNetwork> =
            config.ipam.pools.iter().flat_map(|pool| pool.subnets.clone()).collect();
        for pool in &mut filled.ipam.pools {
            let file = self.files.iter().find(|followed| Some(&followed.path) == pool.subnet_env.as_ref());
            let Some(env) = file.and_then(|followed| followed.last.as_ref()) else { continue };
            let doubled = env.subnets.iter().find(|subnet| known.iter().any(|other| overlap(subnet, other)));
            if let Some(subnet) = doubled {
                tracing::error!(%subnet, pool = pool.name, "another pool has addresses of flannel's network: it is not used");
                continue;
            }
            known.extend(&env.subnets);
            pool.subnets.clone_from(&env.subnets);
            pool.reserved.extend(&env.gateways);
            filled.routing.mtu = filled.routing.mtu.or(env.mtu);
        }
        filled
    }
}

impl Followed {
    fn read(&mut self) {
        let path = self.path.display();
        match SubnetEnv::load(&self.path) {
            Ok(env) if self.last.as_ref() == Some(&env) => {}
            Ok(env) => {
                let subnets: Vec<_> = env.subnets.iter().map(ToString::to_string).collect();
                tracing::info!(?subnets, mtu = env.mtu, %path, "flannel's networks read");
                self.last = Some(env);
            }
            Err(error) if error.is_missing() => {
                tracing::info!(%path, "flannel's file is not there: waiting for it");
            }
            Err(error) => {
                let kept =
                    if self.last.is_some() { "the last good state stays" } else { "there is none before it" };
                tracing::error!(error = chain(&error), "flannel's file cannot be used, {kept}");
            }
        }
    }
}

/// Whether two networks overlap. They do if one contains the other; otherwise they have nothing in common.
fn overlap(one: &IpNetwork, other: &IpNetwork) -> bool {
    one.contains(other.network()) || other.contains(one.network())
}
