//! Bandwidth in the kernel: puts token buckets there, removes them, and looks at them. `decide::shaping` decides what
//! they are.
//!
//! What the pod receives (`ingress`) is what the host's end of its veth pair sends, so a token bucket is put there.
//! What the pod sends (`egress`) arrives at the host's end. From there it is redirected to a device of the pod's own,
//! which has the other bucket. That device is not removed together with the veth pair, so DEL and GC delete it by its
//! name.

use ferrule_model::{Attachment, Bucket, Link, ifb_name};
use ferrule_netlink::traffic::Traffic;
use ferrule_netlink::{Error as NetlinkError, Kernel};

use crate::decide::shaping::bucket;
use crate::edge::bandwidth::Bandwidth;
use crate::edge::error::{Error, ShapingError};

/// Limits the pod behind `link`. `alias` says whom the second device belongs to.
///
/// # Errors
/// The kernel lacks a feature that is needed, or it refused.
pub(crate) fn put<K: Kernel + Traffic>(
    host: &mut K,
    link: &Link,
    bandwidth: &Bandwidth,
    attachment: &Attachment,
    mtu: u32,
) -> Result<(), Error> {
    let failed = |step, module| move |source| Error::Shaping(ShapingError { step, module, source });
    if let Some(ingress) = bandwidth.ingress {
        host.limit(link.index, bucket(ingress, mtu)).map_err(failed("a token bucket", "sch_tbf"))?;
    }
    if let Some(egress) = bandwidth.egress {
        let alias = link.alias.as_deref().unwrap_or_default();
        let ifb =
            host.add_ifb(&ifb_name(attachment), mtu, alias).map_err(failed("a device of its own", "ifb"))?;
        host.limit(ifb.index, bucket(egress, mtu)).map_err(failed("a token bucket", "sch_tbf"))?;
        let redirected = host.redirect(link.index, ifb.index);
        redirected.map_err(failed("a redirection", "sch_ingress, cls_u32 and act_mirred"))?;
    }
    Ok(())
}

/// Removes the limits of an earlier ADD that `bandwidth` does not ask for.
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
        // The redirection is removed first: packets that are redirected to a device that is gone are lost.
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

/// The limits that are not as they should be: for each what it is, how it should be, and how it is.
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
    let mut compare = |what: &str, expected: Bucket, found: Option<Bucket>| {
        if found != Some(expected) {
            let found = found.map_or_else(|| "none".to_owned(), in_words);
            differences.push((format!("bandwidth ({what})"), in_words(expected), found));
        }
    };
    if let Some(ingress) = bandwidth.ingress {
        compare("ingress", bucket(ingress, mtu), host.limit_of(link.index)?);
    }
    if let Some(egress) = bandwidth.egress {
        let ifb = host.link(&ifb_name(attachment))?;
        let limit = match &ifb {
            Some(ifb) if ifb.up && host.redirect_of(link.index)? == Some(ifb.index) => {
                host.limit_of(ifb.index)?
            }
            _ => None,
        };
        compare("egress", bucket(egress, mtu), limit);
    }
    Ok(differences)
}

fn in_words(bucket: Bucket) -> String {
    format!("{} bit/s, burst {} bit", bucket.rate * 8, u64::from(bucket.burst) * 8)
}
