//! What is refused, and the exact words, because an operator acts on them.

use std::path::Path;

use ferrule_config::{Config, ConfigError, Interface, NodeFile, NodesFile};
use ferrule_model::IfName;
use proptest::prelude::*;

fn config_fault(text: &str) -> String {
    Config::parse(text, Path::new("ferrule.toml")).expect_err(text).to_string()
}

fn nodes_fault(text: &str) -> String {
    NodesFile::parse(text, Path::new("nodes.toml")).expect_err(text).to_string()
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    assert_eq!(
        config_fault("[routing]\nbackend = \"vxlan\"\nmut = 1450\n"),
        "ferrule.toml:3:1: routing.mut: unknown key `mut`, expected one of `backend`, `accept`, `source`, `mtu`, \
         `masquerade`, `accept_forward`, `file`, `kubernetes`, `etcd`, `vxlan`, `wireguard`, `flannel`; correct the \
         spelling or remove the key"
    );
    assert!(
        config_fault("\n[tracing]\nlisten = \"x\"\n")
            .starts_with("ferrule.toml:2:2: tracing: unknown key `tracing`")
    );
    assert!(
        nodes_fault("[[node]]\nname = \"a\"\naddr = \"10.0.0.1\"\n")
            .starts_with("nodes.toml:3:1: node.addr: unknown key `addr`")
    );
}

#[test]
fn wrong_types_and_syntax_are_named_with_their_line() {
    assert_eq!(
        config_fault("[routing]\nmtu = \"1450\"\n"),
        "ferrule.toml:2:7: routing.mtu: expected a whole number, found the text \"1450\"; write a value of the expected type"
    );
    assert!(config_fault("[ipam]\ncooldown_s = \n").starts_with("ferrule.toml:2:"));
    assert!(config_fault("[[ipam.pool]]\nsubnets = []\n").contains("`name` is missing; add the key"));
}

#[test]
fn what_was_expected_and_found_is_told_without_names_of_types() {
    for (text, says) in [
        ("[routing]\nmtu = 1450.5\n", "expected a whole number, found the number 1450.5"),
        ("[routing]\nmasquerade = 1\n", "expected true or false, found the number 1"),
        ("[cluster]\npod_cidrs = \"10.244.0.0/16\"\n", "expected a list, found the text \"10.244.0.0/16\""),
        ("[cluster]\npod_cidrs = [7]\n", "expected a text, found the number 7"),
        ("ipam = true\n", "expected a table, found true"),
        ("[ipam]\npool = 7\n", "expected a list, found the number 7"),
    ] {
        let fault = config_fault(text);
        assert!(fault.contains(says), "{fault}");
    }
    let node = NodeFile::parse("{\"node\":7}", Path::new("node.json")).unwrap_err().to_string();
    assert!(node.contains("expected a text, found the number 7"), "{node}");
}

#[test]
fn a_file_in_another_encoding_is_told_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes.toml");
    std::fs::write(&file, b"# one\n# caf\xe9\n").unwrap();
    let fault = NodesFile::load(&file).unwrap_err().to_string();
    assert!(
        fault.ends_with("nodes.toml:2:6: here it is not text in UTF-8; save the file in UTF-8"),
        "{fault}"
    );
}

#[test]
fn what_this_version_cannot_do_is_refused_with_what_it_can() {
    assert_eq!(
        config_fault("[routing]\nsource = \"consul\"\n"),
        "ferrule.toml:2:10: routing.source: this version has no source \"consul\"; write source = \"file\" and list the \
         nodes in the file of [routing.file] path, or source = \"kubernetes\" or source = \"etcd\""
    );
    assert_eq!(
        config_fault("[routing]\naccept = \"native\"\n"),
        "ferrule.toml:2:10: routing.accept: \"native\" is no tunnel that packets can be taken from; write accept = \
         \"vxlan\" or \"wireguard\", or remove it: what comes plainly is always taken"
    );
    assert_eq!(
        config_fault("[routing]\nbackend = \"ipip\"\n"),
        "ferrule.toml:2:11: routing.backend: this version has no backend \"ipip\"; \
         write backend = \"vxlan\", \"native\", \"auto\" or \"wireguard\""
    );
}

#[test]
fn where_etcd_is_and_how_it_is_spoken_to_is_checked_with_its_line() {
    let etcd = |text: &str| config_fault(&format!("[routing]\nsource = \"etcd\"\n[routing.etcd]\n{text}\n"));
    assert_eq!(
        etcd(""),
        "ferrule.toml:2:10: routing.etcd.endpoints: no member of etcd is named; write endpoints = \
         [\"https://192.0.2.10:2379\"] into [routing.etcd], each member of the cluster"
    );
    for odd in [
        "192.0.2.1:2379",
        "http://a",
        "ftp://a:1",
        "http://a:0",
        "http://a:1/v3",
        "http://[a]:1",
        "http://a b:1",
    ] {
        let fault = etcd(&format!("endpoints = [\"http://[2001:db8::1]:2379\", \"{odd}\"]"));
        assert!(fault.contains(&format!("\"{odd}\" is not the URL of a member")), "{fault}");
    }
    let mixed = etcd("endpoints = [\"https://a:1\",\n\"http://b:1\"]\nca = \"/ca\"");
    assert!(
        mixed.contains(":5:1: routing.etcd.endpoints: some endpoints are https and this one is not"),
        "{mixed}"
    );
    let https = |more: &str| etcd(&format!("endpoints = [\"https://a:1\"]\n{more}"));
    assert!(
        https("").contains("routing.etcd.ca: the endpoints are https and there is no ca"),
        "{}",
        https("")
    );
    assert!(
        https("ca = \"/ca\"\ncert = \"/c\"")
            .contains(":6:8: routing.etcd.cert: a certificate is of use with")
    );
    assert!(https("ca = \"ca\"").contains("routing.etcd.ca: \"ca\" is not the absolute path"));
    let plain = |more: &str| etcd(&format!("endpoints = [\"http://a:1\"]\n{more}"));
    assert!(
        plain("ca = \"/ca\"").contains(":5:6: routing.etcd.ca: the endpoints are not spoken to over TLS")
    );
    assert!(plain("prefix = \"x\"").contains(":5:10: routing.etcd.prefix: \"x\" is not a prefix of keys"));
    assert!(plain("lease_s = 4").contains(":5:11: routing.etcd.lease_s: 4 is not between 5 and 2592000"));
}

#[test]
fn hosts_that_may_send_into_the_tunnel_are_networks_or_everybody() {
    let of = |text: &str| format!("[routing.vxlan]\nalso_from = [{text}]\n");
    let fault = config_fault(&of("\"10.0.0.0/8\", \"10.1.0.0/16\""));
    assert!(fault.starts_with("ferrule.toml:2:28: routing.vxlan.also_from: 10.1.0.0/16 overlaps"), "{fault}");
    let fault = config_fault(&of("\"192.0.2.1\""));
    assert!(fault.contains("\"192.0.2.1\" has no prefix length"), "{fault}");
    let everybody = of("\"0.0.0.0/0\", \"::/0\"");
    let config = Config::parse(&everybody, Path::new("ferrule.toml")).unwrap();
    assert_eq!(config.routing.vxlan.also_from.len(), 2);
}

#[test]
fn what_is_flannels_has_to_go_with_the_source_and_the_devices() {
    let fault = config_fault("[routing.flannel]\nannotations = true\n");
    assert!(
        fault.starts_with("ferrule.toml:2:15: routing.flannel.annotations: annotations are those of"),
        "{fault}"
    );
    let fault = config_fault("[routing.vxlan]\ndevice = \"flannel.1\"\ndevice6 = \"flannel.1\"\n");
    assert!(
        fault.starts_with("ferrule.toml:3:11: routing.vxlan.device6: it is the name of device, too"),
        "{fault}"
    );
}

#[test]
fn ranges_and_gateways_of_a_pool_are_checked_with_their_line() {
    let pool = |more: &str| {
        config_fault(&format!(
            "[[ipam.pool]]\nname = \"a\"\nsubnets = [\"10.1.0.0/24\", \"fd01::/64\"]\n{more}\n"
        ))
    };
    assert_eq!(
        pool("ranges = [\"10.1.0.10-10.1.0.20\",\n \"10.1.0.20 - 10.1.0.30\"]"),
        "ferrule.toml:5:2: ipam.pool.ranges: 10.1.0.20 - 10.1.0.30 overlaps 10.1.0.10-10.1.0.20 of line 4; \
         give every address once"
    );
    for odd in ["10.1.0.9", "10.1.0.9-x", "10.1.0.9-10.1.0.8", "10.1.0.9-fd01::9"] {
        let fault = pool(&format!("ranges = [\"{odd}\"]"));
        assert!(fault.contains(&format!("4:11: ipam.pool.ranges: \"{odd}\" is not a range")), "{fault}");
    }
    let outside = pool("ranges = [\"10.1.0.9-10.1.1.9\"]");
    assert!(outside.contains("inside none of the pool's subnets"), "{outside}");
    assert!(
        pool("gateways = [\"10.1.0.0/30\"]")
            .contains("4:13: ipam.pool.gateways: \"10.1.0.0/30\" is not an address")
    );
    assert!(pool("gateways = [\"10.2.0.1\"]").contains("10.2.0.1/32 is in none of the pool's subnets"));
    let ipam = |text: &str| config_fault(&format!("[ipam]\n{text}\n"));
    assert!(ipam("reclaim_after_s = 0").contains("2:19: ipam.reclaim_after_s: 0 is not between 1 and 86400"));
    assert!(ipam("state_dir = \"here\"").contains("2:13: ipam.state_dir: \"here\" is not the absolute path"));
}

#[test]
fn networks_must_be_networks() {
    let fault = |value: &str| config_fault(&format!("[cluster]\npod_cidrs = [{value}]\n"));
    assert_eq!(
        fault("\"10.244.0.0/16\", \"10.245.1.0/16\""),
        "ferrule.toml:2:31: cluster.pod_cidrs: \"10.245.1.0/16\" has bits set behind the prefix; write 10.245.0.0/16"
    );
    assert_eq!(
        fault("\"10.244.0.0\""),
        "ferrule.toml:2:14: cluster.pod_cidrs: \"10.244.0.0\" has no prefix length; \
         write it as 10.244.0.0/16 or fd00:10::/56"
    );
    assert_eq!(
        fault("\"10.244.0.0/16\",\n \"10.244.7.0/24\""),
        "ferrule.toml:3:2: cluster.pod_cidrs: 10.244.7.0/24 overlaps 10.244.0.0/16 of line 2; \
         give every network once and to one owner"
    );
    for odd in ["0.0.0.0/0", "224.0.0.0/4", "127.0.0.0/8", "ff00::/8", "::/0", "10.0.0.0/33", "x/8"] {
        assert!(fault(&format!("\"{odd}\"")).starts_with("ferrule.toml:2:14: cluster.pod_cidrs: "), "{odd}");
    }
}

#[test]
fn addresses_must_be_of_their_family_and_reachable() {
    assert_eq!(
        config_fault("[node]\naddress = \"fd00::1\"\n"),
        "ferrule.toml:2:11: node.address: \"fd00::1\" is not an IPv4 address; write it as 192.0.2.10"
    );
    assert_eq!(
        config_fault("[node]\naddress6 = \"192.0.2.1\"\n"),
        "ferrule.toml:2:12: node.address6: \"192.0.2.1\" is not an IPv6 address; write it as 2001:db8::10"
    );
    assert_eq!(
        config_fault("[node]\naddress = \"127.0.0.1\"\n"),
        "ferrule.toml:2:11: node.address: 127.0.0.1 is not an address by which other nodes can reach this one; \
         write the node's address on the network between the nodes"
    );
    assert!(config_fault("[node]\naddress6 = \"fe80::1\"\n").contains("fe80::1 is not an address by which"));
    assert_eq!(
        config_fault("[node]\npublic_address = \"203.0.113.7\"\n"),
        "ferrule.toml:2:18: node.public_address: with a nodes file it is not known which address the machine itself has; set \
         address too, to that address, or interface, to the link that has it"
    );
}

#[test]
fn an_interface_is_a_name_a_network_or_an_address() {
    let interface = |text: &str| {
        let config = format!("[node]\ninterface = \"{text}\"\npublic_address = \"203.0.113.7\"\n");
        Config::parse(&config, Path::new("ferrule.toml")).map(|config| config.node.interface.unwrap())
    };
    for (text, expected) in [
        ("eth1", Interface::Name(IfName::new("eth1").unwrap())),
        ("192.0.2.0/24", Interface::Network("192.0.2.0/24".parse().unwrap())),
        ("2001:db8::/64", Interface::Network("2001:db8::/64".parse().unwrap())),
        ("192.0.2.1", Interface::Network("192.0.2.1/32".parse().unwrap())),
    ] {
        let interface = interface(text).unwrap();
        assert_eq!((interface.to_string().as_str(), &interface), (text, &expected));
    }
    for (text, reason) in [
        ("192.0.2.1/24", "\"192.0.2.1/24\" has bits set behind the prefix; write 192.0.2.0/24"),
        ("127.0.0.1", "127.0.0.1 is not an address by which other nodes can reach this one"),
        ("eth 1", "\"eth 1\" is neither a link's name nor a network: "),
        ("", "\"\" is neither a link's name nor a network: "),
    ] {
        let fault = interface(text).unwrap_err().to_string();
        assert!(fault.starts_with(&format!("ferrule.toml:2:13: node.interface: {reason}")), "{fault}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    assert_eq!(
        config_fault("[routing]\nmtu = 1000\n"),
        "ferrule.toml:2:7: routing.mtu: 1000 is not between 1280 and 65535; \
         remove it to have it found from the underlay device, or write the MTU of the pods in bytes"
    );
    assert!(
        config_fault("[ipam]\ncooldown_s = -1\n").contains("ipam.cooldown_s: -1 is not between 0 and 86400")
    );
    assert!(
        config_fault("[routing.vxlan]\nvni = 16777216\n")
            .contains("routing.vxlan.vni: 16777216 is not between")
    );
    assert!(
        config_fault("[routing.vxlan]\nport = 0\n")
            .contains("routing.vxlan.port: 0 is not between 1 and 65535")
    );
}

#[test]
fn names_of_links_pools_nodes_and_files_are_checked() {
    let device = |name: &str| config_fault(&format!("[routing.vxlan]\ndevice = \"{name}\"\n"));
    assert!(device("fer0123456789ab").contains("is of the form that pods' links have"));
    assert!(device("fei0123456789ab").contains("is of the form that pods' links have"));
    assert!(device("a-name-that-is-too-long").contains("it has more than 15 bytes"));
    assert!(device("vx%d").contains("it contains `%`"));
    assert!(device("all").contains("settings for all links"));
    assert!(device("lo").contains("loopback device"));
    for (of, name) in [("vxlan", "ferrule-wg"), ("wireguard", "ferrule.1")] {
        let fault = config_fault(&format!("[routing.{of}]\ndevice = \"{name}\"\n"));
        assert!(
            fault
                .starts_with(&format!("ferrule.toml:2:10: routing.{of}.device: it is the name of the other")),
            "{fault}"
        );
    }
    assert!(config_fault("[node]\nname = \"no de\"\n").contains("\"no de\" cannot be a node's name"));
    assert!(
        config_fault("[routing.file]\npath = \"nodes.toml\"\n")
            .contains("is not the absolute path of a file")
    );
    assert!(config_fault("[routing.file]\npath = \"/..\"\n").contains("is not the absolute path of a file"));
}

#[test]
fn pools_must_be_distinct_and_have_room() {
    let two = "[[ipam.pool]]\nname = \"a\"\nsubnets = [\"10.1.0.0/24\"]\n\
               [[ipam.pool]]\nname = \"NAME\"\nsubnets = [\"SUBNET\"]\n";
    assert_eq!(
        config_fault(&two.replace("NAME", "a").replace("SUBNET", "10.2.0.0/24")),
        "ferrule.toml:5:8: ipam.pool.name: \"a\" is already the name of the pool of line 2; \
         give each pool a name of its own"
    );
    assert_eq!(
        config_fault(&two.replace("NAME", "b").replace("SUBNET", "10.0.0.0/8")),
        "ferrule.toml:6:12: ipam.pool.subnets: 10.0.0.0/8 overlaps 10.1.0.0/24 of line 3; \
         give every network once and to one owner"
    );
    assert!(
        config_fault("[[ipam.pool]]\nname = \"a\"\nsubnets = []\n").contains("the pool \"a\" has no subnet")
    );
    let reserved = "[[ipam.pool]]\nname = \"a\"\nsubnets = [\"10.1.0.0/24\"]\nreserved = [\"10.2.0.1\"]\n";
    assert!(
        config_fault(reserved).contains("ipam.pool.reserved: 10.2.0.1/32 is in none of the pool's subnets")
    );
}

#[test]
fn two_nodes_cannot_claim_the_same() {
    let two = |more: &str| {
        nodes_fault(&format!(
            "[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\npod_cidrs = [\"10.244.1.0/24\"]\n\
             vtep_mac = \"02:00:00:00:00:01\"\n[[node]]\n{more}\n"
        ))
    };
    assert_eq!(
        two("name = \"a\"\naddress = \"192.0.2.2\""),
        "nodes.toml:7:8: node.name: \"a\" is already given in line 2; every node has its own"
    );
    assert_eq!(
        two("name = \"b\"\naddress = \"192.0.2.1\""),
        "nodes.toml:8:11: node.address: \"192.0.2.1\" is already given in line 3; every node has its own"
    );
    assert_eq!(
        two("name = \"b\"\naddress = \"192.0.2.2\"\npod_cidrs = [\"10.244.0.0/16\"]"),
        "nodes.toml:9:14: node.pod_cidrs: 10.244.0.0/16 overlaps 10.244.1.0/24 of line 4; \
         give every network once and to one owner"
    );
    assert!(
        two("name = \"b\"\naddress = \"192.0.2.2\"\nvtep_mac = \"02:00:00:00:00:01\"")
            .contains("already given in line 5")
    );
    assert!(
        two("name = \"b\"\naddress = \"192.0.2.2\"\nvtep_mac = \"03:00:00:00:00:01\"")
            .contains("of one device")
    );
    assert!(two("name = \"b\"").contains("the node \"b\" has no address"));
}

#[test]
fn an_empty_file_is_not_an_empty_cluster() {
    assert_eq!(
        nodes_fault(""),
        "nodes.toml:1:1: node: the file lists no node; \
         add a [[node]] table for every node of the cluster, this one included"
    );
}

#[test]
fn ten_thousand_nodes_are_checked_in_no_time_that_grows_with_their_square() {
    let mut text = String::new();
    for node in 0..10_000 {
        let (high, low) = (node / 250, node % 250);
        text += &format!(
            "[[node]]\nname = \"n{node}\"\naddress = \"10.0.{high}.{low}\"\npod_cidrs = [\"10.{}.{low}.0/24\"]\n",
            100 + high
        );
    }
    let begun = std::time::Instant::now();
    assert_eq!(NodesFile::parse(&text, Path::new("nodes.toml")).unwrap().nodes.len(), 10_000);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn only_the_default_file_may_be_missing() {
    let missing = tempfile::tempdir().unwrap().path().join("ferrule.toml");
    let error = Config::load(Some(&missing)).unwrap_err();
    assert!(error.is_missing(), "{error}");
    assert!(matches!(NodesFile::load(&missing), Err(ConfigError::Read { .. })));
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Config::parse(&text, Path::new("f"));
        let _ = NodesFile::parse(&text, Path::new("f"));
    }

    /// Text of the right shape with arbitrary values gets past the TOML reader and reaches the checks.
    #[test]
    fn no_value_panics(
        key in prop::sample::select(vec![
            "node.name", "node.address", "node.address6", "cluster.pod_cidrs", "ipam.cooldown_s", "routing.backend",
            "routing.source", "routing.mtu", "routing.file.path", "routing.kubernetes.kubeconfig", "kubernetes.server", "routing.vxlan.device", "routing.vxlan.vni",
        ]),
        value in prop_oneof![
            "\"[ -~&&[^\"\\\\]]{0,20}\"", "\"[0-9.:/a-f]{0,24}\"", "-?[1-9][0-9]{0,17}",
            "\\[\"[0-9]{1,3}\\.[0-9]\\.[0-9]\\.0/[0-9]{1,2}\"(, \"[0-9]{1,3}\\.0\\.0\\.0/8\")?\\]",
        ],
    ) {
        if let Err(error) = Config::parse(&format!("{key} = {value}\n"), Path::new("f")) {
            prop_assert!(error.to_string().starts_with("f:1:"), "{}", error);
        }
    }
}

#[test]
fn a_pool_has_its_networks_from_one_place_and_metrics_an_address_with_a_port() {
    let pool = |lines: &str| config_fault(&format!("[[ipam.pool]]\nname = \"a\"\n{lines}\n"));
    assert!(
        pool("").contains(
            "ferrule.toml:2:8: ipam.pool.subnets: the pool \"a\" has neither subnets nor subnet_env"
        )
    );
    let both = pool("subnets = [\"10.9.0.0/24\"]\nsubnet_env = \"/run/flannel/subnet.env\"");
    assert!(
        both.contains("ferrule.toml:4:14: ipam.pool.subnet_env: the pool \"a\" has subnets as well"),
        "{both}"
    );
    assert!(pool("subnet_env = \"subnet.env\"").contains("is not the absolute path of a file"));
    for address in ["9478", "127.0.0.1", "127.0.0.1:0", "localhost:9478"] {
        let fault = config_fault(&format!("[metrics]\nipamd = \"{address}\"\n"));
        assert!(
            fault.contains("ferrule.toml:2:9: metrics.ipamd: ") && fault.contains("127.0.0.1:9478"),
            "{fault}"
        );
    }
}

#[test]
fn where_the_api_server_is_is_checked_with_its_line_and_the_old_place_of_the_kubeconfig_counts() {
    let read = |text: &str| Config::parse(text, Path::new("ferrule.toml")).map(|config| config.kubernetes);
    let file = |table: &str, path: &str| format!("[{table}]\nkubeconfig = \"{path}\"\n");
    let (old, new) = (file("routing.kubernetes", "/a"), file("kubernetes", "/a"));
    for text in [old.clone(), new.clone(), format!("{old}{new}")] {
        assert_eq!(read(&text).unwrap().kubeconfig.as_deref(), Some(Path::new("/a")), "{text}");
    }
    assert_eq!(
        config_fault(&format!("{new}{}", file("routing.kubernetes", "/b"))),
        "ferrule.toml:4:14: routing.kubernetes.kubeconfig: [kubernetes] kubeconfig is another file, \"/a\"; remove \
         this one; [kubernetes] holds for all daemons"
    );
    let server = |value: &str| format!("[kubernetes]\nserver = {value}\n");
    let names =
        |text: &str| read(&server(text)).unwrap().servers.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("\"https://api.example:6443/\""), ["https://api.example:6443"]);
    assert_eq!(
        names("[\"https://192.0.2.1:443\", \"https://[2001:db8::1]:6443\"]"),
        ["https://192.0.2.1:443", "https://[2001:db8::1]:6443"]
    );
    for wrong in [
        "http://192.0.2.1:6443",
        "192.0.2.1:6443",
        "https://192.0.2.1",
        "https://192.0.2.1:0",
        "https://a:1/path",
    ] {
        let expected = format!(
            "ferrule.toml:2:10: kubernetes.server: \"{wrong}\" is not the address of an API server; write it as \
             https://192.0.2.10:6443, the server's own address and nothing behind it"
        );
        assert_eq!(config_fault(&server(&format!("\"{wrong}\""))), expected);
        assert_eq!(config_fault(&server(&format!("[\"{wrong}\"]"))), expected);
    }
    assert!(config_fault(&server("[]")).contains("name at least one server"));
    let typed = config_fault(&server("7"));
    assert!(typed.starts_with("ferrule.toml:2:10: ") && typed.contains("a URL or a list of URLs"), "{typed}");
}
