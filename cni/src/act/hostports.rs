//! Host ports in the kernel: puts a pod's elements there, removes them, and looks for them. `decide::ports` works out
//! what the elements are.
//!
//! One transaction adds all elements of a pod, and one removes them. The owner that each element names tells which to
//! remove, so DEL needs no mappings and never removes those of another pod. If somebody else changes the rulesets
//! between the look and the removal, the plugin looks again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ferrule_model::{Attachment, Element, Family, Owner};
use ferrule_netlink::nft::{Change, Flow, Netfilter};
use ferrule_netlink::{Error as NetlinkError, Places, Renamed, nodes_own};
use nix::errno::Errno;

use crate::act::node::Node;
use crate::decide::ports::{self, Granted};
use crate::edge::error::{Error, HostPortError};
use crate::edge::mappings::Protocol;
use ferrule_model::table::{MAPS, OWN, SETS, SKELETON, TABLE};

/// How often a transaction is tried if another one comes in between each time.
const ATTEMPTS: u32 = 100;
/// How often the table is made if it is gone again each time.
const TABLE_ATTEMPTS: u32 = 5;

fn talking(doing: &'static str) -> impl FnOnce(NetlinkError) -> Error {
    move |source| Error::Kernel { doing, source }
}

const OPEN: &str = "open a netlink socket for host ports";
const ADDRESSES: &str = "look for the node's addresses";
const PUT: &str = "open the host ports";
const LOOK: &str = "look for the host ports";
const REMOVE: &str = "close the host ports";
const FORGET: &str = "forget the UDP connections of a host port";

/// Grants the `wanted` elements to a pod, and tells what an operator should know of that.
///
/// # Errors
/// Another pod has one of the ports, or the kernel refused; then nothing has been granted.
pub(crate) fn put<N: Node>(node: &N, host: &mut N::Kernel, wanted: &[Element]) -> Result<Vec<String>, Error> {
    let mut netfilter = node.netfilter().map_err(talking(OPEN))?;
    let mut attempts = 0;
    // The table is not there before a node's first host port, nor after somebody has flushed the rulesets. Another pod
    // may make it at the same time, which is as good.
    let own: Vec<_> = nodes_own(&host.places().map_err(talking(ADDRESSES))?).collect();
    let on = ports::own_elements(own.iter().copied());
    while !grant(&mut netfilter, host, wanted, &on)? {
        attempts += 1;
        if attempts > TABLE_ATTEMPTS {
            return Err(Error::HostPort(HostPortError::Flushed));
        }
        netfilter.load(SKELETON).map_err(|error| Error::HostPort(HostPortError::Table(error)))?;
    }
    // A UDP flow to this port from before the port was the pod's would still go to its old destination.
    let comes_here = |granted: &Granted, destination: IpAddr| match granted.host_ip {
        Some(address) => address == destination,
        None => destination.is_loopback() || own.contains(&destination),
    };
    let stale = |granted: &Granted, flow: &Flow| {
        let leads_to = SocketAddr::new(flow.answers_from, flow.answering_port);
        comes_here(granted, flow.destination) && leads_to != granted.pod
    };
    forget(&mut netfilter, wanted, stale)?;
    Ok(passed_by(node, wanted, comes_here))
}

/// The node's processes that listen on a port which is a pod's now. They keep running but get no more packets, so an
/// operator has to be told.
fn passed_by<N: Node>(
    node: &N,
    wanted: &[Element],
    comes_here: impl Fn(&Granted, IpAddr) -> bool,
) -> Vec<String> {
    let mut warnings = BTreeSet::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut granted =
            wanted.iter().filter_map(Granted::of).filter(|it| it.protocol == protocol).peekable();
        if granted.peek().is_none() {
            continue;
        }
        // If the kernel cannot list the listeners, there is nothing to warn about.
        let listeners = node.listeners(protocol.number()).unwrap_or_default();
        for granted in granted {
            let hears = |at: &&SocketAddr| {
                let address = at.ip();
                at.port() == granted.host_port && (address.is_unspecified() || comes_here(&granted, address))
            };
            warnings.extend(listeners.iter().filter(hears).map(|at| {
                let port = granted.name();
                format!(
                    "a process of the node listens on {protocol} {at} and hears nothing of what comes to host port {port}, \
                     which is the pod's (`ss -lnp 'sport = :{}'` shows whose it is)",
                    granted.host_port
                )
            }));
        }
    }
    warnings.into_iter().collect()
}

/// Grants the `wanted` elements, with `on` as the addresses of the node, but does not make the table. Returns `false`
/// if a part of the table is missing; then nothing has been granted.
fn grant(
    netfilter: &mut impl Netfilter,
    host: &mut impl Renamed,
    wanted: &[Element],
    on: &[Element],
) -> Result<bool, Error> {
    let mut all = renewed(on);
    all.extend(wanted.iter().map(Change::Add));
    let mut done = netfilter.change(TABLE, &all, None).map_err(talking(PUT));
    if done.as_ref().err().and_then(errno) == Some(Errno::EEXIST) {
        done = replace(netfilter, host, wanted, on);
    }
    match done {
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Kernel { source, .. } => source.errno(),
        _ => None,
    }
}

/// The changes after which the table has exactly these addresses as the node's own.
fn renewed(on: &[Element]) -> Vec<Change<'_>> {
    OWN.iter().copied().map(Change::Clear).chain(on.iter().map(Change::Add)).collect()
}

/// Puts the wanted elements in the place of elements whose owners are gone.
fn replace(
    netfilter: &mut impl Netfilter,
    host: &mut impl Renamed,
    wanted: &[Element],
    on: &[Element],
) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        let generation = netfilter.generation().map_err(talking(PUT))?;
        let found = listed(netfilter, &all_sets()).map_err(talking(LOOK))?;
        let mut in_the_way = Vec::new();
        let mut add = Vec::new();
        for element in wanted {
            let there = found.iter().find(|there| (there.set, &there.key) == (element.set, &element.key));
            if there == Some(element) {
                continue;
            }
            in_the_way.extend(there);
            add.push(Change::Add(element));
        }
        let mut dead = BTreeSet::new();
        for there in &in_the_way {
            if wanted.iter().all(|element| element.comment != there.comment) {
                refuse_if_alive(host, there)?;
                dead.insert(&there.comment);
            }
        }
        // Together with the elements in the way, all other elements of their dead owners are removed.
        let goes = |there: &&Element| in_the_way.contains(there) || dead.contains(&there.comment);
        let mut changes = renewed(on);
        changes.extend(found.iter().filter(goes).map(Change::Delete));
        changes.append(&mut add);
        match netfilter.change(TABLE, &changes, Some(generation)) {
            Err(error) if error.errno() == Some(Errno::ERESTART) => {}
            done => return done.map_err(talking(PUT)),
        }
    }
    Err(Error::HostPort(HostPortError::Busy { attempts: ATTEMPTS }))
}

/// Returns an error if the owner of `element` is still attached, which means that its veth exists.
fn refuse_if_alive(host: &mut impl Renamed, element: &Element) -> Result<(), Error> {
    let Some(veth) = Owner::read(&element.comment).and_then(|owner| owner.veth()) else {
        let owner = format!("an element that is not Ferrule's (comment {:?})", element.comment);
        return Err(taken(element, owner));
    };
    let mut found = host.link(&veth).map_err(talking(LOOK))?;
    if found.is_none() {
        found = host.renamed(&veth).map_err(talking(LOOK))?;
    }
    match found {
        None => Ok(()),
        Some(link) => {
            let pod = link.alias.unwrap_or_else(|| "a pod".to_owned());
            Err(taken(element, format!("{pod} ({veth})")))
        }
    }
}

fn taken(element: &Element, owner: String) -> Error {
    let port = Granted::of(element).map_or_else(|| element.set.to_owned(), |granted| granted.name());
    Error::HostPort(HostPortError::Taken { port, owner })
}

fn all_sets() -> Vec<&'static str> {
    [&MAPS[..], &SETS[..]].concat()
}

/// The elements of these sets. A set that does not exist has none.
fn listed(netfilter: &mut impl Netfilter, sets: &[&'static str]) -> Result<Vec<Element>, NetlinkError> {
    let mut found = Vec::new();
    for set in sets {
        match netfilter.elements(TABLE, set) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            elements => found.extend(elements?),
        }
    }
    Ok(found)
}

/// Removes all that is `attachment`'s.
///
/// # Errors
/// The kernel refused, or did not answer.
pub(crate) fn remove<N: Node>(node: &N, attachment: &Attachment) -> Result<(), Error> {
    let owner = Owner::of(attachment).to_string();
    remove_where(node, |element| element.comment == owner)
}

/// Removes the elements of `attachment` that are not among the `wanted` ones.
///
/// # Errors
/// The kernel refused, or did not answer.
pub(crate) fn keep<N: Node>(node: &N, attachment: &Attachment, wanted: &[Element]) -> Result<(), Error> {
    let owner = Owner::of(attachment).to_string();
    remove_where(node, |element| element.comment == owner && !wanted.contains(element))
}

/// Removes the elements of all attachments in `network` that are not `valid`.
///
/// # Errors
/// The kernel refused, or did not answer.
pub(crate) fn collect<N: Node>(node: &N, network: &str, valid: &[Attachment]) -> Result<(), Error> {
    let valid: BTreeSet<_> = valid.iter().map(|attachment| Owner::of(attachment).to_string()).collect();
    remove_where(node, |element| {
        Owner::read(&element.comment).is_some_and(|owner| owner.is_in(network))
            && !valid.contains(&element.comment)
    })
}

fn remove_where<N: Node>(node: &N, wanted: impl Fn(&Element) -> bool) -> Result<(), Error> {
    let mut netfilter = match node.netfilter() {
        // A kernel without netfilter has no host ports.
        Err(NetlinkError::Open(error)) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => {
            return Ok(());
        }
        netfilter => netfilter.map_err(talking(OPEN))?,
    };
    for _ in 0..ATTEMPTS {
        let generation = match netfilter.generation() {
            // The reason is the same: `nfnetlink_rcv_msg` does not know the subsystem.
            Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(()),
            generation => generation.map_err(talking(LOOK))?,
        };
        if !netfilter.has_table(TABLE).map_err(talking(LOOK))? {
            return Ok(());
        }
        let mut found = listed(&mut netfilter, &all_sets()).map_err(talking(LOOK))?;
        found.retain(&wanted);
        if found.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = found.iter().map(Change::Delete).collect();
        match netfilter.change(TABLE, &changes, Some(generation)) {
            Err(error) if matches!(error.errno(), Some(Errno::ERESTART | Errno::ENOENT)) => continue,
            done => done.map_err(talking(REMOVE))?,
        }
        // An established UDP connection would keep its translation, and reach the pod that gets the address next.
        return forget(&mut netfilter, &found, |granted, flow| flow.answers_from == granted.pod.ip());
    }
    Err(Error::HostPort(HostPortError::Busy { attempts: ATTEMPTS }))
}

/// Up to this many ports of one family, each port is asked for by itself. Every question makes the kernel walk through
/// all connections that it tracks.
const ASKED_ONE_BY_ONE: usize = 4;

/// Forgets the UDP connections to a port of the `elements` that are `stale`: their next packet is translated afresh.
fn forget(
    netfilter: &mut impl Netfilter,
    elements: &[Element],
    stale: impl Fn(&Granted, &Flow) -> bool,
) -> Result<(), Error> {
    for family in [Family::V4, Family::V6] {
        let mut ports = BTreeMap::<u16, Vec<Granted>>::new();
        for granted in elements.iter().filter_map(Granted::of) {
            if granted.protocol == Protocol::Udp && Family::of(granted.pod.ip()) == family {
                ports.entry(granted.host_port).or_default().push(granted);
            }
        }
        let goes = |flow: &Flow| {
            let granted = ports.get(&flow.port);
            granted.is_some_and(|granted| granted.iter().any(|granted| stale(granted, flow)))
        };
        let questions = match ports.len() {
            0 => continue,
            1..=ASKED_ONE_BY_ONE => ports.keys().copied().map(Some).collect(),
            _ => vec![None],
        };
        for port in questions {
            netfilter.forget_udp(family, port, &goes).map_err(talking(FORGET))?;
        }
    }
    Ok(())
}

/// The `wanted` elements that are missing, each with what is in its place.
///
/// # Errors
/// The kernel did not answer.
pub(crate) fn missing<N: Node>(
    node: &N,
    wanted: &[Element],
) -> Result<Vec<(String, String, String)>, NetlinkError> {
    let mut netfilter = node.netfilter()?;
    let found = listed(&mut netfilter, &all_sets())?;
    let mut missing = Vec::new();
    for element in wanted.iter().filter(|element| !found.contains(element)) {
        let there = found.iter().find(|there| (there.set, &there.key) == (element.set, &element.key));
        let text = |element: &Element| match Granted::of(element) {
            Some(granted) => (format!("host port {}", granted.name()), format!("to {}", granted.pod)),
            None => (format!("its element of {}", element.set), "for the pod".to_owned()),
        };
        let (what, expected) = text(element);
        let instead = there
            .map_or_else(|| "none".to_owned(), |there| format!("{} of {}", text(there).1, there.comment));
        missing.push((what, expected, instead));
    }
    Ok(missing)
}
