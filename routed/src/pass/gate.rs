//! Keeps the elements that say which hosts may send to the port of VXLAN ([`crate::decide::senders`]). The table itself
//! is the business of [`crate::keep`]; while it is missing, there is nothing to do here.
//!
//! The worker lets a node in before the pass that makes the node reachable, and shuts it out after the pass that takes
//! the node away. So no packet of a node is dropped in between.

use std::collections::BTreeSet;

use ferrule_model::Element;
use ferrule_netlink::Error;
use ferrule_netlink::nft::{Change, Netfilter};
use nix::errno::Errno;

use crate::decide::guard::TABLE;
use crate::decide::senders::{COMMENT, SETS, Senders};

/// How often a transaction is tried that other programs' transactions come before.
const ATTEMPTS: u32 = 5;

/// Keeps them.
#[derive(Debug)]
pub struct Gate<N> {
    open: fn() -> Result<N, Error>,
    netfilter: Option<N>,
    senders: Senders,
    /// The generation of the rulesets in which `senders` knew what the kernel has. While it stays the same, nobody has
    /// changed any ruleset.
    known_in: Option<u32>,
}

/// What is to be carried out.
#[derive(Debug, Clone, Copy)]
enum Step {
    LetIn,
    ShutOut,
}

impl<N: Netfilter> Gate<N> {
    /// `open` opens the way to the kernel, once it is needed.
    pub fn new(open: fn() -> Result<N, Error>, senders: Senders) -> Self {
        Self { open, netfilter: None, senders, known_in: None }
    }

    /// Who may send.
    pub fn senders(&mut self) -> &mut Senders {
        &mut self.senders
    }

    /// Adds what is missing. Returns how many elements somebody else had removed.
    ///
    /// # Errors
    /// The kernel does not do what it is told.
    pub fn let_in(&mut self) -> Result<usize, Error> {
        self.carry_out(Step::LetIn)
    }

    /// Removes what is too much. Returns how many elements somebody else had removed.
    ///
    /// # Errors
    /// The kernel does not do what it is told.
    pub fn shut_out(&mut self) -> Result<usize, Error> {
        self.carry_out(Step::ShutOut)
    }

    fn carry_out(&mut self, step: Step) -> Result<usize, Error> {
        let mut netfilter = self.netfilter.take().map_or_else(self.open, Ok)?;
        let mut gone = 0;
        for _ in 1..ATTEMPTS {
            match self.try_out(&mut netfilter, step, &mut gone) {
                // Somebody has changed a ruleset meanwhile.
                Err(error) if error.errno() == Some(Errno::ERESTART) => {}
                done => return done.map(|()| self.done(netfilter, gone)),
            }
        }
        self.try_out(&mut netfilter, step, &mut gone)?;
        Ok(self.done(netfilter, gone))
    }

    /// The way to the kernel is kept, but not after an error, because it may be broken.
    fn done(&mut self, netfilter: N, gone: usize) -> usize {
        self.netfilter = Some(netfilter);
        gone
    }

    fn try_out(&mut self, netfilter: &mut N, step: Step, gone: &mut usize) -> Result<(), Error> {
        let generation = netfilter.generation()?;
        if self.known_in.take() != Some(generation) {
            let Some(held) = held(netfilter)? else { return Ok(()) };
            *gone += self.senders.found(held);
        }
        let changes: Vec<_> = match step {
            Step::LetIn => self.senders.missing().iter().map(Change::Add).collect(),
            Step::ShutOut => self.senders.surplus().iter().map(Change::Delete).collect(),
        };
        if changes.is_empty() {
            self.known_in = Some(generation);
            return Ok(());
        }
        netfilter.change(TABLE, &changes, Some(generation))?;
        match step {
            Step::LetIn => self.senders.added(),
            Step::ShutOut => self.senders.removed(),
        }
        // A transaction raises the generation by one.
        self.known_in = Some(generation.wrapping_add(1));
        Ok(())
    }
}

/// What the sets hold. `None` if there is no table, or not yet with these sets.
fn held(netfilter: &mut impl Netfilter) -> Result<Option<BTreeSet<Element>>, Error> {
    let mut held = BTreeSet::new();
    for set in SETS {
        match netfilter.elements(TABLE, set) {
            // Whatever the comment is, a key is in a set only once.
            Ok(elements) => {
                held.extend(elements.into_iter().map(|found| Element { comment: COMMENT.into(), ..found }));
            }
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(held))
}

#[cfg(test)]
mod tests {
    use ferrule_config::Config;
    use ferrule_netlink::netns;
    use ferrule_netlink::nft::{self, NetfilterSocket};

    use super::*;
    use crate::decide::guard;
    use crate::decide::nodes::{Node, NodeUpdate, Nodes};

    fn node(number: u8) -> Node {
        let text = format!(
            "[[node]]\nname = \"n{number}\"\naddress = \"192.0.2.{number}\"\naddress6 = \"2001:db8::{number}\"\n\
             pod_cidrs = [\"10.244.{number}.0/24\"]\n"
        );
        let parsed = ferrule_config::NodesFile::parse(&text, std::path::Path::new("f")).unwrap();
        parsed.nodes.into_iter().next().unwrap().into()
    }

    /// The addresses and the port, as nft prints them.
    fn listed() -> Vec<String> {
        let listed = SETS
            .into_iter()
            .flat_map(|set| held_in(set).into_iter().map(move |key| format!("{set} {key:?}")));
        listed.collect()
    }

    fn held_in(set: &'static str) -> Vec<Vec<u8>> {
        let found = NetfilterSocket::open().unwrap().elements(TABLE, set).unwrap();
        found.into_iter().map(|element| element.key).collect()
    }

    #[test]
    fn a_node_is_let_in_before_another_is_shut_out_and_what_others_do_is_put_right() {
        let work = || {
            let mut nodes = Nodes::new("n1");
            nodes.snapshot([1, 2].map(node).to_vec());
            let mut gate = Gate::new(NetfilterSocket::open, Senders::new(&Config::default().routing));
            gate.senders().know(&nodes.cluster().unwrap());
            assert_eq!(gate.let_in().unwrap(), 0, "there is no table");
            nft::apply(&guard::script(&Config::default())).unwrap();
            gate.let_in().unwrap();
            let first = listed();
            assert_eq!(first.len(), 3, "{first:?}");
            let changes = nodes.update(vec![NodeUpdate::Put(node(3)), NodeUpdate::Remove("n2".into())]);
            gate.senders().change(&changes);
            gate.let_in().unwrap();
            assert_eq!(listed().len(), 5, "both");
            assert_eq!(gate.shut_out().unwrap(), 0);
            let second = listed();
            assert!(second.len() == 3 && second != first, "{second:?}");
            // Another program changes other tables all the time.
            nft::apply("add table inet of-others").unwrap();
            assert_eq!(gate.let_in().unwrap(), 0);
            nft::apply("flush set inet ferrule-guard nodes4").unwrap();
            assert_eq!(gate.let_in().unwrap(), 1);
            assert_eq!(listed(), second);
            let strange = "flush set inet ferrule-guard nodes6\nadd element inet ferrule-guard nodes6 { 2001:db8::3, 2001:db8::bad }";
            nft::apply(strange).unwrap();
            gate.let_in().unwrap();
            gate.shut_out().unwrap();
            assert_eq!(listed(), second);
        };
        netns::make().unwrap().run(work).unwrap();
    }
}
