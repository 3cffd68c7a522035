//! Every fault of the environment and of the configuration is an error of the specification, found before anything is
//! touched; and nothing that can be written there is anything else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

#[path = "support/entry.rs"]
mod entry;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ferrule_cni::{Answer, Face, run};
use proptest::prelude::*;
use serde_json::{Value, json};

use entry::{NAMES, Untouchable, Variables, is_the_specifications, judge};

fn variables(command: &str) -> Variables {
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_IFNAME", "eth0"),
    ]
    .map(|(name, value)| (name, OsString::from(value)))
    .into()
}

fn config() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pods", "type": "ferrule", "runtimeDir": "/nonexistent" })
}

fn answer(variables: &Variables, stdin: &[u8]) -> Answer {
    run(Face::Network, |name| variables.get(name).cloned(), stdin, &Untouchable)
}

/// Code and message of a failure.
fn refused(variables: &Variables, stdin: &[u8]) -> (u64, String) {
    let answer = answer(variables, stdin);
    assert!(!answer.ok, "{}", String::from_utf8_lossy(&answer.stdout));
    let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
    (object["code"].as_u64().unwrap(), object["msg"].as_str().unwrap().to_owned())
}

/// A configuration with one field changed; `null` removes it.
fn with(field: &str, value: Value) -> Vec<u8> {
    let mut config = config();
    if value.is_null() {
        config.as_object_mut().unwrap().remove(field);
    } else {
        config[field] = value;
    }
    config.to_string().into_bytes()
}

#[test]
fn all_missing_variables_are_in_one_error() {
    for (command, names) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ] {
        for empty in [false, true] {
            let mut variables: Variables = [("CNI_COMMAND", OsString::from(command))].into();
            if empty {
                variables.extend(names.iter().map(|name| (*name, OsString::new())));
            }
            let (code, text) = refused(&variables, b"");
            assert_eq!(code, 4);
            assert!(text.starts_with(&format!("{command} needs {}", names.join(", "))), "{text}");
        }
    }
}

#[test]
fn a_fault_of_a_variable_names_it() {
    let id = |bad: &str| ("CNI_CONTAINERID", OsString::from(bad));
    let ifname = |bad: &str| ("CNI_IFNAME", OsString::from(bad));
    for (name, value) in [
        id("-a"),
        id("a/b"),
        id("a b"),
        id("ä"),
        ("CNI_CONTAINERID", OsString::from_vec(vec![0xff])),
        ifname("."),
        ifname(".."),
        ifname("a/b"),
        ifname("a:b"),
        ifname("a b"),
        ifname("sixteen-letters-"),
        ("CNI_IFNAME", OsString::from_vec(vec![0xff])),
        ("CNI_NETNS", OsString::from_vec(vec![0xff])),
        ("CNI_ARGS", OsString::from("KEY")),
        ("CNI_ARGS", OsString::from("KEY=VALUE")),
    ] {
        let mut variables = variables("ADD");
        variables.insert(name, value.clone());
        let (code, text) = refused(&variables, config().to_string().as_bytes());
        assert_eq!(code, 4, "{value:?}: {text}");
        assert!(text.contains(name), "{value:?}: {text}");
    }
}

#[test]
fn an_unknown_command_is_told_the_known_ones() {
    for command in ["gc", "add", "NONSENSE"] {
        let (code, text) = refused(&variables(command), b"");
        assert_eq!(code, 4);
        assert!(text.contains(command) && text.contains("ADD, DEL, CHECK, STATUS, GC and VERSION"), "{text}");
    }
}

#[test]
fn json_that_is_none_is_told_the_place() {
    for (stdin, place) in [
        (&b""[..], "line 1 column 0"),
        (b"{\"name\":\n oops}", "line 2 column 2"),
        (b"{} {}", "line 1 column 4"),
        (b"\xff", "line 1 column 1"),
    ] {
        let (code, text) = refused(&variables("ADD"), stdin);
        assert_eq!(code, 6, "{text}");
        assert!(text.contains(place), "{text}");
    }
    let (code, _) = refused(&variables("ADD"), &vec![b' '; (1 << 20) + 1]);
    assert_eq!(code, 6);
}

#[test]
fn a_version_that_is_not_spoken_is_told_the_spoken_ones() {
    for version in [json!("0.0.1"), json!("0.3.2"), json!("1.1"), json!("2.0.0"), json!("x")] {
        let (code, text) = refused(&variables("ADD"), &with("cniVersion", version));
        assert_eq!(code, 1);
        assert!(text.contains("0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{text}");
    }
}

#[test]
fn a_verb_is_refused_in_a_version_that_does_not_have_it() {
    const ALL: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    for (command, since) in
        [("ADD", "0.1.0"), ("DEL", "0.1.0"), ("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")]
    {
        for version in ALL {
            let answer = answer(&variables(command), &with("cniVersion", json!(version)));
            let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
            assert_eq!(object["cniVersion"], version);
            let refused = object["code"] == 1;
            assert_eq!(refused, version < since, "{command} in {version}: {object}");
            if refused {
                let text = object["msg"].as_str().unwrap();
                assert!(text.starts_with(&format!("{command} came with version {since}")), "{text}");
            }
        }
    }
}

#[test]
fn a_missing_version_is_the_oldest() {
    let answer = answer(&variables("ADD"), &with("cniVersion", Value::Null));
    let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((object["cniVersion"].as_str(), object["code"].as_u64()), (Some("0.1.0"), Some(8)));
}

#[test]
fn the_callers_trace_is_in_the_log_line_and_nothing_else_is() {
    let line = |trace: &str| {
        let mut variables = variables("ADD");
        variables.insert("TRACEPARENT", trace.into());
        answer(&variables, config().to_string().as_bytes()).log.unwrap()
    };
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(line(trace).trim_end().ends_with(&format!(" traceparent={trace}")), "{}", line(trace));
    for noise in ["", "x y", "00-\u{1b}[2J", &"0".repeat(1000)] {
        assert!(!line(noise).contains("traceparent"), "{}", line(noise));
    }
}

#[test]
fn a_fault_of_a_field_names_it_and_the_remedy() {
    for (field, value, says) in [
        ("cniVersion", json!(1), "expected a text like"),
        ("name", Value::Null, "it is missing"),
        ("name", json!(7), "expected a text, found a number"),
        ("name", json!("_pods"), "is not a network's name"),
        ("name", json!(""), "is not a network's name"),
        ("runtimeDir", json!("run/ferrule"), "is not an absolute path"),
        ("runtimeDir", json!({}), "expected a text, found an object"),
        ("runtime_dir", json!("/run"), "is \\\"runtimeDir\\\" meant?"),
        ("M_T_U", json!(1500), "is \\\"mtu\\\" meant?"),
        ("mtu", json!("1500"), "expected a number of bytes, found a text"),
        ("mtu", json!(1279), "is not between 1280 and 65535"),
        ("mtu", json!(65536), "is not between 1280 and 65535"),
        ("mtu", json!(-1), "is not between 1280 and 65535"),
        ("mtu", json!(1500.5), "is not between 1280 and 65535"),
        ("mode", json!("tunnel"), "is not one of"),
        ("mode", json!(["routed"]), "expected a text, found a list"),
        ("ipam", json!("host-local"), "expected an object"),
        ("ipam", json!({ "type": "../ferrule" }), "leave `ipam` out, or name the IPAM plugin"),
        ("ipam", json!({ "pool": "blue" }), "leave `ipam` out, or name the IPAM plugin"),
        ("dns", json!({ "nameservers": 1 }), "it is no name service"),
        ("ipam", json!({ "type": "ferrule-ipam", "subnet": "10.0.0.0/8" }), "`type` and `pool` are"),
        ("ipam", json!({ "type": "ferrule-ipam", "pool": 1 }), "expected the name of a pool"),
        ("prevResult", json!(7), "it is not a result of ADD"),
    ] {
        let (code, text) = refused(&variables("ADD"), &with(field, value.clone()));
        assert_eq!(code, 7, "{field} = {value}: {text}");
        let says = says.replace("\\\"", "\"");
        assert!(text.contains(field) && text.contains(&says), "{field} = {value}: {text}");
    }
    let (code, text) = refused(&variables("ADD"), b"[]");
    assert_eq!((code, text.contains("expected an object, found a list")), (7, true));
}

#[test]
fn check_needs_the_result_of_add() {
    for (result, says) in [
        (Value::Null, "CHECK needs the result of ADD"),
        (json!(7), "it is not a result of ADD"),
        (json!({ "ips": [{ "address": "300.0.0.1/32" }] }), "it is not a result of ADD"),
        (json!({ "interfaces": {} }), "it is not a result of ADD"),
    ] {
        let (code, text) = refused(&variables("CHECK"), &with("prevResult", result));
        assert_eq!(code, 7);
        assert!(text.contains("prevResult") && text.contains(says), "{text}");
    }
}

#[test]
fn what_a_pod_would_lack_is_refused_by_key_and_value() {
    let (code, text) = refused(&variables("ADD"), &with("ipMasq", json!(true)));
    assert_eq!(code, 2);
    assert!(text.contains("ipMasq = true"), "{text}");
}

#[test]
fn what_runtimes_add_is_left_alone() {
    for (field, value) in [
        ("cniVersions", json!(["1.0.0", "1.1.0"])),
        ("runtimeConfig", json!({ "portMappings": [] })),
        ("capabilities", json!({ "portMappings": true })),
        ("args", json!({ "cni": {} })),
        ("cni.dev/attempt", json!(7)),
        ("dns", json!({})),
        ("dns", json!({ "nameservers": ["10.0.0.1"] })),
        ("ipam", json!({ "type": "host-local" })),
        ("prevResult", json!({})),
        ("ipMasq", json!(false)),
        ("ipam", json!({})),
        ("ipam", json!({ "type": "ferrule-ipam" })),
        ("mtu", json!(0)),
        ("mode", json!("routed")),
        ("prevResult", Value::Null),
        ("disableCheck", json!(true)),
    ] {
        // Read well, the request goes on to the namespace, which is not there.
        let (code, text) = refused(&variables("ADD"), &with(field, value.clone()));
        assert_eq!(code, 8, "{field} = {value}: {text}");
    }
}

#[test]
fn without_a_command_it_says_what_it_is() {
    for variables in [Variables::new(), [("CNI_COMMAND", OsString::new())].into()] {
        let answer = answer(&variables, b"");
        assert!(answer.ok && answer.stdout.is_empty());
        assert!(
            answer
                .log
                .unwrap()
                .contains("CNI versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0")
        );
    }
}

/// Standard input that must not be read.
struct Unread;

impl std::io::Read for Unread {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        panic!("VERSION has no configuration")
    }
}

#[test]
fn version_and_faults_of_the_environment_do_not_read_standard_input() {
    let of = |variables: Variables| {
        run(Face::Network, move |name| variables.get(name).cloned(), Unread, &Untouchable)
    };
    assert!(of(variables("VERSION")).ok);
    assert!(of(Variables::new()).ok);
    assert!(!of(variables("NONSENSE")).ok);
    assert!(!of([("CNI_COMMAND", OsString::from("ADD"))].into()).ok);
}

#[test]
fn standard_input_that_cannot_be_read_is_an_error_of_input() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    let variables = variables("ADD");
    let answer = run(Face::Network, |name| variables.get(name).cloned(), Broken, &Untouchable);
    let object: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(object["code"], 5);
}

fn any_text() -> impl Strategy<Value = OsString> {
    let often = prop::sample::select(vec![
        "ADD",
        "DEL",
        "CHECK",
        "STATUS",
        "VERSION",
        "GC",
        "eth0",
        "c0ffee",
        "/nonexistent",
        "1",
        "true",
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAME=a;K8S_POD_NAMESPACE=b",
    ]);
    prop_oneof![
        4 => often.prop_map(OsString::from),
        1 => any::<String>().prop_map(OsString::from),
        1 => any::<Vec<u8>>().prop_map(OsString::from_vec),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "1.1.0",
            "1.0.0",
            "0.4.0",
            "pods",
            "routed",
            "ferrule-ipam",
            "10.0.0.1/32"
        ])
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        8 => prop::sample::select(vec![
            "runtimeConfig", "args", "cni", "ips", "mac", "dns", "ipRanges", "aliases", "subnet", "servers",
            "cni.dev/valid-attachments", "containerID", "ifname",
            "cniVersion", "name", "type", "runtimeDir", "mtu", "mode", "ipam", "pool", "prevResult", "dns", "ipMasq",
            "interfaces", "ips", "routes", "mac", "sandbox", "address", "gateway", "interface", "dst", "gw",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_stdin() -> impl Strategy<Value = Vec<u8>> {
    // A good configuration with fields changed gets further than noise.
    let nearly = (any_json(), any_json()).prop_map(|(fields, result)| {
        let mut config = config();
        if let Value::Object(fields) = fields {
            config.as_object_mut().unwrap().extend(fields);
        }
        if result.is_object() {
            config["prevResult"] = result;
        }
        config.to_string().into_bytes()
    });
    prop_oneof![
        4 => nearly,
        2 => any_json().prop_map(|value| value.to_string().into_bytes()),
        1 => any::<Vec<u8>>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_comes_in_an_answer_of_the_specification_goes_out(
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "STATUS", "VERSION", "GC"]),
        face in prop::sample::select(vec![Face::Network, Face::Ipam]),
        sound in any::<bool>(),
        changed in prop::collection::btree_map(prop::sample::select(NAMES.to_vec()), any_text(), 0..4),
        stdin in any_stdin(),
    ) {
        let mut environment = if sound { variables(command) } else { Variables::new() };
        environment.extend(changed);
        judge(face, &environment, &stdin);
        let answer = run(face, |name| environment.get(name).cloned(), &stdin[..], &Untouchable);
        let code = is_the_specifications(&answer);
        prop_assert!(matches!(code, None | Some(1 | 2 | 4..=8 | 11 | 50 | 100)), "{answer:?}");
    }
}
