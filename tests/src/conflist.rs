//! A network configuration list, and the configuration a runtime makes of it for one plugin and one call. Pure.

use serde_json::{Map, Value};

use crate::error::{LabError, Result};

/// A parsed `.conflist` with one plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflist {
    /// `name`: the network's.
    pub name: String,
    /// The newest of `cniVersions`, which a runtime that speaks them all picks; `cniVersion` where there is no such list.
    pub version: String,
    plugin: Map<String, Value>,
}

impl Conflist {
    /// Reads the text of a list.
    pub fn parse(text: &str) -> Result<Conflist> {
        let fault = |reason: &str| LabError::parse("the network configuration list", reason);
        let value: Value = serde_json::from_str(text).map_err(|error| fault(&error.to_string()))?;
        let text_of = |key: &str| {
            value[key]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| fault(&format!("{key} is missing or not a string")))
        };
        let [plugin] = value["plugins"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err(fault("plugins must hold exactly one plugin"));
        };
        let plugin = plugin.as_object().cloned().ok_or_else(|| fault("the plugin is not an object"))?;
        let version = text_of("cniVersion")?;
        let others = value["cniVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let version = others
            .map(str::to_owned)
            .chain([version])
            .max_by_key(|version| numbers(version))
            .unwrap_or_default();
        Ok(Conflist { name: text_of("name")?, version, plugin })
    }

    /// The plugin's `type`: the name of its file in the runtime's search path.
    pub fn plugin_type(&self) -> Result<&str> {
        self.plugin
            .get("type")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .ok_or_else(|| LabError::parse("the network configuration list", "the plugin has no usable type"))
    }

    /// The same network with the node's pods on a bridge.
    #[must_use]
    pub fn bridged(mut self) -> Conflist {
        self.plugin.insert("mode".to_owned(), "bridge".into());
        self
    }

    /// What the runtime writes on the plugin's standard input: the plugin's object with the list's name and version, `capabilities`
    /// taken out (they are between list and runtime), and for CHECK and DEL the result of ADD.
    pub fn plugin_config(&self, prev_result: Option<&Value>) -> Value {
        let mut config = self.plugin.clone();
        config.remove("capabilities");
        config.insert("name".to_owned(), self.name.clone().into());
        config.insert("cniVersion".to_owned(), self.version.clone().into());
        if let Some(result) = prev_result {
            config.insert("prevResult".to_owned(), result.clone());
        }
        Value::Object(config)
    }
}

/// A version's parts, which compare as numbers.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.1.0","name":"ferrule","plugins":[{"type":"ferrule","capabilities":{"ips":true},"mtu":1400}]}"#;

    #[test]
    fn a_plugin_gets_its_own_object_with_the_lists_name_and_version() {
        let list = Conflist::parse(LIST).unwrap();
        assert_eq!(list.plugin_type().unwrap(), "ferrule");
        let plain = json!({"type": "ferrule", "mtu": 1400, "name": "ferrule", "cniVersion": "1.1.0"});
        assert_eq!(list.plugin_config(None), plain);
        let result = json!({"ips": []});
        assert_eq!(list.plugin_config(Some(&result))["prevResult"], result);
    }

    #[test]
    fn the_newest_version_is_spoken() {
        let list = LIST.replace("1.1.0\"", "0.4.0\",\"cniVersions\":[\"1.1.0\",\"1.0.0\"]");
        assert_eq!(Conflist::parse(&list).unwrap().version, "1.1.0");
    }

    #[test]
    fn a_list_that_is_none_is_refused_by_field() {
        for (text, told) in [
            ("{", "EOF"),
            (r#"{"name":"a","cniVersion":"1.0.0","plugins":[]}"#, "exactly one plugin"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#, "name is missing"),
            (r#"{"name":"a","plugins":[{"type":"a"}]}"#, "cniVersion is missing"),
        ] {
            let error = Conflist::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let list =
            Conflist::parse(r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"../a"}]}"#).unwrap();
        assert!(list.plugin_type().is_err());
    }
}
