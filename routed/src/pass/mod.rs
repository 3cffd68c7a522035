//! A pass: it reads the kernel, and carries out what [`crate::decide`] says.
//!
//! The [`worker`] is the thread that makes the passes, one at a time. [`apply`] is the pass itself, and [`observe`] is
//! how it reads. [`gate`] keeps which hosts may send into the tunnel. The tunnels' devices have files of their own: [`device`] keeps the VXLAN device, [`offload`] its
//! checksums, [`wireguard`] the other device and its key. A device that is refused stops nothing else (`spare`);
//! `holder` finds who has its port, and `place` finds what stands where a route of ours should be. [`uplink`] finds the
//! link that `[node] interface` means.
//!
//! Not here: deciding what there should be ([`crate::decide`]), the host's nft, iptables and sysctls ([`crate::host`]),
//! and the pods' links ([`crate::keep`]). This room imports those three, [`crate::source`] and [`crate::show`].

pub mod apply;
pub mod device;
pub mod gate;
mod holder;
pub mod observe;
pub mod offload;
mod place;
mod spare;
pub mod uplink;
pub mod wireguard;
pub mod worker;
