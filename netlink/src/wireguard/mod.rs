//! WireGuard devices and their peers, by generic netlink (`linux/wireguard.h`). The device itself is made by route netlink
//! as every link; what makes it WireGuard goes another way, on a socket of its own that is opened when it is first needed.

mod message;
mod real;

use ferrule_model::Op;

/// Whether `op` concerns WireGuard, and so is not for route netlink alone.
pub(crate) fn concerns(op: &Op) -> bool {
    matches!(op, Op::AddWireguard(_) | Op::SetWireguard(..) | Op::PutPeer(..) | Op::DeletePeer(_))
}
