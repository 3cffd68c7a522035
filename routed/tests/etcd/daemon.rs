//! The daemon itself with etcd: what comes, goes and stays in the kernel, and what the log says.

use std::fs;

use nix::sys::signal::Signal;

use super::server::Etcd;
use super::{NETWORK, ports};
use crate::lab::{Daemon, Node, PATIENCE, within};
use ferrule_fake_api::tls::Authority;

/// A node with a member beside it that is not started yet.
pub(crate) struct Lab {
    pub(crate) node: Node,
    pub(crate) etcd: Etcd,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let node = Node::new("vxlan");
        let etcd = Etcd::new(node.directory.path(), ports());
        Self { node, etcd }
    }

    /// Does something with the member, in its namespace.
    pub(crate) fn etcd<T>(&mut self, act: impl FnOnce(&mut Etcd) -> T) -> T {
        let etcd = &mut self.etcd;
        self.node.inside(|| act(etcd))
    }

    pub(crate) fn configure(&self, more: &str) {
        self.configure_node("address = \"192.0.2.1\"\naddress6 = \"2001:db8::1\"\n", more);
    }

    fn configure_node(&self, node: &str, more: &str) {
        let text = format!(
            "[node]\nname = \"n1\"\n{node}[cluster]\npod_cidrs = [\"10.5.0.0/16\"]\n[routing]\nsource = \"etcd\"\n[routing.etcd]\nendpoints = [\"{}\"]\n{more}",
            self.etcd.url()
        );
        fs::write(self.node.path("ferrule.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.node.path(name).display().to_string()
    }

    pub(crate) fn has(&self, last: u8) -> bool {
        let state = self.node.state();
        state.contains(&format!("10.5.{last}.0/24"))
            && state.contains(&format!("82:4b:b6:00:00:{last:02x} dst 192.0.2.{last} self permanent"))
            && state
                .contains(&format!("10.5.{last}.0 dev ferrule.1 lladdr 82:4b:b6:00:00:{last:02x} PERMANENT"))
    }

    pub(crate) fn has_nothing_of(&self, last: u8) -> bool {
        let state = self.node.state();
        !state.contains(&format!("10.5.{last}.0")) && !state.contains(&format!("82:4b:b6:00:00:{last:02x}"))
    }

    pub(crate) fn wait(&self, daemon: &Daemon, condition: impl Fn() -> bool) {
        assert!(within(PATIENCE, condition).is_some(), "{}\n{}", self.node.state(), daemon.log());
    }
}

fn lines(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

#[test]
fn routes_follow_the_leases_and_a_store_that_is_away_changes_nothing() {
    let mut lab = Lab::new();
    lab.configure("");
    let daemon = lab.node.start();
    // Pods are guarded from the start, whatever the source is.
    daemon.wait_for_log("pods on bridges are guarded");
    let guarded = lab.node.state();
    daemon.wait_for_log("etcd cannot be reached");
    lab.etcd(Etcd::start);
    daemon.wait_for_log("etcd has no /coreos.com/network/config");
    lab.etcd(|etcd| etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#));
    daemon.wait_for_log("set [routing.vxlan] vni = 7");
    assert_eq!(lab.node.state(), guarded);
    lab.etcd(|etcd| etcd.put_config(NETWORK));
    daemon.wait_until_ready();
    let own = lab.etcd(|etcd| etcd.subnets().pop().expect("a subnet"));
    let own_cidr = own.replace('-', "/");
    assert!(lab.node.state().contains(&format!("unreachable {own_cidr}")), "{}", lab.node.state());
    assert!(fs::read_to_string(lab.node.path("run/node.json")).unwrap().contains(&own_cidr));
    lab.etcd(|etcd| (241..=243).for_each(|last| etcd.put(&format!("10.5.{last}.0-24"), last)));
    lab.wait(&daemon, || lab.has(241) && lab.has(242) && lab.has(243));
    lab.etcd(|etcd| etcd.delete("10.5.243.0-24"));
    lab.wait(&daemon, || lab.has_nothing_of(243));

    // While etcd is away for this node, it works on elsewhere, and forgets what happened.
    let before = lab.node.state();
    lab.etcd(Etcd::kill);
    daemon.wait_for_log("everything stays as it is");
    let port = std::mem::replace(&mut lab.etcd.port, ports());
    lab.etcd(|etcd| {
        etcd.start();
        etcd.delete("10.5.241.0-24");
        etcd.put("10.5.244.0-24", 244);
        let (_, _, revision) = etcd.subnet("10.5.244.0-24").unwrap();
        etcd.ctl(&["compact", &revision.to_string()]);
        etcd.kill();
    });
    assert_eq!(lab.node.state(), before, "what etcd no longer says stays");
    lab.etcd.port = port;
    lab.etcd(Etcd::start);
    lab.wait(&daemon, || lab.has_nothing_of(241) && lab.has(242) && lab.has(244));
    let log = daemon.log();
    assert_eq!((lines(&log, "cannot be reached"), lines(&log, "answers again")), (2, 2), "{log}");
    assert_eq!(lab.etcd(|etcd| etcd.subnets().len()), 3, "its own subnet is the one it had");

    // Neither the end of the daemon nor its next start changes anything, with or without etcd.
    let before = lab.node.state();
    assert!(daemon.signal(Signal::SIGTERM).success());
    assert_eq!(lab.node.state(), before);
    lab.etcd(Etcd::kill);
    let daemon = lab.node.start();
    daemon.wait_for_log("etcd cannot be reached");
    assert_eq!(lab.node.state(), before);
    lab.etcd(Etcd::start);
    daemon.wait_until_ready();
    assert_eq!(lab.node.state(), before);
}

#[test]
fn a_plan_writes_nothing_into_etcd_and_has_nothing_to_do_after_the_daemon() {
    let mut lab = Lab::new();
    lab.configure("");
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(NETWORK);
        etcd.put("10.5.241.0-24", 241);
    });
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    assert!(daemon.signal(Signal::SIGTERM).success());
    let name = lab.etcd(|etcd| etcd.subnets().remove(0));
    let all = |etcd: &mut Etcd| etcd.ctl(&["get", "--prefix", "/", "-w", "fields"]);
    let before = lab.etcd(all);
    assert!(before.contains(&name), "{before}");
    let arguments = format!("{} --log warn plan", lab.node.arguments());
    let told = lab.node.run(env!("CARGO_BIN_EXE_routed"), &arguments);
    assert!(told.starts_with("nothing to do: "), "{told}");
    let fields = |text: &str| {
        let all =
            text.lines().filter(|line| !line.starts_with("\"MemberID") && !line.starts_with("\"RaftTerm"));
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(fields(&lab.etcd(all)), fields(&before), "not even the revision moves");
}

#[test]
fn what_is_refused_is_named_with_the_key_and_the_remedy_until_it_is_allowed() {
    let mut lab = Lab::new();
    let login = lab.path("login");
    lab.configure("");
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(NETWORK);
        etcd.ctl(&["user", "add", "root:secret"]);
        etcd.ctl(&["user", "add", "n1:right"]);
        etcd.ctl(&["role", "add", "node"]);
        etcd.ctl(&["user", "grant-role", "n1", "node"]);
        etcd.ctl(&["auth", "enable"]);
        etcd.ctl = vec!["--user=root:secret".into()];
    });
    let daemon = lab.node.start();
    daemon.wait_for_log("write NAME:PASSWORD into a file and name it in [routing.etcd] credentials");
    drop(daemon);
    lab.configure(&format!("credentials = \"{login}\"\n"));
    let daemon = lab.node.start();
    daemon.wait_for_log(&format!("cannot use {login}: No such file"));
    fs::write(&login, "n1:wrong\n").unwrap();
    daemon.wait_for_log("etcd does not accept the user and password");
    fs::write(&login, "n1:right\n").unwrap();
    let right = "`etcdctl role grant-permission ROLE ";
    daemon.wait_for_log(&format!("{right}read /coreos.com/network/config`"));
    let mut grant = |arguments: &[&str]| {
        let all = [&["role", "grant-permission", "node"], arguments].concat();
        lab.etcd(|etcd| drop(etcd.ctl(&all)));
    };
    grant(&["read", "/coreos.com/network/config"]);
    daemon.wait_for_log(&format!("{right}--prefix=true read /coreos.com/network/subnets/`"));
    grant(&["--prefix=true", "read", "/coreos.com/network/subnets/"]);
    daemon.wait_for_log(&format!("{right}--prefix=true write /coreos.com/network/subnets/`"));
    assert!(!lab.node.state().contains("10.5."), "nothing is written before");
    let mut grant = |arguments: &[&str]| {
        let all = [&["role", "grant-permission", "node"], arguments].concat();
        lab.etcd(|etcd| drop(etcd.ctl(&all)));
    };
    grant(&["--prefix=true", "readwrite", "/coreos.com/network/subnets/"]);
    daemon.wait_until_ready();
    let log = daemon.log();
    assert_eq!((lines(&log, "ERROR"), lines(&log, "answers again")), (5, 1), "each once:\n{log}");
}

#[test]
fn members_are_trusted_by_their_authority_alone_and_ask_for_a_certificate() {
    let mut lab = Lab::new();
    let authority = Authority::new(&lab.node.path("ca"));
    Authority::new(&lab.node.path("other"));
    let path = |name: &str| authority.directory.join(name).display().to_string();
    let files = [path("ca.crt"), path("server.crt"), path("server.key")];
    let [ca, certificate, key] = files.each_ref();
    let etcd = std::mem::replace(&mut lab.etcd, Etcd::new(lab.node.directory.path(), 0));
    lab.etcd = etcd.with_tls(
        &["--cert-file", certificate, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"],
        &["--cacert", ca, "--cert", certificate, "--key", key],
    );
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(NETWORK);
    });
    let start = |files: &str| {
        lab.configure(files);
        lab.node.start()
    };
    let identity = format!("cert = \"{certificate}\"\nkey = \"{key}\"\n");
    let daemon = start(&format!("ca = \"{}\"\n{identity}", lab.path("other/ca.crt")));
    daemon.wait_for_log("no TLS with etcd");
    assert!(daemon.log().contains("invalid peer certificate"), "{}", daemon.log());
    drop(daemon);
    let daemon = start(&format!("ca = \"{ca}\"\n"));
    daemon.wait_for_log("no TLS with etcd");
    assert!(daemon.log().contains("it asks for a certificate"), "{}", daemon.log());
    drop(daemon);
    let daemon = start(&format!("ca = \"{ca}\"\n{identity}"));
    daemon.wait_until_ready();
    assert!(daemon.signal(Signal::SIGTERM).success());
}

#[test]
fn a_node_without_an_address_waits_for_its_default_route_and_one_without_room_for_a_subnet() {
    let mut lab = Lab::new();
    lab.configure_node("", "");
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0"}"#);
        etcd.put("10.5.1.0-24", 241);
    });
    let daemon = lab.node.start();
    daemon.wait_for_log("this node's address is not known");
    lab.node.ip("route add default via 192.0.2.254");
    daemon.wait_for_log("no subnet is left in 10.5.0.0/16");
    lab.etcd(|etcd| etcd.delete("10.5.1.0-24"));
    daemon.wait_until_ready();
    let (value, ..) = lab.etcd(|etcd| etcd.subnet("10.5.1.0-24").unwrap());
    assert!(value.contains("\"PublicIP\":\"192.0.2.1\",\"PublicIPv6\":null"), "{value}");
}

#[test]
fn a_network_that_is_changed_in_etcd_is_one_line_that_says_what_follows() {
    let mut lab = Lab::new();
    lab.configure("");
    lab.etcd(|etcd| {
        etcd.start();
        etcd.put_config(NETWORK);
    });
    let daemon = lab.node.start();
    daemon.wait_until_ready();
    let own = lab.etcd(|etcd| etcd.subnets().pop().expect("a subnet"));
    let before = lab.node.state();
    let backend = r#""Backend":{"Type":"vxlan"}"#;
    lab.etcd(|etcd| etcd.put_config(NETWORK));
    lab.etcd(|etcd| etcd.put_config(&format!(r#"{{"Network":"10.0.0.0/8","SubnetLen":24,{backend}}}"#)));
    daemon.wait_for_log(&format!("the network is 10.0.0.0/8 now; this node's subnet {own} is one of it"));
    lab.etcd(|etcd| etcd.put_config(&format!(r#"{{"Network":"10.6.0.0/16",{backend}}}"#)));
    daemon
        .wait_for_log(&format!("the network is 10.6.0.0/16 now, and this node's subnet {own} is none of it"));
    lab.etcd(|etcd| etcd.put_config("{}"));
    daemon.wait_for_log("was changed and cannot be used: it has no Network");
    lab.etcd(|etcd| drop(etcd.ctl(&["del", "/coreos.com/network/config"])));
    daemon.wait_for_log("/coreos.com/network/config is gone from etcd");
    assert_eq!(lines(&daemon.log(), "network/config"), 4, "{}", daemon.log());
    assert_eq!(lab.etcd(|etcd| etcd.subnets()), [own]);
    assert_eq!(lab.node.state(), before);
}
