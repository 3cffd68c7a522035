//! The seam between the programs and a kernel, real or fake.

use std::collections::BTreeMap;

use ferrule_model::{
    Address, AddressKey, FdbEntry, FdbKey, IfIndex, IfName, Link, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Op, PolicyRule, Route, RouteKey, RouteKind, VethSpec, Via,
};

use crate::{Error, Path, Refusal, Routes};

/// One network namespace of a kernel.
///
/// An error means that it is not known what happened (a broken socket, a passed deadline). A [`Refusal`] means that the
/// kernel said no to one request, and that nothing of it was done.
pub trait Kernel {
    /// The type that names another network namespace, in which a link is to be made.
    type Netns;

    /// Carries out `ops` in their order, in as few messages to the kernel as possible. Returns one result for each. A
    /// refused op does not stop those behind it: there is no atomicity, and the caller decides what a refusal means.
    ///
    /// # Errors
    /// The socket failed; then any number of the first ops may have been done.
    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error>;

    /// Makes a veth pair in one request: the host's end here, the pod's end in `pod`, both off. Returns the host's end
    /// as it is then; its [`Link::peer`] is the index of the pod's end. The host's end gets only the IPv6 addresses
    /// that it is given.
    ///
    /// # Errors
    /// `EEXIST` if one of the two names is taken in its own namespace. After a refusal there is no pair; a link that
    /// had the host's name before has the new alias.
    fn create_veth(&mut self, spec: &VethSpec, pod: &Self::Netns) -> Result<Link, Error>;

    /// Deletes a link, and a veth's other end with it. Returns when neither can be observed any more. Returns the link
    /// as it was; `None` if there was no link of this name.
    ///
    /// # Errors
    /// The kernel refused, or the socket failed.
    fn delete_link(&mut self, name: &IfName) -> Result<Option<Link>, Error>;

    /// The link of this name, without listing all.
    ///
    /// # Errors
    /// The socket failed.
    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error>;

    /// The route of the main table that a packet to `dst` would match, with its key, without listing all.
    ///
    /// # Errors
    /// The socket failed. No route is `None`, and so is one that [`Route`] cannot express.
    fn route_match(&mut self, dst: std::net::IpAddr) -> Result<Option<(RouteKey, Route)>, Error>;

    /// How a packet to `dst` would leave if it were sent now. If the route has several next hops, the one for this
    /// destination.
    ///
    /// # Errors
    /// The socket failed.
    fn way_to(&mut self, dst: std::net::IpAddr) -> Result<Option<Path>, Error> {
        Ok(self.route_match(dst)?.and_then(|(_, route)| match route.kind {
            RouteKind::Unicast(Via::Gateway { link, address, .. }) => {
                Some(Path { link, gateway: Some(address), source: route.source })
            }
            RouteKind::Unicast(Via::Link(link)) => Some(Path { link, gateway: None, source: route.source }),
            RouteKind::Unicast(Via::Nexthop(_)) | RouteKind::Unreachable => None,
        }))
    }

    /// One neighbour, without listing all.
    ///
    /// # Errors
    /// The socket failed.
    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error>;

    /// All links.
    ///
    /// # Errors
    /// The socket failed.
    fn links(&mut self) -> Result<Vec<Link>, Error>;

    /// The addresses of `link`, including the kernel's own link-local ones.
    ///
    /// # Errors
    /// The socket failed.
    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error>;

    /// The routes of all tables with this `rtm_protocol`. Those that [`Route`] cannot express are left out.
    ///
    /// # Errors
    /// The socket failed.
    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error>;

    /// All routes, in one pass over the kernel's list.
    ///
    /// Routes with this protocol are returned as by `routes`, with one exception. As long as the list agrees with the
    /// beginning of `known`, routes are only counted, so an unchanged list costs no building. If the kernel lists them
    /// in another order, known routes may also be among the others.
    ///
    /// Of other programs' routes, those whose key `matters` are returned, of whatever kind, in the kernel's order. Left
    /// out are routes that apply only to packets of some source or type of service, routes whose link is off, and the
    /// table of the node's own addresses.
    ///
    /// # Errors
    /// The socket failed.
    fn all_routes(
        &mut self,
        protocol: u8,
        known: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error>;

    /// The policy rules of both families, those of each family in the order in which they are asked.
    ///
    /// # Errors
    /// The socket failed.
    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error>;

    /// All nexthop objects, including other programs', because all share their numbers. Those that [`Nexthop`] cannot
    /// express, such as groups and blackholes, are `None`.
    ///
    /// # Errors
    /// The socket failed.
    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error>;

    /// The same, but those that agree with the beginning of `known` are only counted, as with routes.
    ///
    /// # Errors
    /// The socket failed.
    fn nexthops_beyond(
        &mut self,
        known: &BTreeMap<NexthopId, Nexthop>,
    ) -> Result<(usize, BTreeMap<NexthopId, Option<Nexthop>>), Error> {
        let _ = known;
        Ok((0, self.nexthops()?))
    }

    /// One nexthop object, without listing all: `None` if there is none or [`Nexthop`] cannot express it.
    ///
    /// # Errors
    /// The socket failed.
    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error>;

    /// The permanent neighbours on `link`.
    ///
    /// # Errors
    /// The socket failed.
    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error>;

    /// One FDB entry of a VXLAN device, without listing all.
    ///
    /// # Errors
    /// The socket failed.
    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error>;

    /// The unicast FDB entries of the VXLAN device `link`.
    ///
    /// # Errors
    /// The socket failed.
    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error>;
}
