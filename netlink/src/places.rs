//! The addresses to which a namespace accepts packets, each with the link that has it. [`Places`] is the seam:
//! [`Netlink`] on the real kernel, [`FakeKernel`] on maps.

mod own;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_model::{Family, IfIndex, LinkKind};

use crate::fake::FakeKernel;
use crate::{Error, Kernel, Netlink, decode, encode};

pub use own::nodes_own;

/// Addresses far away from any node: in networks for documentation (RFC 5737, RFC 3849), to which only the default
/// route leads.
pub const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1)),
];

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The kind of the link.
    pub kind: LinkKind,
    /// Whether packets that leave by the default route have it as their source.
    pub is_source: bool,
}

/// Addresses of one network namespace.
pub trait Places {
    /// All addresses of all links.
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
        // The number 0, which no link has, asks for all links.
        let found = self.list(&encode::addresses_of(IfIndex(0)), decode::address)?;
        let place = |(key, _): (ferrule_model::AddressKey, _)| {
            let address = key.prefix.ip();
            // The link came after the links were listed. The next look will know it.
            let kind = kinds.get(&key.link)?.clone();
            Some(Place { address, kind, is_source: sources.contains(&address) })
        };
        Ok(found.into_iter().filter_map(place).collect())
    }
}

/// On the fake, the first address of a family is the source if there is a default route.
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
