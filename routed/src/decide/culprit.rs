//! Who changed what the log says was put back, as far as the kernel tells.
//!
//! A notification of routes, nexthops, neighbours, addresses and nftables bears the netlink port of the socket that asked
//! for the change; the kernel gives a process's first socket the process's number as its port (`netlink_autobind`), in the
//! PID namespace of that process. So a port is no proof: it is told as what it is, with the name of the process that has
//! this number here. Links, FDB entries and sysctls are told without a port, and IPv4 routes that go with their nexthop not at all.

use std::collections::BTreeMap;

use ferrule_model::{Caller, Event, Wake};

use crate::decide::objects::Links;

/// The masquerade table, among the other objects.
const TABLE: &str = "table";
/// More are not remembered between two passes.
const MOST: usize = 256;

/// Says who has a netlink port now, if that can be seen.
pub type Find = fn(u32) -> Option<Caller>;

/// What somebody has changed since the last pass: by the object's name in the log, who.
#[derive(Debug)]
pub struct Culprits {
    find: Find,
    seen: BTreeMap<String, String>,
    /// Who was looked up already, while it was there.
    known: Option<Caller>,
}

impl Culprits {
    /// Nobody yet. Who has a port is asked of `find` as soon as an event names it: a process may end right after its change.
    pub fn new(find: Find) -> Self {
        Self { find, seen: BTreeMap::new(), known: None }
    }

    /// All that was seen up to now; nothing of it is left here.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.find))
    }

    /// Somebody who asked for one of the changes that are told next.
    pub fn knows(&mut self, caller: Option<Caller>) {
        self.known = caller;
    }

    /// An event disagrees with what was left.
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

    /// The same for the other events.
    pub fn woke(&mut self, wake: &Wake, port: u32) {
        match wake {
            Wake::Nexthop(event) => self.note(format!("nexthop {}", event.id.0), port),
            Wake::Table(_) | Wake::Element(_) => self.note(TABLE.to_owned(), port),
            Wake::Rule | Wake::Sysctl | Wake::Traffic { .. } | Wake::Overrun => {}
        }
    }

    fn note(&mut self, object: String, port: u32) {
        if port != 0 && self.seen.len() < MOST {
            // The first one is it: what follows may be somebody's repair.
            self.seen.entry(object).or_insert_with(|| who(port, self.known.as_ref(), self.find));
        }
    }

    /// The sentence about a repair, with who it was if that is known.
    pub fn named(&self, sentence: &str) -> String {
        let is_about = |object: &String| {
            sentence.strip_prefix(object.as_str()).is_some_and(|rest| rest.starts_with(' '))
        };
        match self.seen.iter().find(|(object, _)| is_about(object)) {
            Some((_, who)) => sentence.replacen("by someone else", &format!("by someone else ({who})"), 1),
            None => sentence.to_owned(),
        }
    }

    /// Who has changed the nftables table.
    pub fn take_table(&mut self) -> Option<String> {
        self.seen.remove(TABLE)
    }

    /// A pass is through.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

fn who(port: u32, known: Option<&Caller>, find: Find) -> String {
    // A process that has ended has no name any more, nor one that may not be seen (ProtectProc= of the unit).
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
        // Two processes are there.
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
        // Nobody has this number; it was looked up before.
        let gone = Caller { port: u32::MAX, process: "ip".into() };
        culprits.knows(Some(gone.clone()));
        culprits.saw(&event, gone.port, None);
        assert!(culprits.named(sentence).ends_with("process 4294967295 is ip); put back"));
    }
}
