//! Decides what a move changes. Pure.

use super::host_local::Entry;
use super::namespaces::Namespaces;
use crate::decide::compact::Packed;
use crate::decide::holdings::Change;
use crate::decide::pool::{Pool, PoolSpec};
use ferrule_wire::{Attachment, Lease, Pod};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Name of the pool for addresses that belong to no pool, when the node has no pool at all.
const NO_POOL: &str = crate::decide::pools::NODE_POOL;

/// What is done with an attachment, or with an entry of host-local.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is moved.
    Moved,
    /// Both sides say the same already, so nothing is done.
    Already,
    /// It is not moved, because no namespace has the address: its pod is gone.
    Gone,
    /// It has no lease, but some namespace has the address, so the entry is left as it is.
    Kept,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) attachment: Attachment,
    pub(crate) pod: Option<Pod>,
    pub(crate) netns: Option<String>,
    pub(crate) fate: Fate,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let Attachment { container_id, ifname, .. } = &self.attachment;
        write!(f, "{}: container {container_id}, {ifname}", addresses.join(","))?;
        if let Some(pod) = &self.pod {
            write!(f, ", pod {pod}")?;
        }
        if let Some(netns) = &self.netns {
            write!(f, ", in {netns}")?;
        }
        f.write_str(match self.fate {
            Fate::Moved => ": moved",
            Fate::Already => ": was there already",
            Fate::Gone => ": left out, no network namespace has the address",
            Fate::Kept => ": left as it is, it has no lease but a network namespace has the address",
        })
    }
}

/// What an import finds on the node.
pub(crate) struct Found<'a> {
    pub(crate) entries: &'a [Entry],
    pub(crate) pods: HashMap<(String, String), Pod>,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) leases: &'a [Lease],
    pub(crate) pools: &'a [PoolSpec],
}

/// The leases that host-local's entries become in the network `network`. If any entry cannot become a lease, none is
/// made, and all reasons are returned.
pub(crate) fn import(
    found: &Found<'_>,
    network: &str,
    now: Duration,
) -> Result<(Vec<Change>, Vec<Line>), Vec<String>> {
    let (mut changes, mut lines, mut conflicts) = (Vec::new(), Vec::new(), on_the_node(found));
    let mut pools: Vec<Pool> = found.pools.iter().map(|spec| Pool::new(spec, Duration::ZERO)).collect();
    for (attachment, addresses) in attachments(found.entries, network) {
        let pod = found.pods.get(&(attachment.container_id.clone(), attachment.ifname.clone())).cloned();
        let homes = addresses.iter().filter_map(|address| found.namespaces.pods.get(address));
        let netns = homes.clone().flatten().next().map(|path| path.display().to_string());
        let is_live = homes.count() > 0;
        let mut line = Line { addresses, attachment, pod, netns, fate: Fate::Moved };
        match standing(found.leases, &line) {
            Ok(true) => line.fate = Fate::Already,
            Ok(false) if !is_live => line.fate = Fate::Gone,
            Ok(false) => changes.extend(given(&line, &mut pools, now)),
            Err(reasons) => conflicts.extend(reasons),
        }
        lines.push(line);
    }
    if conflicts.is_empty() { Ok((changes, lines)) } else { Err(conflicts) }
}

/// Addresses that the node itself has and a pool would give to a pod. Above all, this is the address of the bridge that
/// the remaining pods use.
fn on_the_node(found: &Found<'_>) -> Vec<String> {
    let mut own: Vec<_> = found.namespaces.host.iter().copied().collect();
    own.sort_unstable();
    let mut conflicts = Vec::new();
    for spec in found.pools {
        let mut pool = Pool::new(spec, Duration::ZERO);
        let would_give = own.iter().filter(|address| pool.restore_given(**address));
        conflicts.extend(would_give.map(|address| {
            format!(
                "{address} is an address of this node, and the pool {:?} would give it to a pod: put it into the \
                 pool's `reserved` ([[ipam.pool]])",
                spec.name
            )
        }));
    }
    conflicts
}

/// The entries by attachment; IPv4 first.
fn attachments(entries: &[Entry], network: &str) -> BTreeMap<Attachment, Vec<IpAddr>> {
    let mut attachments: BTreeMap<Attachment, Vec<IpAddr>> = BTreeMap::new();
    for entry in entries {
        let attachment = Attachment {
            network: network.to_owned(),
            container_id: entry.container_id.clone(),
            ifname: entry.ifname.clone(),
        };
        attachments.entry(attachment).or_default().push(entry.address);
    }
    for addresses in attachments.values_mut() {
        addresses.sort_unstable();
    }
    attachments
}

/// Whether the lease exists already. If it must not be made, the reasons.
fn standing(leases: &[Lease], line: &Line) -> Result<bool, Vec<String>> {
    let mut conflicts = Vec::new();
    for lease in leases {
        let mut held: Vec<_> = lease.addresses.iter().map(IpNetwork::ip).collect();
        held.sort_unstable();
        if lease.attachment == line.attachment && held == line.addresses {
            return Ok(true);
        }
        let shared = held.iter().find(|address| line.addresses.contains(address));
        if lease.attachment == line.attachment {
            let held: Vec<_> = held.iter().map(ToString::to_string).collect();
            conflicts.push(format!("{}: has a lease of {} already", line.attachment, held.join(",")));
        } else if let Some(address) = shared {
            conflicts.push(format!("{address} of {} is leased to {}", line.attachment, lease.attachment));
        }
    }
    if conflicts.is_empty() { Ok(false) } else { Err(conflicts) }
}

fn given(line: &Line, pools: &mut [Pool], now: Duration) -> Vec<Change> {
    // An address outside of all pools gets a lease too. When the lease ends, nobody else gets the address.
    let owner = pools.iter_mut().find_map(|pool| {
        line.addresses.iter().any(|address| pool.restore_given(*address)).then(|| pool.name().to_owned())
    });
    let first = || pools.first().map_or_else(|| NO_POOL.to_owned(), |pool| pool.name().to_owned());
    let pool = owner.unwrap_or_else(first);
    let lease = Lease {
        attachment: line.attachment.clone(),
        addresses: line.addresses.iter().copied().map(IpNetwork::from).collect(),
        pool,
        pod: line.pod.clone(),
        netns: line.netns.clone(),
        given_at_boottime_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    };
    let forgotten = line.addresses.iter().copied().map(Change::Forgotten);
    forgotten.chain([Change::Given(Packed::new(&lease))]).collect()
}

/// What host-local's files have to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) write: Vec<Entry>,
    pub(crate) remove: Vec<IpAddr>,
    pub(crate) lines: Vec<Line>,
}

/// The files that say what the leases of `network` say. If no lease has an entry's address and no namespace has it, the
/// entry is removed: its pod ended under Ferrule.
pub(crate) fn export(leases: &[Lease], network: &str, entries: &[Entry], namespaces: &Namespaces) -> Files {
    let mut files = Files::default();
    let mut stale: BTreeMap<IpAddr, &Entry> = entries.iter().map(|entry| (entry.address, entry)).collect();
    for lease in leases.iter().filter(|lease| lease.attachment.network == network) {
        let Attachment { container_id, ifname, .. } = lease.attachment.clone();
        let addresses: Vec<_> = lease.addresses.iter().map(IpNetwork::ip).collect();
        let mut fate = Fate::Already;
        for &address in &addresses {
            let entry = Entry { address, container_id: container_id.clone(), ifname: ifname.clone() };
            if stale.remove(&address) != Some(&entry) {
                fate = Fate::Moved;
                files.write.push(entry);
            }
        }
        let (attachment, pod, netns) = (lease.attachment.clone(), lease.pod.clone(), lease.netns.clone());
        files.lines.push(Line { addresses, attachment, pod, netns, fate });
    }
    for entry in stale.into_values() {
        let fate = if namespaces.pods.contains_key(&entry.address) { Fate::Kept } else { Fate::Gone };
        if fate == Fate::Gone {
            files.remove.push(entry.address);
        }
        let attachment = Attachment {
            network: network.to_owned(),
            container_id: entry.container_id.clone(),
            ifname: entry.ifname.clone(),
        };
        files.lines.push(Line { addresses: vec![entry.address], attachment, pod: None, netns: None, fate });
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn entry(address: &str, container_id: &str) -> Entry {
        Entry { address: ip(address), container_id: container_id.into(), ifname: "eth0".into() }
    }

    fn namespaces(pods: &[&str], host: &[&str]) -> Namespaces {
        let path = |address: &IpAddr| Some(PathBuf::from(format!("/run/netns/{address}")));
        Namespaces {
            pods: pods.iter().map(|text| ip(text)).map(|address| (address, path(&address))).collect(),
            host: host.iter().map(|text| ip(text)).collect(),
        }
    }

    fn lease(container_id: &str, address: &str) -> Lease {
        let attachment =
            Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() };
        Lease {
            attachment,
            addresses: vec![IpNetwork::from(ip(address))],
            pool: "node".into(),
            pod: None,
            netns: None,
            given_at_boottime_ms: 0,
        }
    }

    fn spec() -> PoolSpec {
        let subnets = vec!["10.0.0.0/24".parse().unwrap()];
        PoolSpec { name: "node".into(), subnets, ..PoolSpec::default() }
    }

    fn import_of(
        entries: &[Entry],
        namespaces: &Namespaces,
        leases: &[Lease],
    ) -> Result<(Vec<Lease>, Vec<Fate>), Vec<String>> {
        let found = Found { entries, pods: HashMap::new(), namespaces, leases, pools: &[spec()] };
        let (changes, lines) = import(&found, "pods", Duration::from_secs(1))?;
        let given = changes.into_iter().filter_map(|change| match change {
            Change::Given(lease) => Some(lease.open()),
            _ => None,
        });
        Ok((given.collect(), lines.into_iter().map(|line| line.fate).collect()))
    }

    #[test]
    fn both_families_of_a_pod_are_one_lease_and_addresses_outside_the_pools_are_taken_over_too() {
        let entries = [entry("10.0.0.2", "a"), entry("192.0.2.7", "b"), entry("fd00::2", "a")];
        let live = namespaces(&["10.0.0.2", "fd00::2", "192.0.2.7"], &["192.0.2.1"]);
        let (given, _) = import_of(&entries, &live, &[]).unwrap();
        let addresses: Vec<Vec<String>> =
            given.iter().map(|lease| lease.addresses.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(addresses, [vec!["10.0.0.2/32", "fd00::2/128"], vec!["192.0.2.7/32"]]);
        assert!(given.iter().all(|lease| lease.pool == "node" && lease.netns.is_some()));
    }

    #[test]
    fn what_is_leased_already_stays_what_is_gone_is_left_out() {
        let entries = [entry("10.0.0.2", "a"), entry("10.0.0.3", "b"), entry("10.0.0.4", "c")];
        let live = namespaces(&["10.0.0.2", "10.0.0.4"], &[]);
        let (given, fates) = import_of(&entries, &live, &[lease("a", "10.0.0.2")]).unwrap();
        assert_eq!(given.len(), 1);
        assert_eq!(fates, [Fate::Already, Fate::Gone, Fate::Moved]);
    }

    #[test]
    fn every_conflict_is_named_and_nothing_is_taken_over() {
        let entries = [entry("10.0.0.2", "a"), entry("10.0.0.3", "b"), entry("10.0.0.4", "c")];
        let live = namespaces(&["10.0.0.2", "10.0.0.3", "10.0.0.4"], &["10.0.0.1", "127.0.0.1"]);
        let leases = [lease("a", "10.0.0.9"), lease("z", "10.0.0.3")];
        let conflicts = import_of(&entries, &live, &leases).unwrap_err();
        let expected = [
            "10.0.0.1 is an address of this node",
            "pods/a/eth0: has a lease of 10.0.0.9 already",
            "10.0.0.3 of pods/b/eth0 is leased to pods/z/eth0",
        ];
        assert_eq!(conflicts.len(), expected.len(), "{conflicts:?}");
        for (conflict, begin) in conflicts.iter().zip(expected) {
            assert!(conflict.starts_with(begin), "{conflict}");
        }
    }

    #[test]
    fn files_follow_the_leases_of_the_network_and_none_of_a_living_pod_is_removed() {
        let entries = [
            entry("10.0.0.2", "a"),
            entry("10.0.0.3", "old"),
            entry("10.0.0.4", "gone"),
            entry("10.0.0.5", "live"),
        ];
        let mut other = lease("x", "10.0.0.8");
        other.attachment.network = "other".into();
        let leases = [lease("a", "10.0.0.2"), lease("b", "10.0.0.3"), lease("c", "10.0.0.7"), other];
        let files = export(&leases, "pods", &entries, &namespaces(&["10.0.0.5"], &[]));
        assert_eq!(files.write, [entry("10.0.0.3", "b"), entry("10.0.0.7", "c")]);
        assert_eq!(files.remove, [ip("10.0.0.4")]);
        let fates: Vec<_> = files.lines.into_iter().map(|line| line.fate).collect();
        assert_eq!(fates, [Fate::Already, Fate::Moved, Fate::Moved, Fate::Gone, Fate::Kept]);
    }
}
