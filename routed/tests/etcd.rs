//! The etcd source against Debian's etcd: which subnets are taken, kept, lost and taken again, and by which node.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod compaction;
mod daemon;
mod keys;
pub(crate) mod server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use self::server::{Etcd, flannels};
use ferrule_config::{Config, NodeFile};
use nix::sys::signal::Signal;
use routed::decide::nodes::{Node, Nodes};
use routed::pass::device::known_macs;
use routed::source::{EtcdSource, KnownMacs, NodeEvent, Source};

const LIMIT: Duration = Duration::from_secs(40);
const QUIET: Duration = Duration::from_millis(300);
/// The subnets below and above are those that the tests put there for other nodes.
const NETWORK: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0","SubnetMax":"10.5.240.0","Backend":{"Type":"vxlan"}}"#;

/// A started member with a network, in the tests' own namespace.
fn etcd(directory: &Path, network: &str) -> Etcd {
    let mut etcd = Etcd::new(directory, ports());
    lo_up();
    etcd.start();
    etcd.put_config(network);
    etcd
}

/// Two ports that no other test has.
fn ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(23_790);
    NEXT.fetch_add(2, Ordering::Relaxed)
}

/// Switches the loopback device on, which is off in the tests' own namespace.
fn lo_up() {
    let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(status.expect("install iproute2").success());
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A node that takes its subnet from etcd.
struct Subject {
    source: EtcdSource,
    /// Everything that the source has told so far, put together.
    known: Nodes,
}

impl Subject {
    /// The node at 192.0.2.`last`. Must be called within a runtime.
    fn new(endpoints: &[String], last: u8, more: &str) -> Self {
        Self::in_directory(endpoints, last, more, &PathBuf::from("/nowhere"))
    }

    fn in_directory(endpoints: &[String], last: u8, more: &str, runtime: &Path) -> Self {
        Self::configured(endpoints, last, ("", more), runtime)
    }

    /// A node whose name does not follow from its address.
    fn named(endpoints: &[String], name: &str, last: u8) -> Self {
        Self::of(endpoints, (name, last), ("", ""), Path::new("/nowhere"))
    }

    /// `routing` are further keys of `[routing]`, `etcd` of `[routing.etcd]`.
    fn configured(endpoints: &[String], last: u8, more: (&str, &str), runtime: &Path) -> Self {
        Self::of(endpoints, (&format!("n{last}"), last), more, runtime)
    }

    fn of(
        endpoints: &[String],
        (name, last): (&str, u8),
        (routing, etcd): (&str, &str),
        runtime: &Path,
    ) -> Self {
        let text = format!(
            "[node]\naddress = \"192.0.2.{last}\"\naddress6 = \"2001:db8::{last}\"\n[routing]\nsource = \"etcd\"\n{routing}\
             [routing.etcd]\nendpoints = {endpoints:?}\n{etcd}"
        );
        let config = Config::parse(&text, Path::new("test")).unwrap();
        Self {
            source: EtcdSource::new(&config, name, runtime, known_macs(&config.routing.vxlan)),
            known: Nodes::new(name),
        }
    }

    async fn event(&mut self) {
        let event = tokio::time::timeout(LIMIT, self.source.next()).await;
        match event.unwrap_or_else(|_| panic!("nothing is told; known are {:?}", self.names())) {
            NodeEvent::Snapshot(nodes) => drop(self.known.snapshot(nodes)),
            NodeEvent::Changes(updates) => drop(self.known.update(updates)),
        }
    }

    /// Waits until what was told fulfils the condition.
    async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            self.event().await;
        }
    }

    async fn is_quiet(&mut self) {
        let event = tokio::time::timeout(QUIET, self.source.next()).await;
        assert!(event.is_err(), "{event:?}");
    }

    fn own(&self) -> Option<Node> {
        Some(self.known.cluster()?.own)
    }

    /// The subnets as the lease's key has them.
    fn subnet(&self) -> String {
        let own = self.own().unwrap();
        let part = |cidr: &ferrule_model::IpNetwork| format!("{}-{}", cidr.ip(), cidr.prefix());
        own.pod_cidrs.iter().map(part).collect::<Vec<_>>().join("&")
    }

    fn names(&self) -> Vec<String> {
        self.known.cluster().map_or_else(Vec::new, |cluster| cluster.others.into_keys().collect())
    }
}

#[test]
fn a_node_takes_a_subnet_as_flannel_does_and_follows_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    etcd.put("10.5.7.0-24", 7);
    run(async {
        let mut node = Subject::new(&[etcd.url()], 1, "");
        node.until(|node| node.own().is_some()).await;
        let name = node.subnet();
        let (value, lease, revision) = etcd.subnet(&name).expect("the subnet that was told");
        let mac = node.own().unwrap().vtep_mac;
        assert_eq!(
            value,
            format!(
                "{{\"PublicIP\":\"192.0.2.1\",\"PublicIPv6\":\"2001:db8::1\",\"BackendType\":\"vxlan\",\
                 \"BackendData\":{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}}}"
            )
        );
        let ttl = etcd.ctl(&["lease", "timetolive", &format!("{lease:x}")]);
        assert!(ttl.contains("granted with TTL(86400s)"), "{ttl}");

        assert_eq!(node.names(), ["10.5.7.0-24"]);
        let other = node.known.cluster().unwrap().others["10.5.7.0-24"].clone();
        assert_eq!(other.vtep_mac.to_string(), "82:4b:b6:00:00:07");
        assert_eq!((other.v4, other.v6), (Some([192, 0, 2, 7].into()), None));
        etcd.put("10.5.8.0-24", 8);
        node.until(|node| node.names().len() == 2).await;
        etcd.delete("10.5.7.0-24");
        node.until(|node| node.names() == ["10.5.8.0-24"]).await;
        // A lease that cannot be used is left out alone, and comes back when it can be used.
        etcd.ctl(&["put", "/coreos.com/network/subnets/10.5.8.0-24", "{}"]);
        node.until(|node| node.names().is_empty()).await;
        etcd.ctl(&["put", "/coreos.com/network/subnets/nonsense", "{}"]);
        etcd.put("10.5.8.0-24", 8);
        node.until(|node| node.names() == ["10.5.8.0-24"]).await;
        // A change that concerns nobody changes nothing.
        etcd.put("10.5.8.0-24", 8);
        etcd.ctl(&["put", "/coreos.com/elsewhere", "x"]);
        node.is_quiet().await;
        assert_eq!(etcd.subnet(&name).unwrap().2, revision, "nothing was written meanwhile");
    });
}

#[test]
fn a_restart_keeps_the_subnet_the_lease_and_the_mac_without_writing() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    let start = |runtime: &Path| {
        let mut found = (String::new(), None);
        run(async {
            let mut node = Subject::in_directory(&[etcd.url()], 1, "", runtime);
            node.until(|node| node.own().is_some()).await;
            found = (node.subnet(), etcd.subnet(&node.subnet()));
        });
        found
    };
    let first = start(Path::new("/nowhere"));
    assert_eq!(start(Path::new("/nowhere")), first, "known by its name");

    // If etcd has forgotten the node's subnet, node.json still tells it.
    let file = NodeFile {
        node: "n1".into(),
        pod_cidrs: vec!["10.5.199.0/24".parse().unwrap()],
        cluster_cidrs: Vec::new(),
        mtu: 1450,
        reserved_host_ports: Vec::new(),
    };
    std::fs::write(directory.path().join("node.json"), file.to_json()).unwrap();
    etcd.delete(&first.0);
    assert_eq!(start(directory.path()).0, "10.5.199.0-24");
    // A flanneld's lease is at this node's address, for the subnet that the node is known to have had. The node takes
    // it over with its MAC, so no other node has to change anything.
    etcd.delete("10.5.199.0-24");
    etcd.put("10.5.199.0-24", 1);
    let (name, kept) = start(directory.path());
    assert_eq!(name, "10.5.199.0-24");
    assert!(kept.unwrap().0.contains("82:4b:b6:00:00:01"));
    // Without that the lease may belong to another node behind the same address.
    assert_ne!(start(Path::new("/nowhere")).0, "10.5.199.0-24");
}

#[test]
fn a_lease_that_is_revoked_is_taken_again_and_one_that_another_took_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    run(async {
        let mut node = Subject::new(&[etcd.url()], 1, "");
        node.until(|node| node.own().is_some()).await;
        let name = node.subnet();
        let (value, lease, _) = etcd.subnet(&name).unwrap();
        etcd.ctl(&["lease", "revoke", &format!("{lease:x}")]);
        assert_eq!(etcd.subnet(&name), None);
        node.event().await;
        let (again, other, _) = etcd.subnet(&name).expect("the same subnet");
        assert!(again == value && other == lease, "under the number that is this node's");
        assert_eq!(node.subnet(), name);
        // Somebody spoils the lease's value, and the node corrects it.
        etcd.ctl(&["put", &format!("/coreos.com/network/subnets/{name}"), &flannels(1)]);
        node.event().await;
        assert_eq!(etcd.subnet(&name).unwrap().0, value);
        // Another node has the subnet now, and this node takes another one.
        etcd.put(&name, 9);
        node.until(|node| node.subnet() != name).await;
        assert_eq!(node.names(), [name.as_str()]);
        assert_eq!(etcd.subnet(&node.subnet()).unwrap().0, value);
        assert_eq!(etcd.subnets().len(), 2);
    });
}

#[test]
fn nodes_behind_one_address_have_a_subnet_each_and_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    let start = || {
        let mut subnets = Vec::new();
        run(async {
            let mut nodes = ["a", "b", "c"].map(|name| Subject::named(&[etcd.url()], name, 1));
            for node in &mut nodes {
                node.until(|node| node.own().is_some()).await;
                subnets.push(node.subnet());
                // No route leads to this node itself.
                assert_eq!(node.names(), [""; 0]);
            }
        });
        subnets
    };
    let first = start();
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{first:?}");
    assert_eq!(start(), first);
    assert_eq!(etcd.subnets().len(), 3);
}

#[test]
fn a_node_that_comes_back_with_another_address_keeps_its_subnet_and_the_others_follow() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    run(async {
        let mut node = Subject::named(&[etcd.url()], "a", 1);
        node.until(|node| node.own().is_some()).await;
        let (name, mac) = (node.subnet(), node.own().unwrap().vtep_mac);
        let mut other = Subject::named(&[etcd.url()], "b", 9);
        other.until(|other| other.names() == [name.as_str()]).await;
        drop(node);
        // A virtual address comes first now.
        let mut node = Subject::named(&[etcd.url()], "a", 77);
        node.until(|node| node.own().is_some()).await;
        let own = node.own().unwrap();
        assert_eq!((node.subnet(), own.vtep_mac, own.v4), (name.clone(), mac, Some([192, 0, 2, 77].into())));
        let address = |other: &Subject| other.known.cluster().unwrap().others[&name].v4;
        other.until(|other| address(other) == Some([192, 0, 2, 77].into())).await;
        assert_eq!(etcd.subnets().len(), 2, "it has one, as before");
    });
}

#[test]
fn a_node_behind_a_nat_publishes_its_public_address_and_goes_by_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    run(async {
        let text = format!(
            "[node]\naddress = \"10.1.1.1\"\npublic_address = \"203.0.113.7\"\n[routing]\nsource = \"etcd\"\n[routing.etcd]\n\
             endpoints = {:?}\n",
            [etcd.url()]
        );
        let config = Config::parse(&text, Path::new("test")).unwrap();
        let source = EtcdSource::new(&config, "a", Path::new("/nowhere"), KnownMacs::default());
        let mut node = Subject { source, known: Nodes::new("a") };
        node.until(|node| node.own().is_some()).await;
        assert_eq!(node.own().unwrap().v4, Some([10, 1, 1, 1].into()));
        assert!(etcd.subnet(&node.subnet()).unwrap().0.contains("\"PublicIP\":\"203.0.113.7\""));
    });
}

#[test]
fn of_two_that_live_under_one_name_the_later_takes_another_subnet() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    run(async {
        let mut first = Subject::named(&[etcd.url()], "localhost", 1);
        first.until(|node| node.own().is_some()).await;
        let name = first.subnet();
        let mut second = Subject::named(&[etcd.url()], "localhost", 2);
        let both = async {
            tokio::join!(
                async {
                    loop {
                        first.event().await;
                    }
                },
                second.until(|node| node.own().is_some() && node.subnet() != name)
            )
        };
        // The first future never ends by itself.
        let until = async {
            let mut etcd_has_two = tokio::time::interval(Duration::from_millis(50));
            loop {
                etcd_has_two.tick().await;
                if etcd.subnets().len() == 2 {
                    return;
                }
            }
        };
        tokio::select! {
            _ = both => {}
            () = until => {}
        }
        first.until(|node| node.subnet() == name).await;
        let address = |name: &str| etcd.subnet(name).unwrap().0;
        assert!(address(&name).contains("192.0.2.1\""), "the first has what it had");
    });
}

#[test]
fn a_lease_is_renewed_while_the_node_lives_and_ends_when_it_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd(directory.path(), NETWORK);
    let mut name = String::new();
    run(async {
        let mut node = Subject::new(&[etcd.url()], 1, "lease_s = 5\n");
        node.until(|node| node.own().is_some()).await;
        name = node.subnet();
        let before = etcd.subnet(&name).unwrap();
        // This is longer than the lease lasts.
        let event = tokio::time::timeout(Duration::from_secs(8), node.source.next()).await;
        assert!(event.is_err(), "{event:?}");
        assert_eq!(etcd.subnet(&name).unwrap(), before);
    });
    assert!(crate::lab::within(LIMIT, || etcd.subnet(&name).is_none()).is_some());
}

#[test]
fn three_that_race_for_200_subnets_of_both_families_never_share_one() {
    let directory = tempfile::tempdir().unwrap();
    let both = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.200.0","EnableIPv6":true,"IPv6Network":"fd00:5::/56",
                   "IPv6SubnetMax":"fd00:5:0:c8::"}"#;
    let etcd = etcd(directory.path(), both);
    // Among them is a flanneld that chose each family's subnet by itself.
    etcd.put("10.5.100.0-24&fd00:5:0:63::-64", 250);
    let barrier = Arc::new(Barrier::new(3));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let racer = |racer: u8| {
        let (barrier, taken, url) = (Arc::clone(&barrier), Arc::clone(&taken), etcd.url());
        move || {
            for round in 0..66 {
                barrier.wait();
                run(async {
                    let mut node = Subject::new(std::slice::from_ref(&url), racer + 3 * round, "");
                    node.until(|node| node.own().is_some()).await;
                    taken.lock().unwrap().push(node.subnet());
                });
            }
        }
    };
    std::thread::scope(|scope| (1..=3).for_each(|number| drop(scope.spawn(racer(number)))));
    let taken = taken.lock().unwrap();
    let distinct = |at: usize| {
        let part = |name: &String| name.split('&').nth(at).unwrap().to_owned();
        let all = taken
            .iter()
            .chain(["10.5.100.0-24&fd00:5:0:63::-64".to_owned()].iter())
            .map(part)
            .collect::<BTreeSet<_>>();
        all.len()
    };
    assert_eq!((taken.len(), distinct(0), distinct(1)), (198, 199, 199));
    assert_eq!(etcd.subnets().len(), 199);
    run(async {
        let mut last = Subject::new(&[etcd.url()], 240, "");
        last.until(|node| node.own().is_some()).await;
        let mut none = Subject::new(&[etcd.url()], 241, "");
        none.is_quiet().await;
        assert_eq!(etcd.subnets().len(), 200, "nothing is left for the last one");
        // A node goes, and then a subnet is free.
        etcd.delete(&taken[0]);
        none.until(|node| node.own().is_some()).await;
        assert_eq!(none.subnet(), taken[0]);
    });
}

#[test]
fn a_member_that_dies_or_hangs_is_left_for_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    lo_up();
    let mut members: Vec<_> = (0..3).map(|_| Etcd::new(directory.path(), ports())).collect();
    let name = |etcd: &Etcd| format!("m{}", etcd.port);
    let all: Vec<_> = members.iter().map(|etcd| format!("{}={}", name(etcd), etcd.peer())).collect();
    let all = all.join(",");
    for member in &mut members {
        let name = name(member);
        let empty = Etcd::new(directory.path(), 0);
        *member = std::mem::replace(member, empty).with(&["--name", &name, "--initial-cluster", &all]);
        member.launch(&std::process::Command::spawn);
    }
    members.iter().for_each(Etcd::wait);
    members[0].put_config(NETWORK);
    let urls: Vec<_> = members.iter().map(Etcd::url).collect();
    run(async {
        let mut node = Subject::new(&urls, 1, "");
        node.until(|node| node.own().is_some()).await;
        // The first member is stopped in the middle: its connections stay, but it no longer answers.
        members[0].signal(Signal::SIGSTOP);
        assert!(crate::lab::within(LIMIT, || members[1].try_ctl(&["get", "x"]).status.success()).is_some());
        members[1].put("10.5.8.0-24", 8);
        node.until(|node| node.names() == ["10.5.8.0-24"]).await;
        members[0].signal(Signal::SIGCONT);
        members[1].kill();
        members[0].wait();
        members[0].delete("10.5.8.0-24");
        node.until(|node| node.names().is_empty()).await;
    });
}

#[test]
fn a_token_that_ends_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    lo_up();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let openssl = |arguments: &str| {
        let output = std::process::Command::new("openssl").args(arguments.split(' ')).output();
        assert!(output.expect("install openssl").status.success(), "{arguments}");
    };
    openssl(&format!("genrsa -out {} 2048", path("key")));
    openssl(&format!("rsa -in {} -pubout -out {}", path("key"), path("pub")));
    let token = format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=1s", path("pub"), path("key"));
    let mut etcd = Etcd::new(directory.path(), ports()).with(&["--auth-token", &token]);
    etcd.start();
    etcd.put_config(NETWORK);
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["auth", "enable"]);
    etcd.ctl = vec!["--user=root:secret".into()];
    std::fs::write(directory.path().join("login"), "root:secret\n").unwrap();
    run(async {
        let more = format!("lease_s = 6\ncredentials = \"{}\"\n", path("login"));
        let mut node = Subject::new(&[etcd.url()], 1, &more);
        node.until(|node| node.own().is_some()).await;
        let before = etcd.subnet(&node.subnet()).unwrap();
        let end = tokio::time::Instant::now() + Duration::from_secs(9);
        // A slow machine may need longer than a token lasts, and lists again: nothing changes by that.
        while let Ok(event) = tokio::time::timeout_at(end, node.source.next()).await {
            let same =
                matches!(&event, NodeEvent::Snapshot(nodes) if nodes.len() == 1 && nodes[0].name == "n1");
            assert!(same, "{event:?}");
        }
        assert_eq!(etcd.subnet(&node.subnet()).unwrap(), before, "renewed with tokens of one second");
    });
}
