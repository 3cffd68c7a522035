//! Keeps the limits of what a pod receives and sends.

use ferrule_model::{HostSide, Link, LinkChange, Op, ifb_name};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Error, Kernel};

use super::repair::of;

/// Looks at the limits of the pod behind `link`, and puts right what differs. Returns the device that limits what the
/// pod sends. The pod may end meanwhile (`is_kept`). That device does not go with the link, so it is removed then.
///
/// # Errors
/// The kernel refused, or did not answer.
pub fn keep<K: Kernel + Traffic>(
    kernel: &mut K,
    made: &HostSide,
    link: &Link,
    is_kept: impl Fn() -> bool,
    repaired: &mut Vec<String>,
) -> Result<Option<Link>, Error> {
    let mut say = |what: &str| {
        let veth = &link.name;
        repaired.push(format!(
            "the limit of what {veth} {what} was removed or changed by someone else; put back{}",
            of(made)
        ));
    };
    if let Some(receives) = made.limits.receives
        && kernel.limit_of(link.index)? != Some(receives)
    {
        kernel.limit(link.index, receives)?;
        say("sends to the pod");
    }
    let Some(sends) = made.limits.sends else { return Ok(None) };
    let name = ifb_name(&made.attachment);
    let mut is_right = true;
    let ifb = match kernel.link(&name)? {
        Some(ifb) => ifb,
        None => {
            is_right = false;
            let ifb = kernel.add_ifb(&name, made.mtu, link.alias.as_deref().unwrap_or_default())?;
            if !is_kept() {
                kernel.delete_link(&name)?;
                return Ok(None);
            }
            ifb
        }
    };
    if !ifb.up {
        is_right = false;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        kernel.apply(&[Op::SetLink(ifb.index, up)])?;
    }
    if kernel.limit_of(ifb.index)? != Some(sends) {
        is_right = false;
        kernel.limit(ifb.index, sends)?;
    }
    if kernel.redirect_of(link.index)? != Some(ifb.index) {
        is_right = false;
        kernel.redirect(link.index, ifb.index)?;
    }
    if !is_right {
        say("gets from the pod");
    }
    Ok(Some(Link { up: true, ..ifb }))
}
