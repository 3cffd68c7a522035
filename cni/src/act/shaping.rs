//! Bandwidth: what `runtimeConfig.bandwidth` asks for, as token buckets, and these in the kernel.
//!
//! What the pod receives (`ingress`) is what the host's end of its veth pair sends: a token bucket there. What the pod
//! sends (`egress`) arrives at the host's end and is redirected to a device of the pod's own that has the other bucket.
//! That device does not go with the veth pair: DEL and GC delete it by its name.

use std::fmt;

use ferrule_model::{Attachment, Bucket, IfName, Limits, Link, ifb_name, is_ifb, json};
use ferrule_netlink::traffic::{Tbf, Traffic};
use ferrule_netlink::{Error as NetlinkError, Kernel};
use nix::errno::Errno;
use serde_json::Value;

use crate::edge::config::only;
use crate::edge::error::Error;

/// `runtimeConfig.bandwidth`, by the pod's directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// Of what the pod receives.
    pub ingress: Option<Rate>,
    /// Of what it sends.
    pub egress: Option<Rate>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits a second.
    pub bits: u64,
    /// Bits that may go at once.
    pub burst_bits: u64,
}

/// The kernel cannot limit bandwidth.
#[derive(Debug, thiserror::Error)]
#[error("cannot limit the pod's bandwidth: {step}: {source}{}", Remedy(.module, .source))]
pub struct ShapingError {
    step: &'static str,
    /// The kernel module that does it.
    module: &'static str,
    /// What the kernel said.
    #[source]
    source: NetlinkError,
}

struct Remedy<'a>(&'static str, &'a NetlinkError);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.errno() {
            Some(Errno::ENOENT | Errno::EOPNOTSUPP) => {
                write!(
                    f,
                    "; the kernel lacks {0} (`modprobe {0}`, or leave the pod's bandwidth annotations out)",
                    self.0
                )
            }
            _ => Ok(()),
        }
    }
}

/// Reads `runtimeConfig.bandwidth`.
///
/// # Errors
/// Which field is wrong, and what to write.
pub fn read(value: &Value) -> Result<Bandwidth, Error> {
    if let Some(fields) = value.as_object() {
        only(
            fields,
            "runtimeConfig.bandwidth",
            &["ingressRate", "ingressBurst", "egressRate", "egressBurst"],
        )?;
    } else if !value.is_null() {
        return Err(wrong("", "expected an object with rates and bursts".to_owned()));
    }
    Ok(Bandwidth {
        ingress: rate(value, "ingressRate", "ingressBurst")?,
        egress: rate(value, "egressRate", "egressBurst")?,
    })
}

fn rate(value: &Value, rate: &'static str, burst: &'static str) -> Result<Option<Rate>, Error> {
    let number = |field: &'static str| match value.as_object().and_then(|fields| json::field(fields, field)) {
        None => Ok(0),
        Some(Value::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64().unwrap_or_default()),
        Some(other) => {
            let found = other.to_string();
            Err(wrong(
                field,
                format!("{} is not a whole number of bits", crate::edge::config::clipped(&found)),
            ))
        }
    };
    let missing = |field, other| {
        Err(wrong(field, format!("it is missing or 0, and {other} is not: write both or none")))
    };
    match (number(rate)?, number(burst)?) {
        (0, 0) => Ok(None),
        (_, 0) => missing(burst, rate),
        (0, _) => missing(rate, burst),
        (bits, _) if bits < 8 => Err(wrong(rate, format!("{bits} is less than 8 bits a second"))),
        (bits, burst) if Rate::NOT_CHOSEN.contains(&burst) => Ok(Some(Rate::of(bits))),
        (bits, burst_bits) => Ok(Some(Rate { bits, burst_bits })),
    }
}

fn wrong(field: &str, reason: String) -> Error {
    let dot = if field.is_empty() { "" } else { "." };
    Error::Config { field: format!("runtimeConfig.bandwidth{dot}{field}"), reason }
}

impl Rate {
    /// The bursts that are sent with every rate, as kubelet's annotations have none: the largest numbers of Go's types, of
    /// which containerd writes one or the other by its version. Taken by its word, it would let up to 512 MB through before
    /// anything is limited.
    const NOT_CHOSEN: [u64; 4] = [i32::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];
    /// The part of a second that a burst lasts which nobody chose, at the rate: a fortieth, so that the first second has 2.5 %
    /// more than each other, and longer than any wait of a busy node's for its turn.
    const BURSTS_A_SECOND: u64 = 40;

    /// A rate whose burst nobody chose.
    const fn of(bits: u64) -> Self {
        Self { bits, burst_bits: bits / Self::BURSTS_A_SECOND }
    }

    /// Ethernet's header with a VLAN tag: what a packet of the MTU's size has beside it.
    const HEADER: u32 = 18;

    /// The token bucket. It has room for a packet at least: with less, the kernel would send none of that size. More than
    /// the kernel can be told is as good as no limit.
    fn tbf(self, mtu: u32) -> Tbf {
        let burst = u32::try_from(self.burst_bits / 8).unwrap_or(u32::MAX);
        let packet = mtu.saturating_add(Self::HEADER);
        Tbf { rate: (self.bits / 8).min(Tbf::RATE_MAX), burst: burst.clamp(packet, Tbf::BURST_MAX) }
    }
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// The limits of a pod with this MTU, as they are written down.
    pub(crate) fn limits(&self, mtu: u32) -> Limits {
        let bucket = |rate: Rate| {
            let Tbf { rate, burst } = rate.tbf(mtu);
            Bucket { rate, burst }
        };
        Limits { receives: self.ingress.map(bucket), sends: self.egress.map(bucket) }
    }
}

/// Limits the pod behind `link`; `alias` says whose the second device is.
///
/// # Errors
/// The kernel lacks something of it, or refused.
pub(crate) fn put<K: Kernel + Traffic>(
    host: &mut K,
    link: &Link,
    bandwidth: &Bandwidth,
    attachment: &Attachment,
    mtu: u32,
) -> Result<(), Error> {
    let failed = |step, module| move |source| Error::Shaping(ShapingError { step, module, source });
    if let Some(ingress) = bandwidth.ingress {
        host.limit(link.index, ingress.tbf(mtu)).map_err(failed("a token bucket", "sch_tbf"))?;
    }
    if let Some(egress) = bandwidth.egress {
        let alias = link.alias.as_deref().unwrap_or_default();
        let ifb =
            host.add_ifb(&ifb_name(attachment), mtu, alias).map_err(failed("a device of its own", "ifb"))?;
        host.limit(ifb.index, egress.tbf(mtu)).map_err(failed("a token bucket", "sch_tbf"))?;
        let redirected = host.redirect(link.index, ifb.index);
        redirected.map_err(failed("a redirection", "sch_ingress, cls_u32 and act_mirred"))?;
    }
    Ok(())
}

/// Takes off what an ADD before limited and `bandwidth` does not.
///
/// # Errors
/// The kernel refused.
pub(crate) fn lift<K: Kernel + Traffic>(
    host: &mut K,
    link: &Link,
    bandwidth: &Bandwidth,
    attachment: &Attachment,
) -> Result<(), Error> {
    let failed = |source| Error::Kernel { doing: "end the limit of an ADD before", source };
    if bandwidth.ingress.is_none() {
        host.unlimit(link.index).map_err(failed)?;
    }
    if bandwidth.egress.is_none() {
        // The redirection first: what is redirected to a device that is gone is lost.
        host.keep(link.index).map_err(failed)?;
        remove(host, attachment)?;
    }
    Ok(())
}

/// Deletes the device that limits what the pod sends, if it has one.
///
/// # Errors
/// The kernel refused.
pub(crate) fn remove<K: Kernel>(host: &mut K, attachment: &Attachment) -> Result<(), Error> {
    let deleted = host.delete_link(&ifb_name(attachment));
    deleted
        .map(drop)
        .map_err(|source| Error::Kernel { doing: "delete the device that limits bandwidth", source })
}

/// The devices among `links` that are in `network` and none of the `valid` attachments'.
pub(crate) fn stale<'a>(
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

/// What is not limited as it should be: what, how it should be, how it is.
///
/// # Errors
/// The kernel did not answer.
pub(crate) fn differences<K: Kernel + Traffic>(
    host: &mut K,
    link: &Link,
    bandwidth: &Bandwidth,
    attachment: &Attachment,
    mtu: u32,
) -> Result<Vec<(String, String, String)>, NetlinkError> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, expected: Tbf, found: Option<Tbf>| {
        if found != Some(expected) {
            let found = found.map_or_else(|| "none".to_owned(), in_words);
            differences.push((format!("bandwidth ({what})"), in_words(expected), found));
        }
    };
    if let Some(ingress) = bandwidth.ingress {
        compare("ingress", ingress.tbf(mtu), host.limit_of(link.index)?);
    }
    if let Some(egress) = bandwidth.egress {
        let ifb = host.link(&ifb_name(attachment))?;
        let limit = match &ifb {
            Some(ifb) if ifb.up && host.redirect_of(link.index)? == Some(ifb.index) => {
                host.limit_of(ifb.index)?
            }
            _ => None,
        };
        compare("egress", egress.tbf(mtu), limit);
    }
    Ok(differences)
}

fn in_words(tbf: Tbf) -> String {
    format!("{} bit/s, burst {} bit", tbf.rate * 8, u64::from(tbf.burst) * 8)
}
