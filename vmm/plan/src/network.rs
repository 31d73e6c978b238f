//! The network namespace that a configuration names.
//!
//! What a namespace of the container's holds is carried into the guest when it is final; the caller's
//! own is not, since the guest would answer in the host's place.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use vmrun_spec::NetworkNamespace;

use crate::validate::PlanError;

const NOT_THE_HOSTS: &str = "there is no network namespace among them, which means the caller's network, and a guest cannot \
    share that; add {\"type\": \"network\"}, or use the default network, a named one or `--network none` of podman and Docker";

const NAMES_THE_HOSTS: &str = "it is the host's network, which a guest cannot share; use another network of the engine's, with \
    published ports, or `--network none`";

/// Devices that the kernel puts into every namespace once a module for tunnels is loaded.
const FALLBACK_TUNNELS: &[&str] =
    &["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// The namespace that the container is to have.
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

/// Refuses the caller's network, or the host's, where that holds more than loopback.
pub(crate) fn not_the_hosts(spec: &Spec, interfaces: &[String]) -> Result<(), PlanError> {
    if foreign_interfaces(interfaces).is_empty() {
        return Ok(());
    }
    let (field, why) = match entry(spec) {
        Some((index, _)) => (format!("linux.namespaces[{index}].path"), NAMES_THE_HOSTS),
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
    fn hosts_network_is_refused_by_whatever_name() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let named = spec(&json!([{ "type": "mount" }, { "type": "network", "path": "/n" }]));
        let error = not_the_hosts(&named, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces[1].path: ") && error.contains("host's network"), "{error}");
        let callers = spec(&json!([{ "type": "mount" }]));
        not_the_hosts(&callers, &names(&["lo", "sit0"])).unwrap();
        let error = not_the_hosts(&callers, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces: ") && error.contains("caller's network"), "{error}");
    }
}
