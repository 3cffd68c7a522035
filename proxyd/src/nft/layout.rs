//! What the kernel holds for one frontend.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ferrule_model::{Element, Family, IpNetwork, Value, last_address, network_address};

use super::place::place;
use super::script::{REFUSE, hash_chain, pick_chain, remember_chain};
use super::sets::{
    ENDPOINTS, INSIDE, NODE_ENDPOINTS, NODE_INSIDE, NODE_SERVICES, NODE_STICKY, NODE_UNSERVED, Pair,
    RESTRICTED, SERVICES, SLOTS, SOURCES, STICKY, UNSERVED, address_bytes, endpoint_bytes, key_bytes,
};
use super::shared::SharedElement;
use crate::decide::{Backend, Backends, Frontend, Key, Kind, Place};

/// `NF_DROP` and `NF_ACCEPT`.
const DROP: Value = Value::Verdict(0);
const ACCEPT: Value = Value::Verdict(1);

/// A frontend with a slot for each backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Which frontend it is.
    pub key: Key,
    /// Whose it is. Shown by `nft list`.
    pub owner: Box<str>,
    /// For clients outside.
    pub outside: View,
    /// For the node itself and its pods, if that is something else.
    pub inside: Option<View>,
    /// How many seconds a client stays with its endpoint, if it stays at all.
    pub affinity: Option<NonZeroU32>,
    /// The networks whose clients are let in, if not all are. None overlaps another one.
    pub sources: Option<Box<[IpNetwork]>>,
    /// Whether the address is a cluster IP.
    pub is_cluster_ip: bool,
}

/// What happens with the packets of one kind of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// They go to one of these; each has the slot of its place. There is at least one.
    To(Box<[Backend]>),
    /// They are refused.
    Refuse,
    /// They are dropped.
    Drop,
}

/// For which kind of clients an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Those outside, or all.
    Outside,
    /// The node itself and its pods.
    Inside,
}

/// The endpoints in the slots that a frontend had before, for clients outside and inside. A slot may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(pub [Vec<Option<(IpAddr, NonZeroU16)>>; 2]);

impl View {
    fn of(backends: &Backends, before: &[Option<(IpAddr, NonZeroU16)>]) -> Self {
        match backends {
            Backends::To(backends) => Self::To(place(before, backends)),
            Backends::Refuse => Self::Refuse,
            Backends::Drop => Self::Drop,
        }
    }

    /// The endpoints.
    pub fn backends(&self) -> &[Backend] {
        match self {
            Self::To(backends) => backends,
            Self::Refuse | Self::Drop => &[],
        }
    }

    fn slots(&self) -> Vec<Option<(IpAddr, NonZeroU16)>> {
        self.backends().iter().map(|backend| Some((backend.address, backend.port))).collect()
    }
}

impl Layout {
    /// The layout of this frontend. Backends that had a slot `before` keep it where they can.
    pub fn of(frontend: &Frontend, before: &Slots) -> Self {
        let Slots([outside, inside]) = before;
        let differs = frontend.from_inside != frontend.from_outside;
        Self {
            key: frontend.key,
            owner: frontend.port.to_string().into(),
            outside: View::of(&frontend.from_outside, outside),
            inside: differs.then(|| View::of(&frontend.from_inside, inside)),
            affinity: frontend.affinity,
            sources: frontend.sources.as_ref().map(|sources| ferrule_model::merged(sources.clone()).into()),
            is_cluster_ip: frontend.kind == Kind::ClusterIp,
        }
    }

    /// Which slots its backends have.
    pub fn slots(&self) -> Slots {
        Slots([self.outside.slots(), self.inside.as_ref().map(View::slots).unwrap_or_default()])
    }

    /// The endpoints of all clients.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.outside.backends().iter().chain(self.inside.iter().flat_map(View::backends))
    }

    /// The view of these clients, if they have one of their own.
    pub fn view(&self, clients: Clients) -> Option<&View> {
        match clients {
            Clients::Outside => Some(&self.outside),
            Clients::Inside => self.inside.as_ref(),
        }
    }

    /// All elements that belong to this frontend alone.
    pub fn elements(&self) -> Vec<Element> {
        let mut elements = self.endpoints();
        elements.extend(self.heads());
        elements
    }

    /// The elements of the slots.
    pub fn endpoints(&self) -> Vec<Element> {
        let mut elements = Vec::new();
        for clients in [Clients::Outside, Clients::Inside] {
            let backends = self.view(clients).map(View::backends).unwrap_or_default();
            elements.extend((0..).zip(backends).map(|(slot, backend)| self.endpoint(clients, slot, backend)));
        }
        elements
    }

    /// The element of one slot.
    pub fn endpoint(&self, clients: Clients, slot: u32, backend: &Backend) -> Element {
        let first = if clients == Clients::Inside { SLOTS } else { 0 };
        let mut key = key_bytes(&self.key);
        // The kernel draws the number as a register of its own (`nft_ng_random`), so it has the machine's byte order.
        key.extend((first + slot).to_ne_bytes());
        let value = Value::Data(endpoint_bytes(backend.address, backend.port));
        Element::of_map(self.set(ENDPOINTS, NODE_ENDPOINTS), key, value, String::new())
    }

    /// The elements that lead to the slots, and all others but those of the slots.
    pub fn heads(&self) -> Vec<Element> {
        let mut heads = Vec::new();
        let mut head = |set, value| {
            heads.push(Element::of_map(set, key_bytes(&self.key), value, self.owner.to_string()));
        };
        if let Some(value) = self.pick(Clients::Outside) {
            head(self.set(SERVICES, NODE_SERVICES), value);
        }
        if let Some(inside) = &self.inside {
            let value = self.pick(Clients::Inside).unwrap_or(ACCEPT);
            head(self.set(INSIDE, NODE_INSIDE), value);
            // They are left untranslated above, and meet this one.
            if let (View::To(_), Some(value)) = (&self.outside, unserved(inside)) {
                head(self.set(UNSERVED, NODE_UNSERVED), value);
            }
        }
        if let Some(value) = unserved(&self.outside) {
            head(self.set(UNSERVED, NODE_UNSERVED), value);
        }
        if let Some(affinity) = self.time() {
            head(self.set(STICKY, NODE_STICKY), Value::Goto(remember_chain(affinity)));
        }
        heads.extend(self.restriction());
        heads
    }

    /// What it needs that other frontends may need as well.
    pub fn shared(&self) -> Vec<SharedElement> {
        let mut shared = Vec::new();
        if let (true, Place::Address(address)) = (self.is_cluster_ip, self.key.place) {
            shared.push(SharedElement::ClusterIp(address));
        }
        let local = self.backends().filter(|backend| backend.is_local);
        shared.extend(local.map(|backend| SharedElement::Local(backend.address)));
        shared.sort_unstable();
        shared.dedup();
        shared
    }

    /// The time for which the kernel remembers the endpoint of a client.
    pub fn time(&self) -> Option<NonZeroU32> {
        self.affinity.filter(|_| self.family() == Family::V4 && self.backends().next().is_some())
    }

    /// Whether a client stays with its endpoint by its address.
    pub fn has_hash(&self) -> bool {
        self.affinity.is_some() && self.family() == Family::V6 && self.backends().next().is_some()
    }

    fn pick(&self, clients: Clients) -> Option<Value> {
        let count = self.view(clients)?.backends().len();
        let is_node = matches!(self.key.place, Place::Node(_));
        let chain = if self.has_hash() && count > 1 { hash_chain } else { pick_chain };
        (count > 0).then(|| Value::Goto(chain(is_node, clients, count)))
    }

    fn restriction(&self) -> Vec<Element> {
        let (Some(sources), Place::Address(_)) = (&self.sources, self.key.place) else { return Vec::new() };
        let key = key_bytes(&self.key);
        let of = |address: IpAddr| [key.clone(), address_bytes(address)].concat();
        let family = self.family();
        let mut elements = vec![Element::of_set(RESTRICTED.of(family), key.clone(), self.owner.to_string())];
        elements.extend(sources.iter().filter(|network| ferrule_model::family(network) == family).map(
            |network| Element {
                end: of(last_address(network)),
                ..Element::of_set(SOURCES.of(family), of(network_address(network)), String::new())
            },
        ));
        elements
    }

    const fn set(&self, of_address: Pair, of_node: Pair) -> &'static str {
        match self.key.place {
            Place::Address(_) => of_address.of(self.family()),
            Place::Node(family) => of_node.of(family),
        }
    }

    const fn family(&self) -> Family {
        self.key.place.family()
    }
}

fn unserved(view: &View) -> Option<Value> {
    match view {
        View::To(_) => None,
        View::Refuse => Some(Value::Goto(REFUSE.to_owned())),
        View::Drop => Some(DROP),
    }
}
