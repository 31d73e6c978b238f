//! Names of fields in other letters than the specification's, like `CPU`.
//!
//! runc, which is written in Go, takes them, and what is written for it relies on that. Here they would
//! be fields that nobody knows, which are dropped without a word.

use serde_json::{Map, Value};

/// The fields of a configuration, in the order of their small letters.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "access", "additionalGids", "allow", "ambient", "annotations", "apparmorProfile", "architectures",
    "args", "bind", "blockIO", "boottime", "bounding", "burst", "capabilities", "cgroupsPath",
    "checkBeforeUpdate", "class", "classID", "closID", "consoleSize", "containerID", "cpu", "cpus",
    "createContainer", "createRuntime", "cwd", "deadline", "defaultAction", "defaultErrnoRet",
    "destination", "devices", "disableOOMKiller", "domain", "domainname", "effective", "enableMonitoring",
    "env", "errnoRet", "execCPUAffinity", "fileMode", "final", "flags", "format", "gid", "gidMappings",
    "hard", "hcaHandles", "hcaObjects", "height", "hooks", "hostID", "hostname", "hugepageLimits",
    "hwConfig", "hypervisor", "idle", "image", "index", "inheritable", "initial", "initrd", "intelRdt",
    "ioPriority", "kernel", "kernelTCP", "l3CacheSchema", "leafWeight", "limit", "linux",
    "listenerMetadata", "listenerPath", "major", "maskedPaths", "memBwSchema", "memory", "memoryPolicy",
    "mems", "minor", "mode", "monotonic", "mountLabel", "mounts", "name", "names", "namespaces", "nanosecs",
    "netDevices", "network", "nice", "nodes", "noNewPrivileges", "ociVersion", "oomScoreAdj", "op",
    "options", "pageSize", "parameters", "path", "period", "permitted", "personality", "pids", "policy",
    "poststart", "poststop", "prestart", "priorities", "priority", "process", "quota", "rate", "rdma",
    "readonly", "readonlyPaths", "realtimePeriod", "realtimeRuntime", "reservation", "resources", "rlimits",
    "root", "rootfsPropagation", "runtime", "scheduler", "schemata", "seccomp", "secs", "selinuxLabel",
    "shares", "soft", "source", "startContainer", "swap", "swappiness", "syscalls", "sysctl", "terminal",
    "throttleReadBpsDevice", "throttleReadIOPSDevice", "throttleWriteBpsDevice", "throttleWriteIOPSDevice",
    "timeOffsets", "timeout", "type", "uid", "uidMappings", "umask", "unified", "useHierarchy", "user",
    "username", "value", "valueTwo", "vcpus", "vm", "weight", "weightDevice", "width",
];

/// In these the names are the user's.
const MAPS: &[&str] = &["annotations", "sysctl", "unified", "rdma", "netDevices"];

/// Whether no name in the JSON `text` is a known one in other letters. A quick look, made at each start:
/// it may take a name of a user's for one.
pub(crate) fn are_as_written(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(begin) = rest.iter().position(|byte| *byte == b'"') {
        let inside = rest.get(begin + 1..).unwrap_or_default();
        let Some(length) = end_of_string(inside) else { return true };
        let after = inside.get(length + 1..).unwrap_or_default();
        let colon = after.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
        let word = inside.get(..length).and_then(|word| std::str::from_utf8(word).ok());
        if colon && word.is_some_and(|word| known(word).is_some_and(|name| name != word)) {
            return false;
        }
        rest = after;
    }
    true
}

/// Where a string that has begun ends.
fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })
}

/// The field that is meant by a name.
fn known(word: &str) -> Option<&'static str> {
    let lower = |text: &str| text.to_ascii_lowercase();
    let wanted = lower(word);
    let found =
        NAMES.binary_search_by(|name| name.bytes().map(|byte| byte.to_ascii_lowercase()).cmp(wanted.bytes()));
    found.ok().and_then(|index| NAMES.get(index)).copied()
}

/// Writes the names as the specification does.
///
/// # Errors
/// A field that is there in both ways.
pub fn put_right(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Array(list) => list.iter_mut().try_for_each(put_right),
        Value::Object(object) => put_object_right(object),
        _ => Ok(()),
    }
}

fn put_object_right(object: &mut Map<String, Value>) -> Result<(), String> {
    let wrong = |name: &&String| known(name).is_some_and(|known| known != name.as_str());
    let names: Vec<String> = object.keys().filter(wrong).cloned().collect();
    for name in names {
        let (Some(value), Some(right)) = (object.remove(&name), known(&name)) else { continue };
        if object.insert(right.to_owned(), value).is_some() {
            return Err(right.to_owned());
        }
    }
    let mut below = object.iter_mut().filter(|(name, _)| !MAPS.contains(&name.as_str()));
    below.try_for_each(|(_, value)| put_right(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_in_order_so_that_they_are_found() {
        let lower = |name: &&str| name.to_ascii_lowercase();
        assert!(NAMES.windows(2).all(|pair| lower(&pair[0]) < lower(&pair[1])));
        assert!(NAMES.iter().all(|name| known(&name.to_ascii_uppercase()) == Some(name)));
        assert_eq!(known("other"), None);
    }

    #[test]
    fn names_of_fields_are_told_from_values_and_from_names_that_nobody_knows() {
        for text in [r#"{"cpu": {"x": "CPU"}, "New": 1, "a\"b": "CPU"}"#, r#"["CPU", "CPU"]"#, r#"{"cpu"#, ""]
        {
            assert!(are_as_written(text.as_bytes()), "{text}");
        }
        for text in [r#"{"CPU" : 1}"#, r#"{"x": {"a\\": "\"", "pagesize": 1}}"#] {
            assert!(!are_as_written(text.as_bytes()), "{text}");
        }
        assert!(are_as_written(include_bytes!("../tests/bundles/full.json")));
    }

    #[test]
    fn names_of_the_users_stay() {
        let mut value = json!({"Linux": {"Sysctl": {"Kernel": "1"}, "namespaces": [{"TYPE": "pid"}]}});
        put_right(&mut value).unwrap();
        assert_eq!(value, json!({"linux": {"sysctl": {"Kernel": "1"}, "namespaces": [{"type": "pid"}]}}));
        assert_eq!(put_right(&mut json!({"a": {"cpu": 1, "CPU": 2}})), Err("cpu".to_owned()));
    }
}
