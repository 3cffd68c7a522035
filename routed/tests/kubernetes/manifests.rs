//! The manifests of `conf/kubernetes`: they parse, and allow exactly what is asked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use routed::source::kubernetes::PERMISSIONS;
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

/// `verb resource` of every rule.
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

#[test]
fn the_daemonset_runs_as_the_account_with_the_configuration_and_two_capabilities() {
    let set = of_kind(&documents("daemonset.yaml"), "DaemonSet");
    let account = of_kind(&documents("rbac.yaml"), "ServiceAccount");
    let map = of_kind(&documents("configmap.yaml"), "ConfigMap");
    assert_eq!(set["metadata"]["namespace"], account["metadata"]["namespace"]);
    assert_eq!(map["metadata"]["namespace"], account["metadata"]["namespace"]);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    assert_eq!(pod["hostNetwork"], true, "it keeps the node's routes");
    let routed = pod["containers"].as_array().unwrap().iter().find(|one| one["name"] == "routed").unwrap();
    let security = &routed["securityContext"];
    assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(texts(&security["capabilities"]["add"]), ["NET_ADMIN", "DAC_OVERRIDE"]);
    let name = routed["env"].as_array().unwrap().iter().find(|one| one["name"] == "NODE_NAME").unwrap();
    assert_eq!(name["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    let volumes = pod["volumes"].as_array().unwrap();
    let mounted = |container: &Value| {
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
        }
    };
    pod["containers"].as_array().unwrap().iter().for_each(mounted);
    assert!(volumes.iter().any(|volume| volume["configMap"]["name"] == map["metadata"]["name"]));
}

#[test]
fn the_configmap_is_a_configuration_that_takes_the_nodes_from_kubernetes() {
    let map = of_kind(&documents("configmap.yaml"), "ConfigMap");
    let text = map["data"]["ferrule.toml"].as_str().unwrap();
    let config = ferrule_config::Config::parse(text, Path::new("ferrule.toml")).unwrap();
    assert_eq!(config.routing.source, ferrule_config::Source::Kubernetes);
}
