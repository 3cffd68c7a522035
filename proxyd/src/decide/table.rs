//! All that the sources have told: Services, their EndpointSlices, and this node.
//!
//! News say which Services they affect, and each of those is worked out by itself. So a change costs what its own
//! Service costs, however many others there are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::addresses::{Rules, Wanted, is_left_alone, wanted};
use super::claims::{Claim, Claims};
use super::served::{Served, Whole, keys};
use super::shared::Shared;
use super::{Complaint, EndpointSlice, Hints, News, NodeFacts, Service, ServiceName, SliceName};

/// The Services that some news affect.
pub type Affected = BTreeSet<Arc<ServiceName>>;

/// The state of all Services on this node.
#[derive(Debug)]
pub struct Table {
    rules: Rules,
    node: NodeFacts,
    entries: HashMap<Arc<ServiceName>, Entry>,
    /// Whose each slice is.
    owners: HashMap<SliceName, Arc<ServiceName>>,
    claims: Claims,
    texts: Shared<str>,
    hints: Shared<Hints>,
    has_services: bool,
    has_slices: bool,
}

/// A Service, or the slices of one that is not known yet.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// Sorted by name.
    slices: Vec<EndpointSlice>,
}

impl Table {
    /// An empty table, on the node of this name.
    pub fn new(rules: Rules, node: NodeFacts) -> Self {
        Self {
            rules,
            node,
            entries: HashMap::new(),
            owners: HashMap::new(),
            claims: Claims::default(),
            texts: Shared::default(),
            hints: Shared::default(),
            has_services: false,
            has_slices: false,
        }
    }

    /// Whether all Services and all slices have been listed at least once. Before that the kernel is not to be changed:
    /// Services whose slices are not known yet look as if they had no endpoints.
    pub const fn is_complete(&self) -> bool {
        self.has_services && self.has_slices
    }

    /// This node.
    pub const fn node(&self) -> &NodeFacts {
        &self.node
    }

    /// The names of all Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceName>> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// Takes news in. Returns the Services for which [`Table::served`] may say something else than before.
    pub fn take(&mut self, news: News) -> Affected {
        let mut affected = Affected::new();
        match news {
            News::Services(all) => self.replace_services(all, &mut affected),
            News::PutService(service) => self.put_service(service, &mut affected),
            News::DeleteService(name) => self.delete_service(&name, &mut affected),
            News::Slices(all) => self.replace_slices(all, &mut affected),
            News::PutSlice(slice) => self.put_slice(slice, &mut affected),
            News::DeleteSlice(name) => self.delete_slice(&name, &mut affected),
            News::Node(node) => self.put_node(node, &mut affected),
        }
        affected
    }

    /// What the Service comes to on this node; nothing if there is no such Service.
    pub fn served(&self, name: &ServiceName) -> Served {
        let Some(Entry { service: Some(service), slices }) = self.entries.get(name) else {
            return Served::default();
        };
        let mut complaints = Vec::new();
        let mut got = wanted(service, &self.rules, &mut complaints);
        got.retain(|wanted| self.has_got(wanted, name, &mut complaints));
        Whole { service, slices, node: &self.node }.served(&got, complaints)
    }

    fn has_got(&self, wanted: &Wanted<'_>, name: &ServiceName, complaints: &mut Vec<Complaint>) -> bool {
        match self.claims.holder(&wanted.key) {
            Some(holder) if **holder != *name => {
                complaints.push(Complaint::Taken { key: wanted.key, holder: (**holder).clone() });
                false
            }
            _ => true,
        }
    }

    fn replace_services(&mut self, all: Vec<Service>, affected: &mut Affected) {
        self.has_services = true;
        let stay: HashSet<_> = all.iter().map(|service| Arc::clone(&service.name)).collect();
        let gone: Vec<_> = self.services().filter(|name| !stay.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.delete_service(name, affected));
        all.into_iter().for_each(|service| self.put_service(service, affected));
    }

    fn put_service(&mut self, mut service: Service, affected: &mut Affected) {
        self.share_service(&mut service);
        let (name, created_s) = (Arc::clone(&service.name), service.created_s);
        let before = self.entries.get(&name).and_then(|entry| entry.service.as_deref());
        if before == Some(&service) {
            return;
        }
        self.withdraw(&name, affected);
        for key in keys(&wanted(&service, &self.rules, &mut Vec::new())) {
            self.claims.add(key, Claim { created_s, name: Arc::clone(&name) }, affected);
        }
        self.entries.entry(Arc::clone(&name)).or_default().service = Some(Box::new(service));
        affected.insert(name);
    }

    fn delete_service(&mut self, name: &ServiceName, affected: &mut Affected) {
        self.withdraw(name, affected);
        let Some(entry) = self.entries.get_mut(name) else { return };
        if let Some(service) = entry.service.take() {
            affected.insert(service.name);
        }
        self.drop_if_empty(name);
    }

    /// Takes back all claims of the Service.
    fn withdraw(&mut self, name: &ServiceName, affected: &mut Affected) {
        let Some(service) = self.entries.get(name).and_then(|entry| entry.service.as_deref()) else { return };
        let claim = Claim { created_s: service.created_s, name: Arc::clone(&service.name) };
        for key in keys(&wanted(service, &self.rules, &mut Vec::new())) {
            self.claims.remove(key, &claim, affected);
        }
    }

    fn replace_slices(&mut self, all: Vec<EndpointSlice>, affected: &mut Affected) {
        self.has_slices = true;
        let stay: HashSet<_> = all.iter().map(|slice| slice.name.clone()).collect();
        let gone: Vec<_> = self.owners.keys().filter(|name| !stay.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.delete_slice(name, affected));
        all.into_iter().for_each(|slice| self.put_slice(slice, affected));
    }

    fn put_slice(&mut self, mut slice: EndpointSlice, affected: &mut Affected) {
        self.share_slice(&mut slice);
        // Somebody may have given the slice to another Service.
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.delete_slice(&slice.name, affected);
        }
        let (name, service) = (slice.name.clone(), Arc::clone(&slice.service));
        let entry = self.entries.entry(Arc::clone(&service)).or_default();
        match entry.slices.binary_search_by(|known| known.name.cmp(&name)) {
            Ok(place) if entry.slices[place] == slice => return,
            Ok(place) => entry.slices[place] = slice,
            Err(place) => {
                entry.slices.reserve_exact(1);
                entry.slices.insert(place, slice);
            }
        }
        if entry.service.is_some() {
            affected.insert(Arc::clone(&service));
        }
        self.owners.insert(name, service);
    }

    fn delete_slice(&mut self, name: &SliceName, affected: &mut Affected) {
        let Some(service) = self.owners.remove(name) else { return };
        let Some(entry) = self.entries.get_mut(&service) else { return };
        entry.slices.retain(|slice| slice.name != *name);
        if entry.service.is_some() {
            affected.insert(Arc::clone(&service));
        }
        self.drop_if_empty(&service);
    }

    fn drop_if_empty(&mut self, name: &ServiceName) {
        let is_empty = |entry: &Entry| entry.service.is_none() && entry.slices.is_empty();
        if self.entries.get(name).is_some_and(is_empty) {
            self.entries.remove(name);
        }
    }

    /// The one kind of news that looks at every Service. It hardly ever changes what counts here.
    fn put_node(&mut self, node: NodeFacts, affected: &mut Affected) {
        let before = std::mem::replace(&mut self.node, node);
        let after = &self.node;
        let (name, zone) = (before.name != after.name, before.zone != after.zone);
        let addresses = before.addresses != after.addresses;
        if !(name || zone || addresses) {
            return;
        }
        let concerns = |entry: &Entry| {
            let mut hints =
                entry.slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|of| of.hints.as_ref());
            let has_ranges = entry.service.as_ref().is_some_and(|service| service.source_ranges.is_some());
            name || (addresses && has_ranges) || (zone && hints.any(|hints| !hints.zones.is_empty()))
        };
        let served = |entry: &Entry| entry.service.as_ref().is_some_and(|service| !is_left_alone(service));
        let concerned = self.entries.iter().filter(|(_, entry)| served(entry) && concerns(entry));
        affected.extend(concerned.map(|(name, _)| Arc::clone(name)));
    }

    fn share_service(&mut self, service: &mut Service) {
        if let Some((name, _)) = self.entries.get_key_value(&service.name) {
            service.name = Arc::clone(name);
        }
        service.ports.iter_mut().for_each(|port| self.texts.share(&mut port.name));
    }

    fn share_slice(&mut self, slice: &mut EndpointSlice) {
        if let Some((name, _)) = self.entries.get_key_value(&slice.service) {
            slice.service = Arc::clone(name);
        }
        if let Some((name, _)) = self.owners.get_key_value(&slice.name) {
            slice.name = name.clone();
        }
        self.texts.share(&mut slice.name.namespace);
        slice.ports.iter_mut().for_each(|port| self.texts.share(&mut port.name));
        for endpoint in &mut slice.endpoints {
            endpoint.node.iter_mut().for_each(|node| self.texts.share(node));
            if let Some(hints) = &mut endpoint.hints {
                self.hints.share(hints);
            }
        }
    }
}
