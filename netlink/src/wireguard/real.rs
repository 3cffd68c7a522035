//! WireGuard on the real kernel.

use ferrule_model::{IfIndex, Op, WireguardSpec, WireguardState};
use nix::errno::Errno;

use super::message;
use crate::socket::Answers;
use crate::{Error, Kernel, Netlink, Refusal, link};

impl Netlink {
    /// Carries out ops that concern WireGuard.
    pub(crate) fn apply_wireguard(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut results = Vec::with_capacity(ops.len());
        for run in ops.chunk_by(|a, b| !is_creation(a) && !is_creation(b)) {
            match run {
                [Op::AddWireguard(spec)] => results.push(self.add_wireguard(spec)?),
                run => results.extend(self.configure(run)?),
            }
        }
        Ok(results)
    }

    /// A separate request sets the alias (see [`link::alias`]). It is sent only for a device that was made here, and
    /// not for one that had the name before.
    fn add_wireguard(&mut self, spec: &WireguardSpec) -> Result<Result<(), Refusal>, Error> {
        let made = self.socket.batch(&[link::wireguard(spec)])?.results.pop().unwrap_or(Ok(()));
        if made.is_err() {
            return Ok(made);
        }
        let alias = link::alias(&spec.name, &spec.alias);
        let named = self.socket.batch(&[alias])?.results.pop().unwrap_or(Ok(()));
        if named.is_err() {
            self.delete_link(&spec.name)?;
        }
        Ok(named)
    }

    fn configure(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let Some(family) = self.wireguard_family()? else {
            return Ok(ops.iter().map(|_| Err(Errno::EOPNOTSUPP.into())).collect());
        };
        let encode = |op: &Op| match op {
            Op::SetWireguard(link, settings) => Some(message::set(family, *link, settings)),
            Op::PutPeer(key, peer) => Some(message::put_peer(family, key, peer)),
            Op::DeletePeer(key) => Some(message::delete_peer(family, key)),
            _ => None,
        };
        let requests: Vec<_> = ops.iter().filter_map(encode).collect();
        let Answers { results, .. } = self.generic()?.batch(&requests)?;
        Ok(results)
    }

    /// All about a WireGuard device; `None` if the link is none or is gone.
    pub(crate) fn wireguard_state(&mut self, link: IfIndex) -> Result<Option<WireguardState>, Error> {
        let Some(family) = self.wireguard_family()? else { return Ok(None) };
        let messages = match self.generic()?.dump(&message::get(family, link)) {
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::EOPNOTSUPP)) => {
                return Ok(None);
            }
            messages => messages?,
        };
        let mut state = WireguardState::default();
        messages.iter().for_each(|answer| message::take(&answer.payload, link, &mut state));
        Ok(Some(state))
    }

    /// The number of WireGuard's family. `None` while the kernel has no WireGuard: it loads the module when a device is
    /// made.
    fn wireguard_family(&mut self) -> Result<Option<u16>, Error> {
        self.generic_family(message::FAMILY)
    }
}

fn is_creation(op: &Op) -> bool {
    matches!(op, Op::AddWireguard(_))
}
