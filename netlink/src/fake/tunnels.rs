//! [`Tunnels`] on maps.

use ferrule_model::IfName;
use nix::errno::Errno;

use super::{FakeKernel, State, World, refused};
use crate::{Error, Tunnels};

impl Tunnels for FakeKernel {
    fn tx_checksum(&mut self, link: &IfName) -> Result<bool, Error> {
        self.offloading(link, |state, index| !state.plain_checksums.contains(&index))
    }

    fn set_tx_checksum(&mut self, link: &IfName, on: bool) -> Result<(), Error> {
        self.offloading(link, |state, index| {
            if on {
                state.plain_checksums.remove(&index);
            } else {
                state.plain_checksums.insert(index);
            }
        })
    }
}

impl FakeKernel {
    fn offloading<T>(
        &mut self,
        link: &IfName,
        act: impl FnOnce(&mut State, ferrule_model::IfIndex) -> T,
    ) -> Result<T, Error> {
        let mut world = self.world.lock();
        let found = |world: &mut World| {
            world.request()?;
            let state = &mut world.namespaces[self.netns.0];
            let index = state.links.get(link).ok_or(Errno::ENODEV)?.index;
            Ok(act(state, index))
        };
        found(&mut world).map_err(|errno: Errno| refused(format!("ethtool {link}"), errno))
    }
}
