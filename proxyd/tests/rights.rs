//! The rights that `conf/kubernetes/proxyd.yaml` gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proxyd::source::kubernetes::PERMISSIONS;
use serde_json::Value;

/// The documents of a manifest.
fn documents(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes").join(name);
    let text = fs::read_to_string(&path).unwrap();
    text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Each `verb resource` of a rule, with the API group as RBAC spells it.
fn allowed(rule: &Value) -> BTreeSet<String> {
    let groups = texts(&rule["apiGroups"]);
    let [group] = groups[..] else { panic!("{groups:?}") };
    let full =
        |resource: &str| if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let verbs = texts(&rule["verbs"]);
    let resources = texts(&rule["resources"]).into_iter().map(full);
    resources.flat_map(|object| verbs.iter().map(move |verb| format!("{verb} {object}"))).collect()
}

#[test]
fn the_manifest_allows_what_is_asked_for_and_nothing_else() {
    let [role, binding] = &documents("proxyd.yaml")[..] else { panic!("a role and its binding") };
    let allowed: BTreeSet<_> = role["rules"].as_array().unwrap().iter().flat_map(allowed).collect();
    let asked: BTreeSet<_> = PERMISSIONS.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, asked);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    // The user is the one that the other manifest makes.
    let rbac = documents("rbac.yaml");
    let account = rbac.iter().find(|one| one["kind"] == "ServiceAccount").unwrap();
    for key in ["name", "namespace"] {
        assert_eq!(binding["subjects"][0][key], account["metadata"][key]);
    }
}
