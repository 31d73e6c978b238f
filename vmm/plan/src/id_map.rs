//! Mounts that show other owners than the file system stores.
//!
//! The host makes them, below the file server: what the guest sees of a volume has the
//! mapped owners already, and nothing is left to do there. The numbers are the same on both
//! sides, so a container's user namespace maps them back as it would on the host.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};
use vmrun_spec::{IdMap, IdRange};

use crate::validate::{PlanError, has_namespace};
use crate::volumes::has_option;

const OPTIONS: [&str; 2] = ["idmap", "ridmap"];

const NOT_A_VOLUME: &str =
    "only a bind mount of the host's files can show other owners; leave the mapping out";
const ONLY_ROOT: &str =
    "only root may map the owners that a mount shows; run it as root, or leave the mapping out";

/// What the kernel takes in one map.
const MOST_RANGES: usize = 340;

/// The mapping of the mount with this number, if it has one.
pub(crate) fn planned(spec: &Spec, index: usize, mount: &Mount) -> Result<Option<IdMap>, PlanError> {
    let at = |field: &str| format!("mounts[{index}].{field}");
    let (uids, gids) = match (given(mount.uid_mappings()), given(mount.gid_mappings())) {
        (None, None) if !has_option(mount, &OPTIONS) => return Ok(None),
        (None, None) => containers(spec, &at("options"), mount)?,
        (Some(uids), Some(gids)) => (ranges(&at("uidMappings"), uids)?, ranges(&at("gidMappings"), gids)?),
        (Some(_), None) => {
            return Err(PlanError::invalid(at("gidMappings"), "is missing beside uidMappings"));
        }
        (None, Some(_)) => {
            return Err(PlanError::invalid(at("uidMappings"), "is missing beside gidMappings"));
        }
    };
    let last = mount.options().iter().flatten().rfind(|option| OPTIONS.contains(&option.as_str()));
    let recursive = last.is_some_and(|option| option == "ridmap");
    Ok(Some(IdMap { field: format!("mounts[{index}]"), uids, gids, recursive }))
}

fn given(mappings: &Option<Vec<LinuxIdMapping>>) -> Option<&[LinuxIdMapping]> {
    mappings.as_deref().filter(|mappings| !mappings.is_empty())
}

/// The mapping of the container's user namespace, for an option without one of its own.
fn containers(spec: &Spec, field: &str, mount: &Mount) -> Result<(Vec<IdRange>, Vec<IdRange>), PlanError> {
    let linux = spec.linux().as_ref().filter(|_| has_namespace(spec, LinuxNamespaceType::User));
    let uids = linux.and_then(|linux| given(linux.uid_mappings()));
    let gids = linux.and_then(|linux| given(linux.gid_mappings()));
    match (uids, gids) {
        (Some(uids), Some(gids)) => {
            Ok((ranges("linux.uidMappings", uids)?, ranges("linux.gidMappings", gids)?))
        }
        _ => {
            let problem =
                "needs uidMappings and gidMappings beside it, or those of a user namespace in linux";
            Err(PlanError::invalid(format!("{field}: {}", name(mount)), problem))
        }
    }
}

/// The ranges of one map, which the kernel would refuse without a word of why.
pub(crate) fn ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdRange>, PlanError> {
    if mappings.len() > MOST_RANGES {
        let problem = format!("has {} entries; at most {MOST_RANGES} are allowed", mappings.len());
        return Err(PlanError::invalid(field, problem));
    }
    let mut ranges: Vec<IdRange> = Vec::with_capacity(mappings.len());
    for (index, mapping) in mappings.iter().enumerate() {
        let range =
            IdRange { stored: mapping.container_id(), seen: mapping.host_id(), count: mapping.size() };
        let wrong = |problem: &str| Err(PlanError::invalid(format!("{field}[{index}]"), problem));
        if range.count == 0 {
            return wrong("has the size 0");
        }
        // The last number is nobody's.
        if [range.stored, range.seen].iter().any(|first| first.checked_add(range.count).is_none()) {
            return wrong("goes beyond the last id");
        }
        if ranges.iter().any(|other| overlap(other, &range)) {
            return wrong("has ids that an entry before it has");
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn overlap(one: &IdRange, other: &IdRange) -> bool {
    let meet = |first: u32, second: u32| first < second + other.count && second < first + one.count;
    meet(one.stored, other.stored) || meet(one.seen, other.seen)
}

/// The refusal of a mapping for what is not on the host.
pub(crate) fn needs_a_volume(index: usize, mount: &Mount) -> PlanError {
    PlanError::Unsupported { field: field(index, mount), why: NOT_A_VOLUME }
}

/// The refusal of a mapping where the caller may not make one.
pub(crate) fn needs_root(index: usize, mount: &Mount) -> PlanError {
    PlanError::Unsupported { field: field(index, mount), why: ONLY_ROOT }
}

/// What in the mount asks for the mapping.
fn field(index: usize, mount: &Mount) -> String {
    match given(mount.uid_mappings()) {
        Some(_) => format!("mounts[{index}].uidMappings"),
        None => format!("mounts[{index}].options: {}", name(mount)),
    }
}

fn name(mount: &Mount) -> &'static str {
    if has_option(mount, &["ridmap"]) { "ridmap" } else { "idmap" }
}

/// Takes out of the guest's configuration what the host has done.
pub(crate) fn forget(mount: &mut Mount) {
    mount.set_uid_mappings(None).set_gid_mappings(None);
    if has_option(mount, &OPTIONS) {
        let others = mount.options().iter().flatten().filter(|option| !OPTIONS.contains(&option.as_str()));
        let others = others.cloned().collect();
        mount.set_options(Some(others));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The mapping of a bind mount with these fields, in a container with these namespaces.
    fn map(fields: &Value, namespaces: &Value) -> Result<Option<IdMap>, PlanError> {
        let mut mount = json!({"destination": "/d", "type": "bind", "source": "/s"});
        for (name, value) in fields.as_object().unwrap() {
            mount[name] = value.clone();
        }
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "mounts": [mount],
            "linux": {"namespaces": namespaces, "uidMappings": mapping, "gidMappings": mapping},
        }));
        let spec: Spec = spec.unwrap();
        let mount = spec.mounts().iter().flatten().next().unwrap();
        planned(&spec, 0, mount)
    }

    fn range(stored: u32, seen: u32, count: u32) -> Vec<IdRange> {
        vec![IdRange { stored, seen, count }]
    }

    #[test]
    fn mapping_is_the_mounts_own_or_the_containers() {
        let own = json!([{"containerID": 5, "hostID": 6, "size": 7}]);
        let user = json!([{"type": "user"}]);
        let table = [
            (json!({}), None),
            (json!({"options": ["rbind", "ro"], "uidMappings": []}), None),
            (json!({"options": ["idmap"]}), Some((range(0, 100_000, 1000), false))),
            (json!({"options": ["rbind", "ridmap"]}), Some((range(0, 100_000, 1000), true))),
            (json!({"uidMappings": own, "gidMappings": own}), Some((range(5, 6, 7), false))),
            (
                json!({"options": ["rbind", "ridmap"], "uidMappings": own, "gidMappings": own}),
                Some((range(5, 6, 7), true)),
            ),
            (json!({"options": ["ridmap", "idmap"]}), Some((range(0, 100_000, 1000), false))),
        ];
        for (fields, expected) in table {
            let expected = expected.map(|(ranges, recursive)| IdMap {
                field: "mounts[0]".to_owned(),
                uids: ranges.clone(),
                gids: ranges,
                recursive,
            });
            assert_eq!(map(&fields, &user), Ok(expected), "{fields}");
        }
    }

    #[test]
    fn mapping_that_is_none_is_refused_by_field() {
        let entry = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
        let good = json!([entry(0, 0, 1)]);
        let with = |uids: Value| json!({"uidMappings": uids, "gidMappings": good});
        let table = [
            (json!({"options": ["idmap"]}), "options: idmap"),
            (json!({"options": ["rbind", "ridmap"]}), "options: ridmap"),
            (json!({"uidMappings": good}), "gidMappings"),
            (json!({"gidMappings": good, "options": ["idmap"]}), "uidMappings"),
            (with(json!([entry(0, 0, 0)])), "uidMappings[0]"),
            (with(json!([entry(0, u32::MAX, 1)])), "uidMappings[0]"),
            (with(json!([entry(0, 10, 5), entry(4, 20, 5)])), "uidMappings[1]"),
            (with(json!([entry(0, 10, 5), entry(9, 6, 5)])), "uidMappings[1]"),
            (with(Value::from(vec![entry(0, 0, 1); MOST_RANGES + 1])), "uidMappings"),
        ];
        for (fields, field) in table {
            let error = map(&fields, &json!([])).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("config.json: mounts[0].{field}: ")),
                "{fields} gives {error}"
            );
        }
    }

    #[test]
    fn guest_gets_the_mount_without_its_mapping() {
        let mapping = json!([{"containerID": 5, "hostID": 6, "size": 7}]);
        let mount = json!({"destination": "/d", "options": ["rbind", "ridmap", "ro"], "uidMappings": mapping, "gidMappings": mapping});
        let mut mount: Mount = serde_json::from_value(mount).unwrap();
        forget(&mut mount);
        let left = serde_json::to_value(&mount).unwrap();
        assert_eq!(left, json!({"destination": "/d", "options": ["rbind", "ro"]}));
    }
}
