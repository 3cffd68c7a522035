//! Finds who changed what the log says was put back, as far as the kernel tells.
//!
//! A notification of routes, nexthops, neighbours, addresses and nftables bears the netlink port of the socket that
//! asked for the change. The kernel gives a process's first socket the number of the process as its port
//! (`netlink_autobind`), as the PID namespace of that process counts. So a port proves nothing: the log calls it a
//! port, and adds the name of the process that has this number here. The kernel tells no port for links, FDB entries
//! and sysctls. It tells nothing at all of IPv4 routes that go with their nexthop.

use std::collections::BTreeMap;

use ferrule_model::{Caller, Event, Wake};

use crate::decide::objects::Links;

/// Name of the masquerade table, as an object among the others.
const TABLE: &str = "table";
/// At most so many changes are remembered between two passes.
const MOST: usize = 256;

/// Says who has a netlink port now, if that can be seen.
pub type Find = fn(u32) -> Option<Caller>;

/// Who has changed what since the last pass. The key is the object's name in the log.
#[derive(Debug)]
pub struct Culprits {
    find: Find,
    seen: BTreeMap<String, String>,
    /// The caller that `knows` was told of: it was looked up while it still ran.
    known: Option<Caller>,
}

impl Culprits {
    /// Nothing is known yet. `find` is asked as soon as an event names a port, because a process may end right after
    /// its change.
    pub fn new(find: Find) -> Self {
        Self { find, seen: BTreeMap::new(), known: None }
    }

    /// Takes out everything that was seen up to now.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.find))
    }

    /// Names the caller that asked for one of the changes that are told next.
    pub fn knows(&mut self, caller: Option<Caller>) {
        self.known = caller;
    }

    /// Notes an event that disagrees with what the last pass left.
    pub fn saw(&mut self, event: &Event, port: u32, links: Option<&Links>) {
        let link = |index| {
            let link = links.and_then(|links| links.get(&index));
            link.map(|link| link.name.to_string()).unwrap_or_default()
        };
        let object = match event {
            Event::Address(_, key, _) => format!("address {} on {}", key.prefix, link(key.link)),
            Event::Route(_, key, _) | Event::OddRoute(_, key, _) => format!("route {}", key.dst),
            Event::Neighbour(_, key, _) => format!("neighbour {} on {}", key.address, link(key.link)),
            Event::Link(..) | Event::Port(..) | Event::Fdb(..) | Event::Overrun => return,
        };
        self.note(object, port);
    }

    /// The same for the events of the other kinds.
    pub fn woke(&mut self, wake: &Wake, port: u32) {
        match wake {
            Wake::Nexthop(event) => self.note(format!("nexthop {}", event.id.0), port),
            Wake::Table(_) | Wake::Element(_) => self.note(TABLE.to_owned(), port),
            Wake::Rule | Wake::Sysctl | Wake::Traffic { .. } | Wake::Overrun => {}
        }
    }

    fn note(&mut self, object: String, port: u32) {
        if port != 0 && self.seen.len() < MOST {
            // The first change is the one that counts: those after it may be somebody's repair.
            self.seen.entry(object).or_insert_with(|| who(port, self.known.as_ref(), self.find));
        }
    }

    /// The sentence about a repair. It names who made the repair necessary, if that is known.
    pub fn named(&self, sentence: &str) -> String {
        let is_about = |object: &String| {
            sentence.strip_prefix(object.as_str()).is_some_and(|rest| rest.starts_with(' '))
        };
        match self.seen.iter().find(|(object, _)| is_about(object)) {
            Some((_, who)) => sentence.replacen("by someone else", &format!("by someone else ({who})"), 1),
            None => sentence.to_owned(),
        }
    }

    /// Takes out who has changed the nftables table.
    pub fn take_table(&mut self) -> Option<String> {
        self.seen.remove(TABLE)
    }

    /// Forgets everything, because a pass has ended.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

fn who(port: u32, known: Option<&Caller>, find: Find) -> String {
    // A process that has ended has no name any more. A process that may not be seen (ProtectProc= of the unit) has none
    // either.
    match known.filter(|known| known.port == port).cloned().or_else(|| find(port)) {
        Some(Caller { process, .. }) => format!("netlink port {port}; process {port} is {process}"),
        None => format!("netlink port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{Change, Route, RouteKey};

    #[test]
    fn a_repair_is_told_with_the_one_who_asked_for_the_change() {
        let key = RouteKey::main("10.244.2.0/24".parse().unwrap());
        let event = Event::Route(Change::Delete, key, Route::unreachable());
        let sentence = "route 10.244.2.0/24 was deleted by someone else; put back";
        // Two processes exist.
        let find = |port: u32| {
            let process = (port == 41 || port == 42).then(|| format!("program{port}"));
            process.map(|process| Caller { port, process })
        };
        let mut culprits = Culprits::new(find);
        culprits.saw(&event, 0, None);
        assert_eq!(culprits.named(sentence), sentence, "the kernel by itself");
        culprits.saw(&event, 41, None);
        culprits.saw(&event, 42, None);
        assert_eq!(
            culprits.named(sentence),
            "route 10.244.2.0/24 was deleted by someone else (netlink port 41; process 41 is program41); put back"
        );
        let other = "route 10.244.2.0/25 was deleted by someone else; put back";
        assert_eq!(culprits.named(other), other);
        culprits.forget();
        assert_eq!(culprits.named(sentence), sentence);
        // No process has this number; it was looked up before.
        let gone = Caller { port: u32::MAX, process: "ip".into() };
        culprits.knows(Some(gone.clone()));
        culprits.saw(&event, gone.port, None);
        assert!(culprits.named(sentence).ends_with("process 4294967295 is ip); put back"));
    }
}
