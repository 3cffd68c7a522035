//! A table that one of our programs keeps. Its text is compared with what is in the kernel, and if the two differ, one
//! transaction puts the text there.
//!
//! How `nft` prints a table depends on its version. So a print is compared with an earlier print of the same table. A
//! print is trusted if no ruleset has changed between the transaction that made the table and the print.

use super::{Netfilter, NftError};
use crate::Error;

/// How often a script is loaded before a print is accepted that another program's change may have affected.
const ATTEMPTS: u32 = 3;

/// Why a table cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// `nft` is missing, or refused.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The kernel did not tell the state of its rulesets.
    #[error("cannot ask the kernel for its nftables rulesets: {0}")]
    Kernel(#[from] Error),
}

/// What kind of text a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// The whole table, including its elements, written as `nft` prints it. It replaces the table.
    Whole,
    /// A script that makes those parts of the table that are missing, and writes its rules afresh. The elements stay.
    Script,
}

/// How the table was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was as it has to be.
    Right,
    /// It was missing, and now exists.
    Missing,
    /// It was different, and now is as it has to be.
    Different,
}

/// Keeps one table, of the family that its [`Netfilter`] has. One whose text is [`Text::Whole`] is of the family `inet`.
#[derive(Debug)]
pub struct KeptTable {
    name: &'static str,
    kind: Text,
    known: Option<Known>,
}

/// The table as it was last found right, or made right.
#[derive(Debug)]
struct Known {
    text: String,
    /// How this version of nft prints it, if that was seen.
    printed: Option<String>,
    /// The generation of the rulesets in which it was right. While that stays the same, no ruleset has changed.
    generation: Option<u32>,
}

impl KeptTable {
    /// Keeps the table of this name, whose texts are of this kind.
    pub const fn new(name: &'static str, kind: Text) -> Self {
        Self { name, kind, known: None }
    }

    /// Whether the table was found right or made right before, with this text.
    pub fn is_known(&self, wanted: &str) -> bool {
        self.known(wanted).is_some()
    }

    /// The generation of the rulesets in which the table was last known to be right.
    pub fn right_in(&self) -> Option<u32> {
        self.known.as_ref().and_then(|known| known.generation)
    }

    /// Makes the table as `wanted` says, and returns how it was found.
    ///
    /// # Errors
    /// nft is missing or refused, or the kernel does not answer.
    pub fn keep(&mut self, netfilter: &mut impl Netfilter, wanted: &str) -> Result<Found, KeptError> {
        let generation = netfilter.generation()?;
        if self
            .known(wanted)
            .is_some_and(|known| known.printed.is_some() && known.generation == Some(generation))
        {
            return Ok(Found::Right);
        }
        let number = netfilter.table(self.name)?;
        let listed = self.listed(netfilter)?;
        if let Some(listed) = &listed {
            let undisturbed = netfilter.generation()? == generation;
            if self.is_right(listed, wanted, undisturbed.then_some(generation)) {
                self.note(wanted, Some(listed.clone()), Some(generation));
                return Ok(Found::Right);
            }
        }
        // A script leaves a table that is there. If it has another number now, somebody deleted it after it was listed.
        let was_deleted = match self.kind {
            Text::Whole => {
                self.replace(netfilter, wanted, generation)?;
                false
            }
            Text::Script => {
                self.complete(netfilter, wanted)?;
                netfilter.table(self.name)? != number
            }
        };
        Ok(match listed {
            None => Found::Missing,
            Some(_) if was_deleted => Found::Missing,
            // Only the print shows whether the script has changed anything.
            Some(before) if self.is_printed_as(&before) => Found::Right,
            Some(_) => Found::Different,
        })
    }

    fn is_printed_as(&self, before: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.printed.as_deref() == Some(before))
    }

    /// Replaces the table. The next look lists it, at a time when perhaps nobody waits.
    fn replace(
        &mut self,
        netfilter: &mut impl Netfilter,
        wanted: &str,
        generation: u32,
    ) -> Result<(), KeptError> {
        netfilter.load(&replacement(self.name, wanted))?;
        // A transaction raises the generation by one. If there was another one in between, the table may no longer be
        // as it was made.
        let made = generation.wrapping_add(1);
        let made = (netfilter.generation()? == made).then_some(made);
        self.note(wanted, None, made);
        Ok(())
    }

    /// Makes what is missing of the table, and lists it. If a ruleset changed meanwhile, it does so again.
    fn complete(&mut self, netfilter: &mut impl Netfilter, wanted: &str) -> Result<(), KeptError> {
        for _ in 0..ATTEMPTS {
            let made = netfilter.generation()?.wrapping_add(1);
            netfilter.load(wanted)?;
            let printed = self.listed(netfilter)?;
            let is_undisturbed = netfilter.generation()? == made;
            self.note(wanted, printed, is_undisturbed.then_some(made));
            if is_undisturbed {
                break;
            }
        }
        Ok(())
    }

    fn known(&self, wanted: &str) -> Option<&Known> {
        self.known.as_ref().filter(|known| known.text == wanted)
    }

    fn note(&mut self, text: &str, printed: Option<String>, generation: Option<u32>) {
        self.known = Some(Known { text: text.to_owned(), printed, generation });
    }

    /// Whether this print shows the table as it was made. The first print does, whatever it looks like, if no ruleset
    /// has changed since the table was made.
    fn is_right(&self, listed: &str, wanted: &str, undisturbed: Option<u32>) -> bool {
        let as_made = self.known(wanted).is_some_and(|known| match &known.printed {
            Some(printed) => printed == listed,
            None => undisturbed.is_some() && known.generation == undisturbed,
        });
        as_made || self.kind == Text::Whole && same(listed, wanted)
    }

    /// The table as nft prints it. The kernel itself tells if there is no table, so no program has to be started for
    /// that.
    fn listed(&self, netfilter: &mut impl Netfilter) -> Result<Option<String>, KeptError> {
        if !netfilter.has_table(self.name)? {
            return Ok(None);
        }
        let listed = match self.kind {
            Text::Whole => netfilter.whole(self.name),
            Text::Script => netfilter.rules(self.name),
        };
        Ok(listed?)
    }
}

/// The transaction that replaces whatever table of this name there is in the family `inet` by `text`.
pub fn replacement(name: &str, text: &str) -> String {
    format!("{}{text}", removal("inet", name))
}

/// The transaction that removes the table, if there is one. A deletion alone would fail if there is none.
pub fn removal(family: &str, name: &str) -> String {
    format!("add table {family} {name}\ndelete table {family} {name}\n")
}

/// Whether two texts say the same. Line breaks do not count, because they are nft's choice.
pub fn same(a: &str, b: &str) -> bool {
    let words = |text| str::split(text, [' ', '\t', '\n', ',', ';']).filter(|word: &&str| !word.is_empty());
    words(a).eq(words(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use crate::nft::Flow;
    use crate::nft::{Change, NetfilterSocket, apply};
    use ferrule_model::{Element, Family};

    const SCRIPT: &str = "table inet kept {\n set s { type inet_service; }\n chain c { }\n}\n\
                          flush chain inet kept c\ntable inet kept {\n chain c { tcp dport @s drop; }\n}\n";
    const WHOLE: &str =
        "table inet kept {\n\tset s {\n\t\ttype inet_service\n\t\telements = { 80 }\n\t}\n}\n";

    fn in_namespace(test: impl FnOnce(&mut NetfilterSocket) + Send) {
        netns::make().unwrap().run(|| test(&mut NetfilterSocket::open().unwrap())).unwrap();
    }

    #[test]
    fn what_somebody_deletes_or_changes_is_put_back_and_told_apart() {
        for (kind, text) in [(Text::Whole, WHOLE), (Text::Script, SCRIPT)] {
            in_namespace(|netfilter| {
                let mut table = KeptTable::new("kept", kind);
                assert!(!table.is_known(text));
                let mut keep = || table.keep(netfilter, text).unwrap();
                assert_eq!([keep(), keep(), keep()], [Found::Missing, Found::Right, Found::Right]);
                apply("add table inet of-others").unwrap();
                assert_eq!(keep(), Found::Right, "others change tables of theirs");
                apply("delete table inet kept").unwrap();
                assert_eq!([keep(), keep()], [Found::Missing, Found::Right]);
                apply("add chain inet kept more").unwrap();
                if kind == Text::Whole {
                    assert_eq!([keep(), keep()], [Found::Different, Found::Right]);
                }
                assert!(table.is_known(text));
            });
        }
    }

    #[test]
    fn a_script_puts_rules_right_and_leaves_elements_alone() {
        in_namespace(|netfilter| {
            let port = Element::of_set("s", vec![0, 80], String::new());
            let mut table = KeptTable::new("kept", Text::Script);
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Missing);
            netfilter.change("kept", &[Change::Add(&port)], None).unwrap();
            apply("flush chain inet kept c").unwrap();
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Different);
            assert_eq!(netfilter.elements("kept", "s").unwrap(), [port]);
            // A keeper that has just started finds the table right, and does not say that somebody has changed it.
            let mut table = KeptTable::new("kept", Text::Script);
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Right);
        });
    }

    /// Somebody deletes the table right after it was printed.
    struct Meddled<'a>(&'a mut NetfilterSocket, bool);

    impl Netfilter for Meddled<'_> {
        fn change(&mut self, table: &str, changes: &[Change<'_>], since: Option<u32>) -> Result<(), Error> {
            self.0.change(table, changes, since)
        }
        fn elements(&mut self, table: &str, set: &'static str) -> Result<Vec<Element>, Error> {
            self.0.elements(table, set)
        }
        fn table(&mut self, table: &str) -> Result<Option<u64>, Error> {
            self.0.table(table)
        }
        fn has_table(&mut self, table: &str) -> Result<bool, Error> {
            self.0.has_table(table)
        }
        fn generation(&mut self) -> Result<u32, Error> {
            self.0.generation()
        }
        fn rules(&mut self, table: &str) -> Result<Option<String>, NftError> {
            let rules = self.0.rules(table);
            if std::mem::take(&mut self.1) {
                apply(&format!("delete table inet {table}"))?;
            }
            rules
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
    fn a_table_that_is_deleted_while_it_is_looked_at_is_told_as_deleted() {
        in_namespace(|netfilter| {
            apply(SCRIPT).unwrap();
            let mut table = KeptTable::new("kept", Text::Script);
            // Of the first look nothing is known that the print could be compared with.
            assert_eq!(table.keep(&mut Meddled(netfilter, true), SCRIPT).unwrap(), Found::Missing);
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Right);
            apply("flush chain inet kept c").unwrap();
            assert_eq!(table.keep(&mut Meddled(netfilter, true), SCRIPT).unwrap(), Found::Missing);
        });
    }

    #[test]
    fn a_text_is_the_same_however_its_lines_are_broken() {
        assert!(same(WHOLE, &WHOLE.replace(['\t', '\n'], " ")));
        assert!(!same(WHOLE, &WHOLE.replace("80", "81")));
    }
}
