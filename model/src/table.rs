//! The nftables table of host ports: its maps, its sets, and the rules that read them. The number of rules does not
//! depend on the number of pods. In the plugin, `ports` works out what stands in the maps, and `hostports` puts it
//! there. `routed` keeps both the rules and the elements.
//!
//! A packet to a port of the node meets the maps where destinations are translated: in `prerouting` if it comes from
//! outside, and in `output` if it comes from the node itself. The chain `one` looks it up by (address, protocol, port)
//! first. Then the chain `every` looks it up by (protocol, port). `every` is only for the node's own addresses. [`OWN`]
//! has those that an ADD found (the module `own` says which they are). An address of the link by which the packet came
//! also counts as the node's, without anybody having to say so. So an address that the node gets later can be reached
//! from outside at once.
//!
//! Nothing outside of this table is changed for host ports: whoever flushes the table closes the ports and opens
//! nothing. That is why connections from the node's 127.0.0.1 go through the three chains `loopback_*`, and not by the
//! sysctl `route_localnet`. That sysctl would let every pod behind a link reach what listens on the node's loopback
//! addresses as soon as no rule forbids it. The kernel objects to a loopback address only where it chooses a packet's
//! way, so the packet has none at that point:
//!
//! 1. `loopback_out`: a packet that is about to be translated gets [`STAND_IN`] as its source. The kernel chooses the way to
//!    the pod, and `postrouting` puts the node's address in the source's place.
//! 2. `loopback_back`: an answer from the pod is translated back to 127.0.0.1, which the kernel would refuse to route. It
//!    gets the address back with which it came: one of the node's.
//! 3. `loopback_in`: on its way to the socket, behind all routing, it gets 127.0.0.1.
//!
//! The second and the third chain change answers of tracked connections that begin on the node, and nothing else.

use std::net::Ipv4Addr;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "ferrule-hostports";

/// The source of a connection from 127.0.0.1 between `loopback_out` and `postrouting`. It is never on any wire. Pods
/// know this address as their gateway, and nobody has it.
pub const STAND_IN: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The maps that lead to pods.
pub const MAPS: [&str; 4] = ["every4", "every6", "one4", "one6"];
/// The sets in addition to the maps. They say what is masqueraded, and which of the maps' keys also hold for 127.0.0.1.
pub const SETS: [&str; 6] =
    ["masquerade4", "masquerade6", "bridged4", "bridged6", "loopback_every", "loopback_one"];

/// The node's own addresses, in one set for each family. They belong to no pod, and no pod's DEL removes them.
pub const OWN: [&str; 2] = ["own4", "own6"];

/// The comment of each element of [`OWN`]. Other elements have an attachment there.
pub const OWN_COMMENT: &str = "the node";

/// Creates the table, or those parts of it that are missing. The rules are written anew, and the elements stay.
///
/// `output`: a connection to `::1` is left alone. It is refused at once, and clients then try 127.0.0.1.
/// `loopback_out`: a connection whose first packet was sent (`confirmed`) is translated at both ends already, or never
/// will be. If others translate a packet to the node itself, the source is left alone here, so it must stay as it is.
pub const SKELETON: &str = "table inet ferrule-hostports {
	map every4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map every6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
	map one4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map one6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
	set masquerade4 { type ipv4_addr . ipv4_addr; }
	set masquerade6 { type ipv6_addr . ipv6_addr; }
	set bridged4 { type ipv4_addr; }
	set bridged6 { type ipv6_addr; }
	set loopback_every { type inet_proto . inet_service; }
	set loopback_one { type ipv4_addr . inet_proto . inet_service; }
	set own4 { type ipv4_addr; }
	set own6 { type ipv6_addr; }
	chain one { }
	chain every { }
	chain prerouting { type nat hook prerouting priority -100; policy accept; }
	chain output { type nat hook output priority -100; policy accept; }
	chain postrouting { type nat hook postrouting priority 100; policy accept; }
	chain loopback_out { type filter hook output priority -110; policy accept; }
	chain loopback_back { type filter hook prerouting priority -90; policy accept; }
	chain loopback_in { type filter hook input priority 110; policy accept; }
}
flush chain inet ferrule-hostports one
flush chain inet ferrule-hostports every
flush chain inet ferrule-hostports prerouting
flush chain inet ferrule-hostports output
flush chain inet ferrule-hostports postrouting
flush chain inet ferrule-hostports loopback_out
flush chain inet ferrule-hostports loopback_back
flush chain inet ferrule-hostports loopback_in
table inet ferrule-hostports {
	chain one {
		dnat ip to ip daddr . meta l4proto . th dport map @one4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
	}
	chain every {
		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @every4
		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @every6
	}
	chain prerouting {
		fib daddr type != local return
		jump one
		fib daddr . iif type local jump every
		ip daddr @own4 jump every
		ip6 daddr @own6 jump every
	}
	chain output {
		ip6 daddr ::1 return
		fib daddr type != local return
		jump one
		ip daddr 127.0.0.0/8 jump every
		ip daddr @own4 jump every
		ip6 daddr @own6 jump every
	}
	chain postrouting {
		ct status dnat ip saddr . ip daddr @masquerade4 masquerade
		ct status dnat ip6 saddr . ip6 daddr @masquerade6 masquerade
		ct status dnat meta iifkind \"bridge\" meta oifkind \"bridge\" ip daddr @bridged4 masquerade
		ct status dnat meta iifkind \"bridge\" meta oifkind \"bridge\" ip6 daddr @bridged6 masquerade
	}
	chain loopback_out {
		ip saddr != 127.0.0.0/8 return
		ip daddr != 127.0.0.0/8 return
		ct direction original ct status & (snat | dnat) == snat | dnat ip saddr set 169.254.1.1 return
		ct status & confirmed == confirmed return
		meta l4proto . th dport @loopback_every ip saddr set 169.254.1.1 return
		ip daddr . meta l4proto . th dport @loopback_one ip saddr set 169.254.1.1
	}
	chain loopback_back {
		iif != lo ip daddr 127.0.0.0/8 ct direction reply ct status dnat ip daddr set ct reply ip daddr
	}
	chain loopback_in {
		iif != lo ct direction reply ct status dnat ct original ip saddr 127.0.0.0/8 ip daddr set ct original ip saddr
	}
}
";
