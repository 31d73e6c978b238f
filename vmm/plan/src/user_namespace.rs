//! What a container with a user namespace must say of ids.
//!
//! The kernel would refuse the rest as well, without a word of which field it means.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use crate::id_map;
use crate::validate::{PlanError, has_namespace};

/// A field, and its mappings.
type Field<'a> = (&'static str, &'a Option<Vec<LinuxIdMapping>>);

/// Checks the mappings, and that they have the ids that are used.
pub(crate) fn check(spec: &Spec) -> Result<(), PlanError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let uids = ("linux.uidMappings", linux.uid_mappings());
    let gids = ("linux.gidMappings", linux.gid_mappings());
    if !has_namespace(spec, LinuxNamespaceType::User) {
        return [uids, gids].into_iter().try_for_each(needs_its_namespace);
    }
    [uids, gids].into_iter().try_for_each(is_whole)?;
    spec.process().as_ref().map_or(Ok(()), |process| check_user(process, uids.1, gids.1))
}

fn needs_its_namespace((field, mappings): Field<'_>) -> Result<(), PlanError> {
    if mappings.iter().flatten().next().is_none() {
        return Ok(());
    }
    Err(PlanError::invalid(field, "needs a user namespace in linux.namespaces"))
}

fn is_whole((field, mappings): Field<'_>) -> Result<(), PlanError> {
    let mappings = mappings.as_deref().unwrap_or_default();
    if mappings.is_empty() {
        let problem = "is missing: a user namespace in linux.namespaces needs it";
        return Err(PlanError::invalid(field, problem));
    }
    id_map::ranges(field, mappings)?;
    if maps(mappings, 0) {
        return Ok(());
    }
    Err(PlanError::invalid(field, "must map containerID 0, which makes the container"))
}

fn check_user(
    process: &Process,
    uids: &Option<Vec<LinuxIdMapping>>,
    gids: &Option<Vec<LinuxIdMapping>>,
) -> Result<(), PlanError> {
    let user = process.user();
    let more = user.additional_gids().iter().flatten().enumerate();
    let more = more.map(|(index, gid)| (format!("process.user.additionalGids[{index}]"), gids, *gid));
    let first = [
        ("process.user.uid".to_owned(), uids, user.uid()),
        ("process.user.gid".to_owned(), gids, user.gid()),
    ];
    for (field, mappings, id) in first.into_iter().chain(more) {
        if !maps(mappings.as_deref().unwrap_or_default(), id) {
            let problem = format!("{id} is not in the mappings of the user namespace");
            return Err(PlanError::invalid(field, problem));
        }
    }
    Ok(())
}

fn maps(mappings: &[LinuxIdMapping], id: u32) -> bool {
    let has = |mapping: &LinuxIdMapping| {
        id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
    };
    mappings.iter().any(has)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(uids: &Value, gids: &Value, user: &Value) -> Result<(), String> {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": { "cwd": "/", "args": ["x"], "user": user },
            "linux": { "namespaces": [{ "type": "user" }], "uidMappings": uids, "gidMappings": gids },
        });
        check(&serde_json::from_value(spec).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_by_field() {
        let good = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
        let root = json!({ "uid": 0, "gid": 0 });
        checked(&good, &good, &json!({ "uid": 9, "gid": 9, "additionalGids": [3] })).unwrap();
        let from_one = json!([{ "containerID": 1, "hostID": 100_000, "size": 10 }]);
        let empty = json!([{ "containerID": 0, "hostID": 100_000, "size": 0 }]);
        for (uids, gids, user, start) in [
            (json!(null), good.clone(), &root, "linux.uidMappings: is missing"),
            (good.clone(), json!([]), &root, "linux.gidMappings: is missing"),
            (empty, good.clone(), &root, "linux.uidMappings[0]: has the size 0"),
            (good.clone(), from_one, &root, "linux.gidMappings: must map containerID 0"),
            (good.clone(), good.clone(), &json!({ "uid": 10, "gid": 0 }), "process.user.uid: 10 is not"),
            (good.clone(), good.clone(), &json!({ "uid": 0, "gid": 11 }), "process.user.gid: 11 is not"),
            (
                good.clone(),
                good.clone(),
                &json!({ "uid": 0, "gid": 0, "additionalGids": [0, 12] }),
                "process.user.additionalGids[1]: 12 is not",
            ),
        ] {
            let error = checked(&uids, &gids, user).unwrap_err();
            assert!(error.starts_with(&format!("config.json: {start}")), "{error}");
        }
    }
}
