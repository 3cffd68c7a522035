//! Takes the nodes file from one good state to the next, at a cost that depends on the size of the edit. A file of
//! thousands of nodes changes by a few lines at a time.
//!
//! The old and the new text have a common beginning and a common end; both are cut where a `[[node]]` begins. Only what
//! is in between is parsed. Everything unusual (a fault, a string over several lines, more than a few nodes at once) is
//! left to [`NodesFile::parse`].

use std::ops::Range;
use std::path::Path;

use crate::error::ConfigError;
use crate::nodes::{NodeEntry, NodesFile};
use crate::overlap::contains;

/// Where a node begins: at the start of a line.
const HEADER: &str = "[[node]]";
/// The same, after the end of the line before.
const NEXT: &str = "\n[[node]]";
/// To compare more nodes than this with all others is no faster than to parse everything.
const FEW: usize = 16;

/// The nodes file as it was last good, with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedNodes {
    text: String,
    nodes: Vec<NodeEntry>,
    /// Whether every node begins with [`HEADER`], and nothing else does.
    is_regular: bool,
}

/// What an edit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Some nodes were replaced by others.
    Part {
        /// The nodes before.
        gone: Vec<NodeEntry>,
        /// The nodes now.
        come: Vec<NodeEntry>,
    },
    /// Anything may have changed, so all nodes have to be looked at.
    Whole,
}

impl EditedNodes {
    /// Reads the nodes from the file's text.
    ///
    /// # Errors
    /// As [`NodesFile::parse`].
    pub fn parse(text: String, file: &Path) -> Result<Self, ConfigError> {
        let (NodesFile { nodes }, is_plain) = NodesFile::read(&text, file)?;
        // In the plain form a header is a whole line, and a string ends on its line.
        let is_regular = is_plain || (headers(&text) == nodes.len() && !has_long_string(&text));
        Ok(Self { text, nodes, is_regular })
    }

    /// The nodes, in the order of the file.
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// Takes in the file's new text.
    ///
    /// # Errors
    /// As [`NodesFile::parse`]; then all is as before.
    pub fn edit(&mut self, text: String, file: &Path) -> Result<Edit, ConfigError> {
        if let Some((range, come)) = self.part(&text, file) {
            let gone = self.nodes.splice(range, come.iter().cloned()).collect();
            self.text = text;
            return Ok(Edit::Part { gone, come });
        }
        *self = Self::parse(text, file)?;
        Ok(Edit::Whole)
    }

    /// The nodes of the edited part, and the places of the nodes that it replaces.
    fn part(&self, text: &str, file: &Path) -> Option<(Range<usize>, Vec<NodeEntry>)> {
        let (old, new) = edited(&self.text, text);
        let (before, old, new) = (&self.text[..old.start], &self.text[old], &text[new]);
        if !self.is_regular || headers(old) > FEW || headers(new) > FEW || has_long_string(new) {
            return None;
        }
        let come = match headers(new) {
            0 if new.trim().is_empty() => Vec::new(),
            _ => NodesFile::parse(new, file).ok()?.nodes,
        };
        let first = headers(before);
        let range = first..first + headers(old);
        let (ahead, behind) = (self.nodes.get(..range.start)?, self.nodes.get(range.end..)?);
        let is_regular = come.len() == headers(new);
        let is_empty = ahead.is_empty() && behind.is_empty() && come.is_empty();
        let mut rest = ahead.iter().chain(behind);
        let is_free = rest.all(|other| come.iter().all(|node| !clash(node, other)));
        (is_regular && !is_empty && is_free).then_some((range, come))
    }
}

/// What differs between two texts with a common beginning and a common end, which are cut where a node begins.
fn edited(old: &str, new: &str) -> (Range<usize>, Range<usize>) {
    let same = beginning(old.as_bytes(), new.as_bytes());
    let begins = old.as_bytes()[..same].windows(NEXT.len()).rposition(|place| place == NEXT.as_bytes());
    let start = begins.map_or(0, |at| at + 1);
    let (old_rest, new_rest) = (&old.as_bytes()[start..], &new.as_bytes()[start..]);
    let tail = end(old_rest, new_rest);
    let tail_bytes = &old_rest[old_rest.len() - tail..];
    let ends = tail_bytes.windows(NEXT.len()).position(|place| place == NEXT.as_bytes());
    let tail = ends.map_or(0, |at| tail - at - 1);
    (start..old.len() - tail, start..new.len() - tail)
}

/// So many bytes are compared at once, which is many times faster than one by one.
const BLOCK: usize = 4096;

/// The number of bytes that two texts have in common at their beginning.
fn beginning(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.chunks_exact(BLOCK).zip(other.chunks_exact(BLOCK));
    let whole = blocks.take_while(|(one, other)| one == other).count() * BLOCK;
    let rest = one[whole..].iter().zip(&other[whole..]);
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// The same at their end.
fn end(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.rchunks_exact(BLOCK).zip(other.rchunks_exact(BLOCK));
    let whole = blocks.take_while(|(one, other)| one == other).count() * BLOCK;
    let rest = one[..one.len() - whole].iter().rev().zip(other[..other.len() - whole].iter().rev());
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// Whether there is a string over several lines, which may hold what looks like a header.
fn has_long_string(text: &str) -> bool {
    text.contains("\"\"\"") || text.contains("'''")
}

fn headers(text: &str) -> usize {
    text.matches(NEXT).count() + usize::from(text.starts_with(HEADER))
}

/// Whether two nodes claim the same.
fn clash(one: &NodeEntry, other: &NodeEntry) -> bool {
    fn same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
        one.is_some() && one == other
    }
    one.name == other.name
        || same(one.address.as_ref(), other.address.as_ref())
        || same(one.address6.as_ref(), other.address6.as_ref())
        || same(one.vtep_mac.as_ref(), other.vtep_mac.as_ref())
        || same(one.wireguard_key.as_ref(), other.wireguard_key.as_ref())
        || one.pod_cidrs.iter().any(|a| other.pod_cidrs.iter().any(|b| contains(a, b) || contains(b, a)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "nodes.toml";

    fn block(name: u8, address: u8, pods: u8) -> String {
        format!(
            "[[node]]\nname = \"n{name}\"\naddress = \"192.0.2.{address}\"\npod_cidrs = [\"10.244.{pods}.0/24\"]\n"
        )
    }

    fn blocks() -> impl Strategy<Value = Vec<String>> {
        let number = || 1u8..12;
        let good = number().prop_map(|n| block(n, n, n));
        let any = (number(), number(), number()).prop_map(|(a, b, c)| block(a, b, c));
        let odd = prop_oneof![
            Just("# a remark\n".to_owned()),
            Just("\n".to_owned()),
            Just("[[ node ]]\nname = \"odd\"\naddress = \"192.0.2.99\"\n".to_owned()),
            Just("[[node]]\nname = '''\n[[node]]\n'''\n".to_owned()),
            Just("pod_cidrs = [\n".to_owned()),
            Just("[[node]]\nname = 7\n".to_owned()),
            Just("[[node]] # ü\nname = \"n50\"\naddress = \"192.0.2.50\"\n".to_owned()),
        ];
        prop::collection::vec(prop_oneof![12 => good, 1 => any, 2 => odd], 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_edit_comes_to_the_same_as_the_whole_text(texts in prop::collection::vec(blocks(), 2..5)) {
            let mut known: Option<EditedNodes> = None;
            for text in texts.into_iter().map(|blocks| blocks.concat()) {
                let whole = EditedNodes::parse(text.clone(), Path::new(FILE));
                let Some(edited) = &mut known else {
                    known = whole.ok();
                    continue;
                };
                let before = edited.clone();
                match (edited.edit(text, Path::new(FILE)), whole) {
                    (Ok(edit), Ok(whole)) => {
                        prop_assert_eq!(&*edited, &whole);
                        if let Edit::Part { gone, come } = edit {
                            let mut by_part: Vec<_> = before.nodes.into_iter().filter(|node| !gone.contains(node)).collect();
                            by_part.extend(come);
                            by_part.sort_by(|a, b| a.name.cmp(&b.name));
                            let mut all = whole.nodes;
                            all.sort_by(|a, b| a.name.cmp(&b.name));
                            prop_assert_eq!(by_part, all);
                        }
                    }
                    (Err(edit), Err(whole)) => {
                        prop_assert_eq!(edit.to_string(), whole.to_string());
                        prop_assert_eq!(&*edited, &before);
                    }
                    (edit, whole) => prop_assert!(false, "{edit:?} and {whole:?}"),
                }
            }
        }
    }

    #[test]
    fn what_two_texts_have_in_common_is_found_across_blocks() {
        let text: Vec<u8> = (0..3 * BLOCK + 7).map(|at| at as u8).collect();
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, text.len()] {
            assert_eq!(beginning(&text, &text[..length]), length);
            assert_eq!(end(&text, &text[text.len() - length..]), length);
            let mut other = text.clone();
            if let Some(byte) = other.get_mut(length) {
                *byte ^= 1;
                assert_eq!((beginning(&text, &other), end(&text, &other)), (length, text.len() - length - 1));
            }
        }
    }

    #[test]
    fn one_edited_node_is_all_that_is_told() {
        let text = |pods| [block(1, 1, 1), block(2, 2, pods), block(3, 3, 3)].concat();
        let mut nodes = EditedNodes::parse(text(2), Path::new(FILE)).unwrap();
        let Edit::Part { gone, come } = nodes.edit(text(7), Path::new(FILE)).unwrap() else { panic!() };
        assert_eq!((gone.len(), come.len()), (1, 1));
        assert_eq!(come[0].pod_cidrs, ["10.244.7.0/24".parse().unwrap()]);
        let same = nodes.edit(text(7), Path::new(FILE)).unwrap();
        assert!(matches!(same, Edit::Part { gone, come } if gone == come));
    }
}
