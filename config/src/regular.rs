//! Reads the nodes file in the plain form in which programs and most people write it, from text to nodes in one go.
//!
//! A file of 5,000 nodes takes the TOML reader longer than the kernel takes for a third of what it asks for. This
//! reader knows only what one line of that form can be, and only nodes without a fault. For anything else (escapes,
//! arrays over several lines, two nodes with one address) the TOML reader gets the whole text, and says what is wrong
//! and where. What this reader accepts, the TOML reader reads in the same way.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferrule_model::{Mac, WgKey};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::document::{has_hosts, is_host_v4, is_host_v6};
use crate::name::check_node_name;
use crate::nodes::{NodeEntry, is_of_one_device};
use crate::overlap::first_overlap;

/// Bytes of a short table. A text holds hardly more tables than its length divided by this.
const SHORT: usize = 100;

/// The nodes, if the whole text is of the plain form and has no fault.
pub(crate) fn nodes(text: &str) -> Option<Vec<NodeEntry>> {
    let mut rest = Rest(text);
    let mut nodes = Vec::with_capacity(text.len() / SHORT);
    rest.pass_over_remarks()?;
    while !rest.0.is_empty() {
        rest.take("[[node]]")?;
        rest.end_of_line()?;
        nodes.push(Table::read(&mut rest)?.node()?);
    }
    (!nodes.is_empty() && is_each_its_own(&nodes)).then_some(nodes)
}

/// What has not been read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn end_of_line(&mut self) -> Option<()> {
        if self.0.is_empty() { Some(()) } else { self.take("\n") }
    }

    /// Skips empty lines and remarks.
    fn pass_over_remarks(&mut self) -> Option<()> {
        loop {
            match self.0.as_bytes().first() {
                Some(b'\n') => {}
                Some(b'#') => {
                    let length = self.0.bytes().position(|byte| !is_printed(byte)).unwrap_or(self.0.len());
                    self.0 = self.0.get(length..)?;
                }
                _ => return Some(()),
            }
            self.end_of_line()?;
        }
    }

    /// The key of `KEY = `.
    fn key(&mut self) -> Option<&'a str> {
        let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let (key, rest) = self.0.split_at_checked(self.0.bytes().position(|byte| !is_key(byte))?)?;
        self.0 = rest.strip_prefix(" = ")?;
        Some(key)
    }

    /// A string in quotes without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.take("\"")?;
        let is_itself = |byte| is_printed(byte) && byte != b'"' && byte != b'\\';
        let (found, rest) = self.0.split_at_checked(self.0.bytes().position(|byte| !is_itself(byte))?)?;
        self.0 = rest.strip_prefix('"')?;
        Some(found)
    }

    /// Networks, as in `["a", "b"]`.
    fn networks(&mut self) -> Option<Vec<IpNetwork>> {
        self.take("[")?;
        let mut networks = Vec::new();
        if self.take("]").is_some() {
            return Some(networks);
        }
        loop {
            networks.push(network(self.string()?)?);
            if self.take(", ").is_none() {
                return self.take("]").map(|()| networks);
            }
        }
    }
}

/// Whether the byte is a printable character of ASCII.
fn is_printed(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// A table that is being read.
#[derive(Default)]
struct Table<'a> {
    name: Option<&'a str>,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
    pod_cidrs: Option<Vec<IpNetwork>>,
    vtep_mac: Option<Mac>,
    wireguard_key: Option<WgKey>,
}

impl<'a> Table<'a> {
    /// Reads the lines up to the next table. Each is `KEY = VALUE`, and each key occurs once.
    fn read(rest: &mut Rest<'a>) -> Option<Self> {
        let mut table = Self::default();
        loop {
            rest.pass_over_remarks()?;
            if rest.0.is_empty() || rest.0.starts_with('[') {
                return Some(table);
            }
            match rest.key()? {
                "name" => once(&mut table.name, rest.string())?,
                "address" => once(&mut table.address, rest.string()?.parse().ok())?,
                "address6" => once(&mut table.address6, rest.string()?.parse().ok())?,
                "pod_cidrs" => once(&mut table.pod_cidrs, rest.networks())?,
                "vtep_mac" => once(&mut table.vtep_mac, rest.string()?.parse().ok())?,
                "wireguard_key" => once(&mut table.wireguard_key, rest.string()?.parse().ok())?,
                _ => return None,
            }
            rest.end_of_line()?;
        }
    }

    /// The node, if the values make one.
    fn node(self) -> Option<NodeEntry> {
        let Self { name, address, address6, pod_cidrs, vtep_mac, wireguard_key } = self;
        let name = name.filter(|name| check_node_name(name))?.to_owned();
        let is_good = (address.is_some() || address6.is_some())
            && address.is_none_or(is_host_v4)
            && address6.is_none_or(is_host_v6)
            && vtep_mac.is_none_or(is_of_one_device);
        let pod_cidrs = pod_cidrs.unwrap_or_default();
        is_good.then_some(NodeEntry { name, address, address6, pod_cidrs, vtep_mac, wireguard_key })
    }
}

fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    if place.is_some() {
        return None;
    }
    *place = Some(value?);
    Some(())
}

/// `ADDRESS/LENGTH` without bits behind the prefix.
fn network(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.split_once('/')?;
    let length = length.parse().ok().filter(|_| !length.starts_with('+'))?;
    let network: IpNetwork = if address.contains(':') {
        Ipv6Network::new(address.parse().ok()?, length).ok()?.into()
    } else {
        Ipv4Network::new(address.parse().ok()?, length).ok()?.into()
    };
    (network.ip() == network.network() && has_hosts(&network)).then_some(network)
}

/// Whether no two nodes claim the same name, address, MAC, key or pod address.
fn is_each_its_own(nodes: &[NodeEntry]) -> bool {
    let of_both = |node: &NodeEntry| [node.address.map(IpAddr::V4), node.address6.map(IpAddr::V6)];
    let places = nodes.iter().flat_map(|node| &node.pod_cidrs).map(|network| (*network, ()));
    are_distinct(nodes.len(), nodes.iter().map(|node| &node.name))
        && are_distinct(2 * nodes.len(), nodes.iter().flat_map(of_both).flatten())
        && are_distinct(0, nodes.iter().filter_map(|node| node.vtep_mac))
        && are_distinct(0, nodes.iter().filter_map(|node| node.wireguard_key))
        && first_overlap(places.collect()).is_none()
}

fn are_distinct<T: Eq + Hash>(about: usize, mut values: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::with_capacity(about);
    values.all(|value| seen.insert(value))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::NodesFile;
    use proptest::prelude::*;

    const PLAIN: &str = "# all\n[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\npod_cidrs = [\"10.244.1.0/24\", \
                         \"fd00:1::/64\"]\n\n[[node]]\nname = \"b\"\naddress6 = \"2001:db8::2\"\npod_cidrs = []\n\
                         vtep_mac = \"02:00:00:00:00:02\"";

    /// The nodes that the TOML reader finds in a text.
    fn whole(text: &str) -> Option<Vec<NodeEntry>> {
        NodesFile::read_any(text, Path::new("nodes.toml")).ok().map(|file| file.nodes)
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            2 => "\"[a-z0-9:./ ]{0,8}\"",
            1 => "\"[ -~]{0,3}\"",
            4 => "\"[abc-][a-c]?\"",
            6 => "\"(192\\.0\\.2|127\\.0\\.0|255\\.255\\.255|0\\.0\\.0)\\.(0|1|2|3|255|256)\"",
            4 => "\"(2001:db8|fe80|ff02|)::[12]?\"",
            6 => "\"10\\.0\\.[0-3]\\.0/(2[2-5]|0|33|[+]24|024|255\\.255\\.255\\.0)\"",
            4 => "\"(fd00|::ffff:10.0|0)(:1)?::/(1[56]|3[12]|64|129)\"",
            2 => "\"0[0-3]:00:00:00:00:0[01]\"",
            1 => "\"([A-Za-z0-9+/]{43}=|A{43}=)\"",
            1 => Just("\"\\u0041\"".to_owned()),
            1 => Just("'a'".to_owned()),
            1 => Just("7".to_owned()),
            1 => Just("\"a\" # remark".to_owned()),
        ]
    }

    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            6 => Just("name"),
            6 => Just("address"),
            6 => Just("address6"),
            3 => Just("vtep_mac"),
            3 => Just("wireguard_key"),
            1 => Just("mac"),
            1 => Just("\"name\""),
        ];
        let pair = (key, prop_oneof![6 => Just(" = "), 1 => Just("=")], text());
        let pair = pair.prop_map(|(key, is, value)| format!("{key}{is}{value}"));
        let list = (prop::collection::vec(text(), 0..3), prop_oneof![6 => Just(", "), 1 => Just(",")]);
        let cidrs = list.prop_map(|(list, between)| format!("pod_cidrs = [{}]", list.join(between)));
        let odd = prop_oneof![
            Just("  "),
            Just("# ü"),
            Just("# = \""),
            Just("[node]"),
            Just("# \u{7f}"),
            Just("a = \"\"\""),
            Just("]")
        ];
        prop_oneof![
            6 => "\\[\\[node\\]\\]\nname = \"n[0-9]\"\naddress = \"192\\.0\\.2\\.[1-9]\"",
            6 => pair,
            4 => cidrs,
            2 => Just(String::new()),
            1 => odd.prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_here_reads_the_same_there(
            lines in prop::collection::vec(line(), 0..6),
            end in prop_oneof![4 => Just("\n"), 1 => Just("\r\n")],
        ) {
            let text = format!("[[node]]{end}{}", lines.join(end));
            if let Some(read) = nodes(&text) {
                prop_assert_eq!(Some(read), whole(&text), "{}", text);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_programs_write_is_read_here(
            numbers in prop::collection::btree_set(1..255_u32, 1..20),
            has in prop::array::uniform5(any::<bool>()),
        ) {
            let [v4, v6, pods, mac, key] = has;
            let mut text = String::new();
            for n in numbers {
                let lines = [
                    (true, format!("[[node]]\nname = \"Node_{n}.example-\"")),
                    (v4 || !v6, format!("address = \"192.0.2.{n}\"")),
                    (v6, format!("address6 = \"2001:db8::{n:x}:1\"")),
                    (pods, format!("pod_cidrs = [\"10.0.{n}.0/24\", \"10.1.0.{n}/32\", \"fd00:{n:x}::/64\"]")),
                    (mac, format!("vtep_mac = \"02:00:00:00:00:{n:02X}\"")),
                    (key, format!("wireguard_key = \"{n:A>40}AAA=\"")),
                ];
                lines.iter().filter(|(is, _)| *is).for_each(|(_, line)| text.extend([line, "\n"]));
            }
            prop_assert!(nodes(&text).is_some());
            prop_assert_eq!(nodes(&text), whole(&text), "{}", text);
        }
    }

    #[test]
    fn the_plain_form_is_read_here() {
        assert_eq!(nodes(PLAIN).unwrap(), whole(PLAIN).unwrap());
        assert!(nodes(include_str!("../../conf/nodes.toml")).is_some(), "so is the shipped example");
    }

    #[test]
    fn a_fault_is_left_to_the_reader_that_says_where() {
        let node = |(name, n)| {
            format!(
                "[[node]]\nname = \"{name}\"\naddress = \"192.0.2.{n}\"\npod_cidrs = [\"10.0.{n}.0/24\"]\n"
            )
        };
        let good = [("a", 1), ("b", 2)].map(node).concat();
        assert!(nodes(&good).is_some());
        for (right, wrong) in [
            ("\"b\"", "\"a\""),
            ("\"b\"", "\"-\""),
            ("192.0.2.2", "192.0.2.1"),
            ("192.0.2.2", "127.0.0.1"),
            ("10.0.2.0/24", "10.0.0.0/16"),
            ("10.0.2.0/24", "10.0.2.1/24"),
            ("10.0.2.0/24", "10.0.2.0"),
            ("name = \"b\"\n", ""),
            ("address = \"192.0.2.2\"\n", ""),
            ("name = \"b\"", "name = \"b\"\nname = \"c\""),
            ("name = \"b\"", "name = \"b\"\nvtep_mac = \"01:00:00:00:00:00\""),
        ] {
            let text = good.replacen(right, wrong, 1);
            assert!(text != good && nodes(&text).is_none(), "{text}");
        }
        assert!(nodes("# none\n").is_none());
    }
}
