//! The manifests of `conf/kubernetes`: Kubernetes knows every key, they allow exactly what the daemon asks for, and
//! what they run does what it should.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use routed::source::kubernetes::PERMISSIONS;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The documents of a manifest.
fn documents(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let documents = text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap());
    documents.collect()
}

fn of_kind(documents: &[Value], kind: &str) -> Value {
    let found: Vec<_> = documents.iter().filter(|one| one["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0].clone()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Each `verb resource` of the rules.
pub(crate) fn allowed() -> BTreeSet<String> {
    let role = of_kind(&documents("rbac.yaml"), "ClusterRole");
    let mut allowed = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(texts(&rule["apiGroups"]), [""]);
        for resource in texts(&rule["resources"]) {
            allowed.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{verb} {resource}")));
        }
    }
    allowed
}

#[test]
fn rbac_allows_what_is_asked_for_and_nothing_else() {
    let asked: BTreeSet<_> = PERMISSIONS.iter().map(ToString::to_string).collect();
    assert_eq!(allowed(), asked);
    let documents = documents("rbac.yaml");
    let (account, binding) =
        (of_kind(&documents, "ServiceAccount"), of_kind(&documents, "ClusterRoleBinding"));
    let role = of_kind(&documents, "ClusterRole");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
}

/// Checks what the API would make of a document. It would drop an unknown key, and refuse a key of another form.
fn is_known<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *document);
}

#[test]
fn the_manifests_have_no_key_that_kubernetes_does_not_know() {
    let rbac = documents("rbac.yaml");
    is_known::<DaemonSet>(&of_kind(&documents("daemonset.yaml"), "DaemonSet"));
    is_known::<ConfigMap>(&of_kind(&documents("configmap.yaml"), "ConfigMap"));
    is_known::<ServiceAccount>(&of_kind(&rbac, "ServiceAccount"));
    is_known::<ClusterRole>(&of_kind(&rbac, "ClusterRole"));
    is_known::<ClusterRoleBinding>(&of_kind(&rbac, "ClusterRoleBinding"));
    // The check notices what is misspelled.
    let mut broken = of_kind(&documents("daemonset.yaml"), "DaemonSet");
    broken["spec"]["template"]["spec"]["hostNetworks"] = true.into();
    let typed: DaemonSet = serde_json::from_value(broken.clone()).unwrap();
    assert_ne!(serde_json::to_value(typed).unwrap(), broken);
}

/// The DaemonSet's pod.
fn pod() -> Value {
    of_kind(&documents("daemonset.yaml"), "DaemonSet")["spec"]["template"]["spec"].clone()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("{name} in {list}"))
}

#[test]
fn the_daemonset_runs_both_daemons_with_the_configuration_and_no_capability_too_many() {
    let set = of_kind(&documents("daemonset.yaml"), "DaemonSet");
    let account = of_kind(&documents("rbac.yaml"), "ServiceAccount");
    let map = of_kind(&documents("configmap.yaml"), "ConfigMap");
    assert_eq!(set["metadata"]["namespace"], account["metadata"]["namespace"]);
    assert_eq!(map["metadata"]["namespace"], account["metadata"]["namespace"]);
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let pod = pod();
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    assert_eq!(pod["hostNetwork"], true, "it keeps the node's routes");
    let text = map["data"]["ferrule.toml"].as_str().unwrap();
    let metrics = ferrule_config::Config::parse(text, Path::new("ferrule.toml")).unwrap().metrics;
    let volumes = &pod["volumes"];
    for (name, rights, address) in [
        ("ipamd", &["DAC_OVERRIDE"][..], metrics.ipamd),
        ("routed", &["NET_ADMIN", "DAC_OVERRIDE"], metrics.routed),
    ] {
        let container = named(&pod["containers"], name);
        assert_eq!(texts(&container["command"]), [name]);
        let security = &container["securityContext"];
        assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
        assert_eq!(texts(&security["capabilities"]["add"]), rights);
        let node_name = named(&container["env"], "NODE_NAME");
        assert_eq!(node_name["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
        let address = address.unwrap();
        for (probe, page) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
            let asked = &container[probe]["httpGet"];
            let at = format!("{}:{}", asked["host"].as_str().unwrap(), asked["port"]);
            assert_eq!((at, &asked["path"]), (address.to_string(), &page.into()), "{name} {probe}");
        }
        let path = |volume: &str| &named(&container["volumeMounts"], volume)["mountPath"];
        assert_eq!((path("config"), path("run")), (&"/etc/ferrule".into(), &"/run/ferrule".into()));
    }
    for container in
        pod["containers"].as_array().unwrap().iter().chain(pod["initContainers"].as_array().unwrap())
    {
        container["volumeMounts"].as_array().unwrap().iter().for_each(|mount| {
            named(volumes, mount["name"].as_str().unwrap());
        });
    }
    assert_eq!(named(volumes, "config")["configMap"]["name"], map["metadata"]["name"]);
    for (volume, path) in [("run", "/run/ferrule"), ("bin", "/opt/cni/bin"), ("net-d", "/etc/cni/net.d")] {
        assert_eq!(named(volumes, volume)["hostPath"]["path"], path);
    }
}

/// Runs the very command of the manifest, with directories in place of the image's and the node's.
#[test]
fn the_init_container_installs_the_plugin_its_other_name_and_the_list_last() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    ["opt/ferrule", "host/bin", "host/net.d"].iter().for_each(|path| fs::create_dir_all(at(path)).unwrap());
    fs::write(at("opt/ferrule/ferrule"), "new").unwrap();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/10-ferrule.conflist");
    fs::copy(&list, at("opt/ferrule/10-ferrule.conflist")).unwrap();
    fs::write(at("host/bin/ferrule"), "old").unwrap();
    // A second name keeps the old file: it was replaced, not overwritten.
    fs::hard_link(at("host/bin/ferrule"), at("old")).unwrap();
    let pod = pod();
    let command = texts(&named(&pod["initContainers"], "install")["command"]);
    let script = command[2].replace(" /opt/ferrule", " opt/ferrule").replace(" /host/", " host/");
    assert!(
        script.trim_end().ends_with("host/net.d 10-ferrule.conflist 0644"),
        "the list comes last: {script}"
    );
    for _ in 0..2 {
        let run =
            Command::new(command[0]).args([command[1], &script]).current_dir(root.path()).output().unwrap();
        assert!(run.status.success(), "{run:?}");
    }
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();
    assert_eq!(
        (read("host/bin/ferrule"), read("host/bin/ferrule-ipam"), read("old")),
        ("new".into(), "new".into(), "old".into())
    );
    assert_eq!(fs::metadata(at("host/bin/ferrule")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(read("host/net.d/10-ferrule.conflist"), fs::read_to_string(list).unwrap());
    assert_eq!(fs::read_dir(at("host/net.d")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(at("host/bin")).unwrap().count(), 2);
}

#[test]
fn the_configmap_is_a_configuration_that_takes_the_nodes_from_kubernetes() {
    let map = of_kind(&documents("configmap.yaml"), "ConfigMap");
    let text = map["data"]["ferrule.toml"].as_str().unwrap();
    let config = ferrule_config::Config::parse(text, Path::new("ferrule.toml")).unwrap();
    assert_eq!(config.routing.source, ferrule_config::Source::Kubernetes);
}
