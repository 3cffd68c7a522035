//! The state of a node's network as text that can be compared: what is there now, what is missing, what is left over. Lives here:
//! which properties of a kernel object make it the same one; counters, indexes and ages do not.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde_json::{Map, Value};

use crate::{
    command::{json_here, wait_for},
    error::{LabError, Result},
    space::Space,
};

/// Everything a node's network holds, by kind; equal snapshots are equal networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, Vec<String>>);

/// One kind of object: the dump, and the keys that say which object it is.
struct Kind {
    name: &'static str,
    dump: &'static str,
    keys: &'static [&'static str],
}

const ROUTE: &[&str] = &[
    "type", "dst", "from", "gateway", "via", "dev", "table", "protocol", "scope", "prefsrc", "metric",
    "flags", "mtu", "nexthops",
];
const RULE: &[&str] =
    &["priority", "src", "srclen", "dst", "dstlen", "table", "action", "iif", "oif", "fwmark", "fwmask"];

const KINDS: &[Kind] = &[
    Kind {
        name: "links",
        dump: "ip -j -d link show",
        keys: &["ifname", "address", "mtu", "ifalias", "linkinfo", "flags"],
    },
    Kind { name: "IPv4 routes", dump: "ip -j -4 route show table all", keys: ROUTE },
    Kind { name: "IPv6 routes", dump: "ip -j -6 route show table all", keys: ROUTE },
    Kind { name: "IPv4 rules", dump: "ip -j -4 rule show", keys: RULE },
    Kind { name: "IPv6 rules", dump: "ip -j -6 rule show", keys: RULE },
    Kind {
        name: "neighbours",
        dump: "ip -j neigh show nud permanent",
        keys: &["dst", "dev", "lladdr", "state"],
    },
    Kind {
        name: "nexthops",
        dump: "ip -j nexthop show",
        keys: &["gateway", "dev", "scope", "protocol", "blackhole", "flags"],
    },
    Kind { name: "FDB", dump: "bridge -j fdb show", keys: &["mac", "ifname", "dst", "flags", "state"] },
];

impl Snapshot {
    /// Reads the node's network.
    pub fn take(node: &Space) -> Result<Snapshot> {
        node.enter(|| {
            let mut kinds = BTreeMap::new();
            for kind in KINDS {
                let dump = json_here(kind.dump)?;
                let objects = dump.as_array().into_iter().flatten().filter_map(Value::as_object);
                let mut lines: Vec<String> = objects
                    .filter(|object| is_steady(object))
                    .map(|object| line(object, kind.keys))
                    .collect();
                lines.sort_unstable();
                kinds.insert(kind.name, lines);
            }
            let links = json_here("ip -j address show")?;
            kinds.insert("addresses", addresses(&links));
            let rules = json_here("nft -j list ruleset")?;
            let rules =
                rules["nftables"].as_array().into_iter().flatten().filter(|rule| rule["metainfo"].is_null());
            kinds.insert("nftables", rules.map(|rule| without_counts(rule).to_string()).collect());
            Ok(Snapshot(kinds))
        })?
    }

    /// The lines of a kind.
    pub fn lines(&self, kind: &str) -> &[String] {
        self.0.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many objects of any kind name this address, prefix or MAC.
    pub fn mentions(&self, word: &str) -> usize {
        self.0.values().flatten().filter(|line| line.split(' ').any(|other| other == word)).count()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is missing from `now` and what it has too much, a line each; nothing when they are the same.
    pub fn difference(&self, now: &Snapshot) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, before) in &self.0 {
            let now = now.lines(kind);
            found.extend(surplus(before, now).iter().map(|line| format!("missing of {kind}: {line}")));
            found.extend(surplus(now, before).iter().map(|line| format!("left over of {kind}: {line}")));
        }
        found
    }

    /// Waits until the node's network is as it was then; gives the time it took.
    pub fn wait_same(&self, node: &Space, what: &str, within: Duration) -> Result<Duration> {
        let check = || {
            let difference = self.difference(&Snapshot::take(node)?);
            Ok(if difference.is_empty() { Ok(()) } else { Err(shown(&difference)) })
        };
        wait_for(what, within, check).map(|((), took)| took)
    }

    /// The node's network is now as it was then.
    pub fn assert_same(&self, node: &Space, what: &str) -> Result<()> {
        let difference = self.difference(&Snapshot::take(node)?);
        if difference.is_empty() {
            return Ok(());
        }
        Err(LabError::promise(format!("{what} on {}", node.name()), shown(&difference)))
    }
}

/// Differences for a message, the first few.
fn shown(difference: &[String]) -> String {
    let mut text = format!("{} differences", difference.len());
    for line in difference.iter().take(6) {
        let _ = write!(text, "\n      {line}");
    }
    text
}

/// The lines of `some` that `others` has fewer of.
fn surplus<'a>(some: &'a [String], others: &[String]) -> Vec<&'a String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in others {
        *left.entry(line).or_default() += 1;
    }
    let mut is_known = |line: &&String| match left.get_mut(line.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    some.iter().filter(|line| !is_known(line)).collect()
}

/// Whether an object is of the configuration, not of the moment. The kernel itself makes the entries of the local table for
/// the addresses (which are compared by themselves), for IPv6 ones only when it has looked for duplicates; and it adds
/// multicast groups to every link as soon as forwarding is on, which a routing daemon leaves on. A bridge learns who is behind
/// which port, and forgets it.
fn is_steady(object: &Map<String, Value>) -> bool {
    let is = |key: &str, value: &str| object.get(key).and_then(Value::as_str) == Some(value);
    let group = object.get("mac").and_then(Value::as_str).is_some_and(|mac| {
        let first = mac.get(..2).and_then(|octet| u8::from_str_radix(octet, 16).ok());
        first.is_some_and(|octet| octet & 1 == 1) // the group bit of a MAC address
    });
    let derived = is("table", "local") && is("protocol", "kernel");
    let learned = object.contains_key("mac") && object.contains_key("master") && !is("state", "permanent");
    !derived && !is("type", "multicast") && !group && !learned
}

/// Flags that follow the carrier of the link below, some time after it changes.
const CARRIER: [&str; 4] = ["LOWER_UP", "NO-CARRIER", "linkdown", "dead"];

/// The object as a line: the given keys with their values.
fn line(object: &Map<String, Value>, keys: &[&str]) -> String {
    let mut line = String::new();
    for key in keys {
        match object.get(*key) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                let _ = write!(line, "{key} {text} ");
            }
            Some(Value::Array(flags)) if *key == "flags" => {
                let steady = flags.iter().filter_map(Value::as_str).filter(|flag| !CARRIER.contains(flag));
                let _ = write!(line, "{key} {} ", steady.collect::<Vec<_>>().join(","));
            }
            Some(value) => {
                let _ = write!(line, "{key} {} ", without_counts(value));
            }
        }
    }
    line.trim_end().to_owned()
}

fn addresses(links: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for link in links.as_array().into_iter().flatten() {
        for info in link["addr_info"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.to_string().replace('"', "");
            lines.push(format!(
                "{}/{} dev {}",
                text(&info["local"]),
                text(&info["prefixlen"]),
                text(&link["ifname"])
            ));
        }
    }
    lines.sort_unstable();
    lines
}

/// A value without what changes by itself: numbers that count, handles and indexes given by the kernel.
fn without_counts(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let steady = |key: &str| {
                !matches!(
                    key,
                    "packets" | "bytes" | "handle" | "index" | "expires" | "id" | "timer" | "gc_timer"
                ) && !key.ends_with("_timer")
            };
            // A VXLAN device's "id" is its VNI, which does not change by itself.
            let is_vxlan = object.contains_key("port") && object.contains_key("learning");
            let keep = |key: &str| steady(key) || (key == "id" && is_vxlan);
            let of_set = |key: &str, value: &Value| match (key, value) {
                ("elem", Value::Array(elements)) => lasting(elements),
                _ => Some(without_counts(value)),
            };
            let keys = object.iter().filter(|(key, _)| keep(key));
            keys.filter_map(|(key, value)| Some((key.clone(), of_set(key, value)?))).collect()
        }
        Value::Array(values) => values.iter().map(without_counts).collect(),
        other => other.clone(),
    }
}

/// The elements of a set, sorted, because the kernel lists them in any order. `None` if none lasts.
///
/// The kernel itself makes an element that counts connections or frames, and takes it away when it has forgotten the last
/// one that the element counts. That may be minutes after the pod.
fn lasting(elements: &[Value]) -> Option<Value> {
    let counts =
        |element: &&Value| ["ct count", "limit"].iter().any(|key| element["elem"].get(key).is_some());
    let mut lasting: Vec<_> =
        elements.iter().filter(|element| !counts(element)).map(without_counts).collect();
    lasting.sort_by_key(Value::to_string);
    (!lasting.is_empty()).then_some(Value::Array(lasting))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(kind: &'static str, lines: &[&str]) -> Snapshot {
        Snapshot(BTreeMap::from([(kind, lines.iter().map(|line| (*line).to_owned()).collect())]))
    }

    #[test]
    fn what_is_missing_and_what_is_left_over_is_told_apart_and_counted() {
        let before = of("nexthops", &["a", "a", "b"]);
        let now = of("nexthops", &["a", "b", "c"]);
        assert_eq!(before.difference(&now), ["missing of nexthops: a", "left over of nexthops: c"]);
        assert!(before.difference(&before).is_empty());
        assert_eq!((before.len(), before.mentions("a")), (3, 2));
        // 192.0.2.25 is another address than 192.0.2.2.
        assert_eq!(of("IPv4 routes", &["default via 192.0.2.25"]).mentions("192.0.2.2"), 0);
    }

    #[test]
    fn counters_and_handles_do_not_make_a_difference_and_a_vni_does() {
        let one = json!({"rule": {"handle": 3, "expr": [{"counter": {"packets": 1, "bytes": 80}}]}});
        let other = json!({"rule": {"handle": 9, "expr": [{"counter": {"packets": 5, "bytes": 400}}]}});
        assert_eq!(without_counts(&one), without_counts(&other));
        let set = |elements: &[Value]| json!({"set": {"name": "share_links", "elem": elements}});
        let count = json!({"elem": {"val": "fer1", "ct count": {"val": 1024, "inv": true}}});
        assert_eq!(without_counts(&set(&[count])), json!({"set": {"name": "share_links"}}));
        let one_and_two = set(&[json!("fer1"), json!("fer2")]);
        assert_eq!(without_counts(&set(&[json!("fer2"), json!("fer1")])), one_and_two);
        let vxlan = json!({"id": 1, "port": 8472, "learning": false});
        assert_eq!(without_counts(&vxlan), vxlan);
    }

    #[test]
    fn a_link_that_is_down_is_another_one_and_its_carrier_is_not_of_it() {
        let link = |flags: &[&str]| {
            line(json!({"ifname": "eth0", "flags": flags}).as_object().unwrap(), &["ifname", "flags"])
        };
        assert_eq!(link(&["UP", "LOWER_UP"]), link(&["NO-CARRIER", "UP"]));
        assert_ne!(link(&["UP", "LOWER_UP"]), link(&["LOWER_UP"]));
    }

    #[test]
    fn what_the_kernel_makes_by_itself_is_not_of_the_configuration() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        assert!(!is_steady(&object(json!({"mac": "33:33:00:00:00:02", "ifname": "eth0"}))));
        assert!(is_steady(&object(json!({"mac": "0a:33:00:00:00:02", "ifname": "ferrule.1"}))));
        let learned =
            json!({"mac": "0a:33:00:00:00:02", "ifname": "fer1", "master": "ferrule0", "state": ""});
        assert!(!is_steady(&object(learned)));
        assert!(!is_steady(&object(
            json!({"type": "anycast", "dst": "2001:db8:1::", "table": "local", "protocol": "kernel"})
        )));
    }
}
