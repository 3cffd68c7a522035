//! Elements that several frontends need: they come with the first of them and go with the last.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ferrule_model::{Element, Family};

use super::layout::Layout;
use super::sets::{CLUSTER_IPS, LOCAL, address_bytes};

/// An element that several frontends may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SharedElement {
    /// The address is a cluster IP.
    ClusterIp(IpAddr),
    /// The address is that of an endpoint on this node.
    Local(IpAddr),
}

impl SharedElement {
    /// The element.
    pub fn element(self) -> Element {
        let (set, address, key) = match self {
            Self::ClusterIp(address) => (CLUSTER_IPS, address, address_bytes(address)),
            Self::Local(address) => (LOCAL, address, address_bytes(address).repeat(2)),
        };
        Element::of_set(set.of(Family::of(address)), key, String::new())
    }
}

/// How many layouts need each of them, and which ones the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    needed: HashMap<SharedElement, usize>,
    there: HashSet<SharedElement>,
    /// Those whose need has changed since the last look.
    touched: HashSet<SharedElement>,
}

impl Shared {
    /// These layouts need theirs.
    pub fn need(&mut self, layouts: &[Layout]) {
        for element in layouts.iter().flat_map(Layout::shared) {
            *self.needed.entry(element).or_default() += 1;
            self.touched.insert(element);
        }
    }

    /// These layouts no longer need theirs.
    pub fn release(&mut self, layouts: &[Layout]) {
        for element in layouts.iter().flat_map(Layout::shared) {
            if let Some(count) = self.needed.get_mut(&element) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&element);
                }
            }
            self.touched.insert(element);
        }
    }

    /// Those that are needed and not there. From now on they count as there.
    pub fn take_missing(&mut self) -> Vec<SharedElement> {
        let (needed, there) = (&self.needed, &mut self.there);
        let missing = self.touched.iter().filter(|element| needed.contains_key(element));
        missing.copied().filter(|element| there.insert(*element)).collect()
    }

    /// Those that are there and not needed. From now on they count as gone.
    pub fn take_stale(&mut self) -> Vec<SharedElement> {
        let touched = std::mem::take(&mut self.touched);
        let stale = touched.into_iter().filter(|element| !self.needed.contains_key(element));
        stale.filter(|element| self.there.remove(element)).collect()
    }

    /// These are still there.
    pub fn put_back(&mut self, stale: Vec<SharedElement>) {
        self.touched.extend(stale.iter().copied());
        self.there.extend(stale);
    }

    /// All that are needed. From now on all of them, and no others, count as there.
    pub fn take_all(&mut self) -> Vec<SharedElement> {
        self.touched.clear();
        self.there = self.needed.keys().copied().collect();
        self.there.iter().copied().collect()
    }
}

/// Their elements.
pub fn elements(shared: &[SharedElement]) -> Vec<Element> {
    shared.iter().map(|shared| shared.element()).collect()
}
