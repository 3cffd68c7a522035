//! Brings our VXLAN device to what it should be. [`crate::decide::owner`] decides what that takes.

use ferrule_config::Vxlan;
use ferrule_model::{IfIndex, IfName, Link, LinkKind, Mac, Op, VxlanSpec};
use ferrule_netlink::{Kernel, Netlink, Refusal, Tunnels, kernel_release};
use nix::errno::Errno;

use crate::decide::drift::VxlanDevice;
use crate::decide::objects::Links;
use crate::decide::objects::Objects;
use crate::decide::owner::{self, DeviceStep};
use crate::decide::report::{self, Report};
use crate::pass::apply::PassError;
use crate::pass::holder;
use crate::pass::offload;
use crate::source::KnownMacs;

/// The device, as far as a pass has come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its number, if it is there.
    pub index: Option<IfIndex>,
    /// Whether it was made in this pass. Then all that was on it before is gone.
    pub fresh: bool,
    /// Whether it is to be removed at the end. The routes over it are replaced first.
    pub leaves: bool,
    /// Whether everything is right that this pass could set on it.
    pub whole: bool,
    /// Whether the kernel refuses it, or another link has its name.
    pub refused: bool,
}

/// What a device should be.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The device; `None` if there should be none.
    pub spec: Option<&'a VxlanSpec>,
    /// The configuration, with the name of this device.
    pub settings: &'a Vxlan,
    /// The MAC that only this node's device has.
    pub mac: Mac,
}

/// Brings the device to what is wished. A device that is no longer wanted stays until the end. `had` is what the last
/// pass left.
///
/// # Errors
/// A link that is not ours has its name, or the kernel refuses.
pub fn keep<K: Tunnels>(
    kernel: &mut K,
    wish: Wish<'_>,
    links: &Links,
    had: Option<&VxlanDevice>,
    report: &mut Report,
) -> Result<Device, PassError> {
    let mut device = bring(kernel, wish, links, had, report)?;
    if let (Some(spec), Some(_), false) = (wish.spec, device.index, device.leaves) {
        let wanted = offload::wanted(wish.settings.checksum_offload, &kernel_release());
        device.whole = offload::keep(kernel, &spec.name, wanted, report)?;
    }
    Ok(device)
}

fn bring<K: Kernel>(
    kernel: &mut K,
    wish: Wish<'_>,
    links: &Links,
    had: Option<&VxlanDevice>,
    report: &mut Report,
) -> Result<Device, PassError> {
    let Wish { spec, settings, mac } = wish;
    let step = owner::device_step(spec, find(links, settings, mac), settings, mac)?;
    let there =
        |index| Device { index: Some(index), fresh: false, leaves: false, whole: true, refused: false };
    match (step, spec) {
        (DeviceStep::Keep(index), _) => Ok(there(index)),
        (DeviceStep::Remove(index), _) => Ok(Device { leaves: true, ..there(index) }),
        (DeviceStep::Change(index, change), _) => {
            if had.is_some_and(|had| had.index == Some(index) && had.spec.as_ref() == spec) {
                report.repaired.push(report::device_repair(settings.device.as_str(), &change));
            }
            let fresh = change.up.is_some();
            carry_out(kernel, &Op::SetLink(index, change), links, report)?;
            Ok(Device { fresh, ..there(index) })
        }
        (DeviceStep::Recreate(index), Some(spec)) => {
            carry_out(kernel, &Op::DeleteLink(index), links, report)?;
            create(kernel, spec, links, report)
        }
        (DeviceStep::Create, Some(spec)) => {
            if had.is_some_and(|had| had.index.is_some()) {
                let name = &settings.device;
                report.repaired.push(format!("link {name} was deleted by someone else; made again"));
            }
            create(kernel, spec, links, report)
        }
        (DeviceStep::Nothing | DeviceStep::Create | DeviceStep::Recreate(_), _) => {
            Ok(Device { index: None, fresh: false, leaves: false, whole: true, refused: false })
        }
    }
}

/// Whether the device is as wished, and is the one that the last pass `left`.
///
/// # Errors
/// A link that is not ours has its name.
pub fn is_right<K: Tunnels>(
    kernel: &mut K,
    wish: Wish<'_>,
    links: &Links,
    left: Option<IfIndex>,
) -> Result<bool, PassError> {
    let Wish { spec, settings, mac } = wish;
    let is_kept = match owner::device_step(spec, find(links, settings, mac), settings, mac)? {
        DeviceStep::Keep(index) => left == Some(index),
        DeviceStep::Nothing => left.is_none(),
        _ => false,
    };
    let wanted = || offload::wanted(settings.checksum_offload, &kernel_release());
    Ok(is_kept && spec.is_none_or(|spec| offload::is_right(kernel, &spec.name, wanted())))
}

/// The link that has our device's name. If there is none, our device under the name that an earlier configuration gave
/// it.
pub fn find<'a>(links: &'a Links, settings: &Vxlan, mac: Mac) -> Option<&'a Link> {
    let named = links.values().find(|link| link.name == settings.device);
    named.or_else(|| links.values().find(|link| owner::is_our_renamed_device(link, settings, mac)))
}

/// The MACs of the VXLAN devices, if there are devices with these names and this VNI.
pub fn known_macs(settings: &Vxlan) -> KnownMacs {
    let Ok(mut kernel) = Netlink::open() else { return KnownMacs::default() };
    let mut mac = |name: &IfName| {
        let link = kernel.link(name).ok().flatten()?;
        match link.kind {
            LinkKind::Vxlan(vxlan) if vxlan.vni == settings.vni => link.mac,
            _ => None,
        }
    };
    KnownMacs { v4: mac(&settings.device), v6: settings.device6.as_ref().and_then(mac) }
}

/// Whether a link carries packets as `spec` says, even if its MTU or MAC differs.
pub fn is_usable(spec: Option<&VxlanSpec>, link: &Link) -> bool {
    link.up && spec.is_some_and(|spec| link.kind == LinkKind::Vxlan(spec.vxlan.clone()))
}

/// Makes one change of a link, and counts it.
///
/// # Errors
/// The kernel refuses. If a link to be deleted is gone, that is no refusal.
pub fn carry_out<K: Kernel>(
    kernel: &mut K,
    op: &Op,
    links: &Links,
    report: &mut Report,
) -> Result<(), PassError> {
    let answer = kernel.apply(std::slice::from_ref(op))?.pop();
    match answer {
        Some(Err(refusal)) if !(matches!(op, Op::DeleteLink(_)) && refusal.errno == Errno::ENODEV) => {
            Err(PassError::Device(refused(op, &refusal, links)))
        }
        _ => {
            report.tally.count(op);
            Ok(())
        }
    }
}

/// The sentence about the refusal of a device: what it is, the kernel's reason, and what a person can do.
fn refused(op: &Op, refusal: &Refusal, links: &Links) -> String {
    let own = match op {
        Op::AddVxlan(spec) => Some((Some(&spec.name), spec.vxlan.port, "vxlan")),
        Op::SetLink(index, _) => links.get(index).and_then(|link| match &link.kind {
            LinkKind::Vxlan(vxlan) => Some((Some(&link.name), vxlan.port, "vxlan")),
            _ => None,
        }),
        Op::SetWireguard(_, settings) => Some((None, settings.port, "wireguard")),
        _ => None,
    };
    let Some((name, port, table)) = own.filter(|_| refusal.errno == Errno::EADDRINUSE) else {
        return report::refusal(op, refusal, &Objects::default(), links);
    };
    let object = report::object(op, &Objects::default(), links);
    let who = holder::of_port(port, name, links);
    format!("cannot set {object}: {refusal}; {who}, or choose another [routing.{table}] port on every node")
}

fn create<K: Kernel>(
    kernel: &mut K,
    spec: &VxlanSpec,
    links: &Links,
    report: &mut Report,
) -> Result<Device, PassError> {
    carry_out(kernel, &Op::AddVxlan(spec.clone()), links, report)?;
    let made = kernel.link(&spec.name)?;
    let gone = || PassError::Device(format!("the link {} was deleted as soon as it was made", spec.name));
    Ok(Device {
        index: Some(made.ok_or_else(gone)?.index),
        fresh: true,
        leaves: false,
        whole: true,
        refused: false,
    })
}
