//! The network namespace that a configuration names.
//!
//! What a namespace of the container's holds is carried into the guest when it is final; the caller's
//! own is not, since the guest would answer in the host's place.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use vmrun_spec::NetworkNamespace;

use crate::validate::PlanError;

const NOT_THE_HOSTS: &str = "there is no network namespace among them, which means the caller's network, and a guest cannot \
    share that; add {\"type\": \"network\"}, or use the default network, a named one or `--network none` of podman and Docker";

/// Devices that the kernel puts into every namespace once a module for tunnels is loaded.
const FALLBACK_TUNNELS: &[&str] =
    &["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];

/// The namespace that the container is to have.
pub fn network_namespace(spec: &Spec) -> NetworkNamespace {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let mut namespaces = namespaces.into_iter().flatten();
    let found = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    found.map_or(NetworkNamespace::Callers, |found| {
        let path = found.path().clone().filter(|path| !path.as_os_str().is_empty());
        path.map_or(NetworkNamespace::New, NetworkNamespace::Named)
    })
}

/// Those interfaces that the guest would have to have as well.
pub fn foreign_interfaces(interfaces: &[String]) -> Vec<&str> {
    let names = interfaces.iter().map(String::as_str);
    names.filter(|name| *name != "lo" && !FALLBACK_TUNNELS.contains(name)).collect()
}

/// Refuses the caller's namespace where that holds more than loopback.
pub(crate) fn not_the_callers(spec: &Spec, interfaces: &[String]) -> Result<(), PlanError> {
    if network_namespace(spec) != NetworkNamespace::Callers || foreign_interfaces(interfaces).is_empty() {
        return Ok(());
    }
    Err(PlanError::Unsupported { field: "linux.namespaces".to_owned(), why: NOT_THE_HOSTS })
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
    fn callers_namespace_is_refused_with_interfaces_and_another_one_is_not() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let named = spec(&json!([{ "type": "mount" }, { "type": "network", "path": "/n" }]));
        not_the_callers(&named, &names(&["lo", "eth0"])).unwrap();
        let callers = spec(&json!([{ "type": "mount" }]));
        not_the_callers(&callers, &names(&["lo", "sit0"])).unwrap();
        let error = not_the_callers(&callers, &names(&["lo", "eth0"])).unwrap_err().to_string();
        assert!(error.contains("linux.namespaces:") && error.contains("caller's network"), "{error}");
    }
}
