//! Bandwidth in the kernel's terms: token buckets, and the devices that hold the buckets for what pods send. Pure.

use ferrule_model::{Attachment, Bucket, IfName, Limits, Link, ifb_name, is_ifb};

use crate::edge::bandwidth::{Bandwidth, Rate};

/// Ethernet's header with a VLAN tag: the bytes that a packet of the MTU's size has in addition.
const HEADER: u32 = 18;

/// The token bucket of a rate. It has room for at least one packet, because otherwise the kernel would never send a
/// packet of that size. A rate above what the kernel can be told is lowered to that, which is as good as no limit.
pub fn bucket(rate: Rate, mtu: u32) -> Bucket {
    let burst = u32::try_from(rate.burst_bits / 8).unwrap_or(u32::MAX);
    let packet = mtu.saturating_add(HEADER);
    Bucket { rate: (rate.bits / 8).min(Bucket::RATE_MAX), burst: burst.clamp(packet, Bucket::BURST_MAX) }
}

/// The limits of a pod with this MTU, as the record has them.
pub fn limits(bandwidth: &Bandwidth, mtu: u32) -> Limits {
    let of = |rate| bucket(rate, mtu);
    Limits { receives: bandwidth.ingress.map(of), sends: bandwidth.egress.map(of) }
}

/// The devices among `links` that belong to `network` and to none of the `valid` attachments.
pub fn stale<'a>(
    links: &'a [Link],
    network: &'a str,
    valid: &[Attachment],
) -> impl Iterator<Item = &'a IfName> {
    let valid: Vec<_> = valid.iter().map(ifb_name).collect();
    let ours = move |link: &&Link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        is_ifb(link.name.as_str()) && alias.split_once(": ").is_some_and(|(of, _)| of == network)
    };
    links.iter().filter(ours).map(|link| &link.name).filter(move |name| !valid.contains(name))
}
