//! The network namespace that a configuration names.
//!
//! The guest has a network of its own, which is loopback. That is the same as what
//! a namespace has that holds nothing else; any other would be lost silently.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use vmrun_spec::NetworkNamespace;

use crate::validate::PlanError;

const NOT_YET: &str = "it holds interfaces, which cannot be brought into the guest yet; use an empty one, as \
    `--network none` of podman and Docker gives";

const NOT_THE_HOSTS: &str = "there is no network namespace among them, which means the caller's network, and its \
    interfaces cannot be brought into the guest yet; add {\"type\": \"network\"}, or `--network none` of podman and Docker";

/// Devices that the kernel puts into every namespace once a module for tunnels is loaded.
const FALLBACK_TUNNELS: &[&str] =
    &["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// The namespace that the container is to have, whose interfaces are [`crate::Facts::interfaces`].
pub fn network_namespace(spec: &Spec) -> NetworkNamespace {
    entry(spec).map_or(NetworkNamespace::Callers, |(_, namespace)| namespace)
}

/// It, and its place in `linux.namespaces`.
fn entry(spec: &Spec) -> Option<(usize, NetworkNamespace)> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut namespaces = namespaces.into_iter().flatten().enumerate();
    let (index, found) = namespaces.find(|(_, namespace)| namespace.typ() == LinuxNamespaceType::Network)?;
    let path = found.path().clone().filter(|path| !path.as_os_str().is_empty());
    Some((index, path.map_or(NetworkNamespace::New, NetworkNamespace::Named)))
}

/// Those interfaces that the guest would have to have as well.
pub fn foreign_interfaces(interfaces: &[String]) -> Vec<&str> {
    let names = interfaces.iter().map(String::as_str);
    names.filter(|name| *name != "lo" && !FALLBACK_TUNNELS.contains(name)).collect()
}

/// Refuses a namespace that holds more than loopback.
pub(crate) fn only_loopback(spec: &Spec, interfaces: &[String]) -> Result<(), PlanError> {
    if foreign_interfaces(interfaces).is_empty() {
        return Ok(());
    }
    let (field, why) = match entry(spec) {
        Some((index, _)) => (format!("linux.namespaces[{index}].path"), NOT_YET),
        None => ("linux.namespaces".to_owned(), NOT_THE_HOSTS),
    };
    Err(PlanError::Unsupported { field, why })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(namespaces: &Value) -> Spec {
        serde_json::from_value(json!({ "ociVersion": "1.0.2", "linux": { "namespaces": namespaces } }))
            .unwrap()
    }

    #[test]
    fn namespace_is_new_or_named_or_the_callers() {
        let of = |namespaces: Value| network_namespace(&spec(&namespaces));
        assert_eq!(of(json!([{ "type": "network", "path": "/n" }])), NetworkNamespace::Named("/n".into()));
        assert_eq!(of(json!([{ "type": "network", "path": "" }])), NetworkNamespace::New);
        assert_eq!(of(json!([{ "type": "mount" }, { "type": "network" }])), NetworkNamespace::New);
        assert_eq!(of(json!([{ "type": "mount" }])), NetworkNamespace::Callers);
    }

    #[test]
    fn namespace_with_an_interface_is_refused_and_an_empty_one_is_not() {
        let named = spec(&json!([{ "type": "mount" }, { "type": "network", "path": "/n" }]));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        only_loopback(&named, &names(&["lo", "sit0"])).unwrap();
        let error = only_loopback(&named, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces[1].path") && error.contains("interfaces"), "{error}");
        let callers = spec(&json!([{ "type": "mount" }]));
        only_loopback(&callers, &names(&["lo"])).unwrap();
        let error = only_loopback(&callers, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces:") && error.contains("caller's network"), "{error}");
    }
}
