//! As whom the container connects to the host's sockets: a service there may go by who its peers are.

use oci_spec::runtime::{Capability, LinuxIdMapping, LinuxNamespaceType, Spec};
use vmrun_spec::SocketUser;

use crate::PlanError;
use crate::validate::has_namespace;

/// The host's numbers of the process's user and groups.
pub(crate) fn socket_user(spec: &Spec) -> Result<SocketUser, PlanError> {
    let Some(process) = spec.process() else { return Ok(SocketUser::default()) };
    let linux = spec.linux().as_ref().filter(|_| has_namespace(spec, LinuxNamespaceType::User));
    let uids = linux.and_then(|linux| linux.uid_mappings().as_deref());
    let gids = linux.and_then(|linux| linux.gid_mappings().as_deref());
    let user = process.user();
    let uid =
        on_the_host(user.uid(), uids).ok_or_else(|| unknown("process.user.uid", "linux.uidMappings"))?;
    let gid =
        on_the_host(user.gid(), gids).ok_or_else(|| unknown("process.user.gid", "linux.gidMappings"))?;
    let groups = user.additional_gids().iter().flatten().map(|gid| {
        on_the_host(*gid, gids).ok_or_else(|| unknown("process.user.additionalGids", "linux.gidMappings"))
    });
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    let passes_modes = bounding.is_some_and(|bounding| bounding.contains(&Capability::DacOverride));
    // In a user namespace of its own root is nobody special to the host's files.
    Ok(SocketUser {
        uid,
        gid,
        groups: groups.collect::<Result<_, _>>()?,
        passes_modes: passes_modes && uid == 0,
    })
}

fn unknown(field: &str, mappings: &str) -> PlanError {
    PlanError::invalid(
        field,
        format!("is not one of {mappings}, so that it can connect to no socket of the host's"),
    )
}

/// Without mappings the container's ids are the host's.
fn on_the_host(id: u32, mappings: Option<&[LinuxIdMapping]>) -> Option<u32> {
    let Some(mappings) = mappings.filter(|mappings| !mappings.is_empty()) else { return Some(id) };
    mappings.iter().find_map(|mapping| {
        let further = id.checked_sub(mapping.container_id()).filter(|further| *further < mapping.size())?;
        mapping.host_id().checked_add(further)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(user: &Value, mappings: &Value) -> Result<SocketUser, PlanError> {
        let capabilities = json!({"bounding": ["CAP_DAC_OVERRIDE"]});
        let process = json!({"user": user, "cwd": "/", "args": ["x"], "capabilities": capabilities});
        let namespaces = if mappings.is_null() { json!([]) } else { json!([{"type": "user"}]) };
        let linux = json!({"namespaces": namespaces, "uidMappings": mappings, "gidMappings": mappings});
        let spec = json!({"ociVersion": "1.2.0", "process": process, "linux": linux});
        socket_user(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn user_is_the_hosts_of_that_number_and_root_alone_passes_modes() {
        let user = json!({"uid": 1000, "gid": 100, "additionalGids": [5, 6]});
        let expected = SocketUser { uid: 1000, gid: 100, groups: vec![5, 6], passes_modes: false };
        assert_eq!(of(&user, &Value::Null).unwrap(), expected);
        let root = of(&json!({"uid": 0, "gid": 0}), &Value::Null).unwrap();
        assert_eq!(root, SocketUser { passes_modes: true, ..SocketUser::default() });
    }

    #[test]
    fn user_of_a_user_namespace_is_who_it_is_on_the_host() {
        let mappings = json!([
            {"containerID": 0, "hostID": 100_000, "size": 10},
            {"containerID": 1000, "hostID": 200_000, "size": 1}
        ]);
        let root = of(&json!({"uid": 0, "gid": 9, "additionalGids": [1000]}), &mappings).unwrap();
        assert_eq!(
            root,
            SocketUser { uid: 100_000, gid: 100_009, groups: vec![200_000], passes_modes: false }
        );
        for user in [
            json!({"uid": 10, "gid": 0}),
            json!({"uid": 0, "gid": 1001}),
            json!({"uid": 0, "gid": 0, "additionalGids": [999]}),
        ] {
            assert!(of(&user, &mappings).is_err(), "{user}");
        }
    }
}
