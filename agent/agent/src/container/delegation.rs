//! A container that sees its own cgroup, and may write there, owns it.
//!
//! By runc's rule: with a cgroup namespace of its own and the hierarchy mounted without `ro`, the cgroup
//! belongs to the user of the container's process, as the user namespace has it. A container's root that
//! is not the guest's could make no cgroup otherwise.

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::cgroup::{CGROUP_ROOT, Cgroup};
use super::identity::host_user;
use super::make::says_readonly;

/// Gives the cgroup away, if its container is one that may write to it.
pub(crate) fn delegate(spec: &Spec, cgroup: &Cgroup) -> io::Result<()> {
    match owner(spec) {
        // It is that one's already.
        None | Some(0) => Ok(()),
        Some(uid) => cgroup.give_to(uid),
    }
}

fn owner(spec: &Spec) -> Option<u32> {
    let mut namespaces = spec.linux().as_ref()?.namespaces().iter().flatten();
    let own = namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup);
    let writable =
        own && spec.mounts().iter().flatten().any(|mount| is_hierarchy(mount) && !says_readonly(mount));
    writable.then(|| host_user(spec, spec.process().as_ref().map_or(0, |process| process.user().uid())))
}

fn is_hierarchy(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
        && mount.destination().components().eq(Path::new(CGROUP_ROOT).components())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cgroup_is_its_users_where_that_may_write_there() {
        let spec = |namespaces: &[&str], options: &[&str]| -> Spec {
            let namespaces: Vec<_> = namespaces.iter().map(|typ| json!({ "type": typ })).collect();
            let mount = json!({ "destination": "/sys/fs/cgroup/", "type": "cgroup", "options": options });
            let mappings = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
            let linux = json!({ "namespaces": namespaces, "uidMappings": mappings });
            let process = json!({ "user": { "uid": 3, "gid": 0 }, "cwd": "/" });
            let spec =
                json!({ "ociVersion": "1.0.2", "process": process, "mounts": [mount], "linux": linux });
            serde_json::from_value(spec).unwrap()
        };
        assert_eq!(owner(&spec(&["cgroup", "user"], &["nosuid"])), Some(1003));
        assert_eq!(owner(&spec(&["cgroup"], &["ro", "rw"])), Some(3));
        assert_eq!(owner(&spec(&["cgroup", "user"], &["ro"])), None);
        assert_eq!(owner(&spec(&["user"], &[])), None);
    }
}
