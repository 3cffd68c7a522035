//! Compares what the kernel knows of pods with the leases of the store. Pure: `look::sight` reads what the kernel
//! knows.
//!
//! An address that is routed to a pod's link is in use, whatever the store says: a store that was lost, truncated or
//! replaced by an older copy must not give it to a second pod. So the lease of such a link is made again from the
//! routes and from what the plugin wrote into the link's alias; leases of others that claim its addresses end.

use crate::decide::compact::Packed;
use crate::decide::holdings::Change;
use crate::decide::seen::{PodLink, whom_it_serves};
use ferrule_model::{Attachment, host_veth_name};
use ferrule_wire::messages::{Lease, Pod};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// The network of a lease whose link does not tell whom it serves. No network's name begins so.
const UNKNOWN: &str = "(unknown)";

/// The changes after which every address in use is leased. They concern links that have no lease, or a lease of other
/// addresses. `pool_of` names the pool that an address is in.
#[must_use]
pub fn adopt<'a>(
    leases: impl Iterator<Item = &'a Packed<Lease>> + Clone,
    links: &BTreeMap<String, PodLink>,
    pool_of: impl Fn(IpAddr) -> Option<String>,
    now: Duration,
) -> Vec<Change> {
    // There may be many leases; only those with a link are unpacked.
    let by_link: HashMap<String, Lease> = leases
        .clone()
        .map(|lease| (link_of(&lease.attachment()), lease))
        .filter(|(name, _)| links.contains_key(name))
        .map(|(name, lease)| (name, lease.open()))
        .collect();
    let right = |name: &str, link: &PodLink| {
        let holds = |lease: &Lease| lease.addresses.iter().any(|held| link.addresses.contains(&held.ip()));
        by_link.get(name).is_some_and(holds)
    };
    let wrong: Vec<_> =
        links.iter().filter(|(name, link)| !link.addresses.is_empty() && !right(name, link)).collect();
    let taken: HashSet<IpAddr> = wrong.iter().flat_map(|(_, link)| link.addresses.iter().copied()).collect();
    let names: HashSet<&str> = wrong.iter().map(|(name, _)| name.as_str()).collect();
    let ends = leases.filter(|lease| {
        let claims = lease.addresses().any(|held| taken.contains(&held.ip()));
        claims || !names.is_empty() && names.contains(link_of(&lease.attachment()).as_str())
    });
    let mut changes: Vec<Change> = ends.cloned().map(Change::Ended).collect();
    changes.extend(taken.iter().copied().map(Change::Forgotten));
    let given =
        wrong.into_iter().map(|(name, link)| Change::Given(Packed::new(&lease(name, link, &pool_of, now))));
    changes.extend(given);
    changes
}

/// Name of the link that serves the attachment. For an unknown attachment, the container id is that name.
fn link_of(attachment: &Attachment) -> String {
    if attachment.network == UNKNOWN {
        return attachment.container_id.clone();
    }
    host_veth_name(attachment).as_str().to_owned()
}

fn lease(name: &str, link: &PodLink, pool_of: impl Fn(IpAddr) -> Option<String>, now: Duration) -> Lease {
    let (attachment, pod) = whom(name, &link.alias);
    let mut addresses: Vec<IpNetwork> = link.addresses.iter().copied().map(IpNetwork::from).collect();
    addresses.sort_unstable();
    Lease {
        attachment,
        pool: link
            .addresses
            .iter()
            .find_map(|&address| pool_of(address))
            .unwrap_or_else(|| UNKNOWN.to_owned()),
        addresses,
        pod,
        netns: None,
        given_at_boottime_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Whom a link serves. What its alias says is believed if the link's name, a hash of the attachment, agrees.
fn whom(name: &str, alias: &str) -> (Attachment, Option<Pod>) {
    let agrees = |(attachment, _): &(Attachment, _)| host_veth_name(attachment).as_str() == name;
    whom_it_serves(alias).filter(agrees).unwrap_or_else(|| {
        let attachment = Attachment {
            network: UNKNOWN.to_owned(),
            container_id: name.to_owned(),
            ifname: UNKNOWN.to_owned(),
        };
        (attachment, None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { network: "pods".into(), container_id: id.into(), ifname: "eth0".into() }
    }

    fn leased(id: &str, address: &str) -> Lease {
        Lease {
            attachment: attachment(id),
            addresses: vec![address.parse().unwrap()],
            pool: "node".into(),
            pod: None,
            netns: Some("/run/netns/x".into()),
            given_at_boottime_ms: 7,
        }
    }

    fn link(id: &str, alias: &str, addresses: &[&str]) -> (String, PodLink) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        (host_veth_name(&attachment(id)).as_str().to_owned(), PodLink { alias: alias.into(), addresses })
    }

    fn run(leases: &[Lease], links: Vec<(String, PodLink)>) -> Vec<Change> {
        let leases: Vec<_> = leases.iter().map(Packed::new).collect();
        adopt(leases.iter(), &links.into_iter().collect(), |_| Some("node".into()), Duration::from_secs(9))
    }

    #[test]
    fn what_agrees_and_what_is_not_routed_yet_is_left_alone() {
        let leases = [leased("a", "10.0.0.1/32"), leased("b", "10.0.0.2/32")];
        let links = vec![link("a", "", &["10.0.0.1", "192.0.2.9"]), link("b", "", &[]), link("c", "", &[])];
        assert_eq!(run(&leases, links), []);
    }

    #[test]
    fn a_link_without_a_lease_gets_it_back_from_routes_and_alias() {
        let changes = run(&[], vec![link("a", "pods: shop/web-0 a/eth0", &["10.0.0.1", "fd00::1"])]);
        let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: String::new() };
        let expected = Lease {
            addresses: vec!["10.0.0.1/32".parse().unwrap(), "fd00::1/128".parse().unwrap()],
            pod: Some(pod),
            netns: None,
            given_at_boottime_ms: 9000,
            ..leased("a", "10.0.0.1/32")
        };
        assert_eq!(changes.last(), Some(&Change::Given(Packed::new(&expected))));
        let podmans = run(&[], vec![link("a", "pods: one a/eth0", &["10.0.0.1"])]);
        let Some(Change::Given(lease)) = podmans.last() else { panic!("{podmans:?}") };
        let lease = lease.open();
        assert_eq!(
            (&lease.attachment, lease.pod.as_ref().unwrap().to_string()),
            (&attachment("a"), "one".into())
        );
        let without_pod = run(&[], vec![link("a", "pods: a/eth0, web, (+)", &["10.0.0.1"])]);
        let Some(Change::Given(lease)) = without_pod.last() else { panic!("{without_pod:?}") };
        let lease = lease.open();
        assert_eq!((&lease.attachment, &lease.pod), (&attachment("a"), &None));
    }

    #[test]
    fn an_alias_that_does_not_fit_its_link_is_not_believed_but_the_address_is_held() {
        for alias in ["", "pods: shop/web-0 b/eth0", "pods: a", "somebody's"] {
            let links = vec![link("a", alias, &["10.0.0.1"])];
            let changes = run(&[], links.clone());
            let Some(Change::Given(lease)) = changes.last() else { panic!("{changes:?}") };
            let lease = lease.open();
            assert_eq!(
                (lease.attachment.network.as_str(), &lease.attachment.container_id),
                (UNKNOWN, &links[0].0)
            );
            assert_eq!(run(std::slice::from_ref(&lease), links), [], "once is enough");
        }
    }

    #[test]
    fn an_older_store_yields_to_the_kernel() {
        // The store says that a has 10.0.0.1 and b 10.0.0.2; since then b left and a new pod c got 10.0.0.2.
        let leases = [leased("a", "10.0.0.1/32"), leased("b", "10.0.0.2/32")];
        let changes =
            run(&leases, vec![link("a", "", &["10.0.0.1"]), link("c", "pods: c/eth0", &["10.0.0.2"])]);
        assert_eq!(changes[0], Change::Ended(Packed::new(&leases[1])));
        assert!(matches!(&changes[2], Change::Given(lease) if lease.attachment() == attachment("c")));
        assert_eq!(changes.len(), 3);
    }
}
