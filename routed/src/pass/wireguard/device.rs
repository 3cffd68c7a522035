//! Brings our WireGuard device to what it should be.

use ferrule_model::{IfIndex, Link, LinkChange, LinkKind, Op, WireguardSettings, WireguardSpec};
use ferrule_netlink::Tunnels;

use crate::decide::drift::Belief;
use crate::decide::objects::Links;
use crate::decide::owner::ForeignDevice;
use crate::decide::report::{self, Report};
use crate::decide::wireguard::ALIAS;
use crate::pass::apply::PassError;
use crate::pass::device::{Device, carry_out};
use crate::pass::holder;

/// What a device should be.
pub struct Wish<'a> {
    /// The device; `None` if there should be none.
    pub spec: Option<&'a WireguardSpec>,
    /// Its key and port.
    pub settings: Option<&'a WireguardSettings>,
    /// The name that it has or would have.
    pub name: &'a ferrule_model::IfName,
}

/// Brings the device to what is wished. A device that is no longer wanted stays until the end. `before` is what the
/// last pass left.
///
/// # Errors
/// A link that is not ours has its name, or the kernel refuses.
pub fn keep<K: Tunnels>(
    kernel: &mut K,
    wish: &Wish<'_>,
    links: &Links,
    before: Option<&Belief>,
    report: &mut Report,
) -> Result<Device, PassError> {
    let there =
        |index, leaves| Device { index: Some(index), fresh: false, leaves, whole: true, refused: false };
    let (Some(spec), Some(settings)) = (wish.spec, wish.settings) else {
        let ours = find(links, wish.name).filter(|link| is_ours(link, wish.name));
        let none = Device { index: None, fresh: false, leaves: false, whole: true, refused: false };
        return Ok(ours.map_or(none, |link| there(link.index, true)));
    };
    let had = before.and_then(|belief| belief.devices.wireguard);
    let found = match find(links, &spec.name) {
        Some(link) if !is_ours(link, &spec.name) => return Err(ForeignDevice::of(link).into()),
        // A device under another name is removed with all that is on it.
        Some(link) if link.name != spec.name => {
            carry_out(kernel, &Op::DeleteLink(link.index), links, report)?;
            None
        }
        found => found,
    };
    let Some(link) = found else {
        if had.is_some() {
            report.repaired.push(format!("link {} was deleted by someone else; made again", spec.name));
        }
        let index = create(kernel, (spec, settings), links, report)?;
        return Ok(Device { fresh: true, ..there(index, false) });
    };
    put_right(kernel, (spec, settings), link, had == Some(link.index), links, report)?;
    Ok(Device { fresh: !link.up, ..there(link.index, false) })
}

/// Whether the device is as wished, and is the one that the last pass left.
///
/// # Errors
/// The kernel cannot be read.
pub fn is_right<K: Tunnels>(
    kernel: &mut K,
    wish: &Wish<'_>,
    links: &Links,
    left: Option<IfIndex>,
) -> Result<bool, ferrule_netlink::Error> {
    let found = find(links, wish.name).filter(|link| is_ours(link, wish.name));
    let (Some(spec), Some(settings)) = (wish.spec, wish.settings) else { return Ok(found.is_none()) };
    let Some(link) = found.filter(|link| Some(link.index) == left && link.name == spec.name) else {
        return Ok(false);
    };
    let state = kernel.wireguard(link.index)?.unwrap_or_default();
    let is_set = state.secret.as_ref() == Some(&settings.secret) && state.port == settings.port;
    Ok(is_set && link.up && link.mtu == spec.mtu)
}

/// The link that has our device's name. If there is none, our device under the name that an earlier configuration gave
/// it.
pub fn find<'a>(links: &'a Links, name: &ferrule_model::IfName) -> Option<&'a Link> {
    let named = links.values().find(|link| link.name == *name);
    named.or_else(|| links.values().find(|link| is_ours(link, name)))
}

/// Recognises our device by its alias. A device of the right name that has no alias and is off is ours too: its making
/// was cut short there.
fn is_ours(link: &Link, name: &ferrule_model::IfName) -> bool {
    let unfinished = link.name == *name && link.alias.is_none() && !link.up;
    link.kind == LinkKind::Wireguard && (link.alias.as_deref() == Some(ALIAS) || unfinished)
}

fn create<K: Tunnels>(
    kernel: &mut K,
    (spec, settings): (&WireguardSpec, &WireguardSettings),
    links: &Links,
    report: &mut Report,
) -> Result<IfIndex, PassError> {
    carry_out(kernel, &Op::AddWireguard(spec.clone()), links, report)?;
    let gone = || PassError::Device(format!("the link {} was deleted as soon as it was made", spec.name));
    let index = kernel.link(&spec.name)?.ok_or_else(gone)?.index;
    carry_out(kernel, &Op::SetWireguard(index, settings.clone()), links, report)?;
    // The device is switched on last, so that it never listens on another port.
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    carry_out(kernel, &Op::SetLink(index, up), links, report)
        .map_err(|error| name_holder(error, settings, links))?;
    Ok(index)
}

/// Names who has the port. A device takes its port when it is switched on.
fn name_holder(error: PassError, settings: &WireguardSettings, links: &Links) -> PassError {
    match error {
        PassError::Device(why) if why.contains("EADDRINUSE") => {
            let who = holder::of_port(settings.port, None, links);
            PassError::Device(format!(
                "{why}; {who}, or choose another [routing.wireguard] port on every node"
            ))
        }
        error => error,
    }
}

/// `had` says that the device was right when the last pass left it.
fn put_right<K: Tunnels>(
    kernel: &mut K,
    (spec, settings): (&WireguardSpec, &WireguardSettings),
    link: &Link,
    had: bool,
    links: &Links,
    report: &mut Report,
) -> Result<(), PassError> {
    let state = kernel.wireguard(link.index)?.unwrap_or_default();
    if state.secret.as_ref() != Some(&settings.secret) || state.port != settings.port {
        carry_out(kernel, &Op::SetWireguard(link.index, settings.clone()), links, report)?;
        if had {
            let name = &spec.name;
            report
                .repaired
                .push(format!("key or port of link {name} was changed by someone else; put right"));
        }
    }
    let change = LinkChange {
        up: (!link.up).then_some(true),
        mtu: (link.mtu != spec.mtu).then_some(spec.mtu),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        if had {
            report.repaired.push(report::device_repair(spec.name.as_str(), &change));
        }
        carry_out(kernel, &Op::SetLink(link.index, change), links, report)
            .map_err(|error| name_holder(error, settings, links))?;
    }
    Ok(())
}
