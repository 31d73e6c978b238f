//! What the container may do to files besides what their owners may, as the file server has to know it.
//!
//! The guest's kernel holds a container to its capabilities. That the host does not take its word for
//! it, the file server has no more of them than the container.

use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use vmrun_spec::Authority;

pub(crate) fn authority(spec: &Spec) -> Authority {
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    let has = |capability| bounding.is_some_and(|bounding| bounding.contains(&capability));
    Authority {
        device_nodes: has(Capability::Mknod) || makes_nodes(spec),
        file_capabilities: has(Capability::Setfcap),
        attributes: has(Capability::SysAdmin),
    }
}

/// Whether the agent makes nodes in the root file system: the usual ones where nothing is mounted at `/dev`,
/// the configuration's where they are to be elsewhere.
fn makes_nodes(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten();
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let elsewhere = devices.into_iter().flatten().any(|device| !device.path().starts_with("/dev"));
    elsewhere || !mounts.any(|mount| mount.destination() == Path::new("/dev"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(bounding: &[&str], mounts: &Value, devices: &Value) -> Spec {
        let process =
            json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": {"bounding": bounding}});
        let linux = json!({"devices": devices});
        let spec = json!({"ociVersion": "1.2.0", "process": process, "mounts": mounts, "linux": linux});
        serde_json::from_value(spec).unwrap()
    }

    fn dev() -> Value {
        json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}])
    }

    #[test]
    fn authority_is_the_containers() {
        assert_eq!(authority(&spec(&["CAP_CHOWN"], &dev(), &json!([]))), Authority::default());
        let all = ["CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN"];
        let whole = Authority { device_nodes: true, file_capabilities: true, attributes: true };
        assert_eq!(authority(&spec(&all, &dev(), &json!([]))), whole);
    }

    #[test]
    fn nodes_that_the_agent_makes_in_the_root_file_system_can_be_made() {
        let device = |path: &str| json!([{"path": path, "type": "c", "major": 1, "minor": 3}]);
        assert!(!authority(&spec(&[], &dev(), &device("/dev/x"))).device_nodes);
        assert!(authority(&spec(&[], &dev(), &device("/x"))).device_nodes);
        assert!(authority(&spec(&[], &json!([]), &json!([]))).device_nodes);
    }
}
