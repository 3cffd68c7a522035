//! [`Kernel`] on the real kernel.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::net::IpAddr;

use ferrule_model::{
    Address, AddressKey, Family, FdbEntry, FdbKey, IfIndex, IfName, Link, Neighbour, NeighbourKey, Nexthop,
    NexthopId, Op, PolicyRule, Route, RouteKey, VethSpec, ordinal, second_name,
};
use nix::errno::Errno;
use std::os::fd::AsFd;

use crate::decode::{self, Neigh};
use crate::lookup::Path;
use crate::netns::Netns;
use crate::socket::{Answers, Message, Request, Socket};
use crate::{Error, Kernel, Port, Refusal, Routes, delete, encode, foreign, link, local, wireguard};

/// A network namespace of the running kernel, by route netlink.
#[derive(Debug)]
pub struct Netlink {
    pub(crate) socket: Socket,
    /// The socket for WireGuard, which is opened when it is first needed.
    pub(crate) generic: Option<Socket>,
    /// Whether `socket` may be in another namespace than the calling thread's.
    pub(crate) elsewhere: bool,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, generic: None, elsewhere: false })
    }

    /// Opens a socket in the namespace `netns`. The calling thread is there only meanwhile.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the socket cannot be opened.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open_in(netns)?, generic: None, elsewhere: true })
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The port that identifies its own changes in the kernel's events.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn port(&self) -> Result<Port, Error> {
        self.socket.port()
    }

    /// How a packet to `dst` would leave; `None` if there is no route.
    ///
    /// # Errors
    /// The socket failed.
    pub fn path_to(&mut self, dst: IpAddr) -> Result<Option<Path>, Error> {
        let answer = self.one(encode::route_to(dst, false), format!("route get {dst}"));
        Ok(found(answer)?.and_then(|message| decode::path(&message.payload)))
    }

    /// Sends one request, and returns the message that answers it.
    pub(crate) fn one(&mut self, request: Request, name: String) -> Result<Option<Message>, Error> {
        let Answers { mut results, mut messages } = self.socket.batch(&[request])?;
        match results.pop() {
            Some(Err(refusal)) => Err(Error::Refused { request: name, refusal }),
            _ => Ok(messages.pop()),
        }
    }

    /// The same for something that may not exist.
    pub(crate) fn message_about(&mut self, request: Request, name: String) -> Result<Option<Message>, Error> {
        found(self.one(request, name))
    }

    /// Sends requests in one message. Each has to be granted.
    pub(crate) fn carry_out(&mut self, requests: &[Request], name: &str) -> Result<(), Error> {
        let refusal = self.socket.batch(requests)?.results.into_iter().find_map(Result::err);
        match refusal {
            Some(refusal) => Err(Error::Refused { request: name.to_owned(), refusal }),
            None => Ok(()),
        }
    }

    /// The messages of a list.
    pub(crate) fn list_raw(&mut self, request: &Request) -> Result<Vec<Message>, Error> {
        self.socket.dump(request)
    }

    /// Carries out ops that are all route netlink's.
    fn apply_routing(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let requests = ops.iter().flat_map(|op| encode::op(op).into_iter().chain(local::companion(op)));
        let mut results = self.socket.batch(requests)?.results.into_iter();
        let mut answer = || results.next().unwrap_or(Ok(()));
        let fold = |op| if local::has_companion(op) { local::folded(answer(), answer()) } else { answer() };
        Ok(ops.iter().map(fold).collect())
    }

    pub(crate) fn list<T>(
        &mut self,
        request: &Request,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.socket.dump_as(request, |part| decode(part.payload))
    }

    /// Lists objects. As long as they agree with what comes next in `known`, they are only counted, and `known` moves
    /// on.
    fn list_beyond<I: Iterator<Item: Clone> + Clone, T>(
        &mut self,
        request: &Request,
        known: &mut Peekable<I>,
        decode: impl Fn(&[u8]) -> Option<T>,
        is: impl Fn(&I::Item, &T) -> bool,
    ) -> Result<(usize, Vec<T>), Error> {
        let begin = || (known.clone(), 0, Vec::new());
        let (rest, met, beyond) = self.socket.dump_into(request, begin, |(known, met, beyond), part| {
            match decode(part.payload) {
                Some(found) if known.next_if(|next| is(next, &found)).is_some() => *met += 1,
                Some(found) => beyond.push(found),
                None => {}
            }
        })?;
        *known = rest;
        Ok((met, beyond))
    }
}

/// "Not there" is a valid answer to a lookup.
fn found<T>(answer: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) => match error.errno() {
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ESRCH) => {
                Ok(None)
            }
            _ => Err(error),
        },
        found => found,
    }
}

impl Kernel for Netlink {
    type Netns = Netns;

    fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut results = Vec::with_capacity(ops.len());
        for run in ops.chunk_by(|a, b| wireguard::concerns(a) == wireguard::concerns(b)) {
            results.extend(match run {
                [first, ..] if wireguard::concerns(first) => self.apply_wireguard(run)?,
                run => self.apply_routing(run)?,
            });
        }
        Ok(results)
    }

    /// The creation, the alias and the question for the result go out in one message, which is one round trip. If the
    /// alias were set on a link that is on, the kernel would walk through all IPv6 routes (`netdev_state_change`).
    fn create_veth(&mut self, spec: &VethSpec, pod: &Netns) -> Result<Link, Error> {
        // The host's end needs no address, because the pod has a permanent neighbour entry for it. An address would add
        // three IPv6 routes, and the kernel walks through those for each pod that comes or ends (`fib6_clean_all`).
        let mut requests = vec![link::veth(spec, pod.as_fd()), link::without_address(&spec.host_name)];
        requests.extend(second_name(&spec.host_name).map(|other| link::alternative(&spec.host_name, &other)));
        requests.extend(spec.alias.as_ref().map(|alias| link::alias(&spec.host_name, alias)));
        requests.push(link::named(&spec.host_name));
        let Answers { results, messages } = self.socket.batch(&requests)?;
        let refusals = results.into_iter().enumerate().filter_map(|(n, result)| Some((n, result.err()?)));
        // A node may lack IPv6, and before Linux 5.5 a link has only one name.
        let missing = [(1, Errno::EAFNOSUPPORT), (2, Errno::EOPNOTSUPP)];
        let mut refusals = refusals.filter(|(n, why)| !missing.contains(&(*n, why.errno)));
        let error = match refusals.next() {
            Some((n, refusal)) => {
                let error = Error::Refused { request: created(spec), refusal };
                if n == 0 {
                    return Err(error);
                }
                error
            }
            None => match messages.iter().find_map(|message| link::parse(&message.payload)) {
                Some(link) => return Ok(link),
                None => Error::Decode(format!("nothing about the link {} that was made", spec.host_name)),
            },
        };
        // The link was made, but not as asked.
        self.delete_link(&spec.host_name)?;
        Err(error)
    }

    fn delete_link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        let Some(link) = self.link(name)? else { return Ok(None) };
        let deleted = delete::link(&mut self.socket, link.index, name)?;
        Ok(deleted.then_some(link))
    }

    fn link(&mut self, name: &IfName) -> Result<Option<Link>, Error> {
        let answer = self.one(link::named(name), format!("link show {name}"));
        Ok(found(answer)?.and_then(|message| link::parse(&message.payload)))
    }

    fn route_match(&mut self, dst: IpAddr) -> Result<Option<(RouteKey, Route)>, Error> {
        let answer = self.one(encode::route_to(dst, true), format!("route get fibmatch {dst}"));
        Ok(found(answer)?.and_then(|message| decode::route(&message.payload)))
    }

    fn way_to(&mut self, dst: IpAddr) -> Result<Option<Path>, Error> {
        self.path_to(dst)
    }

    fn neighbour(&mut self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        let answer =
            self.one(encode::one_neighbour(&key), format!("neigh get {} dev {}", key.address, key.link));
        Ok(found(answer)?.and_then(|message| match decode::neigh(&message.payload)? {
            Neigh::Neighbour(_, neighbour) => Some(neighbour),
            Neigh::Fdb(..) => None,
        }))
    }

    fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.list(&link::all(), link::parse)
    }

    fn addresses(&mut self, link: IfIndex) -> Result<BTreeMap<AddressKey, Address>, Error> {
        let all = self.list(&encode::addresses_of(link), decode::address);
        match all {
            // The link of a strict dump is gone.
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(BTreeMap::new()),
            all => Ok(all?.into_iter().filter(|(key, _)| key.link == link).collect()),
        }
    }

    fn routes(&mut self, protocol: u8) -> Result<BTreeMap<RouteKey, Route>, Error> {
        // Collecting everything into a map at once, here and below, takes a fraction of the time of thousands of
        // insertions.
        let mut found = Vec::new();
        for family in Family::BOTH {
            found.append(&mut self.list(&encode::routes_of(family, protocol), decode::route)?);
        }
        found.retain(|(_, route)| route.protocol == protocol);
        Ok(found.into_iter().collect())
    }

    fn all_routes(
        &mut self,
        protocol: u8,
        known: &BTreeMap<RouteKey, Route>,
        matters: &dyn Fn(&RouteKey) -> bool,
    ) -> Result<Routes, Error> {
        let mut read = foreign::Reading::new(known);
        for family in Family::BOTH {
            let begin = || read.clone();
            let request = encode::all_routes(family);
            read = self
                .socket
                .dump_into(&request, begin, |read, part| read.take(part.payload, protocol, matters))?;
        }
        Ok(read.end())
    }

    fn rules(&mut self) -> Result<Vec<PolicyRule>, Error> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            match self.list(&encode::rules_of(family), |payload| foreign::rule(family, payload)) {
                Ok(mut found) => rules.append(&mut found),
                // The kernel has no IPv6, or no policy routing.
                Err(error) if matches!(error.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }

    fn nexthops(&mut self) -> Result<BTreeMap<NexthopId, Option<Nexthop>>, Error> {
        self.nexthops_beyond(&BTreeMap::new()).map(|(_, all)| all)
    }

    fn nexthops_beyond(
        &mut self,
        known: &BTreeMap<NexthopId, Nexthop>,
    ) -> Result<(usize, BTreeMap<NexthopId, Option<Nexthop>>), Error> {
        let numbered = |payload: &[u8]| {
            let ours = decode::nexthop(payload).map(|(id, nexthop)| (id, Some(nexthop)));
            ours.or_else(|| Some((decode::nexthop_id(payload)?, None)))
        };
        let is = |(id, nexthop): &(&NexthopId, &Nexthop), found: &(NexthopId, Option<Nexthop>)| {
            **id == found.0 && found.1 == Some(**nexthop)
        };
        let mut known = known.iter().peekable();
        let (met, beyond) = self.list_beyond(&encode::all_nexthops(), &mut known, numbered, is)?;
        Ok((met, beyond.into_iter().collect()))
    }

    fn nexthop(&mut self, id: NexthopId) -> Result<Option<Nexthop>, Error> {
        let answer = self.one(encode::one_nexthop(id), format!("nexthop get id {}", id.0));
        Ok(found(answer)?.and_then(|message| decode::nexthop(&message.payload)).map(|(_, nexthop)| nexthop))
    }

    fn fdb_entry(&mut self, key: FdbKey) -> Result<Option<FdbEntry>, Error> {
        let answer = self.one(encode::one_fdb_entry(&key), format!("fdb get {} dev {}", key.mac, key.link));
        Ok(found(answer)?.and_then(|message| match decode::neigh(&message.payload)? {
            Neigh::Fdb(_, entry) => Some(entry),
            Neigh::Neighbour(..) => None,
        }))
    }

    fn neighbours(&mut self, link: IfIndex) -> Result<BTreeMap<NeighbourKey, Neighbour>, Error> {
        let permanent = |payload: &[u8]| match decode::neigh(payload)? {
            Neigh::Neighbour(key, value) if key.link == link && value.permanent => Some((key, value)),
            _ => None,
        };
        let mut neighbours = Vec::new();
        for family in Family::BOTH {
            neighbours.append(&mut self.list(&encode::neighbours_of(family, link), permanent)?);
        }
        // They come in the order of a hash. Sorting them by a short key first is faster.
        neighbours.sort_by_cached_key(|(key, _)| ordinal(key.address).1);
        Ok(neighbours.into_iter().collect())
    }

    fn fdb(&mut self, link: IfIndex) -> Result<BTreeMap<FdbKey, FdbEntry>, Error> {
        let entry = |payload: &[u8]| match decode::neigh(payload)? {
            Neigh::Fdb(key, value) if key.link == link => Some((key, value)),
            _ => None,
        };
        let mut entries = self.list(&encode::fdb_of(link), entry)?;
        entries.sort_by_cached_key(|(key, _)| key.mac);
        Ok(entries.into_iter().collect())
    }
}

fn created(spec: &VethSpec) -> String {
    format!("link add {} type veth peer name {}", spec.host_name, spec.pod_name)
}
