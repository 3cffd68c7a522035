//! A table of ours that somebody keeps: its text is compared with what is in the kernel, and put there in one transaction where
//! the two differ.
//!
//! How `nft` prints a table depends on its version, so a print is compared with an earlier print of the same table. One is
//! trusted if nobody has changed any ruleset between the transaction that made the table and the print.

use super::{Netfilter, NftError};
use crate::Error;

/// How often a script is loaded before a print is taken that somebody may have come in between.
const ATTEMPTS: u32 = 3;

/// Why a table cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// `nft` is missing, or refused.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The kernel did not tell how it is.
    #[error("cannot ask the kernel for its nftables rulesets: {0}")]
    Kernel(#[from] Error),
}

/// What the text of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// All of the table, elements too, written as `nft` prints it. It replaces the table.
    Whole,
    /// A script that makes those parts of the table that are missing, and writes its rules afresh. The elements stay.
    Script,
}

/// How the table was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As it has to be.
    Right,
    /// It was not there, and now it is.
    Missing,
    /// It was another one, and now it is as it has to be.
    Different,
}

/// Keeps one table of the family `inet`.
#[derive(Debug)]
pub struct KeptTable {
    name: &'static str,
    kind: Text,
    known: Option<Known>,
}

/// The table as it was last found right, or made so.
#[derive(Debug)]
struct Known {
    text: String,
    /// How this version of nft prints it, once that was seen.
    printed: Option<String>,
    /// The generation of the rulesets in which it was right. As long as that lasts, nobody has changed any ruleset.
    generation: Option<u32>,
}

impl KeptTable {
    /// Keeps the table of this name, whose texts are of this kind.
    pub const fn new(name: &'static str, kind: Text) -> Self {
        Self { name, kind, known: None }
    }

    /// Whether the table was right or made so before, with this text.
    pub fn is_known(&self, wanted: &str) -> bool {
        self.known(wanted).is_some()
    }

    /// Has the table be as `wanted` says, and tells how it was.
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
        let listed = self.listed(netfilter)?;
        if let Some(listed) = &listed {
            let undisturbed = netfilter.generation()? == generation;
            if self.is_right(listed, wanted, undisturbed.then_some(generation)) {
                self.note(wanted, Some(listed.clone()), Some(generation));
                return Ok(Found::Right);
            }
        }
        match self.kind {
            Text::Whole => self.replace(netfilter, wanted, generation)?,
            Text::Script => self.complete(netfilter, wanted)?,
        }
        Ok(match listed {
            None => Found::Missing,
            // Whether the script has changed anything is seen by the print alone.
            Some(before) if self.is_printed_as(&before) => Found::Right,
            Some(_) => Found::Different,
        })
    }

    fn is_printed_as(&self, before: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.printed.as_deref() == Some(before))
    }

    /// Puts the table in the place of another. It is listed with the next look, which may be when nobody waits.
    fn replace(
        &mut self,
        netfilter: &mut impl Netfilter,
        wanted: &str,
        generation: u32,
    ) -> Result<(), KeptError> {
        netfilter.load(&replacement(self.name, wanted))?;
        // A transaction is one generation; with another in between, it is not certain that the table is still as made.
        let made = generation.wrapping_add(1);
        let made = (netfilter.generation()? == made).then_some(made);
        self.note(wanted, None, made);
        Ok(())
    }

    /// Makes what is missing of the table, and lists it, again if somebody changed any ruleset meanwhile.
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

    /// Whether this print shows the table as it was made. The first one of a generation in which nobody has come in between
    /// does, whatever it looks like.
    fn is_right(&self, listed: &str, wanted: &str, undisturbed: Option<u32>) -> bool {
        let as_made = self.known(wanted).is_some_and(|known| match &known.printed {
            Some(printed) => printed == listed,
            None => undisturbed.is_some() && known.generation == undisturbed,
        });
        as_made || self.kind == Text::Whole && same(listed, wanted)
    }

    /// The table as it is printed. The kernel itself says that there is none: no program has to be started to learn that.
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

/// The transaction that puts `text` in the place of whatever table of this name there is.
pub fn replacement(name: &str, text: &str) -> String {
    format!("{}{text}", removal(name))
}

/// The transaction that removes the table, if there is one: a deletion alone would fail where there is none.
pub fn removal(name: &str) -> String {
    format!("add table inet {name}\ndelete table inet {name}\n")
}

/// Whether two texts say the same: how nft breaks its lines is its own affair.
pub fn same(a: &str, b: &str) -> bool {
    let words = |text| str::split(text, [' ', '\t', '\n', ',', ';']).filter(|word: &&str| !word.is_empty());
    words(a).eq(words(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use crate::nft::{Change, NetfilterSocket, apply};
    use ferrule_model::Element;

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
            let port = Element { set: "s", key: vec![0, 80], value: Vec::new(), comment: String::new() };
            let mut table = KeptTable::new("kept", Text::Script);
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Missing);
            netfilter.change("kept", &[Change::Add(&port)], None).unwrap();
            apply("flush chain inet kept c").unwrap();
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Different);
            assert_eq!(netfilter.elements("kept", "s").unwrap(), [port]);
            // Who has just started finds it right, and does not say that somebody has changed it.
            let mut table = KeptTable::new("kept", Text::Script);
            assert_eq!(table.keep(netfilter, SCRIPT).unwrap(), Found::Right);
        });
    }

    #[test]
    fn a_text_is_the_same_however_its_lines_are_broken() {
        assert!(same(WHOLE, &WHOLE.replace(['\t', '\n'], " ")));
        assert!(!same(WHOLE, &WHOLE.replace("80", "81")));
    }
}
