//! What the specification's schema lets a configuration leave out, and the types of
//! `oci-spec` do not.
//!
//! A null is the same as nothing, as it is for runc, which is written in Go. What is missing
//! then gets the value that runc would see.

use std::collections::BTreeSet;

use oci_spec::runtime::Capability;
use serde_json::{Map, Value};

/// Where, the field, and its value as JSON. Nothing is added where the object itself is missing.
const DEFAULTS: &[(&str, &str, &str)] =
    &[("/process", "user", "{}"), ("/linux/personality", "domain", "\"LINUX\"")];

/// The same configuration with all that the types insist on.
pub(crate) fn completed(mut config: Value) -> Value {
    forget_nulls(&mut config);
    for (place, field, default) in DEFAULTS {
        if let Some(Value::Object(object)) = config.pointer_mut(place) {
            object.entry(*field).or_insert_with(|| default.parse().unwrap_or_default());
        }
    }
    config
}

/// Without nulls.
pub(crate) fn without_nulls(mut value: Value) -> Value {
    forget_nulls(&mut value);
    value
}

/// Likewise for a process alone.
pub(crate) fn completed_process(process: Value) -> Value {
    let mut config = completed(Value::Object(Map::from_iter([("process".to_owned(), process)])));
    config.get_mut("process").map(Value::take).unwrap_or_default()
}

/// The first string with a NUL byte, by the path of its field.
pub(crate) fn place_of_nul(value: &Value) -> Option<String> {
    let below = |name: String, value: &Value| {
        place_of_nul(value).map(|place| match place.as_str() {
            "" => name.clone(),
            place if place.starts_with('[') => format!("{name}{place}"),
            place => format!("{name}.{place}"),
        })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(index, value)| below(format!("[{index}]"), value))
        }
        Value::Object(object) => object.iter().find_map(|(name, value)| match name.contains('\0') {
            true => Some("the name of a field".to_owned()),
            false => below(name.clone(), value),
        }),
        _ => None,
    }
}

/// Takes the names out of a process's capabilities that are none, and gives them.
pub(crate) fn take_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut unknown = BTreeSet::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let Some(text) = name.as_str() else { return true };
            let known = is_capability(text);
            if !known {
                unknown.insert(text.to_owned());
            }
            known
        });
    }
    unknown.into_iter().collect()
}

/// Whether it is the name of a capability.
pub(crate) fn is_capability(name: &str) -> bool {
    serde_json::from_value::<Capability>(Value::String(name.to_owned())).is_ok()
}

fn forget_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => forget_null_fields(object),
        Value::Array(list) => list.iter_mut().for_each(forget_nulls),
        _ => {}
    }
}

fn forget_null_fields(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    object.values_mut().for_each(forget_nulls);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_and_null_fields_get_what_runc_would_see() {
        let config = json!({
            "process": { "cwd": "/", "user": null, "env": [null] },
            "linux": { "personality": {}, "resources": { "memory": { "limit": null } } },
        });
        let expected = json!({
            "process": { "cwd": "/", "user": {}, "env": [null] },
            "linux": { "personality": { "domain": "LINUX" }, "resources": { "memory": {} } },
        });
        assert_eq!(completed(config), expected);
        assert_eq!(completed(json!({})), json!({}));
        assert_eq!(completed_process(json!({ "cwd": "/" })), json!({ "cwd": "/", "user": {} }));
    }

    #[test]
    fn what_is_given_stays() {
        let given = json!({
            "process": { "user": { "uid": 7, "gid": 8 } },
            "linux": { "personality": { "domain": "LINUX32" } },
        });
        assert_eq!(completed(given.clone()), given);
        assert_eq!(completed_process(json!(7)), json!(7));
    }

    #[test]
    fn nul_is_found_by_its_place() {
        let place = |value: Value| place_of_nul(&value);
        assert_eq!(place(json!({ "process": { "args": ["a", "b\0"] } })).as_deref(), Some("process.args[1]"));
        let mounts = json!({ "mounts": [{ "destination": "/a" }, { "options": ["\0"] }] });
        assert_eq!(place(mounts).as_deref(), Some("mounts[1].options[0]"));
        assert_eq!(place(json!({ "a": ["x", 1, null] })), None);
    }

    #[test]
    fn every_default_is_json() {
        for (.., default) in DEFAULTS {
            assert!(default.parse::<Value>().is_ok(), "{default}");
        }
    }
}
