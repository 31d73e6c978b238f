//! Users: home directories, and ids across a user namespace.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

/// The home directory of a user in the text of a `passwd` file.
pub(crate) fn home_directory(passwd: &[u8], uid: u32) -> Option<String> {
    let text = String::from_utf8_lossy(passwd);
    text.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let home = fields.get(5).filter(|home| !home.is_empty())?;
        (fields.get(2)?.parse() == Ok(uid)).then(|| (*home).to_owned())
    })
}

/// The id outside the container's user namespace of the process's user.
pub(crate) fn host_user(spec: &Spec, uid: u32) -> u32 {
    let Some(linux) = spec.linux() else { return uid };
    let own = |kind| linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
    if !own(LinuxNamespaceType::User) {
        return uid;
    }
    linux.uid_mappings().iter().flatten().find_map(|mapping| map(mapping, uid)).unwrap_or(uid)
}

fn map(mapping: &LinuxIdMapping, id: u32) -> Option<u32> {
    let offset = id.checked_sub(mapping.container_id())?;
    if offset < mapping.size() { mapping.host_id().checked_add(offset) } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/home/me:\nnone:x:7:7:::\n";
        assert_eq!(home_directory(passwd, 1000).as_deref(), Some("/home/me"));
        assert_eq!(home_directory(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_directory(passwd, 7), None);
        assert_eq!(home_directory(b"\xff:x:5:5::/h:", 5).as_deref(), Some("/h"));
    }

    #[test]
    fn user_is_mapped_only_with_a_user_namespace() {
        let spec = |namespaces: serde_json::Value| -> Spec {
            let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
            let linux = json!({"namespaces": namespaces, "uidMappings": mappings});
            serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).unwrap()
        };
        assert_eq!(host_user(&spec(json!([{"type": "user"}])), 3), 100_003);
        assert_eq!(host_user(&spec(json!([{"type": "user"}])), 11), 11);
        assert_eq!(host_user(&spec(json!([])), 3), 3);
    }
}
