//! The Rust types agree with the interface files: same methods, errors, fields, types and optional fields.
//!
//! From the definition a JSON value is made for every method's parameters and reply and for every error, once with all
//! optional fields and once with none; the Rust type must read it and write exactly the same again. So a field that
//! only one side has, has under another name, or has with another type or optionality, fails here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use ferrule_wire::{
    Call, CallError, DEFINITION, INTERFACE, Incoming, METHODS, Method, SERVICE_DEFINITION, SERVICE_INTERFACE,
    Served, routed, service as standard,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A Varlink type expression.
#[derive(Debug, Clone)]
enum Type {
    Bool,
    Int,
    String,
    Array(Box<Self>),
    Optional(Box<Self>),
    Named(String),
}

type Fields = Vec<(String, Type)>;

#[derive(Debug)]
enum Definition {
    Struct(Fields),
    Enum(Vec<String>),
}

#[derive(Debug, Default)]
struct Interface {
    name: String,
    types: BTreeMap<String, Definition>,
    methods: BTreeMap<String, (Fields, Fields)>,
    errors: BTreeMap<String, Fields>,
}

/// A parser of the part of Varlink's grammar that the files use; it panics on anything else.
struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    fn new(text: &str) -> Self {
        let mut tokens = Vec::new();
        for line in text.lines() {
            let code = line.split('#').next().unwrap();
            let spaced = ["(", ")", ":", ",", "?", "[]", "->"]
                .iter()
                .fold(code.to_owned(), |code, sign| code.replace(sign, &format!(" {sign} ")));
            tokens.extend(spaced.split_whitespace().map(str::to_owned));
        }
        Self { tokens, at: 0 }
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens[self.at - 1].clone()
    }

    fn peek(&self, offset: usize) -> Option<&str> {
        self.tokens.get(self.at + offset).map(String::as_str)
    }

    fn expect(&mut self, token: &str) {
        assert_eq!(self.next(), token, "token {}", self.at);
    }

    fn type_expression(&mut self) -> Type {
        match self.next().as_str() {
            "?" => Type::Optional(Box::new(self.type_expression())),
            "[]" => Type::Array(Box::new(self.type_expression())),
            "bool" => Type::Bool,
            "int" => Type::Int,
            "string" => Type::String,
            name => {
                assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "type {name}");
                Type::Named(name.to_owned())
            }
        }
    }

    fn fields(&mut self) -> Fields {
        self.expect("(");
        let mut fields = Vec::new();
        while self.peek(0) != Some(")") {
            let name = self.next();
            self.expect(":");
            fields.push((name, self.type_expression()));
            if self.peek(0) == Some(",") {
                self.next();
            }
        }
        self.expect(")");
        fields
    }

    fn definition(&mut self) -> Definition {
        if self.peek(2) == Some(":") {
            return Definition::Struct(self.fields());
        }
        self.expect("(");
        let mut names = Vec::new();
        loop {
            match self.next().as_str() {
                ")" => return Definition::Enum(names),
                "," => {}
                name => names.push(name.to_owned()),
            }
        }
    }

    fn interface(mut self) -> Interface {
        self.expect("interface");
        let mut interface = Interface { name: self.next(), ..Interface::default() };
        while self.at < self.tokens.len() {
            let (keyword, name) = (self.next(), self.next());
            match keyword.as_str() {
                "type" => drop(interface.types.insert(name, self.definition())),
                "error" => drop(interface.errors.insert(name, self.fields())),
                "method" => {
                    let parameters = self.fields();
                    self.expect("->");
                    interface.methods.insert(name, (parameters, self.fields()));
                }
                other => panic!("{other} begins no definition"),
            }
        }
        interface
    }
}

impl Interface {
    fn value(&self, kind: &Type, all: bool) -> Value {
        match kind {
            Type::Bool => json!(true),
            Type::Int => json!(7),
            // Reads as a name, as a number's text and as an address.
            Type::String => json!("10.0.0.1/32"),
            Type::Array(element) => json!([self.value(element, all)]),
            Type::Optional(inner) => self.value(inner, all),
            Type::Named(name) => match &self.types[name] {
                Definition::Struct(fields) => self.object(fields, all),
                Definition::Enum(names) => json!(names[0]),
            },
        }
    }

    fn object(&self, fields: &Fields, all: bool) -> Value {
        let wanted = fields.iter().filter(|(_, kind)| all || !matches!(kind, Type::Optional(_)));
        Value::Object(wanted.map(|(name, kind)| (name.clone(), self.field(name, kind, all))).collect())
    }

    /// Fields of these names hold addresses without a length.
    fn field(&self, name: &str, kind: &Type, all: bool) -> Value {
        match (name, kind) {
            ("address" | "first" | "last", Type::String) => json!("10.0.0.1"),
            ("requested", _) => json!(["10.0.0.1"]),
            ("addresses", _) if self.name == routed::INTERFACE => json!(["10.0.0.1"]),
            _ => self.value(kind, all),
        }
    }
}

fn ours() -> Interface {
    Parser::new(DEFINITION).interface()
}

fn of_routed() -> Interface {
    Parser::new(routed::DEFINITION).interface()
}

fn service() -> Interface {
    Parser::new(SERVICE_DEFINITION).interface()
}

/// The type reads and writes exactly the fields of the definition, and insists on those that are not optional.
fn agrees<T: serde::Serialize + serde::de::DeserializeOwned>(
    interface: &Interface,
    what: &str,
    fields: &Fields,
) {
    for all in [true, false] {
        let object = interface.object(fields, all);
        let read: T =
            serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{what}: {e} in {object}"));
        assert_eq!(serde_json::to_value(&read).unwrap(), object, "{what}");
    }
    for (name, _) in fields.iter().filter(|(_, kind)| !matches!(kind, Type::Optional(_))) {
        let Value::Object(mut object) = interface.object(fields, true) else { unreachable!() };
        object.remove(name);
        assert!(serde_json::from_value::<T>(Value::Object(object)).is_err(), "{what} does without {name}");
    }
}

fn method_agrees<M: Method>(interfaces: &[Interface]) {
    let (interface, name) = M::NAME.rsplit_once('.').unwrap();
    let interface = interfaces.iter().find(|i| i.name == interface).unwrap();
    let (parameters, reply) = &interface.methods[name];
    agrees::<M>(interface, M::NAME, parameters);
    agrees::<M::Reply>(interface, M::NAME, reply);
}

#[test]
fn every_method_of_the_files_is_there_and_no_other() {
    for (interface, name, methods) in [
        (ours(), INTERFACE, METHODS),
        (service(), SERVICE_INTERFACE, standard::METHODS),
        (of_routed(), routed::INTERFACE, routed::METHODS),
    ] {
        let defined: Vec<_> = interface.methods.keys().map(|method| format!("{name}.{method}")).collect();
        let mut known = methods.to_vec();
        known.sort_unstable();
        assert_eq!(known, defined);
        assert_eq!(interface.name, name);
    }
}

#[test]
fn parameters_and_replies_have_the_fields_of_the_files() {
    let interfaces = [ours(), service()];
    method_agrees::<ferrule_wire::Allocate>(&interfaces);
    method_agrees::<ferrule_wire::Release>(&interfaces);
    method_agrees::<ferrule_wire::Check>(&interfaces);
    method_agrees::<ferrule_wire::Status>(&interfaces);
    method_agrees::<ferrule_wire::Collect>(&interfaces);
    method_agrees::<ferrule_wire::List>(&interfaces);
    method_agrees::<ferrule_wire::Pools>(&interfaces);
    method_agrees::<ferrule_wire::Resting>(&interfaces);
    method_agrees::<ferrule_wire::GetInfo>(&interfaces);
    method_agrees::<ferrule_wire::GetInterfaceDescription>(&interfaces);
    assert_eq!((METHODS.len(), standard::METHODS.len()), (8, 2), "a new method is to be named above");
    let interfaces = [of_routed()];
    method_agrees::<routed::Status>(&interfaces);
    method_agrees::<routed::Nodes>(&interfaces);
    method_agrees::<routed::Failures>(&interfaces);
    assert_eq!(routed::METHODS.len(), 3, "a new method is to be named above");
}

#[test]
fn types_have_no_optional_field_that_the_file_lacks() {
    // A field that is skipped when empty would not show above: fill everything and look for it in the file.
    let lease = ferrule_wire::Lease {
        attachment: ferrule_wire::Attachment {
            network: "n".into(),
            container_id: "c".into(),
            ifname: "i".into(),
        },
        addresses: vec!["10.0.0.1/32".parse().unwrap()],
        pool: "p".into(),
        pod: Some(ferrule_wire::Pod { namespace: "ns".into(), name: "n".into(), uid: "u".into() }),
        netns: Some("/run/netns/x".into()),
        given_at_boottime_ms: 1,
    };
    let range =
        ferrule_wire::AddressRange { first: "10.0.0.1".parse().unwrap(), last: "10.0.0.9".parse().unwrap() };
    let reply = ferrule_wire::AllocateReply { lease: lease.clone(), existing: true, mtu: Some(1450) };
    let allocate = ferrule_wire::Allocate {
        attachment: lease.attachment.clone(),
        pool: Some("p".into()),
        pod: lease.pod.clone(),
        netns: lease.netns.clone(),
        deadline_ms: Some(1),
        requested: vec!["10.0.0.1".parse().unwrap()],
        ranges: vec![range],
    };
    let interface = ours();
    let keys = |value: Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let names = |fields: &Fields| {
        let mut names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    };
    let Definition::Struct(lease_fields) = &interface.types["Lease"] else { panic!("Lease is a struct") };
    assert_eq!(keys(serde_json::to_value(&lease).unwrap()), names(lease_fields));
    let (parameters, answer) = &interface.methods["Allocate"];
    assert_eq!(keys(serde_json::to_value(&allocate).unwrap()), names(parameters));
    assert_eq!(keys(serde_json::to_value(&reply).unwrap()), names(answer));
}

#[test]
fn every_error_of_the_files_is_typed_and_keeps_name_and_parameters() {
    for interface in [ours(), service()] {
        for (name, fields) in &interface.errors {
            for all in [true, false] {
                let Value::Object(parameters) = interface.object(fields, all) else { unreachable!() };
                let name = format!("{}.{name}", interface.name);
                let error = CallError::from_reply(name.clone(), parameters.clone());
                assert!(!matches!(error, CallError::Other { .. }), "{name} is not typed");
                assert_eq!(error.name(), name);
                assert_eq!(error.parameters(), Value::Object(parameters));
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[test]
fn an_unknown_error_is_kept_as_it_came() {
    let parameters: Map<String, Value> = json!({ "x": [1] }).as_object().unwrap().clone();
    for name in ["io.ferrule.Ipam.Newer", "io.ferrule.Ipam.NoPool"] {
        let error = CallError::from_reply(name.into(), parameters.clone());
        assert_eq!(error, CallError::Other { name: name.into(), parameters: parameters.clone() });
        assert_eq!((error.name(), error.parameters()), (name.into(), Value::Object(parameters.clone())));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn calls_are_read_and_faults_have_the_standard_errors() {
    let parse = |text: &str| Incoming::<Served<Call>>::parse(text.as_bytes());
    let request = parse(r#"{"method":"io.ferrule.Ipam.List","more":true}"#).unwrap().unwrap();
    assert!(request.more && !request.oneway);
    let fault = |text: &str| parse(text).unwrap().unwrap_err().name();
    let method_not_found = "org.varlink.service.MethodNotFound";
    assert_eq!(fault(r#"{"method":"io.ferrule.Ipam.Nope"}"#), method_not_found);
    assert_eq!(fault(r#"{"method":"org.varlink.service.Nope"}"#), method_not_found);
    assert_eq!(fault(r#"{"method":"io.other.Thing.Nope"}"#), "org.varlink.service.InterfaceNotFound");
    assert_eq!(fault(r#"{"method":""}"#), "org.varlink.service.InterfaceNotFound");
    let wrong = "org.varlink.service.InvalidParameter";
    assert_eq!(fault(r#"{"method":"io.ferrule.Ipam.Release"}"#), wrong);
    assert_eq!(fault(r#"{"method":"io.ferrule.Ipam.Release","parameters":{"attachment":1}}"#), wrong);
    assert_eq!(fault(r#"{"method":"io.ferrule.Ipam.Pools","parameters":{"what":1}}"#), wrong);
    assert!(parse("{").is_err());
    assert!(parse("[]").is_err());
}
