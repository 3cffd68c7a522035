//! The table without its elements: a script for `nft(8)`.
//!
//! It does not depend on how many Services there are. It depends on the node's networks and on the times for which
//! clients stay with their endpoints, because a rule that remembers an endpoint has its time written in it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::num::NonZeroU32;

use ferrule_model::{Family, IpNetwork, family};

use super::TABLE;
use super::layout::Clients;
use super::sets::{
    AFFINITY, CLUSTER_IPS, ENDPOINTS, INSIDE, LOCAL, NODE_ENDPOINTS, NODE_INSIDE, NODE_SERVICES, NODE_STICKY,
    NODE_UNSERVED, Pair, RESTRICTED, SERVICES, SLOTS, SOURCES, STICKY, UNSERVED,
};

/// The chain that refuses a packet.
pub const REFUSE: &str = "refuse";

/// Up to this number of endpoints there is a chain for each number. Above, there is one for each power of two.
const EXACT: u32 = 16;
/// How often a chain for a power of two draws a slot that may be empty, before it draws from the half that is full. Each
/// time at least half of the slots are full, so one connection in 256 or fewer comes to that end. The endpoints in the
/// upper half get less than the others by at most that.
const DRAWS: u32 = 8;
/// How many clients the kernel remembers the endpoints of. One that comes when there are as many goes to any endpoint.
const CLIENTS: u32 = 1 << 20;
/// The mark of packets whose source may have to be replaced. kube-proxy gives the same bit this meaning
/// (`KUBE-MARK-MASQ`), and no other bit is touched.
const MARK: u32 = 0x4000;

/// What the script depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// The networks of this node's own pods.
    pub own_pods: Vec<IpNetwork>,
    /// Node ports are served at those of the node's addresses that are in these networks.
    pub node_ports: Vec<IpNetwork>,
    /// The networks of cluster IPs.
    pub service_cidrs: Vec<IpNetwork>,
    /// The times for which clients stay with their endpoints, of frontends with IPv4.
    pub times: BTreeSet<NonZeroU32>,
    /// Whether clients stay with their endpoints at a frontend with IPv6.
    pub has_hash: bool,
}

/// The chain that chooses among this many endpoints.
pub(super) fn pick_chain(is_node: bool, clients: Clients, count: usize) -> String {
    let count = u32::try_from(count).unwrap_or(SLOTS).min(SLOTS);
    let slots = if count <= EXACT { count } else { count.next_power_of_two() };
    format!("{}pick-{slots}", prefix(is_node, clients))
}

/// The chain that chooses among this many endpoints by the client's address.
pub(super) fn hash_chain(is_node: bool, clients: Clients, count: usize) -> String {
    let count = u32::try_from(count).unwrap_or(SLOTS).min(SLOTS);
    format!("{}hash-{}", prefix(is_node, clients), count.next_power_of_two())
}

fn prefix(is_node: bool, clients: Clients) -> String {
    let place = if is_node { "node-" } else { "" };
    let clients = if clients == Clients::Inside { "inside-" } else { "" };
    format!("{place}{clients}")
}

/// The chain that remembers an endpoint for this time.
pub(super) fn remember_chain(seconds: NonZeroU32) -> String {
    format!("remember-{seconds}")
}

/// A chain and its rules.
struct Chain {
    name: String,
    /// Where the kernel calls it, if it does.
    hook: Option<&'static str>,
    rules: Vec<String>,
}

impl Chain {
    fn new(name: impl Into<String>, rules: Vec<String>) -> Self {
        Self { name: name.into(), hook: None, rules }
    }

    fn at(name: &str, hook: &'static str, rules: Vec<String>) -> Self {
        Self { name: name.to_owned(), hook: Some(hook), rules }
    }
}

/// Makes the table with its sets, maps and chains, or those of them that are missing, and no rules.
///
/// A table that is not there has to be made by this first. nft 1.0.6 changes the type of the endpoints' maps if it reads
/// their declaration and a rule that translates by them at the same time. Then it refuses the declaration ever after.
pub fn declarations(shape: &Shape) -> String {
    declared(&chains(shape))
}

fn declared(chains: &[Chain]) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    sets(&mut text);
    for Chain { name, hook, .. } in chains {
        let hook = hook.map(|hook| format!(" type {hook}; policy accept; ")).unwrap_or_default();
        let _ = writeln!(text, "\tchain {name} {{{hook}}}");
    }
    text.push_str("}\n");
    text
}

/// Makes the table, or those parts of it that are missing. The rules are written anew, and the elements stay.
pub fn script(shape: &Shape) -> String {
    let chains = chains(shape);
    let mut text = declared(&chains);
    for Chain { name, .. } in &chains {
        let _ = writeln!(text, "flush chain inet {TABLE} {name}");
    }
    let _ = writeln!(text, "table inet {TABLE} {{");
    for Chain { name, rules, .. } in &chains {
        let _ = writeln!(text, "\tchain {name} {{");
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// What rules say of one family.
struct Words {
    family: Family,
    /// `ip` or `ip6`, for addresses and for `dnat`.
    ip: &'static str,
    /// The type of addresses.
    address: &'static str,
    /// The name of `nfproto`.
    nfproto: &'static str,
    /// A number of 16 bits in the header.
    number: &'static str,
}

const WORDS: [Words; 2] = [
    Words { family: Family::V4, ip: "ip", address: "ipv4_addr", nfproto: "ipv4", number: "ip id" },
    Words { family: Family::V6, ip: "ip6", address: "ipv6_addr", nfproto: "ipv6", number: "ip6 length" },
];

impl Words {
    /// The key of a frontend, as a packet has it.
    fn key(&self, is_node: bool) -> String {
        let port = "meta l4proto . th dport";
        if is_node { port.to_owned() } else { format!("{} daddr . {port}", self.ip) }
    }

    /// The rule that translates a packet if there is an endpoint in the slot that `slot` comes to.
    fn translate(&self, is_node: bool, clients: Clients, slot: &str) -> String {
        let Words { ip, nfproto, family, .. } = *self;
        let offset = if clients == Clients::Inside { format!(" offset {SLOTS}") } else { String::new() };
        let guard = if is_node { format!("meta nfproto {nfproto} ") } else { String::new() };
        let endpoints = if is_node { NODE_ENDPOINTS } else { ENDPOINTS }.of(family);
        format!("{guard}dnat {ip} to {} . {slot}{offset} map @{endpoints}", self.key(is_node))
    }

    /// Those of the networks that are of this family.
    fn of<'a>(&self, networks: &'a [IpNetwork]) -> impl Iterator<Item = &'a IpNetwork> {
        networks.iter().filter(|network| family(network) == self.family)
    }
}

/// Rules for IPv4 and for IPv6.
fn each(rule: impl Fn(&Words) -> String) -> Vec<String> {
    WORDS.iter().map(rule).collect()
}

/// A rule for each of the networks.
fn for_each(networks: &[IpNetwork], rule: impl Fn(&Words, &IpNetwork) -> String) -> Vec<String> {
    WORDS.iter().flat_map(|words| words.of(networks).map(|network| rule(words, network))).collect()
}

fn sets(text: &mut String) {
    for Words { family, ip, address, number, .. } in WORDS {
        let of = |pair: Pair| pair.of(family);
        let key = format!("{address} . inet_proto . inet_service");
        let node_key = "inet_proto . inet_service";
        let drawn = "meta l4proto . th dport . numgen random mod 65536";
        // The port has to have a type that belongs to no protocol. nft 1.0.6 cannot read `th dport` back.
        let endpoint = format!("{ip} daddr . {number}");
        let mut declare = |kind, set, content: String| {
            let _ = writeln!(text, "\t{kind} {set} {{ {content}; }}");
        };
        for set in [SERVICES, INSIDE, UNSERVED, STICKY] {
            declare("map", of(set), format!("type {key} : verdict"));
        }
        for set in [NODE_SERVICES, NODE_INSIDE, NODE_UNSERVED, NODE_STICKY] {
            declare("map", of(set), format!("type {node_key} : verdict"));
        }
        declare("map", of(ENDPOINTS), format!("typeof {ip} daddr . {drawn} : {endpoint}"));
        declare("map", of(NODE_ENDPOINTS), format!("typeof {drawn} : {endpoint}"));
        declare("set", of(RESTRICTED), format!("type {key}"));
        declare("set", of(SOURCES), format!("type {key} . {address}; flags interval"));
        declare("set", of(CLUSTER_IPS), format!("type {address}"));
        declare("set", of(LOCAL), format!("type {address} . {address}"));
    }
    let key = "ipv4_addr . ipv4_addr . inet_proto . inet_service";
    let content = format!("type {key} : ipv4_addr . inet_service; size {CLIENTS}; flags dynamic,timeout");
    let _ = writeln!(text, "\tmap {AFFINITY} {{ {content}; }}");
}

fn chains(shape: &Shape) -> Vec<Chain> {
    let mut chains = vec![client(shape)];
    for is_node in [false, true] {
        for clients in [Clients::Outside, Clients::Inside] {
            let powers = (EXACT.ilog2() + 1..=SLOTS.ilog2()).map(|bits| 1 << bits);
            chains.extend((1..=EXACT).chain(powers).map(|slots| pick(shape, is_node, clients, slots)));
            if shape.has_hash {
                let powers = (1..=SLOTS.ilog2()).map(|bits| 1 << bits);
                chains.extend(powers.map(|slots| hash(is_node, clients, slots)));
            }
        }
    }
    chains.extend(arrival(shape));
    chains.extend(refusal(shape));
    chains.extend(departure());
    chains.extend(memory(shape));
    chains
}

/// Marks packets of all clients but this node's own pods. Their answers would not pass this node if the endpoint is on
/// another one.
fn client(shape: &Shape) -> Chain {
    let mut rules =
        for_each(&shape.own_pods, |words, network| format!("{} saddr {network} return", words.ip));
    rules.push(format!("meta mark set meta mark | {MARK:#010x}"));
    Chain::new("client", rules)
}

/// Chooses an endpoint among `slots` slots. Up to [`EXACT`] all of them are full, otherwise more than half.
fn pick(shape: &Shape, is_node: bool, clients: Clients, slots: u32) -> Chain {
    let mut rules = vec!["jump client".to_owned()];
    if !shape.times.is_empty() {
        let (v4, map) = (&WORDS[0], AFFINITY);
        rules.push(format!("dnat ip to ip saddr . {} map @{map}", v4.key(false)));
    }
    for words in &WORDS {
        let draw = |slots| words.translate(is_node, clients, &format!("numgen random mod {slots}"));
        if slots <= EXACT {
            rules.push(draw(slots));
        } else {
            rules.extend((0..DRAWS).map(|_| draw(slots)));
            rules.push(draw(slots / 2));
        }
    }
    Chain::new(pick_chain(is_node, clients, slots as usize), rules)
}

/// The same by the client's IPv6 address. More than half of the slots are full. Each further draw has a seed of its own,
/// so that the clients of an empty slot spread over all others, and come to it alone when it is filled.
fn hash(is_node: bool, clients: Clients, slots: u32) -> Chain {
    let v6 = &WORDS[1];
    let draw =
        |slots, seed| v6.translate(is_node, clients, &format!("jhash ip6 saddr mod {slots} seed {seed:#x}"));
    let mut rules = vec!["jump client".to_owned()];
    rules.extend((1..=DRAWS).map(|seed| draw(slots, seed)));
    rules.push(draw(slots / 2, DRAWS + 1));
    Chain::new(hash_chain(is_node, clients, slots as usize), rules)
}

/// What happens to the first packet of a connection before it is routed. Host ports are translated at priority -100, and
/// come first.
fn arrival(shape: &Shape) -> Vec<Chain> {
    let restricted =
        each(|words| format!("{} @{} jump sources", words.key(false), RESTRICTED.of(words.family)));
    let mut services = each(|words| format!("{} vmap @{}", words.key(false), SERVICES.of(words.family)));
    services.push("fib daddr type local jump node_services".to_owned());
    let mut prerouting = restricted.clone();
    prerouting.extend(for_each(&shape.own_pods, |words, network| {
        format!("{} saddr {network} jump inside", words.ip)
    }));
    prerouting.extend(services.clone());
    let mut output = restricted;
    output.push("jump inside".to_owned());
    output.extend(services);
    let mut sources = each(|words| {
        format!("{} . {} saddr @{} return", words.key(false), words.ip, SOURCES.of(words.family))
    });
    sources.push("drop".to_owned());
    let mut inside = each(|words| format!("{} vmap @{}", words.key(false), INSIDE.of(words.family)));
    inside.push("fib daddr type local jump node_inside".to_owned());
    let on_node = |map: Pair| {
        // A packet from the loopback cannot leave it.
        let mut rules = vec!["ip daddr 127.0.0.0/8 return".to_owned(), "ip6 daddr ::1 return".to_owned()];
        rules.extend(for_each(&shape.node_ports, move |words, network| {
            format!("{} daddr {network} {} vmap @{}", words.ip, words.key(true), map.of(words.family))
        }));
        rules
    };
    vec![
        Chain::new("sources", sources),
        Chain::new("node_inside", on_node(NODE_INSIDE)),
        Chain::new("node_services", on_node(NODE_SERVICES)),
        Chain::new("inside", inside),
        Chain::at("prerouting", "nat hook prerouting priority -99", prerouting),
        Chain::at("output", "nat hook output priority -99", output),
    ]
}

/// What happens to packets to a Service that were not translated.
fn refusal(shape: &Shape) -> Vec<Chain> {
    let mut unserved = each(|words| format!("{} vmap @{}", words.key(false), UNSERVED.of(words.family)));
    unserved.push("fib daddr type local jump node_unserved".to_owned());
    unserved
        .extend(each(|words| format!("{} daddr @{} goto {REFUSE}", words.ip, CLUSTER_IPS.of(words.family))));
    unserved.extend(for_each(&shape.service_cidrs, |words, network| {
        format!("{} daddr {network} drop", words.ip)
    }));
    let node = for_each(&shape.node_ports, |words, network| {
        let map = NODE_UNSERVED.of(words.family);
        format!("{} daddr {network} {} vmap @{map}", words.ip, words.key(true))
    });
    let new = || vec!["ct state new jump unserved".to_owned()];
    vec![
        Chain::new(REFUSE, vec!["meta l4proto tcp reject with tcp reset".to_owned(), "reject".to_owned()]),
        Chain::new("node_unserved", node),
        Chain::new("unserved", unserved),
        Chain::at("unserved_input", "filter hook input priority -1", new()),
        Chain::at("unserved_forward", "filter hook forward priority -1", new()),
        Chain::at("unserved_output", "filter hook output priority -1", new()),
    ]
}

/// The source's translation, where the answers would not come back. It comes before other tables' masquerading at
/// priority 100, because those leave alone what is marked.
///
/// Twice it has nothing to do with the mark: a pod that reaches itself, and two pods on one bridge, whose answers would
/// not leave the bridge.
fn departure() -> [Chain; 1] {
    let mut rules = each(|Words { ip, family, .. }| {
        format!("ct status dnat {ip} saddr . {ip} daddr @{} masquerade fully-random", LOCAL.of(*family))
    });
    rules.extend(each(|Words { ip, family, .. }| {
        let local = LOCAL.of(*family);
        format!(
            "ct status dnat meta iifkind \"bridge\" meta oifkind \"bridge\" {ip} daddr . {ip} daddr @{local} masquerade fully-random"
        )
    }));
    rules.push(format!("meta mark & {MARK:#010x} == 0 return"));
    rules.push(format!("meta mark set meta mark & {:#010x}", !MARK));
    rules.extend(each(|Words { ip, family, .. }| {
        format!("{ip} daddr . {ip} daddr @{} return", LOCAL.of(*family))
    }));
    rules.push("masquerade fully-random".to_owned());
    [Chain::at("postrouting", "nat hook postrouting priority 99", rules)]
}

/// Remembers the endpoint of each client that stays with it. The source is not translated yet.
///
/// It is for IPv4 alone. nft 1.0.6 has room for a key of 16 bytes in a rule that writes to a map, and ends with an
/// assertion if the key is longer.
fn memory(shape: &Shape) -> Vec<Chain> {
    let mut chains: Vec<_> = shape.times.iter().map(|seconds| remember(*seconds)).collect();
    let is_used = !shape.times.is_empty();
    let new = || {
        let rule = || "meta nfproto ipv4 ct state new ct status dnat goto remember".to_owned();
        is_used.then(rule).into_iter().collect()
    };
    chains.push(Chain::new("remember", if is_used { stays(shape) } else { Vec::new() }));
    chains.push(Chain::at("remember_input", "filter hook input priority 90", new()));
    chains.push(Chain::at("remember_postrouting", "filter hook postrouting priority 90", new()));
    chains
}

/// What a tracked connection was to, before it was translated.
const PORT: &str = "meta l4proto . ct original proto-dst";

/// The rules that find out whether, and how long, a client stays with its endpoint.
fn stays(shape: &Shape) -> Vec<String> {
    for_each_protocol(|_| {
        let mut rules = vec![format!("ct original ip daddr . {PORT} vmap @{}", STICKY.0)];
        let networks = WORDS[0].of(&shape.node_ports);
        rules.extend(
            networks.map(|network| format!("ct original ip daddr {network} {PORT} vmap @{}", NODE_STICKY.0)),
        );
        rules
    })
}

fn remember(seconds: NonZeroU32) -> Chain {
    let rules = for_each_protocol(|protocol| {
        let client = format!("ip saddr . ct original ip daddr . {PORT}");
        let (map, to) = (AFFINITY, format!("ip daddr . {protocol} dport"));
        vec![format!("update @{map} {{ {client} timeout {seconds}s : {to} }}")]
    });
    Chain::new(remember_chain(seconds), rules)
}

/// nft knows the type of a tracked connection's port only where the rule names the protocol.
fn for_each_protocol(rules: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let all = ["tcp", "udp", "sctp"].iter().flat_map(|protocol| {
        rules(protocol).into_iter().map(move |rule| format!("meta l4proto {protocol} {rule}"))
    });
    all.collect()
}
