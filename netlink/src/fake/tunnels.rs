//! [`Tunnels`] on maps.

use ferrule_model::{IfIndex, IfName, Op, PeerState, WireguardSpec, WireguardState};
use nix::errno::Errno;

use super::{FakeKernel, FakeNetns, State, World, refused};
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

    fn wireguard(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error> {
        self.read("wg show", |state| state.wireguards.get(&link).cloned())
    }
}

impl World {
    pub(super) fn add_wireguard(&mut self, netns: FakeNetns, spec: &WireguardSpec) -> Result<(), Errno> {
        if self.namespaces[netns.0].links.contains_key(&spec.name) {
            return Err(Errno::EEXIST);
        }
        let index = self.index();
        let link = spec.link(index);
        let state = &mut self.namespaces[netns.0];
        state.links.insert(spec.name.clone(), link);
        state.wireguards.insert(index, WireguardState::default());
        Ok(())
    }
}

impl State {
    /// Applies an op that only a WireGuard device accepts.
    pub(super) fn apply_wireguard(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::SetWireguard(link, settings) => {
                let device = self.wireguard(*link)?;
                (device.secret, device.port) = (Some(settings.secret.clone()), settings.port);
                Ok(())
            }
            Op::PutPeer(key, peer) => {
                let device = self.wireguard(key.link)?;
                for other in device.peers.values_mut() {
                    other.peer.allowed.retain(|network| !peer.allowed.contains(network));
                }
                let state = PeerState { peer: peer.clone(), handshake_s: None };
                device.peers.entry(*key).and_modify(|known| known.peer = peer.clone()).or_insert(state);
                Ok(())
            }
            Op::DeletePeer(key) => {
                let device = self.wireguard(key.link)?;
                device.peers.remove(key);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn wireguard(&mut self, link: IfIndex) -> Result<&mut WireguardState, Errno> {
        let errno = if self.link(link).is_some() { Errno::EOPNOTSUPP } else { Errno::ENODEV };
        self.wireguards.get_mut(&link).ok_or(errno)
    }
}

impl FakeKernel {
    fn offloading<T>(
        &mut self,
        link: &IfName,
        act: impl FnOnce(&mut State, IfIndex) -> T,
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
