//! Reads JSON that Go programs write as Go's `encoding/json` reads it, and puts serde's complaints into words that the
//! writer of the text understands.
//!
//! Go looks for a field by its exact name first, and then regardless of case. It takes null as if the field were
//! absent. Runtimes rely on this: some write `HostPort` where the conventions say `hostPort`. Pure.

use std::mem;

use serde_json::{Map, Value};

/// Whether Go takes `key` for the field `name`, which is ASCII. Go ignores case, and also folds two letters outside of
/// ASCII to letters of it.
pub fn is_name(key: &str, name: &str) -> bool {
    let folded = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(folded).eq(name.chars().map(folded))
}

/// The value of the field `name`.
pub fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let folded = fields.iter().filter(|(key, _)| is_name(key, name)).map(|(_, value)| value);
    fields.get(name).into_iter().chain(folded).find(|value| !value.is_null())
}

/// Whether a Go program would have left the value out: null, false, 0, an empty text, and lists and objects that hold
/// nothing else.
pub fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(is_unset),
        Value::Object(fields) => fields.values().all(is_unset),
    }
}

/// Renames all fields, at any depth, to those of `names` for which Go takes them. Leaves out nulls and empty texts. A
/// derived `Deserialize` then reads the value as Go does.
pub fn named(value: &mut Value, names: &[&str]) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|entry| named(entry, names)),
        Value::Object(fields) => {
            let is_exact = |(key, _): &(String, Value)| names.contains(&key.as_str());
            let (exact, others): (Vec<_>, Vec<_>) = mem::take(fields).into_iter().partition(is_exact);
            for (key, mut value) in others.into_iter().chain(exact) {
                if value.is_null() || value == "" {
                    continue;
                }
                named(&mut value, names);
                let name = names.iter().find(|name| **name == key);
                let name = name.or_else(|| names.iter().find(|name| is_name(&key, name)));
                fields.insert(name.map_or(key, |name| (*name).to_owned()), value);
            }
        }
        _ => {}
    }
}

/// What serde says of a value, without the names of Rust's types. `object` is the format's word for a set of fields.
pub fn in_words(message: &str, object: &str) -> String {
    let message = message.trim();
    let (message, place) = match message.rfind(" at line ") {
        Some(at) => message.split_at(at),
        None => (message, ""),
    };
    let mismatch = ["invalid type: ", "invalid value: ", "invalid length "]
        .into_iter()
        .find_map(|start| message.strip_prefix(start)?.rsplit_once(", expected "));
    let words = match mismatch {
        Some((was, wanted)) => format!("expected {}, found {}", expected(wanted, object), found(was, object)),
        None => match (message.strip_prefix("missing field "), message.strip_prefix("duplicate field ")) {
            (Some(name), _) => format!("{name} is missing"),
            (_, Some(name)) => format!("{name} is there twice"),
            _ => message.replacen("unknown variant", "unknown value", 1),
        },
    };
    words + place
}

fn expected(kind: &str, object: &str) -> String {
    let kind = kind.strip_prefix("option of ").unwrap_or(kind);
    match kind {
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "integer" => "a whole number".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u64" | "u128" | "usize" => "a whole number from 0 on".into(),
        "f32" | "f64" => "a number".into(),
        "a string" | "str" | "string" | "a borrowed string" => "a text".into(),
        "a boolean" | "bool" => "true or false".into(),
        "a sequence" | "sequence" => "a list".into(),
        "a map" | "map" => object.into(),
        _ if kind.starts_with("struct ") => object.into(),
        _ if kind.starts_with("tuple ") => "a list".into(),
        _ => kind.replace("a string", "a text").replace("a map", object),
    }
}

fn found(kind: &str, object: &str) -> String {
    /// Real values are shorter.
    const MAX: usize = 100;
    let quoted =
        |start: &str| kind.strip_prefix(start).map(|rest| rest.split('`').next().unwrap_or_default());
    if let Some(number) = quoted("integer `").or_else(|| quoted("floating point `")) {
        return format!("the number {number}");
    }
    if let Some(value) = quoted("boolean `") {
        return value.to_owned();
    }
    match kind {
        "null" | "unit value" | "Option value" => "null".into(),
        "sequence" => "a list".into(),
        "map" => object.into(),
        _ => kind.replacen("string ", "the text ", 1).chars().take(MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As `encoding/json` folds names (`foldName`): simple folding, so that `ß` is no `ss`.
    #[test]
    fn a_name_is_found_exactly_first_and_then_regardless_of_case() {
        for key in ["hostPort", "HostPort", "HOSTPORT", "ho\u{17f}tPort"] {
            assert!(is_name(key, "hostPort"), "{key}");
        }
        assert!(is_name("\u{212a}ey", "key"));
        for key in ["host_port", "hostPor", "hostPorts", "", "höstPort"] {
            assert!(!is_name(key, "hostPort"), "{key}");
        }
        let fields = json!({ "MAC": 1, "Mac": 2, "mac": 3, "IPS": null, "ips": null, "Ips": 4 });
        let of = |name| field(fields.as_object().unwrap(), name).and_then(Value::as_u64);
        assert_eq!((of("mac"), of("ips"), of("dns")), (Some(3), Some(4), None));
    }

    #[test]
    fn fields_get_their_names_at_any_depth_and_what_is_not_set_goes() {
        let mut value =
            json!({ "IPs": [{ "Address": "a", "GATEWAY": "", "interface": 0 }], "ips": null, "other": {} });
        named(&mut value, &["ips", "address", "gateway", "interface"]);
        assert_eq!(value, json!({ "ips": [{ "address": "a", "interface": 0 }], "other": {} }));
        let mut both = json!({ "MTU": 1, "mtu": 2, "Mtu": 3 });
        named(&mut both, &["mtu"]);
        assert_eq!(both, json!({ "mtu": 2 }));
    }

    #[test]
    fn what_is_empty_is_not_set() {
        for unset in [json!(null), json!(0), json!(""), json!([]), json!({ "a": [{ "b": 0 }] }), json!(false)]
        {
            assert!(is_unset(&unset), "{unset}");
        }
        for set in [json!(1), json!("x"), json!([1]), json!({ "a": "x" }), json!(true)] {
            assert!(!is_unset(&set), "{set}");
        }
    }

    #[test]
    fn no_name_of_rust_reaches_the_reader() {
        use serde::Deserialize;
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only the errors count")]
        struct Shape {
            small: u16,
            text: String,
            flag: bool,
            list: Vec<String>,
        }
        let good = json!({ "small": 1, "text": "a", "flag": true, "list": ["a"] });
        for (field, value, says) in [
            ("small", json!("x"), "expected a whole number from 0 to 65535, found the text \"x\""),
            ("small", json!(-1), "expected a whole number from 0 to 65535, found the number -1"),
            ("small", json!(1.5), "expected a whole number from 0 to 65535, found the number 1.5"),
            ("text", json!(7), "expected a text, found the number 7"),
            ("text", json!(null), "expected a text, found null"),
            (
                "flag",
                json!("yes, expected no"),
                "expected true or false, found the text \"yes, expected no\"",
            ),
            ("list", json!({}), "expected a list, found an object"),
            ("list", json!([true]), "expected a text, found true"),
        ] {
            let mut shape = good.clone();
            shape[field] = value;
            let error = serde_json::from_value::<Shape>(shape).unwrap_err();
            assert_eq!(in_words(&error.to_string(), "an object"), says);
        }
        let of =
            |text: &str| in_words(&serde_json::from_str::<Shape>(text).unwrap_err().to_string(), "an object");
        assert_eq!(of("{}"), "`small` is missing at line 1 column 2");
        assert_eq!(of("7"), "expected an object, found the number 7 at line 1 column 1");
        assert_eq!(of("{\"small\":1,\"small\":1}"), "`small` is there twice at line 1 column 18");
    }
}
