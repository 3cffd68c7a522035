//! The addresses that a namespace takes packets for, each with what it is on. [`Places`] is the seam: [`Netlink`] on the real
//! kernel, [`FakeKernel`] on maps.

mod own;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_model::{Family, IfIndex, LinkKind};

use crate::fake::FakeKernel;
use crate::{Error, Kernel, Netlink, decode, encode};

pub use own::nodes_own;

/// Far away from any node: networks for documentation (RFC 5737, RFC 3849), which have no route but the default one.
pub const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1)),
];

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// What the link is.
    pub kind: LinkKind,
    /// Whether it is the source of what leaves by the default route.
    pub is_source: bool,
}

/// Addresses of one network namespace.
pub trait Places {
    /// All of them, of all links.
    ///
    /// # Errors
    /// The socket failed.
    fn places(&mut self) -> Result<Vec<Place>, Error>;
}

impl Places for Netlink {
    fn places(&mut self) -> Result<Vec<Place>, Error> {
        let mut sources = Vec::new();
        for far in FAR {
            sources.extend(self.path_to(far)?.and_then(|path| path.source));
        }
        let kinds: BTreeMap<_, _> = self.links()?.into_iter().map(|link| (link.index, link.kind)).collect();
        // No link's number asks for all links.
        let found = self.list(&encode::addresses_of(IfIndex(0)), decode::address)?;
        let place = |(key, _): (ferrule_model::AddressKey, _)| {
            let address = key.prefix.ip();
            // A link that came meanwhile is not known yet; the next look knows it.
            let kind = kinds.get(&key.link)?.clone();
            Some(Place { address, kind, is_source: sources.contains(&address) })
        };
        Ok(found.into_iter().filter_map(place).collect())
    }
}

/// On the fake the first address of a family is the source, if there is a default route.
impl Places for FakeKernel {
    fn places(&mut self) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        for link in self.links()? {
            for key in self.addresses(link.index)?.into_keys() {
                places.push(Place { address: key.prefix.ip(), kind: link.kind.clone(), is_source: false });
            }
        }
        for far in FAR {
            let same = |place: &&mut Place| Family::of(place.address) == Family::of(far);
            if self.route_match(far)?.is_some()
                && let Some(place) = places.iter_mut().find(same)
            {
                place.is_source = true;
            }
        }
        Ok(places)
    }
}
