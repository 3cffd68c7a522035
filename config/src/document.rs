//! The text of one file, and the checks that need to say at which place something is wrong.
//!
//! Single values (addresses, networks, numbers) are parsed here, because each refusal needs the place of the value.
//! `settings`, `nodes` and `services` decide what the values mean together.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use ferrule_model::json::in_words;
use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use toml::Spanned;

use crate::error::Fault;

/// What a network looks like, for remedies.
const NETWORK_EXAMPLE: &str = "write it as 10.244.0.0/16 or fd00:10::/56";

/// A fault is large and rare; boxed, it does not widen every `Result`.
pub(crate) type Checked<T> = Result<T, Box<Fault>>;

/// The text of a file and its name, for faults that point into it.
pub(crate) struct Document<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Document<'a> {
    /// `file` is only a name for messages; nothing is read.
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    /// The whole text as TOML of the given shape.
    pub(crate) fn toml<T: DeserializeOwned>(&self) -> Checked<T> {
        toml::from_str(self.text).map_err(|error| self.shape_fault(error))
    }

    /// A fault at the place of `value`.
    pub(crate) fn fault<T>(
        &self,
        value: &Spanned<T>,
        key: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Box<Fault> {
        self.fault_at(value.span(), key, reason, remedy)
    }

    /// A fault at a place in bytes.
    pub(crate) fn fault_at(
        &self,
        span: Range<usize>,
        key: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Box<Fault> {
        let (line, column) = self.position(span.start);
        Box::new(Fault {
            file: self.file.to_path_buf(),
            line,
            column,
            key: key.to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
        })
    }

    /// A fault of the whole text at a line and a column, counted from 1, as a reader of JSON tells them.
    pub(crate) fn fault_at_line(
        &self,
        (line, column): (usize, usize),
        reason: String,
        remedy: &str,
    ) -> Box<Fault> {
        Box::new(Fault { line, column, ..*self.fault_at(0..0, "", reason, remedy) })
    }

    /// The line of a place, counted from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    /// Line and column (in characters), both counted from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The fault for what the TOML reader refused: syntax, an unknown key, or a value of the wrong type.
    fn shape_fault(&self, mut error: toml::de::Error) -> Box<Fault> {
        let span = error.span().unwrap_or(0..0);
        let said = error.message().trim().replace('\n', ", ");
        // The path of the key is only in the message that is printed without its input.
        error.set_input(None);
        let printed = error.to_string();
        let table = printed
            .rsplit_once("\nin `")
            .and_then(|(_, rest)| rest.trim_end().strip_suffix('`'))
            .unwrap_or_default();
        if let Some(rest) = said.strip_prefix("unknown field ") {
            // The reader names the table that has the key, and not the key.
            let name = rest.split('`').nth(1).unwrap_or_default();
            let key = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
            let remedy = "correct the spelling or remove the key";
            return self.fault_at(span, &key, format!("unknown key {rest}"), remedy);
        }
        let reason = in_words(&said, "a table");
        let remedy = if said.starts_with("missing field") {
            "add the key"
        } else if said.starts_with("invalid type") || said.starts_with("invalid value") {
            "write a value of the expected type"
        } else {
            "correct the syntax of the line"
        };
        self.fault_at(span, table, reason, remedy)
    }

    /// A network: `ADDRESS/LENGTH`, no host bits, something that pods or nodes can live in.
    pub(crate) fn network(&self, key: &str, value: &Spanned<String>) -> Checked<IpNetwork> {
        let network = self.prefix(key, value)?;
        if !has_hosts(&network) {
            let reason = format!("\"{}\" is not a network of single hosts", value.get_ref());
            return Err(self.fault(value, key, reason, NETWORK_EXAMPLE));
        }
        Ok(network)
    }

    /// Any network: `ADDRESS/LENGTH`, no host bits.
    pub(crate) fn prefix(&self, key: &str, value: &Spanned<String>) -> Checked<IpNetwork> {
        let (text, example) = (value.get_ref(), NETWORK_EXAMPLE);
        if !text.contains('/') {
            return Err(self.fault(value, key, format!("\"{text}\" has no prefix length"), example));
        }
        let network = IpNetwork::from_str(text)
            .map_err(|_| self.fault(value, key, format!("\"{text}\" is not a network"), example))?;
        if network.ip() != network.network() {
            let reason = format!("\"{text}\" has bits set behind the prefix");
            let remedy = format!("write {}/{}", network.network(), network.prefix());
            return Err(self.fault(value, key, reason, remedy));
        }
        Ok(network)
    }

    /// A list of networks, none inside another.
    pub(crate) fn networks(&self, key: &str, values: &[Spanned<String>]) -> Checked<Vec<IpNetwork>> {
        let networks =
            values.iter().map(|value| self.network(key, value)).collect::<Checked<Vec<IpNetwork>>>()?;
        let places = networks.iter().copied().zip(values.iter().map(Spanned::span)).collect();
        self.disjoint(key, places)?;
        Ok(networks)
    }

    /// Checks that no two of the networks share an address. The fault is at the later one and names the line of the
    /// other.
    pub(crate) fn disjoint(&self, key: &str, places: Vec<(IpNetwork, Range<usize>)>) -> Checked<()> {
        let Some((first, second)) = crate::overlap::first_overlap(places) else {
            return Ok(());
        };
        let (earlier, later) =
            if first.1.start <= second.1.start { (first, second) } else { (second, first) };
        let reason = format!("{} overlaps {} of line {}", later.0, earlier.0, self.line(&earlier.1));
        Err(self.fault_at(later.1, key, reason, "give every network once and to one owner"))
    }

    /// An IPv4 address that a host can have.
    pub(crate) fn ipv4(&self, key: &str, value: &Spanned<String>) -> Checked<Ipv4Addr> {
        let address: Ipv4Addr = self.address(key, value, "IPv4", "write it as 192.0.2.10")?;
        self.host_address(key, value, address, !is_host_v4(address))
    }

    /// An IPv6 address that a host can have.
    pub(crate) fn ipv6(&self, key: &str, value: &Spanned<String>) -> Checked<Ipv6Addr> {
        let address: Ipv6Addr = self.address(key, value, "IPv6", "write it as 2001:db8::10")?;
        self.host_address(key, value, address, !is_host_v6(address))
    }

    /// An address of either family, to which hosts can send packets.
    pub(crate) fn servable(&self, key: &str, value: &Spanned<String>) -> Checked<IpAddr> {
        let example = "write it as 192.0.2.10 or 2001:db8::10";
        let address: IpAddr = self.address(key, value, "IP", example)?;
        let is_host = match address {
            IpAddr::V4(address) => is_host_v4(address),
            IpAddr::V6(address) => is_host_v6(address) && address.to_ipv4_mapped().is_none(),
        };
        if is_host {
            return Ok(address);
        }
        Err(self.fault(value, key, format!("{address} is not an address of a single host"), example))
    }

    /// The fault for a text that cannot be the name of a node.
    pub(crate) fn not_a_node_name(&self, key: &str, value: &Spanned<String>) -> Box<Fault> {
        let reason = format!("\"{}\" cannot be a node's name", value.get_ref());
        let remedy = "use 1 to 253 letters, digits, '-', '.' and '_', beginning with a letter or a digit";
        self.fault(value, key, reason, remedy)
    }

    fn address<T: FromStr>(
        &self,
        key: &str,
        value: &Spanned<String>,
        family: &str,
        remedy: &str,
    ) -> Checked<T> {
        let text = value.get_ref();
        text.parse()
            .map_err(|_| self.fault(value, key, format!("\"{text}\" is not an {family} address"), remedy))
    }

    fn host_address<T: Display>(
        &self,
        key: &str,
        value: &Spanned<String>,
        address: T,
        odd: bool,
    ) -> Checked<T> {
        if odd {
            let reason = format!("{address} is not an address by which other nodes can reach this one");
            return Err(self.fault(
                value,
                key,
                reason,
                "write the node's address on the network between the nodes",
            ));
        }
        Ok(address)
    }

    /// A whole number inside `range`; `remedy` says what a good value is.
    pub(crate) fn number(
        &self,
        key: &str,
        value: &Spanned<i64>,
        range: std::ops::RangeInclusive<u32>,
        remedy: &str,
    ) -> Checked<u32> {
        match u32::try_from(*value.get_ref()) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => {
                let reason =
                    format!("{} is not between {} and {}", value.get_ref(), range.start(), range.end());
                Err(self.fault(value, key, reason, remedy))
            }
        }
    }
}

/// Whether single hosts can have addresses of `network`.
pub(crate) fn has_hosts(network: &IpNetwork) -> bool {
    let address = network.ip();
    network.prefix() > 0 && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// Whether other hosts can reach a host by `address`.
pub(crate) fn is_host_v4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

/// The same for IPv6.
pub(crate) fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local())
}
