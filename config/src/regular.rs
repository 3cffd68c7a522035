//! The nodes file in the plain form in which programs write it and most people too, read line by line.
//!
//! A file of 5,000 nodes takes the TOML reader longer than the kernel takes for a third of what it asks for. Here is
//! only what one line of that form can be; anything else (escapes, arrays over several lines, a fault) is nothing that
//! this reader knows, and the TOML reader has it all. What is read here reads the same there, places included.

use std::ops::Range;

use toml::Spanned;

use crate::raw::{RawEntry, RawNodes, Text};

/// A table before its end.
#[derive(Default)]
struct Entry {
    name: Option<Text>,
    address: Option<Text>,
    address6: Option<Text>,
    pod_cidrs: Option<Vec<Text>>,
    vtep_mac: Option<Text>,
    wireguard_key: Option<Text>,
}

/// The nodes, if the whole text is of the plain form.
pub(crate) fn nodes(text: &str) -> Option<RawNodes> {
    let mut entries = Vec::<Entry>::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        match line {
            "" => {}
            "[[node]]" => entries.push(Entry::default()),
            _ if line.starts_with('#') && is_plain(line) => {}
            _ => entries.last_mut()?.take(line, start)?,
        }
    }
    let node = entries.into_iter().map(Entry::whole).collect::<Option<_>>()?;
    Some(RawNodes { node })
}

impl Entry {
    /// Takes `KEY = VALUE`, which begins at `start`; each key once.
    fn take(&mut self, line: &str, start: usize) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.strip_suffix(' ')?, value.strip_prefix(' ')?);
        let start = start + line.len() - value.len();
        let place = match key {
            "name" => &mut self.name,
            "address" => &mut self.address,
            "address6" => &mut self.address6,
            "vtep_mac" => &mut self.vtep_mac,
            "wireguard_key" => &mut self.wireguard_key,
            "pod_cidrs" if self.pod_cidrs.is_none() => {
                self.pod_cidrs = Some(strings(value, start)?);
                return Some(());
            }
            _ => return None,
        };
        if place.is_some() {
            return None;
        }
        *place = Some(string(value, start..start + value.len())?);
        Some(())
    }

    fn whole(self) -> Option<RawEntry> {
        let Self { name, address, address6, pod_cidrs, vtep_mac, wireguard_key } = self;
        let (name, pod_cidrs) = (name?, pod_cidrs.unwrap_or_default());
        Some(RawEntry { name, address, address6, pod_cidrs, vtep_mac, wireguard_key })
    }
}

/// A string in quotes that stands for itself.
fn string(quoted: &str, place: Range<usize>) -> Option<Text> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let is_itself = is_plain(inner) && !inner.contains(['"', '\\']);
    is_itself.then(|| Spanned::new(place, inner.to_owned()))
}

/// `["a", "b"]`.
fn strings(list: &str, start: usize) -> Option<Vec<Text>> {
    let inner = list.strip_prefix('[')?.strip_suffix(']')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let mut at = start + 1;
    let next = |part: &str| {
        let quoted = if at == start + 1 { part } else { part.strip_prefix(' ')? };
        let place = at..at + quoted.len();
        at = place.end + ", ".len();
        string(quoted, place)
    };
    inner.split(',').map(next).collect()
}

/// Nothing but what ASCII prints.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &str = "# all\n[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\npod_cidrs = [\"10.244.1.0/24\", \
                         \"fd00:1::/64\"]\n\n[[node]]\nname = \"b\"\naddress6 = \"2001:db8::2\"\npod_cidrs = []\n\
                         vtep_mac = \"02:00:00:00:00:02\"";

    fn line() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            8 => "\"[a-z0-9:./ ]{0,8}\"",
            1 => "\"[ -~]{0,3}\"",
            1 => Just("\"\\u0041\"".to_owned()),
            1 => Just("'a'".to_owned()),
            1 => Just("7".to_owned()),
            1 => Just("\"a\" # remark".to_owned()),
        ];
        let key = prop_oneof![
            Just("name"),
            Just("address"),
            Just("address6"),
            Just("vtep_mac"),
            Just("mac"),
            Just("\"name\"")
        ];
        let pair = (key, prop_oneof![6 => Just(" = "), 1 => Just("=")], value.clone());
        let pair = pair.prop_map(|(key, is, value)| format!("{key}{is}{value}"));
        let list = prop::collection::vec(value, 0..3).prop_map(|all| format!("[{}]", all.join(", ")));
        let cidrs = list.prop_map(|list| format!("pod_cidrs = {list}"));
        let odd = prop_oneof![
            Just("  "),
            Just("# ü"),
            Just("[node]"),
            Just("# \u{7f}"),
            Just("a = \"\"\""),
            Just("]")
        ];
        prop_oneof![
            6 => Just("[[node]]\nname = \"n\"".to_owned()),
            6 => pair,
            4 => cidrs,
            2 => Just(String::new()),
            1 => odd.prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_here_reads_the_same_there(
            lines in prop::collection::vec(line(), 0..6),
            end in prop_oneof![4 => Just("\n"), 1 => Just("\r\n")],
        ) {
            let text = format!("[[node]]{end}{}", lines.join(end));
            if let Some(read) = nodes(&text) {
                let whole: RawNodes = toml::from_str(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(format!("{read:?}"), format!("{whole:?}"));
            }
        }
    }

    #[test]
    fn the_plain_form_is_read_here() {
        let whole: RawNodes = toml::from_str(PLAIN).unwrap();
        assert_eq!(format!("{:?}", nodes(PLAIN).unwrap()), format!("{whole:?}"));
        assert!(nodes(include_str!("../../conf/nodes.toml")).is_some(), "so is the shipped example");
    }
}
