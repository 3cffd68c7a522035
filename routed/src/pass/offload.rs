//! Whether our VXLAN device leaves checksums to the link below it.
//!
//! Kernels up to 5.7 spoil a checksum if two things come together: the device left the checksum inside to the hardware,
//! and the source of the tunnel's packet is translated on its way out (fixed by "netfilter: nat: never update the UDP
//! checksum when it's 0"). The other end drops the packet, and TCP gets through only by a second try after a minute.
//! Later kernels need the same setting if a router translates addresses or the hardware is at fault.

use ferrule_model::IfName;
use ferrule_netlink::{Error, Tunnels};

use crate::decide::report::{self, Report};

/// The first kernel whose checksums are right.
const RIGHT: (u32, u32) = (5, 8);

/// What the device should do; `None` leaves it as it is. `configured` wins; without it the kernel's version decides.
pub fn wanted(configured: Option<bool>, release: &str) -> Option<bool> {
    let spoils = version(release).is_some_and(|version| version < RIGHT);
    configured.or(spoils.then_some(false))
}

/// As in `6.12.48+deb13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether the device is as wanted. An error counts as "no", so that the code which sets it looks into the error.
pub fn is_right<K: Tunnels>(kernel: &mut K, device: &IfName, wanted: Option<bool>) -> bool {
    wanted.is_none_or(|on| kernel.tx_checksum(device).is_ok_and(|now| now == on))
}

/// Brings the device to `wanted`. Returns `false` if the kernel refuses; the report then names the refusal. The
/// kernel's event does not tell if someone else changed the setting. That is found when everything is compared.
///
/// # Errors
/// The kernel cannot be talked to.
pub fn keep<K: Tunnels>(
    kernel: &mut K,
    device: &IfName,
    wanted: Option<bool>,
    report: &mut Report,
) -> Result<bool, Error> {
    let Some(on) = wanted else { return Ok(true) };
    let set = match kernel.tx_checksum(device) {
        Ok(now) if now == on => return Ok(true),
        Ok(_) => kernel.set_tx_checksum(device, on),
        Err(error) => Err(error),
    };
    match set {
        Ok(()) => {
            report.done.push(report::offload(device, on));
            Ok(true)
        }
        Err(Error::Refused { refusal, .. }) => {
            report.refused.insert(report::offload_refusal(device, on, &refusal));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_spoil_checksums_are_spared_them_unless_the_configuration_says_otherwise() {
        for (release, expected) in [
            ("4.18.0-553.el8_10.x86_64", Some(false)),
            ("5.4.0-200-generic", Some(false)),
            ("5.7.19", Some(false)),
            ("5.8.0", None),
            ("5.10.0-32-amd64", None),
            ("6.12.48+deb13-amd64", None),
            ("odd", None),
            ("", None),
        ] {
            assert_eq!(wanted(None, release), expected, "{release}");
            assert_eq!(wanted(Some(true), release), Some(true));
            assert_eq!(wanted(Some(false), release), Some(false));
        }
    }
}
