//! `ranges` of a pool: from texts to pairs of addresses. Each is inside a subnet, and none overlaps another. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::document::{Checked, Document};
use crate::raw::Text;

/// First and last address of a range.
pub(crate) type Ends = (IpAddr, IpAddr);

const KEY: &str = "ipam.pool.ranges";

/// The ranges as they are written. `subnets` is `None` if they are read from another place later.
pub(crate) fn ranges(
    document: &Document<'_>,
    texts: &[Text],
    subnets: Option<&[IpNetwork]>,
) -> Checked<Vec<Ends>> {
    let mut ranges: Vec<Ends> = Vec::with_capacity(texts.len());
    for text in texts {
        let written = text.get_ref();
        let Some((first, last)) = ends(written) else {
            let reason = format!("\"{written}\" is not a range of addresses");
            return Err(document.fault(text, KEY, reason, "write it as 10.244.1.10-10.244.1.99"));
        };
        let is_inside = |subnet: &IpNetwork| subnet.contains(first) && subnet.contains(last);
        if subnets.is_some_and(|subnets| !subnets.iter().any(is_inside)) {
            let reason = format!("{written} is inside none of the pool's subnets");
            return Err(document.fault(text, KEY, reason, "correct its ends, or the subnets"));
        }
        if let Some(place) = ranges.iter().position(|&(low, high)| low <= last && first <= high) {
            let other = &texts[place];
            let line = document.line(&other.span());
            let reason = format!("{written} overlaps {} of line {line}", other.get_ref());
            return Err(document.fault(text, KEY, reason, "give every address once"));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

/// Both ends of a range, of one family and in order.
fn ends(written: &str) -> Option<Ends> {
    let (first, last) = written.split_once('-')?;
    let (first, last): Ends = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}
