//! The files of `conf/` that Ferrule's own programs and the container runtimes read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ferrule_config::{Config, DEFAULT_CONFIG, DEFAULT_NODES, NodesFile};

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name)
}

/// The text without a mark at the beginning of those lines that go on with a key or a table.
fn uncommented(text: &str, mark: &str) -> String {
    let is_setting =
        |rest: &str| rest.starts_with('[') || rest.starts_with(|first: char| first.is_ascii_lowercase());
    let line = |line: &str| match line.strip_prefix(mark) {
        Some(rest) if is_setting(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn ferrule_toml_is_the_defaults_as_it_is_and_with_every_default_taken_in() {
    let text = fs::read_to_string(conf("ferrule.toml")).expect("conf/ferrule.toml");
    let path = Path::new(DEFAULT_CONFIG);
    assert_eq!(Config::parse(&text, path).expect("as shipped"), Config::default());
    let all = uncommented(&text, "#");
    assert!(all.contains("\ncooldown_s = 30\n") && all.contains("\n[routing.vxlan]\n"), "{all}");
    assert_eq!(Config::parse(&all, path).expect("with the defaults taken in"), Config::default());
}

#[test]
fn every_example_in_ferrule_toml_is_accepted_and_differs_from_the_default() {
    let text = fs::read_to_string(conf("ferrule.toml")).expect("conf/ferrule.toml");
    let config = Config::parse(&uncommented(&uncommented(&text, "#  "), "#"), Path::new(DEFAULT_CONFIG));
    let config = config.expect("with the examples taken in");
    assert_eq!(config.node.name.as_deref(), Some("node-a"));
    assert!(
        config.node.address.is_some() && config.node.address6.is_some() && config.routing.mtu == Some(1450)
    );
    let pool = &config.ipam.pools[0];
    assert_eq!((config.ipam.pools.len(), pool.reserved.len(), pool.ranges.len()), (2, 3, 1));
    assert_eq!(config.ipam.state_dir.as_deref(), Some(Path::new("/var/lib/ferrule")));
    assert!(
        config.ipam.pools[1].subnet_env.is_some()
            && config.metrics.ipamd.is_some()
            && config.metrics.routed.is_some()
    );
    assert!(config.kubernetes.kubeconfig.is_some());
    assert_eq!(config.kubernetes.servers.len(), 3);
}

/// The keys of a table. The reader lists them when it meets an unknown one.
fn keys_of(table: &str) -> BTreeSet<String> {
    let text = format!("{table}\nno-such-key = 1\n");
    let fault = Config::parse(&text, Path::new("f")).expect_err("an unknown key").to_string();
    let list = fault.split_once("expected").expect("a list of keys").1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn ferrule_toml_names_every_key_that_is_accepted() {
    let text = fs::read_to_string(conf("ferrule.toml")).expect("conf/ferrule.toml");
    let all = uncommented(&uncommented(&text, "#  "), "#");
    let tables = [
        "",
        "[node]",
        "[cluster]",
        "[ipam]",
        "[pods]",
        "[[ipam.pool]]",
        "[routing]",
        "[routing.file]",
        "[routing.kubernetes]",
        "[routing.etcd]",
        "[routing.vxlan]",
        "[routing.wireguard]",
        "[routing.flannel]",
        "[metrics]",
        "[kubernetes]",
    ];
    for table in tables {
        let keys = keys_of(table);
        assert!(!keys.is_empty(), "{table}");
        let begin = if table.is_empty() { 0 } else { all.find(&format!("\n{table}\n")).expect(table) };
        for key in keys {
            let path = format!(
                "[{}{key}",
                table.trim_matches(['[', ']']).to_owned() + if table.is_empty() { "" } else { "." }
            );
            let is_table = all.contains(&format!("{path}]"));
            assert!(
                is_table || all[begin..].contains(&format!("\n{key} = ")),
                "{table} {key} is not in the file"
            );
        }
    }
}

#[test]
fn nodes_toml_is_a_nodes_file() {
    let text = fs::read_to_string(conf("nodes.toml")).expect("conf/nodes.toml");
    let nodes = NodesFile::parse(&text, Path::new(DEFAULT_NODES)).expect("as shipped").nodes;
    assert_eq!(nodes.len(), 3);
    assert!(nodes[0].vtep_mac.is_none() && nodes[1].vtep_mac.is_some() && nodes[2].address6.is_none());
}

/// containerd before 2.0 and podman read `cniVersion`. Newer runtimes take the highest of `cniVersions` and gain STATUS
/// and GC. A runtime hands over ports and bandwidth only if they are declared.
#[test]
fn the_conflist_suits_old_and_new_runtimes() {
    let text = fs::read_to_string(conf("10-ferrule.conflist")).expect("conf/10-ferrule.conflist");
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let expected = serde_json::json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "ferrule",
        "plugins": [
            { "type": "ferrule", "capabilities": { "portMappings": true, "bandwidth": true } },
        ],
    });
    assert_eq!(list, expected);
}

#[test]
fn what_the_readme_shows_is_so() {
    let text = fs::read_to_string(conf("../README.md")).expect("README.md");
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let config = Config::parse(example, Path::new(DEFAULT_CONFIG)).expect(example);
        assert_ne!(config, Config::default(), "{example}");
    }
    let fault = Config::parse("[routing]\nmtu = 1000\n", Path::new(DEFAULT_CONFIG)).expect_err("too small");
    assert!(text.contains(&format!("\n{fault}\n")), "{fault}");
}
