//! Keeps the elements of the guard's table for bridges: what each port may send under
//! ([`crate::decide::bridge_ports`]). The table itself is kept by [`super::guard`].

use std::collections::{BTreeMap, BTreeSet};

use ferrule_model::{Element, HostSide, IfName, Owner};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, Netfilter};

use crate::decide::bridge_guard::SETS;
use crate::decide::bridge_ports::elements;
use crate::decide::guard::TABLE;

/// The elements as they were put into the kernel.
#[derive(Debug, Default)]
pub(super) struct BridgePorts {
    put: BTreeMap<IfName, Vec<Element>>,
    /// The generation of the rulesets in which all was found right. While it stays the same, nobody has changed any
    /// ruleset.
    right_in: Option<u32>,
}

impl BridgePorts {
    /// Puts the elements of one pod, which is new or was added again.
    ///
    /// # Errors
    /// The kernel refused, for instance because the table is missing. [`BridgePorts::keep`] puts everything right.
    pub(super) fn add(&mut self, netfilter: &mut impl Netfilter, made: &HostSide) -> Result<(), Error> {
        let wanted = elements(made);
        let before = self.put.get(&made.link()).map_or(&[][..], Vec::as_slice);
        let outdated: Vec<_> = before.iter().filter(|element| !wanted.contains(element)).collect();
        let missing: Vec<_> = wanted.iter().filter(|element| !before.contains(element)).collect();
        change(netfilter, &outdated, &missing)?;
        self.remember(made.link(), wanted);
        Ok(())
    }

    /// Takes the elements of a pod whose link is gone.
    ///
    /// # Errors
    /// The kernel refused. [`BridgePorts::keep`] puts everything right.
    pub(super) fn remove(&mut self, netfilter: &mut impl Netfilter, port: &IfName) -> Result<(), Error> {
        let Some(outdated) = self.put.remove(port) else { return Ok(()) };
        self.right_in = None;
        change(netfilter, &outdated.iter().collect::<Vec<_>>(), &[])
    }

    /// Makes the elements those of these pods, which must be all there are. An element of another port stays while its
    /// link `is_there`: its DEL has begun, and until it ends nothing may be sent under another's address. Returns
    /// whether something was missing that had been put before.
    ///
    /// # Errors
    /// The kernel refused, or did not answer.
    pub(super) fn keep(
        &mut self,
        netfilter: &mut impl Netfilter,
        pods: &[HostSide],
        mut is_there: impl FnMut(&IfName) -> bool,
    ) -> Result<bool, Error> {
        let wanted = wanted(pods);
        let generation = netfilter.generation()?;
        if self.right_in.take() == Some(generation) && self.put == wanted {
            self.right_in = Some(generation);
            return Ok(false);
        }
        let mut found = BTreeSet::new();
        for (set, _) in SETS {
            found.extend(netfilter.elements(TABLE, set)?);
        }
        let all: BTreeSet<_> = wanted.values().flatten().collect();
        let missing: Vec<_> = all.iter().copied().filter(|element| !found.contains(*element)).collect();
        let mut leaves = |element: &Element| {
            let port = Owner::read(&element.comment).and_then(|owner| owner.veth());
            port.is_none_or(|port| wanted.contains_key(&port) || !is_there(&port))
        };
        let outdated: Vec<_> =
            found.iter().filter(|element| !all.contains(element) && leaves(element)).collect();
        let were_there = self.put.values().flatten().collect::<BTreeSet<_>>();
        let was_changed = missing.iter().any(|element| were_there.contains(element));
        change(netfilter, &outdated, &missing)?;
        if missing.is_empty() && outdated.is_empty() {
            self.right_in = Some(generation);
        }
        self.put = wanted;
        Ok(was_changed)
    }

    fn remember(&mut self, port: IfName, wanted: Vec<Element>) {
        if wanted.is_empty() {
            self.put.remove(&port);
        } else {
            self.put.insert(port, wanted);
        }
    }
}

/// The elements of all pods by their ports. If two pods of different networks have the same address, the element that
/// both need is the first one's.
fn wanted(pods: &[HostSide]) -> BTreeMap<IfName, Vec<Element>> {
    let mut taken = BTreeSet::new();
    let mut all = BTreeMap::new();
    for made in pods {
        let mut of_pod = elements(made);
        of_pod.retain(|element| taken.insert((element.set, element.key.clone())));
        if !of_pod.is_empty() {
            all.insert(made.link(), of_pod);
        }
    }
    all
}

/// One transaction. What goes is deleted first, because another owner's element may have the same key.
fn change(netfilter: &mut impl Netfilter, outdated: &[&Element], missing: &[&Element]) -> Result<(), Error> {
    let deleted = outdated.iter().map(|element| Change::Delete(element));
    let changes: Vec<_> = deleted.chain(missing.iter().map(|element| Change::Add(element))).collect();
    if changes.is_empty() { Ok(()) } else { netfilter.change(TABLE, &changes, None) }
}
