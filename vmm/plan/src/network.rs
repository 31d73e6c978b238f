//! The network namespace that a configuration names.
//!
//! The guest has a network of its own, which is loopback. That is the same as what
//! a namespace has that holds nothing else; any other would be lost silently.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::validate::PlanError;

const NOT_YET: &str = "it holds interfaces, which cannot be brought into the guest yet; use an empty one, as \
    `--network none` of podman and Docker gives";

/// Devices that the kernel puts into every namespace once a module for tunnels is loaded.
const FALLBACK_TUNNELS: &[&str] =
    &["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// Where [`crate::Facts::interfaces`] are to be looked up, if anywhere.
pub fn namespace_path(spec: &Spec) -> Option<PathBuf> {
    named(spec).map(|(_, path)| path)
}

fn named(spec: &Spec) -> Option<(usize, PathBuf)> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().enumerate().find_map(|(index, namespace)| {
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        (namespace.typ() == LinuxNamespaceType::Network).then(|| (index, path.clone()))
    })
}

/// Refuses a namespace that holds more than loopback.
pub(crate) fn only_loopback(spec: &Spec, interfaces: &[String]) -> Result<(), PlanError> {
    let Some((index, _)) = named(spec) else { return Ok(()) };
    let harmless = |name: &String| name == "lo" || FALLBACK_TUNNELS.contains(&name.as_str());
    if interfaces.iter().all(harmless) {
        return Ok(());
    }
    Err(PlanError::Unsupported { field: format!("linux.namespaces[{index}].path"), why: NOT_YET })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespace_with_an_interface_is_refused_and_an_empty_one_is_not() {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "network", "path": "/n" }] },
        }))
        .unwrap();
        assert_eq!(namespace_path(&spec), Some("/n".into()));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        only_loopback(&spec, &names(&["lo", "sit0"])).unwrap();
        let error = only_loopback(&spec, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces[1].path") && error.contains("interfaces"), "{error}");
    }
}
