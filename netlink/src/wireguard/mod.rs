//! WireGuard devices and their peers, by generic netlink (`linux/wireguard.h`). Route netlink makes the device, as it
//! makes every link. Its WireGuard settings go another way, on a separate socket that is opened when it is first
//! needed.

mod message;
mod real;

use ferrule_model::Op;

/// Whether `op` concerns WireGuard, so that route netlink alone cannot carry it out.
pub(crate) fn concerns(op: &Op) -> bool {
    matches!(op, Op::AddWireguard(_) | Op::SetWireguard(..) | Op::PutPeer(..) | Op::DeletePeer(_))
}
