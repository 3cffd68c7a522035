//! Keeps the pods' host ports in nftables: the table, which is made again if somebody flushed or changed it, and each
//! pod's elements in it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferrule_model::table::{MAPS, OWN, OWN_COMMENT, SETS, SKELETON, TABLE};
use ferrule_model::{Element, HostPorts, HostSide, PortElement};
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, Found, KeptError, KeptTable, Netfilter, Text};
use ferrule_wire::Records;
use nix::errno::Errno;

use super::repair;

/// Why host ports cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The table.
    #[error("host ports: {0}")]
    Table(#[from] KeptError),
    /// Its elements.
    #[error("host ports: {0}")]
    Kernel(#[from] Error),
}

/// The result of a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was put back.
    pub repaired: Vec<String>,
    /// What cannot be put back, and why.
    pub complaints: Vec<String>,
}

/// Keeps them.
#[derive(Debug)]
pub struct Ports<N> {
    open: fn() -> Result<N, Error>,
    netfilter: Option<N>,
    table: KeptTable,
    /// The node's addresses, as they were last put into the table.
    own: BTreeSet<IpAddr>,
    /// The generation of the rulesets in which all was found right. While it stays the same, nobody has changed any
    /// ruleset.
    right_in: Option<u32>,
}

impl<N: Netfilter> Ports<N> {
    /// `open` opens the way to the kernel, once it is needed.
    pub fn new(open: fn() -> Result<N, Error>) -> Self {
        Self {
            open,
            netfilter: None,
            table: KeptTable::new(TABLE, Text::Script),
            own: BTreeSet::new(),
            right_in: None,
        }
    }

    /// Looks at the ports of these pods on the node's `own` addresses, and puts right what differs. The pods must be
    /// all that have host ports. `by` names who has changed the table, if the kernel told.
    ///
    /// # Errors
    /// The kernel or nft does not do what it is told.
    pub fn keep(
        &mut self,
        (pods, own): (&[HostSide], &BTreeSet<IpAddr>),
        records: &Records,
        by: Option<&str>,
    ) -> Result<Outcome, PortsError> {
        if pods.iter().all(|made| made.ports.is_none()) {
            return Ok(Outcome::default());
        }
        let mut netfilter = match self.netfilter.take() {
            Some(netfilter) => netfilter,
            None => (self.open)()?,
        };
        let outcome = self.keep_by(&mut netfilter, (pods, own), records, by)?;
        // It is not kept after an error, because it may be broken.
        self.netfilter = Some(netfilter);
        Ok(outcome)
    }

    fn keep_by(
        &mut self,
        netfilter: &mut N,
        (pods, own): (&[HostSide], &BTreeSet<IpAddr>),
        records: &Records,
        by: Option<&str>,
    ) -> Result<Outcome, PortsError> {
        let mut outcome = Outcome::default();
        let generation = netfilter.generation()?;
        // Nothing counts as right before the look has come to its end.
        if self.right_in.take() == Some(generation) && self.own == *own {
            self.right_in = Some(generation);
            return Ok(outcome);
        }
        let by = by.map(|by| format!(" ({by})")).unwrap_or_default();
        outcome.repaired.extend(self.rules(netfilter, &by)?);
        let mut found = Vec::new();
        for set in MAPS.iter().chain(&SETS) {
            found.append(&mut netfilter.elements(TABLE, set)?);
        }
        let is_renewed = renew(netfilter, own)?;
        if is_renewed {
            // The node has the same addresses as before, so somebody took them out of the table.
            if self.own == *own && outcome.repaired.is_empty() {
                outcome.repaired.push(format!(
                    "the node's addresses in the nftables table inet {TABLE} were removed or changed by someone else{by}; put back"
                ));
            }
        }
        self.own.clone_from(own);
        let mut is_right = !is_renewed;
        for made in pods {
            let Some(ports) = &made.ports else { continue };
            let wanted = elements(ports);
            let (missing, taken) = differences(&found, &wanted);
            outcome.complaints.extend(taken.map(|owner| {
                let names = &ports.names;
                format!("host ports {names} cannot be opened again: {owner} has one of them; delete one of the two pods{}", repair::of(made))
            }));
            if missing.is_empty() {
                continue;
            }
            // The next look checks everything again.
            is_right = false;
            if put(netfilter, &missing, || records.has(&made.link()))? {
                let (names, of) = (&ports.names, repair::of(made));
                outcome
                    .repaired
                    .push(format!("host ports {names} were closed by someone else{by}; opened again{of}"));
            }
        }
        if is_right && outcome == Outcome::default() {
            self.right_in = Some(generation);
        }
        Ok(outcome)
    }

    /// Makes the table with its rules right. Returns a sentence if it was missing, or not as it has to be.
    fn rules(&mut self, netfilter: &mut N, by: &str) -> Result<Option<String>, PortsError> {
        let verb = match self.table.keep(netfilter, SKELETON)? {
            Found::Right => return Ok(None),
            Found::Missing => "deleted",
            Found::Different => "changed",
        };
        Ok(Some(format!("the nftables table inet {TABLE} was {verb} by someone else{by}; put back")))
    }
}

/// Puts the node's own addresses into the table. Returns whether other addresses were there.
fn renew(netfilter: &mut impl Netfilter, own: &BTreeSet<IpAddr>) -> Result<bool, Error> {
    let mut found = BTreeSet::new();
    for set in OWN {
        found.extend(netfilter.elements(TABLE, set)?);
    }
    let element = |address: &IpAddr| {
        let (set, key) = match address {
            IpAddr::V4(address) => (OWN[0], address.octets().to_vec()),
            IpAddr::V6(address) => (OWN[1], address.octets().to_vec()),
        };
        Element::of_set(set, key, OWN_COMMENT.to_owned())
    };
    let wanted: BTreeSet<_> = own.iter().map(element).collect();
    if found == wanted {
        return Ok(false);
    }
    let changes: Vec<_> = OWN.into_iter().map(Change::Clear).chain(wanted.iter().map(Change::Add)).collect();
    netfilter.change(TABLE, &changes, None)?;
    Ok(true)
}

/// Adds elements. Returns whether they are there. The pod may end meanwhile, and then the elements are removed again: a
/// DEL that looked before they came does not remove them.
fn put(
    netfilter: &mut impl Netfilter,
    missing: &[Element],
    is_kept: impl Fn() -> bool,
) -> Result<bool, Error> {
    let all = |change: fn(&Element) -> Change<'_>| missing.iter().map(change).collect::<Vec<_>>();
    let done = |result: Result<(), Error>| match result {
        // Somebody else was faster. The next look tells who.
        Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::ENOENT)) => Ok(false),
        result => result.map(|()| true),
    };
    if !is_kept() || !done(netfilter.change(TABLE, &all(|element| Change::Add(element)), None))? {
        return Ok(false);
    }
    if is_kept() {
        return Ok(true);
    }
    done(netfilter.change(TABLE, &all(|element| Change::Delete(element)), None)).map(|_| false)
}

/// The elements for a pod's ports.
pub(super) fn elements(ports: &HostPorts) -> Vec<Element> {
    ports.elements.iter().filter_map(|kept| element(kept, &ports.owner)).collect()
}

fn element(kept: &PortElement, owner: &str) -> Option<Element> {
    let set = MAPS.into_iter().chain(SETS).find(|set| *set == kept.set)?;
    Some(Element::of_map(set, kept.key.clone(), kept.value.clone().into(), owner.to_owned()))
}

/// The elements of `wanted` that are missing, and the owner of an element that stands in the place of one of them.
pub(super) fn differences(found: &[Element], wanted: &[Element]) -> (Vec<Element>, Option<String>) {
    let (mut missing, mut taken) = (Vec::new(), None);
    for element in wanted {
        match found.iter().find(|there| (there.set, &there.key) == (element.set, &element.key)) {
            None => missing.push(element.clone()),
            Some(there) if there.comment != element.comment => taken = Some(there.comment.clone()),
            Some(_) => {}
        }
    }
    // All or none: otherwise half of a pod's ports would be opened and closed with every look.
    if taken.is_some() { (Vec::new(), taken) } else { (missing, None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrule_model::{Attachment, Family, Limits, Way, pod_mac};
    use ferrule_netlink::nft::{FakeNetfilter, Flow, NftError};
    use ferrule_wire::{remove_record, write_record};

    thread_local! {
        static FAKE: FakeNetfilter = FakeNetfilter::new();
    }

    fn fake() -> FakeNetfilter {
        FAKE.with(Clone::clone)
    }

    fn made(container_id: &str, port: u8) -> HostSide {
        let attachment =
            Attachment { network: "pods".into(), container_id: container_id.into(), ifname: "eth0".into() };
        let element = |set: &str, value| PortElement { set: set.into(), key: vec![6, port], value };
        let elements = vec![element("every4", vec![1]), element("masquerade4", Vec::new())];
        let owner = format!("{} pods", attachment.hash());
        let ports = HostPorts { owner, names: format!("tcp {port}"), elements };
        let way = Way::Routed { pod_mac: pod_mac(&attachment), addresses: Vec::new() };
        HostSide {
            pod: container_id.into(),
            attachment,
            netns: String::new(),
            mtu: 1500,
            way,
            ports: Some(ports),
            limits: Limits::default(),
        }
    }

    fn own() -> BTreeSet<IpAddr> {
        ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap()).into()
    }

    /// The elements without those of the node's addresses.
    fn of_pods() -> BTreeSet<Element> {
        let all = fake().all().into_iter();
        all.filter(|element| !OWN.contains(&element.set)).collect()
    }

    fn elements(made: &HostSide) -> Vec<Element> {
        let ports = made.ports.as_ref().unwrap();
        ports.elements.iter().map(|kept| element(kept, &ports.owner).unwrap()).collect()
    }

    #[test]
    fn what_is_missing_is_put_back_and_what_is_right_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (records, pods) = (Records::new(dir.path()), [made("a", 80), made("b", 81)]);
        records.make().unwrap();
        pods.iter().for_each(|made| write_record(dir.path(), made).unwrap());
        let mut ports = Ports::new(|| Ok(fake()));
        let repaired = ports.keep((&pods, &own()), &records, Some("netlink port 7")).unwrap().repaired;
        assert_eq!(
            repaired,
            [
                "the nftables table inet ferrule-hostports was deleted by someone else (netlink port 7); put back",
                "host ports tcp 80 were closed by someone else (netlink port 7); opened again (pod a)",
                "host ports tcp 81 were closed by someone else (netlink port 7); opened again (pod b)",
            ]
        );
        let all = fake().all();
        assert_eq!((all.len(), of_pods().len()), (6, 4));
        for _ in 0..2 {
            assert_eq!(ports.keep((&pods, &own()), &records, None).unwrap(), Outcome::default());
        }
        fake().change(TABLE, &[Change::Delete(&elements(&pods[1])[0])], None).unwrap();
        let repaired = ports.keep((&pods, &own()), &records, None).unwrap().repaired;
        assert_eq!(repaired, ["host ports tcp 81 were closed by someone else; opened again (pod b)"]);
        assert_eq!(fake().all(), all);
        // The node's address has changed.
        let moved = ["192.0.2.2".parse().unwrap()].into();
        assert_eq!(ports.keep((&pods, &moved), &records, None).unwrap(), Outcome::default());
        assert_eq!((fake().all().len(), of_pods().len()), (5, 4));
    }

    /// The fake, whose next script may be refused.
    #[derive(Debug)]
    struct Refusing(FakeNetfilter);

    thread_local! {
        static REFUSES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    impl Netfilter for Refusing {
        fn change(&mut self, table: &str, changes: &[Change<'_>], since: Option<u32>) -> Result<(), Error> {
            self.0.change(table, changes, since)
        }
        fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
            if REFUSES.take() { Err(Error::Decode("refused".into())) } else { self.0.elements(table, set) }
        }
        fn has_table(&mut self, table: &str) -> Result<bool, Error> {
            self.0.has_table(table)
        }
        fn generation(&mut self) -> Result<u32, Error> {
            self.0.generation()
        }
        fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
            self.0.rules(table)
        }
        fn load(&mut self, script: &str) -> Result<(), NftError> {
            self.0.load(script)
        }
        fn forget_udp(
            &mut self,
            family: Family,
            port: Option<u16>,
            wanted: &dyn Fn(&Flow) -> bool,
        ) -> Result<usize, Error> {
            self.0.forget_udp(family, port, wanted)
        }
    }

    #[test]
    fn a_look_that_failed_has_found_nothing_right() {
        let dir = tempfile::tempdir().unwrap();
        let (records, pods) = (Records::new(dir.path()), [made("a", 80)]);
        records.make().unwrap();
        write_record(dir.path(), &pods[0]).unwrap();
        let mut ports = Ports::new(|| Ok(Refusing(fake())));
        let mut keep = || ports.keep((&pods, &own()), &records, None);
        assert_eq!(keep().unwrap().repaired.len(), 2);
        assert_eq!(keep().unwrap(), Outcome::default());
        fake().change(TABLE, &[Change::Delete(&elements(&pods[0])[0])], None).unwrap();
        REFUSES.set(true);
        keep().unwrap_err();
        // Nobody has changed a ruleset since then.
        assert_eq!(keep().unwrap().repaired.len(), 1);
    }

    #[test]
    fn nothing_stays_of_a_pod_whose_del_has_begun() {
        let mut netfilter = fake();
        netfilter.load(SKELETON).unwrap();
        let wanted = elements(&made("a", 80));
        assert!(!put(&mut netfilter, &wanted, || false).unwrap());
        assert!(fake().all().is_empty(), "before");
        let looks = std::cell::Cell::new(0);
        let ends_meanwhile = || looks.replace(looks.get() + 1) == 0;
        assert!(!put(&mut netfilter, &wanted, ends_meanwhile).unwrap());
        assert!(fake().all().is_empty(), "meanwhile");
        // The record that was read before may be outdated.
        let dir = tempfile::tempdir().unwrap();
        let (records, made) = (Records::new(dir.path()), made("a", 80));
        records.make().unwrap();
        write_record(dir.path(), &made).unwrap();
        remove_record(dir.path(), &made.attachment).unwrap();
        let outcome = Ports::new(|| Ok(fake())).keep((&[made], &own()), &records, None).unwrap();
        assert_eq!((outcome, of_pods().len()), (Outcome::default(), 0));
    }

    #[test]
    fn a_port_that_another_pod_has_got_meanwhile_is_named_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let (records, made, other) = (Records::new(dir.path()), made("a", 80), made("b", 80));
        records.make().unwrap();
        write_record(dir.path(), &made).unwrap();
        fake().load(SKELETON).unwrap();
        let theirs = elements(&other);
        fake().change(TABLE, &[Change::Add(&theirs[0])], None).unwrap();
        let outcome = Ports::new(|| Ok(fake())).keep((&[made], &own()), &records, None).unwrap();
        assert!(outcome.complaints[0].contains("has one of them"), "{outcome:?}");
        assert_eq!(of_pods(), [theirs[0].clone()].into());
    }
}
